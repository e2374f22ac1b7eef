/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Who waits for what comes in: map `listeners`, by address and port.
 */
#ifndef TIDEWAITER_LISTENER_H
#define TIDEWAITER_LISTENER_H

#include "maps.h"

/* The local address of a socket: an IPv4-mapped one counts as IPv4. */
static __always_inline void tw_listener_address(struct tw_listener_key *key, __u32 socket_family, const __u32 *address)
{
	key->family = 6;
	if (socket_family == AF_INET || (address[0] == 0 && address[1] == 0 && address[2] == bpf_htonl(0xffff))) {
		key->family = 4;
		*(__u32 *)key->address = socket_family == AF_INET ? address[0] : address[3];
	} else {
		__builtin_memcpy(key->address, address, 16);
	}
}

/* A socket waits no more where it has waited. */
static __always_inline void tw_wait_no_more(void *socket, __u64 cookie)
{
	struct tw_listener_key *place = bpf_sk_storage_get(&waiting, socket, 0, 0), key;
	struct tw_listener *listener;

	if (!place)
		return;
	__builtin_memcpy(&key, place, sizeof(key));
	listener = bpf_map_lookup_elem(&listeners, &key);
	if (listener && listener->cookie == cookie)
		bpf_map_delete_elem(&listeners, &key);
}

/* A socket begins to wait at `key`. Of several at the same place (SO_REUSEPORT) the last one speaks for all. */
static __always_inline void tw_listen(void *socket, const struct tw_listener_key *key, const struct tw_listener *listener)
{
	struct tw_listener_key *place;

	tw_wait_no_more(socket, listener->cookie);
	place = bpf_sk_storage_get(&waiting, socket, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!place)
		return; /* nobody could take it away again */
	__builtin_memcpy(place, key, sizeof(*place));
	bpf_map_update_elem(&listeners, key, listener, BPF_ANY);
}

/* Who waits for what comes in at a local end: at this very address, or at every one. A socket of IPv6 that waits
 * at every address takes IPv4 as well. */
static __always_inline struct tw_listener *tw_find_listener(__u32 namespace, const struct tw_connection *c)
{
	struct tw_listener_key key = { .namespace = namespace, .port = c->local_port, .protocol = c->protocol, .family = c->family };
	struct tw_listener *found;

	__builtin_memcpy(key.address, c->local, 16);
	found = bpf_map_lookup_elem(&listeners, &key);
	if (found)
		return found;
	__builtin_memset(key.address, 0, 16);
	found = bpf_map_lookup_elem(&listeners, &key);
	if (found || key.family == 6)
		return found;
	key.family = 6;
	return bpf_map_lookup_elem(&listeners, &key);
}

#endif
