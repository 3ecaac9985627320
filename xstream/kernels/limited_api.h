/*
 * Included before all else where the kernels are built for the limited API.
 *
 * At start-up Cython's code for that API imports inspect, collections.abc and types for the few names that are in
 * xstream/kernels/limited_api.py. Loading the three takes half as long as starting Python, so load that module instead.
 */
#ifndef PY_SSIZE_T_CLEAN
#define PY_SSIZE_T_CLEAN
#endif
#include <Python.h>
#include <string.h>

static PyObject *xs_import(const char *name)
{
    if (!strcmp(name, "inspect") || !strcmp(name, "collections.abc") || !strcmp(name, "types"))
        name = "xstream.kernels.limited_api";
    return PyImport_ImportModule(name);
}

#define PyImport_ImportModule xs_import
