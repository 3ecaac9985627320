"""Compressed checkpoints of legacy streams: page deltas are applied to the receiver's copies of the pages."""
from array import array
from collections import deque

from xstream.errors import CorruptStream, LimitExceeded
from xstream.kernels import deltas
from xstream.kernels import pfns as pfn_kernel
from xstream.limits import Limits
from xstream.stream.source import pieces
from xstream.wire.libxc import PAGE_SIZE, PageData

# What type checkers need: Python 3.6 has no Protocol.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Deque, Iterator, Optional, Protocol

    from xstream.wire.frames import Buffer
    from xstream.wire.pending import Data

    class Receiver(Protocol):
        """What the receiver of a stream has, such as a GuestMemory: its pages, and a state byte for each PFN."""

        @property
        def state(self) -> Buffer: ...
        def grow(self, count: int) -> None: ...
        def read(self, pfns: memoryview) -> bytearray: ...

_FAULTS = {
    deltas.ZERO_RUN: "page delta with a marker of no words",
    deltas.PAST_END: "page delta that runs past the end of its page",
    deltas.NOT_HELD: "page delta for a page that hasn't been sent",
}


class _Batch:
    """A batch that is being decoded: its words and PFNs, the receiver's copies of the pages, which of them exist, and
    the number of pages decoded so far."""

    def __init__(self, words: "Buffer", memory: "Receiver") -> None:
        self.words = words
        self.pfns = memoryview(bytearray(8 * pfn_kernel.count_data(words))).cast("Q")
        pfn_kernel.data_pfns(words, self.pfns)
        if len(set(self.pfns)) < len(self.pfns):
            raise CorruptStream("PFN twice in a batch of a compressed checkpoint", field="pfn",
                                expected="each PFN once")
        memory.grow(pfn_kernel.highest_pfn(words) + 1)
        self.copies = memory.read(self.pfns)
        self.held = memoryview(bytearray(len(self.pfns)))
        pfn_kernel.populated_of(self.pfns, memory.state, self.held)
        self.indices = memoryview(array("Q", range(len(self.pfns))))
        self.done = 0


class DeltaDecoder:
    """Decodes the compressed pages of one checkpoint after another.

    ``memory`` holds the receiver's pages. It is only read: the caller has to apply each decoded batch to it before
    asking for the next one. Batches are queued until their pages arrive; ``limits.batch_pfns`` bounds the queued PFNs.
    """

    def __init__(self, memory: "Receiver", limits: Limits = Limits(), *, advice: str = "") -> None:
        self._memory = memory
        self._advice = advice
        self._limits = limits
        self._waiting: Deque[Buffer] = deque()
        self._waiting_words = 0
        self._current: Optional[_Batch] = None
        self._data = b""
        self._at = 0  # in _data, of the next page
        self._before = 0  # bytes of the checkpoint's compressed data before _data

    def batch(self, words: "Buffer") -> "Iterator[PageData]":
        """Queue the PFN words of a batch; yields the batches that are complete. Raises LimitExceeded."""
        self._waiting.append(bytes(words))
        self._waiting_words += len(words) // 8
        if self._waiting_words > self._limits.batch_pfns:
            raise LimitExceeded("PFNs that wait for their compressed pages", field="count",
                                expected="at most {}".format(self._limits.batch_pfns), got=self._waiting_words)
        yield from self._decode()

    def pages(self, data: "Data") -> "Iterator[PageData]":
        """Decode compressed pages; yields the batches that are complete. Raises CorruptStream, also for more pages than
        the queued batches have."""
        for piece in pieces(data):
            self._data, self._before, self._at = self._data[self._at:] + bytes(piece), self._before + self._at, 0
            yield from self._decode()
            if len(self._data) - self._at > deltas.LONGEST:
                raise self._too_much()

    def end(self) -> None:
        """Finish a checkpoint. Raises CorruptStream if pages are missing or left over."""
        if self._current is not None or self._waiting:
            unfinished = len(self._waiting) + (self._current is not None)
            raise CorruptStream("checkpoint with fewer compressed pages than its batches have",
                                field="compressed pages", expected="the rest of {} batches".format(unfinished),
                                got="the end of the checkpoint")
        if self._at < len(self._data):
            raise self._too_much()
        self._data, self._at, self._before = b"", 0, 0

    def _too_much(self) -> CorruptStream:
        return CorruptStream("more compressed pages than the batches before them have", field="compressed pages",
                             expected="{} bytes of the checkpoint".format(self._before + self._at),
                             got="{} or more".format(self._before + len(self._data)))

    def _decode(self) -> "Iterator[PageData]":
        while True:
            if self._current is None:
                if not self._waiting:
                    return
                words = self._waiting.popleft()
                self._waiting_words -= len(words) // 8
                self._current = _Batch(words, self._memory)
            batch = self._current
            self._decode_some(batch)
            if batch.done < len(batch.pfns):
                return
            self._current = None
            yield PageData(batch.words, batch.copies)

    def _decode_some(self, batch: _Batch) -> None:
        """Decode the pages of a batch for which there is data."""
        left = len(batch.pfns) - batch.done
        done, taken, status, bad = deltas.decode(
            memoryview(self._data)[self._at:], memoryview(batch.copies)[batch.done * PAGE_SIZE:], batch.indices[:left],
            batch.held[batch.done:])
        if status in _FAULTS:
            advice = self._advice if status == deltas.NOT_HELD else ""
            raise CorruptStream(_FAULTS[status] + advice, field="compressed pages",
                                expected="the words of a page, 1024 in all",
                                got="PFN {:#x}, byte {} of the checkpoint's compressed pages".format(
                                    batch.pfns[batch.done + done], self._before + self._at + max(bad, taken)))
        batch.done += done
        self._at += taken
