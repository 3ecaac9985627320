"""A source for files of which every read costs a request: those of object stores, of HTTP and SFTP servers."""
import os

from xstream.stream.source import ObjectSource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class SeekableFile(Protocol):
        """A binary file object."""

        def read(self, size: int) -> bytes: ...

        def seek(self, offset: int, whence: int = 0) -> object: ...

        def tell(self) -> int: ...

        def close(self) -> None: ...

#: Bytes of the largest read.
_MOST = 4 << 20


class RangeSource(ObjectSource):
    """A file object that can seek, has ``read(size)`` or ``readinto(buffer)``, and doesn't cache. ``close()`` closes
    it.

    Page data that isn't wanted is seeked over. After a seek little is read at once; each read that follows without
    another seek is twice as large, so that a source that is read from front to back needs few requests.
    """

    #: Bytes of the first read after a seek: the header and PFN words of one of Xen's batches (1024 pages) are 8.2 KiB.
    FIRST_READ = 16 << 10
    #: From this many bytes on, skipping is worth another request. Fewer are read and dropped.
    LEAST_SKIPPED = 256 << 10

    def __init__(self, file: "SeekableFile") -> None:
        super().__init__(file)
        self._seekable = file
        self._buffer = memoryview(bytearray(_MOST))
        self._read_size = self.FIRST_READ
        file.seek(0, os.SEEK_END)
        self._size = file.tell()
        file.seek(0)

    def close(self) -> None:
        self._seekable.close()

    def discard(self, size: int) -> int:
        held = min(size, self._end - self._start)
        if size - held < self.LEAST_SKIPPED:
            return super().discard(size)
        self._start += held
        here = self._base + self._start
        there = max(here, min(here + size - held, self._size))
        self._seekable.seek(there)
        self._base += there - here
        self._read_size = self.FIRST_READ
        return held + there - here

    def read_into(self, into: memoryview) -> int:
        done = 0
        while done < len(into):
            if self._start == self._end:
                self._base += self._end
                self._start = self._end = 0
                self._end = self._receive(self._buffer[:max(self._read_size, min(len(into) - done, _MOST))])
                if not self._end:
                    break
            count = min(len(into) - done, self._end - self._start)
            into[done:done + count] = self._buffer[self._start:self._start + count]
            self._start += count
            done += count
        return done

    def _read_end(self, size: int) -> int:
        return min(len(self._buffer), max(self._start + size, self._end + self._read_size))

    def _receive(self, into: memoryview) -> int:
        self._read_size = min(2 * self._read_size, _MOST)
        return super()._receive(into)
