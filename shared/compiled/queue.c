/* Records are queued in the lists of their lanes: what producer/core/lanes.py does, for many records in one call. */
#include "columns.h"

#define DIGITS_MAX 20

/* What a call works on. All objects are borrowed, but the events. */
struct queueing {
    PyObject *datas, *keys; /* lists or tuples, as long as each other */
    PyObject *heads;        /* NULL without numbers */
    PyObject *numbers;      /* a list or a tuple; NULL for a run of numbers */
    PyObject *lane_datas, *lane_keys;
    PyObject *free; /* a bytearray, a flag for each lane */
    size_t lanes;
    size_t count;
    uint32_t *places;   /* the lane of each record */
    PyObject **events;  /* what is queued of each record */
    uint8_t *seen;      /* of each lane, whether a record came */
    size_t record_bytes_max;
    char digits[DIGITS_MAX]; /* of a run's next number, at the end */
    size_t digits_from;
    size_t size, ready_bytes, ready_count;
};

/* Look up the lane of each key: 1, or 0 if one is not known. A key of a subclass may have Python look at it, so nothing
 * is relied on before. */
static int find_lanes(struct queueing *at, PyObject *indexes)
{
    for (size_t each = 0; each < at->count; each++) {
        PyObject *key, *found;
        Py_ssize_t place;
        if ((size_t)PySequence_Fast_GET_SIZE(at->keys) != at->count)
            return 0;
        key = PySequence_Fast_GET_ITEM(at->keys, each);
        if (!PyUnicode_CheckExact(key))
            return 0;
        Py_INCREF(key);
        found = PyDict_GetItemWithError(indexes, key);
        Py_DECREF(key);
        if (!found)
            return PyErr_Occurred() ? -1 : 0;
        if (!PyLong_CheckExact(found))
            return 0;
        place = PyLong_AsSsize_t(found);
        if (place == -1 && PyErr_Occurred()) {
            PyErr_Clear();
            return 0;
        }
        if (place < 0 || (size_t)place >= at->lanes || place > (Py_ssize_t)UINT32_MAX)
            return 0;
        at->places[each] = (uint32_t)place;
    }
    return 1;
}

/* Write a number's digits to the end of `digits`; 0 if it is negative or too large. */
static int set_digits(struct queueing *at, PyObject *number)
{
    long long value;
    int overflow;

    if (!PyLong_CheckExact(number))
        return 0;
    value = PyLong_AsLongLongAndOverflow(number, &overflow);
    if (overflow || value < 0)
        return 0;
    at->digits_from = DIGITS_MAX;
    do {
        at->digits[--at->digits_from] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    return 1;
}

/* Go on to the next number of a run, whose first has at most 19 digits. */
static void count_on(struct queueing *at)
{
    size_t place = DIGITS_MAX - 1;

    while (place >= at->digits_from && at->digits[place] == '9')
        at->digits[place--] = '0';
    if (place < at->digits_from) {
        at->digits[place] = '1';
        at->digits_from = place;
    } else
        at->digits[place]++;
}

/* Return an event with its id: 1, 0 if it is no ordinary one, -1 with an error set. */
static int write_event(struct queueing *at, size_t each, PyObject *data)
{
    PyObject *head, *event;
    size_t size, head_size, digits_size;
    char *to;

    if (at->places[each] >= (size_t)PyTuple_GET_SIZE(at->heads))
        return 0;
    head = PyTuple_GET_ITEM(at->heads, at->places[each]);
    if (!PyBytes_CheckExact(head))
        return 0;
    if (at->numbers) {
        if (!set_digits(at, PySequence_Fast_GET_ITEM(at->numbers, each)))
            return 0;
    } else if (each)
        count_on(at);
    size = (size_t)PyBytes_GET_SIZE(data);
    head_size = (size_t)PyBytes_GET_SIZE(head);
    digits_size = DIGITS_MAX - at->digits_from;
    if (size > PY_SSIZE_T_MAX / 4 || head_size > PY_SSIZE_T_MAX / 4)
        return 0;
    event = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(size + head_size + digits_size + 2));
    if (!event)
        return -1;
    to = PyBytes_AS_STRING(event);
    memcpy(to, PyBytes_AS_STRING(data), size);
    memcpy(to + size, PyBytes_AS_STRING(head), head_size);
    memcpy(to + size + head_size, at->digits + at->digits_from, digits_size);
    memcpy(to + size + head_size + digits_size, "\"}", 2);
    at->events[each] = event;
    return 1;
}

