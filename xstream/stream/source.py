"""Sources of bytes: a buffer or mapped file, a descriptor, an object with read(), or pieces that the caller feeds.

They share one interface, :class:`Source`, through which all readers get their input.
"""
import errno
import mmap
import os
import stat

from xstream.errors import TruncatedStream
from xstream.kernels import pages as page_kernel
from xstream.kernels import transfer as transfer_kernel
from xstream.wire.libxc import PAGE_SIZE
from xstream.wire.pending import CUT, PIECE
from xstream.wire.pending import PendingPages as PendingPages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, List, Optional, Tuple, Union

    from xstream.kernels.buffers import BufferLike
    from xstream.stream.types import SourceLike, SupportsRead
    from xstream.wire.frames import Buffer
    from xstream.wire.pending import Data, PagePart

#: Bytes read at once for headers and small records: the capacity of a pipe. Page data beyond it is read straight into
#: its destination.
_READ_AHEAD = 64 << 10
#: Bytes of a PAGE_DATA record before its pages, for a batch of the size that Xen sends: 1024 PFNs.
_BATCH_HEAD = 16 + 8 * 1024


class NeedMoreData(Exception):
    """A fed source has not been fed enough for the next record. Nothing has been consumed."""


class Source:
    """Bytes in order. ``offset`` is the absolute position of the next byte.

    If ``stable``, the views that methods return stay valid; if not, until the next call of any method but ``peek``.
    """

    offset = 0
    stable = True
    #: Whether only bytes are read that are known to be part of the stream; see :func:`open_source`.
    exact = False

    def peek(self, size: int) -> memoryview:
        """A read-only view of the next ``size`` bytes, not consumed; fewer only at the end of the input."""
        raise NotImplementedError

    def buffered(self) -> memoryview:
        """A view of the bytes that are in memory already, not consumed. After the end of a stream: what was read
        past it."""
        raise NotImplementedError

    def advance(self, size: int) -> None:
        """Consume ``size`` bytes, which ``peek``, ``need`` or ``sparse`` has returned."""
        raise NotImplementedError

    def sparse(self) -> "Optional[Tuple[memoryview, memoryview]]":
        """Some of the bytes that follow, not consumed, without the parts of them that are probably pages; and where
        these parts were: two uint64 each, as ``holes`` of :func:`xstream.kernels.batches.scan_sparse`. ``advance`` past
        them consumes both. None if the source has no such parts."""
        return None

    def is_ready(self) -> bool:
        """Whether something can be read without waiting, or the input ends."""
        return True

    def can_drain(self) -> bool:
        """Whether the input can be read on to its end: not if a peer may be waiting for an answer, or if more may be
        fed."""
        return True

    def page_data(self, at: int, size: int) -> "Union[memoryview, PendingPages]":
        """Consume all up to the end of the ``size`` bytes that begin ``at`` bytes from here, and return those.

        The result is a view if the source has all its bytes in memory; otherwise a PendingPages, which is skipped by
        the next call if the caller hasn't read it. Raises TruncatedStream if the input is known to end before.
        """
        view = self.peek(at + size)
        missing = at + size - len(view)
        if missing:
            raise TruncatedStream(CUT.format(missing), missing=missing, offset=self.offset + len(view))
        self.advance(at + size)
        return view[at:]

    def need(self, size: int) -> memoryview:
        """Like peek, but raises TruncatedStream if the input ends before."""
        view = self.peek(size)
        if len(view) < size:
            raise TruncatedStream("the input ends here, {} bytes short".format(size - len(view)),
                                  missing=size - len(view), offset=self.offset + len(view))
        return view

    def keep(self, view: memoryview) -> memoryview:
        """A view that stays valid: this one if the source is ``stable``, otherwise a copy."""
        return view if self.stable else memoryview(bytes(view))

    def await_record(self, size: int) -> None:
        """For fed sources: raise NeedMoreData if fewer than ``size`` bytes have been fed and more may come."""

    def expect(self, size: int) -> None:
        """Say that the stream has at least ``size`` more bytes, so that an exact source may read that far at once."""

    def at_end(self) -> bool:
        """Whether the input ends here."""
        return not len(self.peek(1))

    def check_end(self) -> None:
        """After the end of a stream: check what only its end can tell, such as a checksum. Raises
        StreamError."""

    def close(self) -> None:
        """Close what the source itself opened."""

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class BufferSource(Source):
    """Bytes in memory, or a mapped file. All results are views; nothing is copied."""

    def __init__(self, data: "BufferLike", base: int = 0) -> None:
        self._data = memoryview(data).cast("B")  # type: ignore[arg-type]  # numpy's arrays are buffers
        self._base = base
        self._position = 0

    @property
    def offset(self) -> int:  # type: ignore[override]
        return self._base + self._position

    def peek(self, size: int) -> memoryview:
        return self._data[self._position:self._position + size]

    def buffered(self) -> memoryview:
        return self._data[self._position:]

    def advance(self, size: int) -> None:
        self._position += size

    def close(self) -> None:
        self._data = memoryview(b"")


