"""Random access to the memory in a saved guest, without a copy of it.

A save file holds the guest's pages in the order in which they were sent. :class:`MemoryView` reads the PFN words once,
remembers where the last copy of each page lies, and then reads any page straight from the mapped file, or out of the
frame of a compressed image that holds it.
"""
import operator
import tempfile
from functools import partial

import numpy

from xstream.containers.opening import open_stream
from xstream.contexts import suppress
from xstream.guest.load import Loader
from xstream.guest.memory import GuestMemory
from xstream.kernels import batches as batch_kernel
from xstream.kernels import pfns as pfn_kernel
from xstream.kernels.buffers import reserve
from xstream.limits import Limits
from xstream.stream.reader import Identity
from xstream.stream.seekable import FrameStore, SeekableSource
from xstream.stream.source import BufferSource, Source, open_source
from xstream.stream.state import StateRecords
from xstream.wire import legacy, libxc, libxl
from xstream.wire.libxc import PAGE_SIZE
from xstream.wire.pending import PendingPages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterator, List, Optional, Sequence, Tuple, Union

    from xstream.kernels.buffers import BufferLike
    from xstream.stream.reader import AnyReader
    from xstream.stream.types import SourceLike
    from xstream.wire.formats import AnyRecord
    from xstream.wire.frames import Buffer
    from xstream.wire.pending import Data

#: Pages copied or written at once: one of Xen's batches.
_BATCH = 1024
#: PFNs looked at in one step of a scan over all of them.
_SCANNED = 1 << 20
#: A batch of pages that lies in more pieces than this is copied together instead of being passed on as views.
_MOST_VIEWS = 64
_ZEROS = memoryview(bytes(_BATCH * PAGE_SIZE))

#: Records that describe the guest; MemoryView keeps these.
_DESCRIBING: "Tuple[type, ...]" = (
    libxc.PVInfo, libxc.CpuidPolicy, libxc.MsrPolicy, libxc.TscInfo, libxc.SharedInfo, libxc.HvmContext,
    libxc.HvmParams, libxc.VcpuBasic, libxc.VcpuExtended, libxc.VcpuXsave, libxc.VcpuMsrs,
    libxl.EmulatorXenstoreData, legacy.TscInfo, legacy.HvmParam, legacy.HvmTail, legacy.VcpuContext, legacy.SharedInfo)


class _NotInFile(Exception):
    """Some pages of the guest don't lie in the file as they are: they are compressed, or belong to a checkpoint."""


class _CountingMemory(GuestMemory):
    """Guest memory in a temporary file that counts how often each page is written."""

    def __init__(self, limit: int, file: int) -> None:
        super().__init__(limit=limit, file=file)
        self.copies = _array(limit, numpy.uint32)

    def _store(self, pfns: memoryview, data: "Data") -> None:
        _count(self.copies, numpy.frombuffer(pfns, numpy.uint64))
        super()._store(pfns, data)

    def _store_extents(self, pfns: memoryview, data: memoryview, extents: memoryview) -> None:
        _count(self.copies, numpy.frombuffer(pfns, numpy.uint64))
        super()._store_extents(pfns, data, extents)


class _Mapped:
    """The pages of a file in memory."""

    def __init__(self, data: memoryview) -> None:
        self.data = data

    def read(self, at: int, size: int) -> memoryview:
        """A view of bytes of the file."""
        return self.data[at:at + size]

    def copy(self, into: numpy.ndarray, which: numpy.ndarray, at: numpy.ndarray) -> None:
        """Copy the pages at offsets ``at`` to the pages ``which`` of ``into`` (uint64 both)."""
        _scatter(into, which, self.data, at)


