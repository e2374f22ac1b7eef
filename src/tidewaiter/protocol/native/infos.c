/* SPDX-License-Identifier: Apache-2.0
 *
 * Infos of fixed layouts, many a second: bytes into named tuples and back. What the fields of a type are is told with
 * each call (tidewaiter/protocol/info.py); meaning and twins of each function: tidewaiter/protocol/_native.pyi.
 *
 * A layout is (type number, class, fields, size of them), the fields as the struct module writes them: Q, I, H, B, 4s,
 * 16s; and at last perhaps *, which is the u32 size of a payload and the payload itself.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#define HEADER 5 /* u8 type, u32 length of what follows */
#define PAYLOAD '*'

struct layout {
	PyObject *class;
	const char *fields;
	Py_ssize_t size;
	unsigned char number;
};

struct field {
	char code;
	Py_ssize_t size;
};

static int get_layout(PyObject *tuple, struct layout *layout)
{
	/* borrowed, and not parsed as arguments, since that takes as long as all the rest */
	if (!PyTuple_Check(tuple) || PyTuple_Size(tuple) != 4 || !PyBytes_Check(PyTuple_GetItem(tuple, 2))) {
		PyErr_SetString(PyExc_TypeError, "a layout is (type number, class, fields, size)");
		return 0;
	}
	layout->number = (unsigned char)PyLong_AsLong(PyTuple_GetItem(tuple, 0));
	layout->class = PyTuple_GetItem(tuple, 1);
	layout->fields = PyBytes_AsString(PyTuple_GetItem(tuple, 2));
	layout->size = PyLong_AsSsize_t(PyTuple_GetItem(tuple, 3));
	return !PyErr_Occurred();
}

/* The next field; 0 behind the last one. */
static int next(const char **fields, struct field *field)
{
	Py_ssize_t count = 0;

	while (**fields >= '0' && **fields <= '9')
		count = count * 10 + (*(*fields)++ - '0');
	field->code = *(*fields);
	if (!field->code)
		return 0;
	(*fields)++;
	switch (field->code) {
	case 'B': field->size = 1; break;
	case 'H': field->size = 2; break;
	case 'I': case PAYLOAD: field->size = 4; break;
	case 'Q': field->size = 8; break;
	default: field->size = count; break;
	}
	return 1;
}

static unsigned long long load(const unsigned char *from, Py_ssize_t size)
{
	unsigned long long value = 0;

	while (size--)
		value = value << 8 | from[size];
	return value;
}

static void store(unsigned char *to, Py_ssize_t size, unsigned long long value)
{
	for (; size--; value >>= 8)
		*to++ = (unsigned char)value;
}

/* The info in `data`, which is its layout's size at least. Py_None if a payload does not end where the info does. */
static PyObject *read_info(const struct layout *layout, const unsigned char *data, Py_ssize_t length)
{
	const char *fields = layout->fields;
	const unsigned char *end = data + length;
	PyTypeObject *class = (PyTypeObject *)layout->class;
	Py_ssize_t size = layout->size, count = 0, i = 0;
	struct field field;
	PyObject *info;

	while (next(&fields, &field))
		count++;
	if (fields[-1] == PAYLOAD)
		size += (Py_ssize_t)load(data + size - 4, 4);
	if (length != size)
		Py_RETURN_NONE;
	info = ((allocfunc)PyType_GetSlot(class, Py_tp_alloc))(class, count);
	for (fields = layout->fields; info && next(&fields, &field); data += field.size) {
		PyObject *value;

		if (field.code == PAYLOAD)
			value = PyBytes_FromStringAndSize((const char *)data + 4, end - data - 4);
		else if (field.code == 's')
			value = PyBytes_FromStringAndSize((const char *)data, field.size);
		else
			value = PyLong_FromUnsignedLongLong(load(data, field.size));
		if (!value || PyTuple_SetItem(info, i++, value))
			Py_CLEAR(info);
	}
	return info;
}

