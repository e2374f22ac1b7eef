/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Layer: stream data. An iterator that writes out every connection that lives in a socket, with its totals so far; and the way from
 * user space into a socket's storage.
 */
#include "flow.h"
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

/* A new answer for a connection that is decided already, in `pending`. The gate may have taken it over before: the same
 * is done here, for it looks there only while it has no verdict that lets packets pass. */
static __always_inline void tw_renew(const struct tw_config *settings, struct tw_connection *c)
{
	__u64 cookie = c->cookie;
	struct tw_connection *answer = bpf_map_lookup_elem(&pending, &cookie);

	if (!tw_is_answer(answer, settings, c))
		return;
	tw_take(c, answer);
	if (!tw_stays(c->verdict))
		bpf_map_delete_elem(&pending, &cookie);
}

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
		tw_renew(settings, value);
	tcp = (void *)bpf_skc_to_tcp_sock(sk);
	if (tcp)
		tw_tcp_totals(&c, tcp);
	bpf_seq_write(seq, &c, sizeof(c));
	return 0;
}
