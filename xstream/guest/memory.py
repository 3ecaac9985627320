"""Guest memory: pages by PFN, which of them are populated, and their types."""
import mmap
import os

from xstream.contexts import suppress
from xstream.errors import LimitExceeded, StreamError
from xstream.guest.copying import copy_extents, copy_pages
from xstream.guest.parallel import ONE_THREAD, Applied, Workers, jobs_for, run_shares, shares, task
from xstream.kernels import buffers
from xstream.kernels import pages as page_kernel
from xstream.kernels import pfns as pfn_kernel
from xstream.kernels.buffers import reserve, uint64
from xstream.limits import Limits
from xstream.stream.reader import PageRun
from xstream.stream.source import PendingPages, pieces
from xstream.wire.libxc import PAGE_SIZE, PageData, data_pfns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, List, Optional, Union

    import numpy

    from xstream.kernels.buffers import BufferLike
    from xstream.wire.frames import Buffer
    from xstream.wire.pending import PagePart

#: Address space reserved at first: a process has room for some dozens of these, not for many of ``Limits.guest_pfns``.
_RESERVED_PAGES = 1 << 28
#: Pages zeroed, or moved, at once.
_AT_ONCE = 1024
_MADV_HUGEPAGE = 14  # not in Python's mmap module before 3.8
_HUGE_PAGES = 512  # pages in a huge page of 2 MiB


