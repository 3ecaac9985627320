"""Zstd frames that are read once, front to back: from a pipe, or from a file without a table."""
from xstream.kernels import zframes
from xstream.stream.compressed import BEHIND, DecompressedSource
from xstream.stream.framed import Frame, FramedSource
from xstream.stream.source import Source
from xstream.stream.zstd import FORMAT, MOST_CONTENTS, SKIPPABLE, skippable_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Optional, Tuple

    from xstream.wire.frames import Buffer

#: The longest header of a frame: its magic number, descriptor, window, dictionary and size.
_HEADER = 18
#: Bytes beside its contents that a frame may have.
_OVERHEAD = 1 << 10
#: Contents decompressed at once where they don't come in frames that can be decompressed as a whole.
_PIECE = 256 << 10


def comes_in_frames(source: Source) -> bool:
    """Whether zstd input begins with a frame that can be decompressed as a whole. Consumes nothing."""
    return _content_size(source) is not None


def _content_size(source: Source) -> "Optional[int]":
    """The size of the next frame's contents, if it is to be decompressed as a whole."""
    status, _, size, _, _ = zframes.header(source.peek(_HEADER), 0)
    return size if status == zframes.GOOD and size is not None and size <= MOST_CONTENTS else None


class PipedFrames(FramedSource):
    """The decompressed bytes of a source of zstd frames; see FramedSource. From the first frame on that doesn't state
    the size of its contents, or is large or bad, all is decompressed in order, by a DecompressedSource, and what that
    raises is raised.
    """

    def __init__(self, source: Source, *, strict: bool = False, jobs: int = 1) -> None:
        super().__init__(source, strict=strict, jobs=jobs)
        self._known: Dict[int, Tuple[Frame, bytes]] = {}  # frames that have been read and not taken
        self._read = 0  # number of the next one to read
        self._rest: Optional[DecompressedSource] = None  # what follows the frames

    def check_end(self) -> None:
        # More data than this isn't part of the stream.
        self.peek(BEHIND)

    def _frame(self, number: int) -> "Optional[Frame]":
        while self._rest is None and number >= self._read:
            self._read_frame()
        return self._known[number][0] if number in self._known else None

    def _compressed(self, number: int) -> "Buffer":
        return self._known[number][1]

    def _is_ready(self, number: int) -> bool:
        return number < self._read or self._lower.is_ready()

    def _take(self) -> int:
        number = super()._take()
        del self._known[number]
        return number

    def _fill_rest(self) -> bool:
        assert self._rest is not None
        piece = memoryview(bytearray(_PIECE))
        self._contents = piece[:self._rest.receive(piece)]
        return len(self._contents) > 0

    def _read_frame(self) -> None:
        """Read one frame into memory; or set ``_rest``, if none that can be decompressed as a whole follows."""
        source = self._lower
        skipped = skippable_size(source.peek(SKIPPABLE.size), 0)
        while skipped is not None:
            self._skip(SKIPPABLE.size + skipped)
            skipped = skippable_size(source.peek(SKIPPABLE.size), 0)
        size = _content_size(source)
        length = None if size is None else self._length(size)
        if size is None or length is None:
            self._rest = DecompressedSource(source, FORMAT)
            return
        begin = source.offset
        self._known[self._read] = Frame(begin, begin + length, size), bytes(source.peek(length)[:length])
        source.advance(length)
        self._read += 1

    def _skip(self, size: int) -> None:
        """Skip bytes; fewer at the end of the input."""
        while size:
            got = min(len(self._lower.peek(1)) and len(self._lower.buffered()), size)
            if not got:
                return
            self._lower.advance(got)
            size -= got

    def _length(self, size: int) -> "Optional[int]":
        """The length of the next frame, all of which is in the source's memory then; None if it is bad, or far longer
        than its contents."""
        needed = _HEADER
        while needed <= size + size // 8 + _OVERHEAD:
            available = len(self._lower.peek(needed))
            status, end, _ = zframes.follow(self._lower.buffered(), 0)
            if status == zframes.GOOD:
                return end
            if status != zframes.CUT or available < needed:
                return None
            needed = end
        return None
