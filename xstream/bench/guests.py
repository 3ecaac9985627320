"""The guest that is measured: seeded, of a stated mix of pages, and its stream."""
import os
from typing import Any

import numpy

from xstream.guest.memory import GuestMemory
from xstream.stream.writer import Writer
from xstream.wire.libxc import PAGE_SIZE, DomainHeader, End, StaticDataEnd

MIX = "30% zero pages, 30% text-like, 20% a repeated word, 20% random"
_TEXT = b"The quick brown fox jumps over the lazy dog. 0123456789 <html> {return 0;} \n"


def seeded_guest(pages: int, seed: int = 1) -> GuestMemory:
    """Guest memory of so many pages, all of them populated and present, in the mix of ``MIX``."""
    rng = numpy.random.RandomState(seed)
    memory = GuestMemory(pages, limit=pages)
    kinds = rng.choice(4, pages, p=(0.3, 0.3, 0.2, 0.2))
    view = memory.pages
    view[kinds == 0] = 0  # written, so that the page is there
    text = numpy.frombuffer(_TEXT * 200, numpy.uint8)
    for start in range(0, pages, 4096):
        kind, chunk = kinds[start:start + 4096], view[start:start + 4096]
        for page in numpy.flatnonzero(kind == 1):
            offset = int(rng.randint(len(_TEXT)))
            chunk[page] = text[offset:offset + PAGE_SIZE]
        repeated = chunk[kind == 2].view(numpy.uint64)
        repeated[:] = rng.randint(0, 1 << 62, (len(repeated), 1))
        chunk[kind == 2] = repeated.view(numpy.uint8)
        chunk[kind == 3] = numpy.frombuffer(rng.bytes(int((kind == 3).sum()) * PAGE_SIZE), numpy.uint8).reshape(
            -1, PAGE_SIZE)
    return memory


def write_stream(memory: GuestMemory, sink: Any) -> None:
    """The memory as an HVM stream of version 3, in full batches; state records are left out."""
    writer = Writer(sink, DomainHeader(type=2))
    writer.write(StaticDataEnd())
    pfns = numpy.arange(len(memory), dtype=numpy.uint64)
    writer.write_pages(pfns, numpy.zeros(len(pfns), numpy.uint8), memory)
    writer.write(End())


def stream_file(memory: GuestMemory, fd: int) -> None:
    """Write the memory's stream to a file, and wait until it is on the disk, so that nothing disturbs what follows."""
    write_stream(memory, fd)
    os.fsync(fd)