def pieces(data: "Data") -> "Iterable[Buffer]":
    """Page data in pieces: those of a PendingPages, or a buffer as a single piece."""
    return data.pieces() if isinstance(data, PendingPages) else (data,)


class StreamSource(Source):
    """Base class of descriptors, objects and fed bytes, with a buffer for headers and small records.

    Subclasses implement ``_receive``, which reads into the buffer.
    """

    stable = False

    def __init__(self, base: int = 0, *, exact: bool = False) -> None:
        self._base = base  # absolute offset of _buffer[0]
        self._buffer = memoryview(bytearray(_READ_AHEAD))
        self._start = self._end = 0
        self.exact = exact
        self._expected = base  # absolute offset up to which an exact source may read
        self.pending: Optional[PendingPages] = None

    @property
    def offset(self) -> int:  # type: ignore[override]
        unread = 0 if self.pending is None else self.pending.left
        return self._base + self._start + unread

    def expect(self, size: int) -> None:
        self._settle()
        self._expected = max(self._expected, self._base + self._start + size)

    def _receive(self, into: memoryview) -> int:
        """Read at least one byte into ``into`` and return the number; 0 only at the end of the input."""
        raise NotImplementedError

    def peek(self, size: int) -> memoryview:
        self._settle()
        while self._end - self._start < size:
            self._make_room(size)
            got = self._receive(self._buffer[self._end:self._read_end(size)])
            if not got:
                break
            self._end += got
        return self._buffer[self._start:min(self._start + size, self._end)]

    def _read_end(self, size: int) -> int:
        """Where in the buffer a read for ``size`` bytes may end."""
        if not self.exact:
            return len(self._buffer)
        known = self._expected - self._base
        # Of a large batch only the head: its pages are read straight to their places.
        most = len(self._buffer) if known <= len(self._buffer) else self._start + _BATCH_HEAD
        return max(self._start + size, min(known, most, len(self._buffer)))

    def buffered(self) -> memoryview:
        self._settle()
        return self._buffer[self._start:self._end]

    def advance(self, size: int) -> None:
        self._start += size

    def page_data(self, at: int, size: int) -> "Union[memoryview, PendingPages]":
        self.advance(at)
        self.pending = PendingPages(self, size)
        return self.pending

    def read_pages(self, memory: "Buffer", pfns: memoryview) -> int:
        """For PendingPages: fill the pages of ``pfns`` in ``memory``; returns the number of bytes read."""
        done = 0
        scratch = memoryview(bytearray(min(PIECE, len(pfns) * PAGE_SIZE)))
        while done < len(pfns):
            piece = scratch[:min(len(scratch), (len(pfns) - done) * PAGE_SIZE)]
            got = self.read_into(piece)
            whole = got // PAGE_SIZE
            page_kernel.scatter(memory, pfns[done:done + whole], piece[:whole * PAGE_SIZE])
            done += whole
            if got < len(piece):
                return (done - whole) * PAGE_SIZE + got
        return done * PAGE_SIZE

    def read_into(self, into: memoryview) -> int:
        """For PendingPages: fill ``into``; returns the number of bytes read, fewer only at the end of the input."""
        done = min(len(into), self._end - self._start)
        into[:done] = self._buffer[self._start:self._start + done]
        self._start += done
        while done < len(into):
            got = self._receive(into[done:])
            if not got:
                break
            done += got
            self._base += got
        return done

    def move_to(self, fd: int, size: int) -> int:
        """For PendingPages: write ``size`` bytes to a descriptor; returns their number; fewer only at the end."""
        done = 0
        scratch = memoryview(bytearray(min(size, PIECE)))
        while done < size:
            piece = scratch[:size - done]
            got = self.read_into(piece)
            page_kernel.writev(fd, [piece[:got]])
            done += got
            if got < len(piece):
                break
        return done

    def discard(self, size: int) -> int:
        """For PendingPages: skip ``size`` bytes; returns their number, fewer only at the end of the input."""
        done = min(size, self._end - self._start)
        self._start += done
        scratch = memoryview(bytearray(min(size - done, 1 << 20)))
        while done < size:
            got = self._receive(scratch[:size - done])
            if not got:
                break
            done += got
            self._base += got
        return done

    def page_parts(self, size: int) -> "Optional[List[PagePart]]":
        """For PendingPages: take ``size`` bytes of page data as parts; None, with nothing taken, if that can't be
        done."""
        return None

    def compressed_frames(self, size: int) -> "Optional[List[Tuple[Buffer, int]]]":
        """For PendingPages: take ``size`` bytes as frames of zstd, each with the size of its contents; None, with
        nothing taken, if that can't be done."""
        return None

    def hold(self, size: int) -> "Optional[memoryview]":
        """For PendingPages: take ``size`` bytes that are in memory in one piece and stay valid; None, with nothing
        taken, if they aren't."""
        return None

    def _settle(self) -> None:
        if self.pending is not None:
            pending, self.pending = self.pending, None
            pending.skip()

    def _make_room(self, size: int) -> None:
        """Make room in the buffer after the bytes held. It grows on demand: an announced size isn't trusted."""
        held = self._end - self._start
        full = self._end == len(self._buffer) or self._start + size > len(self._buffer)
        if full and (held == len(self._buffer) or (self.stable and 2 * held > len(self._buffer))):
            self._move_to(memoryview(bytearray(2 * len(self._buffer))))
        elif full:
            # A stable source never overwrites bytes that a view may show.
            self._move_to(memoryview(bytearray(len(self._buffer))) if self.stable else self._buffer)

    def _move_to(self, buffer: memoryview) -> None:
        held = self._end - self._start
        buffer[:held] = self._buffer[self._start:self._end]  # which may overlap
        self._base += self._start
        self._buffer, self._start, self._end = buffer, 0, held


