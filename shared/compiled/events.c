/* Events are written and looked at: what producer/api.py and producer/stage.py do before they queue them. */
#include "columns.h"

/* What an ordinary event is: a tuple of (orjson.dumps, field of the partition key, field of the id, most bytes without
 * the last brace, most opening brackets). All borrowed. */
struct rules {
    PyObject *dumps, *key_field, *id_field;
    Py_ssize_t bytes_max;
    Py_ssize_t openings_max;
};

static int read_rules(PyObject *given, struct rules *rules)
{
    if (!PyTuple_CheckExact(given) || PyTuple_GET_SIZE(given) != 5 || !PyUnicode_CheckExact(PyTuple_GET_ITEM(given, 1)) ||
        !PyUnicode_CheckExact(PyTuple_GET_ITEM(given, 2)) || !PyLong_CheckExact(PyTuple_GET_ITEM(given, 3)) ||
        !PyLong_CheckExact(PyTuple_GET_ITEM(given, 4))) {
        PyErr_SetString(PyExc_TypeError, "rules are a tuple of a function, two fields and two bounds");
        return -1;
    }
    rules->dumps = PyTuple_GET_ITEM(given, 0);
    rules->key_field = PyTuple_GET_ITEM(given, 1);
    rules->id_field = PyTuple_GET_ITEM(given, 2);
    rules->bytes_max = PyLong_AsSsize_t(PyTuple_GET_ITEM(given, 3));
    rules->openings_max = PyLong_AsSsize_t(PyTuple_GET_ITEM(given, 4));
    return PyErr_Occurred() ? -1 : 0;
}

/* Count opening brackets, those in strings, too. */
static Py_ssize_t opening_count(const uint8_t *text, Py_ssize_t size)
{
    Py_ssize_t count = 0;

    while (size > 0) {
        Py_ssize_t part = size < 255 ? size : 255; /* so many fit a byte, which is counted in as wide as can be */
        uint8_t found = 0;
        for (Py_ssize_t at = 0; at < part; at++)
            found = (uint8_t)(found + ((text[at] | 0x20) == '{')); /* `[` differs by that bit only */
        count += found;
        text += part;
        size -= part;
    }
    return count;
}

/* Write an event and take its last brace off: 1, 0 if it is no ordinary one, -1 with an error set. The event is kept
 * alive by the caller, as writing it may run code of Python. */
static int write_body(const struct rules *rules, PyObject *event, PyObject **body)
{
    PyObject *text = PyObject_CallOneArg(rules->dumps, event);
    Py_ssize_t size;
    int is_ordinary;

    if (!text) {
        if (!PyErr_ExceptionMatches(PyExc_TypeError)) /* orjson's own error is one: the closer look tells why */
            return -1;
        PyErr_Clear();
        return 0;
    }
    /* Copied at once: a result of orjson that is kept keeps 4 KiB alive. */
    size = PyBytes_CheckExact(text) ? PyBytes_GET_SIZE(text) - 1 : 0;
    is_ordinary = size > 1 && size <= rules->bytes_max &&
                  opening_count((const uint8_t *)PyBytes_AS_STRING(text), size) <= rules->openings_max;
    *body = is_ordinary ? PyBytes_FromStringAndSize(PyBytes_AS_STRING(text), size) : NULL;
    Py_DECREF(text);
    return !is_ordinary ? 0 : *body ? 1 : -1;
}

/* Find the partition key of an event that brings no id: 1 with a reference, 0 if it is no ordinary one, or -1. */
static int find_key(const struct rules *rules, PyObject *event, PyObject *given, PyObject **key)
{
    PyObject *found = given;
    int has_id;

    *key = NULL;
    if (!PyDict_CheckExact(event))
        return 0;
    has_id = PyDict_Contains(event, rules->id_field);
    if (has_id)
        return has_id < 0 ? -1 : 0;
    if (given == Py_None)
        found = PyDict_GetItemWithError(event, rules->key_field);
    if (!found || !PyUnicode_CheckExact(found))
        return PyErr_Occurred() ? -1 : 0;
    *key = Py_NewRef(found);
    return 1;
}

/* encode_events(events: list, rules) -> tuple[list[bytes], list[str]] | None */
static PyObject *encode_events(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    struct rules rules;
    PyObject *bodies, *keys, *both = NULL;
    int outcome = 1;

    (void)module;
    if (given != 2 || !PyList_CheckExact(args[0])) {
        PyErr_SetString(PyExc_TypeError, "a list of events and rules are needed");
        return NULL;
    }
    if (read_rules(args[1], &rules))
        return NULL;
    bodies = PyList_New(0);
    keys = PyList_New(0);
    if (!bodies || !keys)
        outcome = -1;
    for (Py_ssize_t at = 0; outcome == 1 && at < PyList_GET_SIZE(args[0]); at++) {
        PyObject *event = Py_NewRef(PyList_GET_ITEM(args[0], at)), *body = NULL, *key = NULL;
        outcome = find_key(&rules, event, Py_None, &key);
        if (outcome == 1)
            outcome = write_body(&rules, event, &body);
        if (outcome == 1 && (PyList_Append(bodies, body) || PyList_Append(keys, key)))
            outcome = -1;
        Py_XDECREF(body);
        Py_XDECREF(key);
        Py_DECREF(event);
    }
    if (outcome == 1)
        both = PyTuple_Pack(2, bodies, keys);
    else if (outcome == 0)
        both = Py_NewRef(Py_None);
    Py_XDECREF(bodies);
    Py_XDECREF(keys);
    return both;
}

/* stage_event(event, partition_key, rules, indexes: dict, bodies: list, keys: list) -> int
 *
 * Append an event that lacks its last brace, and its key, and return how many there are then; 0, and nothing is done,
 * if it is no ordinary event, its key is not in `indexes`, or nothing is in the lists. */
static PyObject *stage_event(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    struct rules rules;
    PyObject *event, *body = NULL, *key = NULL;
    Py_ssize_t count = 0;
    int outcome;

    (void)module;
    if (given != 6 || !PyDict_Check(args[3]) || !PyList_CheckExact(args[4]) || !PyList_CheckExact(args[5])) {
        PyErr_SetString(PyExc_TypeError, "an event, its key, rules, lanes and two lists are needed");
        return NULL;
    }
    if (read_rules(args[2], &rules))
        return NULL;
    event = Py_NewRef(args[0]);
    outcome = find_key(&rules, event, args[1], &key);
    if (outcome == 1) {
        outcome = PyDict_Contains(args[3], key);
        if (outcome == 1)
            outcome = write_body(&rules, event, &body);
    }
    /* Looked at now, as Python may have run: what was staged may be queued. */
    if (outcome == 1 && PyList_GET_SIZE(args[4]) && PyList_GET_SIZE(args[4]) == PyList_GET_SIZE(args[5])) {
        if (PyList_Append(args[4], body))
            outcome = -1;
        else if (PyList_Append(args[5], key)) {
            take_back(args[4]);
            outcome = -1;
        } else
            count = PyList_GET_SIZE(args[4]);
    }
    Py_XDECREF(body);
    Py_XDECREF(key);
    Py_DECREF(event);
    return outcome < 0 ? NULL : PyLong_FromSsize_t(count);
}

PyMethodDef event_methods[] = {
    {"encode_events", (PyCFunction)(void (*)(void))encode_events, METH_FASTCALL, NULL},
    {"stage_event", (PyCFunction)(void (*)(void))stage_event, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};
