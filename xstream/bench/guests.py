"""The guest that is measured: seeded, with a known mix of pages, and its streams."""
import random
from typing import NamedTuple, Optional

import numpy

from xstream.guest.load import load
from xstream.guest.memory import GuestMemory
from xstream.guest.simulated_state import Registers, hvm_records, vcpu_context
from xstream.stream.legacy_writer import LegacyWriter
from xstream.stream.writer import Writer
from xstream.wire import legacy, libxc
from xstream.wire.libxc import (
    BATCH_PFNS,
    PAGE_SIZE,
    DomainHeader,
    End,
    P2MFrames,
    PVInfo,
    SharedInfo,
    StaticDataEnd,
    VcpuBasic,
    words_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xstream.stream.types import OpenSinkLike

MIX = "30% zero pages, 30% text-like, 20% a repeated word, 20% random"
_TEXT = b"The quick brown fox jumps over the lazy dog. 0123456789 <html> {return 0;} \n"
#: Pages after which the contents repeat: more than fit in the caches of a core.
_PERIOD = 16384
#: A PV guest has an L1 table for each 512 pages that it maps; here the table comes first.
_TABLE_EVERY = 512
_ENTRIES = PAGE_SIZE // 8
_L1TAB, _L4TAB, _XTAB = 0x1, 0x4, 0xF
#: PFNs of a PV guest: its L4 table, start info page and GDT.
_TOP_TABLE, _START_INFO, _GDT = 1, 2, 3
_PRESENT = 0x67
#: As long as those that Xen 4.17 writes: where memory begins in a stream makes a difference of a tenth to a copy.
_POLICIES = bytes(49 * 24), bytes(2 * 16)
#: HVM_CONTEXT and HVM_PARAMS: a stream without them isn't whole.
_HVM_STATE = hvm_records(random.Random(1), 1)
_MAX_PFN = 3088  # offset of arch.max_pfn in a 64-bit guest's shared info page
_CONTEXT = vcpu_context(random.Random(1), 8, Registers(_START_INFO, _GDT, _TOP_TABLE, _TOP_TABLE))


class BenchGuest(NamedTuple):
    """Guest memory, fully populated, and the type of each page. ``kind``: "hvm", or "pv" (64-bit, with normalised page
    tables)."""

    kind: str
    memory: GuestMemory
    types: numpy.ndarray

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return len(self.memory) * PAGE_SIZE


def seeded_guest(pages: int, kind: str = "hvm", seed: int = 1, zero: Optional[float] = None) -> BenchGuest:
    """A guest of ``pages`` pages in the proportions of ``MIX``, or with a share ``zero`` of zero pages and the
    others in proportion."""
    memory = GuestMemory(pages, limit=pages)
    view = memory.pages
    shares = numpy.array([0.3, 0.3, 0.2, 0.2])
    if zero is not None:
        shares = numpy.append(zero, shares[1:] / shares[1:].sum() * (1 - zero))
    _fill(view[:_PERIOD], numpy.random.RandomState(seed), shares)
    for start in range(_PERIOD, pages, _PERIOD):
        view[start:start + _PERIOD] = view[:min(_PERIOD, pages - start)]
    types = numpy.zeros(pages, numpy.uint8)
    if kind == "pv":
        _write_tables(view, types)
    memory.mark(words_of(numpy.arange(pages, dtype=numpy.uint64), types))
    return BenchGuest(kind, memory, types)


def _fill(view: numpy.ndarray, rng: numpy.random.RandomState, shares: numpy.ndarray) -> None:
    kinds = rng.choice(4, len(view), p=shares)
    view[kinds == 0] = 0  # written, so that the pages are allocated
    text = numpy.frombuffer(_TEXT * (PAGE_SIZE // len(_TEXT) + 2), numpy.uint8)
    texts = numpy.stack([text[offset:offset + PAGE_SIZE] for offset in range(len(_TEXT))])
    view[kinds == 1] = texts[rng.randint(0, len(_TEXT), int((kinds == 1).sum()))]
    words = view.view(numpy.uint64)
    words[kinds == 2] = rng.randint(0, 1 << 62, (int((kinds == 2).sum()), 1))
    noise = rng.bytes(int((kinds == 3).sum()) * PAGE_SIZE)
    view[kinds == 3] = numpy.frombuffer(noise, numpy.uint8).reshape(-1, PAGE_SIZE)


def _write_tables(view: numpy.ndarray, types: numpy.ndarray) -> None:
    """Write L1 tables, each full of entries for the pages that follow it, and an empty L4 table."""
    tables: numpy.ndarray = numpy.arange(0, len(view), _TABLE_EVERY, dtype=numpy.uint64)
    pfns: numpy.ndarray = (tables[:, None] + numpy.arange(_ENTRIES, dtype=numpy.uint64)) % numpy.uint64(len(view))
    view[tables] = ((pfns << numpy.uint64(12)) | numpy.uint64(_PRESENT)).view(numpy.uint8)
    types[tables] = _L1TAB
    view[_TOP_TABLE] = 0
    types[_TOP_TABLE] = _L4TAB


def loaded_guest(stream: str) -> BenchGuest:
    """The final memory of a stream, as an HVM guest's. Raises StreamError or a subclass, and OSError."""
    memory = GuestMemory()
    load(stream, memory)
    return BenchGuest("hvm", memory, numpy.zeros(len(memory), numpy.uint8))


def write_stream(guest: BenchGuest, sink: "OpenSinkLike") -> None:
    """Write the guest as a stream of version 3, in full batches, with the state records that a stream must have."""
    writer = begin_stream(guest, sink)
    writer.write_pages(numpy.arange(len(guest.types), dtype=numpy.uint64), guest.types, guest.memory)
    end_stream(guest, writer)


def write_in_batches(guest: BenchGuest, sink: "OpenSinkLike", batch: int, absent: float = 0.0) -> None:
    """As ``write_stream``, in batches of ``batch`` pages; XTAB entries make up the share ``absent`` of each batch."""
    writer = begin_stream(guest, sink)
    pages, size = guest.memory.buffer, len(guest.types)
    gone = min(round(batch * absent / (1 - absent)), BATCH_PFNS * 64)
    for start in range(0, size, batch):
        count = min(batch, size - start)
        pfns = numpy.arange(start, start + count + gone, dtype=numpy.uint64)
        types = numpy.full(count + gone, _XTAB, numpy.uint8)
        types[:count] = guest.types[start:start + count]
        # The absent pages have PFNs past the guest's, so that they don't change the others.
        pfns[count:] += numpy.uint64(size)
        writer.write(libxc.PageData(words_of(pfns, types), pages[start * PAGE_SIZE:(start + count) * PAGE_SIZE]))
    end_stream(guest, writer)


def write_single(guest: BenchGuest, fd: int) -> None:
    """As ``write_stream``, with a record for each page."""
    writer = begin_stream(guest, fd)
    for start in range(0, len(guest.types), _PERIOD):
        pages = guest.memory.pages[start:start + _PERIOD]
        records = numpy.zeros(len(pages), [("frame", "<u4", 2), ("count", "<u8"), ("word", "<u8"), ("page", "V4096")])
        records["frame"] = libxc.PAGE_DATA, 16 + PAGE_SIZE
        records["count"] = 1
        pfns = numpy.arange(start, start + len(pages), dtype=numpy.uint64)
        words = words_of(pfns, guest.types[start:start + _PERIOD])
        records["word"] = numpy.frombuffer(words, "<u8")
        records["page"] = pages.view("V4096")[:, 0]
        writer.sink.write([records.view(numpy.uint8).data])
    end_stream(guest, writer)


def write_legacy(guest: BenchGuest, fd: int, width: int, gathered: bool) -> None:
    """Write the guest as a legacy stream, in full batches. ``gathered``: a batch by one writev, else as Xen's old code
    did."""
    writer = LegacyWriter(fd, len(guest.types), width=width, guest=guest.kind, gathered=gathered)
    if guest.kind == "pv":
        frames = _p2m_frames(guest, legacy.p2m_frame_count(len(guest.types), 8))
        writer.write(legacy.ExtendedInfo(8, _CONTEXT, extended=False))
        writer.write(legacy.P2MFrames(frames.tobytes()))
    # Every PFN has a page, so the memory is the pages in order, and nothing is copied.
    writer.write_pages(numpy.arange(len(guest.types), dtype=numpy.uint64), guest.types, guest.memory.buffer)
    writer.write(legacy.VcpuInfo.of([0]))
    writer.write(legacy.LastCheckpoint())
    writer.write(legacy.EndOfBody())
    if guest.kind == "pv":
        writer.write(legacy.UnmappedPfns(b""))
        writer.write(legacy.VcpuContext(0, _CONTEXT))
        writer.write(legacy.SharedInfo(_shared_info(guest)))
    else:
        writer.write(legacy.HvmTail(0, 0, 0, libxc.build(_HVM_STATE[0])[0]))
        writer.write(legacy.DeviceModel(legacy.LIBXL_DEVICE_MODEL, b""))


def _shared_info(guest: BenchGuest) -> bytearray:
    """A shared info page without which a PV guest's stream isn't whole: it names the end of the p2m."""
    page = bytearray(PAGE_SIZE)
    page[_MAX_PFN:_MAX_PFN + 8] = len(guest.types).to_bytes(8, "little")
    return page


def _p2m_frames(guest: BenchGuest, count: int) -> numpy.ndarray:
    """PFNs of ordinary pages, as those of the guest's p2m."""
    return numpy.flatnonzero(guest.types == 0)[:count].astype(numpy.uint64)


def begin_stream(guest: BenchGuest, sink: "OpenSinkLike") -> Writer:
    """Write the headers and the records before memory."""
    hvm = guest.kind == "hvm"
    writer = Writer(sink, DomainHeader(type=libxc.GUEST_HVM if hvm else libxc.GUEST_PV))
    if not hvm:
        writer.write(PVInfo(8, 4))
    writer.write(libxc.CpuidPolicy(_POLICIES[0]))
    writer.write(libxc.MsrPolicy(_POLICIES[1]))
    writer.write(StaticDataEnd())
    if not hvm:
        frames = _p2m_frames(guest, -(-len(guest.types) // _ENTRIES))
        writer.write(P2MFrames(0, len(guest.types) - 1, frames.tobytes()))
    return writer


def end_stream(guest: BenchGuest, writer: Writer) -> None:
    """Write the records after memory."""
    if guest.kind == "pv":
        writer.write(SharedInfo(_shared_info(guest)))
        writer.write(VcpuBasic(0, _CONTEXT))
    else:
        for record in _HVM_STATE:
            writer.write(record)
    writer.write(End())
