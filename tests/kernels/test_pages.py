"""The kernel pages compared with a plain reference, and its transfers under adverse conditions."""
import os
import signal
import socket
import struct
import tempfile
import threading

import numpy
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from xstream.kernels import pages as built

BOTH = pytest.mark.parametrize("kernel", [built, reference.pages], ids=["kernel", "reference"])
PFNS = st.lists(st.integers(0, 19), max_size=30)


def filled(count, seed=1):
    return numpy.random.RandomState(seed).randint(0, 256, (count, 4096)).astype(numpy.uint8)


def aligned(count, shift):
    """Pages that begin ``shift`` bytes after a page boundary: the way to copy them depends on it."""
    raw = numpy.zeros((count + 2) * 4096, numpy.uint8)
    start = -raw.ctypes.data % 4096 + shift
    return raw[start:start + count * 4096]


def uint64(values):
    return numpy.array(values, numpy.uint64)


@given(pfns=PFNS, shift=st.sampled_from([0, 16, 64, 1, 4095]))
def test_scatter_and_gather(pfns, shift):
    pages = filled(len(pfns))
    results = []
    for kernel in (built, reference.pages):
        memory = aligned(20, shift)
        memory[:] = filled(20, 2).reshape(-1)
        kernel.scatter(memory, uint64(pfns), pages.reshape(-1))
        out = bytearray(len(pfns) * 4096)
        kernel.gather(memory, uint64(pfns), out)
        results.append((memory.tobytes(), bytes(out)))
    assert results[0] == results[1]


@BOTH
@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 17, 1024])
def test_long_runs(kernel, count):
    memory, pages = aligned(count + 2, 0), filled(count)
    kernel.scatter(memory, uint64(range(1, count + 1)), pages.reshape(-1))
    assert not memory[:4096].any() and not memory[-4096:].any()
    assert memory[4096:-4096].tobytes() == pages.tobytes()


@BOTH
def test_compare(kernel):
    memory = filled(6)
    pages = memory[[5, 1, 3]].copy()
    pages[0, 4095] ^= 1
    pages[2, 0] ^= 1
    differing = numpy.zeros(3, numpy.uint64)
    assert kernel.compare(memory.reshape(-1), uint64([5, 1, 3]), pages.reshape(-1), differing) == 2
    assert differing[:2].tolist() == [5, 3]


EVERY = [("kernel, " + name, built, name) for name in built.implementations()] + [("reference", reference.pages, "")]


@pytest.fixture(params=EVERY, ids=[name for name, _, _ in EVERY])
def each(request):
    """The reference, and the kernel with each implementation of what depends on the CPU."""
    _, module, name = request.param
    if not name:
        yield module
        return
    before = built.implementation()
    built.use(name)
    assert built.implementation() == name
    yield module
    built.use(before)


@pytest.mark.parametrize("at", [0, 1, 15, 16, 31, 32, 255, 256, 2048, 4094, 4095])
@pytest.mark.parametrize("shift", [0, 1, 4095])
def test_zero_pages(each, at, shift):
    kernel = each
    pages = aligned(5, shift).reshape(-1, 4096)
    pages[1, at] = 1
    pages[3, at] = 0x80
    found = numpy.zeros(5, numpy.uint64)
    assert kernel.zero_pages(pages.reshape(-1), found) == 3 and found[:3].tolist() == [0, 2, 4]
    assert kernel.zero_pfns(pages.reshape(-1), uint64([3, 2, 1, 4]), found) == 2 and found[:2].tolist() == [2, 4]


@pytest.mark.parametrize("pfns", [[], [3], [0, 1], [6, 0, 3], [*range(7)], [5, 5, 2, 5]])
@pytest.mark.parametrize("shift", [0, 16, 1, 4095])
def test_gather(each, pfns, shift):
    memory, out = aligned(7, shift), numpy.ones((len(pfns) + 1) * 4096, numpy.uint8)
    memory[:] = filled(7).reshape(-1)
    each.gather(memory, uint64(pfns), out[:-4096])
    assert out[:-4096].tobytes() == filled(7)[pfns].tobytes()
    assert out[-4096:].all()


