"""XXH64 of pages, compared with xxHash's own values and with a plain reference."""
import struct

import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st

from xstream.kernels import hashes

MASK = 2 ** 64 - 1
PRIMES = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63)
#: What the reference implementation of xxHash returns for these pages.
VECTORS = [(bytes(4096), 0xAC869B6F32D8BBDB), (b"\xff" * 4096, 0x10AF2CB94282321F),
           (bytes(range(256)) * 16, 0x0F6E64BE186AF6A4)]


def rotated(value, bits):
    return (value << bits | value >> (64 - bits)) & MASK


def rounded(lane, value):
    return rotated((lane + value * PRIMES[1]) & MASK, 31) * PRIMES[0] & MASK


def reference(page):
    lanes = [(PRIMES[0] + PRIMES[1]) & MASK, PRIMES[1], 0, -PRIMES[0] & MASK]
    for at, value in enumerate(struct.unpack("<512Q", page)):
        lanes[at % 4] = rounded(lanes[at % 4], value)
    found = sum(rotated(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18))) & MASK
    for lane in lanes:
        found = ((found ^ rounded(0, lane)) * PRIMES[0] + PRIMES[3]) & MASK
    found = (found + 4096) & MASK
    found = (found ^ found >> 33) * PRIMES[1] & MASK
    found = (found ^ found >> 29) * PRIMES[2] & MASK
    return found ^ found >> 32


def hashed(data):
    out = memoryview(bytearray(len(data) // 512)).cast("Q")
    hashes.xxh64_pages(data, out)
    return list(out)


@pytest.mark.parametrize("page, value", VECTORS)
def test_vectors(page, value):
    assert hashed(page) == [value] == [reference(page)]


@given(st.lists(st.binary(min_size=64, max_size=64), max_size=4), st.integers(0, 7))
def test_pages(parts, misaligned):
    """At any alignment."""
    pages = [part * 64 for part in parts] + [samples.page(7)]
    data = memoryview(bytearray(misaligned) + b"".join(pages))[misaligned:]
    assert hashed(data) == [reference(page) for page in pages]


def test_no_pages():
    assert hashed(b"") == []


@pytest.mark.parametrize("size, count", [(4096, 0), (4095, 1), (4097, 1), (8192, 1), (0, 1)])
def test_sizes_must_agree(size, count):
    with pytest.raises(ValueError, match="bytes of pages for"):
        hashes.xxh64_pages(bytes(size), memoryview(bytearray(8 * count)).cast("Q"))
