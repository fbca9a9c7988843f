/* Lines of a chunk, written at once: an event's data without its last brace, and what is spliced in behind. */
#include "columns.h"

#define PIECES_MAX 24
#define DIGITS_MAX 20 /* of a number of 64 bits */

/* What stands behind the data of each line: a text that is the same in all of them, or a column. */
struct piece {
    PyObject *column; /* borrowed: a list, of whole numbers or of texts; NULL if the text is the same */
    struct span text;
};

struct lines {
    PyObject *datas; /* borrowed: a list of bytes, none of them empty */
    struct piece pieces[PIECES_MAX];
    int piece_count;
    size_t constant; /* bytes of the texts that are the same */
    Py_ssize_t count;
};

static int refuse(const char *why)
{
    PyErr_SetString(PyExc_TypeError, why);
    return -1;
}

/* Take data and pieces; -1 with an error set. */
static int open_lines(struct lines *lines, PyObject *datas, PyObject *pieces)
{
    memset(lines, 0, sizeof *lines);
    if (!PyList_CheckExact(datas) || !PyTuple_CheckExact(pieces) || PyTuple_GET_SIZE(pieces) > PIECES_MAX)
        return refuse("a list of data and a tuple of pieces are needed");
    lines->datas = datas;
    lines->count = PyList_GET_SIZE(datas);
    lines->piece_count = (int)PyTuple_GET_SIZE(pieces);
    for (int at = 0; at < lines->piece_count; at++) {
        PyObject *piece = PyTuple_GET_ITEM(pieces, at);
        if (PyBytes_CheckExact(piece)) {
            lines->pieces[at].text = (struct span){(const uint8_t *)PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece)};
            lines->constant += lines->pieces[at].text.size;
        } else if (PyList_CheckExact(piece))
            lines->pieces[at].column = piece;
        else
            return refuse("a piece is a text or a list");
    }
    return 0;
}

static size_t digits_of(long long number)
{
    size_t count = 1;
    while (number >= 10) {
        number /= 10;
        count++;
    }
    return count;
}

/* The number of an object; -1 if it is none, or negative. */
static long long number_of(PyObject *value)
{
    int overflow;
    long long number;

    if (!PyLong_CheckExact(value))
        return -1;
    number = PyLong_AsLongLongAndOverflow(value, &overflow);
    return overflow ? -1 : number;
}

/* Look at each value, and write how long the lines will be; -1 with an error set. Nothing may run between this and the
 * writing but what allocates objects that no garbage collector looks at. */
static int measure(const struct lines *lines, size_t *sizes)
{
    if (PyList_GET_SIZE(lines->datas) != lines->count)
        return refuse("the columns change");
    for (Py_ssize_t at = 0; at < lines->count; at++) {
        PyObject *data = PyList_GET_ITEM(lines->datas, at);
        if (!PyBytes_Check(data) || !PyBytes_GET_SIZE(data))
            return refuse("data are bytes that are not empty");
        sizes[at] = (size_t)PyBytes_GET_SIZE(data) - 1 + lines->constant;
    }
    for (int piece = 0; piece < lines->piece_count; piece++) {
        PyObject *column = lines->pieces[piece].column;
        if (!column)
            continue;
        if (PyList_GET_SIZE(column) != lines->count)
            return refuse("the columns are not as long as each other");
        for (Py_ssize_t at = 0; at < lines->count; at++) {
            PyObject *value = PyList_GET_ITEM(column, at);
            long long number;
            if (PyUnicode_CheckExact(value) && PyUnicode_IS_ASCII(value))
                sizes[at] += (size_t)PyUnicode_GET_LENGTH(value);
            else if ((number = number_of(value)) >= 0)
                sizes[at] += digits_of(number);
            else
                return refuse("a value is neither an ASCII text nor a whole number of 63 bits");
        }
    }
    return 0;
}

static uint8_t *write_number(uint8_t *to, long long number)
{
    uint8_t digits[DIGITS_MAX], *first = digits + DIGITS_MAX;

    do {
        *--first = (uint8_t)('0' + number % 10);
        number /= 10;
    } while (number);
    memcpy(to, first, (size_t)(digits + DIGITS_MAX - first));
    return to + (digits + DIGITS_MAX - first);
}

