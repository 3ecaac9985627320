"""Compressed images that need not be read front to back: zstd frames with a table of their sizes at the end.

The table is never trusted: it counts only if each frame that it names says the same of itself, or can't be decompressed
at all. Otherwise the file is read front to back, like one without a table.
"""
import os
from bisect import bisect_right
from collections import OrderedDict

from xstream.errors import CorruptStream, StreamError
from xstream.kernels import pages as page_kernel
from xstream.stream.source import Source, StreamSource
from xstream.stream.zstd import (
    ENTRY,
    FOOTER,
    FOOTER_MAGIC,
    FORMAT,
    PAGES_LEAST,
    SKIPPABLE,
    SKIPPABLE_MAGIC,
    Library,
    TooManyBlocks,
    frame_end,
    skippable_size,
    thread_pool,
)
from xstream.stream.zstd import library as zstd_library
from xstream.tuples import NamedTuple
from xstream.wire.libxc import PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor
    from typing import Dict, List, Optional

    from xstream.wire.frames import Buffer

#: Largest contents of a frame that is decompressed as a whole: what this package writes, and eight times that.
_MOST_CONTENTS = 32 << 20
#: Threads that decompress ahead of the reader at most.
_MOST_THREADS = 8
#: Bytes of contents that random access keeps.
_KEPT = 64 << 20
#: Frames that contradict the table and are decompressed, to find out which of the two is wrong, at most.
_MOST_TRIED = 16


class Frame(NamedTuple):
    """A frame: where it begins and ends in the file, and the size of its contents. ``broken``: by the table alone,
    because the frame itself is damaged."""

    begin: int
    end: int
    size: int
    broken: bool = False


def frames(data: memoryview) -> "Optional[List[Frame]]":
    """The frames of a file by its table; None if it has none, or one that an intact frame contradicts."""
    if len(data) < FOOTER.size + SKIPPABLE.size:
        return None
    count, descriptor, magic = FOOTER.unpack_from(data, len(data) - FOOTER.size)
    size = count * ENTRY.size + FOOTER.size
    begin = len(data) - size - SKIPPABLE.size
    # Descriptor bits: checksums in the table, which this package doesn't write; reserved.
    if magic != FOOTER_MAGIC or descriptor or begin < 0 or SKIPPABLE.unpack_from(data, begin) != (
            SKIPPABLE_MAGIC, size):
        return None
    found, at = [], 0
    table = data[begin + SKIPPABLE.size:len(data) - FOOTER.size]
    for compressed, contents in ENTRY.iter_unpack(table):
        if contents > _MOST_CONTENTS or compressed > begin - at:
            return None
        found.append(Frame(at, at + compressed, contents))
        at += compressed
    return _checked(data, found) if at == begin else None


def _checked(data: memoryview, table: "List[Frame]") -> "Optional[List[Frame]]":
    """A table's frames, with damaged ones marked as broken; None if the table isn't true.

    A frame is broken if nothing can decompress it. An error is then certain where it is read, and the table only says
    where to go on after that.
    """
    found, tried = [], 0
    for frame in table:
        try:
            end, size = frame_end(data, frame.begin)
        except TooManyBlocks:
            return None
        except ValueError:
            if not frame.size or skippable_size(data, frame.begin) is not None \
                    or not any(data[frame.begin:frame.begin + 4]):  # padding
                return None
            found.append(frame._replace(broken=True))
            continue
        if (end, size) != (frame.end, frame.size):
            tried += 1
            if size is None or size > _MOST_CONTENTS or tried > _MOST_TRIED or _is_intact(data[frame.begin:end], size):
                return None
            frame = frame._replace(broken=True)
        found.append(frame)
    return found


def _is_intact(frame: memoryview, size: int) -> bool:
    """Whether a frame can be decompressed, to contents of this size."""
    library = zstd_library()
    try:
        return len(library.decompress(frame, size)) == size
    except library.error:
        return False


class FrameStore:
    """Random access to the contents of frames, which are checked as they are decompressed. Those used last are kept, at
    most ``_KEPT`` bytes of them. For several threads."""

    def __init__(self, data: memoryview, found: "List[Frame]") -> None:
        from threading import Lock
        self._file = data
        self._frames = found
        self._library = zstd_library()
        self._lock = Lock()
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._size = 0
        #: Where the contents of each frame begin, and where the last ones end.
        self.begins = [0]
        for frame in found:
            self.begins.append(self.begins[-1] + frame.size)

    def contents(self, number: int) -> bytes:
        """The contents of a frame. Raises CorruptStream."""
        with self._lock:
            found = self._kept.get(number)
            if found is not None:
                self._kept.move_to_end(number)
                return found
        found = decompress(self._library, self._file, self._frames, number)
        with self._lock:
            if number not in self._kept:
                self._kept[number] = found
                self._size += len(found)
            while self._size > _KEPT and len(self._kept) > 1:
                self._size -= len(self._kept.popitem(last=False)[1])
        return found

    def read(self, at: int, size: int) -> memoryview:
        """The bytes from ``at`` on; fewer at the end. Raises CorruptStream."""
        number = bisect_right(self.begins, at) - 1
        pieces = []
        while size and number < len(self._frames):
            start = at - self.begins[number]
            piece = memoryview(self.contents(number))[start:start + size]
            pieces.append(piece)
            at, size, number = at + len(piece), size - len(piece), number + 1
        return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))


