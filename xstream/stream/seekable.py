"""Compressed images that need not be read front to back: zstd frames with a table of their sizes at the end.

The table is never trusted: it counts only if each frame that it names says the same of itself, or can't be decompressed
at all. Otherwise the file is read front to back, like one without a table.
"""
import threading
from array import array
from bisect import bisect_right
from collections import OrderedDict

from xstream.errors import CorruptStream
from xstream.kernels import zframes
from xstream.stream.framed import Frame, FramedSource, decompress
from xstream.stream.source import Source
from xstream.stream.threads import usable_cpus
from xstream.stream.zstd import (
    ENTRY,
    FOOTER,
    FOOTER_MAGIC,
    MOST_CONTENTS,
    PAGES_LEAST,
    SKIPPABLE,
    SKIPPABLE_MAGIC,
    skippable_size,
)
from xstream.stream.zstd import library as zstd_library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional, Tuple

    from xstream.wire.frames import Buffer

#: Contents of small frames in bytes, and frames, that are looked at in one step for a reader that needs no page.
_SPARSE_SIZE = 512 << 10
_SPARSE_FRAMES = 256
#: Bytes of contents that random access keeps.
_KEPT = 64 << 20
#: Frames that contradict the table and are decompressed, to find out which of the two is wrong, at most.
_MOST_TRIED = 16
#: Frames that are worth a thread of their own when they are compared with the table.
_MANY_FRAMES = 256


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
    table = data[begin + SKIPPABLE.size:len(data) - FOOTER.size]
    found, at = [], 0
    for compressed, contents in ENTRY.iter_unpack(table):
        if contents > MOST_CONTENTS or compressed > begin - at:
            return None
        found.append(Frame(at, at + compressed, contents, False))
        at += compressed
    return found if at == begin and _check(data, table, found) else None


def _check(data: memoryview, table: memoryview, found: "List[Frame]") -> bool:
    """Mark the damaged ones of a table's frames as broken; False if the table isn't true.

    A frame is broken if nothing can decompress it. An error is then certain where it is read, and the table only says
    where to go on after that.
    """
    tried = 0
    number = _agreeing(data, table, found)
    while number < len(found):
        frame = found[number]
        status, end, size = zframes.follow(data, frame.begin)
        if status == zframes.TOO_MANY:
            return False
        if status != zframes.GOOD:
            if not frame.size or skippable_size(data, frame.begin) is not None \
                    or not any(data[frame.begin:frame.begin + 4]):  # padding
                return False
        else:
            tried += 1
            if size is None or size > MOST_CONTENTS or tried > _MOST_TRIED or _is_intact(data[frame.begin:end], size):
                return False
        found[number] = frame._replace(broken=True)
        number = zframes.agreeing(data, table, number + 1, frame.end)
    return True


def _agreeing(data: memoryview, table: memoryview, found: "List[Frame]") -> int:
    """The number of the first frame that the table is wrong about, or else of frames; by two threads if there are many.
    """
    middle = len(found) // 2
    if middle < _MANY_FRAMES or usable_cpus() < 2:
        return zframes.agreeing(data, table, 0, 0)
    second: List[int] = []
    thread = threading.Thread(target=lambda: second.append(
        zframes.agreeing(data, table, middle, found[middle].begin)))
    thread.start()
    first = zframes.agreeing(data, table[:middle * ENTRY.size], 0, 0)
    thread.join()
    return first if first < middle else second[0]


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
        self._file = data
        self._frames = found
        self._library = zstd_library()
        self._lock = threading.Lock()
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
        frame = self._frames[number]
        found = decompress(self._library, self._file[frame.begin:frame.end], frame, number)
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


class SeekableSource(FramedSource):
    """The decompressed bytes of a file's frames, which ``found`` lists; see FramedSource."""

    def __init__(self, source: Source, data: memoryview, found: "List[Frame]", *, strict: bool = False,
                 jobs: int = 1) -> None:
        super().__init__(source, strict=strict, jobs=jobs)
        self._file = data
        self._frames = found
        self._known: Dict[int, bytes] = {}  # contents of small frames after this one

    def sparse(self) -> "Optional[Tuple[memoryview, memoryview]]":
        if self._strict:
            return None
        self._settle()
        pieces: List[Buffer] = [self._buffer[self._start:self._end], self._contents]
        holes = array("Q")
        size = sum(map(len, pieces))
        before, self._known = self._known, {}
        for number in range(self._next, min(self._next + _SPARSE_FRAMES, len(self._frames))):
            frame = self._frames[number]
            if frame.broken or size > _SPARSE_SIZE:
                break
            if frame.size >= PAGES_LEAST:
                holes.extend((size, frame.size))
                continue
            contents = before.get(number)
            if contents is None:
                try:
                    contents = self._decompress(self._compressed(number), frame, number)
                except CorruptStream:  # which is raised again once the frame is read
                    break
            self._known[number] = contents
            pieces.append(contents)
            size += len(contents)
        return memoryview(b"".join(pieces)), memoryview(holes)

    def _decompress(self, compressed: "Buffer", frame: Frame, number: int) -> bytes:
        known = self._known.pop(number, None)
        return super()._decompress(compressed, frame, number) if known is None else known

    def close(self) -> None:
        super().close()
        self._file = memoryview(b"")

    def _frame(self, number: int) -> "Optional[Frame]":
        return self._frames[number] if number < len(self._frames) else None

    def _compressed(self, number: int) -> "Buffer":
        frame = self._frames[number]
        return self._file[frame.begin:frame.end]

    def store(self) -> FrameStore:
        """Random access to the same frames; it outlives this source."""
        return FrameStore(self._file, self._frames)
