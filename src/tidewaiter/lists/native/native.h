/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TIDEWAITER_LISTS_NATIVE_H
#define TIDEWAITER_LISTS_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#define LONGEST_NAME 253 /* RFC 1035 section 2.3.4, without the dot of the root */
#define LONGEST_LABEL 63

PyObject *native_scan_names(PyObject *self, PyObject *args);
PyObject *native_scan_networks(PyObject *self, PyObject *args);
PyObject *native_index(PyObject *self, PyObject *args);
PyObject *native_find(PyObject *self, PyObject *args);
PyObject *native_flatten(PyObject *self, PyObject *args);
PyObject *native_inside(PyObject *self, PyObject *args);

/* The byte of a host name in lower case, or 0 for one that is not in any. */
static inline unsigned char name_byte(unsigned char c)
{
	if (c >= 'A' && c <= 'Z')
		return c | 0x20;
	if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '_')
		return c;
	return 0;
}

/* Whether an address has bits beyond its prefix. */
static inline int past_prefix(const unsigned char *address, int bytes, int length)
{
	int i;

	for (i = 0; i < bytes; i++) {
		int kept = length - 8 * i;

		if (kept < 8 && address[i] & (kept <= 0 ? 0xff : 0xff >> kept))
			return 1;
	}
	return 0;
}

#endif