@pytest.mark.parametrize("call", [
    lambda pfns: built.scatter(bytearray(8192), pfns, bytes(8192)),
    lambda pfns: built.gather(bytes(8192), pfns, bytearray(8192)),
    lambda pfns: built.compare(bytes(8192), pfns, bytes(8192), uint64([0, 0])),
    lambda pfns: built.zero_pfns(bytes(8192), pfns, uint64([0, 0])),
    lambda pfns: built.write_pages(-1, b"", bytes(8192), pfns),
    lambda pfns: built.read_pages(-1, bytearray(8192), pfns),
    lambda pfns: built.read_file_pages(-1, 0, bytearray(8192), pfns),
])
@pytest.mark.parametrize("pfn", [2, 2 ** 52, 2 ** 63, 2 ** 64 - 1])
def test_pfns_outside(call, pfn):
    with pytest.raises(IndexError, match="index 1"):
        call(uint64([0, pfn]))


def test_nothing_is_written_where_a_pfn_is_outside():
    memory = bytearray(8192)
    with pytest.raises(IndexError):
        built.scatter(memory, uint64([0, 9]), b"x" * 8192)
    assert memory == bytes(8192)


@pytest.mark.parametrize("copy", [built.scatter, built.gather])
@pytest.mark.parametrize("start, apart", [(0, True), (1, False), (4096, False), (12287, False), (12288, True)])
def test_pages_within_the_memory(copy, start, apart):
    whole = memoryview(bytearray(4 * 4096))
    memory, pages = whole[4096:12288], whole[start:start + 4096]
    if apart:
        copy(memory, uint64([1]), pages)
    else:
        with pytest.raises(ValueError, match="within"):
            copy(memory, uint64([1]), pages)


@pytest.mark.parametrize("call", [
    lambda: built.scatter(bytearray(8192), uint64([0]), bytes(4095)),
    lambda: built.scatter(bytearray(8192), uint64([0]), bytes(8192)),
    lambda: built.scatter(bytes(8192), uint64([0]), bytes(4096)),
    lambda: built.scatter(bytearray(8192), [0], bytes(4096)),
    lambda: built.scatter(bytearray(8192), numpy.array([0], numpy.int32), bytes(4096)),
    lambda: built.scatter(numpy.zeros((4, 4096), numpy.uint8)[:, ::2].reshape(-1)[::2], uint64([0]), bytes(4096)),
    lambda: built.gather(bytes(8192), uint64([0]), bytes(4096)),
    lambda: built.compare(bytes(8192), uint64([0, 1]), bytes(8192), uint64([0])),
    lambda: built.zero_pages(bytes(4097), uint64([0, 0])),
    lambda: built.zero_pages(bytes(8192), uint64([0])),
    lambda: built.zero_pfns(bytes(8192), uint64([0, 1]), uint64([0])),
    lambda: built.read_pages(-1, bytearray(4096), uint64([0]), 4097),
    lambda: built.read_pages(-1, bytearray(4096), uint64([0]), -1),
    lambda: built.read_file_pages(-1, -1, bytearray(4096), uint64([0])),
    lambda: built.readv(-1, [b"read-only"]),
    lambda: built.writev(-1, ["text"]),
    lambda: built.pwrite_pages(-1, uint64([1 << 51]), bytes(4096)),
    lambda: built.pwrite_pages(-1, uint64([2 ** 64 - 1]), bytes(4096)),
    lambda: built.use("quantum"),
    lambda: built.use(None),
    lambda: built.pwrite_pages(-1, uint64([1]), bytes(4095)),
])
def test_wrong_arguments(call):
    with pytest.raises((ValueError, TypeError, BufferError)):
        call()


def test_failures_are_oserrors():
    for call in (lambda: built.writev(-1, [b"x"]), lambda: built.readv(-1, [bytearray(1)]),
                 lambda: built.pwrite_pages(-1, uint64([0]), bytes(4096))):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == 9


