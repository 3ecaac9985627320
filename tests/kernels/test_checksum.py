"""CRC32C by every implementation beside the plain one."""
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


@pytest.fixture(params=EVERY, ids=[name for name, _, _ in EVERY])
def kernel(request):
    _, module, name = request.param
    if not name:
        yield module
        return
    before = built.implementation()
    built.use(name)
    assert built.implementation() == name
    yield module
    built.use(before)


@pytest.mark.parametrize("data, value", VECTORS, ids=lambda each: "")
def test_vectors(kernel, data, value):
    assert kernel.crc32c(data) == value


@pytest.mark.parametrize("length", [1, 7, 8, 9, 63, 4080, 4095, 4096, 4097, 8191, 8192, 12345])
@pytest.mark.parametrize("shift", [0, 1, 7])
def test_lengths_and_alignments(kernel, length, shift):
    data = numpy.random.RandomState(length).randint(0, 256, length + shift).astype(numpy.uint8)[shift:]
    assert kernel.crc32c(data) == reference.crc32c(data.tobytes())


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
