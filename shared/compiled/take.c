/* Lanes are emptied into aggregates: what producer/core/packer.py does with lanes that go whole, all in one call. */
#include "columns.h"

#define LEFT UINT32_MAX
#define LIMIT_MAX ((Py_ssize_t)1 << 40) /* so that no sum of two limits and a lane is too large */

/* One aggregate. */
struct group {
    PyObject *shard; /* owned: a text of ASCII */
    PyObject *datas, *keys; /* owned: lists as long as there are records */
    size_t bytes;    /* that it takes at most */
    size_t size;     /* of data and keys */
    size_t records, lanes;
    size_t filled;
    int is_closed;
};

enum { SHARDS, DATAS, KEYS, SIZES, COUNTS, LANES, LEFT_OUT, COLUMNS };

/* What a call works on; all objects but those of groups are borrowed. */
struct taking {
    PyObject *indexes, *shards, *datas, *keys; /* lists: two of the lanes that wait, two of all lanes */
    const uint8_t *joins;                      /* of each lane that waits; NULL if each may begin an aggregate */
    size_t count;   /* of lanes that wait */
    size_t stopped; /* so many of them were looked at */
    size_t *places;   /* of each, its index */
    size_t *records;  /* of each, how many it holds */
    uint32_t *chosen; /* of each, its group, or LEFT */
    uint8_t *seen;    /* of each lane, whether it was chosen */
    size_t lanes;
    struct group *groups;
    size_t group_count;
    uint32_t *order; /* groups that take no more, in the order in which they came to that; then the others */
    size_t closed;
    uint32_t *slots; /* a table of groups by their shards */
    size_t mask;
    size_t taken; /* bytes of all groups, at most */
    PyObject *columns[COLUMNS]; /* owned: lists of what is told */
    size_t sizes[COLUMNS];
    size_t groups_max, room, bytes_max, full_bytes, records_max, head_bytes, member_bytes;
};

static int same_shard(PyObject *one, PyObject *other)
{
    Py_ssize_t size = PyUnicode_GET_LENGTH(one);
    return one == other || (size == PyUnicode_GET_LENGTH(other) &&
                            !memcmp(PyUnicode_DATA(one), PyUnicode_DATA(other), (size_t)size));
}

/* Return the place of a shard in the table; -1 with an error set. */
static Py_ssize_t slot_of(const struct taking *at, PyObject *shard)
{
    Py_hash_t hash = PyObject_Hash(shard);
    size_t slot = (size_t)hash & at->mask;

    if (hash == -1)
        return -1;
    while (at->slots[slot] != LEFT && !same_shard(shard, at->groups[at->slots[slot]].shard))
        slot = (slot + 1) & at->mask;
    return (Py_ssize_t)slot;
}

/* Count what a lane holds: 1, or 0 if it has nothing, a record that is no ordinary one, or more than `bytes_max`. */
static int measure_lane(const struct taking *at, size_t place, size_t *records, size_t *size)
{
    PyObject *datas = PyList_GET_ITEM(at->datas, place), *keys = PyList_GET_ITEM(at->keys, place);

    if (!PyList_CheckExact(datas) || !PyList_CheckExact(keys) || !PyList_GET_SIZE(datas) ||
        PyList_GET_SIZE(datas) != PyList_GET_SIZE(keys))
        return 0;
    *records = (size_t)PyList_GET_SIZE(datas);
    *size = 0;
    for (size_t each = 0; each < *records; each++) {
        PyObject *data = PyList_GET_ITEM(datas, each), *key = PyList_GET_ITEM(keys, each);
        Py_ssize_t key_size;
        if (!PyBytes_CheckExact(data) || !PyUnicode_CheckExact(key) || (key_size = utf8_size(key)) < 0)
            return 0;
        *size += (size_t)PyBytes_GET_SIZE(data) + (size_t)key_size;
        if (*size > at->bytes_max)
            return 0;
    }
    return 1;
}

/* Whether a group takes so many more bytes and records. */
static int has_room(const struct taking *at, const struct group *group, size_t bytes, size_t records)
{
    return group->bytes + bytes <= at->bytes_max && group->records + records <= at->records_max;
}