class Reader(threading.Thread):
    """Reads everything from a descriptor, in small pieces."""

    def __init__(self, fd, piece):
        super().__init__(daemon=True)  # so that a failed test ends
        self.fd, self.piece, self.got = fd, piece, b""
        self.start()

    def run(self):
        parts = []
        with os.fdopen(self.fd, "rb", buffering=0) as file:
            while True:
                part = file.read(self.piece)
                if not part:
                    break
                parts.append(part)
        self.got = b"".join(parts)


def ends_of(kind):
    if kind == "pipe":
        return os.pipe()
    ours, theirs = socket.socketpair()
    if kind == "non-blocking":
        ours.setblocking(False)
        theirs.setblocking(False)
    return ours.detach(), theirs.detach()


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("kind", ["pipe", "socket", "non-blocking"])
def test_writing_partially_and_more_pieces_than_iov_max(kind, apart):
    reading, writing = ends_of(kind)
    os.set_blocking(reading, True)
    reader = Reader(reading, 70001)
    memory = filled(3000)
    pfns = uint64(list(range(0, 3000, 2)) + list(range(2999, 0, -1)))
    head = b"the head" * 3
    written = built.write_pages(writing, head, memory.reshape(-1), pfns, apart)
    pieces = [bytes([value % 256]) * (value % 5) for value in range(5000)]
    written += built.writev(writing, pieces)
    os.close(writing)
    reader.join()
    expected = head + memory[pfns.astype(int)].tobytes() + b"".join(pieces)
    assert written == len(expected) and reader.got == expected


def batches_of(words, ends, memory):
    """The records that ``write_batches`` writes."""
    records, start = [], 0
    for end in ends:
        batch = words[start:end]
        pfns = [int(word) & (1 << 52) - 1 for word in batch if int(word) >> 60 not in (13, 14, 15)]
        data = memory[pfns].tobytes()
        records.append(struct.pack("<IIII", 1, 8 + batch.nbytes + len(data), len(batch), 0) + batch.tobytes() + data)
        start = end
    return b"".join(records)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("kind", ["pipe", "socket", "non-blocking"])
def test_writing_batches(kind, apart):
    """Pages in runs and apart, without data, repeated; more pieces than IOV_MAX."""
    memory = filled(3000)
    pfns = uint64([*range(700), *range(2999, 700, -1), 5, 5, 5, *range(0, 3000, 3)])
    types = numpy.random.RandomState(3).choice([0, 1, 9, 13, 14, 15], len(pfns), p=[0.8, 0.05, 0.05, 0.03, 0.03, 0.04])
    words = pfns | types.astype(numpy.uint64) << numpy.uint64(60)
    ends = [1, 2, 700, 1724, 2000, len(words)]
    reading, writing = ends_of(kind)
    os.set_blocking(reading, True)
    reader = Reader(reading, 70001)
    written = built.write_batches(writing, 1, words.view(numpy.uint8), uint64(ends), memory.reshape(-1), apart)
    os.close(writing)
    reader.join()
    assert written == len(reader.got) and reader.got == batches_of(words, ends, memory)


def test_writing_batches_into_a_sparse_file():
    memory = filled(8)
    memory[2:7] = 0
    words = uint64(range(8))
    with tempfile.TemporaryFile() as file:
        size = built.write_batches(file.fileno(), 1, words.view(numpy.uint8), uint64([4, 8]), memory.reshape(-1),
                                   False, True)
        file.seek(0)
        assert file.read() == batches_of(words, [4, 8], memory) and file.tell() == size


