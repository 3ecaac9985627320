"""Where bytes go: a path, a descriptor, a socket, or an object with write()."""
import errno
import fcntl
import io
import os
import stat
import struct

from xstream.contexts import contextmanager, suppress
from xstream.kernels import pages as page_kernel
from xstream.kernels import transfer
from xstream.stream.output import replacing, written_in_place
from xstream.wire.pending import PendingPages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, Optional, Sequence

    from xstream.kernels.buffers import Numbers
    from xstream.stream.types import OpenSinkLike, SinkLike, SupportsWrite
    from xstream.wire.frames import Buffer

_ZSTD = "zstd"
_MUCH = 1 << 20  # bytes from which starting writeback early is worth a system call
_DRAIN_INTERVAL = 1  # milliseconds
_ZEROS = memoryview(bytes(1 << 20))


class Sink:
    """Takes bytes in order. ``offset`` is the number of bytes taken so far."""

    offset = 0
    #: Whether ``write_batches`` works.
    takes_batches = False

    def write(self, pieces: "Sequence[Buffer]") -> None:
        """Write all of the pieces, in order. No reference to them is kept. Raises OSError."""
        raise NotImplementedError

    def pass_on(self, data: PendingPages) -> None:
        """Write the PendingPages of a source: inside the kernel if possible, else piece by piece. Raises OSError."""
        for piece in data.pieces():
            self.write([piece])

    def write_pages(self, head: "Sequence[Buffer]", memory: "Buffer", pfns: "Buffer") -> None:
        """Write ``head``, then the pages ``pfns`` (uint64) of ``memory`` (bytes, starting with PFN 0), without copying
        them where possible. Raises OSError."""
        raise NotImplementedError

    def write_batches(self, record_type: int, words: "Buffer", ends: "Numbers", memory: "Buffer") -> None:
        """Write batches as records; see ``write_batches`` in kernels/pages.pyi. Raises OSError."""
        raise NotImplementedError

    def write_data(self, head: "Sequence[Buffer]", data: "Buffer") -> None:
        """Write ``head``, then page data that is in one buffer. Raises OSError."""
        self.write([*head, data])

    def write_zeros(self, size: int) -> None:
        """Write ``size`` zero bytes; a sparse file gets a hole. Raises OSError."""
        for start in range(0, size, len(_ZEROS)):
            self.write([_ZEROS[:size - start]])

    def drain(self) -> None:
        """Return when no memory passed to ``write_pages`` is still referenced. Raises OSError if that can't happen,
        because a pipe's reader is gone."""


class DescriptorSink(Sink):
    """A descriptor, written with writev; partial writes, EINTR and EAGAIN are handled. It is not closed.

    ``name`` is the path that an OSError names. ``sparse``: it is a regular file's, at its end: blocks of zeros become
    holes.
    """

    takes_batches = True

    def __init__(self, fd: int, name: "Optional[str]" = None, *, sparse: bool = False) -> None:
        self._fd = fd
        self._name = name
        self._sparse = sparse
        # Whether heads of batches and their pages go in separate calls.
        self._apart = page_kernel.HEADS_APART and _is_pipe(fd)

    def write(self, pieces: "Sequence[Buffer]") -> None:
        try:
            self.offset += page_kernel.writev(self._fd, pieces, self._sparse)
        except OSError as error:
            raise self._named(error)

    def pass_on(self, data: PendingPages) -> None:
        if self._sparse:
            super().pass_on(data)
        else:
            self.offset += data.move_to(self._fd)

    def write_pages(self, head: "Sequence[Buffer]", memory: "Buffer", pfns: "Buffer") -> None:
        try:
            self.offset += page_kernel.write_pages(self._fd, b"".join(head), memory, pfns, self._apart, self._sparse)
        except OSError as error:
            raise self._named(error)

    def write_batches(self, record_type: int, words: "Buffer", ends: "Numbers", memory: "Buffer") -> None:
        try:
            self.offset += page_kernel.write_batches(self._fd, record_type, words, ends, memory, self._apart,
                                                     self._sparse)
        except OSError as error:
            raise self._named(error)

    def write_data(self, head: "Sequence[Buffer]", data: "Buffer") -> None:
        if self._apart:
            self.write(head)
            self.write([data])
        else:
            self.write([*head, data])

    def write_zeros(self, size: int) -> None:
        if not self._sparse:
            super().write_zeros(size)
            return
        try:
            os.ftruncate(self._fd, os.lseek(self._fd, size, os.SEEK_CUR))
        except OSError as error:
            raise self._named(error)
        self.offset += size

    def _named(self, error: OSError) -> OSError:
        if error.filename is None and self._name is not None:
            error.filename = self._name
        return error


