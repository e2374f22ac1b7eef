/* SPDX-License-Identifier: Apache-2.0
 *
 * The common lines of lists. A line that is not exactly one of the shapes that the caller names is not judged
 * here: it is handed back, and the format's parser in Python says what it means or what is wrong with it.
 */
#include "native.h"
#include <arpa/inet.h>

#define SHAPES 16

struct span {
	const char *at, *end;
};

struct shape {
	struct span before, after;
	int flags, single; /* what the line says of its name; whether a name of one label will do */
};

struct lines {
	struct span text, line;
	const char *comments, *inline_comments;
	Py_ssize_t number, limit;
	PyObject *odd;
};

static int blank(char c)
{
	return c == ' ' || c == '\t';
}

/* The next line without its end, or 0 behind the last and when enough odd ones were seen. */
static int next_line(struct lines *lines)
{
	const char *end;

	if (lines->text.at == lines->text.end || PyList_Size(lines->odd) >= lines->limit)
		return 0;
	end = memchr(lines->text.at, '\n', lines->text.end - lines->text.at);
	lines->line = (struct span){ lines->text.at, end ? end : lines->text.end };
	lines->text.at = end ? end + 1 : lines->text.end;
	lines->number++;
	if (lines->line.end > lines->line.at && lines->line.end[-1] == '\r')
		lines->line.end--;
	return 1;
}

static int among(char c, const char *characters)
{
	return c && strchr(characters, c) != NULL;
}

/* Whether nothing more than blanks and a comment follows. */
static int over(struct span rest, const char *comments)
{
	while (rest.at < rest.end && blank(*rest.at))
		rest.at++;
	return rest.at == rest.end || among(*rest.at, comments);
}

static int says_nothing(const struct lines *lines)
{
	return over(lines->line, "") || among(*lines->line.at, lines->comments);
}

/* Hands the line back. 0, or -1 with an exception set. */
static int give_back(struct lines *lines, const char *text)
{
	PyObject *item = Py_BuildValue("nnn", lines->number, (Py_ssize_t)(lines->line.at - text),
				       (Py_ssize_t)(lines->line.end - lines->line.at));
	int failed = !item || PyList_Append(lines->odd, item);

	Py_XDECREF(item);
	return failed ? -1 : 0;
}

/* Steps over a pattern, in which a blank stands for one or more. Whether it was there. */
static int skip(struct span *rest, struct span pattern)
{
	for (; pattern.at < pattern.end; pattern.at++) {
		if (rest->at == rest->end)
			return 0;
		if (*pattern.at != ' ') {
			if (*rest->at++ != *pattern.at)
				return 0;
			continue;
		}
		if (!blank(*rest->at))
			return 0;
		while (rest->at < rest->end && blank(*rest->at))
			rest->at++;
	}
	return 1;
}

/* Steps over a host name; its length, or 0 for what is none, and for one whose last label is not one of a top-level
 * domain (letters, or xn--: RFC 3696 section 2, and not localdomain): it may have a meaning in its format. */
static size_t skip_name(struct span *rest, int single, unsigned char *name)
{
	size_t size = 0, label = 0, labels = 1;
	int letters = 1;

	for (; rest->at < rest->end; rest->at++) {
		unsigned char c = name_byte(*rest->at);

		if (!c)
			break;
		if (c == '.') {
			if (!label)
				return 0;
			label = 0, letters = 1, labels++;
		} else {
			if (++label > LONGEST_LABEL)
				return 0;
			letters &= c >= 'a' && c <= 'z';
		}
		if (size == LONGEST_NAME)
			return 0;
		name[size++] = c;
	}
	if (!label || (!single && labels == 1) || (label == 11 && !memcmp(name + size - label, "localdomain", label)))
		return 0;
	return letters || (label > 4 && !memcmp(name + size - label, "xn--", 4)) ? size : 0;
}

/* Writes a record (length, flags, the name backwards) if the line has this shape; its size or 0. */
static size_t take_name(const struct lines *lines, const struct shape *shape, unsigned char *record)
{
	struct span rest = lines->line;
	unsigned char name[LONGEST_NAME];
	size_t size, i;

	if (!skip(&rest, shape->before))
		return 0;
	size = skip_name(&rest, shape->single, name);
	if (!size || !skip(&rest, shape->after) || !over(rest, lines->inline_comments))
		return 0;
	record[0] = size;
	record[1] = shape->flags;
	for (i = 0; i < size; i++)
		record[2 + i] = name[size - 1 - i];
	return size + 2;
}

static int read_shapes(PyObject *tuple, struct shape *shapes, Py_ssize_t *count)
{
	Py_ssize_t i, before, after;

	*count = PyTuple_Size(tuple);
	if (*count > SHAPES) {
		PyErr_SetString(PyExc_ValueError, "too many shapes");
		return -1;
	}
	for (i = 0; i < *count; i++) {
		struct shape *s = &shapes[i];

		if (!PyArg_ParseTuple(PyTuple_GetItem(tuple, i), "y#y#ip:shape", &s->before.at, &before, &s->after.at,
				      &after, &s->flags, &s->single))
			return -1;
		s->before.end = s->before.at + before;
		s->after.end = s->after.at + after;
	}
	return 0;
}

