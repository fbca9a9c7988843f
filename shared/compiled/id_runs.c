/* Runs of event ids of one source and lane, as neighbours mostly are (consumer/core/duplicate_marks.py). */
#include "columns.h"

#define DIGITS_MAX 18 /* of an offset: one more might be beyond 63 bits */

/* Neighbours whose ids begin alike and whose offsets rise. */
struct run {
    Py_ssize_t start, stop, key_size;
    int64_t first, last;
};

/* Take an id apart, at its last dot: 0 if that is none, or has to be looked at in another way. */
static int take_apart(PyObject *id, Py_ssize_t *key_size, int64_t *offset)
{
    const uint8_t *text;
    Py_ssize_t size, at;
    uint64_t power = 1, value = 0; /* room for one digit more than is taken */

    if (!PyUnicode_CheckExact(id) || !PyUnicode_IS_ASCII(id))
        return 0;
    text = PyUnicode_DATA(id);
    size = PyUnicode_GET_LENGTH(id);
    for (at = size; at && size - at <= DIGITS_MAX && text[at - 1] >= '0' && text[at - 1] <= '9'; at--) {
        value += power * (uint64_t)(text[at - 1] - '0');
        power *= 10;
    }
    if (at == size || size - at > DIGITS_MAX || !at || text[at - 1] != '.' || text[at] == '0')
        return 0;
    *key_size = at - 1;
    *offset = (int64_t)value;
    return 1;
}

/* Find all runs; 0 if an id has to be looked at in another way. No object is made meanwhile. */
static int find_runs(PyObject *ids, struct run *runs, Py_ssize_t *found)
{
    const char *key = NULL; /* of the last run */
    struct run *run = runs;

    for (Py_ssize_t at = 0; at < PyList_GET_SIZE(ids); at++) {
        PyObject *id = PyList_GET_ITEM(ids, at);
        Py_ssize_t key_size;
        int64_t offset;
        if (!take_apart(id, &key_size, &offset))
            return 0;
        if (key && run->key_size == key_size && offset > run->last &&
            !memcmp(key, PyUnicode_DATA(id), (size_t)key_size)) {
            run->last = offset;
            run->stop = at + 1;
            continue;
        }
        key = PyUnicode_DATA(id);
        run = &runs[(*found)++];
        *run = (struct run){at, at + 1, key_size, offset, offset};
    }
    return 1;
}

/* Make what Python gets of a run; NULL with an error set or, if the list is another one by now, without. */
static PyObject *make_row(PyObject *ids, const struct run *run)
{
    PyObject *key, *id;

    if (run->start >= PyList_GET_SIZE(ids))
        return NULL;
    id = Py_NewRef(PyList_GET_ITEM(ids, run->start));
    key = PyUnicode_CheckExact(id) ? PyUnicode_Substring(id, 0, run->key_size) : NULL;
    Py_DECREF(id);
    if (!key)
        return NULL;
    return Py_BuildValue("NnnLL", key, run->start, run->stop, (long long)run->first, (long long)run->last);
}

/* id_runs(ids: list) -> list[tuple[str, int, int, int, int]] | None
 *
 * "SOURCE.LANE" of each run, the indexes at which it starts and stops, and its first and last offset; None if an id has
 * another form. */
static PyObject *id_runs(PyObject *module, PyObject *ids)
{
    struct run *runs;
    PyObject *all = NULL;
    Py_ssize_t count = 0;

    (void)module;
    if (!PyList_CheckExact(ids)) {
        PyErr_SetString(PyExc_TypeError, "a list is needed");
        return NULL;
    }
    runs = PyMem_New(struct run, PyList_GET_SIZE(ids) + 1);
    if (!runs)
        return PyErr_NoMemory();
    if (!find_runs(ids, runs, &count)) {
        PyMem_Free(runs);
        Py_RETURN_NONE;
    }
    all = PyList_New(count);
    for (Py_ssize_t at = 0; all && at < count; at++) {
        PyObject *row = make_row(ids, &runs[at]);
        if (row) {
            PyList_SET_ITEM(all, at, row);
            continue;
        }
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_RuntimeError, "the list of ids changes");
        Py_CLEAR(all);
    }
    PyMem_Free(runs);
    return all;
}

PyMethodDef id_run_methods[] = {
    {"id_runs", id_runs, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
