/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * What programs and resolvers say to each other is copied for Python, which learns the names of addresses from it. The
 * packet goes on meanwhile: an answer is in the ring before the program that asked can see it, so that its name is known
 * when the program connects to the address.
 */
#ifndef TIDEWAITER_TEXT_H
#define TIDEWAITER_TEXT_H

#include "guest.h"

#define TW_RESOLVER 53
#define TW_PIECES 43 /* of the largest packet there is: 65,535 / TW_PIECE, and one more */

/* A packet while its pieces are copied. */
struct tw_telling {
	struct __sk_buff *skb;
	const struct tw_headers *headers;
	const struct tw_connection *of; /* NULL: known by its ends and by `owner` alone */
	const struct tw_owner *owner;   /* NULL: nobody knows whose it is */
	__u32 whole, sequence, incoming, namespace, direction;
};

/* 1 ends the loop. */
static long tw_tell_piece(__u32 turn, struct tw_telling *telling)
{
	__u32 at = turn * TW_PIECE, length;
	struct tw_text *text;
	__u64 last;

	if (turn && at >= telling->whole)
		return 1;
	text = bpf_ringbuf_reserve(&texts, sizeof(*text), 0);
	if (!text) {
		tw_count(TW_COUNT_TEXTS_LOST);
		return 1;
	}
	__builtin_memset(text, 0, sizeof(*text) - TW_PIECE);
	if (telling->of)
		__builtin_memcpy(&text->connection, telling->of, sizeof(text->connection));
	else if (telling->owner)
		__builtin_memcpy(&text->connection.owner, telling->owner, sizeof(text->connection.owner));
	if (!telling->of) {
		text->connection.namespace = telling->namespace;
		text->connection.direction = telling->direction;
	}
	tw_ends(&text->connection, telling->headers, telling->incoming);
	text->sequence = telling->sequence;
	text->whole = telling->whole;
	text->incoming = telling->incoming;
	text->tcp_flags = telling->headers->tcp_flags;
	text->at = at;
	length = telling->whole - at;
	if (length > TW_PIECE)
		length = TW_PIECE;
	text->length = length;
	last = length - 1ULL;
	asm volatile("%[last] &= 2047" : [last] "+r"(last)); /* what the verifier knows of it must be in this one register */
	if (last < TW_PIECE && length && bpf_skb_load_bytes(telling->skb, telling->headers->payload + at, text->bytes, last + 1))
		text->length = 0;
	bpf_ringbuf_submit(text, BPF_RB_NO_WAKEUP);
	return 0;
}

/* All of a packet. Of TCP without payload only SYN says anything: where the stream begins. */
static __always_inline void tw_tell_pieces(struct tw_telling *telling, const struct tw_headers *h)
{
	__u32 sequence = 0;

	telling->headers = h;
	telling->whole = h->length > h->payload ? h->length - h->payload : 0;
	if (h->protocol == IPPROTO_TCP && !bpf_skb_load_bytes(telling->skb, h->transport + 4, &sequence, 4))
		telling->sequence = bpf_ntohl(sequence);
	if (telling->whole || (h->tcp_flags & TCP_SYN))
		bpf_loop(TW_PIECES, tw_tell_piece, telling, 0);
}

/* Of a connection to a resolver, or of a guest's. */
static __always_inline int tw_tell_of_socket(struct __sk_buff *skb, int incoming)
{
	struct tw_telling telling = { .skb = skb, .incoming = incoming, .namespace = TW_GUESTS };
	struct bpf_sock *sk = skb->sk;
	struct tw_headers h;
	__u64 cookie;

	if (!sk || tw_parse_headers(skb, &h) || (h.flags & TW_LATER_FRAGMENT))
		return 0;
	telling.of = bpf_sk_storage_get(&sockets, sk, 0, 0);
	if (!telling.of) {
		cookie = bpf_get_socket_cookie(skb);
		telling.owner = bpf_map_lookup_elem(&makers, &cookie);
		if (!telling.owner)
			return 0;
	}
	tw_tell_pieces(&telling, &h);
	return 0;
}

#endif
