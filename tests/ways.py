"""Every way in which bytes reach a reader."""
import contextlib
import io
import mmap
import os
import socket
import tempfile
import threading
from typing import Any, Callable, Dict, Iterator, List

import xstream
from xstream import GuestMemory, PageData, Reader
from xstream.stream.ranges import RangeSource
from xstream.stream.source import FedSource


class Trickle(io.RawIOBase):
    """An object that returns one byte at a time."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        byte = self._data.read(1)
        into[:len(byte)] = byte
        return len(byte)


class OnlyRead:
    """An object with nothing but read()."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self._data.read(min(size, 1000))


@contextlib.contextmanager
def mapped(data: bytes) -> Iterator[Any]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file.name


@contextlib.contextmanager
def descriptor(data: bytes) -> Iterator[Any]:
    with tempfile.TemporaryFile() as file:
        file.write(b"before" + data)
        file.flush()
        os.lseek(file.fileno(), 6, os.SEEK_SET)
        yield file.fileno()


@contextlib.contextmanager
def _written(reading: int, writing: int, data: bytes) -> Iterator[Any]:
    """The reading end, while a thread writes and closes the other."""
    def write() -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError), os.fdopen(writing, "wb", buffering=0) as file:
            left = memoryview(data)
            while len(left):
                left = left[file.write(left):]

    if len(data) <= 32768 and writing >= 0:
        # What a pipe holds needs no thread.
        write()
        try:
            yield reading
        finally:
            os.close(reading)
        return
    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield reading
    finally:
        os.close(reading)
        thread.join()


@contextlib.contextmanager
def pipe(data: bytes) -> Iterator[Any]:
    with _written(*os.pipe(), data) as fd:
        yield fd


@contextlib.contextmanager
def connection(data: bytes) -> Iterator[Any]:
    ours, theirs = socket.socketpair()
    with _written(ours.detach(), theirs.detach(), data) as fd:
        yield fd


@contextlib.contextmanager
def buffer(data: bytes) -> Iterator[Any]:
    yield data


@contextlib.contextmanager
def mapping(data: bytes) -> Iterator[Any]:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@contextlib.contextmanager
def misaligned(data: bytes) -> Iterator[Any]:
    yield memoryview(b"\0" + data)[1:]


@contextlib.contextmanager
def file_object(data: bytes) -> Iterator[Any]:
    yield io.BytesIO(data)


@contextlib.contextmanager
def only_read(data: bytes) -> Iterator[Any]:
    yield OnlyRead(data)


@contextlib.contextmanager
def trickle(data: bytes) -> Iterator[Any]:
    yield Trickle(data)


@contextlib.contextmanager
def fed(data: bytes) -> Iterator[Any]:
    source = FedSource()
    source.feed(data)
    source.finish()
    yield source


class _SmallRanges(RangeSource):
    """Seeks over whatever isn't wanted, even of small samples."""

    FIRST_READ, LEAST_SKIPPED = 16, 1


@contextlib.contextmanager
def ranges(data: bytes) -> Iterator[Any]:
    yield _SmallRanges(io.BytesIO(data))


WAYS: Dict[str, Callable[[bytes], Any]] = {
    "buffer": buffer, "mapping": mapping, "misaligned": misaligned, "mapped": mapped, "descriptor": descriptor,
    "pipe": pipe, "socket": connection, "object": file_object, "read only": only_read, "trickle": trickle, "fed": fed,
    "ranges": ranges,
}


def rest_of(fd: int) -> bytes:
    """What is left of a descriptor."""
    parts = [os.read(fd, 1 << 20)]
    while parts[-1]:
        parts.append(os.read(fd, 1 << 20))
    return b"".join(parts)


def whole(record: Any) -> Any:
    """A record that compares by content and stays good."""
    if isinstance(record, PageData):
        return record._replace(words=bytes(record.words), data=record.pages.tobytes())
    if hasattr(getattr(record, "data", None), "read"):
        record = record._replace(data=record.data.read())
    return record._replace(**{name: bytes(value) for name, value in record._asdict().items()
                              if isinstance(value, memoryview)})


def loaded(source: Any) -> GuestMemory:
    """The memory at the end of a stream, or at its last checkpoint."""
    memory = GuestMemory(limit=1 << 24)
    xstream.load(source, memory, checkpointed=True)
    return memory


def records_of(source: Any, **options: Any) -> List[Any]:
    """All records, with their index and offset."""
    with Reader(source, **options) as reader:
        return [(reader.index, reader.offset, whole(record)) for record in reader]
