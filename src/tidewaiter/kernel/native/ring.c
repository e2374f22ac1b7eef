/* SPDX-License-Identifier: Apache-2.0
 *
 * Events out of an eBPF ring buffer, and entries into an eBPF map. Twins: tidewaiter.kernel.ring and
 * tidewaiter.kernel.maps.
 */
#include "native.h"
#include "../types.h"
#include <assert.h>
#include <errno.h>
#include <linux/bpf.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static_assert(offsetof(struct tw_connection, home) - offsetof(struct tw_connection, namespace) == FLOW_SIZE,
	      "the flow is from `namespace` to `remote_port`");

/* A ring buffer that is being read. */
struct reader {
	unsigned long *position, consumer, producer, mask;
	const unsigned char *data;
	int limit;
};

static struct reader reader_of(const Py_buffer *control, const Py_buffer *ring, int limit)
{
	return (struct reader){
		.position = control->buf,
		.consumer = *(unsigned long *)control->buf,
		.producer = __atomic_load_n((unsigned long *)ring->buf, __ATOMIC_ACQUIRE),
		.mask = (ring->len - getpagesize()) / 2 - 1, /* the data pages are mapped twice in a row */
		.data = (const unsigned char *)ring->buf + getpagesize(),
		.limit = limit,
	};
}

/* The next record that is not discarded, or NULL. Those before it are the kernel's again. */
static const unsigned char *next_record(struct reader *reader, __u32 *size)
{
	for (;;) {
		const unsigned char *record = reader->data + (reader->consumer & reader->mask);
		__u32 length;

		if (*reader->position != reader->consumer)
			__atomic_store_n(reader->position, reader->consumer, __ATOMIC_RELEASE);
		if (reader->limit-- <= 0 || reader->consumer >= reader->producer)
			return NULL;
		length = __atomic_load_n((const __u32 *)record, __ATOMIC_ACQUIRE);
		if (length & BPF_RINGBUF_BUSY_BIT)
			return NULL; /* still being written */
		*size = length & ~BPF_RINGBUF_DISCARD_BIT;
		reader->consumer += (*size + BPF_RINGBUF_HDR_SZ + 7) & ~7UL;
		if (!(length & BPF_RINGBUF_DISCARD_BIT))
			return record + BPF_RINGBUF_HDR_SZ;
	}
}

static int append(PyObject *list, const void *data, size_t size)
{
	PyObject *item = PyBytes_FromStringAndSize(data, size);
	int failed = !item || PyList_Append(list, item);

	Py_XDECREF(item);
	return failed;
}

PyObject *native_drain(PyObject *self, PyObject *args)
{
	const unsigned char *record;
	struct reader reader;
	Py_buffer control, ring;
	PyObject *list;
	__u32 size;
	int limit;

	if (!PyArg_ParseTuple(args, "w*y*i:drain", &control, &ring, &limit))
		return NULL;
	list = PyList_New(0);
	reader = reader_of(&control, &ring, limit);
	while (list && (record = next_record(&reader, &size))) {
		if (append(list, record, size))
			Py_CLEAR(list);
	}
	PyBuffer_Release(&control);
	PyBuffer_Release(&ring);
	return list;
}

/* Where `hear` puts what it needs no Python for. */
struct places {
	PyObject *held, *sighted, *known;
	int quiet, room;
};

/* Whose a packet is, that is on its way: (struct tw_connection, time) under its flow. */
static int keep(PyObject *held, PyObject *flow, const struct tw_event *event)
{
	PyObject *item = Py_BuildValue("y#K", &event->connection, (Py_ssize_t)sizeof(event->connection),
				       (unsigned long long)event->time);
	int failed = !item || PyDict_SetItem(held, flow, item);

	Py_XDECREF(item);
	return failed ? -1 : 1;
}

/* 1: an event is in its place. 0: Python has to look at it. -1: an exception is set. */
static int place(const struct tw_event *event, const struct places *places)
{
	PyObject *flow = PyBytes_FromStringAndSize((const char *)&event->connection.namespace, FLOW_SIZE);
	int result = 0, before = flow ? PyDict_Contains(places->sighted, flow) : -1;

	if (before < 0) {
		result = -1;
	} else if (event->kind == TW_EVENT_ENDED) {
		if (before && places->quiet && event->connection.home != TW_HOME_RELEASED)
			result = PyDict_DelItem(places->sighted, flow) ? -1 : 1;
	} else if (!before && PyDict_Size(places->held) < places->room) {
		before = PyDict_Contains(places->known, flow);
		if (!before)
			before = PyDict_Contains(places->held, flow);
		result = before ? -(before < 0) : keep(places->held, flow, event);
	}
	Py_XDECREF(flow);
	return result;
}

PyObject *native_hear(PyObject *self, PyObject *args)
{
	int limit, ordered = 0, placed;
	const unsigned char *record;
	struct places places;
	struct reader reader;
	Py_buffer control, ring;
	PyObject *rest;
	__u32 size;

	if (!PyArg_ParseTuple(args, "w*y*iO!O!O!pi:hear", &control, &ring, &limit, &PyDict_Type, &places.held,
			      &PyDict_Type, &places.sighted, &PyDict_Type, &places.known, &places.quiet, &places.room))
		return NULL;
	rest = PyList_New(0);
	reader = reader_of(&control, &ring, limit);
	while (rest && (record = next_record(&reader, &size))) {
		const struct tw_event *event = (const void *)record;
		int ours = size == sizeof(*event) && (event->kind == TW_EVENT_HELD || event->kind == TW_EVENT_ENDED);

		placed = ours && !ordered ? place(event, &places) : 0;
		if (placed < 0 || (!placed && append(rest, record, size)))
			Py_CLEAR(rest);
		/* behind a question about addresses that were another's before, all goes to Python in its order */
		ordered |= ours && !placed && event->kind == TW_EVENT_HELD;
	}
	PyBuffer_Release(&control);
	PyBuffer_Release(&ring);
	return rest;
}

int update_map(int fd, const void *key, const void *value, int flags)
{
	union bpf_attr attributes;

	memset(&attributes, 0, sizeof(attributes));
	attributes.map_fd = fd;
	attributes.key = (__u64)(unsigned long)key;
	attributes.value = (__u64)(unsigned long)value;
	attributes.flags = flags;
	return syscall(SYS_bpf, BPF_MAP_UPDATE_ELEM, &attributes, sizeof(attributes)) < 0 ? -1 : 0;
}

PyObject *native_put(PyObject *self, PyObject *args)
{
	Py_ssize_t key_size, value_size;
	const char *key, *value;
	int fd, flags;

	if (!PyArg_ParseTuple(args, "iy#y#i:put", &fd, &key, &key_size, &value, &value_size, &flags))
		return NULL;
	if (update_map(fd, key, value, flags))
		return PyErr_SetFromErrno(PyExc_OSError);
	Py_RETURN_NONE;
}
