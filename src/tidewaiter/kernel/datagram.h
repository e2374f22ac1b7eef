/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * A datagram socket and whom it writes to: connect() and sendmsg() lead here.
 *
 * The storage of a socket is its connection to the first peer, and stays so for good: most have no other. As soon as
 * there is a second one, each peer is a flow of its own in map `flows`, whatever the socket does later. So no
 * packet on its way can meet the verdict of another peer.
 */
#ifndef TIDEWAITER_DATAGRAM_H
#define TIDEWAITER_DATAGRAM_H

#include "adopt.h"
#include "guest.h"
#include "peer.h"

/* From now on the socket has peers; what it was becomes a flow. */
static __always_inline void tw_demote(const struct tw_config *settings, struct tw_connection *c)
{
	int was_one = c->flags & TW_CONNECTED;
	struct tw_connection *answer;
	__u64 cookie = c->cookie;
	struct tw_flow_key key;

	c->flags = (c->flags & ~TW_CONNECTED) | TW_MARKER;
	c->home = TW_HOME_PEER;
	if (!was_one)
		return;
	answer = bpf_map_lookup_elem(&pending, &cookie);
	if (tw_is_answer(answer, settings, c))
		tw_take(c, answer);
	tw_key_by_peer(&key, c);
	bpf_map_update_elem(&flows, &key, c, BPF_ANY);
	if (c->verdict == TW_UNDECIDED && settings->enforce)
		bpf_map_update_elem(&pending, &cookie, c, BPF_ANY);
	else if (answer)
		bpf_map_delete_elem(&pending, &cookie);
}

/* One of many peers. */
static __always_inline int tw_to_flow(struct tw_config *settings, struct tw_connection *want)
{
	struct tw_connection *flow;
	struct tw_flow_key key;

	tw_key_by_peer(&key, want);
	flow = bpf_map_lookup_elem(&flows, &key);
	if (flow && flow->epoch == settings->epoch)
		return flow->verdict != TW_PERMANENT_BLOCK;
	want->home = TW_HOME_PEER;
	want->direction = TW_OUT;
	if (flow) { /* a new policy: whose it is, and what it carried, stays */
		__builtin_memcpy(&want->owner, &flow->owner, sizeof(want->owner));
		want->direction = flow->direction;
		want->opened = flow->opened;
		want->sent = flow->sent;
		want->received = flow->received;
		__builtin_memcpy(want->local, flow->local, 16);
		want->flags = flow->flags & (TW_REPORTED | TW_REGISTERED);
	}
	tw_decide(want, 0);
	if (want->verdict == TW_PERMANENT_BLOCK && settings->enforce) {
		tw_count(TW_COUNT_REFUSED);
		tw_report(settings, want);
	}
	if (bpf_map_update_elem(&flows, &key, want, BPF_ANY))
		return tw_no_room(settings);
	if (want->verdict == TW_UNDECIDED && settings->enforce) {
		want->flags |= TW_MARKER;
		if (!tw_ask(want))
			return tw_no_room(settings);
	}
	return want->verdict != TW_PERMANENT_BLOCK;
}

/* The peer of the socket again. */
static __always_inline int tw_to_same(struct tw_config *settings, struct tw_connection *c)
{
	__u64 cookie = c->cookie;

	if (c->epoch == settings->epoch)
		return c->verdict != TW_PERMANENT_BLOCK;
	tw_decide(c, c->flags & TW_REGISTERED); /* a new policy */
	if (c->verdict != TW_UNDECIDED)
		bpf_map_delete_elem(&pending, &cookie);
	else if (settings->enforce && !tw_ask(c))
		return tw_no_room(settings);
	return c->verdict != TW_PERMANENT_BLOCK;
}

/* Whether the current task is who it was: not another process, nor the same after exec, setuid, or in another cgroup. */
static __always_inline int tw_is_current(const struct tw_owner *owner)
{
	struct task_struct *task = (void *)bpf_get_current_task_btf();
	__u64 ids = bpf_get_current_uid_gid();

	return owner->pid == bpf_get_current_pid_tgid() >> 32 && owner->image == (__u32)task->self_exec_id &&
	       owner->uid == (__u32)ids && owner->gid == ids >> 32 && owner->cgroup == bpf_get_current_cgroup_id();
}

/* The program writes, or will write, to want->remote. Returns 0 to refuse. */
__noinline int tw_to_peer(struct bpf_sock_addr *ctx, struct tw_connection *want)
{
	struct tw_config *settings = tw_config();
	__u64 cookie = bpf_get_netns_cookie(ctx);
	__u32 *namespace = bpf_map_lookup_elem(&namespaces, &cookie);
	struct tw_connection *c;
	const __u64 *remote;
	int first;

	if (!want)
		return 0;
	if (settings && !namespace)
		return tw_note_guest(settings, bpf_get_socket_cookie(ctx));
	if (!settings || !ctx->sk || ctx->protocol != IPPROTO_UDP)
		return 1;
	c = tw_storage(ctx->sk, bpf_get_socket_cookie(ctx));
	if (!c)
		return tw_no_room(settings);
	want->remote_port = bpf_ntohs((__u16)ctx->user_port);
	remote = (const __u64 *)want->remote;
	if ((c->flags & TW_CONNECTED) && tw_same_remote(c, want))
		return tw_to_same(settings, c);
	/* whoever writes to a new peer is asked about it, whosever the socket was */
	if (tw_is_current(&c->owner))
		__builtin_memcpy(&want->owner, &c->owner, sizeof(want->owner));
	else
		tw_current_owner(&want->owner);
	want->namespace = *namespace;
	want->cookie = bpf_get_socket_cookie(ctx);
	want->protocol = ctx->protocol;
	want->local_port = ctx->sk->src_port;
	want->opened = want->used = bpf_ktime_get_ns();
	want->direction = TW_OUT;
	first = !c->home && (remote[0] || remote[1]);
	if (!first)
		tw_demote(settings, c);
	__builtin_memcpy(&c->owner, &want->owner, sizeof(c->owner));
	c->namespace = want->namespace;
	c->cookie = want->cookie;
	c->protocol = want->protocol;
	if (first)
		return tw_begin(settings, c, want);
	if (!remote[0] && !remote[1])
		return 1; /* the kernel takes the unspecified address for one of this host: the gate will see which */
	return tw_to_flow(settings, want);
}

#endif
