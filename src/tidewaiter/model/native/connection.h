/* SPDX-License-Identifier: Apache-2.0
 *
 * How another native module makes a connection without a call of Python: the capsule tidewaiter.model._native.make.
 */
#ifndef TIDEWAITER_CONNECTION_H
#define TIDEWAITER_CONNECTION_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define MAKE_CAPSULE "tidewaiter.model._native.make"

/* What is stored as a number. The last three: the place among what `choices` was told. */
struct numbers {
	unsigned long long cookie, opened, established, sent, received;
	unsigned int epoch;
	unsigned char direction, verdict, tier;
};

/* A connection of ``type`` with bytes as its key, or NULL with an exception set; all else is as it is by default. */
typedef PyObject *make_connection(PyObject *type, PyObject *flow, PyObject *process, PyObject *rule,
				  const struct numbers *numbers);

#endif