@pytest.mark.parametrize("words, ends, error", [
    ([0, 2], [2], IndexError),
    ([0, (1 << 52) - 1], [1, 2], IndexError),
    ([0, 1], [1], ValueError),
    ([0, 1], [1, 1], ValueError),
    ([0, 1], [2, 1], ValueError),
    ([0, 1], [0, 2], ValueError),
    ([0, 1], [3], ValueError),
    ([0, 1], [2 ** 64 - 1], ValueError),
    ([0, 1], [], ValueError),
])
def test_wrong_batches_are_refused_before_anything_is_written(words, ends, error):
    for apart in (False, True):
        with pytest.raises(error):  # OSError if anything was written
            built.write_batches(-1, 1, uint64(words).view(numpy.uint8), uint64(ends), bytes(8192), apart)


def test_no_batches():
    assert built.write_batches(-1, 1, b"", uint64([]), bytes(8192)) == 0
    with pytest.raises(ValueError):
        built.write_batches(-1, 1, b"1234567", uint64([]), bytes(8192))


@pytest.mark.parametrize("kind", ["pipe", "socket", "non-blocking"])
def test_reading_what_comes_in_bits(kind):
    reading, writing = ends_of(kind)
    os.set_blocking(writing, True)
    pages = filled(3000)

    def write():
        with os.fdopen(writing, "wb", buffering=0) as file:
            view = memoryview(pages.tobytes())
            while len(view):
                view = view[file.write(view[:50001]):]
    thread = threading.Thread(target=write)
    thread.start()
    memory = numpy.zeros((6000, 4096), numpy.uint8)
    pfns = uint64(range(0, 6000, 2))
    memory[0, :100] = pages[0, :100]
    head = bytearray(100)
    assert built.readv(reading, [head]) == 100
    assert built.read_pages(reading, memory.reshape(-1), pfns, 100) == 3000 * 4096 - 100
    assert built.read_pages(reading, memory.reshape(-1), pfns) == 0
    thread.join()
    os.close(reading)
    assert (memory[::2] == pages).all() and not memory[1::2].any()


@pytest.mark.parametrize("skip", [0, 1, 4095, 4096, 4097, 12288])
def test_skipping_what_is_there(skip):
    data = filled(3).tobytes()
    with tempfile.TemporaryFile() as file:
        file.write(data[skip:skip + 5000])
        file.seek(0)
        memory = bytearray(b"\xee" * 4 * 4096)
        got = built.read_pages(file.fileno(), memory, uint64([2, 3, 0]), skip)
    expected = bytearray(b"\xee" * 3 * 4096)
    expected[skip:skip + 5000] = data[skip:skip + 5000]
    assert got == min(5000, len(data) - skip)
    assert memory == expected[8192:] + b"\xee" * 4096 + expected[:8192]


@given(parts=st.lists(st.tuples(st.integers(1, 5), st.booleans(), st.integers(0, 4095)), max_size=8),
       tail=st.booleans(), begin=st.integers(0, 9000), skip=st.integers(0, 8192), following=st.integers(0, 6000))
def test_holes_are_read_as_zeros(parts, tail, begin, skip, following):
    """A file of runs of blocks, some left out, read from anywhere on: the same with ``holes`` as without."""
    with tempfile.TemporaryFile() as file:
        for blocks, hole, more in parts:
            if hole:
                file.seek(blocks * 4096, os.SEEK_CUR)
            else:
                file.write(filled(blocks, more).tobytes()[more:])
        if tail:
            file.seek(10000, os.SEEK_CUR)
        file.truncate()
        results = []
        for holes in (False, True):
            file.seek(begin)
            memory, after = bytearray(b"\xee" * 12 * 4096), bytearray(b"\xee" * following)
            got = built.read_pages(file.fileno(), memory, uint64([4, 5, 0, 11, 7]), skip, after, holes)
            # How much of what follows comes along may differ.
            more = os.read(file.fileno(), 100)
            pages = 5 * 4096 - skip
            results.append((memory, min(got, pages), (bytes(after[:max(0, got - pages)]) + more)[:100]))
    assert results[0] == results[1]