static PyObject *native_read(PyObject *self, PyObject *args)
{
	PyObject *layouts, *other, *infos = NULL;
	Py_ssize_t at, most;
	Py_buffer buffer;

	(void)self;
	if (!PyArg_ParseTuple(args, "y*nnO!OO!:read", &buffer, &at, &most, &PyTuple_Type, &layouts, &other,
			      &PyList_Type, &infos))
		return NULL;
	while (at >= 0 && buffer.len - at >= HEADER) {
		const unsigned char *data = (const unsigned char *)buffer.buf + at;
		Py_ssize_t length = (Py_ssize_t)load(data + 1, 4);
		PyObject *tuple, *info = NULL;
		struct layout layout;
		int failed;

		if (length > most || length > buffer.len - at - HEADER)
			break;
		tuple = PyTuple_GetItem(layouts, data[0]);
		if (tuple && tuple != Py_None) {
			if (!get_layout(tuple, &layout))
				break;
			if (length >= layout.size && !(info = read_info(&layout, data + HEADER, length)))
				break;
		}
		if (!tuple)
			break;
		if (!info || info == Py_None) {
			Py_XDECREF(info);
			info = PyObject_CallFunction(other, "nn", at, at + HEADER + length);
		}
		failed = !info || PyList_Append(infos, info);
		Py_XDECREF(info);
		if (failed)
			break;
		at += HEADER + length;
	}
	PyBuffer_Release(&buffer);
	return PyErr_Occurred() ? NULL : PyLong_FromSsize_t(at);
}

/* Writes an info's fields behind its header. 0 if one of them is not what the layout says. */
static int write_fields(const char *fields, PyObject *info, unsigned char *to)
{
	struct field field;
	Py_ssize_t i = 0;

	while (next(&fields, &field)) {
		PyObject *value = PyTuple_GetItem(info, i++);

		if (!value)
			return 0;
		if (field.code == PAYLOAD) {
			store(to, 4, PyBytes_Size(value));
			memcpy(to + 4, PyBytes_AsString(value), PyBytes_Size(value));
		} else if (field.code == 's') {
			if (!PyBytes_Check(value) || PyBytes_Size(value) != field.size)
				return 0;
			memcpy(to, PyBytes_AsString(value), field.size);
		} else {
			unsigned long long number = PyLong_AsUnsignedLongLong(value);

			if ((number == (unsigned long long)-1 && PyErr_Occurred()) ||
			    (field.size < 8 && number >> 8 * field.size))
				return 0;
			store(to, field.size, number);
		}
		to += field.size;
	}
	return 1;
}

/* Whether the first field of bytes is as long as the layout says: that of its family. */
static int is_family(const char *fields, PyObject *info)
{
	struct field field;
	Py_ssize_t i = 0;

	while (next(&fields, &field) && i < PyTuple_Size(info)) {
		PyObject *value = PyTuple_GetItem(info, i++);

		if (field.code == 's')
			return PyBytes_Check(value) && PyBytes_Size(value) == field.size;
	}
	return 0;
}

static PyObject *write_info(const struct layout *layout, PyObject *info, Py_ssize_t most)
{
	PyObject *data, *payload = PyTuple_GetItem(info, PyTuple_Size(info) - 1);
	Py_ssize_t length = layout->size;

	if (strchr(layout->fields, PAYLOAD)) {
		if (!PyBytes_Check(payload))
			Py_RETURN_NONE;
		length += PyBytes_Size(payload);
	}
	if (length > most)
		Py_RETURN_NONE;
	data = PyBytes_FromStringAndSize(NULL, HEADER + length);
	if (!data)
		return NULL;
	store((unsigned char *)PyBytes_AsString(data), 1, layout->number);
	store((unsigned char *)PyBytes_AsString(data) + 1, 4, length);
	if (!write_fields(layout->fields, info, (unsigned char *)PyBytes_AsString(data) + HEADER)) {
		PyErr_Clear();
		Py_DECREF(data);
		Py_RETURN_NONE;
	}
	return data;
}

static PyObject *native_write(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
	struct layout layout;
	Py_ssize_t i, most;

	(void)self;
	if (count != 3 || !PyTuple_Check(args[0]) || !PyTuple_Check(args[1])) {
		PyErr_SetString(PyExc_TypeError, "write takes an info, its layouts and the length of the longest");
		return NULL;
	}
	most = PyLong_AsSsize_t(args[2]);
	if (most == -1 && PyErr_Occurred())
		return NULL;
	for (i = 0; i < PyTuple_Size(args[1]); i++) {
		if (!get_layout(PyTuple_GetItem(args[1], i), &layout))
			return NULL;
		if (is_family(layout.fields, args[0]))
			return write_info(&layout, args[0], most);
	}
	Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
	{ "read", native_read, METH_VARARGS, "Infos from bytes." },
	{ "write", (PyCFunction)(void (*)(void))native_write, METH_FASTCALL, "The bytes of an info." },
	{ NULL, NULL, 0, NULL },
};
static PyModuleDef definition = { PyModuleDef_HEAD_INIT, .m_name = "_native", .m_size = 0, .m_methods = methods };

PyMODINIT_FUNC PyInit__native(void)
{
	return PyModule_Create(&definition);
}