/* Choose the group of a lane that waits: 1, 0 if Python has to look at it, -1 with an error set. */
static int choose(struct taking *at, size_t each)
{
    PyObject *index = PyList_GET_ITEM(at->indexes, each), *shard = PyList_GET_ITEM(at->shards, each);
    Py_ssize_t place, slot;
    size_t records, size, bytes;
    struct group *group;
    int is_new, may_begin = at->group_count < at->groups_max;

    at->chosen[each] = LEFT;
    if (!PyLong_CheckExact(index) || !PyUnicode_CheckExact(shard) || !PyUnicode_IS_ASCII(shard))
        return 0;
    place = PyLong_AsSsize_t(index);
    if (place < 0 || (size_t)place >= at->lanes || at->seen[place]) {
        PyErr_Clear();
        return 0;
    }
    slot = slot_of(at, shard);
    if (slot < 0)
        return -1;
    is_new = at->slots[slot] == LEFT;
    if (is_new && at->group_count && (!may_begin || (at->joins && at->joins[each])))
        return 1;
    if ((is_new && !may_begin) || !measure_lane(at, (size_t)place, &records, &size) || records > at->records_max)
        return 0;
    bytes = size + records * at->member_bytes;
    if (!is_new && !has_room(at, &at->groups[at->slots[slot]], bytes, records)) {
        group = &at->groups[at->slots[slot]];
        if (group->bytes <= at->full_bytes || !may_begin || (at->joins && at->joins[each]))
            return 0;
        is_new = 1;
    }
    bytes += is_new ? at->head_bytes : 0;
    group = &at->groups[is_new ? at->group_count : at->slots[slot]];
    if (!has_room(at, group, bytes, records) || at->taken + bytes > at->room)
        return 0;
    if (is_new) {
        if (at->slots[slot] != LEFT) {
            at->groups[at->slots[slot]].is_closed = 1;
            at->order[at->closed++] = at->slots[slot];
        }
        group->shard = Py_NewRef(shard);
        at->slots[slot] = (uint32_t)at->group_count++;
    }
    group->bytes += bytes;
    group->size += size;
    group->records += records;
    group->lanes++;
    at->taken += bytes;
    at->seen[place] = 1;
    at->places[each] = (size_t)place;
    at->records[each] = records;
    at->chosen[each] = at->slots[slot];
    return 1;
}

/* Return a list of so many items that are none yet. */
static PyObject *new_list(size_t count)
{
    PyObject *list = PyList_New((Py_ssize_t)count);

    for (size_t each = 0; list && each < count; each++)
        PyList_SET_ITEM(list, (Py_ssize_t)each, Py_NewRef(Py_None));
    return list;
}

/* Put an item, whose reference is taken, in the place of another one. */
static void set_item(PyObject *list, size_t place, PyObject *item)
{
    PyObject *former = PyList_GET_ITEM(list, (Py_ssize_t)place);

    PyList_SET_ITEM(list, (Py_ssize_t)place, item);
    Py_DECREF(former);
}

static int set_number(PyObject *list, size_t place, size_t value)
{
    PyObject *number = PyLong_FromSize_t(value);

    if (!number)
        return -1;
    set_item(list, place, number);
    return 0;
}

/* Make all lists; 0, or -1 with an error set. The collector may have Python run at each. */
static int make_lists(struct taking *at)
{
    size_t lanes = 0;

    for (size_t each = 0; each < at->group_count; each++) {
        struct group *group = &at->groups[each];
        lanes += group->lanes;
        group->datas = new_list(group->records);
        group->keys = new_list(group->records);
        if (!group->datas || !group->keys)
            return -1;
    }
    for (size_t each = 0; each < COLUMNS; each++) {
        at->sizes[each] = each == LANES ? lanes : each == LEFT_OUT ? at->stopped - lanes : at->group_count;
        at->columns[each] = new_list(at->sizes[each]);
        if (!at->columns[each])
            return -1;
    }
    return 0;
}

static int has_size(PyObject *list, size_t size)
{
    return PyList_CheckExact(list) && (size_t)PyList_GET_SIZE(list) == size;
}

