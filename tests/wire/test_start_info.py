"""The start info page."""
import struct

import pytest

from xstream.wire import start_info
from xstream.wire.start_info import StartInfo


@pytest.mark.parametrize("width, offsets", [(8, (32, 40, 48, 56, 64, 72, 80)), (4, (32, 36, 40, 44, 48, 52, 56))])
def test_places_of_fields(width, offsets):
    page = bytearray(4096)
    for value, offset in enumerate(offsets, 1):
        struct.pack_into("<I", page, offset, value)
    info = start_info.parse(page, width)
    assert info == (1, 2, 3, 4, 5, 6, 7)
    assert start_info.build(info, width) == page[start_info.MAGIC_SIZE:start_info.size(width)]
    assert start_info.size(width) == offsets[-1] + 4


def test_numbers_too_high():
    with pytest.raises(ValueError):
        start_info.build(StartInfo(1, 2, 3, 1 << 32, 5, 6, 7), 4)
