/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * What the redirect rules ask, by netfilter's bpf match, for the first packet of each flow: does it go elsewhere? Yes is 1: the
 * rule then sends the flow to a port of this host. One copy is loaded for each guarded namespace and each target.
 */
#include "listener.h"
#include "sight.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile __u32 tw_namespace = 0;
const volatile __u32 tw_target = 0; /* enum tw_verdict */
const volatile __u32 tw_target_port = 0;

/* The other half of a redirected flow, which comes in at the target: nobody is asked about it again. `in` is what went out. */
static __always_inline void tw_expect(const struct tw_config *settings, struct tw_connection *in, struct tw_flow_key *key)
{
	struct tw_listener *listener;

	in->namespace = tw_namespace;
	__builtin_memcpy(in->remote, in->local, 16);
	in->remote_port = in->local_port;
	in->local_port = tw_target_port;
	tw_loopback(in->local, in->family);
	in->cookie = 0;
	listener = tw_find_listener(tw_namespace, in);
	if (listener) {
		__builtin_memcpy(&in->owner, &listener->owner, sizeof(in->owner));
		in->cookie = listener->cookie;
	}
	in->opened = in->used = bpf_ktime_get_ns();
	in->epoch = settings->epoch;
	in->rule = TW_ANY;
	in->verdict = TW_PERMANENT_ACCEPT;
	in->tier = TW_TIER_KERNEL;
	in->direction = TW_IN;
	in->home = TW_HOME_ADDRESSES;
	in->flags = TW_REPORTED; /* it is the same connection once more */
	tw_key_by_addresses(key, in);
	bpf_map_update_elem(&flows, key, in, BPF_ANY);
}

/* The gate sees the packet as it is then, but the reply comes from where this one was to go. */
static __always_inline void tw_await_reply(const struct tw_connection *flow, struct tw_connection *seen, struct tw_flow_key *key)
{
	struct tw_connection *copy;

	seen->namespace = tw_namespace;
	tw_key_by_addresses(key, seen);
	bpf_map_update_elem(&flows, key, flow, BPF_ANY);
	copy = bpf_map_lookup_elem(&flows, key);
	if (!copy)
		return;
	tw_learn_ends(copy, seen);
	copy->home = TW_HOME_ADDRESSES;
	copy->flags |= TW_REPORTED;
}

/* A socket with many peers: the gate sees where the packet goes now. */
static __always_inline void tw_follow(const struct tw_connection *flow, struct tw_connection *seen, struct tw_flow_key *key)
{
	struct tw_connection *copy;

	tw_loopback(seen->remote, seen->family);
	seen->remote_port = tw_target_port;
	tw_key_by_peer(key, seen);
	bpf_map_update_elem(&flows, key, flow, BPF_ANY);
	copy = bpf_map_lookup_elem(&flows, key);
	if (!copy)
		return;
	__builtin_memcpy(copy->remote, seen->remote, 16);
	copy->remote_port = seen->remote_port;
	copy->flags |= TW_REPORTED;
}

__noinline int tw_find_target(struct __sk_buff *skb, __u64 cookie)
{
	struct tw_config *settings = tw_config();
	struct tw_connection *known;
	struct tw_sight sight = { };
	struct tw_flow_key key;
	int many;

	if (!settings || !tw_see(skb, &sight, 0))
		return 0;
	known = bpf_map_lookup_elem(&pending, &cookie);
	many = !known || (known->flags & TW_MARKER);
	if (many) {
		sight.ends.cookie = cookie;
		tw_key_by_peer(&key, &sight.ends);
		known = bpf_map_lookup_elem(&flows, &key);
	}
	if (!known || known->verdict != tw_target)
		return 0;
	if (sight.ends.protocol == IPPROTO_UDP)
		tw_await_reply(known, &sight.ends, &key);
	if (many)
		tw_follow(known, &sight.ends, &key);
	tw_expect(settings, &sight.ends, &key);
	return 1;
}

SEC("socket")
int tw_redirect(struct __sk_buff *skb)
{
	__u64 cookie = skb->sk ? bpf_get_socket_cookie(skb) : 0;

	return cookie ? tw_find_target(skb, cookie) : 0;
}
