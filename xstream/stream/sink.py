"""Where bytes go: a descriptor, or an object with write()."""
import contextlib
import errno
import fcntl
import os
import select
import stat
import struct
import termios
from typing import Any, Sequence

from xstream.kernels import pages as page_kernel
from xstream.kernels import transfer, vmsplice
from xstream.wire.frames import Buffer

_F_SETPIPE_SZ = 1031  # not in Python's fcntl module before 3.10
_PIPE_SIZE = 1 << 20  # what anybody may ask for, unless the host says otherwise
_MUCH = 1 << 20  # bytes for which it is worth a call to have them written
_DRAIN_INTERVAL = 1  # milliseconds


class Sink:
    """Takes bytes in order. ``offset`` is how many it has taken."""

    offset = 0

    def write(self, pieces: Sequence[Buffer]) -> None:
        """Send the pieces, in order, all of them. They aren't kept. Raises OSError."""
        raise NotImplementedError

    def pass_on(self, data: Any) -> None:
        """Send PendingPages of another stream, in pieces or without their coming into memory."""
        for piece in data.pieces():
            self.write([piece])

    def write_pages(self, head: Sequence[Buffer], memory: Buffer, pfns: Buffer) -> None:
        """Send ``head``, then the pages of ``pfns`` (uint64) of ``memory`` (bytes, PFN 0 first), uncopied."""
        raise NotImplementedError

    def drain(self) -> None:
        """Return once nothing of ``memory`` is looked at any more. Raises OSError where that won't happen."""


class DescriptorSink(Sink):
    """A descriptor: everything goes by writev, partial writes and interruptions are seen to. It stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, pieces: Sequence[Buffer]) -> None:
        self.offset += page_kernel.writev(self._fd, pieces)

    def pass_on(self, data: Any) -> None:
        self.offset += data.move_to(self._fd)

    def write_pages(self, head: Sequence[Buffer], memory: Buffer, pfns: Buffer) -> None:
        self.offset += page_kernel.write_pages(self._fd, b"".join(head), memory, pfns)


class SyncedSink(DescriptorSink):
    """A file that will be synced in the end: what is moved into it begins its way to the disk at once."""

    def pass_on(self, data: Any) -> None:
        super().pass_on(data)
        if len(data) >= _MUCH:
            transfer.begin_writing(self._fd, len(data))


class SplicingSink(DescriptorSink):
    """A pipe into which pages go by reference: they must stay as they are until ``drain``, and the reader must copy
    them out of the pipe."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        # A smaller pipe takes more calls, no more.
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, _F_SETPIPE_SZ, _PIPE_SIZE)

    def write_pages(self, head: Sequence[Buffer], memory: Buffer, pfns: Buffer) -> None:
        self.write(head)
        self.offset += vmsplice.splice_pages(self._fd, memory, pfns)

    def drain(self) -> None:
        poller = select.poll()
        poller.register(self._fd, 0)
        while self._unread():
            # Nothing tells when a pipe runs empty; only that its reader has gone, maybe with all of it.
            if poller.poll(_DRAIN_INTERVAL) and self._unread():
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    def _unread(self) -> int:
        count: int = struct.unpack("i", fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4)))[0]
        return count


class ObjectSink(Sink):
    """An object with ``write(bytes-like)``."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, pieces: Sequence[Buffer]) -> None:
        for piece in pieces:
            view = memoryview(piece).cast("B")
            while len(view):
                # A raw file says how many bytes it took; a buffered one takes all of them.
                taken = self._file.write(view)
                taken = len(view) if taken is None else taken
                self.offset += taken
                view = view[taken:]

    def write_pages(self, head: Sequence[Buffer], memory: Buffer, pfns: Buffer) -> None:
        self.write(head)
        pages = bytearray(len(pfns) * page_kernel.PAGE_SIZE)
        page_kernel.gather(memory, pfns, pages)
        self.write([pages])


def open_sink(sink: Any, *, splice: bool = False) -> Sink:
    """The sink for a descriptor (int), a socket, an object with ``write``, or a Sink itself. Paths aren't taken: see
    :func:`xstream.stream.output.replacing`. With ``splice`` a pipe's is a SplicingSink. Raises TypeError."""
    if isinstance(sink, Sink):
        return sink
    if isinstance(sink, int):
        pipe = splice and stat.S_ISFIFO(os.fstat(sink).st_mode)
        return SplicingSink(sink) if pipe else DescriptorSink(sink)
    if hasattr(sink, "sendmsg") and hasattr(sink, "fileno"):
        return DescriptorSink(sink.fileno())
    if hasattr(sink, "write"):
        return ObjectSink(sink)
    raise TypeError("not a descriptor, socket or object with write(): {!r}".format(type(sink).__name__))
