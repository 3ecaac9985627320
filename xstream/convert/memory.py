"""The memory of a guest on its way through a conversion: deltas decoded, checkpoints held back, each page once."""
import re
import tempfile
from array import array
from typing import IO, Iterator, List, Optional, Tuple, Union

from xstream.guest.deltas import DeltaDecoder
from xstream.guest.load import Spool
from xstream.guest.memory import GuestMemory
from xstream.kernels import pfns as pfn_kernel
from xstream.kernels.buffers import reserve
from xstream.limits import Limits
from xstream.stream.legacy_reader import LegacyReader
from xstream.stream.writer import batch_bounds
from xstream.wire import legacy
from xstream.wire.libxc import BATCH_PFNS, PAGE_SIZE, PageData, data_pfns, words_of
from xstream.wire.pending import in_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xstream.kernels.buffers import BufferLike
    from xstream.wire.frames import Buffer

#: A legacy record that carries memory.
MemoryRecord = Union[PageData, legacy.CompressedBatch, legacy.CompressedPages]

_XTAB = b"\x0f"
_BROKEN, _XALLOC = 0xD, 0xE
#: The state byte of a PFN that came as BROKEN and never with contents (see xstream.kernels.pfns).
_BROKEN_STATE = re.compile(bytes([pfn_kernel.MENTIONED | (~_BROKEN & 0xF)]))
_STATES_AT_ONCE = 1 << 20
#: State byte of a populated PFN to the page type to write. If types without a page came later, a page that came with
#: contents keeps them, and one that was only allocated stays so: that is what a restore makes of it.
_WRITTEN_TYPES = bytes((_XALLOC if not state & pfn_kernel.SENT else 0 if ~state & 0xF >= _BROKEN else ~state & 0xF)
                       for state in range(256))


