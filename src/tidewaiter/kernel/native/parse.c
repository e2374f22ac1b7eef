/* SPDX-License-Identifier: Apache-2.0
 *
 * The header parser of the eBPF programs (headers.h), in user space. Twin: tidewaiter.model.packet.
 */
#include "native.h"
#include <string.h>

struct packet {
	const unsigned char *data;
	size_t size;
};
#define TW_PACKET const struct packet *

static inline int tw_load(TW_PACKET packet, __u32 offset, void *to, __u32 size)
{
	if (offset > packet->size || size > packet->size - offset)
		return -1;
	memcpy(to, packet->data + offset, size);
	return 0;
}

#include "../headers.h"

int flow_of(const void *data, size_t size, __u32 namespace, int incoming, unsigned char *flow)
{
	struct packet packet = { data, size };
	struct tw_headers h;
	__u16 local, remote;

	if (tw_parse_headers(&packet, &h) || (h.flags & TW_LATER_FRAGMENT))
		return -1;
	local = incoming ? h.destination_port : h.source_port;
	remote = incoming ? h.source_port : h.destination_port;
	memcpy(flow, &namespace, 4);
	memcpy(flow + 4, incoming ? h.destination : h.source, 16);
	memcpy(flow + 20, incoming ? h.source : h.destination, 16);
	flow[36] = h.version;
	flow[37] = h.protocol;
	memcpy(flow + 38, &local, 2);
	memcpy(flow + 40, &remote, 2);
	return 0;
}

PyObject *native_parse(PyObject *self, PyObject *args)
{
	struct tw_headers h;
	struct packet packet;
	Py_buffer buffer;
	int failed;

	if (!PyArg_ParseTuple(args, "y*:parse", &buffer))
		return NULL;
	packet.data = buffer.buf;
	packet.size = buffer.len;
	failed = tw_parse_headers(&packet, &h);
	PyBuffer_Release(&buffer);
	if (failed) {
		PyErr_SetString(PyExc_ValueError, "not an IP packet with whole headers");
		return NULL;
	}
	return Py_BuildValue("BBBBHHHHIy#y#", h.version, h.protocol, h.flags, h.tcp_flags, h.transport, h.payload,
			     h.source_port, h.destination_port, h.length, h.source, (Py_ssize_t)16, h.destination,
			     (Py_ssize_t)16);
}
