/* Reads aggregates in KPL's format (shared/aggregation.py describes it), as its producers write them. */
#include "aggregate.h"

#define OVERHEAD (sizeof MAGIC + MD5_BYTES)
#define VARINT_MAX 5 /* bytes: more than a length or an index needs here */

/* are_aggregates(datas: list[bytes]) -> list[bool]
 *
 * Whether data begin with the magic, and end with the digest of what lies between. */
static PyObject *are_aggregates(PyObject *module, PyObject *datas)
{
    struct span *messages = NULL;
    uint8_t *found = NULL;
    PyObject *all = NULL;
    Py_ssize_t count, seen = 0;
    size_t pending = 0;

    (void)module;
    if (!PyList_CheckExact(datas)) {
        PyErr_SetString(PyExc_TypeError, "a list is needed");
        return NULL;
    }
    count = PyList_GET_SIZE(datas);
    all = PyList_New(count);
    messages = PyMem_New(struct span, count + 1);
    found = PyMem_New(uint8_t, MD5_BYTES * (count + 1));
    if (!all || !messages || !found || PyList_GET_SIZE(datas) != count) {
        if (!PyErr_Occurred())
            PyErr_NoMemory();
        goto failed;
    }
    for (Py_ssize_t at = 0; at < count; at++) {
        PyObject *data = PyList_GET_ITEM(datas, at);
        int is_candidate;
        if (!PyBytes_Check(data)) {
            PyErr_SetString(PyExc_TypeError, "bytes are needed");
            goto failed;
        }
        is_candidate =
            (size_t)PyBytes_GET_SIZE(data) > OVERHEAD && !memcmp(PyBytes_AS_STRING(data), MAGIC, sizeof MAGIC);
        if (is_candidate)
            messages[pending++] = (struct span){(const uint8_t *)PyBytes_AS_STRING(data) + sizeof MAGIC,
                                                (size_t)PyBytes_GET_SIZE(data) - OVERHEAD};
        PyList_SET_ITEM(all, at, Py_NewRef(is_candidate ? Py_True : Py_False));
    }
    md5_all(messages, pending, found);
    for (Py_ssize_t at = 0; at < count; at++) {
        const struct span *message = &messages[seen];
        if (PyList_GET_ITEM(all, at) != Py_True)
            continue;
        if (memcmp(message->start + message->size, found + MD5_BYTES * seen, MD5_BYTES))
            PyList_SetItem(all, at, Py_NewRef(Py_False));
        seen++;
    }
    goto end;
failed:
    Py_CLEAR(all);
end:
    PyMem_Free(messages);
    PyMem_Free(found);
    return all;
}

/* All readers below: 1 if it was read, 0 if it has to be read another way, -1 with an error set. */

static int take_varint(struct reader *reader, uint64_t *value)
{
    *value = 0;
    for (int count = 0; count < VARINT_MAX && reader->at < reader->end; count++) {
        uint8_t byte = *reader->at++;
        *value |= (uint64_t)(byte & 0x7f) << (7 * count);
        if (byte < 0x80)
            return 1;
    }
    return 0;
}

/* Take what a length stands before. */
static int take_span(struct reader *reader, struct span *span)
{
    uint64_t size;

    return take_varint(reader, &size) && take_bytes(reader, size, span);
}

/* Count keys and records. */
static int count_fields(struct reader reader, size_t *keys, size_t *records)
{
    struct span span;

    while (reader.at < reader.end) {
        uint8_t tag = *reader.at++;
        if ((tag != TAG_KEY && tag != TAG_RECORD) || !take_span(&reader, &span))
            return 0;
        *(tag == TAG_KEY ? keys : records) += 1;
    }
    return 1;
}

/* A record that is an index and data, in this order. */
static int read_record(struct span record, uint64_t *index, PyObject **data)
{
    struct reader reader = {record.start, record.start + record.size};
    struct span content;

    if (reader.at == reader.end || *reader.at++ != TAG_INDEX || !take_varint(&reader, index))
        return 0;
    if (reader.at == reader.end || *reader.at++ != TAG_DATA || !take_span(&reader, &content) || reader.at != reader.end)
        return 0;
    *data = PyBytes_FromStringAndSize((const char *)content.start, (Py_ssize_t)content.size);
    return *data ? 1 : -1;
}

