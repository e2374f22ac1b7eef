/* SPDX-License-Identifier: Apache-2.0
 *
 * What is done once for each new connection that Python decides on sight: struct tw_connection becomes the model's
 * connection, and goes back with the verdict in it. Twins: tidewaiter.kernel.records.connection and `answered`.
 */
#include "native.h"
#include "../types.h"
#include "../../model/native/connection.h"
#include <assert.h>
#include <errno.h>
#include <linux/bpf.h>
#include <stddef.h>
#include <string.h>

/* A process by its start, control group, pid, user and group, and by its image: what Owners calls it. */
#define TO_GROUP offsetof(struct tw_owner, program)
#define OWNER_SIZE (TO_GROUP + sizeof(__u32))
static_assert(TO_GROUP == 28, "the fields of struct tw_owner before `program` are in a row");

static int read_record(PyObject *data, struct tw_connection *to)
{
	if (PyBytes_Size(data) != sizeof(*to)) {
		PyErr_Format(PyExc_ValueError, "struct tw_connection has %zu bytes, not %zd", sizeof(*to),
			     PyBytes_Size(data));
		return -1;
	}
	memcpy(to, PyBytes_AsString(data), sizeof(*to));
	return 0;
}

PyObject *native_connection(PyObject *self, PyObject *args)
{
	static make_connection *make;
	PyObject *type, *flow, *data, *processes, *rules, *name, *process, *rule, *made;
	struct tw_connection record;
	char owner[OWNER_SIZE];

	if (!PyArg_ParseTuple(args, "O!SSO!O!:connection", &PyType_Type, &type, &flow, &data, &PyDict_Type,
			      &processes, &PyTuple_Type, &rules) ||
	    read_record(data, &record))
		return NULL;
	if (!make)
		make = (make_connection *)PyCapsule_Import(MAKE_CAPSULE, 0);
	if (!make)
		return NULL;
	memcpy(owner, &record.owner, TO_GROUP);
	memcpy(owner + TO_GROUP, &record.owner.image, sizeof(record.owner.image));
	name = PyBytes_FromStringAndSize(owner, sizeof(owner));
	if (!name)
		return NULL;
	process = PyDict_GetItemWithError(processes, name);
	Py_DECREF(name);
	if (!process) {
		if (PyErr_Occurred())
			return NULL;
		Py_RETURN_NONE;
	}
	rule = record.rule < (size_t)PyTuple_Size(rules) ? Py_NewRef(PyTuple_GetItem(rules, record.rule)) :
							   PyUnicode_FromString("");
	if (!rule)
		return NULL;
	made = make(type, flow, process, rule, &(struct numbers){
		.cookie = record.cookie,
		.opened = record.opened,
		.established = record.established,
		.sent = record.sent,
		.received = record.received,
		.epoch = record.epoch,
		.direction = record.direction,
		.verdict = record.verdict,
		.tier = record.tier,
	});
	Py_DECREF(rule);
	return made;
}

PyObject *native_remember(PyObject *self, PyObject *args)
{
	struct tw_connection record;
	unsigned char verdict, tier;
	unsigned rule;
	PyObject *data;
	int fd;

	if (!PyArg_ParseTuple(args, "iSIbb:remember", &fd, &data, &rule, &verdict, &tier) || read_record(data, &record))
		return NULL;
	record.rule = rule;
	record.verdict = verdict;
	record.tier = tier;
	if (update_map(fd, &record.cookie, &record, BPF_EXIST) == 0)
		Py_RETURN_TRUE;
	if (errno == ENOENT)
		Py_RETURN_FALSE;
	return PyErr_SetFromErrno(PyExc_OSError);
}