static uint8_t *write_line(const struct lines *lines, Py_ssize_t at, uint8_t *to)
{
    PyObject *data = PyList_GET_ITEM(lines->datas, at);
    size_t size = (size_t)PyBytes_GET_SIZE(data) - 1;

    memcpy(to, PyBytes_AS_STRING(data), size);
    to += size;
    for (int piece = 0; piece < lines->piece_count; piece++) {
        PyObject *column = lines->pieces[piece].column, *value;
        if (!column) {
            memcpy(to, lines->pieces[piece].text.start, lines->pieces[piece].text.size);
            to += lines->pieces[piece].text.size;
            continue;
        }
        value = PyList_GET_ITEM(column, at);
        if (PyUnicode_CheckExact(value)) {
            size = (size_t)PyUnicode_GET_LENGTH(value);
            memcpy(to, PyUnicode_DATA(value), size);
            to += size;
        } else
            to = write_number(to, number_of(value));
    }
    return to;
}

/* each_line(datas: list[bytes], pieces: tuple[bytes | list[int] | list[str], ...]) -> list[bytes]
 *
 * Of each line its data without their last byte, and its value of every piece. */
static PyObject *each_line(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    struct lines lines;
    PyObject *all = NULL;
    size_t *sizes = NULL;

    (void)module;
    if (given != 2) {
        refuse("data and pieces are needed");
        return NULL;
    }
    if (open_lines(&lines, args[0], args[1]))
        return NULL;
    sizes = PyMem_New(size_t, lines.count + 1);
    all = PyList_New(lines.count);
    if (!sizes || !all || measure(&lines, sizes)) {
        if (!PyErr_Occurred())
            PyErr_NoMemory();
        Py_CLEAR(all);
    }
    for (Py_ssize_t at = 0; all && at < lines.count; at++) {
        PyObject *line = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)sizes[at]);
        if (line) {
            PyList_SET_ITEM(all, at, line);
            write_line(&lines, at, (uint8_t *)PyBytes_AS_STRING(line));
        } else
            Py_CLEAR(all);
    }
    PyMem_Free(sizes);
    return all;
}

/* The slots of lines: which one each has, by number, and of each the first line, and how many there are. */
struct slots {
    uint32_t *of_lines, *firsts, *counts;
    uint32_t count;
};

static int same_slot(PyObject *one, PyObject *other)
{
    return one == other || (PyUnicode_KIND(one) == PyUnicode_KIND(other) &&
                            PyUnicode_GET_LENGTH(one) == PyUnicode_GET_LENGTH(other) &&
                            !memcmp(PyUnicode_DATA(one), PyUnicode_DATA(other),
                                    (size_t)PyUnicode_GET_LENGTH(one) * PyUnicode_KIND(one)));
}

/* Number the slots in the order in which they first come. `table` has 2^bits places; -1 with an error set. */
static int number_slots(struct slots *slots, PyObject *names, uint32_t *table, int bits)
{
    size_t mask = ((size_t)1 << bits) - 1;
    PyObject *before = NULL;

    memset(table, 0xff, (mask + 1) * sizeof *table);
    for (Py_ssize_t at = 0; at < PyList_GET_SIZE(names); at++) {
        PyObject *name = PyList_GET_ITEM(names, at);
        Py_hash_t hash;
        size_t place;
        if (name == before) {
            slots->of_lines[at] = slots->of_lines[at - 1];
            slots->counts[slots->of_lines[at]]++;
            continue;
        }
        if (!PyUnicode_CheckExact(name))
            return refuse("a slot is a text");
        hash = PyObject_Hash(name);
        if (hash == -1)
            return -1;
        place = (size_t)hash & mask;
        while (table[place] != UINT32_MAX && !same_slot(name, PyList_GET_ITEM(names, slots->firsts[table[place]])))
            place = (place + 1) & mask;
        if (table[place] == UINT32_MAX) {
            table[place] = slots->count;
            slots->firsts[slots->count] = (uint32_t)at;
            slots->counts[slots->count++] = 0;
        }
        slots->of_lines[at] = table[place];
        slots->counts[table[place]]++;
        before = name;
    }
    return 0;
}

/* Make a triple for each slot, with nothing in it but a list of its size; NULL with an error set. */
static PyObject *make_triples(const struct slots *slots)
{
    PyObject *all = PyList_New(slots->count);

    for (uint32_t slot = 0; all && slot < slots->count; slot++) {
        PyObject *triple = PyTuple_New(3), *indexes = PyList_New(slots->counts[slot]);
        if (!triple || !indexes) {
            Py_XDECREF(triple);
            Py_XDECREF(indexes);
            Py_CLEAR(all);
            break;
        }
        PyTuple_SET_ITEM(triple, 1, indexes);
        PyList_SET_ITEM(all, slot, triple);
    }
    return all;
}

