"""Sources of zstd frames that are decompressed as a whole, each when it is needed, and by several threads."""
from functools import partial

from xstream.errors import CorruptStream, StreamError
from xstream.kernels import pages as page_kernel
from xstream.kernels import zframes
from xstream.stream.source import Source, StreamSource
from xstream.stream.threads import thread_pool
from xstream.stream.zstd import FORMAT, PAGES_LEAST, Library
from xstream.stream.zstd import library as zstd_library
from xstream.tuples import NamedTuple
from xstream.wire.libxc import PAGE_SIZE
from xstream.wire.pending import PagePart

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor
    from typing import Dict, List, Optional, Tuple

    from xstream.wire.frames import Buffer

#: Contents that are decompressed ahead of the reader at most, in bytes.
_MOST_AHEAD = 64 << 20
#: Frames that are looked at ahead of the reader at most. In this package's images every second one holds pages.
_FRAMES_AHEAD = 64


class Frame(NamedTuple):
    """A frame: where it begins and ends in the file, and the size of its contents. ``broken``: the frame is
    damaged; these are what the table says."""

    begin: int
    end: int
    size: int
    broken: bool = False


class FramedSource(StreamSource):
    """The decompressed bytes of a series of frames. Frames whose contents are skipped aren't decompressed, except with
    ``strict``; once page data is read, more of it is decompressed ahead, by ``jobs`` threads.

    Subclasses say which frames there are and what is in them. ``offset`` counts decompressed bytes. Reading raises
    CorruptStream for a frame that can't be decompressed; its layer is the compression, its offset that of the frame in
    the file. If ``forgiving`` is set, a bad frame of nothing but page data reads as zeros instead: ``damage`` is the
    first such error, ``damaged`` counts them.
    """

    def __init__(self, source: Source, *, strict: bool = False, jobs: int = 1) -> None:
        super().__init__()
        self._lower = source
        self._strict = strict
        self._library = zstd_library()
        self._next = 0  # number of the next frame
        self._contents = memoryview(b"")  # of the frame before the next one: what hasn't been taken yet
        self._ahead: Dict[int, Future[bytes]] = {}
        self._jobs = jobs
        self._pool: Optional[ThreadPoolExecutor] = None
        self.forgiving = False
        self.damage: Optional[CorruptStream] = None
        self.damaged = 0

    def _frame(self, number: int) -> "Optional[Frame]":
        """A frame that hasn't been taken yet; None after the last one."""
        raise NotImplementedError

    def _compressed(self, number: int) -> "Buffer":
        """The bytes of a frame."""
        raise NotImplementedError

    def _is_ready(self, number: int) -> bool:
        """Whether a frame, or the end, is known without waiting for the input."""
        return True

    def _fill_rest(self) -> bool:
        """Set ``_contents`` to what follows the last frame; False if nothing does."""
        return False

    def _take(self) -> int:
        """Go on to the next frame; returns the number of the one that is taken."""
        self._next += 1
        return self._next - 1

    def close(self) -> None:
        for ahead in self._ahead.values():
            ahead.cancel()
        self._ahead.clear()
        if self._pool is not None:
            self._pool.shutdown()
        self._contents = memoryview(b"")
        self._lower.close()

    def advance(self, size: int) -> None:
        if size <= self._end - self._start:
            self._start += size
        else:
            self.discard(size)

    def _receive(self, into: memoryview) -> int:
        if not self._fill():
            return 0
        got = min(len(into), len(self._contents))
        into[:got] = self._contents[:got]
        self._contents = self._contents[got:]
        return got

    def read_pages(self, memory: "Buffer", pfns: memoryview) -> int:
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

    def page_parts(self, size: int) -> "Optional[List[PagePart]]":
        whole = self._whole_frames(size)
        if whole is None or self.forgiving or any(number in self._ahead for number, _ in whole):
            return None
        parts = []
        for number, frame in whole:
            what = self._library, self._compressed(number), frame, number
            parts.append(PagePart(frame.size // PAGE_SIZE, partial(decompress, *what), partial(decompress_into, *what)))
            self._take()
        self._base += size
        return parts

    def hold(self, size: int) -> "Optional[memoryview]":
        if self._end != self._start or not self._fill() or len(self._contents) != size:
            return None
        held, self._contents = self._contents, memoryview(b"")
        self._base += size
        return held

    def move_to(self, fd: int, size: int) -> int:
        held = self.hold(size)
        if held is None:
            return super().move_to(fd, size)
        page_kernel.writev(fd, [held])
        return size

    def compressed_frames(self, size: int) -> "Optional[List[Tuple[Buffer, int]]]":
        # With strict, every frame is decompressed. A frame that is copied must be one that this package could write.
        whole = None if self._strict else self._whole_frames(size)
        if whole is None:
            return None
        frames: List[Tuple[Buffer, int]] = []
        for number, frame in whole:
            compressed = self._compressed(number)
            _, _, _, checksum, dictionary = zframes.header(compressed, 0)
            if not checksum or dictionary:
                return None
            frames.append((compressed, frame.size))
        for _ in whole:
            self._pass_over()
        self._base += size
        return frames

    def _whole_frames(self, size: int) -> "Optional[List[Tuple[int, Frame]]]":
        """The frames that the next ``size`` bytes are, each of whole pages, with their numbers; or None."""
        if self._end != self._start or len(self._contents):
            return None
        whole: List[Tuple[int, Frame]] = []
        left = size
        while left:
            number = self._next + len(whole)
            frame = self._frame(number)
            if frame is None or frame.broken or not frame.size or frame.size > left or frame.size % PAGE_SIZE:
                return None
            whole.append((number, frame))
            left -= frame.size
        return whole

    def _pass_over(self) -> None:
        """Go on to the next frame; nobody needs the contents of the one that is taken."""
        self._ahead.pop(self._take(), None)

    def discard(self, size: int) -> int:
        if self._strict:
            return super().discard(size)
        done = min(size, self._end - self._start)
        self._start += done
        while done < size:
            frame = None if len(self._contents) else self._frame(self._next)
            if frame is not None and frame.size <= size - done:
                step = frame.size
                if frame.broken and not self.forgiving:
                    raise _damaged("damaged frame", frame, self._next)
                self._pass_over()
            elif self._fill():
                step = min(size - done, len(self._contents))
                self._contents = self._contents[step:]
            else:
                break
            self._base += step
            done += step
        return done

    def _fill(self) -> bool:
        """Decompress the next frame if nothing is left of the last one; False at the end of the input."""
        while not len(self._contents):
            frame = self._frame(self._next)
            if frame is None:
                return self._fill_rest()
            compressed = self._compressed(self._next)
            number = self._take()
            ahead = self._ahead.pop(number, None)
            if frame.size >= PAGES_LEAST:
                self._decompress_ahead()
            try:
                self._contents = memoryview(self._decompress(compressed, frame, number) if ahead is None
                                            else ahead.result())
            except CorruptStream as error:
                if not self.forgiving or not self._is_pages(frame.size):
                    raise
                self.damage = self.damage or error
                self.damaged += 1
                self._contents = memoryview(bytes(frame.size))
        return True

    def _is_pages(self, size: int) -> bool:
        """Whether the next ``size`` bytes, of a new frame, are all page data that is being read."""
        pending = self.pending
        return pending is not None and self.offset - pending.left + size <= pending.offset + len(pending)

    def _decompress_ahead(self) -> None:
        """Have the next frames of page data decompressed while the reader is busy with this one."""
        if self._jobs < 2:
            return
        if self._pool is None:
            self._pool = thread_pool(self._jobs)
        number, size = self._next, 0
        while len(self._ahead) < self._jobs and number < self._next + _FRAMES_AHEAD and self._is_ready(number):
            frame = self._frame(number)
            size += 0 if frame is None else frame.size
            if frame is None or size > _MOST_AHEAD:
                return
            if number not in self._ahead and frame.size >= PAGES_LEAST:
                self._ahead[number] = self._pool.submit(self._decompress, self._compressed(number), frame, number)
            number += 1

    def _decompress(self, compressed: "Buffer", frame: Frame, number: int) -> bytes:
        return decompress(self._library, compressed, frame, number)


def decompress(library: Library, compressed: "Buffer", frame: Frame, number: int) -> bytes:
    """The contents of a frame. Raises CorruptStream."""
    try:
        contents = library.decompress(compressed, frame.size)
    except library.error as error:
        raise _undecompressed(error, frame, number)
    if len(contents) != frame.size:
        raise _damaged("compressed contents of another size", frame, number)
    return contents


def decompress_into(library: Library, compressed: "Buffer", frame: Frame, number: int, into: memoryview) -> None:
    """Write the contents of a frame to ``into``, which has their size. Raises CorruptStream."""
    try:
        got = library.decompress_into(compressed, into)
    except library.error as error:
        raise _undecompressed(error, frame, number)
    if got != frame.size:
        raise _damaged("compressed contents of another size", frame, number)


def _undecompressed(error: BaseException, frame: Frame, number: int) -> CorruptStream:
    # The library's own words for the same fault differ before the last colon.
    return _damaged("bad compressed data: {}".format(str(error).rpartition(": ")[2]), frame, number)


def _damaged(message: str, frame: Frame, number: int) -> CorruptStream:
    return CorruptStream(message, layer=FORMAT, offset=frame.begin, field="frame {}".format(number))


def name_pages(error: StreamError, pfns: memoryview) -> StreamError:
    """Add to the error of a damaged frame which pages (uint64 PFNs) of a batch could not be read."""
    if error.layer == FORMAT and error.got is None and len(pfns):
        error.got = "damaged pages of a batch of PFNs {:#x} to {:#x}".format(min(pfns), max(pfns))
    return error
