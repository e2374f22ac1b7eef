/* SPDX-License-Identifier: Apache-2.0
 *
 * A set of names: records (length, flags, the name backwards), one behind the other, then a hash table of their
 * places, then a trailer. Backwards, the zones that a name is in are its beginnings, and one walk finds them all.
 * The whole name is compared, so no two names are ever taken for one another. Every offset that is read is
 * checked: a damaged set gives wrong answers, but never leaves its bytes.
 */
#include "native.h"
#include "siphash.h"

struct trailer { /* struct "=16sQQIHH" of tidewaiter.lists.domains */
	unsigned char key[16];
	uint64_t records; /* bytes */
	uint64_t count;
	uint32_t slots; /* a power of two */
	uint16_t labels; /* of the name that has most of them */
	uint16_t nearest; /* 1: the nearest zone counts alone; 0: all of them */
};

struct table {
	const unsigned char *records, *slots;
	uint64_t size;
	uint32_t mask;
};

/* The place of a slot's record, plus one; 0 for a slot that is free. */
static uint32_t place(const struct table *table, uint64_t slot)
{
	uint32_t found;

	memcpy(&found, table->slots + 4 * (slot & table->mask), 4);
	return found;
}

/* The place of a name, or the slot where it would be. -1 for neither: no slot is free. */
static int look(const struct table *table, uint64_t hash, const unsigned char *name, size_t size, uint64_t *at)
{
	uint32_t tried, found;

	for (tried = 0; tried <= table->mask; tried++, hash++) {
		found = place(table, hash);
		*at = hash & table->mask;
		if (!found--)
			return 0;
		if (table->size < 2 || found > table->size - 2 || table->records[found] > table->size - 2 - found)
			return -1;
		if (table->records[found] == size && !memcmp(table->records + found + 2, name, size)) {
			*at = found;
			return 1;
		}
	}
	return -1;
}

static unsigned labels_of(const unsigned char *name, size_t size)
{
	unsigned labels = 1;

	while (size--)
		labels += name[size] == '.';
	return labels;
}

PyObject *native_index(PyObject *self, PyObject *args)
{
	Py_ssize_t size, key_size, slots_size, from = 0, used = 0, count = 0;
	unsigned char *records, *slots;
	unsigned labels = 0, here;
	PyObject *array, *into;
	struct table table;
	const char *key;

	if (!PyArg_ParseTuple(args, "O!O!y#:index", &PyByteArray_Type, &array, &PyByteArray_Type, &into, &key, &key_size))
		return NULL;
	size = PyByteArray_Size(array);
	slots_size = PyByteArray_Size(into);
	if (key_size != 16 || slots_size < 4 || slots_size & (slots_size - 1) || slots_size / 4 > UINT32_MAX ||
	    size >= UINT32_MAX)
		return PyErr_Format(PyExc_ValueError, "no table of %zd bytes for %zd bytes", slots_size, size);
	records = (unsigned char *)PyByteArray_AsString(array);
	slots = (unsigned char *)PyByteArray_AsString(into);
	table = (struct table){ records, slots, 0, slots_size / 4 - 1 };
	while (from < size) {
		unsigned char *record = records + from;
		Py_ssize_t length = record[0] + 2;
		uint64_t at;
		uint32_t entry;
		struct sip sip;
		int found;

		if (length > size - from || length == 2)
			return PyErr_Format(PyExc_ValueError, "a broken record at %zd", from);
		from += length;
		sip_begin(&sip, (const unsigned char *)key);
		sip_words(&sip, record + 2, length - 2);
		table.size = used;
		found = look(&table, sip_end(sip, record + 2, length - 2), record + 2, length - 2, &at);
		if (found < 0)
			return PyErr_Format(PyExc_ValueError, "more names than the table has room for");
		if (found) {
			records[at + 1] |= record[1];
			continue;
		}
		here = labels_of(record + 2, length - 2);
		labels = here > labels ? here : labels;
		memmove(records + used, record, length); /* over the records that were there twice */
		entry = used + 1;
		memcpy(slots + 4 * at, &entry, 4);
		used += length;
		count++;
	}
	if (PyByteArray_Resize(array, used))
		return NULL;
	return Py_BuildValue("nI", count, labels);
}

/* The strongest flags that the zones of a name, and itself, have for it: see tidewaiter.lists.domains. */
static int walk(const struct table *table, const struct trailer *trailer, const unsigned char *name, size_t size)
{
	unsigned labels = 0;
	struct sip sip;
	int seen = 0;
	size_t at;

	sip_begin(&sip, trailer->key);
	for (at = 1; at <= size; at++) {
		uint64_t found;
		int flags;

		if (at < size && name[at] != '.')
			continue;
		if (++labels > trailer->labels)
			break;
		sip_words(&sip, name, at);
		if (look(table, sip_end(sip, name, at), name, at, &found) != 1)
			continue;
		flags = table->records[found + 1];
		flags = at == size ? flags & 15 : flags >> 4;
		if (flags)
			seen = trailer->nearest ? flags : seen | flags;
	}
	return seen;
}

PyObject *native_find(PyObject *self, PyObject *args)
{
	unsigned char backwards[LONGEST_NAME];
	struct trailer trailer;
	struct table table;
	Py_ssize_t size, i;
	Py_buffer image;
	const char *name;
	int flags = -1;

	if (!PyArg_ParseTuple(args, "y*s#:find", &image, &name, &size))
		return NULL;
	if ((size_t)image.len < sizeof(trailer))
		goto broken;
	memcpy(&trailer, (char *)image.buf + image.len - sizeof(trailer), sizeof(trailer));
	if (!trailer.slots || trailer.slots & (trailer.slots - 1) || trailer.records >= UINT32_MAX ||
	    trailer.records + 4ULL * trailer.slots + sizeof(trailer) != (uint64_t)image.len)
		goto broken;
	table = (struct table){ image.buf, (unsigned char *)image.buf + trailer.records, trailer.records, trailer.slots - 1 };
	if (size && name[size - 1] == '.')
		size--;
	if (size > 0 && size <= LONGEST_NAME) {
		for (i = 0; i < size; i++)
			if (!(backwards[size - 1 - i] = name_byte(name[i])))
				goto done;
		flags = walk(&table, &trailer, backwards, size);
	}
done:
	PyBuffer_Release(&image);
	return PyLong_FromLong(flags);
broken:
	PyBuffer_Release(&image);
	PyErr_SetString(PyExc_ValueError, "not a set of names");
	return NULL;
}
