/* SPDX-License-Identifier: Apache-2.0
 *
 * The module tidewaiter.lists._native: reading lists of a million lines, and looking into them. Types and
 * meaning of each function: tidewaiter/lists/_native.pyi; twins: tidewaiter.lists.reference.
 */
#include "native.h"

static PyMethodDef methods[] = {
	{ "scan_names", native_scan_names, METH_VARARGS, "Lines with a name, into records." },
	{ "scan_networks", native_scan_networks, METH_VARARGS, "Lines with a network, into records." },
	{ "index", native_index, METH_VARARGS, "A hash table for records of names." },
	{ "find", native_find, METH_VARARGS, "What a list says about a name." },
	{ "flatten", native_flatten, METH_VARARGS, "Records of networks, as ranges." },
	{ "inside", native_inside, METH_VARARGS, "Whether an address is in a range." },
	{ NULL, NULL, 0, NULL },
};

static PyModuleDef definition = { PyModuleDef_HEAD_INIT, .m_name = "_native", .m_size = 0, .m_methods = methods };

PyMODINIT_FUNC PyInit__native(void)
{
	return PyModule_Create(&definition);
}