class SeekableSource(StreamSource):
    """The decompressed bytes of a file's frames. Frames whose contents are skipped aren't decompressed, except with
    ``strict``; once page data is read, more of it is decompressed ahead, by one thread for each CPU.

    ``offset`` counts decompressed bytes. Reading raises CorruptStream for a frame that can't be decompressed; its layer
    is the compression, its offset that of the frame in the file. If ``forgiving`` is set, a bad frame of nothing but
    page data reads as zeros instead: ``damage`` is the first such error, ``damaged`` counts them.
    """

    def __init__(self, source: Source, data: memoryview, found: "List[Frame]", *, strict: bool = False) -> None:
        super().__init__()
        self._lower = source
        self._file = data
        self._frames = found
        self._strict = strict
        self._library = zstd_library()
        self._next = 0
        self._contents = memoryview(b"")  # of the frame before the next one: what hasn't been taken yet
        self._ahead: Dict[int, Future[bytes]] = {}
        self._threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
        self._pool: Optional[ThreadPoolExecutor] = None
        self.forgiving = False
        self.damage: Optional[CorruptStream] = None
        self.damaged = 0

    def close(self) -> None:
        for ahead in self._ahead.values():
            ahead.cancel()
        self._ahead.clear()
        if self._pool is not None:
            self._pool.shutdown()
        self._file = self._contents = memoryview(b"")
        self._lower.close()

    def _receive(self, into: memoryview) -> int:
        if not self._fill():
            return 0
        got = min(len(into), len(self._contents))
        into[:got] = self._contents[:got]
        self._contents = self._contents[got:]
        return got

    def read_pages(self, memory: "Buffer", pfns: memoryview) -> int:
        try:
            return self._read_pages(memory, pfns)
        except CorruptStream as error:
            raise name_pages(error, pfns)

    def _read_pages(self, memory: "Buffer", pfns: memoryview) -> int:
        done = 0
        while done < len(pfns):
            if self._end == self._start and self._fill() and len(self._contents) >= PAGE_SIZE:
                count = min(len(self._contents) // PAGE_SIZE, len(pfns) - done)
                page_kernel.scatter(memory, pfns[done:done + count], self._contents[:count * PAGE_SIZE])
                self._contents = self._contents[count * PAGE_SIZE:]
                self._base += count * PAGE_SIZE
                done += count
                continue
            got = super().read_pages(memory, pfns[done:done + 1])
            if got < PAGE_SIZE:
                return done * PAGE_SIZE + got
            done += 1
        return done * PAGE_SIZE

    def discard(self, size: int) -> int:
        if self._strict:
            return super().discard(size)
        done = min(size, self._end - self._start)
        self._start += done
        while done < size and (len(self._contents) or self._next < len(self._frames)):
            left = size - done
            if not len(self._contents) and self._frames[self._next].size <= left:
                step = self._frames[self._next].size
                if self._frames[self._next].broken and not self.forgiving:
                    raise _damaged("damaged frame", self._frames, self._next)
                self._ahead.pop(self._next, None)
                self._next += 1
            else:
                self._fill()
                step = min(left, len(self._contents))
                self._contents = self._contents[step:]
            self._base += step
            done += step
        return done

    def _fill(self) -> bool:
        """Decompress the next frame if nothing is left of the last one; False at the end of the file."""
        while not len(self._contents):
            if self._next == len(self._frames):
                return False
            number, self._next = self._next, self._next + 1
            ahead = self._ahead.pop(number, None)
            if self._frames[number].size >= PAGES_LEAST:
                self._decompress_ahead()
            try:
                self._contents = memoryview(self._decompress(number) if ahead is None else ahead.result())
            except CorruptStream as error:
                if not self.forgiving or not self._is_pages(self._frames[number].size):
                    raise
                self.damage = self.damage or error
                self.damaged += 1
                self._contents = memoryview(bytes(self._frames[number].size))
        return True

    def _is_pages(self, size: int) -> bool:
        """Whether the next ``size`` bytes, of a new frame, are all page data that is being read."""
        pending = self.pending
        return pending is not None and self.offset - pending.left + size <= pending.offset + len(pending)

    def _decompress_ahead(self) -> None:
        """Have the next frames of page data decompressed while the reader is busy with this one."""
        if self._threads < 2:
            return
        if self._pool is None:
            self._pool = thread_pool(self._threads)
        number = self._next
        while number < len(self._frames) and len(self._ahead) < self._threads:
            if number not in self._ahead and self._frames[number].size >= PAGES_LEAST:
                self._ahead[number] = self._pool.submit(self._decompress, number)
            number += 1

    def _decompress(self, number: int) -> bytes:
        return decompress(self._library, self._file, self._frames, number)

    def store(self) -> FrameStore:
        """Random access to the same frames; it outlives this source."""
        return FrameStore(self._file, self._frames)


def decompress(library: Library, data: memoryview, found: "List[Frame]", number: int) -> bytes:
    """The contents of one of the frames of a file. Raises CorruptStream."""
    frame = found[number]
    try:
        contents = library.decompress(data[frame.begin:frame.end], frame.size)
    except library.error as error:
        raise _damaged("bad compressed data: {}".format(error), found, number)
    if len(contents) != frame.size:
        raise _damaged("compressed contents of another size", found, number)
    return contents


def _damaged(message: str, found: "List[Frame]", number: int) -> CorruptStream:
    return CorruptStream(message, layer=FORMAT, offset=found[number].begin, field="frame {}".format(number))


def name_pages(error: StreamError, pfns: memoryview) -> StreamError:
    """Add to the error of a damaged frame which pages (uint64 PFNs) of a batch could not be read."""
    if error.layer == FORMAT and error.got is None and len(pfns):
        error.got = "damaged pages of a batch of PFNs {:#x} to {:#x}".format(min(pfns), max(pfns))
    return error
