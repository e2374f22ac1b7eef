/* SPDX-License-Identifier: Apache-2.0
 *
 * Where the fields of tidewaiter.model.connection.Connection are stored: its numbers as numbers, its key as bytes, and
 * what is one of a few as its place among them. As objects of Python they take four times as much, and a firewall
 * knows 65,536 connections.
 */
#include "connection.h"
#include <limits.h>
#include <stddef.h>
#include <structmember.h>

struct fields {
	PyObject_HEAD
	PyObject *flow, *process, *rule, *name, *interface;
	unsigned long long id, cookie, opened, established, ended, sent, received, decided;
	unsigned int epoch;
	unsigned char direction, verdict, tier;
};

/* What a field may be, in a tuple: the same for all connections. */
struct choice {
	const char *name;
	size_t offset;
	PyObject *members;
};

static struct choice direction = { "direction", offsetof(struct fields, direction), NULL };
static struct choice verdict = { "verdict", offsetof(struct fields, verdict), NULL };
static struct choice tier = { "tier", offsetof(struct fields, tier), NULL };
static PyObject *nobody, *no_name, *fields_type;

static PyObject *get_choice(PyObject *self, void *closure)
{
	const struct choice *choice = closure;
	PyObject *value = PyTuple_GetItem(choice->members, *((unsigned char *)self + choice->offset));

	Py_XINCREF(value);
	return value;
}

static int set_choice(PyObject *self, PyObject *value, void *closure)
{
	const struct choice *choice = closure;
	Py_ssize_t count = PyTuple_Size(choice->members), i;

	for (i = 0; i < count; i++) {
		if (PyTuple_GetItem(choice->members, i) == value) {
			*((unsigned char *)self + choice->offset) = i;
			return 0;
		}
	}
	PyErr_Format(PyExc_TypeError, "the %s of a connection is not %R", choice->name, value ? value : Py_None);
	return -1;
}

static int number(PyObject *value, void *to)
{
	unsigned long long *found = to;

	*found = PyLong_AsUnsignedLongLong(value);
	return *found != (unsigned long long)-1 || !PyErr_Occurred();
}

static PyObject *fields_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
	static char *names[] = { "id", "key", "direction", "process", "verdict", "rule", "tier", "cookie", "opened",
				 "established", "ended", "sent", "received", "decided", "epoch", "name", "interface", NULL };
	PyObject *key, *its_direction, *process = nobody, *its_verdict = NULL, *rule = NULL, *its_tier = NULL, *name = no_name;
	PyObject *interface = NULL;
	unsigned long long id, cookie = 0, opened = 0, established = 0, ended = 0, sent = 0, received = 0, decided = 0;
	unsigned long long epoch = 0;
	struct fields *self;
	PyObject *object;

	if (!PyArg_ParseTupleAndKeywords(args, keywords, "O&OO|OOUOO&O&O&O&O&O&O&O&OU:Connection", names, number, &id,
					 &key, &its_direction, &process, &its_verdict, &rule, &its_tier, number,
					 &cookie, number, &opened, number, &established, number, &ended, number,
					 &sent, number, &received, number, &decided, number, &epoch, &name,
					 &interface))
		return NULL;
	if (epoch > UINT_MAX) {
		PyErr_SetString(PyExc_OverflowError, "the epoch of a connection has 32 bits");
		return NULL;
	}
	object = ((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0); /* zeroed: the first of each choice */
	if (!object)
		return NULL;
	self = (struct fields *)object;
	self->id = id;
	self->cookie = cookie;
	self->opened = opened;
	self->established = established;
	self->ended = ended;
	self->sent = sent;
	self->received = received;
	self->decided = decided;
	self->epoch = (unsigned int)epoch;
	Py_INCREF(process);
	self->process = process;
	Py_INCREF(name);
	self->name = name;
	Py_XINCREF(rule);
	self->rule = rule ? rule : PyUnicode_FromString("");
	Py_XINCREF(interface);
	self->interface = interface ? interface : PyUnicode_FromString("");
	if (PyBytes_Check(key)) {
		Py_INCREF(key);
		self->flow = key;
	} else {
		self->flow = PyObject_CallMethod(key, "pack", NULL);
	}
	if (!self->rule || !self->interface || !self->flow || set_choice(object, its_direction, &direction) ||
	    (its_verdict && set_choice(object, its_verdict, &verdict)) ||
	    (its_tier && set_choice(object, its_tier, &tier)))
		Py_CLEAR(object);
	return object;
}

static int is_chosen(const struct choice *choice, unsigned char place)
{
	if (choice->members && place < PyTuple_Size(choice->members))
		return 1;
	PyErr_Format(PyExc_ValueError, "the %s of a connection is not number %d", choice->name, place);
	return 0;
}

