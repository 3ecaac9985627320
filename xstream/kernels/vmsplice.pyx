# cython: boundscheck=False, wraparound=False, cdivision=True
"""Pages into a pipe by reference."""
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint64_t

from xstream.kernels import buffers as _buffers

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <fcntl.h>
    #include <sys/uio.h>
    """
    struct iovec:
        void *iov_base
        size_t iov_len
    Py_ssize_t c_vmsplice "vmsplice"(int fd, const iovec *pieces, size_t count, unsigned int flags) nogil

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int c_poll "poll"(pollfd *fds, unsigned long count, int timeout)
    short POLLOUT

cdef enum:
    PAGE = 4096
    PIECES = 64  # more than an ordinary pipe has room for, one page each


cdef Py_ssize_t fill(iovec *pieces, const uint8_t[::1] memory, const uint64_t[::1] pfns, Py_ssize_t done) noexcept nogil:
    """Pieces for what follows the first `done` bytes, neighbours as one; how many."""
    cdef Py_ssize_t i = done // PAGE, count = 0, run
    cdef Py_ssize_t skip = done % PAGE
    while i < pfns.shape[0] and count < PIECES:
        run = 1
        while i + run < pfns.shape[0] and pfns[i + run] == pfns[i + run - 1] + 1:
            run += 1
        pieces[count].iov_base = <void *>&memory[pfns[i] * PAGE + skip]
        pieces[count].iov_len = run * PAGE - skip
        skip = 0
        count += 1
        i += run
    return count


cdef wait_for_room(int fd):
    cdef pollfd waiting
    waiting.fd = fd
    waiting.events = POLLOUT
    with nogil:
        c_poll(&waiting, 1, -1)
    PyErr_CheckSignals()


def splice_pages(int fd, memory, pfns):
    cdef const uint8_t[::1] pages = _buffers.octets("memory", memory)
    cdef const uint64_t[::1] wanted = _buffers.array("pfns", pfns, "uint64")
    cdef iovec pieces[PIECES]
    cdef Py_ssize_t i, count, moved, done = 0
    for i in range(wanted.shape[0]):
        if wanted[i] >= <uint64_t>(pages.shape[0] // PAGE):
            raise IndexError("PFN {:#x} (index {}) past the {} pages of the memory".format(
                wanted[i], i, pages.shape[0] // PAGE))
    while done < wanted.shape[0] * PAGE:
        with nogil:
            count = fill(pieces, pages, wanted, done)
            moved = c_vmsplice(fd, pieces, count, 0)
        if moved >= 0:
            done += moved
        elif errno == EINTR:
            PyErr_CheckSignals()
        elif errno == EAGAIN:
            wait_for_room(fd)
        else:
            PyErr_SetFromErrno(OSError)
    return done
