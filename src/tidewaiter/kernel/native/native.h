/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TIDEWAITER_NATIVE_H
#define TIDEWAITER_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <linux/types.h>

/* What names a connection, as struct tw_connection has it: number of the namespace, local and remote address
 * seen from this host, family, protocol, local port, remote port. */
#define FLOW_SIZE 42

PyObject *native_parse(PyObject *self, PyObject *args);
PyObject *native_receive(PyObject *self, PyObject *args);
PyObject *native_answer(PyObject *self, PyObject *args);
PyObject *native_drain(PyObject *self, PyObject *args);
PyObject *native_hear(PyObject *self, PyObject *args);
PyObject *native_put(PyObject *self, PyObject *args);
PyObject *native_remember(PyObject *self, PyObject *args);
PyObject *native_connection(PyObject *self, PyObject *args);

/* BPF_MAP_UPDATE_ELEM: 0, or -1 and errno */
int update_map(int fd, const void *key, const void *value, int flags);

/* 0, or -1 for a packet that is malformed or a later fragment */
int flow_of(const void *packet, size_t size, __u32 namespace, int incoming, unsigned char *flow);

#endif