/* Whether all lists are as they were. */
static int is_unchanged(const struct taking *at)
{
    if (!has_size(at->datas, at->lanes) || !has_size(at->keys, at->lanes))
        return 0;
    for (size_t each = 0; each < at->stopped; each++)
        if (at->chosen[each] != LEFT && (!has_size(PyList_GET_ITEM(at->datas, at->places[each]), at->records[each]) ||
                                         !has_size(PyList_GET_ITEM(at->keys, at->places[each]), at->records[each])))
            return 0;
    for (size_t each = 0; each < at->group_count; each++)
        if (!has_size(at->groups[each].datas, at->groups[each].records) ||
            !has_size(at->groups[each].keys, at->groups[each].records))
            return 0;
    for (size_t each = 0; each < COLUMNS; each++)
        if (!has_size(at->columns[each], at->sizes[each]))
            return 0;
    return 1;
}

/* Write down all numbers: 0, or -1 with an error set. */
static int tell(struct taking *at)
{
    size_t next = 0, left = 0;

    for (size_t each = 0, last = at->closed; each < at->group_count; each++)
        if (!at->groups[each].is_closed)
            at->order[last++] = (uint32_t)each;
    for (size_t each = 0; each < at->group_count; each++) {
        struct group *group = &at->groups[at->order[each]];
        set_item(at->columns[SHARDS], each, Py_NewRef(group->shard));
        set_item(at->columns[DATAS], each, Py_NewRef(group->datas));
        set_item(at->columns[KEYS], each, Py_NewRef(group->keys));
        if (set_number(at->columns[SIZES], each, group->size) || set_number(at->columns[COUNTS], each, group->lanes))
            return -1;
        group->filled = next;
        next += group->lanes;
    }
    for (size_t each = 0; each < at->stopped; each++)
        if (at->chosen[each] == LEFT ? set_number(at->columns[LEFT_OUT], left++, each)
                                     : set_number(at->columns[LANES], at->groups[at->chosen[each]].filled++, at->places[each]))
            return -1;
    return 0;
}

/* Copy what a list holds to a place of another one. */
static void copy_items(PyObject *from, PyObject *to, size_t place)
{
    for (Py_ssize_t each = 0; each < PyList_GET_SIZE(from); each++)
        set_item(to, place + (size_t)each, Py_NewRef(PyList_GET_ITEM(from, each)));
}

/* Empty a list whose items somebody else holds, too: neither can that fail, nor is anything freed but its memory. */
static void empty(PyObject *list)
{
    if (PyList_SetSlice(list, 0, PyList_GET_SIZE(list), NULL))
        PyErr_Clear();
}

static void move_all(struct taking *at)
{
    for (size_t each = 0; each < at->group_count; each++)
        at->groups[each].filled = 0;
    for (size_t each = 0; each < at->stopped; each++) {
        struct group *group;
        if (at->chosen[each] == LEFT)
            continue;
        group = &at->groups[at->chosen[each]];
        copy_items(PyList_GET_ITEM(at->datas, at->places[each]), group->datas, group->filled);
        copy_items(PyList_GET_ITEM(at->keys, at->places[each]), group->keys, group->filled);
        group->filled += at->records[each];
    }
    for (size_t each = 0; each < at->stopped; each++)
        if (at->chosen[each] != LEFT) {
            empty(PyList_GET_ITEM(at->datas, at->places[each]));
            empty(PyList_GET_ITEM(at->keys, at->places[each]));
        }
}

/* Take what can be taken: what is told of it, or NULL with an error set. */
static PyObject *take(struct taking *at)
{
    PyObject *told;
    int outcome = 1;

    while (at->stopped < at->count && (outcome = choose(at, at->stopped)) == 1)
        at->stopped++;
    if (outcome < 0 || make_lists(at))
        return NULL;
    told = PyTuple_New(COLUMNS + 1);
    if (!told)
        return NULL;
    if (!is_unchanged(at)) {
        PyErr_SetString(PyExc_RuntimeError, "lanes were changed under way");
        Py_DECREF(told);
        return NULL;
    }
    /* No code of Python runs from here on. */
    PyTuple_SET_ITEM(told, COLUMNS, PyLong_FromSize_t(at->stopped));
    if (!PyTuple_GET_ITEM(told, COLUMNS) || tell(at)) {
        Py_DECREF(told);
        return NULL;
    }
    move_all(at);
    for (size_t each = 0; each < COLUMNS; each++)
        PyTuple_SET_ITEM(told, (Py_ssize_t)each, Py_NewRef(at->columns[each]));
    return told;
}

