"""xend's save file: the domain's configuration before a legacy stream.

Source: tools/python/xen/xend/XendCheckpoint.py up to Xen 4.4.
"""
import struct

from xstream.errors import CorruptStream
from xstream.tuples import NamedTuple
from xstream.wire import signatures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional, Tuple

    from xstream.wire.frames import Buffer

LAYER = signatures.XEND
MAGIC = signatures.XEND_MAGIC

_HEADER = struct.Struct(">16si")
HEADER_SIZE = _HEADER.size


class SaveHeader(NamedTuple):
    """Everything before the stream. ``config``: an S-expression; never parsed."""

    config: "Buffer"

    @property
    def config_text(self) -> str:
        """The config; invalid UTF-8 is replaced."""
        return bytes(self.config).decode("utf-8", "replace")


#: Record type to (name, class): the header is this layer's only record.
RECORDS = {0: ("SAVE_HEADER", SaveHeader)}


def type_name(record_type: int) -> str:
    """The name of the only record."""
    return RECORDS[record_type][0]


def type_of(record: SaveHeader) -> int:
    """0: there is one record only."""
    return 0


def parse_head(untrusted: "Buffer") -> int:
    """The config's length, from 20 bytes. Raises CorruptStream, with offsets relative to the first."""
    magic, length = _HEADER.unpack_from(untrusted)
    if magic != MAGIC:
        raise CorruptStream("not a save file of xend", offset=0, field="magic", expected=MAGIC, got=magic)
    if length < 0:
        raise CorruptStream("negative length", offset=16, field="length", expected="at least 0", got=length)
    return int(length)


def build(record: SaveHeader) -> "List[Buffer]":
    """The pieces of the whole header, in order."""
    return [_HEADER.pack(MAGIC, len(record.config)), record.config]


def ignored_content(record: SaveHeader) -> "Optional[Tuple[int, str, object]]":
    """None: xend ignores nothing."""
    return None
