"""A saved guest as a LiME memory image, for Volatility and Rekall.

Each run of populated PFNs is a header and the run's bytes. Source of the layout: lime_mem_range_header in LiME's
src/lime.h, and its doc/README.md.
"""
import struct
from typing import NamedTuple, Optional

from xstream.convert.images import write_pages
from xstream.guest.memory_view import MemoryView
from xstream.stream.sink import Sink
from xstream.wire.libxc import PAGE_SIZE

#: Magic, version, first address, last address (inclusive), 8 reserved bytes.
_HEADER = struct.Struct("<IIQQ8x")
_MAGIC, _VERSION = 0x4C694D45, 1


class LimeReport(NamedTuple):
    """What was written: bytes; pages and runs of populated PFNs."""

    bytes: int
    populated: int
    runs: int


def write_lime(view: MemoryView, sink: Sink, first: int = 0, stop: Optional[int] = None) -> LimeReport:
    """Write a guest as a LiME image, front to back: a pipe will do.

    ``first``, ``stop``: only PFNs from ``first`` up to but not including ``stop``. Raises OSError.
    """
    runs = view.runs(first, stop)
    start = sink.offset
    for begin, count in runs.tolist():
        sink.write([_HEADER.pack(_MAGIC, _VERSION, begin * PAGE_SIZE, (begin + count) * PAGE_SIZE - 1)])
        write_pages(sink, view, begin, count)
    return LimeReport(sink.offset - start, int(runs[:, 1].sum()), len(runs))
