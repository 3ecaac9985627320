# cython: boundscheck=False, wraparound=False, cdivision=True
"""The headers of zstd frames and blocks. Nothing is decompressed."""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from xstream.kernels.words cimport load32

cdef enum Status:
    C_GOOD
    C_NO_FRAME
    C_CUT
    C_RESERVED
    C_TOO_MANY
    C_MORE  # blocks of the frame follow

GOOD, NO_FRAME, CUT, RESERVED, TOO_MANY = C_GOOD, C_NO_FRAME, C_CUT, C_RESERVED, C_TOO_MANY

cdef enum:
    MAGIC = 0xFD2FB528
    RLE_BLOCK = 1
    RESERVED_BLOCK = 3
    # Blocks that a frame may have beside one for each small block of its contents.
    FEW_BLOCKS = 64
    SMALL_BLOCK = 1024
    # Frames that are followed in turns: each header says where the next one is, and waiting for it to come from memory
    # takes most of the time.
    AT_ONCE = 16

cdef extern from *:
    """
    #define xs_prefetch(address) __builtin_prefetch(address)
    """
    void prefetch "xs_prefetch"(const void *address) noexcept nogil

cdef struct Frame:
    uint64_t end
    uint64_t size
    uint64_t blocks  # that it may still have
    bint sized
    bint checksum
    bint dictionary


cdef uint64_t number(const uint8_t *at, int length) noexcept nogil:
    """A little-endian number of 0 to 8 bytes."""
    cdef uint64_t value = 0
    cdef int i
    for i in range(length):
        value |= <uint64_t>at[i] << 8 * i
    return value


cdef Status read_header(const uint8_t *data, uint64_t length, uint64_t begin, Frame *frame) noexcept nogil:
    """Read a frame's header; `end` is then where that ends."""
    cdef uint8_t descriptor
    cdef int single, dictionary, size
    if length - begin >= 4 and load32(data + begin, 0) != MAGIC:
        return C_NO_FRAME
    if length - begin < 5:
        frame.end = begin + 5
        return C_CUT
    descriptor = data[begin + 4]
    single = (descriptor >> 5) & 1
    dictionary = (descriptor & 3) if (descriptor & 3) < 3 else 4
    size = 1 << (descriptor >> 6)
    if size == 1:
        size = single
    frame.end = begin + 5 + (1 - single) + dictionary + size
    if frame.end > length:
        return C_CUT
    frame.sized = size > 0
    frame.size = number(data + frame.end - size, size) + (256 if size == 2 else 0)
    frame.checksum = (descriptor >> 2) & 1
    frame.dictionary = dictionary > 0
    return C_GOOD


cdef Status begin_frame(const uint8_t *data, uint64_t length, uint64_t begin, Frame *frame) noexcept nogil:
    """Read a frame's header; C_MORE if it is good."""
    cdef Status status = read_header(data, length, begin, frame)
    frame.blocks = FEW_BLOCKS
    if status == C_GOOD and frame.sized:
        frame.blocks += frame.size // SMALL_BLOCK
    return C_MORE if status == C_GOOD else status


cdef Status pass_block(const uint8_t *data, uint64_t length, Frame *frame) noexcept nogil:
    """Move `end` past the block that begins there, and after the last one past the checksum; C_MORE if more follow."""
    cdef uint32_t block
    if frame.blocks == 0:
        return C_TOO_MANY
    frame.blocks -= 1
    if length - frame.end < 3:
        frame.end += 3
        return C_CUT
    block = <uint32_t>number(data + frame.end, 3)
    if (block >> 1) & 3 == RESERVED_BLOCK:
        return C_RESERVED
    frame.end += 4 if (block >> 1) & 3 == RLE_BLOCK else 3 + (block >> 3)
    if frame.end > length:
        return C_CUT
    if not block & 1:
        return C_MORE
    frame.end += 4 if frame.checksum else 0
    return C_GOOD if frame.end <= length else C_CUT


cdef Status read_frame(const uint8_t *data, uint64_t length, uint64_t begin, Frame *frame) noexcept nogil:
    """Follow a frame's blocks to its end."""
    cdef Status status = begin_frame(data, length, begin, frame)
    while status == C_MORE:
        status = pass_block(data, length, frame)
    return status


cdef Status examine(data, Py_ssize_t begin, bint whole, Frame *frame) except *:
    """Read the header of the frame at `begin` of a buffer, or the `whole` frame."""
    cdef Py_buffer view
    cdef Status status
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if not 0 <= begin <= view.len:
            raise ValueError("frame outside the data")
        if whole:
            with nogil:
                status = read_frame(<const uint8_t *>view.buf, view.len, begin, frame)
        else:
            status = read_header(<const uint8_t *>view.buf, view.len, begin, frame)
    finally:
        PyBuffer_Release(&view)
    return status


def header(data, Py_ssize_t begin):
    cdef Frame frame
    cdef Status status = examine(data, begin, False, &frame)
    if status != C_GOOD:
        return status, 0, None, False, False
    return status, frame.end, frame.size if frame.sized else None, bool(frame.checksum), bool(frame.dictionary)


def follow(data, Py_ssize_t begin):
    cdef Frame frame
    cdef Status status = examine(data, begin, True, &frame)
    if status != C_GOOD:
        return status, frame.end if status == C_CUT else 0, None
    return status, frame.end, frame.size if frame.sized else None


cdef int first_differing(const uint8_t *data, uint64_t length, const uint8_t *rows, int count,
                         uint64_t *begin) noexcept nogil:
    """Compare up to AT_ONCE frames with their rows of a table. The number of the first that disagrees, or `count`; then
    `begin` is where the last one ends."""
    cdef Frame[AT_ONCE] frames
    cdef Status[AT_ONCE] status
    cdef uint64_t[AT_ONCE] end
    cdef uint64_t at = begin[0]
    cdef int i, most = count
    cdef bint more = True
    for i in range(count):
        end[i] = at + load32(rows, 2 * i)
        status[i] = begin_frame(data, length, at, &frames[i]) if at <= length else C_CUT
        at = end[i]
    while more:
        more = False
        for i in range(most):
            if status[i] == C_MORE:
                status[i] = pass_block(data, length, &frames[i])
                prefetch(data + min(frames[i].end, length))
                more = True
            elif (status[i] != C_GOOD or frames[i].end != end[i] or not frames[i].sized
                    or frames[i].size != load32(rows, 2 * i + 1)):
                most = i
                break
    begin[0] = at
    return most


def agreeing(data, table, Py_ssize_t first, Py_ssize_t begin):
    cdef Py_buffer view, rows
    cdef Py_ssize_t count, row = first
    cdef int some, good
    cdef uint64_t at = begin
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        PyObject_GetBuffer(table, &rows, PyBUF_SIMPLE)
        try:
            count = rows.len // 8
            if first < 0 or begin < 0:
                raise ValueError("negative position")
            with nogil:
                while row < count:
                    some = <int>min(count - row, AT_ONCE)
                    good = first_differing(<const uint8_t *>view.buf, view.len, <const uint8_t *>rows.buf + 8 * row,
                                           some, &at)
                    row += good
                    if good < some:
                        break
        finally:
            PyBuffer_Release(&rows)
    finally:
        PyBuffer_Release(&view)
    return row
