/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Layers: ALE auth recv-accept and endpoint closure, for TCP. Socket operations cannot refuse anything: the
 * gate (packet.bpf.c) does. Totals come from the kernel's own counters, so that no packet is counted here.
 */
#include "adopt.h"
#include "flow.h"
#include "listener.h"
#include "owner.h"
#include "policy.h"
#include "tcp.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* The context may only be read in its own 32-bit steps: keeps the compiler from joining them. */
#define TW_CONTEXT(field) (*(volatile __u32 *)&(field))

static __always_inline __u32 *tw_namespace(struct bpf_sock_ops *ctx)
{
	__u64 cookie = bpf_get_netns_cookie(ctx);

	return bpf_map_lookup_elem(&namespaces, &cookie);
}

static __always_inline void tw_local_end(struct tw_connection *c, struct bpf_sock_ops *ctx)
{
	c->local_port = ctx->local_port;
	if (c->family == 4) {
		*(__u32 *)c->local = ctx->local_ip4;
	} else {
		__u32 address[4];

		for (int i = 0; i < 4; i++)
			address[i] = TW_CONTEXT(ctx->local_ip6[i]);
		__builtin_memcpy(c->local, address, 16);
	}
}

static __always_inline void tw_remote_end(struct tw_connection *c, struct bpf_sock_ops *ctx)
{
	__u32 address[4] = { 0 };

	c->family = 4;
	if (ctx->family == AF_INET6) {
		for (int i = 0; i < 4; i++)
			address[i] = TW_CONTEXT(ctx->remote_ip6[i]);
		if (!tw_is_mapped(address))
			c->family = 6;
	}
	if (c->family == 4) {
		address[0] = ctx->remote_ip4;
		address[1] = address[2] = address[3] = 0;
	}
	__builtin_memcpy(c->remote, address, 16);
	c->remote_port = bpf_ntohl(ctx->remote_port);
}

/* The kernel goes elsewhere than connect() said: it takes 0.0.0.0 for this host, and other eBPF programs may redirect. */
static __always_inline int tw_goes_elsewhere(struct tw_connection *c, struct bpf_sock_ops *ctx)
{
	struct tw_connection real = { };

	tw_remote_end(&real, ctx);
	if (tw_same_remote(c, &real))
		return 0;
	c->family = real.family;
	c->remote_port = real.remote_port;
	__builtin_memcpy(c->remote, real.remote, 16);
	return 1;
}

