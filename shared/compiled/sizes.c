/* The bytes of records: data, and partition keys in UTF-8. */
#include "columns.h"

/* Add up what the characters beyond ASCII have more than one byte for; -1 for a lone surrogate. */
static Py_ssize_t more_bytes(PyObject *text)
{
    int kind = (int)PyUnicode_KIND(text);
    const void *start = PyUnicode_DATA(text);
    Py_ssize_t more = 0;

    for (Py_ssize_t at = 0; at < PyUnicode_GET_LENGTH(text); at++) {
        Py_UCS4 character = PyUnicode_READ(kind, start, at);
        if (character >= 0xd800 && character < 0xe000)
            return -1;
        more += (character >= 0x80) + (character >= 0x800) + (character >= 0x10000);
    }
    return more;
}

Py_ssize_t utf8_size(PyObject *text)
{
    Py_ssize_t size = PyUnicode_GET_LENGTH(text), more;

    if (PyUnicode_IS_ASCII(text))
        return size;
    more = more_bytes(text);
    return more < 0 ? -1 : size + more;
}

/* size_of_records(datas: list[bytes], keys: list[str], start: int) -> int | None
 *
 * The bytes of data and keys from record `start` on; None if one is of another type, or UTF-8 can't express a key. */
static PyObject *size_of_records(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Py_ssize_t start, count, size = 0;

    (void)module;
    if (given != 3 || !PyList_CheckExact(args[0]) || !PyList_CheckExact(args[1]) || !PyLong_CheckExact(args[2]) ||
        PyList_GET_SIZE(args[0]) != PyList_GET_SIZE(args[1])) {
        PyErr_SetString(PyExc_TypeError, "two lists, as long as each other, and a number are needed");
        return NULL;
    }
    start = PyLong_AsSsize_t(args[2]);
    if (start < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "a place is not negative");
        return NULL;
    }
    count = PyList_GET_SIZE(args[0]);
    for (Py_ssize_t at = start; at < count; at++) {
        PyObject *data = PyList_GET_ITEM(args[0], at), *key = PyList_GET_ITEM(args[1], at);
        Py_ssize_t key_size;
        if (!PyBytes_CheckExact(data) || !PyUnicode_CheckExact(key) || (key_size = utf8_size(key)) < 0)
            Py_RETURN_NONE;
        size += PyBytes_GET_SIZE(data) + key_size;
    }
    return PyLong_FromSsize_t(size);
}

PyMethodDef size_methods[] = {
    {"size_of_records", (PyCFunction)(void (*)(void))size_of_records, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};