/* Make what is queued, and count it: 1, 0 if a record is no ordinary one, -1 with an error set. `begun` takes the lanes
 * that were empty. No code of Python runs from here on. */
static int prepare(struct queueing *at, PyObject *begun)
{
    for (size_t each = 0; each < at->count; each++) {
        PyObject *data = PySequence_Fast_GET_ITEM(at->datas, each), *key = PySequence_Fast_GET_ITEM(at->keys, each);
        PyObject *lane_datas, *lane_keys;
        size_t place = at->places[each], size;
        Py_ssize_t key_size;

        if (!PyBytes_CheckExact(data) || !PyUnicode_CheckExact(key) || place >= at->lanes)
            return 0;
        lane_datas = PyList_GET_ITEM(at->lane_datas, place);
        lane_keys = PyList_GET_ITEM(at->lane_keys, place);
        key_size = utf8_size(key);
        if (key_size < 0 || !PyList_CheckExact(lane_datas) || !PyList_CheckExact(lane_keys))
            return 0;
        if (at->heads) {
            int outcome = write_event(at, each, data);
            if (outcome != 1)
                return outcome;
        } else
            at->events[each] = Py_NewRef(data);
        size = (size_t)PyBytes_GET_SIZE(at->events[each]) + (size_t)key_size;
        if (size > at->record_bytes_max)
            return 0;
        at->size += size;
        if (PyByteArray_AS_STRING(at->free)[place]) {
            at->ready_bytes += size;
            at->ready_count++;
        }
        if (!at->seen[place] && !PyList_GET_SIZE(lane_datas)) {
            PyObject *index = PyLong_FromSize_t(place);
            int failed = !index || PyList_Append(begun, index);
            Py_XDECREF(index);
            if (failed)
                return -1;
        }
        at->seen[place] = 1;
    }
    return 1;
}

/* Append all events and keys to the lists of their lanes, or nothing: 0, or -1 with an error set. */
static int append_all(struct queueing *at)
{
    for (size_t each = 0; each < at->count; each++) {
        PyObject *lane_datas = PyList_GET_ITEM(at->lane_datas, at->places[each]);
        PyObject *lane_keys = PyList_GET_ITEM(at->lane_keys, at->places[each]);
        if (!PyList_Append(lane_datas, at->events[each])) {
            if (!PyList_Append(lane_keys, PySequence_Fast_GET_ITEM(at->keys, each)))
                continue;
            take_back(lane_datas);
        }
        while (each-- > 0) {
            take_back(PyList_GET_ITEM(at->lane_datas, at->places[each]));
            take_back(PyList_GET_ITEM(at->lane_keys, at->places[each]));
        }
        return -1;
    }
    return 0;
}

static int set_item(PyObject *tuple, Py_ssize_t place, size_t value)
{
    PyObject *number = PyLong_FromSize_t(value);

    if (!number)
        return -1;
    PyTuple_SET_ITEM(tuple, place, number);
    return 0;
}

