/* The extension module shared.compiled._columns: what is done per record, over whole columns of records.
 *
 * Each function has a twin in Python that gives the same results; shared/compiled/__init__.py says which one is used. */
#include "columns.h"

#ifndef SOURCES
#define SOURCES ""
#endif

static PyMethodDef *const TABLES[] = {
    digest_methods,
    access_log_methods, aggregate_methods,
    record_page_methods,
    event_methods,
    put_body_methods, queue_methods,
    size_methods,
    cbor_page_methods,
    id_run_methods,
    lines_methods,
    member_methods,
    survey_methods,
    take_methods,
};

static int fill(PyObject *module)
{
    for (size_t at = 0; at < sizeof TABLES / sizeof *TABLES; at++)
        if (PyModule_AddFunctions(module, TABLES[at]))
            return -1;
    return PyModule_AddStringConstant(module, "SOURCES", SOURCES);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)fill},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "shared.compiled._columns", .m_size = 0, .m_slots = slots};

PyMODINIT_FUNC PyInit__columns(void) { return PyModuleDef_Init(&definition); }