/* Write the lines of all slots; -1 with an error set. The texts are bytes, which no garbage collector looks at. */
static int write_slots(const struct lines *lines, const struct slots *slots, PyObject *names, PyObject *triples)
{
    size_t *sizes = PyMem_New(size_t, lines->count + 1), *totals = PyMem_Calloc(slots->count + 1, sizeof *totals);
    uint8_t **ends = PyMem_New(uint8_t *, slots->count + 1);
    uint32_t *filled = PyMem_Calloc(slots->count + 1, sizeof *filled);
    int outcome = -1;

    if (!sizes || !totals || !ends || !filled) {
        PyErr_NoMemory();
        goto end;
    }
    if (PyList_GET_SIZE(names) != lines->count) {
        refuse("the columns change");
        goto end;
    }
    if (measure(lines, sizes))
        goto end;
    for (Py_ssize_t at = 0; at < lines->count; at++)
        totals[slots->of_lines[at]] += sizes[at];
    for (uint32_t slot = 0; slot < slots->count; slot++) {
        PyObject *text = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)totals[slot]);
        PyObject *triple = PyList_GET_ITEM(triples, slot);
        if (!text)
            goto end;
        PyTuple_SET_ITEM(triple, 0, Py_NewRef(PyList_GET_ITEM(names, slots->firsts[slot])));
        PyTuple_SET_ITEM(triple, 2, text);
        ends[slot] = (uint8_t *)PyBytes_AS_STRING(text);
    }
    for (Py_ssize_t at = 0; at < lines->count; at++) {
        uint32_t slot = slots->of_lines[at];
        PyObject *index = PyLong_FromSsize_t(at);
        if (!index)
            goto end;
        PyList_SET_ITEM(PyTuple_GET_ITEM(PyList_GET_ITEM(triples, slot), 1), filled[slot]++, index);
        ends[slot] = write_line(lines, at, ends[slot]);
    }
    outcome = 0;
end:
    PyMem_Free(sizes);
    PyMem_Free(totals);
    PyMem_Free(ends);
    PyMem_Free(filled);
    return outcome;
}

/* lines_by_slot(datas: list[bytes], pieces: tuple[bytes | list[int] | list[str], ...], slots: list[str])
 *     -> list[tuple[str, list[int], bytes]]
 *
 * Each slot, in the order in which they first come, with the indexes of its lines and these as one text. */
static PyObject *lines_by_slot(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    struct lines lines;
    struct slots slots = {0};
    uint32_t *table = NULL;
    PyObject *triples = NULL;
    int bits = 3;

    (void)module;
    if (given != 3 || !PyList_CheckExact(args[2])) {
        refuse("data, pieces and a list of slots are needed");
        return NULL;
    }
    if (open_lines(&lines, args[0], args[1]))
        return NULL;
    if (PyList_GET_SIZE(args[2]) != lines.count || (size_t)lines.count >= UINT32_MAX / 4) {
        refuse("a slot is needed for each line");
        return NULL;
    }
    while (((Py_ssize_t)1 << bits) < 2 * lines.count)
        bits++;
    table = PyMem_New(uint32_t, (size_t)1 << bits);
    slots.of_lines = PyMem_New(uint32_t, lines.count + 1);
    slots.firsts = PyMem_New(uint32_t, lines.count + 1);
    slots.counts = PyMem_New(uint32_t, lines.count + 1);
    if (!table || !slots.of_lines || !slots.firsts || !slots.counts)
        PyErr_NoMemory();
    else if (!number_slots(&slots, args[2], table, bits))
        triples = make_triples(&slots);
    if (triples && write_slots(&lines, &slots, args[2], triples))
        Py_CLEAR(triples);
    PyMem_Free(table);
    PyMem_Free(slots.of_lines);
    PyMem_Free(slots.firsts);
    PyMem_Free(slots.counts);
    return triples;
}

PyMethodDef lines_methods[] = {
    {"each_line", (PyCFunction)(void (*)(void))each_line, METH_FASTCALL, NULL},
    {"lines_by_slot", (PyCFunction)(void (*)(void))lines_by_slot, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};
