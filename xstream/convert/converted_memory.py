"""The memory of a legacy stream on its way into version 3: what is written, what is kept, what is taken back."""
import bisect
import re
import tempfile
from typing import IO, Any, Callable, Iterator, List, Optional

from xstream.guest.deltas import DeltaDecoder
from xstream.guest.load import Spool
from xstream.guest.memory import GuestMemory, reserve
from xstream.kernels import pfns as pfn_kernel
from xstream.limits import Limits
from xstream.stream.legacy_reader import LegacyReader
from xstream.stream.source import PendingPages
from xstream.stream.writer import BATCH_PFNS
from xstream.wire import legacy
from xstream.wire.frames import Buffer
from xstream.wire.libxc import PAGE_SIZE, PageData

_XTAB = b"\x0f"
_BROKEN = 0xD
#: The state byte of a PFN that is known to be broken and nothing else, as xstream.kernels.pfns has it.
_BROKEN_STATE = re.compile(bytes([pfn_kernel.MENTIONED | (~_BROKEN & 0xF)]))
_STATES_AT_ONCE = 1 << 20
#: State byte to the type that its PFN is written with. A page that has come stays what a restore has made of it, even
#: where a type without data came later.
_WRITTEN_TYPES = bytes(0 if state & pfn_kernel.SENT and ~state & 0xF >= _BROKEN else ~state & 0xF
                       for state in range(256))


