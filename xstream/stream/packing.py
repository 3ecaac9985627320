"""Writing compressed images, cut into frames along the structure of the stream.

Page data is in frames apart from everything else, so that a reader that needs no page decompresses none. Only a small
image that ``zstd`` would make smaller is compressed as a whole: frames can't refer to each other, and what a small
guest repeats is far apart in its stream.
"""
import mmap
from collections import deque

from xstream.kernels import pages as page_kernel
from xstream.stream.sink import Sink
from xstream.stream.threads import thread_pool
from xstream.stream.zstd import (
    DEFAULT_LEVEL,
    ENTRY,
    FOOTER,
    FOOTER_MAGIC,
    MOST_CONTENTS,
    PAGES_LEAST,
    PAGES_SIZE,
    SKIPPABLE,
    SKIPPABLE_MAGIC,
    library,
)
from xstream.wire.pending import PendingPages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor
    from typing import Deque, List, Optional, Sequence, Tuple, Union

    from xstream.wire.frames import Buffer

#: Bytes other than page data in one frame at most, beside the last piece written. A guest's video memory in QEMU's
#: state, the largest such piece, is compressed in one.
_REST_SIZE = 8 << 20
#: Size of the largest image that may be compressed as a whole: decompressing it takes less time than starting does.
SMALL_IMAGE = 48 << 20
#: Frames that wait for their turn, per thread.
_WAITING = 2


