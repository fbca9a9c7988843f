/* The columns of an answer to GetRecords, around a reader of its records. */
#include "page.h"

int append_record(int outcome, PyObject *values[FIELDS], PyObject *columns[VALUES])
{
    for (int field = 0; field < VALUES && outcome == 1; field++)
        if (PyList_Append(columns[field], values[field]))
            outcome = -1;
    for (int field = 0; field < FIELDS; field++)
        Py_XDECREF(values[field]);
    return outcome;
}

PyObject *read_page(PyObject *body, PyObject *at, Py_ssize_t count, records_reader *read_all)
{
    PyObject *columns[VALUES] = {NULL}, *answer = NULL;
    const uint8_t *text;
    struct reader reader;
    Py_ssize_t start;
    int outcome = 1;

    if (!PyBytes_CheckExact(body) || !PyLong_CheckExact(at)) {
        PyErr_SetString(PyExc_TypeError, "bytes and a place are needed");
        return NULL;
    }
    start = PyLong_AsSsize_t(at);
    if (start < 0 || start > PyBytes_GET_SIZE(body)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "the place is outside");
        return NULL;
    }
    text = (const uint8_t *)PyBytes_AS_STRING(body);
    reader = (struct reader){text + start, text + PyBytes_GET_SIZE(body)};
    for (int field = 0; field < VALUES; field++)
        if (!(columns[field] = PyList_New(0)))
            outcome = -1;
    if (outcome == 1)
        outcome = read_all(&reader, count, columns);
    if (outcome == 1)
        answer = Py_BuildValue("OOOOn", columns[DATA], columns[KEY], columns[NUMBER], columns[ARRIVAL],
                               (Py_ssize_t)(reader.at - text));
    else if (outcome == 0)
        answer = Py_NewRef(Py_None);
    for (int field = 0; field < VALUES; field++)
        Py_XDECREF(columns[field]);
    return answer;
}
