/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Protocols other than TCP and UDP: ICMP, IGMP, SCTP and whatever a raw socket sends. They have no connections, so each packet is
 * decided by itself: by the policy in force, or, where it says to ask, by an answer that holds for one packet. What is
 * kept in map `flows` is whose packets they are, what they carried, and that answer.
 */
#ifndef TIDEWAITER_OTHER_H
#define TIDEWAITER_OTHER_H

#include "policy.h"

static __always_inline int tw_is_other(__u8 protocol)
{
	return protocol != IPPROTO_TCP && protocol != IPPROTO_UDP;
}

/* Errors about what was sent, and what makes the local link work: never held when it comes in. RFC 792; RFC 4443 section 2.1,
 * RFC 4861 section 4, RFC 3810 section 5. */
static __always_inline int tw_is_control(struct __sk_buff *skb, const struct tw_headers *h)
{
	__u8 type;

	if ((h->protocol != TW_ICMP && h->protocol != TW_ICMPV6) || bpf_skb_load_bytes(skb, h->transport, &type, 1))
		return 0;
	if (h->protocol == TW_ICMP)
		return type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
	return type < 128 || (type >= 130 && type <= 137) || type == 143;
}

/* Decides a packet. `flow` is what is known of it from earlier ones; it does not change while an answer lies there. */
static __always_inline void tw_decide_packet(struct tw_connection *seen, const struct tw_connection *flow)
{
	seen->opened = seen->used = bpf_ktime_get_ns();
	if (flow) {
		seen->direction = flow->direction;
		seen->opened = flow->opened;
		seen->sent = flow->sent;
		seen->received = flow->received;
		seen->flags = flow->flags;
	}
	tw_decide(seen, 1);
}

/* Replies are found by their addresses: they belong to whoever sent there first, of those that still may. */
static __always_inline void tw_expect_replies(const struct tw_connection *sent, struct tw_flow_key *key)
{
	struct tw_connection *copy, *known;
	__u64 cookie;

	tw_key_by_addresses(key, sent);
	known = bpf_map_lookup_elem(&flows, key);
	cookie = known ? known->cookie : 0;
	if (known && known->epoch == sent->epoch && (cookie == sent->cookie || bpf_map_lookup_elem(&makers, &cookie)))
		return; /* an answer may lie there */
	bpf_map_update_elem(&flows, key, sent, BPF_ANY);
	copy = bpf_map_lookup_elem(&flows, key);
	if (copy)
		copy->home = TW_HOME_ADDRESSES;
}

#endif
