"""The memory of a guest that is being restored: populated on demand, then written, or compared."""

from xstream.contexts import suppress
from xstream.errors import StreamError
from xstream.guest.copying import copy_extents, copy_pages
from xstream.guest.guest import HookError, Pages
from xstream.guest.hooks import Hooks
from xstream.guest.parallel import Applied, Workers, jobs_for, run_shares, shares, task
from xstream.kernels import buffers
from xstream.kernels import p2m as p2m_kernel
from xstream.kernels import pages as page_kernel
from xstream.kernels import pfns as pfn_kernel
from xstream.kernels.buffers import reserve, uint64, uint64_of
from xstream.stream.reader import PageRun
from xstream.stream.source import PendingPages, pieces
from xstream.tuples import NamedTuple
from xstream.wire.libxc import BATCH_PFNS, PAGE_SIZE, data_pfns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import Future
    from typing import Callable, List, Optional, Sequence, Union

    from xstream.kernels.buffers import Numbers
    from xstream.wire.frames import Buffer
    from xstream.wire.pending import PagePart

_XTAB = 0xF  # the type of a PFN that no batch has mentioned


class _Unfinished(NamedTuple):
    """A batch whose pages are being written: its mapping, the tasks, the lowest and the highest PFN."""

    pages: Pages
    tasks: "List[Future[object]]"
    low: int
    high: int