class GuestMemory:
    """The pages of a guest, PFN 0 first, with a state byte for each PFN.

    - ``pages``: the initial number; writing to higher PFNs adds more, up to ``limit``;
    - by default, anonymous memory: address space is reserved for up to 1 TiB (a larger guest is moved once it turns out
      to be larger), memory is used only where written;
    - ``file``: instead, a descriptor of a regular, empty file, open for reading and writing, which stays the caller's.
      It grows by ftruncate, pages are written by pwrite, and pages that aren't written, or are zeros, remain holes;
    - ``array``: instead, a writable buffer of whole pages (bytearray, mmap, ndarray), used in place; it can't grow.

    A PFN becomes populated when a page or type XALLOC arrives for it, and stays so, as in Xen's restorer. A PFN that
    was never mentioned has type XTAB (0xf).
    """

    def __init__(self, pages: int = 0, *, limit: int = Limits().guest_pfns, file: "Optional[int]" = None,
                 array: "Optional[Buffer]" = None) -> None:
        self._fd = file
        self._sparse = True  # whether a page of zeros needn't be written to the file
        self._length = 0
        self._mapping: Optional[mmap.mmap] = None
        if array is not None:
            self._whole = memoryview(array).cast("B")
            if self._whole.readonly or len(self._whole) % PAGE_SIZE:
                raise ValueError("array must be writable and hold whole pages")
            limit = pages = len(self._whole) // PAGE_SIZE
        elif file is None:
            limit = max(limit, pages)
            self._reserve(max(min(limit, _RESERVED_PAGES), pages))
        else:
            limit = max(limit, pages)
            self._whole = memoryview(b"")
        self.limit = limit
        self._state = memoryview(reserve(limit))
        self.grow(pages)

    def __len__(self) -> int:
        """Number of pages: the highest PFN mentioned plus one, or more if ``pages`` or ``grow`` said so."""
        return self._length

    def grow(self, pages: int) -> None:
        """Make room for PFNs under ``pages``; never shrinks. Raises LimitExceeded."""
        if pages <= self._length:
            return
        if pages > self.limit:
            raise LimitExceeded("guest memory over its limit", field="pages", expected="at most {}".format(self.limit),
                                got=pages)
        if self._fd is not None:
            os.ftruncate(self._fd, pages * PAGE_SIZE)
        elif pages * PAGE_SIZE > len(self._whole):
            self._move(min(max(pages, 2 * len(self._whole) // PAGE_SIZE), self.limit))
        self._length = pages

    def _reserve(self, pages: int) -> None:
        mapping = reserve(pages * PAGE_SIZE)
        self._whole = memoryview(mapping)
        self._mapping = mapping if hasattr(mapping, "madvise") else None  # not before Python 3.8

    def _move(self, pages: int) -> None:
        """Reserve more address space, and move the populated pages there. Earlier views keep the old contents."""
        old = self._whole
        self._reserve(pages)
        start = 0
        while True:
            pfns = self.populated_pfns(start, _AT_ONCE)
            if not len(pfns):
                return
            data = bytearray(len(pfns) * PAGE_SIZE)
            page_kernel.gather(old, pfns, data)
            page_kernel.scatter(self._whole, pfns, data)
            start = pfns[-1] + 1

    @property
    def buffer(self) -> memoryview:
        """The memory as bytes; a writable view. With ``file``, a mapping of the present length."""
        size = self._length * PAGE_SIZE
        if self._fd is not None and len(self._whole) < size:
            self._whole = memoryview(mmap.mmap(self._fd, size))
        return self._whole[:size]

    @property
    def state(self) -> memoryview:
        """One byte per PFN, as written by ``xstream.kernels.pfns.mark``; a view."""
        return self._state[:self._length]

    @property
    def pages(self) -> "numpy.ndarray":
        """The memory, ndarray (n, 4096) uint8; a view, which stays valid but keeps its length when the memory
        grows, and past 1 TiB its contents."""
        import numpy
        return numpy.frombuffer(self.buffer, numpy.uint8).reshape(-1, PAGE_SIZE)

    @property
    def types(self) -> "numpy.ndarray":
        """Last page type of each PFN, ndarray (n,) uint8; a copy."""
        import numpy
        types = numpy.empty(self._length, numpy.uint8)
        pfn_kernel.types_of(self.state, types)
        return types

    @property
    def populated(self) -> "numpy.ndarray":
        """Which PFNs are populated, ndarray (n,) bool; a copy."""
        import numpy
        flags = numpy.empty(self._length, numpy.uint8)
        pfn_kernel.populated(self.state, flags)
        return flags.view(bool)

    @property
    def populated_count(self) -> int:
        """Number of populated PFNs."""
        return pfn_kernel.count_populated(self.state)

    def populated_pfns(self, start: int, most: int) -> memoryview:
        """The first populated PFNs from ``start`` on, at most ``most``, ascending, uint64; a copy."""
        found = uint64(min(most, self._length))
        return found[:pfn_kernel.populated_pfns(self.state, start, found)]

    def read(self, pfns: "BufferLike") -> bytearray:
        """The pages of ``pfns`` (uint64), concatenated; a copy. Pages that never arrived are zeros."""
        out = bytearray(buffers.array("pfns", pfns, "uint64").nbytes // 8 * PAGE_SIZE)
        if self._fd is None:
            page_kernel.gather(self._whole, pfns, out)
        else:
            # A mapping's pages would count as this process's memory.
            page_kernel.pread_pages(self._fd, pfns, out)
        return out

    def forget(self, pfns: "Buffer") -> None:
        """Reset ``pfns`` (uint64) to their initial state: not populated, type XTAB, pages of zeros."""
        numbers = memoryview(pfns).cast("B").cast("Q")
        for start in range(0, len(numbers), _AT_ONCE):
            some = numbers[start:start + _AT_ONCE]
            sent = uint64(len(some))
            sent = sent[:pfn_kernel.forget(some, self.state, sent)]
            self._sparse = False
            self._store(sent, bytes(len(sent) * PAGE_SIZE))

    def mark(self, words: "Buffer") -> Applied:
        """Record the types of PFN words and what they populate. Grows to the highest PFN. Raises LimitExceeded."""
        highest = pfn_kernel.highest_pfn(words)
        self.grow(highest + 1)
        return Applied(*pfn_kernel.mark(words, self.state))

    def apply(self, record: PageData, workers: Workers = ONE_THREAD) -> Applied:
        """Apply a batch: record its types and write its pages. The last entry of a PFN wins.

        ``workers`` share the copying if the pages are in memory and no PFN occurs twice. With more than one worker,
        pages of a compressed image may be written later: call ``workers.wait()``, which raises what is wrong with them,
        before anything else uses the memory. Raises LimitExceeded, and TruncatedStream if the source ends within
        PendingPages.
        """
        self._wait_before_move(record.words, workers)
        applied = self.mark(record.words)
        self._sparse = not applied.resent
        pfns = data_pfns(record.words)
        self._expect(pfns)
        data = record.data
        if isinstance(data, PendingPages) and workers.jobs > 1:
            if self._write_later(pfns, data, applied, workers):
                return applied
            held = data.held()
            data = data if held is None else held
        if applied.resent:
            workers.wait()
        if isinstance(data, PendingPages):
            self._store(pfns, data)
        else:
            view = memoryview(data).cast("B")
            workers.run([task(self._store, pfns[first:end], view[first * PAGE_SIZE:end * PAGE_SIZE])
                         for first, end in shares(len(pfns), jobs_for(pfns, applied, workers))])
        return applied

    def _wait_before_move(self, words: "Buffer", workers: Workers) -> None:
        if self._fd is None and (pfn_kernel.highest_pfn(words) + 1) * PAGE_SIZE > len(self._whole):
            workers.wait()

    def _write_later(self, pfns: memoryview, data: PendingPages, applied: Applied, workers: Workers) -> bool:
        """Have tasks write the pages of a batch, if its data has parts and no PFN occurs twice; returns whether they
        do. Not to a file whose PFNs have come before: then zero pages must be written too, and a later batch may reset
        that."""
        ascending = self._fd is None and pfn_kernel.ascending(pfns)
        parts = data.parts() if len(pfns) and (ascending or not applied.resent) else None
        if parts is None:
            return False
        first_pfn, last_pfn = (pfns[0], pfns[len(pfns) - 1]) if ascending else (min(pfns), max(pfns))
        adjacent = ascending and last_pfn - first_pfn == len(pfns) - 1
        tasks: List[Callable[[], object]] = []
        first = 0
        for part in parts:
            tasks.append(task(self._store_part, part, pfns, first, adjacent))
            first += part.pages
        workers.begin(tasks, (first_pfn, last_pfn))
        return True

    def _store_part(self, part: "PagePart", batch: memoryview, first: int, adjacent: bool) -> None:
        """Write a part whose PFNs are those of its batch from number ``first`` on; ``adjacent``: consecutive ones."""
        pfns = batch[first:first + part.pages]
        try:
            if adjacent:
                begin = pfns[0] * PAGE_SIZE
                part.read_into(self._whole[begin:begin + len(pfns) * PAGE_SIZE])
            else:
                self._store(pfns, part.read())
        except StreamError as error:
            from xstream.stream.framed import name_pages  # loads what only compressed images need
            raise name_pages(error, batch)

    def apply_run(self, run: PageRun, workers: Workers = ONE_THREAD) -> Applied:
        """Apply many small batches at once, in order."""
        self._wait_before_move(run.words, workers)
        applied = self.mark(run.words)
        self._sparse = not applied.resent
        if applied.resent:
            workers.wait()
        pfns = data_pfns(run.words)
        self._expect(pfns)
        workers.run([task(self._store_extents, pfns[first:end], run.data, extents)
                     for first, end, extents in run_shares(run.extents, jobs_for(pfns, applied, workers))])
        return applied

    def _store_extents(self, pfns: memoryview, data: memoryview, extents: memoryview) -> None:
        if self._fd is None:
            copy_extents(self._whole, pfns, data, extents)
            return
        first = 0
        for at in range(0, len(extents), 2):
            offset, pages = extents[at], extents[at + 1]
            page_kernel.pwrite_pages(self._fd, pfns[first:first + pages], data[offset:offset + pages * PAGE_SIZE],
                                     self._sparse)
            first += pages

    def _expect(self, pfns: memoryview) -> None:
        """Ask for huge pages where a batch is about to fill memory densely: this halves the time to fill new memory.

        Nowhere else, because a huge page takes 2 MiB even for one small page, and a stream must not cost more memory
        than it has pages.
        """
        count = len(pfns)
        if self._mapping is None or count < _HUGE_PAGES or pfns[count - 1] - pfns[0] != count - 1:
            return
        with suppress(OSError):  # this kernel has no huge pages
            self._mapping.madvise(_MADV_HUGEPAGE, pfns[0] * PAGE_SIZE, count * PAGE_SIZE)

    def compare(self, record: PageData) -> memoryview:
        """The PFNs of a batch whose page differs from this memory, uint64; nothing is written. Pages that never arrived
        count as zeros."""
        pfns = data_pfns(record.words)
        self.grow(pfn_kernel.highest_pfn(record.words) + 1)
        differing = uint64(len(pfns))
        found = done = 0
        for piece in pieces(record.data):
            chunk = pfns[done:done + len(piece) // PAGE_SIZE]
            found += page_kernel.compare(self.buffer, chunk, piece, differing[found:])
            done += len(chunk)
        return differing[:found]

    def _store(self, pfns: memoryview, data: "Union[Buffer, PendingPages]") -> None:
        if self._fd is None:
            if isinstance(data, PendingPages):
                data.read_into(self._whole, pfns)
            else:
                copy_pages(self._whole, pfns, memoryview(data).cast("B"))
            return
        done = 0
        for piece in pieces(data):
            pages = len(piece) // PAGE_SIZE
            page_kernel.pwrite_pages(self._fd, pfns[done:done + pages], piece, self._sparse)
            done += pages
