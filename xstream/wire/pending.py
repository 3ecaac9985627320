"""Page data and other long bodies that a source hasn't read yet."""

from xstream.errors import TruncatedStream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, Optional, Protocol, Tuple, Union

    from xstream.wire.frames import Buffer

    class _PageSource(Protocol):
        """What reads the data: a :class:`xstream.stream.source.StreamSource`."""

        pending: "Optional[PendingPages]"

        @property
        def offset(self) -> int: ...

        def read_pages(self, memory: Buffer, pfns: memoryview) -> int: ...

        def read_into(self, into: memoryview) -> int: ...

        def move_to(self, fd: int, size: int) -> int: ...

        def discard(self, size: int) -> int: ...

#: Message of the error for data that the input doesn't hold to its end.
CUT = "the input ends inside page data, {} bytes short"
#: Largest piece of page data that is copied through a buffer: small enough for a CPU's cache.
PIECE = 512 << 10


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

    def read(self) -> bytes:
        """All bytes, in one copy."""
        return b"".join(bytes(piece) for piece in self.pieces())

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
    return data.read() if isinstance(data, PendingPages) else data
