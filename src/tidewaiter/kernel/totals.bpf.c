/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Layer: stream data. An iterator that writes out every connection that lives in a socket, with its totals so far; and the way from
 * user space into a socket's storage.
 */
#include "maps.h"
#include "tcp.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct seq_file;
struct bpf_iter_meta {
	struct seq_file *seq;
};
struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	struct sock *sk;
	void *value;
};
#pragma clang attribute pop

SEC("iter/bpf_sk_storage_map")
int tw_totals(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct tw_connection *value = ctx->value, c;
	struct tw_config *settings = tw_config();
	struct sock *sk = ctx->sk;
	struct tcp_sock *tcp;

	if (!sk || !value)
		return 0;
	__builtin_memcpy(&c, value, sizeof(c));
	if (!(c.flags & TW_CONNECTED))
		return 0;
	if (settings && settings->renew && settings->renew == c.cookie)
		value->epoch = settings->epoch - 1; /* the gate will look for the answer that is there for it */
	tcp = (void *)bpf_skc_to_tcp_sock(sk);
	if (tcp)
		tw_tcp_totals(&c, tcp);
	bpf_seq_write(seq, &c, sizeof(c));
	return 0;
}
