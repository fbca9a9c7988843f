/* The records of an answer to GetRecords in CBOR (shared/aws/cbor_page.py), of the fields that are known. */
#include "columns.h"

#define UNSIGNED 0
#define BYTES 2
#define TEXT 3
#define MAP 0xa0
#define MAP_WITH_END 0xbf
#define END 0xff
#define TIME_TAG 0xc1
#define MILLISECONDS 1000.0
#define EXACT_MAX ((uint64_t)1 << 53) /* so many milliseconds are exact, and so their division is rounded once */

enum { DATA, KEY, NUMBER, ARRIVAL, VALUES, ENCRYPTION = VALUES, FIELDS };

static const struct {
    const char *name; /* with its head */
    size_t size;
} NAMES[FIELDS] = {
#define NAME(text) {text, sizeof text - 1}
    NAME("\x64" "Data"),
    NAME("\x6c" "PartitionKey"),
    NAME("\x6e" "SequenceNumber"),
    NAME("\x78\x1b" "ApproximateArrivalTimestamp"),
    NAME("\x6e" "EncryptionType"),
};

struct reader {
    const uint8_t *at;
    const uint8_t *end;
};

/* All readers below: 1 if it was read, 0 if it has to be read another way, -1 with an error set. */

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

    if (!take_head(reader, major, &size) || size > (uint64_t)(reader->end - reader->at))
        return 0;
    *span = (struct span){reader->at, (size_t)size};
    reader->at += size;
    return 1;
}

static int take_byte(struct reader *reader, uint8_t byte)
{
    if (reader->at == reader->end || *reader->at != byte)
        return 0;
    reader->at++;
    return 1;
}

static int read_arrival(struct reader *reader, PyObject **value)
{
    uint64_t milliseconds;

    if (!take_byte(reader, TIME_TAG) || !take_head(reader, UNSIGNED, &milliseconds) || milliseconds > EXACT_MAX)
        return 0;
    *value = PyFloat_FromDouble((double)milliseconds / MILLISECONDS);
    return *value ? 1 : -1;
}

static int read_value(struct reader *reader, int field, PyObject **values)
{
    struct span span;
    PyObject *text = NULL;
    int outcome;

    if (field == ARRIVAL)
        return read_arrival(reader, &values[ARRIVAL]);
    if (!take_span(reader, field == DATA ? BYTES : TEXT, &span))
        return 0;
    switch (field) {
    case DATA:
        values[DATA] = PyBytes_FromStringAndSize((const char *)span.start, (Py_ssize_t)span.size);
        return values[DATA] ? 1 : -1;
    case KEY:
        return read_utf8(span, &values[KEY]);
    case NUMBER:
        return read_sequence_number(span, &values[NUMBER]);
    default:
        outcome = read_utf8(span, &text);
        Py_XDECREF(text);
        return outcome;
    }
}

/* The field whose name stands here, which is taken; `guess` is tried first. FIELDS if there is none. */
static int take_name(struct reader *reader, int guess)
{
    for (int tried = 0; tried < FIELDS; tried++) {
        int field = (guess + tried) % FIELDS;
        size_t size = NAMES[field].size;
        if ((size_t)(reader->end - reader->at) >= size && !memcmp(reader->at, NAMES[field].name, size)) {
            reader->at += size;
            return field;
        }
    }
    return FIELDS;
}

/* Read a record; `order` is that of the fields of the one before it, and becomes its own. */
static int read_record(struct reader *reader, int order[FIELDS], PyObject *values[VALUES])
{
    unsigned seen = 0;
    int has_end = take_byte(reader, MAP_WITH_END), left = FIELDS;

    if (!has_end) {
        if (reader->at == reader->end || *reader->at < MAP || *reader->at > MAP + FIELDS)
            return 0;
        left = *reader->at++ - MAP;
    }
    for (int count = 0; count < left && !(has_end && take_byte(reader, END)); count++) {
        int field = take_name(reader, order[count]), outcome;
        if (field == FIELDS || seen & 1u << field)
            return 0;
        seen |= 1u << field;
        order[count] = field;
        outcome = read_value(reader, field, values);
        if (outcome != 1)
            return outcome;
        if (has_end && count == FIELDS - 1 && !take_byte(reader, END))
            return 0;
    }
    return (seen & ((1u << VALUES) - 1)) == (1u << VALUES) - 1;
}

/* Read so many records, or, if that is negative, up to the end that is marked and taken. */
static int read_all(struct reader *reader, Py_ssize_t count, PyObject *columns[VALUES])
{
    int order[FIELDS] = {NUMBER, ARRIVAL, DATA, KEY, ENCRYPTION};
    int has_end = count < 0, outcome = 1;

    while (outcome == 1 && (has_end ? !take_byte(reader, END) : count-- > 0)) {
        PyObject *values[VALUES] = {NULL};
        outcome = read_record(reader, order, values);
        for (int field = 0; field < VALUES && outcome == 1; field++)
            if (PyList_Append(columns[field], values[field]))
                outcome = -1;
        for (int field = 0; field < VALUES; field++)
            Py_XDECREF(values[field]);
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
    PyObject *columns[VALUES] = {NULL}, *answer = NULL;
    struct reader reader;
    Py_ssize_t start, count;
    int outcome = 1;

    (void)module;
    if (given != 3 || !PyBytes_CheckExact(args[0]) || !PyLong_CheckExact(args[1]) || !PyLong_CheckExact(args[2])) {
        PyErr_SetString(PyExc_TypeError, "bytes, a place and a number are needed");
        return NULL;
    }
    start = PyLong_AsSsize_t(args[1]);
    count = PyLong_AsSsize_t(args[2]);
    if (PyErr_Occurred())
        return NULL;
    if (start < 0 || start > PyBytes_GET_SIZE(args[0])) {
        PyErr_SetString(PyExc_TypeError, "the place is outside");
        return NULL;
    }
    reader.at = (const uint8_t *)PyBytes_AS_STRING(args[0]) + start;
    reader.end = (const uint8_t *)PyBytes_AS_STRING(args[0]) + PyBytes_GET_SIZE(args[0]);
    for (int field = 0; field < VALUES; field++)
        if (!(columns[field] = PyList_New(0)))
            outcome = -1;
    if (outcome == 1)
        outcome = read_all(&reader, count, columns);
    if (outcome == 1)
        answer = Py_BuildValue("OOOOn", columns[DATA], columns[KEY], columns[NUMBER], columns[ARRIVAL],
                               (Py_ssize_t)(reader.at - (const uint8_t *)PyBytes_AS_STRING(args[0])));
    else if (outcome == 0)
        answer = Py_NewRef(Py_None);
    for (int field = 0; field < VALUES; field++)
        Py_XDECREF(columns[field]);
    return answer;
}

PyMethodDef cbor_page_methods[] = {
    {"read_records_cbor", (PyCFunction)(void (*)(void))read_records_cbor, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};
