# cython: boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Pages of guest memory: copy, compare, look for zeros, and move them between memory and descriptors."""
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    Py_ssize_t c_writev "writev"(int fd, const iovec *pieces, int count)
    Py_ssize_t c_readv "readv"(int fd, const iovec *pieces, int count)

cdef extern from "<unistd.h>" nogil:
    Py_ssize_t c_pread "pread"(int fd, void *data, size_t size, int64_t offset)
    Py_ssize_t c_pwrite "pwrite"(int fd, const void *data, size_t size, int64_t offset)

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int c_poll "poll"(pollfd *fds, unsigned long count, int timeout)
    short POLLIN
    short POLLOUT

cdef extern from "pagecopy.h" nogil:
    ctypedef struct copies_held "xs_copies":
        int held
    void copy_page "xs_copy_page"(copies_held *copies, unsigned char *to, const unsigned char *source)
    void finish_copies "xs_finish_copies"(copies_held *copies)

cdef extern from "zero.h" nogil:
    ctypedef int (*zero_function "xs_zero_function")(const uint8_t *page) noexcept
    int is_zero_generic "xs_is_zero_generic"(const uint8_t *page) noexcept
    int is_zero_avx2 "xs_is_zero_avx2"(const uint8_t *page) noexcept

cdef extern from "cpu.h" nogil:
    bint has_avx2 "xs_cpu_has_avx2"()

PAGE_SIZE = 4096

cdef enum:
    PAGE = 4096
    PIECES = 1024  # IOV_MAX on Linux
    MOST = 0x7ffff000  # what Linux moves in one call

cdef enum Direction:
    WRITING
    READING

cdef zero_function is_zero = is_zero_avx2 if has_avx2() else is_zero_generic


def implementations():
    return ("generic", "avx2") if has_avx2() else ("generic",)


def implementation():
    return "generic" if is_zero == is_zero_generic else "avx2"


def use(str name not None):
    global is_zero
    if name not in implementations():
        raise ValueError("no implementation {!r} on this machine".format(name))
    is_zero = is_zero_generic if name == "generic" else is_zero_avx2


cdef Py_ssize_t first_outside(const uint64_t[::1] pfns, Py_ssize_t pages) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(pfns.shape[0]):
        if pfns[i] >= <uint64_t>pages:
            return i
    return -1


