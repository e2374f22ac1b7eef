/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * T1: the policy, compiled into bit sets. Each dimension maps a value to the set of rules that it satisfies;
 * the rule that decides is the lowest bit of their intersection. policy/tables.py is the twin of this file.
 */
#ifndef TIDEWAITER_POLICY_H
#define TIDEWAITER_POLICY_H

#include "flow.h"

/* Functions of their own: their keys must not take up stack while the search goes on. */
static __noinline const struct tw_named *tw_named_value(__u8 generation, __u8 dimension, __u32 value)
{
	struct tw_value_key key = { .generation = generation, .dimension = dimension, .value = value };

	return bpf_map_lookup_elem(&policy_values, &key);
}

static __noinline const struct tw_named *tw_named_address(__u8 generation, __u8 dimension, __u8 family, const __u8 *address)
{
	struct tw_range_key key = { .generation = generation, .dimension = dimension };

	key.prefix = TW_RANGE_FIXED + (family == 4 ? 32 : 128);
	if (family != 4)
		key.dimension |= TW_FAMILY_6;
	__builtin_memcpy(key.bytes, address, 16);
	return bpf_map_lookup_elem(&policy_ranges, &key);
}

static __noinline const struct tw_named *tw_named_port(__u8 generation, __u8 protocol, __u16 port)
{
	struct tw_range_key key = { .prefix = TW_RANGE_FIXED + 24, .generation = generation, .dimension = TW_DIMENSION_PORT };

	key.bytes[0] = protocol;
	key.bytes[1] = port >> 8;
	key.bytes[2] = port;
	return bpf_map_lookup_elem(&policy_ranges, &key);
}

/* The number of a bit, by the top six bits of that bit times TW_SEQUENCE, a de Bruijn sequence: in its binary digits each
 * number of six digits occurs once. */
#define TW_SEQUENCE 0x03f79d71b4cb0a89ULL
static const __u8 tw_bit_number[64] = {
	0, 1, 48, 2, 57, 49, 28, 3, 61, 58, 50, 42, 38, 29, 17, 4,
	62, 55, 59, 36, 53, 51, 43, 22, 45, 39, 33, 30, 24, 18, 12, 5,
	63, 47, 56, 27, 60, 41, 37, 16, 54, 35, 52, 21, 44, 32, 23, 11,
	46, 26, 40, 15, 34, 20, 31, 10, 25, 14, 19, 9, 13, 8, 7, 6,
};

/* The lowest bit that is set: this target has no instruction for it, and with jumps the verifier would follow each. Where
 * clang 17 and later see what this is, they want that instruction all the same, and fail: so they are not to see it. */
static __always_inline int tw_lowest(__u64 word)
{
	__u64 found = (word & -word) * TW_SEQUENCE;

	asm volatile("" : "+r"(found));
	return tw_bit_number[found >> 58];
}

/* Narrows a block of rules down to those that one dimension allows: what any value satisfies, less what refuses this one,
 * and what wants it. NULL for `named`: no rule names it. */
__noinline int tw_narrow(struct tw_bits *set, const struct tw_bits *others, const struct tw_named *named, __u32 block)
{
	struct tw_block_key key = { .block = block };
	const struct tw_bits *by = NULL;

	if (!set || !others)
		return 0;
	if (named && (named->blocks >> (block & 63) & 1)) {
		key.number = named->number;
		by = named->blocks & ((1ULL << (block & 63)) - 1) ? bpf_map_lookup_elem(&policy_blocks, &key) : &named->first;
	}
	for (int i = 0; i < TW_WORDS; i++)
		set->word[i] &= others->word[i] ^ (by ? by->word[i] : 0);
	return 0;
}

#define TW_TICK 10000000 /* ns; /proc knows no more of when a process began (USER_HZ) */

/* Of a socket that was open before us, the owner is what /proc says: neither the image nor the nanosecond. */
static __always_inline int tw_is_same_process(const struct tw_process *record, const struct tw_owner *owner)
{
	if (!owner->image)
		return record->started - owner->started < TW_TICK;
	return record->started == owner->started && record->image == owner->image;
}

