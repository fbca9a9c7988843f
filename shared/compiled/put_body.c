/* The body of PutRecords, byte for byte as shared/aws/kinesis_wire.py writes it. */
#include "columns.h"

/* What stands around the three values of an entry. */
static const char DATA[] = "{\"Data\": \"", KEY[] = "\", \"PartitionKey\": \"", HASH_KEY[] = "\", \"ExplicitHashKey\": \"",
                  END[] = "\"}, ";

#define SIZE(text) (sizeof(text) - 1)

/* What is written of an entry. */
struct entry {
    PyObject *data;     /* owned: bytes in base64 */
    PyObject *key;      /* owned: a text that JSON has as it is */
    PyObject *hash_key; /* owned: its digits; NULL if it has none */
};

/* Whether JSON has a text as it is, between quotes. */
static int is_plain(PyObject *text)
{
    const uint8_t *start;

    if (!PyUnicode_CheckExact(text) || !PyUnicode_IS_ASCII(text))
        return 0;
    start = PyUnicode_DATA(text);
    for (Py_ssize_t at = 0; at < PyUnicode_GET_LENGTH(text); at++)
        if (start[at] < ' ' || start[at] > '~' || start[at] == '"' || start[at] == '\\')
            return 0;
    return 1;
}

/* Make an entry ready: 1, 0 if it is no ordinary one, -1 with an error set. */
static int read_entry(PyObject *given, PyObject *encode, struct entry *entry)
{
    PyObject *data;

    if (!PyTuple_Check(given) || PyTuple_GET_SIZE(given) != 3)
        return 0;
    data = PyTuple_GET_ITEM(given, 0);
    if (!PyBytes_CheckExact(data) || !is_plain(PyTuple_GET_ITEM(given, 1)))
        return 0;
    entry->key = Py_NewRef(PyTuple_GET_ITEM(given, 1));
    if (PyTuple_GET_ITEM(given, 2) != Py_None) {
        if (!PyLong_CheckExact(PyTuple_GET_ITEM(given, 2)))
            return 0;
        entry->hash_key = PyObject_Str(PyTuple_GET_ITEM(given, 2));
        if (!entry->hash_key)
            return -1;
    }
    entry->data = PyObject_CallOneArg(encode, data);
    if (!entry->data)
        return -1;
    return PyBytes_CheckExact(entry->data);
}

static char *put(char *to, const void *from, size_t size)
{
    memcpy(to, from, size);
    return to + size;
}

static size_t text_size(PyObject *text) { return (size_t)PyUnicode_GET_LENGTH(text); }

static size_t entry_size(const struct entry *entry)
{
    return SIZE(DATA) + (size_t)PyBytes_GET_SIZE(entry->data) + SIZE(KEY) + text_size(entry->key) +
           (entry->hash_key ? SIZE(HASH_KEY) + text_size(entry->hash_key) : 0) + SIZE(END);
}

static char *write_entry(char *to, const struct entry *entry)
{
    to = put(to, DATA, SIZE(DATA));
    to = put(to, PyBytes_AS_STRING(entry->data), (size_t)PyBytes_GET_SIZE(entry->data));
    to = put(to, KEY, SIZE(KEY));
    to = put(to, PyUnicode_DATA(entry->key), text_size(entry->key));
    if (entry->hash_key) {
        to = put(to, HASH_KEY, SIZE(HASH_KEY));
        to = put(to, PyUnicode_DATA(entry->hash_key), text_size(entry->hash_key));
    }
    return put(to, END, SIZE(END));
}

/* Write all entries between `head` and `]}`; without the comma behind the last one. */
static PyObject *write_body(PyObject *head, const struct entry *entries, size_t count)
{
    size_t size = (size_t)PyBytes_GET_SIZE(head) + 2;
    PyObject *body;
    char *to;

    for (size_t at = 0; at < count; at++)
        size += entry_size(&entries[at]);
    if (count)
        size -= 2;
    body = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (!body)
        return NULL;
    to = put(PyBytes_AS_STRING(body), PyBytes_AS_STRING(head), (size_t)PyBytes_GET_SIZE(head));
    for (size_t at = 0; at < count; at++)
        to = write_entry(to, &entries[at]);
    memcpy(count ? to - 2 : to, "]}", 2);
    return body;
}

/* put_body(head: bytes, entries: list, encode) -> bytes | None: columns.py says how. */
static PyObject *put_body(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    struct entry *entries;
    PyObject *body = NULL;
    size_t count;
    int outcome = 1;

    (void)module;
    if (given != 3 || !PyBytes_CheckExact(args[0]) || !PyList_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError, "bytes, a list of entries and a function are needed");
        return NULL;
    }
    count = (size_t)PyList_GET_SIZE(args[1]);
    entries = PyMem_Calloc(count + 1, sizeof *entries);
    if (!entries)
        return PyErr_NoMemory();
    for (size_t at = 0; outcome == 1 && at < count; at++) {
        PyObject *entry;
        if ((size_t)PyList_GET_SIZE(args[1]) != count) { /* `encode` may run anything */
            outcome = 0;
            break;
        }
        entry = Py_NewRef(PyList_GET_ITEM(args[1], at));
        outcome = read_entry(entry, args[2], &entries[at]);
        Py_DECREF(entry);
    }
    if (outcome == 1)
        body = write_body(args[0], entries, count);
    else if (outcome == 0)
        body = Py_NewRef(Py_None);
    for (size_t at = 0; at < count; at++) {
        Py_XDECREF(entries[at].data);
        Py_XDECREF(entries[at].key);
        Py_XDECREF(entries[at].hash_key);
    }
    PyMem_Free(entries);
    return body;
}

PyMethodDef put_body_methods[] = {
    {"put_body", (PyCFunction)(void (*)(void))put_body, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};
