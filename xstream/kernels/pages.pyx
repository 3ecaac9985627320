# cython: boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Copy and compare pages of guest memory, find zero pages, and move pages between memory and descriptors."""
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.errno cimport EAGAIN, EINTR, ENXIO, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from xstream.kernels.words cimport (PAGE, Run, carries_data, first_outside, load64, pfn_of, run_at, run_fits, store32,
                                    store64)

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    Py_ssize_t c_writev "writev"(int fd, const iovec *pieces, int count)
    Py_ssize_t c_readv "readv"(int fd, const iovec *pieces, int count)

cdef extern from "<unistd.h>" nogil:
    Py_ssize_t c_pread "pread"(int fd, void *data, size_t size, int64_t offset)
    Py_ssize_t c_pwrite "pwrite"(int fd, const void *data, size_t size, int64_t offset)
    int64_t c_lseek "lseek"(int fd, int64_t offset, int whence)
    int c_ftruncate "ftruncate"(int fd, int64_t size)

cdef extern from "preadv.h" nogil:
    Py_ssize_t c_preadv "xs_preadv"(int fd, const iovec *pieces, int count, int64_t offset)

cdef extern from "<stdio.h>" nogil:
    int SEEK_SET
    int SEEK_CUR
    int SEEK_END

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int c_poll "poll"(pollfd *fds, unsigned long count, int timeout)
    short POLLIN
    short POLLOUT

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX

cdef extern from "pagecopy.h" nogil:
    ctypedef struct copies_held "xs_copies":
        int held
    void copy_page "xs_copy_page"(copies_held *copies, unsigned char *to, const unsigned char *source)
    void finish_copies "xs_finish_copies"(copies_held *copies)

cdef extern from "gather.h" nogil:
    ctypedef void (*copy_function "xs_copy_function")(uint8_t *to, const uint8_t *source, const uint8_t *later) noexcept
    void copy_begin "xs_copy_begin"(uint8_t *to, const uint8_t *source, const uint8_t *soon) noexcept
    void copy_lines "xs_copy_lines"(uint8_t *to, const uint8_t *source, const uint8_t *next) noexcept
    void copy_lines_avx2 "xs_copy_lines_avx2"(uint8_t *to, const uint8_t *source, const uint8_t *next) noexcept

cdef extern from "zero.h" nogil:
    ctypedef int (*zero_function "xs_zero_function")(const uint8_t *page) noexcept
    int is_zero_generic "xs_is_zero_generic"(const uint8_t *page) noexcept
    int is_zero_avx2 "xs_is_zero_avx2"(const uint8_t *page) noexcept

cdef extern from "cpu.h" nogil:
    bint has_avx2 "xs_cpu_has_avx2"()
    bint has_intel_fsrm "xs_cpu_has_intel_fsrm"()

PAGE_SIZE = PAGE
HEADS_APART = not has_intel_fsrm()
READS_FILES = not has_intel_fsrm()

cdef enum:
    PIECES = 1024  # IOV_MAX on Linux
    HEAD_BYTES = 16  # of a PAGE_DATA record, up to its first PFN word
    MOST = 0x7ffff000  # bytes that Linux moves in one call
    IN_ORDER = -1  # not from an offset, but from a descriptor's position on
    LEAST_HOLE = 8  # blocks of zeros, of 4096 bytes, that are worth a hole in a file

cdef enum:
    # Of lseek; Linux' numbers, which the C library's header may hide.
    SEEK_DATA = 3
    SEEK_HOLE = 4

cdef enum Direction:
    WRITING
    READING

# The implementation in use, by `use`.
cdef zero_function is_zero
cdef copy_function copy_for_gather
cdef Py_ssize_t gather_ahead  # which page, after the one that is copied, is loaded meanwhile


def implementations():
    return ("generic", "avx2", "memcpy") if has_avx2() else ("generic",)


def implementation():
    if is_zero == is_zero_generic:
        return "generic"
    return "memcpy" if copy_for_gather == copy_begin else "avx2"


def use(str name not None):
    global is_zero, copy_for_gather, gather_ahead
    if name not in implementations():
        raise ValueError("no implementation {!r} on this machine".format(name))
    is_zero = is_zero_generic if name == "generic" else is_zero_avx2
    copy_for_gather = copy_lines if name == "generic" else copy_lines_avx2 if name == "avx2" else copy_begin
    gather_ahead = 2 if name == "memcpy" else 1


