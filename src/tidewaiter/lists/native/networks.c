/* SPDX-License-Identifier: Apache-2.0
 *
 * Networks: records (address, length of the prefix, flags) in any order become ranges, in order and apart from each
 * other: all first addresses, then all last ones, so that what a search reads is close together. Addresses are in network order, so their bytes compare as their numbers do.
 */
#define _DEFAULT_SOURCE /* be32toh */
#include "native.h"
#include <endian.h>
#include <stdint.h>
#include <stdlib.h>

typedef unsigned __int128 address;

struct open { /* a network that has begun, and not ended */
	address last;
	int listed;
};

struct ranges {
	unsigned char *firsts, *lasts;
	size_t count;
	int width;
};

static address load(const unsigned char *from, int width)
{
	address number = 0;

	while (width--)
		number = number << 8 | *from++;
	return number;
}

static void store(unsigned char *to, address number, int width)
{
	while (width--) {
		to[width] = number;
		number >>= 8;
	}
}

/* Without the flags at the end: equal networks meet, and the strongest flag is found by looking at all of them. */
static int compare4(const void *a, const void *b)
{
	return memcmp(a, b, 5);
}

static int compare16(const void *a, const void *b)
{
	return memcmp(a, b, 17);
}

static address last_of(address first, int width, int length)
{
	address all = width == 16 ? ~(address)0 : 0xffffffff;

	return length ? first | (((address)1 << (8 * width - length)) - 1) : all;
}

/* Appends a range, or makes the last one longer. */
static void add(struct ranges *to, address first, address last)
{
	size_t width = to->width;

	if (to->count && load(to->lasts + width * (to->count - 1), width) + 1 == first) {
		to->count--;
	} else {
		store(to->firsts + width * to->count, first, width);
	}
	store(to->lasts + width * to->count++, last, width);
}

/* The highest bit wins; bits 0 and 2 list, 1 and 3 exempt. */
static int lists(unsigned flags)
{
	int listed = 0;

	for (flags &= 15; flags; flags >>= 2)
		listed = flags & 3 ? !(flags & 2) : listed;
	return listed;
}

/* Of two networks that overlap one is inside of the other, and counts more than that one. */
static void sweep(const unsigned char *records, size_t count, struct ranges *to)
{
	int width = to->width, depth = 0;
	size_t each = width + 2, i = 0;
	struct open open[129]; /* one for each length of a prefix */
	address next = 0; /* what is before it is done */

	while (i < count || depth) {
		const unsigned char *record = records + i * each;
		address first = i < count ? load(record, width) : 0;
		struct open *inner = depth ? &open[depth - 1] : NULL;
		unsigned flags = 0;

		if (inner && (i == count || first > inner->last)) {
			if (inner->listed && next <= inner->last)
				add(to, next, inner->last);
			next = inner->last + 1;
			if (!next)
				return; /* that was the last address of all */
			depth--;
			continue;
		}
		if (inner && inner->listed && next < first)
			add(to, next, first - 1);
		for (; i < count && !memcmp(record, records + i * each, width + 1); i++)
			flags |= records[i * each + width + 1];
		open[depth++] = (struct open){ last_of(first, width, record[width]), lists(flags) };
		next = first;
	}
}

PyObject *native_flatten(PyObject *self, PyObject *args)
{
	struct ranges ranges = { 0 };
	PyObject *array, *result;
	unsigned char *records;
	Py_ssize_t size;
	Py_buffer held;
	size_t each, half, i;

	if (!PyArg_ParseTuple(args, "O!i:flatten", &PyByteArray_Type, &array, &ranges.width))
		return NULL;
	size = PyByteArray_Size(array);
	each = ranges.width + 2;
	if ((ranges.width != 4 && ranges.width != 16) || size % each)
		return PyErr_Format(PyExc_ValueError, "%zd bytes are no records of %d-byte addresses", size, ranges.width);
	records = (unsigned char *)PyByteArray_AsString(array);
	for (i = 0; i < size / each; i++)
		if (records[i * each + ranges.width] > 8 * ranges.width ||
		    past_prefix(records + i * each, ranges.width, records[i * each + ranges.width]))
			return PyErr_Format(PyExc_ValueError, "a broken record at %zu", i * each);
	/* Each network adds a range, and parts one at most: so there is room for both halves at their longest. */
	half = (size / each + 1) * 2 * ranges.width;
	result = PyByteArray_FromStringAndSize(NULL, 2 * half);
	if (!result)
		return NULL;
	ranges.firsts = (unsigned char *)PyByteArray_AsString(result);
	ranges.lasts = ranges.firsts + half;
	if (PyObject_GetBuffer(array, &held, PyBUF_WRITABLE)) {
		Py_DECREF(result);
		return NULL;
	}
	Py_BEGIN_ALLOW_THREADS /* half a million networks take a while, and packets wait for an answer */
	qsort(records, size / each, each, ranges.width == 4 ? compare4 : compare16);
	sweep(records, size / each, &ranges);
	memmove(ranges.firsts + ranges.count * ranges.width, ranges.lasts, ranges.count * ranges.width);
	Py_END_ALLOW_THREADS
	PyBuffer_Release(&held);
	if (PyByteArray_Resize(result, 2 * ranges.count * ranges.width))
		Py_CLEAR(result);
	return result;
}

/* How many of the first addresses are not behind this one. */
static Py_ssize_t search4(const unsigned char *firsts, Py_ssize_t count, const unsigned char *packed)
{
	uint32_t wanted, first;
	Py_ssize_t low = 0;

	memcpy(&wanted, packed, 4);
	wanted = be32toh(wanted);
	while (count) {
		Py_ssize_t half = count / 2;

		memcpy(&first, firsts + 4 * (low + half), 4);
		low = be32toh(first) <= wanted ? low + count - half : low;
		count = half;
	}
	return low;
}

static Py_ssize_t search16(const unsigned char *firsts, Py_ssize_t count, const unsigned char *packed)
{
	uint64_t wanted[2], first[2];
	Py_ssize_t low = 0;

	memcpy(wanted, packed, 16);
	wanted[0] = be64toh(wanted[0]), wanted[1] = be64toh(wanted[1]);
	while (count) {
		Py_ssize_t half = count / 2;

		memcpy(first, firsts + 16 * (low + half), 16);
		first[0] = be64toh(first[0]), first[1] = be64toh(first[1]);
		if (first[0] < wanted[0] || (first[0] == wanted[0] && first[1] <= wanted[1]))
			low += count - half;
		count = half;
	}
	return low;
}

PyObject *native_inside(PyObject *self, PyObject *args)
{
	const unsigned char *firsts;
	Py_ssize_t width, count, before;
	Py_buffer ranges;
	const char *packed;
	int found;

	if (!PyArg_ParseTuple(args, "y*y#:inside", &ranges, &packed, &width))
		return NULL;
	if ((width != 4 && width != 16) || ranges.len % (2 * width)) {
		PyBuffer_Release(&ranges);
		return PyErr_Format(PyExc_ValueError, "no ranges of %zd-byte addresses", width);
	}
	count = ranges.len / (2 * width);
	firsts = ranges.buf;
	before = (width == 4 ? search4 : search16)(firsts, count, (const unsigned char *)packed);
	found = before > 0 && memcmp(firsts + width * (count + before - 1), packed, width) >= 0;
	PyBuffer_Release(&ranges);
	return PyBool_FromLong(found);
}
