/* Events are written and looked at: what producer/api.py and producer/stage.py do before they queue them. */
#include "columns.h"

#define DIGITS_MAX 19 /* an integer of fewer digits, or one of so many that is not negative, fits 64 bits */

/* What an ordinary event is: a tuple of (orjson.dumps or loads, field of the partition key, field of the id, most bytes without
 * the last brace when written, or with it when read, most opening brackets). All borrowed. */
struct rules {
    PyObject *call, *key_field, *id_field;
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
    rules->call = PyTuple_GET_ITEM(given, 0);
    rules->key_field = PyTuple_GET_ITEM(given, 1);
    rules->id_field = PyTuple_GET_ITEM(given, 2);
    rules->bytes_max = PyLong_AsSsize_t(PyTuple_GET_ITEM(given, 3));
    rules->openings_max = PyLong_AsSsize_t(PyTuple_GET_ITEM(given, 4));
    return PyErr_Occurred() ? -1 : 0;
}

static int is_digit(uint8_t character) { return character >= '0' && character <= '9'; }

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
    PyObject *text = PyObject_CallOneArg(rules->call, event);
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

/* Return both columns, None, or NULL with an error set. */
static PyObject *pair_of(int outcome, PyObject *bodies, PyObject *keys)
{
    PyObject *both = NULL;

    if (outcome == 1)
        both = PyTuple_Pack(2, bodies, keys);
    else if (outcome == 0)
        both = Py_NewRef(Py_None);
    Py_XDECREF(bodies);
    Py_XDECREF(keys);
    return both;
}

/* encode_events(events: list, rules) -> tuple[list[bytes], list[str]] | None */
static PyObject *encode_events(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    struct rules rules;
    PyObject *bodies, *keys;
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
    return pair_of(outcome, bodies, keys);
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

/* Whether no run of digits in a text can be an integer beyond 64 bits: none has 20, or 19 behind a minus. */
static int has_small_integers(const uint8_t *text, Py_ssize_t size)
{
    Py_ssize_t at = DIGITS_MAX - 1; /* each run of so many digits has one at a multiple of that from any place on */

    while (at < size) {
        Py_ssize_t start = at, end = at;
        if (!is_digit(text[at])) {
            at += DIGITS_MAX;
            continue;
        }
        while (start > 0 && is_digit(text[start - 1]))
            start--;
        while (end < size && is_digit(text[end]))
            end++;
        if (end - start > DIGITS_MAX || (end - start == DIGITS_MAX && start > 0 && text[start - 1] == '-'))
            return 0;
        at = end + DIGITS_MAX;
    }
    return 1;
}

/* Look at a line: 1 if it is an ordinary event, 0 if not, -1 with an error set. */
static int read_line(const struct rules *rules, Py_ssize_t key_characters_max, PyObject *line, PyObject **key)
{
    const uint8_t *text = (const uint8_t *)PyBytes_AS_STRING(line);
    Py_ssize_t size = PyBytes_GET_SIZE(line);
    PyObject *event;
    int outcome;

    if (size < 2 || size > rules->bytes_max || text[0] != '{' || text[size - 1] != '}' ||
        opening_count(text, size) > rules->openings_max || !has_small_integers(text, size))
        return 0;
    event = PyObject_CallOneArg(rules->call, line);
    if (!event) {
        if (!PyErr_ExceptionMatches(PyExc_ValueError)) /* orjson's own error is one */
            return -1;
        PyErr_Clear();
        return 0;
    }
    outcome = find_key(rules, event, Py_None, key);
    Py_DECREF(event);
    if (outcome == 1 && (!PyUnicode_GET_LENGTH(*key) || PyUnicode_GET_LENGTH(*key) > key_characters_max))
        return 0;
    return outcome;
}

/* read_events(lines: list | tuple, rules, key_characters_max: int) -> tuple[list[bytes], list[str]] | None */
static PyObject *read_events(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    struct rules rules;
    PyObject *bodies, *keys;
    Py_ssize_t key_characters_max;
    int outcome;

    (void)module;
    if (given != 3 || !is_row(args[0]) || !PyLong_CheckExact(args[2])) {
        PyErr_SetString(PyExc_TypeError, "lines, rules and a bound are needed");
        return NULL;
    }
    key_characters_max = PyLong_AsSsize_t(args[2]);
    if (PyErr_Occurred() || read_rules(args[1], &rules))
        return NULL;
    bodies = PyList_New(0);
    keys = PyList_New(0);
    outcome = bodies && keys ? 1 : -1;
    for (Py_ssize_t at = 0; outcome == 1 && at < PySequence_Fast_GET_SIZE(args[0]); at++) {
        PyObject *line = Py_NewRef(PySequence_Fast_GET_ITEM(args[0], at)), *body = NULL, *key = NULL;
        outcome = PyBytes_CheckExact(line) ? read_line(&rules, key_characters_max, line, &key) : 0;
        if (outcome == 1) {
            body = PyBytes_FromStringAndSize(PyBytes_AS_STRING(line), PyBytes_GET_SIZE(line) - 1);
            if (!body || PyList_Append(bodies, body) || PyList_Append(keys, key))
                outcome = -1;
        }
        Py_XDECREF(body);
        Py_XDECREF(key);
        Py_DECREF(line);
    }
    return pair_of(outcome, bodies, keys);
}

PyMethodDef event_methods[] = {
    {"read_events", (PyCFunction)(void (*)(void))read_events, METH_FASTCALL, NULL},
    {"encode_events", (PyCFunction)(void (*)(void))encode_events, METH_FASTCALL, NULL},
    {"stage_event", (PyCFunction)(void (*)(void))stage_event, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};
