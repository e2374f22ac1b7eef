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

struct filled {
	Py_ssize_t from, used, count; /* bytes that were read, bytes that are left, names */
	uint64_t selves, zones;
};

/* Finds each record its slot, and moves it over those that were there twice. What is wrong, or NULL. */
static const char *fill(unsigned char *records, Py_ssize_t size, unsigned char *slots, uint32_t slots_size,
			const unsigned char *key, struct filled *done)
{
	while (done->from < size) {
		unsigned char *record = records + done->from, *name = record + 2;
		Py_ssize_t length = record[0] + 2;
		uint64_t at, hash, labels;
		uint32_t place = done->used;
		struct table table;
		struct sip sip;
		int found;

		if (length > size - done->from || length == 2)
			return "a broken record at %zd";
		done->from += length;
		labels = bit_of(labels_of(name, length - 2));
		done->selves |= record[1] & 15 ? labels : 0;
		done->zones |= record[1] >> 4 ? labels : 0;
		sip_begin(&sip, key);
		sip_words(&sip, name, length - 2);
		hash = sip_end(sip, name, length - 2);
		table = table_of(records, done->used, slots, slots_size);
		found = look(&table, hash, name, length - 2, &at);
		if (found < 0)
			return "more names than the table has room for, at %zd";
		if (found) {
			records[at + 1] |= record[1];
			continue;
		}
		memmove(records + done->used, record, length);
		slots[at] = tag_of(hash);
		memcpy(slots + slots_size + 4 * at, &place, 4);
		done->used += length;
		done->count++;
	}
	return NULL;
}

/* Other threads go on meanwhile: a million names take a while, and packets wait for an answer. */
PyObject *native_index(PyObject *self, PyObject *args)
{
	struct filled done = { 0 };
	Py_buffer records, slots;
	Py_ssize_t slots_size;
	PyObject *array, *into;
	const char *wrong;
	Py_ssize_t key_size;
	const char *key;

	if (!PyArg_ParseTuple(args, "O!O!y#:index", &PyByteArray_Type, &array, &PyByteArray_Type, &into, &key, &key_size))
		return NULL;
	slots_size = PyByteArray_Size(into) / 5;
	if (key_size != 16 || !slots_size || slots_size & (slots_size - 1) || slots_size > UINT32_MAX ||
	    slots_size * 5 != PyByteArray_Size(into) || PyByteArray_Size(array) >= UINT32_MAX)
		return PyErr_Format(PyExc_ValueError, "no table of %zd slots for %zd bytes", slots_size,
				    PyByteArray_Size(array));
	if (PyObject_GetBuffer(array, &records, PyBUF_WRITABLE))
		return NULL;
	if (PyObject_GetBuffer(into, &slots, PyBUF_WRITABLE)) {
		PyBuffer_Release(&records);
		return NULL;
	}
	Py_BEGIN_ALLOW_THREADS
	wrong = fill(records.buf, records.len, slots.buf, slots_size, (const unsigned char *)key, &done);
	Py_END_ALLOW_THREADS
	PyBuffer_Release(&slots);
	PyBuffer_Release(&records);
	if (wrong)
		return PyErr_Format(PyExc_ValueError, wrong, done.from);
	if (PyByteArray_Resize(array, done.used))
		return NULL;
	return Py_BuildValue("nKK", done.count, (unsigned long long)done.selves, (unsigned long long)done.zones);
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
