/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * T1: the policy, compiled into bit sets. Each dimension maps a value to the set of rules that it satisfies;
 * the rule that decides is the lowest bit of their intersection. policy/tables.py is the twin of this file.
 */
#ifndef TIDEWAITER_POLICY_H
#define TIDEWAITER_POLICY_H

#include "flow.h"

static __always_inline void tw_narrow(struct tw_bits *set, const struct tw_bits *by)
{
	for (int i = 0; i < TW_WORDS; i++)
		set->word[i] &= by ? by->word[i] : 0;
}

static __always_inline void tw_narrow_by_value(struct tw_bits *set, __u8 generation, __u8 dimension, __u32 value, const struct tw_bits *others)
{
	struct tw_value_key key = { .generation = generation, .dimension = dimension, .value = value };
	struct tw_bits *found = bpf_map_lookup_elem(&policy_values, &key);

	tw_narrow(set, found ? found : others);
}

static __always_inline void tw_narrow_by_address(struct tw_bits *set, __u8 generation, __u8 dimension, __u8 family, const __u8 *address)
{
	struct tw_range_key key = { .generation = generation, .dimension = dimension };

	key.prefix = TW_RANGE_FIXED + (family == 4 ? 32 : 128);
	if (family != 4)
		key.dimension |= TW_FAMILY_6;
	__builtin_memcpy(key.bytes, address, 16);
	tw_narrow(set, bpf_map_lookup_elem(&policy_ranges, &key));
}

static __always_inline void tw_narrow_by_port(struct tw_bits *set, __u8 generation, __u8 protocol, __u16 port)
{
	struct tw_range_key key = { .prefix = TW_RANGE_FIXED + 24, .generation = generation, .dimension = TW_DIMENSION_PORT };

	key.bytes[0] = protocol;
	key.bytes[1] = port >> 8;
	key.bytes[2] = port;
	tw_narrow(set, bpf_map_lookup_elem(&policy_ranges, &key));
}

static __always_inline int tw_first(const struct tw_bits *set)
{
	for (int i = 0; i < TW_WORDS; i++) {
		__u64 word = set->word[i];
		int bit = 0;

		if (!word)
			continue;
		/* the lowest set bit by halving: this target has no instruction for it */
		if (!(word & 0xffffffff)) { bit += 32; word >>= 32; }
		if (!(word & 0xffff)) { bit += 16; word >>= 16; }
		if (!(word & 0xff)) { bit += 8; word >>= 8; }
		if (!(word & 0xf)) { bit += 4; word >>= 4; }
		if (!(word & 3)) { bit += 2; word >>= 2; }
		if (!(word & 1)) bit += 1;
		return 64 * i + bit;
	}
	return -1;
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

/* The first rule that matches, by its bit; TW_ANY when that cannot be said here. */
static __always_inline int tw_first_rule(struct tw_connection *c, const struct tw_config *settings, __u32 epoch, int local_known)
{
	__u8 generation, direction = c->direction;
	struct tw_policy *current;
	__u32 slot, dimensions;
	struct tw_bits set;
	int first;

	if (direction > TW_FORWARD)
		return TW_ANY;
	generation = slot = epoch & 1;
	current = bpf_map_lookup_elem(&policy, &slot);
	if (!current)
		return TW_ANY;
	__builtin_memcpy(&set, &current->kinds[direction], sizeof(set));
	dimensions = current->dimensions;
	if ((dimensions & TW_DIMENSION_PROGRAM) && !tw_know_program(&c->owner, settings))
		return TW_ANY; /* its process is forgotten here: Python may know more */
	if ((dimensions & TW_DIMENSION_PROGRAM) && c->owner.program)
		tw_narrow_by_value(&set, generation, TW_DIMENSION_PROGRAM, c->owner.program, &current->program);
	else
		tw_narrow(&set, &current->program);
	if (dimensions & TW_DIMENSION_USER)
		tw_narrow_by_value(&set, generation, TW_DIMENSION_USER, c->owner.uid, &current->user);
	if (dimensions & TW_DIMENSION_REMOTE)
		tw_narrow_by_address(&set, generation, TW_DIMENSION_REMOTE, c->family, c->remote);
	if (dimensions & TW_DIMENSION_PORT)
		tw_narrow_by_port(&set, generation, c->protocol, direction == TW_IN ? c->local_port : c->remote_port);
	if ((dimensions & TW_DIMENSION_LOCAL) && local_known)
		tw_narrow_by_address(&set, generation, TW_DIMENSION_LOCAL, c->family, c->local);
	first = tw_first(&set);
	if (first < 0 || first >= TW_RULES)
		return TW_ANY;
	if (!local_known && (current->local.word[(first >> 6) & (TW_WORDS - 1)] >> (first & 63)) & 1)
		return TW_ANY;
	return first;
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
		first = tw_first_rule(c, settings, epoch, local_known);
		index = (epoch & 1) * TW_RULES + first;
		rule = first == (int)TW_ANY ? NULL : bpf_map_lookup_elem(&policy_rules, &index);
		if (rule)
			verdict = rule->verdict;
		c->rule = rule ? first : TW_ANY;
		c->tier = verdict == TW_UNDECIDED ? TW_TIER_NONE : TW_TIER_KERNEL;
		c->verdict = verdict;
	}
	*(volatile __u32 *)&c->epoch = epoch;
	return 0;
}

#endif