class _Compressed:
    """The pages of a compressed image; reading them raises CorruptStream."""

    def __init__(self, frames: FrameStore) -> None:
        self._frames = frames
        self._begins = numpy.array(frames.begins, numpy.uint64)
        self.read = frames.read

    def copy(self, into: numpy.ndarray, which: numpy.ndarray, at: numpy.ndarray) -> None:
        """As _Mapped's. Each frame is decompressed once."""
        numbers = numpy.searchsorted(self._begins, at, "right") - 1
        split = self._begins[numbers + 1] - at < PAGE_SIZE
        for number in numpy.unique(numbers[~split]):
            here = ~split & (numbers == number)
            _scatter(into, which[here], memoryview(self._frames.contents(int(number))), at[here] - self._begins[number])
        pages = into.reshape(-1, PAGE_SIZE)
        for page, begin in zip(which[split].tolist(), at[split].tolist()):
            pages[page] = numpy.frombuffer(self._frames.read(begin, PAGE_SIZE), numpy.uint8)


def _scatter(into: numpy.ndarray, which: numpy.ndarray, data: memoryview, at: numpy.ndarray) -> None:
    extents = numpy.ones((len(at), 2), numpy.uint64)
    extents[:, 0] = at
    batch_kernel.scatter(into, which, data, extents.reshape(-1))


class _Index(GuestMemory):
    """Stands in for guest memory while a stream is loaded, and remembers where each page lies instead of copying it.

    ``positions`` has one entry for each PFN: 1 + the offset of its last copy in ``file``, or 0 if no copy was sent.
    Without a ``file``, offsets are those of the reader's source.
    """

    def __init__(self, limit: int, file: "Optional[memoryview]", reader: "AnyReader") -> None:
        super().__init__(limit=limit)
        self._mapping = None  # no pages are written: no advice about them
        self.positions = _array(limit, numpy.uint64)
        self.copies = _array(limit, numpy.uint32)
        self._file = file
        self._reader = reader

    def _begin(self, data: "Data") -> int:
        """The offset of page data, which is the last that the reader has passed. Raises _NotInFile."""
        if self._file is None:
            if self._reader.checkpoints:
                raise _NotInFile  # the data comes from a temporary file
            return self._reader.source.offset - len(data)
        if isinstance(data, PendingPages):
            raise _NotInFile
        start = _address(data) - _address(self._file)
        if not 0 <= start <= len(self._file) - len(data):
            raise _NotInFile
        return start

    def _store(self, pfns: memoryview, data: "Data") -> None:
        if not len(pfns):
            return
        start = self._begin(data)
        self._enter(numpy.frombuffer(pfns, numpy.uint64),
                    numpy.arange(start + 1, start + 1 + len(data), PAGE_SIZE, dtype=numpy.uint64))

    def _store_extents(self, pfns: memoryview, data: memoryview, extents: memoryview) -> None:
        start = self._begin(data)
        offsets, pages = numpy.frombuffer(extents, numpy.uint64).reshape(-1, 2).T
        times = pages.astype(numpy.int64)
        # Number the pages of each extent from 0.
        within = numpy.arange(len(pfns), dtype=numpy.uint64) - numpy.repeat(numpy.cumsum(pages) - pages, times)
        first = numpy.repeat(offsets, times) + numpy.uint64(start + 1)
        self._enter(numpy.frombuffer(pfns, numpy.uint64), first + within * numpy.uint64(PAGE_SIZE))

    def _enter(self, pfns: numpy.ndarray, positions: numpy.ndarray) -> None:
        self.positions[pfns] = positions  # the last of several entries for a PFN wins
        _count(self.copies, pfns)

    def compare(self, record: libxc.PageData) -> memoryview:
        """Pages sent for comparison change no page, and are not compared here. Their PFNs count for the size."""
        self.grow(pfn_kernel.highest_pfn(record.words) + 1)
        return memoryview(b"").cast("Q")

    def read(self, pfns: "BufferLike") -> bytearray:
        """Page deltas need the page's earlier contents, so their pages are not in the file."""
        raise _NotInFile

    def forget(self, pfns: "Buffer") -> None:
        numbers = memoryview(pfns).cast("B").cast("Q")
        sent = memoryview(bytearray(8 * len(numbers))).cast("Q")
        sent = sent[:pfn_kernel.forget(numbers, self.state, sent)]
        self.positions[numpy.frombuffer(sent, numpy.uint64)] = 0