/* The SYN leaves next: both ports are known. */
static __always_inline void tw_connecting(struct bpf_sock_ops *ctx, struct tw_config *settings)
{
	struct bpf_sock *sk = ctx->sk;
	struct tw_connection *c;

	if (!sk)
		return;
	c = bpf_sk_storage_get(&sockets, sk, 0, 0);
	if (!c || !(c->flags & TW_CONNECTED))
		return;
	tw_local_end(c, ctx);
	bpf_sock_ops_cb_flags_set(ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
	if (tw_goes_elsewhere(c, ctx))
		tw_decide(c, 1);
	if (c->verdict != TW_UNDECIDED || !settings->enforce)
		tw_report(settings, c);
	else
		tw_ask(c); /* if there is no room, the gate does what `fail` says */
}

static __always_inline void tw_established(struct bpf_sock_ops *ctx, struct tw_config *settings)
{
	struct bpf_sock *sk = ctx->sk;
	struct tw_connection *c;

	if (!sk)
		return;
	c = bpf_sk_storage_get(&sockets, sk, 0, 0);
	if (!c)
		return;
	c->established = bpf_ktime_get_ns();
	if (settings->events && (c->flags & TW_REPORTED))
		tw_emit(TW_EVENT_ESTABLISHED, c);
}

/* A connection that came in. What was decided about its SYN is under its addresses. */
static __always_inline void tw_accepted(struct bpf_sock_ops *ctx, struct tw_config *settings)
{
	struct tw_connection want = { .protocol = IPPROTO_TCP, .direction = TW_IN };
	struct bpf_sock *sk = ctx->sk;
	struct tw_connection *c, *decided;
	struct tw_listener *listener;
	struct tw_flow_key key;
	__u32 *namespace = tw_namespace(ctx);

	if (!sk || !namespace)
		return;
	want.namespace = *namespace;
	tw_remote_end(&want, ctx);
	tw_local_end(&want, ctx);
	tw_key_by_addresses(&key, &want);
	decided = bpf_map_lookup_elem(&flows, &key);
	if (!decided) /* its handshake had begun before we came */
		decided = tw_adopted(bpf_get_socket_cookie(ctx));
	c = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!c)
		return;
	if (decided) {
		__builtin_memcpy(c, decided, sizeof(*c));
		bpf_map_delete_elem(&flows, &key);
	} else {
		/* its SYN passed before we were there, or its entry was evicted: the gate decides it again */
		listener = tw_find_listener(*namespace, &want);
		if (listener)
			__builtin_memcpy(&want.owner, &listener->owner, sizeof(want.owner));
		want.epoch = settings->epoch - 1;
		want.opened = bpf_ktime_get_ns();
		__builtin_memcpy(c, &want, sizeof(*c));
	}
	c->cookie = bpf_get_socket_cookie(ctx);
	c->home = TW_HOME_SOCKET;
	c->flags = (c->flags & ~TW_ADOPTED) | TW_CONNECTED;
	c->established = bpf_ktime_get_ns();
	bpf_sock_ops_cb_flags_set(ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
	if (decided && tw_is_temporary(c->verdict) && settings->enforce)
		tw_ask(c); /* the answer was for its SYN; if there is no room, the gate does what `fail` says */
	tw_report(settings, c);
	if (settings->events && (c->flags & TW_REPORTED))
		tw_emit(TW_EVENT_ESTABLISHED, c);
}

static __always_inline void tw_listening(struct bpf_sock_ops *ctx)
{
	struct tw_connection waiting_one = { .protocol = IPPROTO_TCP }, *c;
	struct tw_listener_key key = { .protocol = IPPROTO_TCP };
	struct tw_listener listener = { };
	struct bpf_sock *sk = ctx->sk;
	__u32 address[4] = { 0 }, *namespace = tw_namespace(ctx);

	if (!sk || !namespace)
		return;
	tw_current_owner(&listener.owner);
	listener.cookie = bpf_get_socket_cookie(ctx);
	key.namespace = *namespace;
	key.port = ctx->local_port;
	address[0] = ctx->local_ip4;
	if (ctx->family == AF_INET6) {
		for (int i = 0; i < 4; i++)
			address[i] = TW_CONTEXT(ctx->local_ip6[i]);
	}
	tw_listener_address(&key, ctx->family, address);
	tw_listen(sk, &key, &listener);
	bpf_sock_ops_cb_flags_set(ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
	c = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!c)
		return;
	/* whatever the socket was before, nothing of it is left */
	__builtin_memcpy(&waiting_one.owner, &listener.owner, sizeof(listener.owner));
	waiting_one.namespace = *namespace;
	waiting_one.cookie = listener.cookie;
	waiting_one.local_port = key.port;
	__builtin_memcpy(c, &waiting_one, sizeof(*c));
}

static __always_inline void tw_closed(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct tw_connection *c;
	struct tcp_sock *tcp;
	__u64 cookie;

	if (!sk)
		return;
	cookie = bpf_get_socket_cookie(ctx);
	tw_wait_no_more(sk, cookie);
	c = bpf_sk_storage_get(&sockets, sk, 0, 0);
	if (!c || !(c->flags & TW_CONNECTED))
		return;
	bpf_map_delete_elem(&pending, &cookie);
	c->flags &= ~TW_CONNECTED;
	if (!(c->flags & TW_REPORTED) && c->tier == TW_TIER_KERNEL)
		return;
	if (c->flags & TW_OWN)
		return;
	tcp = (void *)bpf_skc_to_tcp_sock(sk);
	if (tcp)
		tw_tcp_totals(c, tcp);
	tw_emit(TW_EVENT_ENDED, c);
}

SEC("sockops")
int tw_socket_operation(struct bpf_sock_ops *ctx)
{
	struct tw_config *settings;

	switch (ctx->op) { /* most calls ask for tuning, which is not our business */
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		settings = tw_config();
		if (!settings)
			break;
		if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
			tw_connecting(ctx, settings);
		else if (ctx->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
			tw_established(ctx, settings);
		else
			tw_accepted(ctx, settings);
		break;
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		tw_listening(ctx);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] == TCP_CLOSE)
			tw_closed(ctx);
		break;
	}
	return 1;
}