def test_interrupted_by_signals():
    """Signal handlers run and the transfer goes on, unless a handler raises."""
    reading, writing = os.pipe()
    calls = []
    old = signal.signal(signal.SIGALRM, lambda *_: calls.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        memory = filled(2000).reshape(-1)
        reader = Reader(reading, 1000)
        for _ in range(20):
            if calls:
                break
            assert built.write_pages(writing, b"", memory, uint64(range(2000))) == 2000 * 4096
        assert calls

        def raise_it(*_):
            signal.setitimer(signal.ITIMER_REAL, 0)  # once: a second one would come outside of the block
            raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, raise_it)
        with pytest.raises(KeyboardInterrupt):
            while True:
                built.write_pages(writing, b"", memory, uint64(range(2000)))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        os.close(writing)
    reader.join()


@BOTH
def test_pwrite_pages(kernel):
    pages = filled(5)
    with tempfile.TemporaryFile() as file:
        kernel.pwrite_pages(file.fileno(), uint64([7, 8, 1, 7, 100]), pages.reshape(-1))
        data = file.read()
    assert len(data) == 101 * 4096
    for pfn, page in ((7, 3), (8, 1), (1, 2), (100, 4)):
        assert data[pfn * 4096:(pfn + 1) * 4096] == pages[page].tobytes()


@BOTH
def test_pwrite_pages_leaves_out_zeros(kernel):
    pages = filled(6)
    pages[[0, 3, 4]] = 0
    with tempfile.TemporaryFile() as file:
        file.write(b"x" * 4096 * 12)
        file.flush()
        kernel.pwrite_pages(file.fileno(), uint64([1, 2, 3, 4, 5, 9]), pages.reshape(-1), True)
        file.seek(0)
        data = file.read()
    for pfn, page in ((2, 1), (3, 2), (9, 5)):
        assert data[pfn * 4096:(pfn + 1) * 4096] == pages[page].tobytes()
    for pfn in (0, 1, 4, 5, 6, 7, 8, 10, 11):
        assert data[pfn * 4096:(pfn + 1) * 4096] == b"x" * 4096


