/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The one header parser: in the eBPF programs, where it runs for each packet, and in the native module.
 * model/packet.py is the reference and gives the same answer for every input.
 *
 * The file that includes this one has to define before
 *   - the types __u8, __u16 and __u32,
 *   - TW_PACKET, the type of a packet (struct __sk_buff * in an eBPF program),
 *   - tw_load(TW_PACKET packet, __u32 offset, void *to, __u32 size), which copies bytes counted from the
 *     IP header and returns 0, or a negative number if the packet does not have them all.
 */
#ifndef TW_HEADERS_H
#define TW_HEADERS_H

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

#define TW_MALFORMED (-1)
#define TW_MAX_EXTENSIONS 8

enum tw_header_flags {
	TW_FRAGMENT = 1,
	TW_LATER_FRAGMENT = 2,
};

/* IANA protocol numbers: transports and IPv6 extension headers. */
enum tw_protocol {
	TW_HOP_BY_HOP = 0,
	TW_ICMP = 1,
	TW_TCP = 6,
	TW_UDP = 17,
	TW_ROUTING = 43,
	TW_FRAGMENT_HEADER = 44,
	TW_AUTHENTICATION = 51,
	TW_ICMPV6 = 58,
	TW_DESTINATION = 60,
	TW_SCTP = 132,
	TW_MOBILITY = 135,
	TW_HOST_IDENTITY = 139,
	TW_SHIM6 = 140,
};

/*
 * Offsets and lengths are bytes from the start of the IP header. An IPv4 address takes the first four
 * bytes, the others are zero. Ports are in host byte order, 0 where there are none. The length is that
 * of the IP header; it is below payload only where that field is zero (BIG TCP).
 */
struct tw_headers {
	__u8 version, protocol, flags, tcp_flags;
	__u16 transport, payload;
	__u16 source_port, destination_port;
	__u32 length;
	__u8 source[16], destination[16];
};

static __always_inline __u16 tw_be16(const __u8 *at)
{
	return (__u16)(at[0] << 8 | at[1]);
}

/* The bytes of the fixed part of a transport header, 0 for a protocol that is not looked into. */
static __always_inline __u32 tw_header_size(__u8 protocol)
{
	if (protocol == TW_TCP)
		return 20;
	if (protocol == TW_UDP || protocol == TW_ICMP || protocol == TW_ICMPV6)
		return 8;
	return protocol == TW_SCTP ? 12 : 0;
}

/* The bytes of an IPv6 extension header whose second byte is field, 0 for what is none. */
static __always_inline __u32 tw_extension_size(__u8 protocol, __u8 field)
{
	switch (protocol) {
	case TW_HOP_BY_HOP:
	case TW_ROUTING:
	case TW_DESTINATION:
	case TW_MOBILITY:
	case TW_HOST_IDENTITY:
	case TW_SHIM6:
		return 8 * (field + 1u);
	case TW_FRAGMENT_HEADER:
		return 8;
	case TW_AUTHENTICATION:
		return 4 * (field + 2u);
	default:
		return 0;
	}
}

static __always_inline int tw_parse_ipv4(struct tw_headers *h, const __u8 *ip)
{
	__u16 part = tw_be16(ip + 6);

	h->protocol = ip[9];
	h->transport = 4 * (ip[0] & 15);
	h->length = tw_be16(ip + 2);
	if (part & 0x3fff)
		h->flags = part & 0x1fff ? TW_FRAGMENT | TW_LATER_FRAGMENT : TW_FRAGMENT;
	__builtin_memcpy(h->source, ip + 12, 4);
	__builtin_memcpy(h->destination, ip + 16, 4);
	return h->transport < 20 ? TW_MALFORMED : 0;
}

/* Goes from the IPv6 header to the transport's, or to the end of what a later fragment shows. */
static __always_inline int tw_walk_extensions(TW_PACKET packet, struct tw_headers *h, __u8 next)
{
	__u32 offset = 40;
	__u8 start[8];

	for (int walked = 0; tw_extension_size(next, 0) && !(h->flags & TW_LATER_FRAGMENT); walked++) {
		if (walked == TW_MAX_EXTENSIONS || tw_load(packet, offset, start, sizeof(start)) < 0)
			return TW_MALFORMED;
		if (next == TW_FRAGMENT_HEADER) {
			__u16 part = tw_be16(start + 2);

			if (part & 0xfff9)
				h->flags |= TW_FRAGMENT;
			if (part & 0xfff8)
				h->flags |= TW_LATER_FRAGMENT;
		}
		offset += tw_extension_size(next, start[1]);
		next = start[0];
	}
	h->protocol = next;
	h->transport = offset; /* at most 40 + 8 * 2048 */
	return 0;
}

static __always_inline int tw_parse_ipv6(TW_PACKET packet, struct tw_headers *h, const __u8 *ip)
{
	h->length = 40 + tw_be16(ip + 4);
	__builtin_memcpy(h->source, ip + 8, 16);
	__builtin_memcpy(h->destination, ip + 24, 16);
	return tw_walk_extensions(packet, h, ip[6]);
}

/*
 * No header may reach beyond limit. The first 40 bytes of the packet are at known; it is null for a packet
 * that is shorter.
 */
static __always_inline int tw_parse_transport(TW_PACKET packet, struct tw_headers *h, __u32 limit,
					      const __u8 *known)
{
	__u32 size = h->flags & TW_LATER_FRAGMENT ? 0 : tw_header_size(h->protocol);
	__u8 start[20] = {0};

	h->payload = h->transport + size;
	if (h->payload > limit)
		return TW_MALFORMED;
	if (!size) /* the last byte before it proves that the IP headers are whole */
		return tw_load(packet, h->transport - 1, start, 1) < 0 ? TW_MALFORMED : 0;
	if (known && h->transport == 20)
		__builtin_memcpy(start, known + 20, sizeof(start));
	else if (tw_load(packet, h->transport, start, size) < 0)
		return TW_MALFORMED;
	if (h->protocol == TW_ICMP || h->protocol == TW_ICMPV6)
		return 0;
	h->source_port = tw_be16(start);
	h->destination_port = tw_be16(start + 2);
	if (h->protocol != TW_TCP)
		return 0;
	h->tcp_flags = start[13];
	size = 4 * (start[12] >> 4);
	h->payload = h->transport + size;
	return size < 20 || h->payload > limit ? TW_MALFORMED : 0;
}

/* Fills h and returns 0, or returns TW_MALFORMED and leaves h in no particular state. */
static __always_inline int tw_parse_headers(TW_PACKET packet, struct tw_headers *h)
{
	/* One load shows all of IPv4 with TCP or UDP, or the IPv6 header; only tiny packets take another. */
	__u8 start[40] = {0};
	const __u8 *known = tw_load(packet, 0, start, 40) < 0 ? 0 : start;
	__u32 said;

	if (!known && tw_load(packet, 0, start, 20) < 0)
		return TW_MALFORMED;
	*h = (struct tw_headers){.version = start[0] >> 4};
	if (h->version == 4) {
		if (tw_parse_ipv4(h, start) < 0)
			return TW_MALFORMED;
		said = h->length;
	} else if (h->version == 6 && known) {
		if (tw_parse_ipv6(packet, h, start) < 0)
			return TW_MALFORMED;
		said = h->length - 40;
	} else {
		return TW_MALFORMED;
	}
	return tw_parse_transport(packet, h, said ? h->length : ~0u, known);
}

#endif
