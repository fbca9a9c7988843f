/* A line of an access log is taken apart, as producer/core/access_log.py does where it has no escaped quote. */
#include "columns.h"

#define QUOTES 6     /* around request, referrer and user agent */
#define TIME_BYTES 26 /* as of `26/Jan/2019:19:45:25 +0330` */
#define DATE_BYTES 11
#define ADDRESS_BYTES_MAX 255

static const char PROTOCOL[] = " HTTP/";

static int is_digit(uint8_t character) { return character >= '0' && character <= '9'; }

/* The number of two digits; -1 if they are none. */
static int two_digits(const uint8_t *at)
{
    return is_digit(at[0]) && is_digit(at[1]) ? (at[0] - '0') * 10 + at[1] - '0' : -1;
}

/* Read ` STATUS BYTES `; -1 if it is something else. */
static int read_status(struct span numbers)
{
    const uint8_t *at = numbers.start;

    if (numbers.size < 7 || at[0] != ' ' || at[1] == '0' || !is_digit(at[1]) || !is_digit(at[2]) || !is_digit(at[3]) ||
        at[4] != ' ' || at[numbers.size - 1] != ' ')
        return -1;
    if (numbers.size != 7 || at[5] != '-')
        for (size_t place = 5; place < numbers.size - 1; place++)
            if (!is_digit(at[place]))
                return -1;
    return (at[1] - '0') * 100 + (at[2] - '0') * 10 + at[3] - '0';
}

/* Read the time of day, `:19:45:25`, in seconds; -1 if it is none. */
static int read_second(const uint8_t *at)
{
    int hour = two_digits(at + 1), minute = two_digits(at + 4), second = two_digits(at + 7);

    if (at[0] != ':' || at[3] != ':' || at[6] != ':' || hour < 0 || hour > 23 || minute < 0 || minute > 59 ||
        second < 0 || second > 60) /* 60 is a leap second */
        return -1;
    return (hour * 60 + minute) * 60 + second;
}

/* Cut a request into its method and its path without query; 0 if that needs a closer look. */
static int split_request(struct span request, struct span *method, struct span *path)
{
    const uint8_t *space = memchr(request.start, ' ', request.size);
    const size_t protocol = sizeof PROTOCOL - 1;

    if (!space)
        return 0;
    *method = (struct span){request.start, (size_t)(space - request.start)};
    *path = (struct span){space + 1, request.size - method->size - 1};
    if (!path->size || path->start[0] != '/')
        return 0;
    for (size_t left = path->size; left >= protocol; left--)
        if (path->start[left - protocol] == ' ' && !memcmp(path->start + left - protocol, PROTOCOL, protocol)) {
            path->size = left - protocol;
            break;
        }
    for (size_t at = 0; at < path->size; at++)
        if (path->start[at] == '?' || path->start[at] == '#')
            path->size = at;
    return 1;
}

static PyObject *bytes_of_span(struct span span)
{
    return PyBytes_FromStringAndSize((const char *)span.start, (Py_ssize_t)span.size);
}

/* Find the quotes; 0 if there are fewer than that, or one is escaped. */
static int find_quotes(const uint8_t *start, size_t size, const uint8_t **quotes)
{
    const uint8_t *at = start, *end = start + size;

    for (int each = 0; each < QUOTES; each++) {
        at = memchr(at, '"', (size_t)(end - at));
        if (!at || (at > start && at[-1] == '\\'))
            return 0;
        quotes[each] = at++;
    }
    return 1;
}

/* Whether what follows the user agent is the server's own: its quotes come in pairs, none escaped. */
static int is_rest(const uint8_t *at, const uint8_t *end)
{
    int quotes = 0;

    if (at < end && *at != ' ' && *at != '\t' && *at != '\r')
        return 0;
    while (at < end && (at = memchr(at, '"', (size_t)(end - at)))) {
        if (at[-1] == '\\')
            return 0;
        quotes++;
        at++;
    }
    return !(quotes & 1);
}

/* read_log_line(line: bytes) -> tuple | None: columns.py says of what. */
static PyObject *read_log_line(PyObject *module, PyObject *line)
{
    const uint8_t *quotes[QUOTES], *start, *end, *space, *time;
    struct span method, path;
    PyObject *read;
    int status, second;
    size_t head;

    (void)module;
    if (!PyBytes_CheckExact(line)) {
        PyErr_SetString(PyExc_TypeError, "a line is bytes");
        return NULL;
    }
    start = (const uint8_t *)PyBytes_AS_STRING(line);
    end = start + PyBytes_GET_SIZE(line);
    if (!find_quotes(start, (size_t)(end - start), quotes) || !is_rest(quotes[5] + 1, end))
        Py_RETURN_NONE;
    head = (size_t)(quotes[0] - start);
    status = read_status((struct span){quotes[1] + 1, (size_t)(quotes[2] - quotes[1] - 1)});
    if (status < 0 || quotes[4] - quotes[3] != 2 || quotes[3][1] != ' ' || head < TIME_BYTES + 4)
        Py_RETURN_NONE;
    time = quotes[0] - 2 - TIME_BYTES;
    if (memcmp(time - 2, " [", 2) || memcmp(quotes[0] - 2, "] ", 2))
        Py_RETURN_NONE;
    second = read_second(time + DATE_BYTES);
    space = memchr(start, ' ', head);
    if (second < 0 || !space || space == start || space - start > ADDRESS_BYTES_MAX ||
        !split_request((struct span){quotes[0] + 1, (size_t)(quotes[1] - quotes[0] - 1)}, &method, &path))
        Py_RETURN_NONE;
    read = PyTuple_New(8);
    if (!read)
        return NULL;
    PyTuple_SET_ITEM(read, 0, bytes_of_span((struct span){start, (size_t)(space - start)}));
    PyTuple_SET_ITEM(read, 1, bytes_of_span((struct span){time, DATE_BYTES}));
    PyTuple_SET_ITEM(read, 2, bytes_of_span((struct span){time + DATE_BYTES + 9, TIME_BYTES - DATE_BYTES - 9}));
    PyTuple_SET_ITEM(read, 3, PyLong_FromLong(second));
    PyTuple_SET_ITEM(read, 4, PyLong_FromLong(status));
    PyTuple_SET_ITEM(read, 5, bytes_of_span((struct span){quotes[4] + 1, (size_t)(quotes[5] - quotes[4] - 1)}));
    PyTuple_SET_ITEM(read, 6, bytes_of_span(method));
    PyTuple_SET_ITEM(read, 7, bytes_of_span(path));
    for (Py_ssize_t at = 0; at < 8; at++)
        if (!PyTuple_GET_ITEM(read, at)) {
            Py_DECREF(read);
            return NULL;
        }
    return read;
}

PyMethodDef access_log_methods[] = {
    {"read_log_line", read_log_line, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
