/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Guests: programs in scope whose network namespace is none of ours, containers mostly. Their packets come through a
 * guarded namespace as forwarded ones, without a socket: whose they are is noted here, by their addresses, before.
 */
#ifndef TIDEWAITER_GUEST_H
#define TIDEWAITER_GUEST_H

#include "owner.h"
#include "flow.h"

#define TW_GUESTS 0 /* the number that stands for every namespace that is not guarded */

static __always_inline int tw_note_maker(__u64 cookie, const struct tw_owner *owner)
{
	if (bpf_map_update_elem(&makers, &cookie, owner, BPF_ANY)) {
		tw_count(TW_COUNT_MAKERS_FULL);
		return 0;
	}
	return 1;
}

/* A guest begins to write, in its own context. Returns 0 to refuse: its packets would come through as nobody's. */
static __always_inline int tw_note_guest(const struct tw_config *settings, __u64 cookie)
{
	struct tw_owner owner = { };

	tw_current_owner(&owner);
	return tw_note_maker(cookie, &owner) || settings->fail_open || !settings->enforce;
}

/* The packet of a guest will come by as a forwarded one: the hold finds there whose it is. */
static __always_inline void tw_guest_sends(struct __sk_buff *skb, struct tw_connection *seen, __u8 tcp_flags, struct tw_flow_key *key)
{
	__u64 cookie = skb->sk ? bpf_get_socket_cookie(skb) : 0;
	struct tw_owner *maker = cookie ? bpf_map_lookup_elem(&makers, &cookie) : NULL;
	struct tw_connection *known;

	if (!maker || (seen->protocol == IPPROTO_TCP && (tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN))
		return;
	seen->namespace = TW_GUESTS;
	seen->cookie = cookie;
	tw_key_by_addresses(key, seen);
	known = bpf_map_lookup_elem(&flows, key);
	if (known && known->cookie == cookie)
		return;
	__builtin_memcpy(&seen->owner, maker, sizeof(seen->owner));
	bpf_map_update_elem(&flows, key, seen, BPF_ANY);
}

#endif
