/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Layers: ALE resource assignment and release. A raw socket has a maker, a bound datagram socket waits for whoever sends;
 * a released socket takes its listeners and its pending questions with it. Nothing is refused here, but for a raw socket of
 * a guest of whom there is no room to take note.
 */
#include "flow.h"
#include "listener.h"
#include "guest.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline int tw_bind(struct bpf_sock *ctx, const __u32 *address)
{
	struct tw_listener listener = { };
	struct tw_listener_key key = { .protocol = IPPROTO_UDP };
	struct tw_connection *c;
	__u64 cookie;
	__u32 *namespace;

	if (ctx->protocol != IPPROTO_UDP || !ctx->src_port)
		return 1;
	cookie = bpf_get_netns_cookie(ctx);
	namespace = bpf_map_lookup_elem(&namespaces, &cookie);
	if (!namespace)
		return 1;
	tw_current_owner(&listener.owner);
	listener.cookie = bpf_get_socket_cookie(ctx);
	key.namespace = *namespace;
	key.port = ctx->src_port;
	tw_listener_address(&key, ctx->family, address);
	tw_listen(ctx, &key, &listener);
	c = bpf_sk_storage_get(&sockets, ctx, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!c)
		return 1;
	__builtin_memcpy(&c->owner, &listener.owner, sizeof(c->owner));
	c->namespace = *namespace;
	c->cookie = listener.cookie;
	c->protocol = IPPROTO_UDP;
	c->local_port = key.port;
	return 1;
}

/* Sending by a raw socket has no hook of its own: its program is known from the making of the socket. */
SEC("cgroup/sock_create")
int tw_create(struct bpf_sock *ctx)
{
	struct tw_config *settings = tw_config();
	struct tw_owner owner = { };
	struct tw_connection *c;
	__u64 cookie;
	__u32 *namespace;

	if (!settings)
		return 1;
	if (ctx->type != SOCK_RAW && (ctx->protocol == IPPROTO_TCP || ctx->protocol == IPPROTO_UDP || ctx->protocol == IPPROTO_MPTCP))
		return 1;
	cookie = bpf_get_netns_cookie(ctx);
	namespace = bpf_map_lookup_elem(&namespaces, &cookie);
	if (!namespace)
		return tw_note_guest(settings, bpf_get_socket_cookie(ctx));
	c = bpf_sk_storage_get(&sockets, ctx, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!c)
		return 1;
	tw_current_owner(&owner);
	cookie = bpf_get_socket_cookie(ctx);
	__builtin_memcpy(&c->owner, &owner, sizeof(owner));
	c->namespace = *namespace;
	c->cookie = cookie;
	c->flags = TW_MARKER | TW_RAW;
	/* where there is no room its packets are not held, and the gate has the last word on them */
	tw_note_maker(cookie, &owner);
	return 1;
}

SEC("cgroup/post_bind4")
int tw_bind4(struct bpf_sock *ctx)
{
	__u32 address[4] = { ctx->src_ip4 };

	return tw_bind(ctx, address);
}

SEC("cgroup/post_bind6")
int tw_bind6(struct bpf_sock *ctx)
{
	__u32 address[4] = { ctx->src_ip6[0], ctx->src_ip6[1], ctx->src_ip6[2], ctx->src_ip6[3] };

	return tw_bind(ctx, address);
}

SEC("cgroup/sock_release")
int tw_release(struct bpf_sock *ctx)
{
	struct tw_connection *c = bpf_sk_storage_get(&sockets, ctx, 0, 0), *asked;
	struct tw_config *settings = tw_config();
	struct tw_flow_key key;
	__u64 cookie;

	if (!settings)
		return 1;
	if (!c) { /* adopted, and silent since; or a guest's */
		struct tw_connection gone = { .cookie = bpf_get_socket_cookie(ctx) };

		cookie = gone.cookie;
		bpf_map_delete_elem(&pending, &cookie);
		if (!bpf_map_delete_elem(&makers, &cookie))
			tw_emit(TW_EVENT_RELEASED, &gone);
		return 1;
	}
	cookie = c->cookie;
	tw_wait_no_more(ctx, cookie);
	if (c->protocol == IPPROTO_TCP && !(c->flags & TW_ADOPTED))
		return 1; /* its end is TCP_CLOSE, which may come later: stream.bpf.c */
	c->home = TW_HOME_RELEASED;
	asked = bpf_map_lookup_elem(&pending, &cookie);
	if (!(c->flags & TW_CONNECTED)) {
		bpf_map_delete_elem(&makers, &cookie);
		if (settings->events || (c->flags & TW_MARKER))
			tw_emit(TW_EVENT_RELEASED, c);
	} else if (c->protocol == IPPROTO_UDP && asked && asked->opened == c->opened && (asked->flags & TW_REPORTED) &&
		   (tw_is_temporary(asked->verdict) || !(c->flags & TW_REPORTED))) {
		/* Python has a packet of it, or one is on its way to the gate: the answer is still wanted, and Python clears it
		 * away. What was asked about and refused has never passed the gate: its ends are known to the question alone. */
		asked->home = TW_HOME_RELEASED;
		asked->sent = c->sent;
		asked->received = c->received;
		tw_emit(TW_EVENT_ENDED, asked);
		return 1;
	} else {
		if (c->flags & TW_REGISTERED) {
			tw_key_by_addresses(&key, c);
			bpf_map_delete_elem(&flows, &key);
		}
		if ((c->flags & TW_REPORTED) && !(c->flags & TW_OWN))
			tw_emit(TW_EVENT_ENDED, c);
	}
	bpf_map_delete_elem(&pending, &cookie);
	return 1;
}
