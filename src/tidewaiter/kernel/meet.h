/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Datagrams that come in for a socket of which the kernel half has not known that it waits there.
 */
#ifndef TIDEWAITER_MEET_H
#define TIDEWAITER_MEET_H

#include "adopt.h"
#include "listener.h"

/* Older kernels cannot say which namespace a packet without an owner is in. */
const volatile __u8 tw_packet_has_namespace = 0;

/* Something came in that must be asked about, and was not: nobody is known to wait there, since the socket has its port
 * from the kernel. From now on it is known; this packet is dropped, and the next one is held. */
__noinline int tw_wait_here(struct __sk_buff *skb, struct tw_connection *c, struct tw_connection *seen)
{
	struct tw_listener_key place = { .protocol = IPPROTO_UDP };
	struct tw_listener listener = { };
	struct bpf_sock *sk = skb->sk;

	if (!sk || !c || !seen || tw_find_listener(seen->namespace, seen))
		return 0;
	listener.cookie = c->cookie;
	place.namespace = seen->namespace;
	place.port = seen->local_port;
	place.family = seen->family;
	__builtin_memcpy(place.address, seen->local, 16);
	__builtin_memcpy(&listener.owner, &c->owner, sizeof(listener.owner));
	tw_listen(sk, &place, &listener);
	return 1;
}

/* A datagram for a socket that has waited since before us, and has not been seen yet: it gets its storage, and the owner that
 * Python has found. */
__noinline int tw_meet(struct __sk_buff *skb, struct tw_connection *seen)
{
	struct bpf_sock *sk = skb->sk;
	struct tw_listener *listener;
	struct tw_connection *c;
	__u64 cookie;
	__u32 *namespace;

	if (!tw_packet_has_namespace || !sk || !seen)
		return 0;
	cookie = bpf_get_netns_cookie(skb);
	namespace = bpf_map_lookup_elem(&namespaces, &cookie);
	if (!namespace)
		return 0;
	listener = tw_find_listener(*namespace, seen);
	cookie = bpf_get_socket_cookie(skb);
	if (!listener || listener->cookie != cookie)
		return 0;
	c = tw_storage(sk, cookie);
	if (!c)
		return 0;
	__builtin_memcpy(&c->owner, &listener->owner, sizeof(c->owner));
	c->namespace = *namespace;
	c->cookie = cookie;
	c->protocol = IPPROTO_UDP;
	c->local_port = seen->local_port;
	return 1;
}

#endif
