/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Layer: ALE auth connect, for datagrams sent without connect(2).
 */
/* build: enforce */
/* build: observe -DOBSERVE */
#include "datagram.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline int tw_sendmsg(struct bpf_sock_addr *ctx, struct tw_connection *want)
{
	struct tw_config *settings = tw_config();
	struct tw_connection *c;

	if (!settings || !ctx->sk)
		return 1;
	c = bpf_sk_storage_get(&sockets, ctx->sk, 0, 0);
	want->remote_port = bpf_ntohs((__u16)ctx->user_port);
	if (c && (c->flags & TW_CONNECTED) && c->epoch == settings->epoch && tw_same_remote(c, want))
		return c->verdict != TW_PERMANENT_BLOCK;
	return TW_WITHIN(tw_to_peer(ctx, want), 1);
}

SEC("cgroup/sendmsg4")
int tw_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct tw_connection want = { .family = 4 };

	*(__u32 *)want.remote = ctx->user_ip4;
	return TW_ENFORCED(tw_sendmsg(ctx, &want));
}

SEC("cgroup/sendmsg6")
int tw_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct tw_connection want = { };

	tw_peer6(&want, ctx);
	return TW_ENFORCED(tw_sendmsg(ctx, &want));
}