/* Queue: 1, 0 if nothing was done as a record is no ordinary one, -1 with an error set. `told` takes the sums. */
static int queue(struct queueing *at, PyObject *indexes, PyObject *first, Py_ssize_t room, PyObject *told)
{
    int outcome = find_lanes(at, indexes);

    if (outcome != 1)
        return outcome;
    /* Python may have run: nothing is known of the lists. */
    if ((size_t)PySequence_Fast_GET_SIZE(at->datas) != at->count || (size_t)PySequence_Fast_GET_SIZE(at->keys) != at->count ||
        (at->numbers && (size_t)PySequence_Fast_GET_SIZE(at->numbers) != at->count))
        return 0;
    if ((size_t)PyList_GET_SIZE(at->lane_datas) != at->lanes || (size_t)PyList_GET_SIZE(at->lane_keys) != at->lanes ||
        (size_t)PyByteArray_GET_SIZE(at->free) < at->lanes)
        return 0;
    if (at->heads && !at->numbers && !set_digits(at, first))
        return 0;
    outcome = prepare(at, PyTuple_GET_ITEM(told, 3));
    if (outcome != 1)
        return outcome;
    if (room < 0 || at->size > (size_t)room)
        return 0;
    if (set_item(told, 0, at->size) || set_item(told, 1, at->ready_bytes) || set_item(told, 2, at->ready_count))
        return -1;
    return append_all(at) ? -1 : 1;
}

/* queue_records(datas, keys, indexes, heads, numbers, lane_datas, lane_keys, free, room, record_bytes_max)
 *     -> tuple[int, int, int, list[int]] | None
 *
 * columns.py says what it does; None, and nothing is done, if Python has to look at a record. */
static PyObject *queue_records(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    struct queueing at = {0};
    PyObject *told = NULL;
    Py_ssize_t room, record_bytes_max;
    int outcome = -1;

    (void)module;
    if (given != 10 || !is_row(args[0]) || !is_row(args[1]) || !PyDict_Check(args[2]) ||
        !(args[3] == Py_None || PyTuple_CheckExact(args[3])) || !(is_row(args[4]) || PyLong_CheckExact(args[4])) ||
        !PyList_CheckExact(args[5]) || !PyList_CheckExact(args[6]) || !PyByteArray_CheckExact(args[7]) ||
        !PyLong_CheckExact(args[8]) || !PyLong_CheckExact(args[9])) {
        PyErr_SetString(PyExc_TypeError, "columns of records, the lanes, and two bounds are needed");
        return NULL;
    }
    room = PyLong_AsSsize_t(args[8]);
    record_bytes_max = PyLong_AsSsize_t(args[9]);
    if (PyErr_Occurred())
        return NULL;
    at.datas = args[0];
    at.keys = args[1];
    at.heads = args[3] == Py_None ? NULL : args[3];
    at.numbers = at.heads && is_row(args[4]) ? args[4] : NULL;
    at.lane_datas = args[5];
    at.lane_keys = args[6];
    at.count = (size_t)PySequence_Fast_GET_SIZE(at.datas);
    at.record_bytes_max = record_bytes_max < 0 ? 0 : (size_t)record_bytes_max;
    told = PyTuple_New(4);
    if (told)
        PyTuple_SET_ITEM(told, 3, PyList_New(0));
    at.places = PyMem_New(uint32_t, at.count + 1);
    at.events = PyMem_Calloc(at.count + 1, sizeof *at.events);
    at.lanes = (size_t)PyList_GET_SIZE(at.lane_datas);
    at.seen = PyMem_Calloc(at.lanes + 1, 1);
    at.free = args[7];
    if (!told || !PyTuple_GET_ITEM(told, 3) || !at.places || !at.events || !at.seen) {
        if (!PyErr_Occurred())
            PyErr_NoMemory();
    } else
        outcome = queue(&at, args[2], args[4], room, told);
    for (size_t each = 0; at.events && each < at.count; each++)
        Py_XDECREF(at.events[each]);
    PyMem_Free(at.places);
    PyMem_Free(at.events);
    PyMem_Free(at.seen);
    if (outcome == 0)
        Py_SETREF(told, Py_NewRef(Py_None));
    else if (outcome < 0)
        Py_CLEAR(told);
    return told;
}

PyMethodDef queue_methods[] = {
    {"queue_records", (PyCFunction)(void (*)(void))queue_records, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};
