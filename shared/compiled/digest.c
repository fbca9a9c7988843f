/* The MD5 of many partition keys, for Python. */
#include "columns.h"

#define KEYS_AT_A_TIME 64

/* Whether the MD5 of some keys all lie between two others. */
static int lie_within(const struct span *keys, size_t count, const uint8_t *start, const uint8_t *end)
{
    uint8_t found[KEYS_AT_A_TIME * MD5_BYTES];

    md5_all(keys, count, found);
    for (size_t at = 0; at < count; at++)
        if (memcmp(found + MD5_BYTES * at, start, MD5_BYTES) < 0 || memcmp(found + MD5_BYTES * at, end, MD5_BYTES) > 0)
            return 0;
    return 1;
}

/* lie_in_range(keys: list[str], start: bytes, end: bytes) -> bool | None
 *
 * Whether the MD5 of each key, in UTF-8, is at least `start` and at most `end`; None if a key is not ASCII. A key that
 * is the same object as the one before it is not looked at again. */
static PyObject *lie_in_range(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    struct span keys[KEYS_AT_A_TIME];
    size_t pending = 0;
    PyObject *before = NULL;

    (void)module;
    if (given != 3 || !PyList_CheckExact(args[0]) || !PyBytes_Check(args[1]) || !PyBytes_Check(args[2]) ||
        PyBytes_GET_SIZE(args[1]) != MD5_BYTES || PyBytes_GET_SIZE(args[2]) != MD5_BYTES) {
        PyErr_SetString(PyExc_TypeError, "a list and two digests are needed");
        return NULL;
    }
    for (Py_ssize_t at = 0; at < PyList_GET_SIZE(args[0]); at++) {
        PyObject *key = PyList_GET_ITEM(args[0], at);
        if (key == before)
            continue;
        if (!PyUnicode_Check(key) || !PyUnicode_IS_ASCII(key))
            Py_RETURN_NONE;
        before = key;
        keys[pending++] = (struct span){PyUnicode_DATA(key), (size_t)PyUnicode_GET_LENGTH(key)};
        if (pending == KEYS_AT_A_TIME) {
            if (!lie_within(keys, pending, (const uint8_t *)PyBytes_AS_STRING(args[1]),
                            (const uint8_t *)PyBytes_AS_STRING(args[2])))
                Py_RETURN_FALSE;
            pending = 0;
        }
    }
    return PyBool_FromLong(lie_within(keys, pending, (const uint8_t *)PyBytes_AS_STRING(args[1]),
                                      (const uint8_t *)PyBytes_AS_STRING(args[2])));
}

PyMethodDef digest_methods[] = {
    {"lie_in_range", (PyCFunction)(void (*)(void))lie_in_range, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};