class ZstdSink(Sink):
    """Compresses into another sink. ``offset`` counts the bytes before compression. :meth:`finish` ends the image.

    ``threads`` compress at the same time; at most three frames for each are in memory, and at first the beginning of
    the image, up to SMALL_IMAGE. ``copies``: frames of page data from a compressed source are written as they are.
    Raises UnsupportedStream if no library is installed.
    """

    def __init__(self, sink: Sink, level: int = DEFAULT_LEVEL, threads: int = 1, *, copies: bool = False) -> None:
        self._library = library()
        self._sink = sink
        self._level = level
        self._copies = copies
        self._pool: Optional[ThreadPoolExecutor] = thread_pool(threads) if threads > 1 else None
        self._most = threads * _WAITING
        self._waiting: Deque[Tuple[Union[bytes, Future[bytes]], int]] = deque()
        self._rest = bytearray()  # what isn't page data, or too little of it, since the last frame
        self._image: Optional[List[memoryview]] = []  # the contents of all frames, while the image is small
        self._table: List[bytes] = []
        self.offset = 0

    def write(self, pieces: "Sequence[Buffer]") -> None:
        for piece in pieces:
            view = memoryview(piece).cast("B")
            self._rest += view
            self.offset += len(view)
        if len(self._rest) >= _REST_SIZE:
            self._end_rest()

    def pass_on(self, data: PendingPages) -> None:
        if len(data) >= PAGES_LEAST and self._copies:
            frames = data.frames()
            if frames is not None:
                self._end_rest()
                self._end_small()
                for frame, size in frames:
                    self.offset += size
                    self._put(bytes(frame), size)
                return
        held = data.held()
        if held is not None:
            self.write_data([], held)
            return
        for piece in data.owned_pieces(PAGES_SIZE):
            self._pages(piece)

    def write_pages(self, head: "Sequence[Buffer]", memory: "Buffer", pfns: "Buffer") -> None:
        self.write(head)
        for start in range(0, len(pfns), PAGES_SIZE // page_kernel.PAGE_SIZE):
            some = memoryview(pfns)[start:start + PAGES_SIZE // page_kernel.PAGE_SIZE]
            pages = memoryview(bytearray(len(some) * page_kernel.PAGE_SIZE))
            page_kernel.gather(memory, some, pages)
            self._pages(pages)

    def write_data(self, head: "Sequence[Buffer]", data: "Buffer") -> None:
        self.write(head)
        view = memoryview(data).cast("B")
        for start in range(0, len(view), PAGES_SIZE):
            piece = view[start:start + PAGES_SIZE]
            self._pages(piece if _stays(piece) else memoryview(bytes(piece)))

    def finish(self) -> None:
        """Write what is left, and the table. Raises OSError."""
        self._end_rest()
        if self._image is not None:
            self._end_small_image(self._image)
        while self._waiting:
            self._write_first()
        table = b"".join(self._table)
        self._sink.write([SKIPPABLE.pack(SKIPPABLE_MAGIC, len(table) + FOOTER.size), table,
                          FOOTER.pack(len(self._table), 0, FOOTER_MAGIC)])

    def close(self) -> None:
        """End the threads, without writing anything more."""
        for waiting, _ in self._waiting:
            if not isinstance(waiting, bytes):
                waiting.cancel()
        self._waiting.clear()
        if self._pool is not None:
            self._pool.shutdown()

    def _pages(self, data: memoryview) -> None:
        """Take page data, which nobody changes afterwards."""
        if len(data) < PAGES_LEAST:
            self.write([data])
            return
        self._end_rest()
        self.offset += len(data)
        self._end_frame(data)

    def _end_rest(self) -> None:
        if self._rest:
            rest, self._rest = memoryview(self._rest), bytearray()
            for start in range(0, len(rest), MOST_CONTENTS):
                self._end_frame(rest[start:start + MOST_CONTENTS])

    def _end_frame(self, data: memoryview) -> None:
        """Take the contents of a frame, which nobody changes afterwards."""
        if self._image is None:
            self._compress(data)
            return
        self._image.append(data)
        if self.offset > SMALL_IMAGE:
            self._end_small()

    def _end_small(self) -> None:
        """Cut the image into frames from its beginning on: it isn't small, or has frames already."""
        begin, self._image = self._image, None
        for data in begin or ():
            self._compress(data)

    def _end_small_image(self, pieces: "List[memoryview]") -> None:
        """Write all of a small image: a frame for each piece, or as a whole if that is smaller and frames make the
        image larger than ``zstd`` does."""
        contents = memoryview(b"".join(pieces))
        frames = self._frames(pieces, False)
        size = sum(map(len, frames)) + len(frames) * ENTRY.size
        # Within one percent, frames are worth more than the space. zstd's versions differ by half a percent.
        if size > 0.99 * self._library.usual_size(contents, self._level):
            whole = [contents[start:start + MOST_CONTENTS] for start in range(0, len(contents), MOST_CONTENTS)]
            compressed_whole = self._frames(whole, True)
            if sum(map(len, compressed_whole)) < 0.99 * size:
                pieces, frames = whole, compressed_whole
        for frame, piece in zip(frames, pieces):
            self._put(frame, len(piece))

    def _frames(self, pieces: "List[memoryview]", whole: bool) -> "List[bytes]":
        each = map if self._pool is None else self._pool.map
        return list(each(lambda piece: self._library.compress(piece, self._level, whole), pieces))

    def _compress(self, data: memoryview) -> None:
        """Compress one frame, now or later, and write it later."""
        values = data, self._level, False
        self._put(self._library.compress(*values) if self._pool is None
                  else self._pool.submit(self._library.compress, *values), len(data))

    def _put(self, frame: "Union[bytes, Future[bytes]]", size: int) -> None:
        """Write a frame after those that are being compressed."""
        while len(self._waiting) >= self._most:
            self._write_first()
        self._waiting.append((frame, size))

    def _write_first(self) -> None:
        first, size = self._waiting.popleft()
        frame = first if isinstance(first, bytes) else first.result()
        self._sink.write([frame])
        self._table.append(ENTRY.pack(len(frame), size))


def _stays(data: memoryview) -> bool:
    """Whether nobody in this process changes these bytes: they are immutable, or a file mapped to be read."""
    return data.readonly and isinstance(data.obj, (bytes, mmap.mmap))
