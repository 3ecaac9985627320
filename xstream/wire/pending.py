"""Page data and other long bodies that a source hasn't read yet."""
from xstream.errors import TruncatedStream
from xstream.tuples import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterator, List, Optional, Protocol, Tuple, TypeVar, Union

    from xstream.wire.frames import Buffer

    T = TypeVar("T")

    class _PageSource(Protocol):
        """What reads the data: a :class:`xstream.stream.source.StreamSource`."""

        pending: "Optional[PendingPages]"

        @property
        def offset(self) -> int: ...

        def read_pages(self, memory: Buffer, pfns: memoryview) -> int: ...

        def read_into(self, into: memoryview) -> int: ...

        def move_to(self, fd: int, size: int) -> int: ...

        def discard(self, size: int) -> int: ...

        def page_parts(self, size: int) -> "Optional[List[PagePart]]": ...

        def compressed_frames(self, size: int) -> "Optional[List[Tuple[Buffer, int]]]": ...

        def hold(self, size: int) -> Optional[memoryview]: ...

#: Message of the error for data that the input doesn't hold to its end.
CUT = "the input ends inside page data, {} bytes short"
#: Largest piece of page data that is copied through a buffer: small enough for a CPU's cache.
PIECE = 512 << 10


class PagePart(NamedTuple):
    """Part of some page data, which may be read at any time and by any thread: the number of its pages; a function that
    returns them; and one that writes them to a buffer of exactly their size."""

    pages: int
    read: "Callable[[], Buffer]"
    read_into: "Callable[[memoryview], None]"


class PendingPages:
    """Page data that hasn't been read from the source yet. Read it once, by one of the methods, before the next record
    is asked for; otherwise it is skipped then.

    ``len()`` is the number of bytes, ``offset`` the absolute offset of the first.
    """

    def __init__(self, source: "_PageSource", size: int) -> None:
        self._source = source
        #: Bytes that have been neither read nor skipped.
        self.left = size
        self._size = size
        self.offset = source.offset
        #: The record's layer, number and type, for errors.
        self.where: Tuple[Optional[str], Optional[int], Optional[str]] = (None, None, None)

    def __len__(self) -> int:
        return self._size

    def read_into(self, memory: "Buffer", pfns: memoryview) -> None:
        """Read the pages of ``pfns`` (uint64, one for each page) straight into ``memory`` (bytes, PFN 0 first).

        Raises TruncatedStream if the input ends within them; the pages before the end have been written then.
        """
        self._claim()
        got = self._source.read_pages(memory, pfns)
        self.left -= got
        self._check()

    def parts(self) -> "Optional[List[PagePart]]":
        """Take all pages as parts that can be read later and by several threads; None if the source has no such parts.
        In that case nothing has been read."""
        self._claim()
        return self._taken(self._source.page_parts(self._size))

    def held(self) -> "Optional[memoryview]":
        """All bytes without a copy; None if the source doesn't have them in one piece. In that case nothing has been
        read."""
        self._claim()
        return self._taken(self._source.hold(self._size))

    def frames(self) -> "Optional[List[Tuple[Buffer, int]]]":
        """All bytes as frames of zstd, each with the size of its contents; None if the source isn't compressed in
        frames that hold nothing else. In that case nothing has been read."""
        self._claim()
        return self._taken(self._source.compressed_frames(self._size))

    def _taken(self, whole: "Optional[T]") -> "Optional[T]":
        """What the source has handed out of all bytes at once, if it has."""
        if whole is not None:
            self.left = 0
        return whole

    def pieces(self) -> "Iterator[memoryview]":
        """Yield the bytes in order, in pieces of whole pages, 512 KiB at most. A piece is valid until the next one."""
        self._claim()
        buffer = memoryview(bytearray(min(PIECE, self._size)))
        while self.left:
            piece = buffer[:min(len(buffer), self.left)]
            got = self._source.read_into(piece)
            self.left -= got
            if got < len(piece):
                self._check()
            yield piece

    def owned_pieces(self, most: int) -> "Iterator[memoryview]":
        """Yield the bytes in order, in pieces of ``most`` bytes but for the last one. Pieces are the caller's."""
        self._claim()
        while self.left:
            piece = memoryview(bytearray(min(most, self.left)))
            got = self._source.read_into(piece)
            self.left -= got
            if got < len(piece):
                self._check()
            yield piece

    def read(self) -> bytes:
        """All bytes, in one copy."""
        return b"".join(self.owned_pieces(PIECE))  # piece by piece: a claimed size isn't trusted

    def available(self) -> "Tuple[Buffer, Optional[TruncatedStream]]":
        """The bytes up to where the input ends, and the error that says where, if that is before the last of them."""
        held = None
        data = bytearray()
        try:
            held = self.held()
            while held is None and self.left:
                # Piece by piece: a claimed size isn't trusted.
                piece = memoryview(bytearray(min(PIECE, self.left)))
                before = self._source.offset
                try:
                    got = self._source.read_into(piece)
                except TruncatedStream:  # of compressed data, of which some may have been read
                    data += piece[:self._source.offset - before]
                    raise
                data += piece[:got]
                self.left -= got
                if got < len(piece):
                    self._check()
        except TruncatedStream as error:
            return data, error
        return data if held is None else held, None

    def move_to(self, fd: int) -> int:
        """Write all bytes to a descriptor, inside the kernel if it can; returns their number."""
        self._claim()
        self.left -= self._source.move_to(fd, self._size)
        self._check()
        return self._size

    def skip(self) -> None:
        """Skip what hasn't been read. Raises TruncatedStream if the input ends before."""
        left, self.left = self.left, 0
        self.left = left - self._source.discard(left)
        self._check()

    def _claim(self) -> None:
        if self.left != self._size or (self._size and self._source.pending is not self):
            raise ValueError("these pages have been read or skipped already")

    def _check(self) -> None:
        if self.left:
            missing, self.left = self.left, 0
            layer, record, record_type = self.where
            raise TruncatedStream(CUT.format(missing), missing=missing, offset=self._source.offset, layer=layer,
                                  record=record, record_type=record_type)


if TYPE_CHECKING:
    #: The data of a record: in memory, or not read yet.
    Data = Union[Buffer, PendingPages]


def in_memory(data: "Data") -> "Buffer":
    """The data itself, read now if it hasn't been yet. Raises what ``PendingPages.read`` raises."""
    if not isinstance(data, PendingPages):
        return data
    held = data.held()
    return data.read() if held is None else held
