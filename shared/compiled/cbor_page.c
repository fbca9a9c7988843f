/* The records of an answer to GetRecords in CBOR (shared/aws/cbor_page.py), of the fields that are known. */
#include "page.h"

#define UNSIGNED 0
#define BYTES 2
#define TEXT 3
#define MAP 0xa0
#define MAP_WITH_END 0xbf
#define END 0xff
#define TIME_TAG 0xc1
#define MILLISECONDS 1000.0

static const struct opening NAMES[FIELDS] = {
    /* with their heads */
    OPENING("\x64" "Data"),
    OPENING("\x6c" "PartitionKey"),
    OPENING("\x6e" "SequenceNumber"),
    OPENING("\x78\x1b" "ApproximateArrivalTimestamp"),
    OPENING("\x6e" "EncryptionType"),
};

/* Take the head of a value of a type, and the number in it. */
static int take_head(struct reader *reader, int major, uint64_t *number)
{
    int code, size;

    if (reader->at == reader->end || *reader->at >> 5 != major)
        return 0;
    code = *reader->at++ & 0x1f;
    if (code < 24) {
        *number = (uint64_t)code;
        return 1;
    }
    if (code > 27 || reader->end - reader->at < (size = 1 << (code - 24)))
        return 0;
    for (*number = 0; size; size--)
        *number = *number << 8 | *reader->at++;
    return 1;
}

static int take_span(struct reader *reader, int major, struct span *span)
{
    uint64_t size;

    return take_head(reader, major, &size) && take_bytes(reader, size, span);
}

static int read_arrival(struct reader *reader, PyObject **value)
{
    uint64_t milliseconds;

    if (!take_byte(reader, TIME_TAG) || !take_head(reader, UNSIGNED, &milliseconds) || milliseconds > EXACT_MAX)
        return 0;
    *value = PyFloat_FromDouble((double)milliseconds / MILLISECONDS);
    return *value ? 1 : -1;
}

static int read_value(struct reader *reader, int field, PyObject *values[FIELDS])
{
    struct span span;

    if (field == ARRIVAL)
        return read_arrival(reader, &values[ARRIVAL]);
    if (!take_span(reader, field == DATA ? BYTES : TEXT, &span))
        return 0;
    switch (field) {
    case DATA:
        values[DATA] = PyBytes_FromStringAndSize((const char *)span.start, (Py_ssize_t)span.size);
        return values[DATA] ? 1 : -1;
    case NUMBER:
        return read_sequence_number(span, &values[NUMBER]);
    default:
        return read_utf8(span, &values[field]);
    }
}

/* Read a record; `order` is that of the fields of the one before it, and becomes its own. */
static int read_record(struct reader *reader, int order[FIELDS], PyObject *values[FIELDS])
{
    unsigned seen = 0;
    int has_end = take_byte(reader, MAP_WITH_END), left = FIELDS;

    if (!has_end) {
        if (reader->at == reader->end || *reader->at < MAP || *reader->at > MAP + FIELDS)
            return 0;
        left = *reader->at++ - MAP;
    }
    for (int count = 0; count < left && !(has_end && take_byte(reader, END)); count++) {
        int field = take_opening(reader, NAMES, &order[count], &seen), outcome;
        if (field == FIELDS)
            return 0;
        outcome = read_value(reader, field, values);
        if (outcome != 1)
            return outcome;
        if (has_end && count == FIELDS - 1 && !take_byte(reader, END))
            return 0;
    }
    return is_whole(seen);
}

static int read_all(struct reader *reader, Py_ssize_t count, PyObject *columns[VALUES])
{
    int order[FIELDS] = USUAL_ORDER, has_end = count < 0, outcome = 1;

    while (outcome == 1 && (has_end ? !take_byte(reader, END) : count-- > 0)) {
        PyObject *values[FIELDS] = {NULL};
        outcome = append_record(read_record(reader, order, values), values, columns);
    }
    return outcome;
}

/* read_records_cbor(body: bytes, at: int, count: int)
 *     -> tuple[list[bytes], list[str], list[str], list[float], int] | None
 *
 * Data, keys, sequence numbers and arrivals of so many records, of which the first one begins at `at`, and where they
 * end; with a negative count, their end is marked. None if one of them has to be read another way. */
static PyObject *read_records_cbor(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Py_ssize_t count;

    (void)module;
    if (given != 3 || !PyLong_CheckExact(args[2])) {
        PyErr_SetString(PyExc_TypeError, "bytes, a place and a number are needed");
        return NULL;
    }
    count = PyLong_AsSsize_t(args[2]);
    if (PyErr_Occurred())
        return NULL;
    return read_page(args[0], args[1], count, read_all);
}

PyMethodDef cbor_page_methods[] = {
    {"read_records_cbor", (PyCFunction)(void (*)(void))read_records_cbor, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};
