/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * What connect and sendmsg share: the peer of a socket address, and how a connection begins.
 */
#ifndef TIDEWAITER_PEER_H
#define TIDEWAITER_PEER_H

#include "flow.h"
#include "policy.h"

/* In the observe objects every hook returns 1, whatever was found: they cannot refuse anything. */
#ifdef OBSERVE
#define TW_ENFORCED(verdict) ((void)(verdict), 1)
#else
#define TW_ENFORCED(verdict) (verdict)
#endif

/* When a connection cannot even be remembered, it goes on only if the user chose `fail = "open"`. */
static __always_inline int tw_no_room(const struct tw_config *settings)
{
	return settings->fail_open != 0;
}

/* The remote address of an IPv6 socket; an IPv4-mapped one is the IPv4 connection that it will be. */
static __always_inline void tw_peer6(struct tw_connection *want, struct bpf_sock_addr *ctx)
{
	__u32 address[4] = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] };

	if (tw_is_mapped(address)) {
		want->family = 4;
		*(__u32 *)want->remote = address[3];
	} else {
		want->family = 6;
		__builtin_memcpy(want->remote, address, 16);
	}
}

/* Decides a new connection in its program's context, and puts it into the socket. Returns 0 to refuse. A datagram is asked
 * about here, TCP once its SYN is certain: stream.bpf.c. */
static __always_inline int tw_begin(struct tw_config *settings, struct tw_connection *c, struct tw_connection *want)
{
	want->home = TW_HOME_SOCKET;
	want->flags = TW_CONNECTED;
	tw_decide(want, 0);
	if (want->verdict == TW_PERMANENT_BLOCK && settings->enforce) {
		tw_count(TW_COUNT_REFUSED);
		tw_report(settings, want);
		want->home = 0; /* as if it had not happened */
		want->flags = 0;
		__builtin_memcpy(c, want, sizeof(*c));
		return 0;
	}
	if (want->verdict == TW_UNDECIDED && settings->enforce && want->protocol == IPPROTO_UDP && !tw_ask(want))
		return tw_no_room(settings);
	/* TCP is reported once both ports are known, datagrams with their first packet */
	__builtin_memcpy(c, want, sizeof(*c));
	return 1;
}

#endif