/* Whether the owner's program is known by a number of this policy; after a reload it is looked up again. */
static __always_inline int tw_know_program(struct tw_owner *owner, const struct tw_config *settings)
{
	struct tw_process *record;
	__u32 pid = owner->pid, version;

	if (!pid || owner->version == settings->programs_version)
		return owner->program != TW_ANY;
	record = bpf_map_lookup_elem(&processes, &pid);
	if (!record || !tw_is_same_process(record, owner))
		return 0;
	tw_number(record, settings);
	version = *(volatile __u32 *)&record->programs_version; /* first: another processor may be writing a newer number */
	owner->program = *(volatile __u32 *)&record->program;
	owner->version = version;
	return owner->program != TW_ANY;
}

/* In which blocks a rule may be: where all dimensions allow it; and, if it wants any value, where such values are named. */
struct tw_where {
	__u64 allowed;
	__u64 named;
};

/* What is known of a connection while its rule is looked for. */
struct tw_search {
	const struct tw_policy *policy;
	const struct tw_others *kind; /* the rules for its direction */
	const struct tw_named *named[TW_PLACES]; /* NULL: no rule names its value */
	struct tw_where where;
	__u32 local_known;
	int rule; /* TW_ANY: not found yet */
};

/* What one dimension says of that. */
__noinline int tw_narrow_blocks(struct tw_where *where, const struct tw_others *others, const struct tw_named *named)
{
	__u64 blocks = named ? named->blocks : 0;

	if (!where || !others)
		return 0;
	where->allowed &= others->blocks | blocks;
	where->named |= blocks;
	return 0;
}

/* Looks into the lowest block in which the rule may be. 1 ends the search. */
static long tw_look(__u32 turn, struct tw_search *search)
{
	const struct tw_others *others = search->policy->others;
	struct tw_bits set;
	__u32 block;

	if (!search->where.allowed)
		return 1;
	block = TW_WITHIN(tw_lowest(search->where.allowed), TW_BLOCKS - 1); /* the verifier does not know what is in a table */
	search->where.allowed &= search->where.allowed - 1;
	__builtin_memcpy(&set, &search->kind->block[block], sizeof(set));
	tw_narrow(&set, &others[TW_PROGRAM].block[block], search->named[TW_PROGRAM], block);
	tw_narrow(&set, &others[TW_USER].block[block], search->named[TW_USER], block);
	tw_narrow(&set, &others[TW_REMOTE].block[block], search->named[TW_REMOTE], block);
	tw_narrow(&set, &others[TW_PORT].block[block], search->named[TW_PORT], block);
	if (search->local_known)
		tw_narrow(&set, &others[TW_LOCAL].block[block], search->named[TW_LOCAL], block);
	for (int i = 0; i < TW_WORDS; i++) {
		if (!set.word[i])
			continue;
		search->rule = 64 * (TW_WORDS * block + i) + tw_lowest(set.word[i]);
		return 1;
	}
	return 0;
}

