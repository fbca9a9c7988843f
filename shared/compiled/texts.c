/* Texts of an answer that become objects. */
#include "columns.h"

#define DIGITS_MAX 64 /* of a sequence number: those of the service have 56 */

static int is_ascii(struct span text)
{
    uint8_t seen = 0;

    for (size_t at = 0; at < text.size; at++)
        seen |= text.start[at];
    return seen < 0x80;
}

/* An object of its own, also for a single letter: what a page takes in memory is in the book. */
static int read_ascii(struct span text, PyObject **value)
{
    *value = PyUnicode_New((Py_ssize_t)text.size, 127);
    if (!*value)
        return -1;
    memcpy(PyUnicode_1BYTE_DATA(*value), text.start, text.size);
    return 1;
}

int read_utf8(struct span text, PyObject **value)
{
    if (is_ascii(text))
        return read_ascii(text, value);
    *value = PyUnicode_DecodeUTF8((const char *)text.start, (Py_ssize_t)text.size, NULL);
    if (*value)
        return 1;
    if (!PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
        return -1;
    PyErr_Clear();
    return 0;
}

int read_sequence_number(struct span text, PyObject **value)
{
    if (!text.size || text.size > DIGITS_MAX || text.start[0] == '0')
        return 0;
    for (size_t at = 0; at < text.size; at++)
        if (text.start[at] < '0' || text.start[at] > '9')
            return 0;
    return read_ascii(text, value);
}
