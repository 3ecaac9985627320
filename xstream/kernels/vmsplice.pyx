# cython: boundscheck=False, wraparound=False, cdivision=True
"""Send pages into a pipe by reference."""
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint64_t

from xstream.kernels.words cimport PAGE, Run, first_outside, load64, run_at, run_fits

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
    PIECES = 64  # in one call: more than an ordinary pipe has room for, one page each


cdef Py_ssize_t fill(iovec *pieces, const uint8_t[::1] memory, const uint64_t[::1] pfns,
                     Py_ssize_t done) noexcept nogil:
    """Pieces for what follows the first `done` bytes, consecutive PFNs as one; how many. -1 for a PFN past the memory.
    """
    cdef Py_ssize_t i = done // PAGE, count = 0
    cdef Py_ssize_t skip = done % PAGE
    cdef Run run
    while i < pfns.shape[0] and count < PIECES:
        run = run_at(&pfns[0], i, pfns.shape[0])
        if not run_fits(run, memory.shape[0] // PAGE):  # it has changed since it was checked
            return -1
        pieces[count].iov_base = <void *>&memory[run.first * PAGE + skip]
        pieces[count].iov_len = run.length * PAGE - skip
        skip = 0
        count += 1
        i += run.length
    return count


cdef wait_for_room(int fd):
    cdef pollfd waiting
    waiting.fd = fd
    waiting.events = POLLOUT
    with nogil:
        c_poll(&waiting, 1, -1)
    PyErr_CheckSignals()


cdef check_pfns(const uint64_t[::1] pfns, Py_ssize_t pages):
    cdef Py_ssize_t bad = first_outside(&pfns[0], pfns.shape[0], pages)
    if bad >= 0:
        raise IndexError("PFN {:#x} (index {}) past the {} pages of the memory".format(
            load64(&pfns[0], bad), bad, pages))


def splice_pages(int fd, memory, pfns):
    cdef const uint8_t[::1] pages = _buffers.octets("memory", memory)
    cdef const uint64_t[::1] wanted = _buffers.array("pfns", pfns, "uint64")
    cdef iovec pieces[PIECES]
    cdef Py_ssize_t count, moved, done = 0
    check_pfns(wanted, pages.shape[0] // PAGE)
    while done < wanted.shape[0] * PAGE:
        with nogil:
            count = fill(pieces, pages, wanted, done)
            moved = c_vmsplice(fd, pieces, count, 0) if count > 0 else 0
        if count < 0:
            raise IndexError("the PFNs changed while their pages were being sent")
        if moved >= 0:
            done += moved
        elif errno == EINTR:
            PyErr_CheckSignals()
        elif errno == EAGAIN:
            wait_for_room(fd)
        else:
            PyErr_SetFromErrno(OSError)
    return done
