/* What both readers of an answer to GetRecords share, whatever it is written in. */
#ifndef HEADRACE_PAGE_H
#define HEADRACE_PAGE_H

#include "columns.h"

#define EXACT_MAX ((uint64_t)1 << 53) /* whole numbers up to here are exact, and so are rounded once when divided */

/* The fields of a record; the first ones become columns. */
enum { DATA, KEY, NUMBER, ARRIVAL, VALUES, ENCRYPTION = VALUES, FIELDS };

/* How a field begins. */
struct opening {
    const char *text;
    size_t size;
};
#define OPENING(text) {text, sizeof text - 1}

/* All readers: 1 if it was read, 0 if it has to be read another way, -1 with an error set. */

/* Reads so many records, or, if that is negative, up to what ends them. */
typedef int records_reader(struct reader *reader, Py_ssize_t count, PyObject *columns[VALUES]);

/* Return the columns of the records of which the first one begins at `at`, and where they end; None if one of them has
 * to be read another way. */
PyObject *read_page(PyObject *body, PyObject *at, Py_ssize_t count, records_reader *read_all);

/* Append what a record was read to have, if it was; its values are given up in any case. */
int append_record(int outcome, PyObject *values[FIELDS], PyObject *columns[VALUES]);

static inline int take_byte(struct reader *reader, uint8_t byte)
{
    if (reader->at == reader->end || *reader->at != byte)
        return 0;
    reader->at++;
    return 1;
}

/* The field that begins here, by its opening, which is taken; FIELDS if there is none, or it was seen before. The one
 * that had this place in the record before is tried first, and this one is noted there. */
static inline int take_opening(struct reader *reader, const struct opening openings[FIELDS], int *place, unsigned *seen)
{
    for (int tried = 0; tried < FIELDS; tried++) {
        int field = (*place + tried) % FIELDS;
        size_t size = openings[field].size;
        if ((size_t)(reader->end - reader->at) >= size && !memcmp(reader->at, openings[field].text, size)) {
            if (*seen & 1u << field)
                return FIELDS;
            *seen |= 1u << field;
            *place = field;
            reader->at += size;
            return field;
        }
    }
    return FIELDS;
}

/* Whether there was a value for each column. */
static inline int is_whole(unsigned seen) { return (seen & ((1u << VALUES) - 1)) == (1u << VALUES) - 1; }

/* The order of fields in which the first record is expected. */
#define USUAL_ORDER {NUMBER, ARRIVAL, DATA, KEY, ENCRYPTION}

#endif