static PyObject *make(PyObject *type, PyObject *flow, PyObject *process, PyObject *rule, const struct numbers *numbers)
{
	struct fields *self;

	if (!PyType_IsSubtype((PyTypeObject *)type, (PyTypeObject *)fields_type)) {
		PyErr_SetString(PyExc_TypeError, "what is made is no connection");
		return NULL;
	}
	if (!is_chosen(&direction, numbers->direction) || !is_chosen(&verdict, numbers->verdict) ||
	    !is_chosen(&tier, numbers->tier))
		return NULL;
	self = (struct fields *)((allocfunc)PyType_GetSlot((PyTypeObject *)type, Py_tp_alloc))((PyTypeObject *)type, 0);
	if (!self)
		return NULL;
	self->flow = Py_NewRef(flow);
	self->process = Py_NewRef(process);
	self->rule = Py_NewRef(rule);
	self->name = Py_NewRef(no_name);
	self->interface = PyUnicode_FromString(""); /* the one that Python has, so this cannot fail */
	self->cookie = numbers->cookie;
	self->opened = numbers->opened;
	self->established = numbers->established;
	self->sent = numbers->sent;
	self->received = numbers->received;
	self->epoch = numbers->epoch;
	self->direction = numbers->direction;
	self->verdict = numbers->verdict;
	self->tier = numbers->tier;
	return (PyObject *)self;
}

static int fields_traverse(PyObject *object, visitproc visit, void *arg)
{
	struct fields *self = (struct fields *)object;

	Py_VISIT(Py_TYPE(object));
	Py_VISIT(self->process);
	Py_VISIT(self->name);
	return 0;
}

static void fields_dealloc(PyObject *object)
{
	struct fields *self = (struct fields *)object;
	PyTypeObject *type = Py_TYPE(object);

	PyObject_GC_UnTrack(object);
	Py_XDECREF(self->flow);
	Py_XDECREF(self->process);
	Py_XDECREF(self->rule);
	Py_XDECREF(self->name);
	Py_XDECREF(self->interface);
	((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
	Py_DECREF(type);
}

#define NUMBER(name, type) { #name, type, offsetof(struct fields, name), 0, NULL }

static PyMemberDef members[] = {
	{ "flow", T_OBJECT_EX, offsetof(struct fields, flow), READONLY, NULL },
	{ "process", T_OBJECT_EX, offsetof(struct fields, process), 0, NULL },
	{ "rule", T_OBJECT_EX, offsetof(struct fields, rule), 0, NULL },
	{ "name", T_OBJECT_EX, offsetof(struct fields, name), 0, NULL },
	{ "interface", T_OBJECT_EX, offsetof(struct fields, interface), 0, NULL },
	NUMBER(id, T_ULONGLONG), NUMBER(cookie, T_ULONGLONG), NUMBER(opened, T_ULONGLONG),
	NUMBER(established, T_ULONGLONG), NUMBER(ended, T_ULONGLONG), NUMBER(sent, T_ULONGLONG),
	NUMBER(received, T_ULONGLONG), NUMBER(decided, T_ULONGLONG), NUMBER(epoch, T_UINT),
	{ NULL, 0, 0, 0, NULL },
};

static PyGetSetDef choices[] = {
	{ "direction", get_choice, set_choice, NULL, &direction },
	{ "verdict", get_choice, set_choice, NULL, &verdict },
	{ "tier", get_choice, set_choice, NULL, &tier },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot slots[] = {
	{ Py_tp_new, fields_new },
	{ Py_tp_dealloc, fields_dealloc },
	{ Py_tp_traverse, fields_traverse },
	{ Py_tp_members, members },
	{ Py_tp_getset, choices },
	{ 0, NULL },
};

static PyType_Spec spec = {
	.name = "tidewaiter.model._native.ConnectionFields",
	.basicsize = sizeof(struct fields),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
	.slots = slots,
};

static PyObject *set_choices(PyObject *module, PyObject *args)
{
	PyObject *directions, *verdicts, *tiers, *process, *name;

	if (!PyArg_ParseTuple(args, "O!O!O!OO:choices", &PyTuple_Type, &directions, &PyTuple_Type, &verdicts,
			      &PyTuple_Type, &tiers, &process, &name))
		return NULL;
	Py_INCREF(args); /* for good: it holds them */
	direction.members = directions;
	verdict.members = verdicts;
	tier.members = tiers;
	nobody = process;
	no_name = name;
	Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
	{ "choices", set_choices, METH_VARARGS, "What directions, verdicts and tiers there are, and nobody." },
	{ NULL, NULL, 0, NULL },
};
static PyModuleDef definition = { PyModuleDef_HEAD_INIT, .m_name = "_native", .m_size = -1, .m_methods = methods };

PyMODINIT_FUNC PyInit__native(void)
{
	PyObject *module = PyModule_Create(&definition), *type = PyType_FromSpec(&spec);
	PyObject *capsule = PyCapsule_New((void *)make, MAKE_CAPSULE, NULL);

	if (!module || !type || PyModule_AddObjectRef(module, "ConnectionFields", type) ||
	    PyModule_AddObjectRef(module, "make", capsule))
		Py_CLEAR(module);
	fields_type = type; /* for good */
	Py_XDECREF(capsule);
	return module;
}
