/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * A packet at the gate, as far as its headers tell.
 */
#ifndef TIDEWAITER_SIGHT_H
#define TIDEWAITER_SIGHT_H

#include "other.h"

/* What a packet says of itself. */
struct tw_sight {
	struct tw_connection ends;
	__u32 payload;  /* bytes */
	__u8 tcp_flags;
	__u8 routed;    /* it names the hops of its way (RFC 791 §3.1, RFC 8754 §2) */
	__u8 control;   /* it keeps the network itself going: other.h */
};

#define TW_IPV4_PLAIN 0x45 /* version 4, no options */
#define TW_LOOSE_ROUTE 131
#define TW_STRICT_ROUTE 137

/* Whether a packet names the hops of its way: it goes elsewhere than its socket then. The bytes between the IP header and the
 * transport's are options or extension headers. */
__noinline int tw_is_routed(struct __sk_buff *skb, __u32 version, __u32 transport)
{
	__u32 at = version == 4 ? 20 : 40;
	__u8 next = 0, start[2];

	if (version == 6 && bpf_skb_load_bytes(skb, 6, &next, 1))
		return 1;
	for (int i = 0; i < 40 && at < transport; i++) {
		if (bpf_skb_load_bytes(skb, at, start, 2))
			return 1; /* what cannot be read could be anything */
		if (version == 6) {
			if (next == TW_ROUTING)
				return 1;
			at += tw_extension_size(next, start[1]);
			next = start[0];
		} else {
			if (start[0] == TW_LOOSE_ROUTE || start[0] == TW_STRICT_ROUTE)
				return 1;
			if (start[0] == 0) /* the end of the options */
				return 0;
			at += start[0] == 1 ? 1 : start[1]; /* padding has no length */
		}
	}
	return at < transport;
}

/* A function of its own, so that the headers leave the stack again. Returns 0 for what we have nothing to say about. */
__noinline int tw_see(struct __sk_buff *skb, struct tw_sight *sight, int incoming)
{
	struct tw_headers h;

	if (!sight || tw_parse_headers(skb, &h) || (h.flags & TW_LATER_FRAGMENT))
		return 0; /* what the kernel would throw away itself */
	tw_ends(&sight->ends, &h, incoming);
	sight->payload = h.length > h.payload ? h.length - h.payload : 0;
	sight->tcp_flags = h.tcp_flags;
	sight->control = tw_is_control(skb, &h);
	sight->routed = !incoming && h.transport != (h.version == 4 ? 20 : 40) && tw_is_routed(skb, h.version, h.transport);
	return 1;
}

#endif
