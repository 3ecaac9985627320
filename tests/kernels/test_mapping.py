"""Addresses of buffers."""
import ctypes
import mmap
from array import array

import pytest

from xstream.kernels import mapping


@pytest.mark.parametrize("buffer", [bytearray(b"some bytes"), array("B", b"some bytes")])
def test_address(buffer):
    assert ctypes.string_at(mapping.address(buffer), 10) == b"some bytes"
    assert mapping.address(memoryview(buffer)[5:]) == mapping.address(buffer) + 5


def test_address_of_a_mapping():
    with mmap.mmap(-1, 8192) as room:
        assert mapping.address(room) % 4096 == 0
        room[:3] = b"abc"
        assert ctypes.string_at(mapping.address(room), 3) == b"abc"


def test_what_has_no_address():
    with pytest.raises(TypeError):
        mapping.address(5)
    with pytest.raises(BufferError):
        mapping.address(memoryview(bytearray(10))[::2])