/* Looks the values of a connection up: each function of its own, since a stack has 512 bytes for all that are under way. */
static __noinline int tw_gather(struct tw_search *search, struct tw_connection *c, const struct tw_config *settings, __u32 generation)
{
	struct tw_policy *current = bpf_map_lookup_elem(&policy, &generation);
	__u8 direction = c->direction;

	if (!current || direction > TW_FORWARD)
		return 0;
	if ((current->dimensions & TW_DIMENSION_PROGRAM) && !tw_know_program(&c->owner, settings))
		return 0; /* its process is forgotten here: Python may know more */
	/* no `if` that is not needed: each doubles what the verifier has to look at */
	search->named[TW_PROGRAM] = tw_named_value(generation, TW_DIMENSION_PROGRAM, c->owner.program);
	search->named[TW_USER] = tw_named_value(generation, TW_DIMENSION_USER, c->owner.uid);
	search->named[TW_REMOTE] = tw_named_address(generation, TW_DIMENSION_REMOTE, c->family, c->remote);
	search->named[TW_PORT] = tw_named_port(generation, c->protocol, direction == TW_IN ? c->local_port : c->remote_port);
	search->policy = current;
	search->kind = &current->kinds[TW_WITHIN(direction, 3)];
	search->where.allowed = search->kind->blocks;
	search->where.named = current->plain[TW_WITHIN(direction, 3)];
	tw_narrow_blocks(&search->where, &current->others[TW_PROGRAM], search->named[TW_PROGRAM]);
	tw_narrow_blocks(&search->where, &current->others[TW_USER], search->named[TW_USER]);
	tw_narrow_blocks(&search->where, &current->others[TW_REMOTE], search->named[TW_REMOTE]);
	tw_narrow_blocks(&search->where, &current->others[TW_PORT], search->named[TW_PORT]);
	if (search->local_known) {
		search->named[TW_LOCAL] = tw_named_address(generation, TW_DIMENSION_LOCAL, c->family, c->local);
		tw_narrow_blocks(&search->where, &current->others[TW_LOCAL], search->named[TW_LOCAL]);
	}
	search->where.allowed &= search->where.named;
	return 1;
}

/* Whether a rule looks at the local address. */
static __always_inline int tw_is_local(const struct tw_policy *current, int rule)
{
	const struct tw_bits *local = &current->local[(rule >> 8) & (TW_BLOCKS - 1)];

	return local->word[(rule >> 6) & (TW_WORDS - 1)] >> (rule & 63) & 1;
}

/* The first rule that matches, by its bit; TW_ANY when that cannot be said here. */
static __noinline int tw_first_rule(struct tw_connection *c, const struct tw_config *settings, __u32 generation, int local_known)
{
	struct tw_search search = { .rule = TW_ANY, .local_known = local_known };

	if (!tw_gather(&search, c, settings, generation))
		return TW_ANY;
	bpf_loop(TW_BLOCKS, tw_look, &search, 0);
	if (search.rule < 0 || search.rule >= TW_RULES || (!local_known && tw_is_local(search.policy, search.rule)))
		return TW_ANY;
	return search.rule;
}

/* Decides `c` by the policy in force: sets verdict (TW_UNDECIDED means: ask Python), rule, tier and epoch. Another
 * processor may look at `c` meanwhile: it sees no verdict under an epoch that it is not of.
 * `local_known` is 0 at connect(), before the kernel has chosen the local address: a rule that looks at
 * it cannot be judged yet, so if such a rule is the first that the rest allows, Python is asked. */
__noinline int tw_decide(struct tw_connection *c, int local_known)
{
	struct tw_config *settings = tw_config();
	__u8 verdict = TW_UNDECIDED;
	struct tw_rule *rule;
	__u32 epoch, index;
	int first;

	if (!settings || !c)
		return 0;
	epoch = *(volatile __u32 *)&settings->epoch;
	if (tw_is_own(settings, &c->owner)) {
		c->flags |= TW_OWN;
		c->verdict = TW_PERMANENT_ACCEPT;
	} else {
		first = tw_first_rule(c, settings, epoch & 1, local_known);
		index = (epoch & 1) * TW_RULES + first;
		rule = first == (int)TW_ANY ? NULL : bpf_map_lookup_elem(&policy_rules, &index);
		if (rule)
			verdict = *(volatile __u8 *)&rule->verdict;
		if (*(volatile __u32 *)&settings->epoch != epoch) { /* now the next policy may be written over this one: Python must look */
			verdict = TW_UNDECIDED;
			rule = NULL;
		}
		c->rule = rule ? first : TW_ANY;
		c->tier = verdict == TW_UNDECIDED ? TW_TIER_NONE : TW_TIER_KERNEL;
		c->verdict = verdict;
	}
	*(volatile __u32 *)&c->epoch = epoch;
	return 0;
}

#endif
