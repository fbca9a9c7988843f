/* A look at a chunk of events: at their texts before they are decoded, and at what was made of them. */
#include "columns.h"

#define BLOCK 240 /* bytes, that are counted in one */
#define RUN 19 /* digits: no integer of fewer is beyond 64 bits */
#define KEYS_MAX 32 /* of an object are known to be those of the one before it */

static int is_digit(uint8_t letter) { return letter >= '0' && letter <= '9'; }

/* Whether RUN digits stand in a row somewhere: then one of them at a multiple of RUN. */
static int has_digits(const uint8_t *text, size_t size)
{
    for (size_t at = 0; at < size; at += RUN) {
        size_t before = at, behind = at;
        if (!is_digit(text[at]))
            continue;
        while (before && at - before < RUN && is_digit(text[before - 1]))
            before--;
        while (behind < size && behind - before < RUN && is_digit(text[behind]))
            behind++;
        if (behind - before >= RUN)
            return 1;
    }
    return 0;
}

/* look_at(texts: list[bytes]) -> tuple[int, int, bool, bool]
 *
 * The length of the longest one, how many opening brackets they have together, whether one has a newline, and whether
 * one has RUN digits in a row. */
static PyObject *look_at(PyObject *module, PyObject *texts)
{
    size_t longest = 0, openings = 0;
    int newlines = 0, digits = 0;

    (void)module;
    if (!PyList_CheckExact(texts)) {
        PyErr_SetString(PyExc_TypeError, "a list is needed");
        return NULL;
    }
    for (Py_ssize_t index = 0; index < PyList_GET_SIZE(texts); index++) {
        PyObject *each = PyList_GET_ITEM(texts, index);
        const uint8_t *text;
        size_t size;
        if (!PyBytes_Check(each)) {
            PyErr_SetString(PyExc_TypeError, "bytes are needed");
            return NULL;
        }
        text = (const uint8_t *)PyBytes_AS_STRING(each);
        size = (size_t)PyBytes_GET_SIZE(each);
        longest = size > longest ? size : longest;
        for (size_t start = 0; start < size; start += BLOCK) {
            size_t count = size - start < BLOCK ? size - start : BLOCK;
            uint8_t opened = 0, ended = 0;
            for (size_t at = 0; at < count; at++) {
                uint8_t letter = text[start + at];
                opened = (uint8_t)(opened + ((letter | 0x20) == '{')); /* or `[` */
                ended |= (uint8_t)((letter == '\n') | (letter == '\r'));
            }
            openings += opened;
            newlines |= ended;
        }
        digits = digits || has_digits(text, size);
    }
    return Py_BuildValue("nnOO", (Py_ssize_t)longest, (Py_ssize_t)openings, newlines ? Py_True : Py_False,
                         digits ? Py_True : Py_False);
}

enum name { OTHER, HISTORY, EVENT_ID, QUANTITY, IN_CART, FOREIGN };

static const char *const NAMES[FOREIGN] = {NULL, "browse_history", "event_id", "quantity", "in_shopping_cart"};

/* What is known of the objects of one kind: their keys, in their order, as those of one mostly are those of the next.
 * The keys belong to objects that are looked at, which outlive this. */
struct keys {
    PyObject *known[KEYS_MAX];
    enum name names[KEYS_MAX];
};

static enum name name_of(PyObject *key)
{
    if (!PyUnicode_CheckExact(key))
        return FOREIGN;
    for (enum name name = HISTORY; name < FOREIGN; name++) {
        size_t size = strlen(NAMES[name]);
        if (PyUnicode_IS_ASCII(key) && (size_t)PyUnicode_GET_LENGTH(key) == size &&
            !memcmp(PyUnicode_DATA(key), NAMES[name], size))
            return name;
    }
    return OTHER;
}

/* Tell the key at a place by its name; a new one is added to `all`, if there is one. FOREIGN, with an error set or not,
 * if it is no text. */
static enum name tell(struct keys *keys, int place, PyObject *key, PyObject *all)
{
    enum name name;

    if (place < KEYS_MAX && keys->known[place] == key)
        return keys->names[place];
    name = name_of(key);
    if (name != FOREIGN && all && PySet_Add(all, key))
        return FOREIGN;
    if (place < KEYS_MAX) {
        keys->known[place] = key;
        keys->names[place] = name;
    }
    return name;
}

/* What is found of all events, each a list as long as theirs but for the names. */
struct survey {
    PyObject *names, *totals, *in_carts, *products, *event_ids;
    Py_ssize_t items_max;
    long long quantity_max;
    struct keys of_events, of_items;
    int has_ids;
};

/* All below: 1 if it was looked at, 0 if it is out of the ordinary, -1 with an error set. */