static int read_limits(struct taking *at, PyObject *limits)
{
    size_t *all[] = {&at->groups_max, &at->room, &at->bytes_max, &at->full_bytes, &at->records_max, &at->head_bytes, &at->member_bytes};

    if (!PyTuple_CheckExact(limits) || PyTuple_GET_SIZE(limits) != sizeof all / sizeof *all)
        return -1;
    for (size_t each = 0; each < sizeof all / sizeof *all; each++) {
        PyObject *limit = PyTuple_GET_ITEM(limits, (Py_ssize_t)each);
        Py_ssize_t value = PyLong_CheckExact(limit) ? PyLong_AsSsize_t(limit) : -1;
        if (PyErr_Occurred()) {
            PyErr_Clear();
            return -1;
        }
        if (value < 0 || value > LIMIT_MAX)
            return -1;
        *all[each] = (size_t)value;
    }
    return 0;
}

static PyObject *take_all(struct taking *at)
{
    size_t slots = 8;
    PyObject *told = NULL;

    while (slots < 2 * at->count)
        slots *= 2;
    at->mask = slots - 1;
    at->places = PyMem_New(size_t, at->count + 1);
    at->records = PyMem_New(size_t, at->count + 1);
    at->chosen = PyMem_New(uint32_t, at->count + 1);
    at->order = PyMem_New(uint32_t, at->count + 1);
    at->slots = PyMem_New(uint32_t, slots);
    at->groups = PyMem_Calloc(at->count + 1, sizeof *at->groups);
    at->seen = PyMem_Calloc(at->lanes + 1, 1);
    if (!at->places || !at->records || !at->chosen || !at->order || !at->slots || !at->groups || !at->seen)
        PyErr_NoMemory();
    else {
        memset(at->slots, 0xff, slots * sizeof *at->slots);
        told = take(at);
    }
    for (size_t each = 0; each < at->group_count; each++) {
        Py_XDECREF(at->groups[each].shard);
        Py_XDECREF(at->groups[each].datas);
        Py_XDECREF(at->groups[each].keys);
    }
    for (size_t each = 0; each < COLUMNS; each++)
        Py_XDECREF(at->columns[each]);
    PyMem_Free(at->places);
    PyMem_Free(at->records);
    PyMem_Free(at->chosen);
    PyMem_Free(at->order);
    PyMem_Free(at->slots);
    PyMem_Free(at->groups);
    PyMem_Free(at->seen);
    return told;
}

/* take_lanes(indexes, shards, joins, lane_datas, lane_keys, limits) -> tuple: columns.py says what it does. */
static PyObject *take_lanes(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    struct taking at = {0};

    (void)module;
    if (given != 6 || !PyList_CheckExact(args[0]) || !PyList_CheckExact(args[1]) ||
        !(args[2] == Py_None || PyBytes_CheckExact(args[2])) || !PyList_CheckExact(args[3]) ||
        !PyList_CheckExact(args[4]) || read_limits(&at, args[5]) ||
        PyList_GET_SIZE(args[0]) != PyList_GET_SIZE(args[1]) || PyList_GET_SIZE(args[3]) != PyList_GET_SIZE(args[4]) ||
        (args[2] != Py_None && PyBytes_GET_SIZE(args[2]) != PyList_GET_SIZE(args[0])) ||
        (size_t)PyList_GET_SIZE(args[0]) >= LEFT / 4) {
        PyErr_SetString(PyExc_TypeError, "the lanes that wait, all lanes, and limits are needed");
        return NULL;
    }
    at.indexes = args[0];
    at.shards = args[1];
    at.joins = args[2] == Py_None ? NULL : (const uint8_t *)PyBytes_AS_STRING(args[2]);
    at.datas = args[3];
    at.keys = args[4];
    at.count = (size_t)PyList_GET_SIZE(args[0]);
    at.lanes = (size_t)PyList_GET_SIZE(args[3]);
    return take_all(&at);
}

PyMethodDef take_methods[] = {
    {"take_lanes", (PyCFunction)(void (*)(void))take_lanes, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};