def allocated(file):
    """The blocks of 4096 bytes that are no holes."""
    size, found, at = os.fstat(file.fileno()).st_size, [], 0
    while at < size:
        try:
            at = os.lseek(file.fileno(), at, os.SEEK_DATA)
        except OSError:  # only holes follow
            break
        end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
        found.extend(range(at // 4096, -(-end // 4096)))
        at = end
    return found


def blocks_with_data(data):
    return [at // 4096 for at in range(0, len(data), 4096) if data[at:at + 4096].strip(b"\0")]


def short_runs(data):
    """The blocks of zeros in runs that aren't worth a hole."""
    zero = set(range(len(data) // 4096)) - set(blocks_with_data(data))
    return {block for block in zero if not any(
        zero.issuperset(range(first, first + LEAST_HOLE)) for first in range(block - LEAST_HOLE + 1, block + 1))}


#: Blocks.
LEAST_HOLE = 8


@pytest.mark.parametrize("before", [0, 1, 100, 4095, 4096, 5000])
def test_writev_makes_holes(before):
    pages = filled(60)
    for begin, end in ((8, 24), (30, 40), (44, 48), (50, 60)):
        pages[begin:end] = 0
    pieces = [b"h" * before, pages[:28].reshape(-1), bytes(10 * 4096), b"", bytes(10), pages[28:].reshape(-1),
              bytes(9000)]
    data = b"".join(bytes(piece) for piece in pieces)
    with tempfile.TemporaryFile(dir=os.getcwd()) as file:
        assert built.writev(file.fileno(), pieces, True) == len(data)
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == os.fstat(file.fileno()).st_size == len(data)
        file.seek(0)
        assert file.read() == data
        holes = set(range(-(-len(data) // 4096))) - set(allocated(file))
        # A block of zeros may be written if it begins in one piece of memory and ends in another.
        assert holes.isdisjoint(blocks_with_data(data)) and holes.isdisjoint(short_runs(data))
        assert short_runs(data) and len(holes) >= 15 + 9 + 9 + 9


def test_zeros_alone_are_one_hole():
    with tempfile.TemporaryFile(dir=os.getcwd()) as file:
        assert built.writev(file.fileno(), [bytes(1 << 20)], True) == 1 << 20
        assert built.writev(file.fileno(), [bytes(100)], True) == 100
        file.seek(0)
        assert file.read() == bytes((1 << 20) + 100)
        assert os.fstat(file.fileno()).st_blocks <= 8


def test_write_pages_makes_holes():
    memory = filled(30)
    memory[2:13] = 0
    memory[20:23] = 0
    with tempfile.TemporaryFile(dir=os.getcwd()) as file:
        pfns = uint64([0, *range(2, 13), 17, *range(20, 25)])
        assert built.write_pages(file.fileno(), b"head", memory.reshape(-1), pfns, sparse=True) == 4 + 18 * 4096
        file.seek(0)
        assert file.read() == b"head" + memory[pfns.astype(int)].tobytes()
        assert allocated(file) == [0, 1, *range(12, 19)]


def test_a_descriptor_without_positions_gets_no_holes():
    with pytest.raises(OSError):
        built.writev(os.open("/dev/null", os.O_WRONLY | os.O_PATH), [bytes(4096)], True)


@BOTH
def test_nothing_is_fine(kernel):
    empty = uint64([])
    kernel.scatter(bytearray(4096), empty, b"")
    assert kernel.zero_pages(bytes(4096), uint64([0])) == 1
    assert built.writev(-1, []) == 0 and built.writev(-1, [b""]) == 0 and built.readv(-1, []) == 0
    assert built.zero_pages(b"", empty) == 0 and built.read_pages(-1, bytearray(4096), empty) == 0


@pytest.mark.parametrize("pfns", [[0], [2, 0, 1, 3], [1, 2, 1], range(0, 6000, 2), range(2000), []])
@pytest.mark.parametrize("offset", [0, 1, 4096, 5000])
def test_reading_pages_of_a_file(pfns, offset):
    pages = filled(len(pfns)) if len(pfns) else numpy.zeros((0, 4096), numpy.uint8)
    memory, expected = bytearray(6000 * 4096), bytearray(6000 * 4096)
    with tempfile.TemporaryFile() as file:
        file.write(bytes(offset) + pages.tobytes() + b"more")
        file.flush()
        file.seek(3)
        assert built.read_file_pages(file.fileno(), offset, memory, uint64(pfns)) == pages.nbytes
        assert file.tell() == 3
    for pfn, content in zip(pfns, pages):
        expected[4096 * pfn:4096 * pfn + 4096] = content.tobytes()
    assert memory == expected


def test_reading_pages_of_a_file_that_is_too_short():
    with tempfile.TemporaryFile() as file:
        file.write(b"x" * 10000)
        file.flush()
        memory = bytearray(4 * 4096)
        assert built.read_file_pages(file.fileno(), 100, memory, uint64([3, 1, 0])) == 9900
        full, none = b"x" * 4096, bytes(4096)
        assert memory == (b"x" * 1708).ljust(4096, b"\0") + full + none + full
        assert built.read_file_pages(file.fileno(), 1 << 50, memory, uint64([3])) == 0
    with pytest.raises(OSError):
        built.read_file_pages(-1, 0, memory, uint64([0]))


@BOTH
def test_pread_pages(kernel):
    pages = filled(3)
    with tempfile.TemporaryFile() as file:
        file.write(pages.tobytes() + b"end")
        file.flush()
        out = bytearray(5 * 4096)
        kernel.pread_pages(file.fileno(), uint64([2, 0, 1, 3, 9]), out)
    assert out == pages[2].tobytes() + pages[0].tobytes() + pages[1].tobytes() + b"end" + bytes(2 * 4096 - 3)
    with pytest.raises(ValueError):
        built.pread_pages(-1, uint64([1 << 51]), bytearray(4096))
    with pytest.raises(OSError):
        built.pread_pages(-1, uint64([0]), bytearray(4096))