cdef check_pfns(const uint64_t[::1] pfns, Py_ssize_t size):
    cdef Py_ssize_t bad
    with nogil:
        bad = first_outside(pfns, size // PAGE)
    if bad >= 0:
        raise IndexError("PFN {:#x} (index {}) past the {} pages of the memory".format(pfns[bad], bad, size // PAGE))


cdef check_size(const uint64_t[::1] pfns, Py_ssize_t size):
    if size != pfns.shape[0] * PAGE:
        raise ValueError("{} bytes of pages for {} PFNs".format(size, pfns.shape[0]))


cdef check_apart(const uint8_t[::1] a, const uint8_t[::1] b):
    if a.shape[0] and b.shape[0] and &a[0] < &b[0] + b.shape[0] and &b[0] < &a[0] + a.shape[0]:
        raise ValueError("pages lie within the memory that they are copied to or from")


cdef inline Py_ssize_t run_at(const uint64_t[::1] pfns, Py_ssize_t i) noexcept nogil:
    """How many PFNs from index i on are neighbours."""
    cdef Py_ssize_t j = i + 1
    while j < pfns.shape[0] and pfns[j] == pfns[j - 1] + 1:
        j += 1
    return j - i


def scatter(uint8_t[::1] memory not None, const uint64_t[::1] pfns not None, const uint8_t[::1] pages not None):
    cdef Py_ssize_t i
    cdef copies_held copies
    check_size(pfns, pages.shape[0])
    check_pfns(pfns, memory.shape[0])
    check_apart(memory, pages)
    copies.held = 0
    with nogil:
        for i in range(pfns.shape[0]):
            copy_page(&copies, &memory[pfns[i] * PAGE], &pages[i * PAGE])
        finish_copies(&copies)


def gather(const uint8_t[::1] memory not None, const uint64_t[::1] pfns not None, uint8_t[::1] pages not None):
    cdef Py_ssize_t i = 0, run
    check_size(pfns, pages.shape[0])
    check_pfns(pfns, memory.shape[0])
    check_apart(memory, pages)
    with nogil:
        while i < pfns.shape[0]:
            run = run_at(pfns, i)
            memcpy(&pages[i * PAGE], &memory[pfns[i] * PAGE], run * PAGE)
            i += run


def compare(const uint8_t[::1] memory not None, const uint64_t[::1] pfns not None, const uint8_t[::1] pages not None,
            uint64_t[::1] differing not None):
    cdef Py_ssize_t i, found = 0
    check_size(pfns, pages.shape[0])
    check_pfns(pfns, memory.shape[0])
    if differing.shape[0] < pfns.shape[0]:
        raise ValueError("room for {} of {} PFNs".format(differing.shape[0], pfns.shape[0]))
    with nogil:
        for i in range(pfns.shape[0]):
            if memcmp(&memory[pfns[i] * PAGE], &pages[i * PAGE], PAGE):
                differing[found] = pfns[i]
                found += 1
    return found


def zero_pages(const uint8_t[::1] pages not None, uint64_t[::1] indices not None):
    cdef Py_ssize_t i, found = 0, count = pages.shape[0] // PAGE
    if pages.shape[0] % PAGE or indices.shape[0] < count:
        raise ValueError("{} bytes of pages, room for {} indices".format(pages.shape[0], indices.shape[0]))
    with nogil:
        for i in range(count):
            if is_zero(&pages[i * PAGE]):
                indices[found] = i
                found += 1
    return found


def zero_pfns(const uint8_t[::1] memory not None, const uint64_t[::1] pfns not None, uint64_t[::1] out not None):
    cdef Py_ssize_t i, found = 0
    check_pfns(pfns, memory.shape[0])
    if out.shape[0] < pfns.shape[0]:
        raise ValueError("room for {} of {} PFNs".format(out.shape[0], pfns.shape[0]))
    with nogil:
        for i in range(pfns.shape[0]):
            if is_zero(&memory[pfns[i] * PAGE]):
                out[found] = pfns[i]
                found += 1
    return found


cdef class _Pieces:
    """Pieces of memory to be moved in order, as many as there are, and how far that has come."""
    cdef iovec *vec
    cdef Py_ssize_t count, room
    cdef Py_buffer *views
    cdef Py_ssize_t held

    def __cinit__(self, Py_ssize_t room, Py_ssize_t buffers):
        self.room = room
        self.vec = <iovec *>PyMem_Malloc(max(room, 1) * sizeof(iovec))
        self.views = <Py_buffer *>PyMem_Malloc(max(buffers, 1) * sizeof(Py_buffer))
        if not self.vec or not self.views:
            raise MemoryError

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.held):
            PyBuffer_Release(&self.views[i])
        PyMem_Free(self.vec)
        PyMem_Free(self.views)

    cdef hold(self, object buffer, int flags):
        PyObject_GetBuffer(buffer, &self.views[self.held], flags)
        self.held += 1
        self.add(self.views[self.held - 1].buf, self.views[self.held - 1].len)

    cdef void add(self, void *start, Py_ssize_t size) noexcept nogil:
        if size:
            self.vec[self.count].iov_base = start
            self.vec[self.count].iov_len = size
            self.count += 1


cdef Py_ssize_t move_some(int fd, iovec *vec, Py_ssize_t count, Direction direction) noexcept nogil:
    cdef int pieces = <int>min(count, PIECES)
    return c_writev(fd, vec, pieces) if direction == WRITING else c_readv(fd, vec, pieces)


cdef void pass_over(iovec **vec, Py_ssize_t *count, Py_ssize_t moved) noexcept nogil:
    while count[0] and <size_t>moved >= vec[0][0].iov_len:
        moved -= vec[0][0].iov_len
        vec[0] += 1
        count[0] -= 1
    if moved:
        vec[0][0].iov_base = <uint8_t *>vec[0][0].iov_base + moved
        vec[0][0].iov_len -= moved


cdef wait_for(int fd, Direction direction):
    cdef pollfd waiting
    waiting.fd = fd
    waiting.events = POLLOUT if direction == WRITING else POLLIN
    with nogil:
        c_poll(&waiting, 1, -1)
    PyErr_CheckSignals()


cdef Py_ssize_t move_all(int fd, _Pieces pieces, Direction direction) except -1:
    """Move everything, or to the end of the input; how many bytes."""
    cdef iovec *vec = pieces.vec
    cdef Py_ssize_t count = pieces.count, total = 0, moved
    while count:
        with nogil:
            moved = move_some(fd, vec, count, direction)
        if moved > 0:
            total += moved
            pass_over(&vec, &count, moved)
        elif moved == 0:
            if direction == READING:
                break
        elif errno == EINTR:
            PyErr_CheckSignals()
        elif errno == EAGAIN:
            wait_for(fd, direction)
        else:
            PyErr_SetFromErrno(OSError)
    return total


cdef _Pieces hold_all(object buffers, int flags):
    buffers = list(buffers)
    cdef _Pieces pieces = _Pieces(len(buffers), len(buffers))
    for buffer in buffers:
        pieces.hold(buffer, flags)
    return pieces


def writev(int fd, buffers not None):
    return move_all(fd, hold_all(buffers, PyBUF_SIMPLE), WRITING)


def readv(int fd, buffers not None):
    return move_all(fd, hold_all(buffers, PyBUF_WRITABLE), READING)


cdef void add_pages(_Pieces pieces, const uint8_t[::1] memory, const uint64_t[::1] pfns, Py_ssize_t skip) noexcept nogil:
    """Pieces for the pages of the PFNs, neighbours as one, but for the first `skip` bytes."""
    cdef Py_ssize_t i = skip // PAGE, run
    skip %= PAGE
    while i < pfns.shape[0]:
        run = run_at(pfns, i)
        pieces.add(<void *>&memory[pfns[i] * PAGE + skip], run * PAGE - skip)
        skip = 0
        i += run


def write_pages(int fd, head not None, const uint8_t[::1] memory not None, const uint64_t[::1] pfns not None):
    cdef _Pieces pieces = _Pieces(pfns.shape[0] + 1, 1)
    check_pfns(pfns, memory.shape[0])
    pieces.hold(head, PyBUF_SIMPLE)
    with nogil:
        add_pages(pieces, memory, pfns, 0)
    return move_all(fd, pieces, WRITING)


def read_pages(int fd, uint8_t[::1] memory not None, const uint64_t[::1] pfns not None, Py_ssize_t skip=0):
    cdef _Pieces pieces = _Pieces(pfns.shape[0] + 1, 0)
    check_pfns(pfns, memory.shape[0])
    if not 0 <= skip <= pfns.shape[0] * PAGE:
        raise ValueError("skip {} of {} bytes".format(skip, pfns.shape[0] * PAGE))
    with nogil:
        add_pages(pieces, memory, pfns, skip)
    return move_all(fd, pieces, READING)


cdef check_places(const uint64_t[::1] pfns):
    cdef Py_ssize_t bad
    with nogil:
        bad = first_outside(pfns, <Py_ssize_t>1 << 51)
    if bad >= 0:
        raise ValueError("PFN {:#x} (index {}) past the end of any file".format(pfns[bad], bad))


def pwrite_pages(int fd, const uint64_t[::1] pfns not None, const uint8_t[::1] pages not None):
    cdef Py_ssize_t i = 0, run
    check_size(pfns, pages.shape[0])
    check_places(pfns)
    while i < pfns.shape[0]:
        run = run_at(pfns, i)
        pwrite_run(fd, pfns[i] * PAGE, pages[i * PAGE:(i + run) * PAGE])
        i += run


cdef pwrite_run(int fd, int64_t offset, const uint8_t[::1] pages):
    cdef Py_ssize_t done = 0, moved
    while done < pages.shape[0]:
        with nogil:
            moved = c_pwrite(fd, &pages[done], min(pages.shape[0] - done, <Py_ssize_t>MOST), offset + done)
        if moved >= 0:
            done += moved
        elif errno == EINTR:
            PyErr_CheckSignals()
        else:
            PyErr_SetFromErrno(OSError)


def pread_pages(int fd, const uint64_t[::1] pfns not None, uint8_t[::1] pages not None):
    cdef Py_ssize_t i = 0, run
    check_size(pfns, pages.shape[0])
    check_places(pfns)
    while i < pfns.shape[0]:
        run = run_at(pfns, i)
        pread_run(fd, pfns[i] * PAGE, pages[i * PAGE:(i + run) * PAGE])
        i += run


cdef pread_run(int fd, int64_t offset, uint8_t[::1] pages):
    cdef Py_ssize_t done = 0, moved
    while done < pages.shape[0]:
        with nogil:
            moved = c_pread(fd, &pages[done], min(pages.shape[0] - done, <Py_ssize_t>MOST), offset + done)
        if moved > 0:
            done += moved
        elif moved == 0:
            memset(&pages[done], 0, pages.shape[0] - done)
            return
        elif errno == EINTR:
            PyErr_CheckSignals()
        else:
            PyErr_SetFromErrno(OSError)
