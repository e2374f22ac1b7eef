/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * What a TCP connection has carried, from the kernel's own counters (RFC 4898, include/linux/tcp.h).
 */
#ifndef TIDEWAITER_TCP_H
#define TIDEWAITER_TCP_H

#include "maps.h"

#define SOCK_DONE 1 /* enum sock_flags: a FIN has come in */

static __always_inline void tw_tcp_totals(struct tw_connection *c, struct tcp_sock *tcp)
{
	__u64 received = tcp->bytes_received;
	struct tw_config *settings = tw_config();

	if (!settings || settings->uncounted)
		return;

	c->sent = tcp->bytes_sent - tcp->bytes_retrans;
	/* a FIN takes a sequence number, and the kernel counts it as a byte */
	if (received && (((struct sock *)tcp)->__sk_common.skc_flags >> SOCK_DONE & 1))
		received -= 1;
	c->received = received;
}

#endif
