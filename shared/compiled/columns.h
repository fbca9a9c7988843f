/* What the parts of the extension module share. */
#ifndef HEADRACE_COLUMNS_H
#define HEADRACE_COLUMNS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "written for little-endian processors; headrace does without this module elsewhere"
#endif

#define MD5_BYTES 16

/* A run of bytes that somebody else owns. */
struct span {
    const uint8_t *start;
    size_t size;
};

/* What is read, and how far. */
struct reader {
    const uint8_t *at;
    const uint8_t *end;
};

/* Take so many bytes; 0 if there are fewer. */
static inline int take_bytes(struct reader *reader, uint64_t size, struct span *span)
{
    if (size > (uint64_t)(reader->end - reader->at))
        return 0;
    *span = (struct span){reader->at, (size_t)size};
    reader->at += size;
    return 1;
}

/* Write the MD5 of each of `count` texts to `digests`, MD5_BYTES each: sixteen at a time. */
void md5_all(const struct span *texts, size_t count, uint8_t *digests);

/* Write the MD5 of one text. */
void md5(struct span text, uint8_t *digest);

/* Make a text of UTF-8: 1 if it was made, 0 if it is none, -1 with an error set. */
int read_utf8(struct span text, PyObject **value);

/* The same of a sequence number as it is written again: digits, with no zero in front. */
int read_sequence_number(struct span text, PyObject **value);

/* How many bytes a text in base64 stands for, if it is one; -1 if its length is that of none. */
Py_ssize_t base64_size(struct span text);

/* Write what a text of such a length stands for; 0 if it is no base64, or in another form than every encoder's. */
int base64_decode(struct span text, uint8_t *to);

/* Return how many bytes a text has in UTF-8; -1 if it holds a lone surrogate. */
Py_ssize_t utf8_size(PyObject *text);

/* Whether it is a list or a tuple, and no subclass. */
static inline int is_row(PyObject *given) { return PyList_CheckExact(given) || PyTuple_CheckExact(given); }

/* Undo the last append to a list. */
static inline void take_back(PyObject *list)
{
    Py_ssize_t last = PyList_GET_SIZE(list) - 1;
    PyObject *item = PyList_GET_ITEM(list, last);

    Py_SET_SIZE(list, last);
    Py_DECREF(item);
}

/* Methods of the module, one table per file; each ends with an empty entry. */
extern PyMethodDef digest_methods[];
extern PyMethodDef access_log_methods[];
extern PyMethodDef aggregate_methods[];
extern PyMethodDef record_page_methods[];
extern PyMethodDef event_methods[];
extern PyMethodDef put_body_methods[];
extern PyMethodDef queue_methods[];
extern PyMethodDef size_methods[];
extern PyMethodDef cbor_page_methods[];
extern PyMethodDef id_run_methods[];
extern PyMethodDef lines_methods[];
extern PyMethodDef member_methods[];
extern PyMethodDef survey_methods[];
extern PyMethodDef take_methods[];

#endif