# On Intel CPUs with FSRM, memcpy() is as fast as memory once the beginning of a page has been loaded.
use("generic" if not has_avx2() else "memcpy" if has_intel_fsrm() else "avx2")


cdef check_pfns(const uint64_t[::1] pfns, Py_ssize_t size):
    cdef Py_ssize_t bad
    with nogil:
        bad = first_outside(&pfns[0], pfns.shape[0], size // PAGE)
    refuse(pfns, bad, size)


cdef refuse(const uint64_t[::1] pfns, Py_ssize_t bad, Py_ssize_t size):
    """Raise IndexError for the PFN at index `bad`, unless that is -1."""
    if bad >= 0:
        raise IndexError("PFN {:#x} (index {}) past the {} pages of the memory".format(
            load64(&pfns[0], bad), bad, size // PAGE))


cdef check_size(const uint64_t[::1] pfns, Py_ssize_t size):
    if size != pfns.shape[0] * PAGE:
        raise ValueError("{} bytes of pages for {} PFNs".format(size, pfns.shape[0]))


cdef check_apart(const uint8_t[::1] a, const uint8_t[::1] b):
    if a.shape[0] and b.shape[0] and &a[0] < &b[0] + b.shape[0] and &b[0] < &a[0] + a.shape[0]:
        raise ValueError("pages lie within the memory that they are copied to or from")


# The loops below check each PFN that they load, though all have been checked before anything is written: a caller's
# array may be a mapped file, and change in between.


cdef Py_ssize_t scatter_pages(uint8_t[::1] memory, const uint64_t[::1] pfns, const uint8_t[::1] pages) noexcept nogil:
    """Copy; the index of the first PFN past the memory, or -1."""
    cdef Py_ssize_t i, outside = -1
    cdef uint64_t pfn
    cdef copies_held copies
    copies.held = 0
    for i in range(pfns.shape[0]):
        pfn = load64(&pfns[0], i)
        if pfn >= <uint64_t>(memory.shape[0] // PAGE):
            outside = i
            break
        copy_page(&copies, &memory[pfn * PAGE], &pages[i * PAGE])
    finish_copies(&copies)
    return outside


def scatter(uint8_t[::1] memory not None, const uint64_t[::1] pfns not None, const uint8_t[::1] pages not None):
    cdef Py_ssize_t bad
    check_size(pfns, pages.shape[0])
    check_pfns(pfns, memory.shape[0])
    check_apart(memory, pages)
    with nogil:
        bad = scatter_pages(memory, pfns, pages)
    refuse(pfns, bad, memory.shape[0])


cdef inline const uint8_t *page_at(const uint8_t[::1] memory, const uint64_t[::1] pfns, Py_ssize_t i) noexcept nogil:
    """The page of the PFN at an index; NULL if either isn't there."""
    cdef uint64_t pfn
    if i < pfns.shape[0]:
        pfn = load64(&pfns[0], i)
        if pfn < <uint64_t>(memory.shape[0] // PAGE):
            return &memory[pfn * PAGE]
    return NULL


cdef Py_ssize_t gather_pages(const uint8_t[::1] memory, const uint64_t[::1] pfns, uint8_t[::1] pages) noexcept nogil:
    """Copy; the index of the first PFN past the memory, or -1."""
    cdef Py_ssize_t i
    cdef const uint8_t *page
    cdef const uint8_t *later
    for i in range(pfns.shape[0]):
        page = page_at(memory, pfns, i)
        if page == NULL:
            return i
        later = page_at(memory, pfns, i + gather_ahead)
        copy_for_gather(&pages[i * PAGE], page, page if later == NULL else later)
    return -1


def gather(const uint8_t[::1] memory not None, const uint64_t[::1] pfns not None, uint8_t[::1] pages not None):
    cdef Py_ssize_t bad
    check_size(pfns, pages.shape[0])
    check_pfns(pfns, memory.shape[0])
    check_apart(memory, pages)
    with nogil:
        bad = gather_pages(memory, pfns, pages)
    refuse(pfns, bad, memory.shape[0])


def compare(const uint8_t[::1] memory not None, const uint64_t[::1] pfns not None, const uint8_t[::1] pages not None,
            uint64_t[::1] differing not None):
    cdef Py_ssize_t i, bad = -1, found = 0
    cdef uint64_t pfn
    check_size(pfns, pages.shape[0])
    check_pfns(pfns, memory.shape[0])
    if differing.shape[0] < pfns.shape[0]:
        raise ValueError("room for {} of {} PFNs".format(differing.shape[0], pfns.shape[0]))
    with nogil:
        for i in range(pfns.shape[0]):
            pfn = load64(&pfns[0], i)
            if pfn >= <uint64_t>(memory.shape[0] // PAGE):
                bad = i
                break
            if memcmp(&memory[pfn * PAGE], &pages[i * PAGE], PAGE):
                store64(&differing[0], found, pfn)
                found += 1
    refuse(pfns, bad, memory.shape[0])
    return found


def zero_pages(const uint8_t[::1] pages not None, uint64_t[::1] indices not None):
    cdef Py_ssize_t i, found = 0, count = pages.shape[0] // PAGE
    if pages.shape[0] % PAGE or indices.shape[0] < count:
        raise ValueError("{} bytes of pages, room for {} indices".format(pages.shape[0], indices.shape[0]))
    with nogil:
        for i in range(count):
            if is_zero(&pages[i * PAGE]):
                store64(&indices[0], found, i)
                found += 1
    return found


def zero_pfns(const uint8_t[::1] memory not None, const uint64_t[::1] pfns not None, uint64_t[::1] out not None):
    cdef Py_ssize_t i, bad = -1, found = 0
    cdef uint64_t pfn
    check_pfns(pfns, memory.shape[0])
    if out.shape[0] < pfns.shape[0]:
        raise ValueError("room for {} of {} PFNs".format(out.shape[0], pfns.shape[0]))
    with nogil:
        for i in range(pfns.shape[0]):
            pfn = load64(&pfns[0], i)
            if pfn >= <uint64_t>(memory.shape[0] // PAGE):
                bad = i
                break
            if is_zero(&memory[pfn * PAGE]):
                store64(&out[0], found, pfn)
                found += 1
    refuse(pfns, bad, memory.shape[0])
    return found


cdef class _Pieces:
    """Pieces of memory to move, in order; keeps the buffers that they lie in."""
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

    cdef void extend(self, void *start, Py_ssize_t size) noexcept nogil:
        """Add a piece, or lengthen the last one if it follows that in memory."""
        cdef iovec *last = &self.vec[self.count - 1]
        if self.count and <uint8_t *>last.iov_base + last.iov_len == start:
            last.iov_len += size
        else:
            self.add(start, size)


cdef Py_ssize_t move_some(int fd, iovec *vec, Py_ssize_t count, Direction direction, int64_t offset) noexcept nogil:
    cdef int pieces = <int>min(count, PIECES)
    if offset != IN_ORDER:
        return c_preadv(fd, vec, pieces, offset)
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


cdef Py_ssize_t move_all(int fd, _Pieces pieces, Direction direction, Py_ssize_t enough=PY_SSIZE_T_MAX) except -1:
    """Move everything, or stop after `enough` bytes or at the end of the input; returns the number of bytes."""
    return move_pieces(fd, pieces.vec, pieces.count, direction, enough)


cdef Py_ssize_t move_pieces(int fd, iovec *vec, Py_ssize_t count, Direction direction, Py_ssize_t enough,
                            int64_t offset=IN_ORDER) except -1:
    """As `move_all`, or read from an offset of a file; changes the pieces."""
    cdef Py_ssize_t total = 0, moved
    while count and total < enough:
        with nogil:
            moved = move_some(fd, vec, count, direction, offset if offset == IN_ORDER else offset + total)
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


cdef int64_t seek(int fd, int64_t distance) except -1:
    """Move a file's position; returns the new one."""
    cdef int64_t position = c_lseek(fd, distance, SEEK_CUR)
    if position < 0:
        PyErr_SetFromErrno(OSError)
    return position


cdef Py_ssize_t run_of_blocks(const uint8_t *data, Py_ssize_t blocks, Py_ssize_t least, bint *zero) noexcept nogil:
    """How many blocks from the first on are `zero`, at `least` so many, or come before the next such run.

    Of the blocks that a run may begin with, the last is looked at first: unless it is zero, none of them begins a run,
    so that most blocks are never looked at.
    """
    cdef Py_ssize_t i = 0, last
    zero[0] = False
    while i + least <= blocks:
        last = i + least - 1
        while last >= i and is_zero(data + last * PAGE):
            last -= 1
        if last < i:
            break
        i = last + 1
    else:
        return blocks
    if i == 0:
        zero[0] = True
        i = least
        while i < blocks and is_zero(data + i * PAGE):
            i += 1
    return i


cdef Py_ssize_t write_sparse(int fd, _Pieces pieces) except -1:
    """Write everything, but seek over whole blocks of the file that a piece would fill with zeros, if there are at least
    LEAST_HOLE: each hole takes several system calls, and nearly all zeros of a guest are in long runs."""
    cdef _Pieces held = _Pieces(pieces.count, 0)  # not written yet
    cdef int64_t position = seek(fd, 0)           # of the byte after those
    cdef Py_ssize_t i, left, size, total = 0
    cdef const uint8_t *data
    cdef bint zero = False
    for i in range(pieces.count):
        data, left = <const uint8_t *>pieces.vec[i].iov_base, pieces.vec[i].iov_len
        total += left
        while left:
            with nogil:
                size = (-position) % PAGE
                if size < 0:
                    size += PAGE
                if size or left < PAGE:
                    zero, size = False, min(left, size or PAGE)
                else:
                    size = PAGE * run_of_blocks(data, left // PAGE, LEAST_HOLE, &zero)
                if not zero:
                    held.extend(<void *>data, size)
                data += size
                left -= size
                position += size
            if zero:
                move_all(fd, held, WRITING)
                held.count = 0
                seek(fd, size)
    move_all(fd, held, WRITING)
    if zero and c_ftruncate(fd, position):
        PyErr_SetFromErrno(OSError)
    return total


cdef Py_ssize_t write_all(int fd, _Pieces pieces, bint sparse) except -1:
    return write_sparse(fd, pieces) if sparse else move_all(fd, pieces, WRITING)


cdef _Pieces hold_all(object buffers, int flags):
    buffers = list(buffers)
    cdef _Pieces pieces = _Pieces(len(buffers), len(buffers))
    for buffer in buffers:
        pieces.hold(buffer, flags)
    return pieces


def writev(int fd, buffers not None, bint sparse=False):
    return write_all(fd, hold_all(buffers, PyBUF_SIMPLE), sparse)


def readv(int fd, buffers not None):
    return move_all(fd, hold_all(buffers, PyBUF_WRITABLE), READING)


cdef Py_ssize_t add_pages(_Pieces pieces, const uint8_t[::1] memory, const uint64_t[::1] pfns,
                          Py_ssize_t skip) noexcept nogil:
    """Add pieces for the pages of the PFNs without their first `skip` bytes; the index of a PFN past the memory, or -1.

    Consecutive PFNs become one piece.
    """
    cdef Py_ssize_t i = skip // PAGE
    cdef Run run
    skip %= PAGE
    while i < pfns.shape[0]:
        run = run_at(&pfns[0], i, pfns.shape[0])
        if not run_fits(run, memory.shape[0] // PAGE):
            return i
        pieces.add(<void *>&memory[run.first * PAGE + skip], run.length * PAGE - skip)
        skip = 0
        i += run.length
    return -1


def write_pages(int fd, head not None, const uint8_t[::1] memory not None, const uint64_t[::1] pfns not None,
                bint apart=False, bint sparse=False):
    cdef _Pieces pieces = _Pieces(pfns.shape[0] + 1, 1)
    cdef Py_ssize_t bad, done = 0
    check_pfns(pfns, memory.shape[0])
    pieces.hold(head, PyBUF_SIMPLE)
    if apart:
        # Only after the pages have been checked: the head is on its way then.
        done = move_all(fd, pieces, WRITING)
        pieces.count = 0
    with nogil:
        bad = add_pages(pieces, memory, pfns, 0)
    refuse(pfns, bad, memory.shape[0])
    return done + write_all(fd, pieces, sparse)


cdef bint add_batch(_Pieces pieces, uint8_t *head, uint32_t record_type, const uint8_t *words, Py_ssize_t count,
                    const uint8_t[::1] memory) noexcept nogil:
    """Add pieces for a batch: its head, which is filled in, its words and its pages. False for a PFN past the memory,
    or a batch that is too long for a record."""
    cdef uint64_t word, length = 8 + 8 * <uint64_t>count
    cdef Py_ssize_t i
    pieces.add(head, HEAD_BYTES)
    pieces.add(<void *>words, 8 * count)
    for i in range(count):
        word = load64(words, i)
        if not carries_data(word):
            continue
        if pfn_of(word) >= <uint64_t>(memory.shape[0] // PAGE):
            return False
        pieces.extend(<void *>&memory[pfn_of(word) * PAGE], PAGE)
        length += PAGE
    store32(head, 0, record_type)
    store32(head, 1, <uint32_t>length)
    store32(head, 2, <uint32_t>count)
    store32(head, 3, 0)
    return length <= 0xffffffffu


def write_batches(int fd, uint32_t record_type, const uint8_t[::1] words not None, const uint64_t[::1] ends not None,
                  const uint8_t[::1] memory not None, bint apart=False, bint sparse=False):
    cdef Py_ssize_t count = words.shape[0] // 8, batches = ends.shape[0], done = 0, start = 0, i
    cdef uint64_t end
    cdef _Pieces pieces = _Pieces(count + 2 * batches, 0)
    cdef uint8_t[::1] heads = bytearray(max(batches, 1) * HEAD_BYTES)
    # Of each batch, the piece at which its pages begin, and the one after them.
    cdef uint64_t[::1] marks = memoryview(bytearray(max(batches, 1) * 16)).cast("Q")
    cdef bint good = True
    for i in range(batches):
        end = load64(&ends[0], i)
        if end <= <uint64_t>start or end > <uint64_t>count:
            raise ValueError("batch {} ends at word {} of {}, and begins at word {}".format(i, end, count, start))
        marks[2 * i] = pieces.count + 2
        with nogil:
            good = add_batch(pieces, &heads[i * HEAD_BYTES], record_type, &words[8 * start],
                             <Py_ssize_t>end - start, memory)
        if not good:
            raise IndexError("batch {} has a PFN past the {} pages of the memory, or is too long".format(
                i, memory.shape[0] // PAGE))
        marks[2 * i + 1] = pieces.count
        start = <Py_ssize_t>end
    if start != count or words.shape[0] % 8:
        raise ValueError("{} bytes of words, and batches of {} words".format(words.shape[0], start))
    if not apart:
        return write_all(fd, pieces, sparse)
    start = 0
    for i in range(2 * batches):
        done += move_pieces(fd, pieces.vec + start, <Py_ssize_t>marks[i] - start, WRITING, PY_SSIZE_T_MAX)
        start = <Py_ssize_t>marks[i]
    return done


cdef Py_ssize_t read_most(int fd, iovec *vec, Py_ssize_t count, size_t most) noexcept nogil:
    """As readv, but at most `most` bytes."""
    cdef Py_ssize_t i = 0, got
    cdef size_t whole
    while i < min(count, <Py_ssize_t>PIECES) and vec[i].iov_len <= most:
        most -= vec[i].iov_len
        i += 1
    if not most or i == min(count, <Py_ssize_t>PIECES):
        return c_readv(fd, vec, <int>i)
    whole = vec[i].iov_len
    vec[i].iov_len = most
    got = c_readv(fd, vec, <int>i + 1)
    vec[i].iov_len = whole
    return got


cdef void clear(iovec **vec, Py_ssize_t *count, int64_t size) noexcept nogil:
    """Fill the first `size` bytes with zeros, and pass over them."""
    cdef Py_ssize_t part
    while size > 0:
        part = <Py_ssize_t>min(<int64_t>vec[0][0].iov_len, size)
        memset(vec[0][0].iov_base, 0, part)
        pass_over(vec, count, part)
        size -= part


cdef Py_ssize_t read_around_holes(int fd, _Pieces pieces, Py_ssize_t enough) except -1:
    """Read a file as `move_all` does, but clear what would be read from its holes: that costs less, and leaves the page
    cache to other files. Stops after `enough` bytes, and may read the rest only with the last of them."""
    cdef iovec *vec = pieces.vec
    cdef Py_ssize_t count = pieces.count, total = 0, moved
    cdef int64_t here = seek(fd, 0), data, hole
    while total < enough:
        with nogil:
            data = c_lseek(fd, here, SEEK_DATA)
            if data < 0 and errno == ENXIO:  # nothing but a hole up to the end
                data = c_lseek(fd, 0, SEEK_END)
            data = min(data, here + enough - total)
            if data > here:
                clear(&vec, &count, data - here)
                total += <Py_ssize_t>(data - here)
                here = data
            hole = c_lseek(fd, here, SEEK_HOLE)
            c_lseek(fd, here, SEEK_SET)
        if total == enough or hole <= here:
            # All is there; or the file ends, or its file system can't tell where holes are.
            return total + move_pieces(fd, vec, count, READING, enough - total)
        with nogil:
            moved = read_most(fd, vec, count, <size_t>(hole - here))
        if moved > 0:
            total += moved
            here += moved
            pass_over(&vec, &count, moved)
        elif moved == 0:
            break
        elif errno == EINTR:
            PyErr_CheckSignals()
        else:
            PyErr_SetFromErrno(OSError)
    return total


def read_pages(int fd, uint8_t[::1] memory not None, const uint64_t[::1] pfns not None, Py_ssize_t skip=0,
               uint8_t[::1] following=None, bint holes=False):
    cdef _Pieces pieces = _Pieces(pfns.shape[0] + 1, 0)
    cdef Py_ssize_t bad
    check_pfns(pfns, memory.shape[0])
    if not 0 <= skip <= pfns.shape[0] * PAGE:
        raise ValueError("skip {} of {} bytes".format(skip, pfns.shape[0] * PAGE))
    with nogil:
        bad = add_pages(pieces, memory, pfns, skip)
    refuse(pfns, bad, memory.shape[0])
    if following is not None and following.shape[0]:
        pieces.add(<void *>&following[0], following.shape[0])
    if holes:
        return read_around_holes(fd, pieces, pfns.shape[0] * PAGE - skip)
    return move_all(fd, pieces, READING, pfns.shape[0] * PAGE - skip)


def read_file_pages(int fd, int64_t offset, uint8_t[::1] memory not None, const uint64_t[::1] pfns not None):
    cdef _Pieces pieces = _Pieces(pfns.shape[0], 0)
    cdef Py_ssize_t bad
    check_pfns(pfns, memory.shape[0])
    if offset < 0:
        raise ValueError("offset must not be negative")
    with nogil:
        bad = add_pages(pieces, memory, pfns, 0)
    refuse(pfns, bad, memory.shape[0])
    return move_pieces(fd, pieces.vec, pieces.count, READING, PY_SSIZE_T_MAX, offset)


cdef inline uint64_t file_pages() noexcept nogil:
    """Pages that a file can have: offsets are signed 64-bit numbers."""
    return <uint64_t>1 << 51


cdef check_places(const uint64_t[::1] pfns):
    cdef Py_ssize_t bad
    with nogil:
        bad = first_outside(&pfns[0], pfns.shape[0], file_pages())
    if bad >= 0:
        raise ValueError("PFN {:#x} (index {}) past the end of any file".format(load64(&pfns[0], bad), bad))


def pwrite_pages(int fd, const uint64_t[::1] pfns not None, const uint8_t[::1] pages not None, bint sparse=False):
    cdef Py_ssize_t i = 0
    cdef Run run
    check_size(pfns, pages.shape[0])
    check_places(pfns)
    while i < pfns.shape[0]:
        run = run_at(&pfns[0], i, pfns.shape[0])
        if not run_fits(run, file_pages()):
            raise ValueError("the PFNs changed while their pages were being moved")
        pwrite_run(fd, run.first * PAGE, pages[i * PAGE:(i + run.length) * PAGE], sparse)
        i += run.length


cdef pwrite_run(int fd, int64_t offset, const uint8_t[::1] pages, bint sparse):
    cdef Py_ssize_t done = 0, moved, end = 0
    cdef bint zero = False
    while done < pages.shape[0]:
        if done == end:
            end = pages.shape[0]
            if sparse:
                with nogil:
                    end = done + PAGE * run_of_blocks(&pages[done], (end - done) // PAGE, 1, &zero)
        if zero:
            done = end
            continue
        with nogil:
            moved = c_pwrite(fd, &pages[done], min(end - done, <Py_ssize_t>MOST), offset + done)
        if moved >= 0:
            done += moved
        elif errno == EINTR:
            PyErr_CheckSignals()
        else:
            PyErr_SetFromErrno(OSError)


def pread_pages(int fd, const uint64_t[::1] pfns not None, uint8_t[::1] pages not None):
    cdef Py_ssize_t i = 0
    cdef Run run
    check_size(pfns, pages.shape[0])
    check_places(pfns)
    while i < pfns.shape[0]:
        run = run_at(&pfns[0], i, pfns.shape[0])
        if not run_fits(run, file_pages()):
            raise ValueError("the PFNs changed while their pages were being moved")
        pread_run(fd, run.first * PAGE, pages[i * PAGE:(i + run.length) * PAGE])
        i += run.length


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