def _is_pipe(fd: int) -> bool:
    with suppress(OSError):  # a bad descriptor is reported when it is written to
        return stat.S_ISFIFO(os.fstat(fd).st_mode)
    return False


def _is_file_at_end(fd: int) -> bool:
    """Whether a descriptor is a regular file's and the next byte is written to the file's end, but not by O_APPEND."""
    with suppress(OSError):
        status = os.fstat(fd)
        return (stat.S_ISREG(status.st_mode) and os.lseek(fd, 0, os.SEEK_CUR) >= status.st_size
                and not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND)
    return False


class SyncedSink(DescriptorSink):
    """A file that is synced when it is complete: writeback of what is moved into it starts at once."""

    def pass_on(self, data: PendingPages) -> None:
        super().pass_on(data)
        if len(data) >= _MUCH:
            transfer.begin_writing(self._fd, len(data))


class SplicingSink(DescriptorSink):
    """A pipe that pages are spliced into by reference (vmsplice): they must not change until ``drain`` returns, and the
    reader must copy them out of the pipe."""

    takes_batches = False

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        transfer.widen_pipe(fd)

    def write_pages(self, head: "Sequence[Buffer]", memory: "Buffer", pfns: "Buffer") -> None:
        from xstream.kernels import vmsplice  # other sinks need no such modules
        self.write(head)
        self.offset += vmsplice.splice_pages(self._fd, memory, pfns)

    def drain(self) -> None:
        import select  # other sinks need no such module
        poller = select.poll()
        poller.register(self._fd, 0)
        while self._unread():
            # poll() doesn't report when a pipe becomes empty, only when its reader has closed it.
            if poller.poll(_DRAIN_INTERVAL) and self._unread():
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    def _unread(self) -> int:
        import termios
        count: int = struct.unpack("i", fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4)))[0]
        return count


class ObjectSink(Sink):
    """An object with ``write(bytes-like)`` that returns the number of bytes taken. It is not closed or flushed.

    A non-blocking object that takes nothing, by returning None (raw files, socket.SocketIO) or by raising
    BlockingIOError (buffered files), is waited for with poll(); without a descriptor to wait for, OSError is raised.
    So it is for a return value that is not between 1 and the number of bytes given.
    """

    def __init__(self, file: "SupportsWrite") -> None:
        self._file = file

    def write(self, pieces: "Sequence[Buffer]") -> None:
        for piece in pieces:
            view = memoryview(piece).cast("B")
            refused = False
            while len(view):
                taken = self._take(view)
                if taken:
                    self.offset += taken
                    view = view[taken:]
                    refused = False
                    continue
                if refused and not isinstance(self._file, io.RawIOBase):
                    raise OSError(errno.EIO, "write() took nothing although its descriptor is writable: it must return "
                                  "the number of bytes it took")
                refused = True
                self._wait()

    def write_pages(self, head: "Sequence[Buffer]", memory: "Buffer", pfns: "Buffer") -> None:
        self.write(head)
        pages = bytearray(len(pfns) * page_kernel.PAGE_SIZE)
        page_kernel.gather(memory, pfns, pages)
        self.write([pages])

    def _take(self, view: memoryview) -> int:
        """Offer bytes once; returns how many were taken, 0 if the object would have blocked."""
        try:
            taken = self._file.write(view)
        except BlockingIOError as error:
            return getattr(error, "characters_written", 0)
        if taken is None:
            return 0
        if not isinstance(taken, int) or not 0 < taken <= len(view):
            raise OSError(errno.EIO, "write() returned {!r} for {} bytes".format(taken, len(view)))
        return taken

    def _wait(self) -> None:
        """Wait until the object's descriptor is writable."""
        try:
            fd = self._file.fileno()  # type: ignore[attr-defined]
        except (AttributeError, OSError, ValueError):
            raise OSError(errno.EIO, "write() took nothing and there is no descriptor to wait for: it must return "
                          "the number of bytes it took") from None
        import select  # most objects need no such module
        poller = select.poll()
        poller.register(fd, select.POLLOUT)
        poller.poll()


