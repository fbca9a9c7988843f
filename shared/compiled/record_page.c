/* The records of an answer to GetRecords in JSON (shared/aws/record_page.py), as the service writes them: no space
 * between what they consist of, no escape in a text and no field but those that are known. */
#include "page.h"

#include <float.h>

#define DIGITS_MAX 64 /* of a number */
#define POWER_MAX 22 /* powers of ten up to this one are exact, too */

static const struct opening OPENINGS[FIELDS] = {
    OPENING("\"Data\":\""),
    OPENING("\"PartitionKey\":\""),
    OPENING("\"SequenceNumber\":\""),
    OPENING("\"ApproximateArrivalTimestamp\":"),
    OPENING("\"EncryptionType\":\""),
};

/* Take the text up to the next quote. */
static int take_text(struct reader *reader, struct span *text)
{
    const uint8_t *quote = memchr(reader->at, '"', (size_t)(reader->end - reader->at));

    if (!quote)
        return 0;
    *text = (struct span){reader->at, (size_t)(quote - reader->at)};
    reader->at = quote + 1;
    return 1;
}

static int read_data(struct span text, PyObject **value)
{
    Py_ssize_t size = base64_size(text);

    if (size < 0)
        return 0;
    *value = PyBytes_FromStringAndSize(NULL, size);
    if (!*value)
        return -1;
    return base64_decode(text, (uint8_t *)PyBytes_AS_STRING(*value));
}

/* Whether a text stands for itself, if it is UTF-8. */
static int is_literal(struct span text)
{
    uint8_t found = 0;

    for (size_t at = 0; at < text.size; at++)
        found |= (uint8_t)((text.start[at] < 0x20) | (text.start[at] == '\\'));
    return !found;
}

/* Take digits, which are a part of `*value`; return how many, or -1 if that outgrows what is exact. */
static int take_digits(struct reader *reader, uint64_t *value)
{
    int count = 0;

    for (; reader->at < reader->end && *reader->at >= '0' && *reader->at <= '9'; reader->at++, count++) {
        *value = *value * 10 + (uint64_t)(*reader->at - '0');
        if (*value > EXACT_MAX || count == DIGITS_MAX)
            return -1;
    }
    return count;
}

/* Whole digits and a power of ten that are exact make a number with one rounding, as every exact reader does. */
static int read_arrival(struct reader *reader, PyObject **value)
{
    static const double POWERS[POWER_MAX + 1] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                                 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    const uint8_t *start = reader->at;
    uint64_t digits = 0, exponent = 0;
    int whole = take_digits(reader, &digits), fraction = 0, power, is_negative;
    double number;

    if (whole < 1 || (whole > 1 && *start == '0') || FLT_EVAL_METHOD)
        return 0;
    if (take_byte(reader, '.') && (fraction = take_digits(reader, &digits)) < 1)
        return 0;
    power = -fraction;
    if (take_byte(reader, 'E') || take_byte(reader, 'e')) {
        is_negative = take_byte(reader, '-');
        if (!is_negative)
            take_byte(reader, '+');
        if (take_digits(reader, &exponent) < 1 || exponent > 2 * POWER_MAX)
            return 0;
        power += is_negative ? -(int)exponent : (int)exponent;
    }
    if (power < -POWER_MAX || power > POWER_MAX)
        return 0;
    number = power < 0 ? (double)digits / POWERS[-power] : (double)digits * POWERS[power];
    *value = PyFloat_FromDouble(number);
    return *value ? 1 : -1;
}

static int read_field(struct reader *reader, int field, PyObject *values[FIELDS])
{
    struct span text;

    if (field == ARRIVAL)
        return read_arrival(reader, &values[ARRIVAL]);
    if (!take_text(reader, &text))
        return 0;
    switch (field) {
    case DATA:
        return read_data(text, &values[DATA]);
    case NUMBER:
        return read_sequence_number(text, &values[NUMBER]);
    default:
        return is_literal(text) ? read_utf8(text, &values[field]) : 0;
    }
}

/* Read a record, brace to brace; `order` is that of the fields of the one before it, and becomes its own. */
static int read_record(struct reader *reader, int order[FIELDS], PyObject *values[FIELDS])
{
    unsigned seen = 0;
    int outcome;

    if (!take_byte(reader, '{'))
        return 0;
    for (int count = 0; count < FIELDS; count++) {
        int field = take_opening(reader, OPENINGS, &order[count], &seen);
        if (field == FIELDS)
            return 0;
        outcome = read_field(reader, field, values);
        if (outcome != 1)
            return outcome;
        if (take_byte(reader, '}'))
            return is_whole(seen);
        if (!take_byte(reader, ','))
            return 0;
    }
    return 0;
}

/* Read all records up to the bracket behind them, which is not taken. */
static int read_all(struct reader *reader, Py_ssize_t count, PyObject *columns[VALUES])
{
    int order[FIELDS] = USUAL_ORDER;

    (void)count;
    for (;;) {
        PyObject *values[FIELDS] = {NULL};
        int outcome = append_record(read_record(reader, order, values), values, columns);
        if (outcome != 1)
            return outcome;
        if (!take_byte(reader, ','))
            return reader->at < reader->end && *reader->at == ']';
    }
}

/* read_records(body: bytes, at: int) -> tuple[list[bytes], list[str], list[str], list[float], int] | None
 *
 * Data, keys, sequence numbers and arrivals of the records of which the first one begins at `at`, and where the bracket
 * stands that ends them; None if one of them has to be read another way. */
static PyObject *read_records(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    (void)module;
    if (given != 2) {
        PyErr_SetString(PyExc_TypeError, "bytes and a place are needed");
        return NULL;
    }
    return read_page(args[0], args[1], -1, read_all);
}

PyMethodDef record_page_methods[] = {
    {"read_records", (PyCFunction)(void (*)(void))read_records, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};