PyObject *native_scan_names(PyObject *self, PyObject *args)
{
	Py_ssize_t size, start, count, old, used, i, found = 0;
	PyObject *tuple, *records, *result = NULL;
	struct shape shapes[SHAPES];
	struct lines lines = { 0 };
	const char *text;

	if (!PyArg_ParseTuple(args, "y#nnnO!yyO!:scan_names", &text, &size, &start, &lines.number, &lines.limit,
			      &PyTuple_Type, &tuple, &lines.comments, &lines.inline_comments, &PyByteArray_Type, &records))
		return NULL;
	if (read_shapes(tuple, shapes, &count))
		return NULL;
	if (start < 0 || start > size)
		return PyErr_Format(PyExc_ValueError, "there is no offset %zd", start);
	/* A record is at most a byte longer than its line. */
	used = old = PyByteArray_Size(records);
	if (PyByteArray_Resize(records, old + 2 * (size - start) + 2))
		return NULL;
	lines.text = (struct span){ text + start, text + size };
	lines.odd = PyList_New(0);
	while (lines.odd && next_line(&lines)) {
		size_t written = 0;

		if (says_nothing(&lines))
			continue;
		for (i = 0; !written && i < count; i++)
			written = take_name(&lines, &shapes[i], (unsigned char *)PyByteArray_AsString(records) + used);
		used += written;
		found += written > 0;
		if (!written && give_back(&lines, text))
			Py_CLEAR(lines.odd);
	}
	if (PyByteArray_Resize(records, lines.odd ? used : old) == 0 && lines.odd)
		result = Py_BuildValue("nnnO", found, (Py_ssize_t)(lines.text.at - text), lines.number, lines.odd);
	Py_XDECREF(lines.odd);
	return result;
}

/* Steps over the length of a prefix: "/24", or nothing for all bits. 1, or 0 for what is none. */
static int skip_length(struct span *rest, int bits, int *length)
{
	int digits = 0;

	*length = bits;
	if (rest->at == rest->end || *rest->at != '/')
		return 1;
	*length = 0;
	for (rest->at++; rest->at < rest->end && *rest->at >= '0' && *rest->at <= '9' && digits < 4; rest->at++, digits++)
		*length = 10 * *length + *rest->at - '0';
	return digits > 0 && digits < 4 && *length > 0 && *length <= bits;
}

/* Writes a record (address, length of the prefix, flags) if the line is a network; bytes of the address or 0. */
static int take_network(const struct lines *lines, int flags, unsigned char *record)
{
	static const unsigned char mapped[12] = { [10] = 0xff, [11] = 0xff };
	struct span rest = lines->line;
	char address[INET6_ADDRSTRLEN];
	size_t size = 0;
	int bytes, length;

	while (rest.at < rest.end && size < sizeof(address) - 1 && *rest.at != '/' && !blank(*rest.at) &&
	       !among(*rest.at, lines->inline_comments))
		address[size++] = *rest.at++;
	address[size] = 0;
	bytes = memchr(address, ':', size) ? 16 : 4;
	if (inet_pton(bytes == 16 ? AF_INET6 : AF_INET, address, record) != 1 || strlen(address) != size)
		return 0;
	if (!skip_length(&rest, 8 * bytes, &length) || !over(rest, lines->inline_comments))
		return 0;
	if (past_prefix(record, bytes, length) || (bytes == 16 && !memcmp(record, mapped, sizeof(mapped))))
		return 0;
	record[bytes] = length;
	record[bytes + 1] = flags;
	return bytes;
}

PyObject *native_scan_networks(PyObject *self, PyObject *args)
{
	PyObject *records[2], *result = NULL;
	struct lines lines = { 0 };
	Py_ssize_t size, start;
	const char *text;
	int flags;

	if (!PyArg_ParseTuple(args, "y#nnniyyO!O!:scan_networks", &text, &size, &start, &lines.number, &lines.limit, &flags,
			      &lines.comments, &lines.inline_comments, &PyByteArray_Type, &records[0], &PyByteArray_Type,
			      &records[1]))
		return NULL;
	if (start < 0 || start > size)
		return PyErr_Format(PyExc_ValueError, "there is no offset %zd", start);
	lines.text = (struct span){ text + start, text + size };
	lines.odd = PyList_New(0);
	while (lines.odd && next_line(&lines)) {
		unsigned char record[18];
		PyObject *to;
		Py_ssize_t old;
		int bytes;

		if (says_nothing(&lines))
			continue;
		bytes = take_network(&lines, flags, record);
		if (!bytes) {
			if (give_back(&lines, text))
				Py_CLEAR(lines.odd);
			continue;
		}
		to = records[bytes == 16];
		old = PyByteArray_Size(to);
		if (PyByteArray_Resize(to, old + bytes + 2))
			Py_CLEAR(lines.odd);
		else
			memcpy(PyByteArray_AsString(to) + old, record, bytes + 2);
	}
	if (lines.odd)
		result = Py_BuildValue("nnO", (Py_ssize_t)(lines.text.at - text), lines.number, lines.odd);
	Py_XDECREF(lines.odd);
	return result;
}
