/* SPDX-License-Identifier: Apache-2.0
 *
 * A set of names: records (length, flags, the name backwards), one behind the other, then a hash table of a tag and a
 * place for each slot, then a trailer. Backwards, the zones that a name is in are its beginnings, and one walk finds
 * them all. Most slots of other names are passed by their tags, eight bits of the hash; then the whole name is compared,
 * so no two names are ever taken for one another. Every offset that is read is checked: a damaged set gives wrong
 * answers, but never leaves its bytes.
 */
#include "native.h"
#include "siphash.h"

struct trailer { /* struct "=16s5QI4x" of tidewaiter.lists.domains */
	unsigned char key[16];
	uint64_t records; /* bytes */
	uint64_t count;
	uint64_t selves, zones; /* bit n: something is said about a name, or what is below a name, of n labels */
	uint64_t nearest; /* 1: the nearest zone counts alone; 0: all of them */
	uint32_t slots; /* a power of two */
};

struct table {
	const unsigned char *records, *tags, *places;
	uint64_t size;
	uint32_t mask;
};

static struct table table_of(const unsigned char *records, uint64_t size, const unsigned char *slots, uint32_t count)
{
	return (struct table){ records, slots, slots + count, size, count - 1 };
}

/* Never 0, which is the tag of a slot that is free. */
static unsigned char tag_of(uint64_t hash)
{
	return hash >> 56 ? hash >> 56 : 1;
}

/* The place of a name, or the slot where it would be. -1 for neither: no slot is free. */
static int look(const struct table *table, uint64_t hash, const unsigned char *name, size_t size, uint64_t *at)
{
	uint32_t tried, found;

	for (tried = 0; tried <= table->mask; tried++) {
		*at = (hash + tried) & table->mask;
		if (!table->tags[*at])
			return 0;
		if (table->tags[*at] != tag_of(hash))
			continue;
		memcpy(&found, table->places + 4 * *at, 4);
		if (table->size < 2 || found > table->size - 2 || table->records[found] > table->size - 2 - found)
			return -1;
		if (table->records[found] == size && !memcmp(table->records + found + 2, name, size)) {
			*at = found;
			return 1;
		}
	}
	return -1;
}

/* The bit for how many labels a name has; the last one is for all that have more. */
static uint64_t bit_of(unsigned labels)
{
	return (uint64_t)1 << (labels < 63 ? labels : 63);
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
	unsigned long long selves = 0, zones = 0;
	unsigned char *records, *slots;
	PyObject *array, *into;
	struct table table;
	const char *key;

	if (!PyArg_ParseTuple(args, "O!O!y#:index", &PyByteArray_Type, &array, &PyByteArray_Type, &into, &key, &key_size))
		return NULL;
	size = PyByteArray_Size(array);
	slots_size = PyByteArray_Size(into) / 5;
	if (key_size != 16 || !slots_size || slots_size & (slots_size - 1) || slots_size > UINT32_MAX ||
	    slots_size * 5 != PyByteArray_Size(into) || size >= UINT32_MAX)
		return PyErr_Format(PyExc_ValueError, "no table of %zd slots for %zd bytes", slots_size, size);
	records = (unsigned char *)PyByteArray_AsString(array);
	slots = (unsigned char *)PyByteArray_AsString(into);
	while (from < size) {
		unsigned char *record = records + from, *name = record + 2;
		Py_ssize_t length = record[0] + 2;
		uint64_t at, hash, labels;
		struct sip sip;
		uint32_t place = used;
		int found;

		if (length > size - from || length == 2)
			return PyErr_Format(PyExc_ValueError, "a broken record at %zd", from);
		from += length;
		labels = bit_of(labels_of(name, length - 2));
		selves |= record[1] & 15 ? labels : 0;
		zones |= record[1] >> 4 ? labels : 0;
		sip_begin(&sip, (const unsigned char *)key);
		sip_words(&sip, name, length - 2);
		hash = sip_end(sip, name, length - 2);
		table = table_of(records, used, slots, slots_size);
		found = look(&table, hash, name, length - 2, &at);
		if (found < 0)
			return PyErr_Format(PyExc_ValueError, "more names than the table has room for");
		if (found) {
			records[at + 1] |= record[1];
			continue;
		}
		memmove(records + used, record, length); /* over the records that were there twice */
		slots[at] = tag_of(hash);
		memcpy(slots + slots_size + 4 * at, &place, 4);
		used += length;
		count++;
	}
	if (PyByteArray_Resize(array, used))
		return NULL;
	return Py_BuildValue("nKK", count, selves, zones);
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
		if (!(bit_of(++labels) & (at == size ? trailer->selves : trailer->zones)))
			continue;
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
	    trailer.records + 5ULL * trailer.slots + sizeof(trailer) != (uint64_t)image.len)
		goto broken;
	table = table_of(image.buf, trailer.records, (unsigned char *)image.buf + trailer.records, trailer.slots);
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
