"""Each implementation of CRC32C that this CPU can run, compared with a plain reference.

scripts/test-other-cpus runs those of older CPUs.
"""
import contextlib
import functools

import numpy
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from xstream.kernels import checksum as built

EVERY = [("kernel, " + name, built, name) for name in built.implementations()] + [("reference", reference.checksum, "")]
# RFC 3720, B.4.
VECTORS = [
    (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
    (bytes.fromhex("01c00000 00000000 00000000 00000000 14000000 00000400 00000014 00000018"
                   "28000000 00000000 02000000 00000000"), 0xD9963A56),
    (b"123456789", 0xE3069283), (b"", 0),
]


@contextlib.contextmanager
def using(name):
    before = built.implementation()
    built.use(name)
    assert built.implementation() == name
    yield built
    built.use(before)


@pytest.fixture(params=EVERY, ids=[name for name, _, _ in EVERY])
def kernel(request):
    """Each implementation, and the reference."""
    _, module, name = request.param
    if not name:
        yield module
        return
    with using(name) as module:
        yield module


@pytest.fixture(params=built.implementations())
def each(request):
    """Each implementation."""
    with using(request.param) as module:
        yield module


@pytest.mark.parametrize("data, value", VECTORS, ids=lambda each: "")
def test_vectors(kernel, data, value):
    assert kernel.crc32c(data) == value


DATA = numpy.random.RandomState(3).bytes(70000)
# Around each multiple of the size of the blocks that the implementations work in, and every small length.
LENGTHS = sorted({*range(620), *(block * 4096 + more for block in range(1, 5) for more in range(-9, 10)), 12345, 65537})


@functools.lru_cache(maxsize=None)
def prefix_crcs(shift):
    """The CRC of the first n bytes of DATA[shift:], for every n in LENGTHS."""
    crcs, crc, done = {}, 0, 0
    for length in LENGTHS:
        crc = reference.crc32c(DATA[shift + done:shift + length], crc)
        crcs[length], done = crc, length
    return crcs


@pytest.mark.parametrize("shift", [*range(17), 31, 32, 33, 63])
def test_every_length_at_every_alignment(each, shift):
    whole = numpy.frombuffer(bytearray(len(DATA) + 64), numpy.uint8)
    start = -whole.ctypes.data % 64 + shift
    data = memoryview(whole)[start:start + LENGTHS[-1]]
    data[:] = DATA[shift:shift + LENGTHS[-1]]
    found = {length: each.crc32c(data[:length]) for length in LENGTHS}
    assert found == prefix_crcs(shift)


@pytest.mark.parametrize("start", [0, 1, 0x80000000, 0xFFFFFFFF, 0xDEADBEEF])
def test_any_initial_value(kernel, start):
    """The initial value matters to the end of a long buffer."""
    assert kernel.crc32c(DATA[:9000], start) == reference.crc32c(DATA[:9000], start)


def test_a_large_buffer(each):
    """The CRC of a buffer equals the combined CRCs of its pages."""
    data = numpy.random.RandomState(4).randint(0, 2 ** 63, 1 << 20).view(numpy.uint8)
    sums = numpy.zeros(len(data) // 4096, numpy.uint32)
    each.crc32c_pages(data, sums)
    combined = 0
    for page_sum in sums.tolist():
        combined = each.crc32c_combine(combined, page_sum, 4096)
    assert each.crc32c(data) == combined


def test_going_on(kernel):
    data = bytes(range(256)) * 40
    assert kernel.crc32c(data[5000:], kernel.crc32c(data[:5000])) == kernel.crc32c(data)


def test_pages(kernel):
    pages = numpy.random.RandomState(1).randint(0, 256, 3 * 4096 + 1).astype(numpy.uint8)[1:]
    sums = numpy.zeros(3, numpy.uint32)
    kernel.crc32c_pages(pages, sums)
    assert sums.tolist() == [reference.crc32c(pages[at:at + 4096].tobytes()) for at in (0, 4096, 8192)]


@given(a=st.binary(max_size=300), b=st.binary(max_size=300), zeros=st.integers(0, 5000))
def test_combining(a, b, zeros):
    assert built.crc32c_combine(built.crc32c(a), built.crc32c(b), len(b)) == built.crc32c(a + b)
    assert built.crc32c_zeros(built.crc32c(a), zeros) == built.crc32c(a + bytes(zeros))


def test_combining_lengths_of_any_size():
    crc = built.crc32c(b"x")
    for length in (2 ** 20, 2 ** 40, 2 ** 63, 2 ** 64 - 1):
        half = built.crc32c_zeros(crc, length // 2)
        assert built.crc32c_zeros(half, length - length // 2) == built.crc32c_zeros(crc, length)
    assert built.crc32c_zeros(crc, 1 << 20) == built.crc32c(bytes(1 << 20), crc)


def test_wrong_arguments():
    for call in (lambda: built.crc32c("text"), lambda: built.crc32c(None), lambda: built.crc32c(b"", -1),
                 lambda: built.crc32c(b"", 1 << 32), lambda: built.crc32c(numpy.zeros(8, numpy.uint8)[::2]),
                 lambda: built.crc32c_pages(bytes(4096), numpy.zeros(2, numpy.uint32)),
                 lambda: built.crc32c_pages(bytes(4097), numpy.zeros(1, numpy.uint32)),
                 lambda: built.crc32c_pages(bytes(4096), numpy.zeros(1, numpy.uint64)),
                 lambda: built.use("quantum"), lambda: built.use(None)):
        with pytest.raises((ValueError, TypeError, OverflowError)):
            call()