class DescriptorSource(StreamSource):
    """A descriptor that is read once, front to back: a pipe, a socket, a device. It stays open.

    If it is in non-blocking mode, reading waits with poll().
    """

    def __init__(self, fd: int, base: int = 0, *, exact: bool = False) -> None:
        super().__init__(base, exact=exact)
        self._fd = fd
        # Skipping a pipe's bytes by splicing them to /dev/null copies nothing; Python has splice() since 3.10.
        status = os.fstat(fd)
        self._splices = hasattr(os, "splice") and stat.S_ISFIFO(status.st_mode)
        self._seeks = stat.S_ISREG(status.st_mode)
        self._has_peer = stat.S_ISSOCK(status.st_mode)
        self._holes = self._seeks and 512 * status.st_blocks < status.st_size

    def can_drain(self) -> bool:
        return not self._has_peer

    def is_ready(self) -> bool:
        if self._end > self._start:
            return True
        import select  # most sources need no such module
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        return bool(poller.poll(0))

    def _receive(self, into: memoryview) -> int:
        while True:
            try:
                return int(os.readv(self._fd, [into]))
            except BlockingIOError:
                self._wait()

    def read_pages(self, memory: "Buffer", pfns: memoryview) -> int:
        held = min(self._end - self._start, len(pfns) * PAGE_SIZE)
        whole, part = divmod(held, PAGE_SIZE)
        ready = self._buffer[self._start:self._start + held]
        page_kernel.scatter(memory, pfns[:whole], ready[:whole * PAGE_SIZE])
        if part:
            begin = pfns[whole] * PAGE_SIZE
            memoryview(memory).cast("B")[begin:begin + part] = ready[whole * PAGE_SIZE:]
        self._start += held
        left = len(pfns) * PAGE_SIZE - held
        if not left:
            return held
        # The buffer is empty now. The next batch's head comes with the pages, or what of it is known to be there.
        self._base += self._start
        self._start = self._end = 0
        following = min(max(self._expected - self._base - left, 0), _BATCH_HEAD) if self.exact else _BATCH_HEAD
        got = page_kernel.read_pages(self._fd, memory, pfns, held, self._buffer[:following], self._holes)
        self._end = max(0, got - left)
        self._base += got - self._end
        return held + got - self._end

    def move_to(self, fd: int, size: int) -> int:
        held = min(self._end - self._start, size)
        page_kernel.writev(fd, [self._buffer[self._start:self._start + held]])
        self._start += held
        got = transfer_kernel.transfer(self._fd, fd, size - held)
        self._base += got
        return held + got

    def discard(self, size: int) -> int:
        done = min(size, self._end - self._start)
        if self._seeks and done < size:
            self._start += done
            return done + self._seek_over(size - done)
        if not self._splices or done == size:
            return super().discard(size)
        self._start += done
        with open(os.devnull, "wb", buffering=0) as devnull:
            while done < size:
                try:
                    got = os.splice(self._fd, devnull.fileno(), size - done)  # type: ignore[attr-defined]
                except BlockingIOError:
                    self._wait()
                    continue
                if not got:
                    break
                done += got
                self._base += got
        return done

    def _seek_over(self, size: int) -> int:
        here = os.lseek(self._fd, 0, os.SEEK_CUR)
        there = max(here, min(here + size, os.fstat(self._fd).st_size))
        os.lseek(self._fd, there, os.SEEK_SET)
        self._base += there - here
        return there - here

    def _wait(self) -> None:
        import select  # most sources need no such module
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        poller.poll()