class _Describing:
    """Collects the records that describe a guest; those of an incomplete checkpoint don't count."""

    def __init__(self, reader: "AnyReader", limits: Limits) -> None:
        self._reader = reader
        self._limits = limits
        self._checkpoints = 0
        self._coming = StateRecords(limits)
        self.complete = StateRecords(limits)

    def add(self, record: "Optional[AnyRecord]") -> None:
        if record is not None and isinstance(record, _DESCRIBING):
            self._coming.add(record)
        elif self._reader.checkpoints > self._checkpoints:
            self._checkpoints = self._reader.checkpoints
            self._take()

    def finish(self) -> None:
        if not self._checkpoints:
            self._take()

    def _take(self) -> None:
        if any(isinstance(record, (legacy.HvmTail, legacy.VcpuContext)) for record in self._coming.records()):
            self.complete = StateRecords(self._limits)  # a legacy checkpoint sends all of the state
        self.complete.update(self._coming)
        self._coming = StateRecords(self._limits)


class MemoryView:
    """The final memory of a saved guest, by PFN or by guest-physical address; read-only.

    ``source``: a path, a descriptor of a regular file, or a buffer; legacy streams and all containers too. The whole
    stream is read once, like ``xstream.verify`` does, but page contents are not touched: an index of 13 bytes for each
    PFN is all that is kept in memory. Pages are then read from the mapped file, which must not be changed or truncated
    meanwhile. Of a compressed image with a table (:mod:`xstream.stream.zstd`), the frames that hold the pages are
    decompressed when they are needed; 64 MiB of them are kept. Where pages don't lie in the file (other compressed
    files, pipes, checkpoints after the first), they are first copied to an unnamed temporary file (in ``TMPDIR``) of
    the guest's size.

    - ``len(view)``: the highest PFN that the stream mentions plus one; ``view.size`` the same in bytes;
    - ``view[pfn]``: one page, ndarray (4096,) uint8; ``view[start:stop]``: pages of neighbouring PFNs, ndarray
      (n, 4096) uint8. Arrays are read-only; they are views of the file where the pages lie there one after the other,
      else copies;
    - a page that isn't populated, or was sent without contents (XALLOC), reads as zeros.

    The other arguments are those of :func:`xstream.open`, except that checkpoints need not be announced. Raises
    StreamError or a subclass, OSError and, for an address past 2^64, ValueError. Not safe against ``close`` in another
    thread; reading from several threads is.
    """

    def __init__(self, source: "SourceLike", *, format: "Optional[str]" = None, limits: Limits = Limits(),
                 checkpointed: bool = True, width: "Optional[int]" = None, guest: "Optional[str]" = None,
                 progress: "Callable[[int], object]" = lambda offset: None) -> None:
        self._reader = partial(open_stream, format=format, limits=limits, checkpointed=checkpointed, width=width,
                               guest=guest)
        self._limits = limits
        self._progress = progress
        #: Whether pages are read from the source itself, and not from a temporary copy.
        self.mapped = True
        self._store: Union[_Mapped, _Compressed] = _Mapped(memoryview(b""))
        opened = open_source(source)
        try:
            self._open(opened)
        finally:
            if opened is not source:
                opened.close()

    def _open(self, opened: Source) -> None:
        if not isinstance(opened, BufferSource):
            self._load(opened)
            return
        whole = opened.buffered()
        try:
            self._index(opened, whole)
        except _NotInFile:
            self._load(BufferSource(whole))

    def _index(self, opened: Source, whole: memoryview) -> None:
        """Build the index over a file in memory. Raises _NotInFile where pages don't lie in it."""
        with self._reader(opened) as reader:
            compressed = reader.source if isinstance(reader.source, SeekableSource) else None
            if reader.source is not opened and compressed is None:
                raise _NotInFile
            memory = _Index(self._limits.guest_pfns, whole if compressed is None else None, reader)
            self._store = _Mapped(whole) if compressed is None else _Compressed(compressed.store())
            self._run(reader, memory)
        self._positions, self._copies = memory.positions, memory.copies
        self._memory: GuestMemory = memory

    def _load(self, opened: Source) -> None:
        """Copy the guest's memory to a temporary file, whose offsets are guest-physical addresses."""
        self.mapped = False
        with tempfile.TemporaryFile() as file, self._reader(opened) as reader:
            memory = _CountingMemory(self._limits.guest_pfns, file.fileno())
            self._run(reader, memory)
            self._store = _Mapped(memory.buffer)  # a mapping, which outlives the descriptor
        self._memory, self._copies = memory, memory.copies
        self._positions = _array(len(memory), numpy.uint64)
        for start in range(0, len(memory), _SCANNED):
            state = numpy.frombuffer(memory.state, numpy.uint8)[start:start + _SCANNED]
            pfns = numpy.flatnonzero(state & pfn_kernel.SENT) + start
            self._positions[pfns] = pfns.astype(numpy.uint64) * numpy.uint64(PAGE_SIZE) + numpy.uint64(1)

    def _run(self, reader: "AnyReader", memory: GuestMemory) -> None:
        describing = _Describing(reader, self._limits)
        Loader(reader, memory, on_record=describing.add).run(self._progress)
        describing.finish()
        #: What the stream says of itself: format, version, kind of guest, and what wrote it.
        self.identity: Identity = reader.identity
        #: Page-table levels of a PV guest, 3 or 4; 0 for an HVM guest.
        self.pt_levels: int = reader.pt_levels
        #: The records that describe the guest beside its memory, as the stream leaves them.
        self.records: StateRecords = describing.complete

    def close(self) -> None:
        """Release the file. Arrays handed out before stay valid; reading raises ValueError or returns zeros."""
        self._store = _Mapped(memoryview(b""))
        self._positions = numpy.zeros(0, numpy.uint64)

    def __enter__(self) -> "MemoryView":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._memory)

    @property
    def size(self) -> int:
        """Guest-physical address space in bytes, up to the highest PFN that the stream mentions."""
        return len(self) * PAGE_SIZE

    @property
    def state(self) -> numpy.ndarray:
        """What the stream says of each PFN, ndarray (n,) uint8, the bits described in xstream/kernels/pfns.pyi; a
        read-only view."""
        state = numpy.frombuffer(self._memory.state, numpy.uint8)
        state.flags.writeable = False
        return state

    @property
    def populated(self) -> numpy.ndarray:
        """Which PFNs are populated, ndarray (n,) bool; a copy."""
        return self._memory.populated

    @property
    def populated_count(self) -> int:
        """How many PFNs are populated."""
        count: int = self._memory.populated_count
        return count

    @property
    def types(self) -> numpy.ndarray:
        """The last page type of each PFN, ndarray (n,) uint8 (:data:`xstream.wire.libxc.PAGE_TYPES` has the names; 0xf,
        XTAB, for a PFN that the stream never mentions); a copy."""
        return self._memory.types

    @property
    def copies(self) -> numpy.ndarray:
        """How many times each page was sent, ndarray (n,) uint32; a read-only view."""
        return self._copies[:len(self)]

    @property
    def index_bytes(self) -> int:
        """Memory that the index takes, in bytes, at most."""
        return len(self) * (8 + 4 + 1)  # position, number of copies, state

    def is_populated(self, address: int, size: int = 1) -> bool:
        """Whether all ``size`` bytes from guest-physical ``address`` on are in populated pages."""
        state = self._memory.state[address // PAGE_SIZE:-(-(address + size) // PAGE_SIZE)]
        return len(state) * PAGE_SIZE >= size > 0 and pfn_kernel.count_populated(state) == len(state) and \
            address + size <= self.size

    def read(self, address: int, size: int) -> bytes:
        """``size`` bytes from guest-physical ``address`` on; a copy. Zeros where nothing is populated."""
        if address < 0 or size < 0 or address + size > 1 << 64:
            raise ValueError("not an address and a size within 64 bits: {:#x}, {:#x}".format(address, size))
        pfn, offset = divmod(address, PAGE_SIZE)
        if offset + size <= PAGE_SIZE:
            position = int(self._positions[pfn]) if pfn < len(self._positions) else 0
            if not position:
                return bytes(size)
            return bytes(self._store.read(position - 1 + offset, size))
        out = bytearray(size)
        stop = min(-(-(address + size) // PAGE_SIZE), len(self))
        for first in range(pfn, stop, _BATCH):
            pages = self[first:min(first + _BATCH, stop)].reshape(-1)
            start = first * PAGE_SIZE - address
            begin, end = max(start, 0), min(start + len(pages), size)
            out[begin:end] = pages[begin - start:end - start].data
        return bytes(out)

    def __getitem__(self, which: "Union[int, slice]") -> numpy.ndarray:
        if isinstance(which, slice):
            start, stop, step = which.indices(len(self))
            if step != 1:
                raise ValueError("PFNs can only be sliced one by one; use pages() for others")
            return self._slice(start, max(start, stop))
        pfn = operator.index(which)
        if not -len(self) <= pfn < len(self):
            raise IndexError("no such PFN: {:#x}".format(pfn))
        pfn %= len(self)
        page: numpy.ndarray = self._slice(pfn, pfn + 1)[0]
        return page

    def _slice(self, start: int, stop: int) -> numpy.ndarray:
        positions = self._positions[start:stop]
        if len(positions) and positions[0] and _follow(positions).all():
            data = self._store.read(int(positions[0]) - 1, len(positions) * PAGE_SIZE)
            pages = numpy.frombuffer(data, numpy.uint8).reshape(-1, PAGE_SIZE)
            pages.flags.writeable = False
            return pages
        return self.pages(numpy.arange(start, stop, dtype=numpy.uint64))

    def pages(self, pfns: "Union[BufferLike, Sequence[int]]") -> numpy.ndarray:
        """The pages of ``pfns`` (array of PFNs in any order), ndarray (n, 4096) uint8, read-only; a copy. Raises
        IndexError for a PFN past the memory."""
        positions = self._positions[:len(self)][numpy.asarray(pfns, numpy.int64)]
        pages = numpy.zeros((len(positions), PAGE_SIZE), numpy.uint8)
        sent = numpy.flatnonzero(positions)
        self._store.copy(pages.reshape(-1), sent.astype(numpy.uint64), positions[sent] - numpy.uint64(1))
        pages.flags.writeable = False
        return pages

    def starts(self, pfns: "Union[BufferLike, Sequence[int]]", size: int) -> numpy.ndarray:
        """The first ``size`` bytes of each of the pages, ndarray (n, size) uint8; a copy. Of a mapped file, touches no
        more of them."""
        numbers = numpy.asarray(pfns, numpy.int64)
        if isinstance(self._store, _Compressed):
            return numpy.concatenate([numpy.zeros((0, size), numpy.uint8)] + [
                self.pages(numbers[start:start + _BATCH])[:, :size] for start in range(0, len(numbers), _BATCH)])
        positions = self._positions[numbers].astype(numpy.int64)
        data = numpy.frombuffer(self._store.data, numpy.uint8)
        found = data[numpy.maximum(positions - 1, 0)[:, None] + numpy.arange(size)]
        found[positions == 0] = 0
        return found

    def populated_pfns(self, first: int = 0, stop: "Optional[int]" = None) -> "Iterator[numpy.ndarray]":
        """The populated PFNs of a range, ascending, in arrays of at most 2^20 uint64."""
        stop = len(self) if stop is None else min(stop, len(self))
        state = self._memory.state
        for start in range(first, stop, _SCANNED):
            part = state[start:min(start + _SCANNED, stop)]
            if pfn_kernel.count_populated(part):
                flags = numpy.frombuffer(part, numpy.uint8) & pfn_kernel.POPULATED
                yield numpy.flatnonzero(flags).astype(numpy.uint64) + numpy.uint64(start)

    def runs(self, first: int = 0, stop: "Optional[int]" = None) -> numpy.ndarray:
        """The runs of populated PFNs in a range, ascending: ndarray (n, 2) uint64 of first PFN and number of pages."""
        parts: List[numpy.ndarray] = []
        for pfns in self.populated_pfns(first, stop):
            starts = numpy.concatenate(([0], numpy.flatnonzero(numpy.diff(pfns) != 1) + 1))
            lengths = numpy.diff(numpy.concatenate((starts, [len(pfns)]))).astype(numpy.uint64)
            part = numpy.stack((pfns[starts], lengths), 1)
            if parts and parts[-1][-1].sum() == part[0, 0]:
                part[0] = parts[-1][-1, 0], parts[-1][-1, 1] + part[0, 1]
                parts[-1] = parts[-1][:-1]
                parts = parts[:-1] if not len(parts[-1]) else parts
            parts.append(part)
        return numpy.concatenate(parts) if parts else numpy.zeros((0, 2), numpy.uint64)

    def buffers(self, first: int, count: int) -> "Iterator[Tuple[int, Optional[List[Buffer]]]]":
        """The contents of ``count`` neighbouring PFNs, a batch at a time: (pages, their bytes in pieces).

        The pieces are views of the file where that saves time, and None where no page of the batch has contents."""
        for start in range(first, first + count, _BATCH):
            positions = self._positions[start:min(start + _BATCH, first + count)]
            if not positions.any():
                yield len(positions), None
                continue
            breaks = numpy.flatnonzero(~_follow(positions)) + 1
            if len(breaks) >= _MOST_VIEWS:
                yield len(positions), [self.pages(numpy.arange(start, start + len(positions))).reshape(-1).data]
                continue
            bounds = [0, *breaks.tolist(), len(positions)]
            yield len(positions), [self._piece(int(positions[begin]), end - begin)
                                   for begin, end in zip(bounds, bounds[1:])]

    def _piece(self, position: int, pages: int) -> "Buffer":
        size = pages * PAGE_SIZE
        return self._store.read(position - 1, size) if position else _ZEROS[:size]


def _follow(positions: numpy.ndarray) -> numpy.ndarray:
    """For each position but the first: whether that page lies right after the one before, or both have no contents."""
    following: numpy.ndarray = (numpy.diff(positions) == PAGE_SIZE) | ((positions[1:] == 0) & (positions[:-1] == 0))
    return following


def _count(copies: numpy.ndarray, pfns: numpy.ndarray) -> None:
    if len(pfns) > 1 and not (pfns[1:] > pfns[:-1]).all():
        pfns, times = numpy.unique(pfns, return_counts=True)
        copies[pfns] += times.astype(copies.dtype)
    else:
        copies[pfns] += 1


def _array(length: int, dtype: type) -> numpy.ndarray:
    """Zeros that take memory only where they are written to."""
    return numpy.frombuffer(reserve(max(length, 1) * numpy.dtype(dtype).itemsize), dtype)[:length]


def _address(buffer: "Buffer") -> int:
    """Where a buffer lies in this process's memory."""
    address = 0
    with suppress(TypeError, ValueError):
        address = numpy.frombuffer(buffer, numpy.uint8).__array_interface__["data"][0]
    return address