def open_sink(sink: "OpenSinkLike", *, splice: bool = False, sparse: bool = True, name: "Optional[str]" = None) -> Sink:
    """The Sink for a descriptor, a socket, an object with ``write``, or a Sink itself; paths need
    :func:`opened_sink`, which describes ``splice`` and ``sparse``. ``name`` is what an OSError names a descriptor.
    Raises TypeError for anything else."""
    if isinstance(sink, Sink):
        return sink
    if isinstance(sink, int):
        pipe = splice and stat.S_ISFIFO(os.fstat(sink).st_mode)
        return SplicingSink(sink) if pipe else DescriptorSink(sink, name, sparse=sparse and _is_file_at_end(sink))
    if hasattr(sink, "sendmsg") and hasattr(sink, "fileno"):
        return DescriptorSink(sink.fileno())
    if hasattr(sink, "write"):
        return ObjectSink(sink)
    raise TypeError("not a path, descriptor, socket or object with write(): {!r}".format(type(sink).__name__))


@contextmanager
def opened_sink(sink: "SinkLike", *, splice: bool = False, sparse: bool = True) -> "Iterator[Sink]":
    """The Sink for whatever a caller has.

    - str or os.PathLike: a file of that name, mode 0600, which appears, or replaces what was there, when the block
      succeeds (:func:`~xstream.stream.output.replacing`); pipes and devices are opened and written in place;
    - int: a descriptor; a socket: its descriptor; any other object with ``write``: through that. They stay open;
    - a Sink: itself.

    With ``splice``, pages are spliced into a pipe by reference (SplicingSink). With ``sparse``, a regular file, at a
    path or written at its end by descriptor, gets holes instead of blocks of zeros; its bytes are the same. Raises
    OSError and TypeError.
    """
    if not isinstance(sink, (str, os.PathLike)):
        yield open_sink(sink, splice=splice, sparse=sparse)
        return
    path = os.fspath(sink)
    if not written_in_place(path):
        with replacing(path) as fd:
            yield SyncedSink(fd, path, sparse=sparse)
        return
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        transfer.widen_pipe(fd)
        yield open_sink(fd, splice=splice, name=path)
    finally:
        os.close(fd)


def compression_of(sink: object, compress: "Optional[str]") -> "Optional[str]":
    """``compress``, or if that is None what the name of a sink's path says: zstd for ``.zst``."""
    if compress is None and isinstance(sink, (str, os.PathLike)) and os.fspath(sink).endswith(".zst"):
        return _ZSTD
    return compress


@contextmanager
def compressed(sink: Sink, compress: "Optional[str]", threads: int = 1) -> "Iterator[Sink]":
    """A sink that compresses into ``sink``, or without ``compress`` that sink itself. Page data that is compressed
    already is copied, unless ``compress`` names a level. The image is ended when the block succeeds. Raises what
    ZstdSink and level_of raise."""
    if compress is None:
        yield sink
        return
    from xstream.stream.packing import ZstdSink
    from xstream.stream.zstd import level_of
    into = ZstdSink(sink, level_of(compress), threads, copies=compress == _ZSTD)
    try:
        yield into
        into.finish()
    finally:
        into.close()


def check_not_same_file(source: object, sink: object) -> None:
    """Raise shutil.SameFileError if both are the same regular file or block device, by whatever path or descriptor."""
    ours, theirs = _stat(source), _stat(sink)
    if ours is not None and theirs is not None and os.path.samestat(ours, theirs) and (
            stat.S_ISREG(ours.st_mode) or stat.S_ISBLK(ours.st_mode)):
        from shutil import SameFileError
        raise SameFileError("input and output are the same file{}".format(
            ": {}".format(os.fspath(source)) if isinstance(source, (str, os.PathLike)) else ""))


def _stat(file: object) -> "Optional[os.stat_result]":
    """The status of a path, a descriptor or an object with a descriptor; None for anything else."""
    if hasattr(file, "fileno"):
        try:
            file = file.fileno()
        except (OSError, ValueError):
            return None
    if not isinstance(file, (str, int, os.PathLike)):
        return None
    try:
        return os.stat(file)
    except OSError:
        return None