class ObjectSource(StreamSource):
    """Any object with ``readinto(buffer)`` or ``read(size)``, blocking. What these raise isn't caught.

    Raises BlockingIOError if they return None, OSError if they return an impossible size.
    """

    def __init__(self, file: "SupportsRead", base: int = 0, *, exact: bool = False) -> None:
        super().__init__(base, exact=exact)
        self._file = file
        self._readinto = getattr(file, "readinto", None)

    def _receive(self, into: memoryview) -> int:
        if self._readinto is not None:
            return self._checked(self._readinto(into), len(into))
        data = self._file.read(len(into))
        got = self._checked(None if data is None else len(data), len(into))
        into[:got] = data or b""
        return got

    def _checked(self, got: "Optional[int]", most: int) -> int:
        """The number of bytes that the object says it has read, if that is possible."""
        if got is None:
            raise BlockingIOError(errno.EAGAIN, "an object in non-blocking mode; feed its bytes instead")
        if not 0 <= got <= most:
            raise OSError(errno.EIO, "reading {} bytes from the object returned {}".format(most, got))
        return got


class FedSource(StreamSource):
    """Bytes that the caller feeds piece by piece. If ``stable``, views of what was fed stay valid."""

    def __init__(self, base: int = 0, *, stable: bool = True) -> None:
        super().__init__(base)
        self.stable = stable
        self._finished = False

    def feed(self, data: "BufferLike") -> None:
        """Append a copy of these bytes."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]  # numpy's arrays are buffers
        while len(view):
            self._make_room(self._end - self._start + 1)
            fits = min(len(view), len(self._buffer) - self._end)
            self._buffer[self._end:self._end + fits] = view[:fits]
            self._end += fits
            view = view[fits:]

    def room(self) -> memoryview:
        """A writable view into which the caller may receive bytes, to save the copy that ``feed`` makes. Call
        ``filled`` with their number afterwards."""
        self._make_room(self._end - self._start + 1)
        return self._buffer[self._end:]

    def filled(self, size: int) -> None:
        """Append the first ``size`` bytes of the view that ``room`` returned."""
        self._end += size

    def finish(self) -> None:
        """End the input: nothing more will be fed."""
        self._finished = True

    def can_drain(self) -> bool:
        return self._finished

    def peek(self, size: int) -> memoryview:
        self.await_record(size)  # before room is made: that would copy what is held, once for every piece fed
        return self._buffer[self._start:min(self._start + size, self._end)]

    def await_record(self, size: int) -> None:
        if self._end - self._start < size and not self._finished:
            raise NeedMoreData

    def page_data(self, at: int, size: int) -> "Union[memoryview, PendingPages]":
        return Source.page_data(self, at, size)


def open_source(source: "SourceLike", *, exact: bool = False) -> Source:
    """The Source for anything that can be read.

    - str or os.PathLike: the file of that name, mapped if it is a regular file; ``close()`` closes it;
    - int: a descriptor, which stays open; a regular file is mapped from its present position on;
    - an object with the buffer protocol: its bytes, not copied;
    - a socket: its descriptor; any other object with ``readinto`` or ``read``: through that;
    - a Source: itself.

    ``exact``: from a descriptor, socket or object, take no byte past the end of the stream or past a CHECKPOINT, so
    that the caller can read on there. A regular file is then read from its present position, not mapped. Buffers,
    paths and Sources aren't affected; compressed input is read ahead all the same.

    Raises OSError if a file can't be opened, TypeError for anything else. A mapped file must not be truncated while
    it is read: the kernel answers that with SIGBUS.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, (str, os.PathLike)):
        return _open_path(os.fspath(source))
    if isinstance(source, int):
        return DescriptorSource(source, exact=True) if exact else _open_descriptor(source)
    try:
        return BufferSource(source)  # type: ignore[arg-type]  # first: a mapping can be read() too
    except TypeError:
        pass
    if hasattr(source, "recv_into") and hasattr(source, "fileno"):
        return DescriptorSource(source.fileno(), exact=exact)
    if hasattr(source, "readinto") or hasattr(source, "read"):
        return ObjectSource(source, exact=exact)  # type: ignore[arg-type]
    raise TypeError("not a path, descriptor, buffer, socket or object with read(): {!r}".format(type(source).__name__))


class _OwnedDescriptorSource(DescriptorSource):
    def close(self) -> None:
        os.close(self._fd)


def _open_path(path: str) -> Source:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(21, os.strerror(21), path)
        if not stat.S_ISREG(status.st_mode):
            return _OwnedDescriptorSource(os.dup(fd))
        return _map(fd, status.st_size, 0)
    finally:
        os.close(fd)


def _open_descriptor(fd: int) -> Source:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return DescriptorSource(fd)
    return _map(fd, status.st_size, os.lseek(fd, 0, os.SEEK_CUR))


def _map(fd: int, size: int, position: int) -> BufferSource:
    if position >= size:
        return BufferSource(b"")
    return BufferSource(memoryview(MappedFile(fd, size, access=mmap.ACCESS_READ))[position:])


class MappedFile(mmap.mmap):
    """A mapping of a file from its beginning, which also keeps a descriptor of the file open."""

    fd = -1

    def __init__(self, fd: int, size: int, access: int) -> None:
        self.fd = os.dup(fd)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