class TargetMemory:
    """The guest's PFNs: whether they are populated, their types, and (PV) their frames.

    ``state``: one byte per PFN, as in :mod:`xstream.kernels.pfns`. ``p2m``: uint64, the frame of each populated PFN of
    a PV guest; None for HVM, where frames are PFNs. Both cover ``limit`` PFNs, but use memory only where written.
    ``workers`` share the copying of a batch where its pages are in memory and no PFN occurs twice in it, and decompress
    the pages of several batches at the same time: call :meth:`wait` before anything but this object uses the pages, and
    :meth:`close` at the end.
    """

    def __init__(self, hooks: Hooks, pv: bool, limit: int, workers: Workers) -> None:
        self._hooks = hooks
        self._workers = workers
        self._applied = Applied(0, 0, 0)  # of the batch that was entered last
        self._unfinished: List[_Unfinished] = []
        self.state = memoryview(reserve(limit))[:limit]
        self.pfn_end = 0  # one more than the highest PFN that a batch has named
        self.p2m: Optional[memoryview] = memoryview(reserve(8 * limit)).cast("B")[:8 * limit].cast("Q") if pv else None

    def enter(self, words: "Buffer") -> None:
        """Populate the PFNs of a batch that need it, and note its types."""
        wanted = uint64(len(words) // 8)
        self.populate(wanted[:p2m_kernel.claim(words, self.state, wanted)])
        self._applied = Applied(*pfn_kernel.mark(words, self.state))
        self.pfn_end = max(self.pfn_end, pfn_kernel.highest_pfn(words) + 1)
        self._hooks.set_types(memoryview(words))

    def populate(self, pfns: memoryview) -> None:
        """Allocate memory for PFNs, which have been marked as populated already."""
        if not len(pfns):
            return
        frames = uint64(len(pfns))
        self._hooks.populate(pfns, frames)
        if self.p2m is not None:
            p2m_kernel.assign(self.p2m, pfns, frames)

    def is_populated(self, pfn: int) -> bool:
        """Whether a PFN has memory."""
        return pfn < len(self.state) and bool(self.state[pfn] & pfn_kernel.POPULATED)

    def type_of(self, pfn: int) -> int:
        """The last type that arrived for a PFN."""
        return self.state[pfn] & 0xF ^ _XTAB

    def types_of(self, first: int, end: int) -> bytes:
        """The last types that arrived for the PFNs from ``first`` up to ``end``; XTAB for those that never came."""
        types = bytearray(end - first)
        pfn_kernel.types_of(self.state[first:end], types)
        return bytes(types)

    def frames_of(self, pfns: "Numbers") -> memoryview:
        """The frames of populated PFNs."""
        if self.p2m is None:
            return buffers.array("pfns", pfns, "uint64")
        frames = uint64(len(pfns))
        p2m_kernel.lookup(self.p2m, pfns, frames)
        return frames

    def write(self, pfns: memoryview, data: "Union[Buffer, PendingPages]") -> None:
        """Write the pages of populated PFNs; PendingPages are read straight into the guest's memory. With several
        workers, those of a compressed image may be written later: a later call then raises what is wrong with them."""
        if not len(pfns):
            return
        try:
            if isinstance(data, PendingPages) and self._write_parts(pfns, data):
                return
            self.wait()
            with self._hooks.mapped(self.frames_of(pfns)) as pages:
                self._write_mapped(pages, pfns, data)
        except StreamError as error:
            raise _named(error, pfns)

    def _write_mapped(self, pages: Pages, pfns: memoryview, data: "Union[Buffer, PendingPages]") -> None:
        at = buffers.array("at", pages.at, "uint64")
        if isinstance(data, PendingPages):
            held = data.held()
            if held is None:
                data.read_into(pages.memory, at)
                return
            data = held
        view = memoryview(data).cast("B")
        self._workers.run([
            task(copy_pages, pages.memory, at[first:end], view[first * PAGE_SIZE:end * PAGE_SIZE])
            for first, end in shares(len(pfns), jobs_for(pfns, self._applied, self._workers))])

    def _write_parts(self, pfns: memoryview, data: PendingPages) -> bool:
        """Write a batch whose data has parts and in which no PFN occurs twice; whether it is such a batch."""
        ascending = pfn_kernel.ascending(pfns)
        parts = data.parts() if ascending or not self._applied.resent else None
        if parts is None:
            return False
        frames = self.frames_of(pfns)
        if self._workers.jobs == 1:
            with self._hooks.mapped(frames) as pages:
                self._workers.run(_part_tasks(parts, pages, pfns))
            return True
        low, high = (pfns[0], pfns[len(pfns) - 1]) if ascending else (min(pfns), max(pfns))
        while len(self._unfinished) > self._workers.jobs or any(
                low <= other.high and other.low <= high for other in self._unfinished):
            self._finish_first()
        unfinished = _Unfinished(self._hooks.map_whole(frames), [], low, high)
        self._unfinished.append(unfinished)
        unfinished.tasks.extend(self._workers.start(_part_tasks(parts, unfinished.pages, pfns)))
        return True

    def wait(self) -> None:
        """Return when all pages have been written. Raises what is wrong with the first batch that could not be."""
        while self._unfinished:
            self._finish_first()

    def _finish_first(self) -> None:
        first = self._unfinished.pop(0)
        errors = list(filter(None, [each.exception() for each in first.tasks]))
        if errors:
            self._unfinished.insert(0, first)
            self.close()
            raise errors[0]
        self._hooks.unmap_pages(first.pages)

    def close(self) -> None:
        """Return when nothing is being written any more, whatever has become of it."""
        while self._unfinished:
            some = self._unfinished.pop(0)
            for each in some.tasks:
                each.exception()
            with suppress(HookError):
                self._hooks.unmap_pages(some.pages)

    def write_run(self, run: PageRun) -> None:
        """Write the pages of many batches at once."""
        pfns = data_pfns(run.words)
        if not len(pfns):
            return
        self.wait()
        with self._hooks.mapped(self.frames_of(pfns)) as pages:
            at = buffers.array("at", pages.at, "uint64")
            self._workers.run([task(copy_extents, pages.memory, at[first:end], run.data, extents)
                               for first, end, extents in run_shares(
                                   run.extents, jobs_for(pfns, self._applied, self._workers))])

    def read(self, pfns: memoryview) -> bytearray:
        """The pages of populated PFNs; a copy."""
        self.wait()
        return self._hooks.read(self.frames_of(pfns)) if len(pfns) else bytearray()

    def differing(self, words: "Buffer", data: "Union[Buffer, PendingPages]") -> "List[int]":
        """The PFNs of a batch whose page differs from the one in the batch; nothing is written. As in Xen's restorer,
        PFNs that aren't populated are populated first, and then usually differ."""
        wanted = uint64(len(words) // 8)
        self.populate(wanted[:p2m_kernel.claim(words, self.state, wanted)])
        pfns = data_pfns(words)
        differing: List[int] = []
        done = 0
        for piece in pieces(data):
            view = memoryview(piece)
            for start in range(0, len(view), BATCH_PFNS * PAGE_SIZE):
                part = view[start:start + BATCH_PFNS * PAGE_SIZE]
                some = pfns[done:done + len(part) // PAGE_SIZE]
                done += len(some)
                found = uint64(len(some))
                count = page_kernel.compare(self.read(some), uint64_of(range(len(some))), part, found)
                differing += [some[index] for index in found[:count]]
        return differing


def _part_tasks(parts: "Sequence[PagePart]", pages: Pages, pfns: memoryview) -> "List[Callable[[], object]]":
    """The tasks that write the parts of a batch's data to its mapped pages."""
    at = buffers.array("at", pages.at, "uint64")
    tasks = []
    first = 0
    for part in parts:
        tasks.append(task(_write_part, part, pages.memory, at[first:first + part.pages], pfns))
        first += part.pages
    return tasks


def _write_part(part: "PagePart", memory: "Buffer", at: memoryview, pfns: memoryview) -> None:
    """Write a part to the pages ``at``; ``pfns`` are those of its batch."""
    try:
        adjacent = pfn_kernel.ascending(at) and at[len(at) - 1] - at[0] == len(at) - 1
        whole = memoryview(memory).cast("B")[at[0] * PAGE_SIZE:(at[len(at) - 1] + 1) * PAGE_SIZE if adjacent else 0]
        if len(whole) == len(at) * PAGE_SIZE:
            part.read_into(whole)
        else:
            page_kernel.scatter(memory, at, part.read())
    except StreamError as error:
        raise _named(error, pfns)


def _named(error: StreamError, pfns: memoryview) -> StreamError:
    from xstream.stream.framed import name_pages  # loads what only compressed images need
    return name_pages(error, pfns)
