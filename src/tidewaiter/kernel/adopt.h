/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Sockets that were open before us: Python has left their connections in `pending`.
 */
#ifndef TIDEWAITER_ADOPT_H
#define TIDEWAITER_ADOPT_H

#include "maps.h"

static __always_inline struct tw_connection *tw_adopted(__u64 cookie)
{
	struct tw_connection *known = bpf_map_lookup_elem(&pending, &cookie);

	return known && (known->flags & TW_ADOPTED) ? known : NULL;
}

/* The storage of a socket, with what it was before us. */
static __always_inline struct tw_connection *tw_storage(void *socket, __u64 cookie)
{
	struct tw_connection *c = bpf_sk_storage_get(&sockets, socket, 0, 0), *known;

	if (c)
		return c;
	c = bpf_sk_storage_get(&sockets, socket, 0, BPF_SK_STORAGE_GET_F_CREATE);
	known = c ? tw_adopted(cookie) : NULL;
	if (known)
		__builtin_memcpy(c, known, sizeof(*c));
	return c;
}

#endif
