"""The framing that libxc and libxl streams share: type, length, body, padding to a multiple of 8.

Source: docs/specs/libxc-migration-stream.pandoc, "Records"; docs/specs/libxl-migration-stream.pandoc, "Records".
"""
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    #: A body, a blob or page data. Another object with the buffer protocol, such as a numpy array, has to be passed as
    #: a memoryview of it.
    Buffer = Union[bytes, bytearray, memoryview]

FRAME = struct.Struct("<II")

#: A reader that doesn't know a record with this bit in its type skips it; without it, it must fail.
OPTIONAL = 0x80000000


def padded(length: int) -> int:
    """``length`` rounded up to the multiple of 8 at which the next record begins."""
    return (length + 7) & ~7
