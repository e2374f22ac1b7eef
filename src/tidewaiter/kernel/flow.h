/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * What the layers have in common: namespaces, the keys of flows, and what a verdict means to a packet.
 */
#ifndef TIDEWAITER_FLOW_H
#define TIDEWAITER_FLOW_H

#include "maps.h"

#define TW_PACKET struct __sk_buff *

static __always_inline int tw_load(TW_PACKET packet, __u32 offset, void *to, __u32 size)
{
	return bpf_skb_load_bytes(packet, offset, to, size);
}

#include "headers.h"

enum tw_pass { TW_REFUSE = 0, TW_GO = 1, TW_SILENCE = 2 }; /* of cgroup_skb/egress; 2 drops without an error */

static __always_inline int tw_is_mapped(const __u32 *address)
{
	return address[0] == 0 && address[1] == 0 && address[2] == bpf_htonl(0xffff);
}

static __always_inline void tw_key_by_peer(struct tw_flow_key *key, const struct tw_connection *c)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->scope = c->cookie;
	key->remote_port = c->remote_port;
	key->family = c->family;
	key->protocol = c->protocol;
	__builtin_memcpy(key->remote, c->remote, 16);
}

static __always_inline void tw_key_by_addresses(struct tw_flow_key *key, const struct tw_connection *c)
{
	tw_key_by_peer(key, c);
	key->scope = TW_SCOPE_NAMESPACE | c->namespace;
	key->local_port = c->local_port;
	__builtin_memcpy(key->local, c->local, 16);
}

static __always_inline int tw_same_remote(const struct tw_connection *a, const struct tw_connection *b)
{
	const __u64 *x = (const __u64 *)a->remote, *y = (const __u64 *)b->remote;

	return a->remote_port == b->remote_port && a->family == b->family && x[0] == y[0] && x[1] == y[1];
}

static __always_inline int tw_same_local(const struct tw_connection *a, const struct tw_connection *b)
{
	const __u64 *x = (const __u64 *)a->local, *y = (const __u64 *)b->local;

	return a->local_port == b->local_port && x[0] == y[0] && x[1] == y[1];
}

/* The two ends of a packet, seen from this host. */
static __always_inline void tw_ends(struct tw_connection *c, const struct tw_headers *h, int incoming)
{
	c->family = h->version;
	c->protocol = h->protocol;
	if (incoming) {
		__builtin_memcpy(c->local, h->destination, 16);
		__builtin_memcpy(c->remote, h->source, 16);
		c->local_port = h->destination_port;
		c->remote_port = h->source_port;
	} else {
		__builtin_memcpy(c->local, h->source, 16);
		__builtin_memcpy(c->remote, h->destination, 16);
		c->local_port = h->source_port;
		c->remote_port = h->destination_port;
	}
}

/* The firewall's own traffic is never held. */
static __always_inline int tw_is_own(const struct tw_config *settings, const struct tw_owner *owner)
{
	return owner->pid && owner->pid == settings->own_pid && owner->started == settings->own_started;
}

static __always_inline int tw_is_redirect(__u8 verdict)
{
	return verdict == TW_REDIRECT_NAME_SERVER || verdict == TW_REDIRECT_TUNNEL || verdict == TW_REDIRECT_SPLIT_TUNNEL;
}

static __always_inline int tw_is_accept(__u8 verdict)
{
	return verdict == TW_PERMANENT_ACCEPT || verdict == TW_ACCEPT || tw_is_redirect(verdict);
}

static __always_inline void tw_loopback(__u8 *address, __u8 family)
{
	__builtin_memset(address, 0, 16);
	if (family == 4)
		*(__u32 *)address = bpf_htonl(0x7f000001);
	else
		address[15] = 1;
}

/* Whether a packet goes out to this host itself, as what is redirected does: it may leave for nowhere else. */
static __always_inline int tw_goes_home(const struct tw_connection *seen)
{
	__u8 home[16];

	tw_loopback(home, seen->family);
	return *(__u64 *)home == *(const __u64 *)seen->remote && *(__u64 *)(home + 8) == *(const __u64 *)(seen->remote + 8);
}

/* Whether the next packet must be asked about again: portmaster-kext §2.3 (docs/reference/wire.md). */
static __always_inline int tw_is_temporary(__u8 verdict)
{
	return verdict == TW_UNDECIDED || verdict == TW_ACCEPT || verdict == TW_BLOCK || verdict == TW_DROP;
}

/* Whether an answer stays where it is looked for: for the hold, which asks again, or for the redirect rules, which are asked
 * again when the kernel has forgotten a flow. */
static __always_inline int tw_stays(__u8 verdict)
{
	return tw_is_temporary(verdict) || tw_is_redirect(verdict);
}

/* At the gate: the last word on a packet. An undecided packet that gets here was not held (the hold
 * rules are gone, or nobody listens): it goes on only if the user chose `fail = "open"`. */
static __always_inline int tw_gate(const struct tw_config *settings, __u8 verdict)
{
	if (tw_is_accept(verdict))
		return TW_GO;
	if (verdict == TW_UNDECIDED) {
		tw_count(settings->fail_open ? TW_COUNT_UNHELD_PASSED : TW_COUNT_UNHELD_DROPPED);
		return settings->fail_open ? TW_GO : TW_SILENCE;
	}
	tw_count(TW_COUNT_REFUSED);
	return verdict == TW_PERMANENT_BLOCK || verdict == TW_BLOCK ? TW_REFUSE : TW_SILENCE;
}

/* A connection that Python must decide gets its place in `pending`. Returns 0 when there is no room. */
static __always_inline int tw_ask(const struct tw_connection *c)
{
	if (bpf_map_update_elem(&pending, &c->cookie, c, BPF_ANY)) {
		tw_count(TW_COUNT_PENDING_FULL);
		return 0;
	}
	return 1;
}

static __always_inline int tw_is_answer(const struct tw_connection *answer, const struct tw_config *settings, const struct tw_connection *c)
{
	/* an answer under another policy, or about what this socket did before, is none */
	return answer && answer->epoch == settings->epoch && answer->opened == c->opened;
}

static __always_inline void tw_take(struct tw_connection *c, const struct tw_connection *answer)
{
	c->tier = answer->tier;
	c->rule = answer->rule;
	c->flags |= answer->flags & TW_REPORTED;
	c->verdict = answer->verdict;
	*(volatile __u32 *)&c->epoch = answer->epoch; /* last: see tw_decide */
}

/* An answer for one packet has let that pass. Of TCP alone: a datagram may come by twice, once for each receiver. */
static __always_inline void tw_use_up(struct tw_connection *answer)
{
	if (answer->verdict == TW_ACCEPT && answer->protocol == IPPROTO_TCP)
		answer->verdict = TW_UNDECIDED;
}

static __always_inline void tw_learn_ends(struct tw_connection *c, const struct tw_connection *seen)
{
	c->local_port = seen->local_port;
	__builtin_memcpy(c->local, seen->local, 16);
}

static __always_inline void tw_report(struct tw_config *settings, struct tw_connection *c)
{
	if (!settings->events || (c->flags & (TW_REPORTED | TW_OWN)))
		return;
	c->flags |= TW_REPORTED;
	tw_emit(TW_EVENT_DECIDED, c);
}

#endif
