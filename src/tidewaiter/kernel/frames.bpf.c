/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Layer: MAC frame. What programs send and receive by packet sockets (AF_PACKET) never comes by the hold or the gate: it is
 * counted, and its program named. At two tracepoints behind sendmsg(2) and recvmsg(2), which nothing goes by more
 * often than once a system call, whatever became of packets. They refuse nothing.
 */
#include "owner.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define MSG_PEEK 2

/* The control group that is guarded. */
struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, 4);
} scope SEC(".maps");

static __always_inline void tw_new_packet_socket(struct sock *sk, __u64 inode)
{
	struct tw_connection c = { .direction = TW_OUT, .cookie = inode };
	__u64 cookie = sk->__sk_common.skc_net.net->net_cookie;
	__u32 *namespace = bpf_map_lookup_elem(&namespaces, &cookie);

	if (!namespace)
		return;
	tw_current_owner(&c.owner);
	c.namespace = *namespace;
	c.opened = bpf_ktime_get_ns();
	if (bpf_map_update_elem(&packet_sockets, &inode, &c, BPF_NOEXIST))
		tw_count(TW_COUNT_PACKET_SOCKETS_FULL);
}

static __always_inline int tw_moved(struct sock *sk, int bytes, int incoming)
{
	struct packet_sock *packet = (void *)sk;
	struct tw_connection *c;
	__u64 inode;

	if (sk->__sk_common.skc_family != AF_PACKET || bpf_current_task_under_cgroup(&scope, 0) != 1)
		return 0;
	inode = BPF_CORE_READ(sk, sk_socket, file, f_inode, i_ino);
	c = bpf_map_lookup_elem(&packet_sockets, &inode);
	if (!c) {
		tw_new_packet_socket(sk, inode);
		c = bpf_map_lookup_elem(&packet_sockets, &inode);
	}
	if (!c)
		return 0;
	if (bpf_core_field_exists(packet->ifindex)) /* else they are in a module, and Python looks */
		*(__u32 *)c->local = BPF_CORE_READ(packet, ifindex);
	if (bytes > 0)
		__sync_fetch_and_add(incoming ? &c->received : &c->sent, bytes);
	return 0;
}

SEC("tp_btf/sock_send_length")
int tw_frames_sent(__u64 *ctx)
{
	return tw_moved((void *)ctx[0], ctx[1], 0);
}

SEC("tp_btf/sock_recv_length")
int tw_frames_received(__u64 *ctx)
{
	return ctx[2] & MSG_PEEK ? 0 : tw_moved((void *)ctx[0], ctx[1], 1);
}