/* Read all fields, of which so many were counted, into a table of keys, indexes in it and a list of data. */
static int read_fields(struct reader reader, PyObject **table, uint64_t *indexes, PyObject *datas)
{
    size_t keys = 0, records = 0;
    int outcome = 1;

    while (reader.at < reader.end && outcome == 1) {
        uint8_t tag = *reader.at++;
        struct span span;
        PyObject *data = NULL;
        if (!take_span(&reader, &span))
            return 0;
        if (tag == TAG_KEY) {
            outcome = read_utf8(span, &table[keys]); /* what is none is left to who replaces it */
            keys += outcome == 1;
            continue;
        }
        outcome = read_record(span, &indexes[records], &data);
        if (outcome == 1)
            PyList_SET_ITEM(datas, (Py_ssize_t)records++, data);
    }
    return outcome;
}

/* read_aggregate(data: bytes, records_max: int) -> tuple[list[bytes], list[str]] | None
 *
 * Data and keys of the members of what are_aggregates tells to be one; None if it has to be read another way: there is
 * more in it, or less, than keys, and records with a key of these each. */
static PyObject *read_aggregate(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    PyObject *answer = NULL, *datas = NULL, *own_keys = NULL, **table = NULL;
    uint64_t *indexes = NULL;
    size_t keys = 0, records = 0;
    struct reader reader;
    Py_ssize_t records_max;
    int outcome = -1;

    (void)module;
    if (given != 2 || !PyBytes_Check(args[0]) || !PyLong_CheckExact(args[1]) ||
        (size_t)PyBytes_GET_SIZE(args[0]) < OVERHEAD) {
        PyErr_SetString(PyExc_TypeError, "an aggregate and a number are needed");
        return NULL;
    }
    records_max = PyLong_AsSsize_t(args[1]);
    if (records_max < 0 && PyErr_Occurred())
        return NULL;
    reader.at = (const uint8_t *)PyBytes_AS_STRING(args[0]) + sizeof MAGIC;
    reader.end = (const uint8_t *)PyBytes_AS_STRING(args[0]) + PyBytes_GET_SIZE(args[0]) - MD5_BYTES;
    if (!count_fields(reader, &keys, &records) || (Py_ssize_t)records > records_max)
        Py_RETURN_NONE;
    table = PyMem_Calloc(keys + 1, sizeof *table);
    indexes = PyMem_New(uint64_t, records + 1);
    datas = PyList_New((Py_ssize_t)records);
    own_keys = PyList_New((Py_ssize_t)records);
    if (!table || !indexes || !datas || !own_keys)
        PyErr_NoMemory();
    else
        outcome = read_fields(reader, table, indexes, datas);
    for (size_t at = 0; at < records && outcome == 1; at++) {
        if (indexes[at] >= keys)
            outcome = 0;
        else
            PyList_SET_ITEM(own_keys, (Py_ssize_t)at, Py_NewRef(table[indexes[at]]));
    }
    if (outcome == 1)
        answer = PyTuple_Pack(2, datas, own_keys);
    else if (outcome == 0)
        answer = Py_NewRef(Py_None);
    for (size_t at = 0; table && at < keys; at++)
        Py_XDECREF(table[at]);
    PyMem_Free(table);
    PyMem_Free(indexes);
    Py_XDECREF(datas);
    Py_XDECREF(own_keys);
    return answer;
}

/* size_of_plain(datas: list[bytes]) -> int | None
 *
 * How many bytes they have together; None if one is not less than the magic: an aggregate begins with it. */
static PyObject *size_of_plain(PyObject *module, PyObject *datas)
{
    Py_ssize_t all = 0;

    (void)module;
    if (!PyList_CheckExact(datas)) {
        PyErr_SetString(PyExc_TypeError, "a list is needed");
        return NULL;
    }
    for (Py_ssize_t at = 0; at < PyList_GET_SIZE(datas); at++) {
        PyObject *data = PyList_GET_ITEM(datas, at);
        size_t size;
        int order;
        if (!PyBytes_Check(data)) {
            PyErr_SetString(PyExc_TypeError, "bytes are needed");
            return NULL;
        }
        size = (size_t)PyBytes_GET_SIZE(data);
        order = memcmp(PyBytes_AS_STRING(data), MAGIC, size < sizeof MAGIC ? size : sizeof MAGIC);
        if (order > 0 || (!order && size >= sizeof MAGIC))
            Py_RETURN_NONE;
        all += (Py_ssize_t)size;
    }
    return PyLong_FromSsize_t(all);
}

PyMethodDef member_methods[] = {
    {"are_aggregates", are_aggregates, METH_O, NULL},
    {"read_aggregate", (PyCFunction)(void (*)(void))read_aggregate, METH_FASTCALL, NULL},
    {"size_of_plain", size_of_plain, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