class PfnSet:
    """A set of PFNs below ``pfn_end``, one bit each. Memory is used only where bits are set."""

    def __init__(self, pfn_end: int) -> None:
        self._bitmap = reserve(pfn_end // 8 + 1)
        self.empty = True

    def add(self, words: "Buffer") -> None:
        """Add the PFNs of PFN words."""
        _select(words, self._bitmap, False, True)
        self.empty = self.empty and not len(words)

    def among(self, words: "Buffer") -> memoryview:
        """Those of the PFN words whose PFN is in the set; a copy."""
        found: memoryview = _select(words, self._bitmap, True, False)[0]
        return found

    def without(self, record: PageData) -> PageData:
        """The batch without the PFNs in the set; the same object if it contains none of them."""
        words, pages = _select(record.words, self._bitmap, False, False)
        if len(words) == len(record.words):
            return record
        data = memoryview(in_memory(record.data))
        kept = b"".join(data[page * PAGE_SIZE:(page + 1) * PAGE_SIZE] for page in pages)
        return PageData(words, kept)


def xtab_words(pfns: memoryview) -> memoryview:
    """PFN words of type XTAB for ``pfns`` (uint64)."""
    return words_of(pfns, _XTAB * len(pfns))


def find_unmapped(reader: LegacyReader) -> Optional[PfnSet]:
    """The PFNs that a PV stream without checkpoints sends although its tail then says that they are not in the guest's
    map. None if there are none, or if the stream has checkpoints, each of which has its own list.

    Reads the stream to its end.
    """
    sent, unmapped = PfnSet(reader.pfn_end), PfnSet(reader.pfn_end)
    for record in reader:
        if isinstance(record, PageData):
            sent.add(record.words)
        elif isinstance(record, legacy.UnmappedPfns):
            unmapped.add(sent.among(xtab_words(memoryview(record.pfns).cast("B").cast("Q"))))
        if reader.checkpoints:
            return None
    return None if unmapped.empty else unmapped


class MemoryCopy:
    """A copy of a guest's memory in a temporary file: what page deltas refer to, or what a squashed stream is written
    from."""

    def __init__(self, limits: Limits) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile()
        self.memory = GuestMemory(limit=limits.guest_pfns, file=self._file.fileno())

    def close(self) -> None:
        """Delete the file."""
        self._file.close()

    def copy_first_checkpoint(self, reader: LegacyReader) -> None:
        """Read a legacy stream up to where it announces compression, and copy its pages."""
        for record in reader:
            if isinstance(record, PageData) and not reader.verifying:
                self.memory.apply(record)
            elif isinstance(record, legacy.EnableCompression):
                return

    def batches(self) -> Iterator[PageData]:
        """Each populated PFN once, ascending, with its final type and contents; after them the broken ones.

        A batch never crosses a multiple of 1024 PFNs: from Xen 4.21 on a restore rebuilds a 2 MiB page only from 512
        PFNs that come in the same PAGE_DATA record (populate_pfns() in tools/libs/guest/xg_sr_restore.c).
        """
        start: Optional[int] = 0
        while start is not None:
            pfns = self.memory.populated_pfns(start, BATCH_PFNS)
            start = None
            for block in (pfns[begin:end] for begin, end in batch_bounds(pfns)):
                if len(pfns) == BATCH_PFNS > len(block) and block[-1] == pfns[-1]:
                    start = block[0]  # there may be more of this block than was asked for
                else:
                    yield self._batch(block)
                    start = block[-1] + 1
        for words in self._broken():
            yield PageData(words, b"")

    def _batch(self, pfns: memoryview) -> PageData:
        states = bytes(self.memory.state[pfns[0]:pfns[-1] + 1])
        if len(states) != len(pfns):
            states = bytes(state for state in states if state & pfn_kernel.POPULATED)
        words = words_of(pfns, states.translate(_WRITTEN_TYPES))
        return PageData(words, self.memory.read(data_pfns(words)))

    def _broken(self) -> Iterator[memoryview]:
        for start in range(0, len(self.memory), _STATES_AT_ONCE):
            states = bytes(self.memory.state[start:start + _STATES_AT_ONCE])
            pfns = array("Q", (start + match.start() for match in _BROKEN_STATE.finditer(states)))
            for at in range(0, len(pfns), BATCH_PFNS):
                some = pfns[at:at + BATCH_PFNS]
                yield words_of(some, bytes([_BROKEN]) * len(some))


class LegacyMemory:
    """Turns the memory records of a legacy stream into PAGE_DATA batches that may be written.

    Batches of a later checkpoint are held back until that checkpoint is complete, page deltas are decoded.

    - ``copy``: if set, a copy of all pages returned is kept there (pages sent for comparison excepted); page deltas
      need it;
    - ``unmapped``: if set, PFNs that are left out of all batches.
    """

    def __init__(self, reader: LegacyReader, limits: Limits) -> None:
        self._reader = reader
        self._limits = limits
        self._spool: Optional[Spool] = None
        self._deltas: Optional[DeltaDecoder] = None
        self._sent: Optional[PfnSet] = PfnSet(reader.pfn_end) if reader.head.guest == legacy.PV else None
        self.copy: Optional[MemoryCopy] = None
        self.unmapped: Optional[PfnSet] = None

    def close(self) -> None:
        """Delete the temporary files."""
        for file in (self._spool, self.copy):
            if file is not None:
                file.close()

    def take(self, record: MemoryRecord) -> Iterator[PageData]:
        """The batches that may be written now that ``record`` has come. Raises CorruptStream and LimitExceeded."""
        if self._spool is None:
            yield from self._apply(record)
            return
        if self._sent is not None and not isinstance(record, legacy.CompressedPages):
            self._sent.add(record.words)
        self._spool.add(record, self._reader.verifying)

    def begin_compression(self, *, advice: str = "") -> None:
        """Decode page deltas, against ``copy``, from the next checkpoint on. ``advice`` is added to the error about a
        delta for a page that ``copy`` doesn't have."""
        assert self.copy is not None
        self._deltas = DeltaDecoder(self.copy.memory, self._limits, advice=advice)

    def end_checkpoint(self) -> Iterator[PageData]:
        """The batches held back for a checkpoint that is complete now. Raises CorruptStream if pages are missing."""
        if self._spool is None:
            self._spool = Spool()
            return
        for record in self._spool.drain():
            yield from self._apply(record)
        if self._deltas is not None:
            self._deltas.end()

    def unmap(self, record: legacy.UnmappedPfns) -> List[PageData]:
        """Batches of XTAB for those of a PV tail's PFNs that have been sent."""
        pfns = memoryview(record.pfns).cast("B").cast("Q")
        if self._sent is None:
            return []
        parts = (self._sent.among(xtab_words(pfns[start:start + BATCH_PFNS]))
                 for start in range(0, len(pfns), BATCH_PFNS))
        return [PageData(words, b"") for words in parts if len(words)]

    def _apply(self, record: MemoryRecord) -> Iterator[PageData]:
        if isinstance(record, PageData):
            yield from self._keep(record)
        elif self._deltas is not None:
            batches = self._deltas.pages(record.data) if isinstance(record, legacy.CompressedPages) \
                else self._deltas.batch(record.words)
            for batch in batches:
                yield from self._keep(batch)

    def _keep(self, record: PageData) -> Iterator[PageData]:
        if self.unmapped is not None:
            record = self.unmapped.without(record)
        if not record.pfn_count:
            return
        if self._sent is not None:
            self._sent.add(record.words)
        verifying = self._reader.verifying if self._spool is None else self._spool.verifying
        if self.copy is not None and not verifying:
            record = record._replace(data=in_memory(record.data))
            self.copy.memory.apply(record)
        yield record


def _select(words: "Buffer", bitmap: "BufferLike", wanted: bool, mark: bool) -> Tuple[memoryview, memoryview]:
    """(words, indices of their pages) of the PFN words whose bit in the bitmap equals ``wanted``; copies."""
    out = memoryview(bytearray(len(words)))
    pages = memoryview(bytearray(len(words))).cast("Q")
    kept, carrying = pfn_kernel.select(words, bitmap, wanted, mark, out, pages)
    return out[:8 * kept], pages[:carrying]
