/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Layer: ALE auth connect. connect(2) of TCP and UDP, in the program's context: who it is, and, if the policy
 * can say so without a packet, the verdict.
 */
/* build: enforce */
/* build: observe -DOBSERVE */
#include "datagram.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* The kernel takes the unspecified address for the one that the socket is bound to, or else for the loopback address
 * (ip_route_output_key, tcp_v6_connect). Should it be another one after all, tw_connecting decides again. */
static __always_inline void tw_specify(struct bpf_sock *sk, struct tw_connection *want)
{
	const __u64 *remote = (const __u64 *)want->remote;
	__u32 bound;

	if (remote[0] || remote[1])
		return;
	if (want->family == 6) {
		want->remote[15] = 1;
	} else {
		bound = sk->src_ip4;
		*(__u32 *)want->remote = bound ? bound : bpf_htonl(0x7f000001);
	}
}

static __always_inline int tw_connect(struct bpf_sock_addr *ctx, struct tw_connection *want)
{
	struct tw_config *settings = tw_config();
	struct tw_connection *c;
	__u64 cookie;
	__u32 *namespace;

	if (ctx->type == SOCK_RAW)
		return 1; /* its packets are decided one by one */
	if (ctx->protocol != IPPROTO_TCP)
		return TW_WITHIN(tw_to_peer(ctx, want), 1);
	cookie = bpf_get_netns_cookie(ctx);
	namespace = bpf_map_lookup_elem(&namespaces, &cookie);
	if (settings && !namespace)
		return tw_note_guest(settings, bpf_get_socket_cookie(ctx));
	if (!settings || !ctx->sk)
		return 1;
	c = bpf_sk_storage_get(&sockets, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!c)
		return tw_no_room(settings);
	tw_specify(ctx->sk, want);
	tw_current_owner(&want->owner);
	want->protocol = IPPROTO_TCP;
	want->remote_port = bpf_ntohs((__u16)ctx->user_port);
	want->local_port = ctx->sk->src_port;
	want->namespace = *namespace;
	want->cookie = bpf_get_socket_cookie(ctx);
	want->opened = want->used = bpf_ktime_get_ns();
	want->direction = TW_OUT;
	return tw_begin(settings, c, want);
}

SEC("cgroup/connect4")
int tw_connect4(struct bpf_sock_addr *ctx)
{
	struct tw_connection want = { .family = 4 };

	*(__u32 *)want.remote = ctx->user_ip4;
	return TW_ENFORCED(tw_connect(ctx, &want));
}

SEC("cgroup/connect6")
int tw_connect6(struct bpf_sock_addr *ctx)
{
	struct tw_connection want = { };

	tw_peer6(&want, ctx);
	return TW_ENFORCED(tw_connect(ctx, &want));
}
