/* SPDX-License-Identifier: Apache-2.0
 *
 * The module tidewaiter.kernel._native: what runs for each packet in user space. Types and meaning of each
 * function: tidewaiter/kernel/_native.pyi.
 */
#include "native.h"

static PyMethodDef methods[] = {
	{ "parse", native_parse, METH_VARARGS, "The headers of a packet." },
	{ "receive", native_receive, METH_VARARGS, "Held packets that wait on a queue socket." },
	{ "answer", native_answer, METH_VARARGS, "Verdicts for held packets." },
	{ "drain", native_drain, METH_VARARGS, "Records of a ring buffer." },
	{ "hear", native_hear, METH_VARARGS, "Events of the ring buffer, those about new connections put in their places." },
	{ "connection", native_connection, METH_VARARGS, "A connection of the kernel's record of it." },
	{ "remember", native_remember, METH_VARARGS, "A verdict into the kernel's map of questions." },
	{ "put", native_put, METH_VARARGS, "One entry into an eBPF map." },
	{ NULL, NULL, 0, NULL },
};

static PyModuleDef definition = { PyModuleDef_HEAD_INIT, .m_name = "_native", .m_size = 0, .m_methods = methods };

PyMODINIT_FUNC PyInit__native(void)
{
	return PyModule_Create(&definition);
}
