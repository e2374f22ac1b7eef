/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * What the gate does with a packet of whatever protocol; and those that have no connections.
 */
#ifndef TIDEWAITER_GATE_H
#define TIDEWAITER_GATE_H

#include "sight.h"

static __always_inline void tw_add(const struct tw_config *settings, struct tw_connection *c, __u32 bytes, int incoming)
{
	if (!settings->uncounted)
		__sync_fetch_and_add(incoming ? &c->received : &c->sent, bytes);
	c->used = bpf_ktime_get_coarse_ns();
}

/* Of what comes in, was not held and does not pass, nothing is kept: there may be any number of such strangers. */
static __always_inline int tw_is_kept(const struct tw_config *settings, const struct tw_connection *c)
{
	return c->direction != TW_IN || c->verdict != TW_UNDECIDED || settings->fail_open || !settings->enforce;
}

/* What has come in may have been asked about by its addresses already. */
static __always_inline struct tw_connection *tw_known_by_addresses(struct tw_config *settings, const struct tw_connection *c, struct tw_flow_key *key)
{
	struct tw_connection *known;

	tw_key_by_addresses(key, c);
	known = bpf_map_lookup_elem(&flows, key);
	return known && known->epoch == settings->epoch ? known : NULL;
}

/* What was answered about a packet that came in: any number of sockets may get it. */
static __always_inline int tw_answer_by_addresses(struct tw_config *settings, const struct tw_connection *seen, struct tw_flow_key *key)
{
	struct tw_connection *known = tw_known_by_addresses(settings, seen, key);

	return known ? known->verdict : TW_UNDECIDED;
}

/* To all, or to a group: of IPv4 the kernel sends this host its copy first, past the gate like the packet itself. */
static __always_inline int tw_is_copied(const struct tw_connection *seen)
{
	__u32 remote = *(const __u32 *)seen->remote;

	return seen->family == 4 && (remote == 0xffffffff || (remote & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000));
}

/* A packet of a protocol without connections, of a socket that we have seen being made: what comes in is held by its
 * addresses, and belongs here to the socket that gets it. */
__noinline int tw_without_connection(struct tw_connection *c, struct tw_connection *seen, __u32 bytes, int incoming)
{
	struct tw_config *settings = tw_config();
	struct tw_connection *flow;
	struct tw_flow_key key;
	int verdict;

	if (!settings || !c || !seen)
		return TW_UNDECIDED;
	seen->home = TW_HOME_PEER;
	seen->direction = incoming ? TW_IN : TW_OUT;
	seen->cookie = c->cookie;
	__builtin_memcpy(&seen->owner, &c->owner, sizeof(seen->owner));
	tw_key_by_peer(&key, seen);
	flow = bpf_map_lookup_elem(&flows, &key);
	tw_decide_packet(seen, flow);
	verdict = seen->verdict;
	if (!flow || flow->epoch != seen->epoch) {
		if (bpf_map_update_elem(&flows, &key, seen, BPF_ANY))
			return settings->fail_open ? TW_PERMANENT_ACCEPT : TW_UNDECIDED;
		flow = bpf_map_lookup_elem(&flows, &key);
	}
	if (!flow)
		return verdict;
	if (verdict == TW_UNDECIDED && settings->enforce && incoming) {
		verdict = tw_answer_by_addresses(settings, seen, &key);
	} else if (verdict == TW_UNDECIDED && settings->enforce) {
		verdict = flow->verdict;
		if (!tw_is_copied(seen))
			flow->verdict = TW_UNDECIDED; /* the answer was for this packet */
	} else {
		flow->verdict = verdict;
		flow->rule = seen->rule;
		flow->tier = seen->tier;
		tw_report(settings, flow);
	}
	if (tw_is_accept(verdict) || !settings->enforce) {
		tw_add(settings, flow, bytes, incoming);
		if (!incoming)
			tw_expect_replies(flow, &key);
	}
	return verdict;
}

/* Whether a packet is of the connection that its socket is, for nearly all of them and without parsing: 1 is yes, 0 is that
 * tw_slow must look. A datagram that goes out from
 * another address or port than the last one is for tw_slow too. */
static __always_inline int tw_is_plainly_of(struct __sk_buff *skb, const struct tw_connection *c, int incoming)
{
	const __u8 *ip = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	const __u8 *theirs = incoming ? c->remote : c->local;
	__u16 port = bpf_htons(incoming ? c->remote_port : c->local_port);
	const __u64 *x = (const __u64 *)(ip + 8), *y = (const __u64 *)theirs;

	if (c->family == 4) {
		if (ip + 28 > end || ip[0] != TW_IPV4_PLAIN)
			return 0;
		return c->protocol == IPPROTO_TCP || (*(__u32 *)(ip + 12) == *(const __u32 *)theirs && *(__u16 *)(ip + 20) == port);
	}
	if (ip + 48 > end || ip[6] != c->protocol)
		return 0;
	return c->protocol == IPPROTO_TCP || (x[0] == y[0] && x[1] == y[1] && *(__u16 *)(ip + 40) == port);
}

#endif
