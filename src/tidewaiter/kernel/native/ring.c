/* SPDX-License-Identifier: Apache-2.0
 *
 * Events out of an eBPF ring buffer, and entries into an eBPF map. Twins: tidewaiter.kernel.ring and
 * tidewaiter.kernel.maps.
 */
#include "native.h"
#include <errno.h>
#include <linux/bpf.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

PyObject *native_drain(PyObject *self, PyObject *args)
{
	unsigned long consumer, producer, mask;
	const unsigned char *data;
	Py_buffer control, ring;
	PyObject *list = NULL;
	int limit;

	if (!PyArg_ParseTuple(args, "w*y*i:drain", &control, &ring, &limit))
		return NULL;
	list = PyList_New(0);
	mask = (ring.len - getpagesize()) / 2 - 1; /* the data pages are mapped twice in a row */
	data = (const unsigned char *)ring.buf + getpagesize();
	consumer = *(unsigned long *)control.buf;
	producer = __atomic_load_n((unsigned long *)ring.buf, __ATOMIC_ACQUIRE);
	while (list && limit-- > 0 && consumer < producer) {
		const unsigned char *record = data + (consumer & mask);
		__u32 length = __atomic_load_n((const __u32 *)record, __ATOMIC_ACQUIRE);
		__u32 size = length & ~(BPF_RINGBUF_BUSY_BIT | BPF_RINGBUF_DISCARD_BIT);

		if (length & BPF_RINGBUF_BUSY_BIT)
			break; /* still being written */
		if (!(length & BPF_RINGBUF_DISCARD_BIT)) {
			PyObject *item = PyBytes_FromStringAndSize((const char *)record + BPF_RINGBUF_HDR_SZ, size);
			if (!item || PyList_Append(list, item))
				Py_CLEAR(list);
			Py_XDECREF(item);
		}
		consumer += (size + BPF_RINGBUF_HDR_SZ + 7) & ~7UL;
		__atomic_store_n((unsigned long *)control.buf, consumer, __ATOMIC_RELEASE);
	}
	PyBuffer_Release(&control);
	PyBuffer_Release(&ring);
	return list;
}

PyObject *native_put(PyObject *self, PyObject *args)
{
	union bpf_attr attributes;
	Py_ssize_t key_size, value_size;
	const char *key, *value;
	int fd, flags;

	if (!PyArg_ParseTuple(args, "iy#y#i:put", &fd, &key, &key_size, &value, &value_size, &flags))
		return NULL;
	memset(&attributes, 0, sizeof(attributes));
	attributes.map_fd = fd;
	attributes.key = (__u64)(unsigned long)key;
	attributes.value = (__u64)(unsigned long)value;
	attributes.flags = flags;
	if (syscall(SYS_bpf, BPF_MAP_UPDATE_ELEM, &attributes, sizeof(attributes)) < 0)
		return PyErr_SetFromErrno(PyExc_OSError);
	Py_RETURN_NONE;
}
