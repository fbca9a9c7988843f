/* Aggregates in KPL's format (shared/aggregation.py describes it) of user records without explicit hash keys. */
#include "aggregate.h"

/* The user records of one aggregate. */
struct group {
    PyObject *datas; /* borrowed: a list of bytes */
    PyObject *keys;  /* borrowed: a list of str */
    uint32_t *indexes; /* of each record's key in the table */
    uint32_t *firsts;  /* the first record that has each key of the table */
    size_t count;
    size_t unique;
    size_t message; /* bytes */
};

static size_t varint_size(size_t value)
{
    size_t size = 1;
    while (value >>= 7)
        size++;
    return size;
}

static uint8_t *write_varint(uint8_t *to, size_t value)
{
    while (value >= 0x80) {
        *to++ = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    *to++ = (uint8_t)value;
    return to;
}

static int same_text(PyObject *one, PyObject *other)
{
    Py_ssize_t size = PyUnicode_GET_LENGTH(one); /* both are ASCII */
    return one == other || (size == PyUnicode_GET_LENGTH(other) &&
                            !memcmp(PyUnicode_DATA(one), PyUnicode_DATA(other), (size_t)size));
}

/* Number the keys in the order in which they first come. `slots` is a table of 2^bits places; -1 with an error set. */
static int number_keys(struct group *group, uint32_t *slots, int bits)
{
    size_t mask = ((size_t)1 << bits) - 1;

    memset(slots, 0xff, (mask + 1) * sizeof *slots);
    for (size_t at = 0; at < group->count; at++) {
        PyObject *key = PyList_GET_ITEM(group->keys, at);
        Py_hash_t hash = PyObject_Hash(key);
        size_t place = (size_t)hash & mask;
        if (hash == -1)
            return -1;
        while (slots[place] != UINT32_MAX &&
               !same_text(key, PyList_GET_ITEM(group->keys, group->firsts[slots[place]])))
            place = (place + 1) & mask;
        if (slots[place] == UINT32_MAX) {
            slots[place] = (uint32_t)group->unique;
            group->firsts[group->unique++] = (uint32_t)at;
        }
        group->indexes[at] = slots[place];
    }
    return 0;
}

static size_t member_size(uint32_t index, size_t size)
{
    return 1 + varint_size(index) + 1 + varint_size(size) + size;
}

/* Look at the records: 1 if they can be written here, 0 if not (a key that is not ASCII), -1 with an error set. */
static int measure(struct group *group)
{
    int bits = 3, outcome = 0;
    uint32_t *slots;

    for (size_t at = 0; at < group->count; at++) {
        PyObject *key = PyList_GET_ITEM(group->keys, at);
        if (!PyBytes_Check(PyList_GET_ITEM(group->datas, at)) || !PyUnicode_CheckExact(key) || !PyUnicode_IS_ASCII(key))
            return 0;
    }
    while (((size_t)1 << bits) < 2 * group->count)
        bits++;
    slots = PyMem_New(uint32_t, (size_t)1 << bits);
    group->indexes = PyMem_New(uint32_t, group->count + 1);
    group->firsts = PyMem_New(uint32_t, group->count + 1);
    if (!slots || !group->indexes || !group->firsts) {
        PyErr_NoMemory();
        outcome = -1;
    } else
        outcome = number_keys(group, slots, bits);
    PyMem_Free(slots);
    if (outcome)
        return -1;
    for (size_t at = 0; at < group->unique; at++) {
        size_t size = (size_t)PyUnicode_GET_LENGTH(PyList_GET_ITEM(group->keys, group->firsts[at]));
        group->message += 1 + varint_size(size) + size;
    }
    for (size_t at = 0; at < group->count; at++) {
        size_t size = member_size(group->indexes[at], (size_t)PyBytes_GET_SIZE(PyList_GET_ITEM(group->datas, at)));
        group->message += 1 + varint_size(size) + size;
    }
    return 1;
}

static uint8_t *write_message(const struct group *group, uint8_t *to)
{
    for (size_t at = 0; at < group->unique; at++) {
        PyObject *key = PyList_GET_ITEM(group->keys, group->firsts[at]);
        size_t size = (size_t)PyUnicode_GET_LENGTH(key);
        *to++ = TAG_KEY;
        to = write_varint(to, size);
        memcpy(to, PyUnicode_DATA(key), size);
        to += size;
    }
    for (size_t at = 0; at < group->count; at++) {
        PyObject *data = PyList_GET_ITEM(group->datas, at);
        size_t size = (size_t)PyBytes_GET_SIZE(data);
        *to++ = TAG_RECORD;
        to = write_varint(to, member_size(group->indexes[at], size));
        *to++ = TAG_INDEX;
        to = write_varint(to, group->indexes[at]);
        *to++ = TAG_DATA;
        to = write_varint(to, size);
        memcpy(to, PyBytes_AS_STRING(data), size);
        to += size;
    }
    return to;
}

/* Fill a list with all aggregates but their digests, then write these together; 0, or -1 with an error set. No code of
 * Python runs between the look at the groups and this: the list, which the collector knows, was made before. */
static int write_groups(const struct group *groups, size_t count, PyObject *all)
{
    int outcome = 0;
    struct span *messages = PyMem_New(struct span, count + 1);
    uint8_t *found = PyMem_New(uint8_t, MD5_BYTES * (count + 1));

    if (!messages || !found) {
        PyErr_NoMemory();
        outcome = -1;
    }
    for (size_t at = 0; !outcome && at < count; at++) {
        size_t size = sizeof MAGIC + groups[at].message + MD5_BYTES;
        PyObject *aggregate = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
        if (!aggregate) {
            outcome = -1;
            break;
        }
        PyList_SET_ITEM(all, (Py_ssize_t)at, aggregate);
        memcpy(PyBytes_AS_STRING(aggregate), MAGIC, sizeof MAGIC);
        messages[at] = (struct span){(uint8_t *)PyBytes_AS_STRING(aggregate) + sizeof MAGIC, groups[at].message};
        write_message(&groups[at], (uint8_t *)PyBytes_AS_STRING(aggregate) + sizeof MAGIC);
    }
    if (!outcome) {
        md5_all(messages, count, found);
        for (size_t at = 0; at < count; at++)
            memcpy((uint8_t *)messages[at].start + messages[at].size, found + MD5_BYTES * at, MD5_BYTES);
    }
    PyMem_Free(messages);
    PyMem_Free(found);
    return outcome;
}

/* encode_aggregates(groups: list[tuple[list[bytes], list[str]]]) -> list[bytes] | None
 *
 * The data of an aggregate of each group, of which none is empty; None if a group has to be written another way. */
static PyObject *encode_aggregates(PyObject *module, PyObject *given)
{
    PyObject *all = NULL;
    struct group *groups;
    size_t count, at;
    int outcome = 1;

    (void)module;
    if (!PyList_CheckExact(given)) {
        PyErr_SetString(PyExc_TypeError, "a list is needed");
        return NULL;
    }
    count = (size_t)PyList_GET_SIZE(given);
    all = PyList_New((Py_ssize_t)count);
    groups = PyMem_Calloc(count + 1, sizeof *groups);
    if (!all || !groups) {
        Py_XDECREF(all);
        PyMem_Free(groups);
        return PyErr_NoMemory();
    }
    if ((size_t)PyList_GET_SIZE(given) != count) { /* as a list is made, the collector may run code of Python */
        PyErr_SetString(PyExc_TypeError, "the list of groups was changed under way");
        outcome = -1;
        count = 0;
    }
    for (at = 0; at < count && outcome == 1; at++) {
        PyObject *pair = PyList_GET_ITEM(given, (Py_ssize_t)at), *datas, *keys;
        if (!PyTuple_CheckExact(pair) || PyTuple_GET_SIZE(pair) != 2) {
            PyErr_SetString(PyExc_TypeError, "a group is a pair of lists");
            outcome = -1;
            break;
        }
        datas = PyTuple_GET_ITEM(pair, 0);
        keys = PyTuple_GET_ITEM(pair, 1);
        if (!PyList_CheckExact(datas) || !PyList_CheckExact(keys) ||
            PyList_GET_SIZE(datas) != PyList_GET_SIZE(keys) || !PyList_GET_SIZE(datas) ||
            (size_t)PyList_GET_SIZE(datas) >= UINT32_MAX / 4) {
            PyErr_SetString(PyExc_TypeError, "a group is a pair of lists, as long as each other and not empty");
            outcome = -1;
            break;
        }
        groups[at].datas = datas;
        groups[at].keys = keys;
        groups[at].count = (size_t)PyList_GET_SIZE(datas);
        outcome = measure(&groups[at]);
    }
    if (outcome == 1 && write_groups(groups, count, all))
        outcome = -1;
    if (outcome == 0)
        Py_SETREF(all, Py_NewRef(Py_None));
    else if (outcome < 0)
        Py_CLEAR(all);
    for (at = 0; at < count; at++) {
        PyMem_Free(groups[at].indexes);
        PyMem_Free(groups[at].firsts);
    }
    PyMem_Free(groups);
    return all;
}

PyMethodDef aggregate_methods[] = {
    {"encode_aggregates", encode_aggregates, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
