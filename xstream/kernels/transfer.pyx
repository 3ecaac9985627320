# cython: boundscheck=False, wraparound=False, cdivision=True
"""Move bytes from one descriptor to another, without copying them through this process where Linux can."""
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc

cdef extern from "transfer.h" nogil:
    int xs_kind(int fd)
    int XS_PIPE
    int XS_FILE
    int64_t xs_splice(int source, int sink, size_t size)
    int64_t xs_copy_range(int source, int sink, size_t size)
    int64_t xs_sendfile(int source, int sink, size_t size)
    int64_t xs_read(int fd, void *into, size_t size)
    int64_t xs_write(int fd, const void *data, size_t size)
    int64_t xs_wait(int fd, int writing)
    int xs_widen(int fd, int size)
    bint xs_refused(int error)
    void xs_begin_writing(int fd, int64_t size)

cdef enum:
    MOST = 0x40000000  # bytes to move in one call
    ROOM = 0x40000     # bytes to move at once by read and write
    HOLD = 0x100000    # size of a pipe that an unprivileged process may ask for

ctypedef int64_t (*way_t)(int source, int sink, size_t size) noexcept nogil


cdef int64_t splice(int source, int sink, size_t size) noexcept nogil:
    return xs_splice(source, sink, size)


cdef int64_t copy_range(int source, int sink, size_t size) noexcept nogil:
    return xs_copy_range(source, sink, size)


cdef int64_t sendfile(int source, int sink, size_t size) noexcept nogil:
    return xs_sendfile(source, sink, size)


cdef way_t way_between(int source, int sink) noexcept nogil:
    cdef int kind = xs_kind(source)
    if kind == XS_PIPE or xs_kind(sink) == XS_PIPE:
        return splice
    if kind == XS_FILE:
        return copy_range if xs_kind(sink) == XS_FILE else sendfile
    return NULL


cdef settle(int source, int sink):
    """Handle a call that moved nothing: run signal handlers, wait, or raise. -1 for an end that took no part in it."""
    cdef int error = errno
    if error == EAGAIN:
        # Linux doesn't say which of the two isn't ready.
        with nogil:
            if source < 0 or xs_wait(source, 0) >= 0:
                if sink >= 0:
                    xs_wait(sink, 1)
    elif error != EINTR:
        PyErr_SetFromErrno(OSError)
    PyErr_CheckSignals()


cdef int64_t by_kernel(int source, int sink, int64_t size, way_t way, bint *refused) except -1:
    cdef int64_t done = 0, moved
    refused[0] = False
    while done < size:
        with nogil:
            moved = way(source, sink, min(size - done, <int64_t>MOST))
        if moved > 0:
            done += moved
        elif moved == 0:
            # On some filesystems copy_file_range returns 0 before the end of the file: try another way.
            refused[0] = way == copy_range
            break
        elif xs_refused(errno):
            refused[0] = True
            break
        else:
            settle(source, sink)
    return done


cdef write_all(int sink, const char *data, int64_t size):
    cdef int64_t moved
    while size:
        with nogil:
            moved = xs_write(sink, data, size)
        if moved >= 0:
            data += moved
            size -= moved
        else:
            settle(-1, sink)


cdef int64_t by_copying(int source, int sink, int64_t size, char *room) except -1:
    cdef int64_t done = 0, moved
    while done < size:
        with nogil:
            moved = xs_read(source, room, min(size - done, <int64_t>ROOM))
        if moved > 0:
            write_all(sink, room, moved)
            done += moved
        elif moved == 0:
            break
        else:
            settle(source, -1)
    return done


def transfer(int source, int sink, int64_t size):
    cdef int64_t done = 0
    cdef bint refused = True
    cdef way_t way
    cdef char *room
    if size < 0:
        raise ValueError("size must not be negative")
    way = way_between(source, sink)
    if way != NULL:
        done = by_kernel(source, sink, size, way, &refused)
        if refused and way == copy_range:
            done += by_kernel(source, sink, size - done, sendfile, &refused)
    if not refused:
        return done
    room = <char *>malloc(ROOM)
    if room == NULL:
        raise MemoryError
    try:
        return done + by_copying(source, sink, size - done, room)
    finally:
        free(room)


def begin_writing(int fd, int64_t size):
    if size > 0:
        with nogil:
            xs_begin_writing(fd, size)


def widen_pipe(int fd):
    return xs_widen(fd, HOLD)