static int add_item(struct survey *survey, PyObject *item, long long *total, long long *in_cart)
{
    PyObject *key, *value, *quantity = NULL, *flag = NULL;
    Py_ssize_t at = 0;
    long long number;
    int overflow;

    if (!PyDict_CheckExact(item))
        return 0;
    for (int place = 0; PyDict_Next(item, &at, &key, &value); place++) {
        switch (tell(&survey->of_items, place, key, NULL)) {
        case QUANTITY:
            quantity = value;
            break;
        case IN_CART:
            flag = value;
            break;
        case FOREIGN:
            return 0;
        default:
            break;
        }
    }
    if (!quantity || !flag || !PyLong_CheckExact(quantity) || !PyBool_Check(flag))
        return 0;
    number = PyLong_AsLongLongAndOverflow(quantity, &overflow);
    if (overflow || number < 0 || number > survey->quantity_max)
        return 0;
    return !__builtin_add_overflow(*total, number, total) &&
           (flag == Py_False || !__builtin_add_overflow(*in_cart, number, in_cart));
}

static int set_number(PyObject *column, Py_ssize_t index, long long value)
{
    PyObject *number = PyLong_FromLongLong(value);

    if (!number)
        return 0;
    PyList_SET_ITEM(column, index, number);
    return 1;
}

static int add_event(struct survey *survey, PyObject *event, Py_ssize_t index)
{
    PyObject *key, *value, *history = NULL, *event_id = Py_None;
    Py_ssize_t at = 0, products = 0;
    long long total = 0, in_cart = 0;

    if (!PyDict_CheckExact(event))
        return 0;
    for (int place = 0; PyDict_Next(event, &at, &key, &value); place++) {
        switch (tell(&survey->of_events, place, key, survey->names)) {
        case HISTORY:
            history = value;
            break;
        case EVENT_ID:
            event_id = value;
            survey->has_ids = 1;
            break;
        case FOREIGN:
            return PyErr_Occurred() ? -1 : 0;
        default:
            break;
        }
    }
    PyList_SET_ITEM(survey->event_ids, index, Py_NewRef(event_id));
    if (history) {
        if (!PyList_CheckExact(history) || (products = PyList_GET_SIZE(history)) > survey->items_max)
            return 0;
        for (Py_ssize_t item = 0; item < products; item++)
            if (!add_item(survey, PyList_GET_ITEM(history, item), &total, &in_cart))
                return 0;
    }
    return set_number(survey->totals, index, total) && set_number(survey->in_carts, index, in_cart) &&
                   set_number(survey->products, index, products)
               ? 1
               : -1;
}

/* survey(events: list[dict], items_max: int, quantity_max: int)
 *     -> tuple[set[str], list[int], list[int], list[int], list | None] | None
 *
 * The names of all fields, the three sums, and what each event has for an id, if the field is among the names; None if
 * an event is out of the ordinary. All objects that a garbage collector looks at are made before any is looked at, so
 * that no code runs meanwhile that could change one. */
static PyObject *survey(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    struct survey found = {0};
    PyObject *answer = NULL;
    Py_ssize_t count;
    int outcome = 1;

    (void)module;
    if (given != 3 || !PyList_CheckExact(args[0]) || !PyLong_CheckExact(args[1]) || !PyLong_CheckExact(args[2])) {
        PyErr_SetString(PyExc_TypeError, "a list and two numbers are needed");
        return NULL;
    }
    found.items_max = PyLong_AsSsize_t(args[1]);
    found.quantity_max = PyLong_AsLongLong(args[2]);
    if (PyErr_Occurred())
        return NULL;
    count = PyList_GET_SIZE(args[0]);
    found.names = PySet_New(NULL);
    found.totals = PyList_New(count);
    found.in_carts = PyList_New(count);
    found.products = PyList_New(count);
    found.event_ids = PyList_New(count);
    answer = PyTuple_New(5);
    if (!found.names || !found.totals || !found.in_carts || !found.products || !found.event_ids || !answer)
        outcome = -1;
    else if (PyList_GET_SIZE(args[0]) != count)
        outcome = 0;
    for (Py_ssize_t index = 0; index < count && outcome == 1; index++)
        outcome = add_event(&found, PyList_GET_ITEM(args[0], index), index);
    if (outcome == 1) {
        PyTuple_SET_ITEM(answer, 0, Py_NewRef(found.names));
        PyTuple_SET_ITEM(answer, 1, Py_NewRef(found.totals));
        PyTuple_SET_ITEM(answer, 2, Py_NewRef(found.in_carts));
        PyTuple_SET_ITEM(answer, 3, Py_NewRef(found.products));
        PyTuple_SET_ITEM(answer, 4, Py_NewRef(found.has_ids ? found.event_ids : Py_None));
    } else {
        Py_CLEAR(answer);
        if (outcome == 0)
            answer = Py_NewRef(Py_None);
    }
    Py_XDECREF(found.names);
    Py_XDECREF(found.totals);
    Py_XDECREF(found.in_carts);
    Py_XDECREF(found.products);
    Py_XDECREF(found.event_ids);
    return answer;
}

PyMethodDef survey_methods[] = {
    {"look_at", look_at, METH_O, NULL},
    {"survey", (PyCFunction)(void (*)(void))survey, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};
