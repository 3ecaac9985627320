"""Addresses of buffers, for system calls that take structures with pointers in them."""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uintptr_t


def address(buffer):
    cdef Py_buffer view
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        return <uintptr_t>view.buf
    finally:
        PyBuffer_Release(&view)