class PfnSet:
    """A set of PFNs under ``pfn_end``, a bit each."""

    def __init__(self, pfn_end: int) -> None:
        # Whoever claims to have many PFNs gets memory for those that come.
        self._bitmap = reserve(pfn_end // 8 + 1)
        self.empty = True

    def add(self, words: Buffer) -> None:
        """Add the PFNs of words."""
        _select(words, self._bitmap, False, True)
        self.empty = self.empty and not len(words)

    def among(self, words: Buffer) -> memoryview:
        """Those of the words whose PFN is in the set."""
        found: memoryview = _select(words, self._bitmap, True, False)[0]
        return found

    def without(self, record: PageData) -> PageData:
        """A batch without the PFNs in the set; it is the batch itself where it has none of them."""
        words, pages = _select(record.words, self._bitmap, False, False)
        if len(words) == len(record.words):
            return record
        data = memoryview(record.data.read() if isinstance(record.data, PendingPages) else record.data)
        kept = b"".join(data[page * PAGE_SIZE:(page + 1) * PAGE_SIZE] for page in pages)
        return PageData(words, kept)


def xtab_words(pfns: memoryview) -> bytearray:
    """PFN words of type XTAB."""
    words = bytearray(8 * len(pfns))
    pfn_kernel.pack(pfns, _XTAB * len(pfns), words)
    return words


def find_freed(reader: LegacyReader) -> Optional[PfnSet]:
    """The PFNs that a plain PV stream sends and takes back in its tail; None where there are none, or checkpoints, each
    of which takes back its own. Reads the stream to its end."""
    sent, freed = PfnSet(reader.pfn_end), PfnSet(reader.pfn_end)
    for record in reader:
        if isinstance(record, PageData):
            sent.add(record.words)
        elif isinstance(record, legacy.UnmappedPfns):
            freed.add(sent.among(xtab_words(memoryview(record.pfns).cast("B").cast("Q"))))
        if reader.checkpoints:
            return None
    return None if freed.empty else freed


class KeptMemory:
    """A copy of the guest's memory, in a temporary file: what deltas are against, or what is written in the end."""

    def __init__(self, limits: Limits) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile()
        self.memory = GuestMemory(limit=limits.guest_pfns, file=self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def copy_first_checkpoint(self, reader: LegacyReader) -> None:
        """Enter the pages that come before compression begins."""
        for record in reader:
            if isinstance(record, PageData) and not reader.verifying:
                self.memory.apply(record)
            elif isinstance(record, legacy.EnableCompression):
                return

    def batches(self) -> Iterator[PageData]:
        """Each PFN once, with its last type and contents, by ascending PFN; then those that are broken."""
        start = 0
        while True:
            pfns = self.memory.populated_pfns(start, BATCH_PFNS)
            if not len(pfns):
                break
            # Their states are looked at together: no batch reaches over a gap however wide.
            pfns = pfns[:bisect.bisect_left(pfns, pfns[0] + _STATES_AT_ONCE)]
            yield self._batch(pfns)
            start = pfns[-1] + 1
        for words in self._broken():
            yield PageData(words, b"")

    def _batch(self, pfns: memoryview) -> PageData:
        states = bytes(map(self.memory.state.__getitem__, pfns))
        words = bytearray(8 * len(pfns))
        pfn_kernel.pack(pfns, states.translate(_WRITTEN_TYPES), words)
        carrying = memoryview(bytearray(8 * pfn_kernel.count_data(words))).cast("Q")
        pfn_kernel.data_pfns(words, carrying)
        return PageData(words, self.memory.read(carrying))

    def _broken(self) -> Iterator[bytearray]:
        for start in range(0, len(self.memory), _STATES_AT_ONCE):
            states = bytes(self.memory.state[start:start + _STATES_AT_ONCE])
            found = [start + match.start() for match in _BROKEN_STATE.finditer(states)]
            for at in range(0, len(found), BATCH_PFNS):
                some = found[at:at + BATCH_PFNS]
                words = bytearray(8 * len(some))
                pfns = memoryview(bytearray(8 * len(some))).cast("Q")
                for index, pfn in enumerate(some):
                    pfns[index] = pfn
                pfn_kernel.pack(pfns, bytes([_BROKEN]) * len(some), words)
                yield words


class MemoryRoad:
    """Takes the records of memory and gives batches to ``write``, in the order in which they may be written.

    What comes behind a checkpoint is kept until the next is complete. ``kept``, where there is one, gets a copy of what
    is written (but for comparison); ``freed`` are PFNs never to be written.
    """

    def __init__(self, reader: LegacyReader, write: Callable[[PageData], None], limits: Limits) -> None:
        self._reader = reader
        self._write = write
        self._limits = limits
        self._spool: Optional[Spool] = None
        self._deltas: Optional[DeltaDecoder] = None
        self._sent: Optional[PfnSet] = PfnSet(reader.pfn_end) if reader.head.guest == legacy.PV else None
        self.kept: Optional[KeptMemory] = None
        self.freed: Optional[PfnSet] = None

    def close(self) -> None:
        for file in (self._spool, self.kept):
            if file is not None:
                file.close()

    def take(self, record: Any) -> None:
        """Take PageData, CompressedBatch or CompressedPages. Raises what Writer does, and CorruptStream."""
        if self._spool is not None:
            if self._sent is not None and not isinstance(record, legacy.CompressedPages):
                self._sent.add(record.words)
            self._spool.add(record)
        else:
            self._apply(record)

    def begin_compression(self) -> None:
        """Have page deltas decoded from the next checkpoint on; against ``kept``."""
        assert self.kept is not None
        self._deltas = DeltaDecoder(self.kept.memory, self._limits)

    def end_checkpoint(self) -> None:
        """All of a checkpoint has come: write what was kept of it. Raises CorruptStream where it isn't whole."""
        if self._spool is None:
            self._spool = Spool()
            return
        for record in self._spool.drain():
            self._apply(record)
        if self._deltas is not None:
            self._deltas.end()

    def taken_back(self, record: legacy.UnmappedPfns) -> List[PageData]:
        """Batches of XTAB for those of a tail's PFNs that have been sent."""
        pfns = memoryview(record.pfns).cast("B").cast("Q")
        if self._sent is None:
            return []
        parts = (self._sent.among(xtab_words(pfns[start:start + BATCH_PFNS]))
                 for start in range(0, len(pfns), BATCH_PFNS))
        return [PageData(words, b"") for words in parts if len(words)]

    def _apply(self, record: Any) -> None:
        if isinstance(record, PageData):
            self._page_data(record)
        elif self._deltas is not None:
            compressed = isinstance(record, legacy.CompressedPages)
            for batch in self._deltas.pages(record.data) if compressed else self._deltas.batch(record.words):
                self._page_data(batch)

    def _page_data(self, record: PageData) -> None:
        if self.freed is not None:
            record = self.freed.without(record)
        if not record.pfn_count:
            return
        if self._sent is not None:
            self._sent.add(record.words)
        if self.kept is not None and not self._reader.verifying:
            if isinstance(record.data, PendingPages):
                record = record._replace(data=record.data.read())
            self.kept.memory.apply(record)
        self._write(record)


def _select(words: Buffer, bitmap: Any, wanted: bool, mark: bool) -> Any:
    """(words, indices of their pages) of those whose bit is as wanted."""
    out = memoryview(bytearray(len(words)))
    pages = memoryview(bytearray(len(words))).cast("Q")
    kept, carrying = pfn_kernel.select(words, bitmap, wanted, mark, out, pages)
    return out[:8 * kept], pages[:carrying]
