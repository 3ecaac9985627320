"""Compressed images: the seekable format of zstd, written along the structure of the stream.

A compressed image is a series of ordinary zstd frames with content checksums, and a skippable frame with a table of
their sizes at the end: ``zstd -d`` yields the stream. Page data is in frames apart from everything else, so that a
reader that needs no page decompresses none (:mod:`xstream.stream.seekable`).

The compression is done by Python 3.14's ``compression.zstd``, or by the package ``zstandard``.

Source: doc/zstd_compression_format.md and contrib/seekable_format/zstd_seekable_compression_format.md in zstd's
repository.
"""
import os
import struct
import sys

from xstream.contexts import contextmanager
from xstream.errors import UnsupportedStream
from xstream.kernels import pages as page_kernel
from xstream.stream.sink import Sink
from xstream.stream.threads import thread_pool
from xstream.tuples import NamedTuple
from xstream.wire.pending import PendingPages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor
    from typing import Any, Callable, Deque, Iterator, List, Optional, Sequence, Tuple, Type, Union

    from xstream.wire.frames import Buffer

FORMAT = "zstd"
DEFAULT_LEVEL, _HIGHEST_LEVEL = 3, 22
#: Page data in one frame at most: a batch of 1024 pages.
PAGES_SIZE = 4 << 20
#: Page data smaller than this isn't worth a frame.
PAGES_LEAST = 64 << 10
#: Bytes other than page data in one frame at most.
_REST_SIZE = 1 << 20
#: Frames that wait for their turn, per thread.
_WAITING = 2

SKIPPABLE = struct.Struct("<II")  # magic number, size of what follows
SKIPPABLE_MAGIC = 0x184D2A5E
ENTRY = struct.Struct("<II")  # compressed and decompressed size of a frame
FOOTER = struct.Struct("<IBI")  # number of entries, descriptor, magic number
FOOTER_MAGIC = 0x8F92EAB1


class Library(NamedTuple):
    """Compression and decompression of single frames.

    - ``compress(data, level)``: a frame with a content checksum and the size of the contents;
    - ``decompress(frame, size)``: the contents, ``size`` bytes at most;
    - ``decompress_into(frame, into)``: write the contents to ``into``, which must have their size; returns how many
      bytes were written, or another number than ``len(into)`` if the contents have another size.

    Decompression checks the content checksum. Both ways of decompressing raise ``error`` for bad frames.
    """

    compress: "Callable[[Buffer, int], bytes]"
    decompress: "Callable[[Buffer, int], bytes]"
    decompress_into: "Callable[[Buffer, memoryview], int]"
    error: "Type[BaseException]"


def library(*, offset: int = 0) -> Library:
    """The library that is installed. Raises UnsupportedStream if there is none.

    The package is preferred: Python's own module can't decompress into a given buffer.
    """
    for name, wrap in (("zstandard", zstandard_library), ("compression.zstd", standard_library)):
        try:
            __import__(name)
            return wrap(sys.modules[name])
        except ImportError:
            pass
    raise UnsupportedStream("zstd needs Python 3.14 or the package zstandard", layer=FORMAT, offset=offset)


def standard_library(module: "Any") -> Library:
    """By ``compression.zstd``, or a module with the same interface."""
    parameter = module.CompressionParameter

    def compress(data: "Buffer", level: int) -> bytes:
        return bytes(module.compress(data, options={parameter.compression_level: level, parameter.checksum_flag: 1}))

    def decompress(frame: "Buffer", size: int) -> bytes:
        decompressor = module.ZstdDecompressor()
        contents = bytes(decompressor.decompress(frame, size))
        if not decompressor.eof:
            # The checksum may be left, or more contents than expected.
            contents += decompressor.decompress(b"", 1)
        return contents

    def decompress_into(frame: "Buffer", into: memoryview) -> int:
        contents = decompress(frame, len(into))
        into[:] = contents[:len(into)].ljust(len(into), b"\0")
        return len(contents)

    return Library(compress, decompress, decompress_into, module.ZstdError)


def zstandard_library(module: "Any") -> Library:
    """By the package ``zstandard``."""
    # Objects of the package are for one thread each; making one for each frame takes as long as a small frame.
    import threading  # loaded when frames are compressed or decompressed
    of_thread = threading.local()

    def compress(data: "Buffer", level: int) -> bytes:
        if getattr(of_thread, "level", None) != level:
            of_thread.level = level
            of_thread.compressor = module.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)
        return bytes(of_thread.compressor.compress(data))

    def decompressor() -> "Any":
        if not hasattr(of_thread, "decompressor"):
            of_thread.decompressor = module.ZstdDecompressor()
        return of_thread.decompressor

    def decompress(frame: "Buffer", size: int) -> bytes:
        # The package would allocate whatever a damaged header says.
        if module.frame_content_size(frame) > size:
            raise module.ZstdError("contents larger than expected")
        return bytes(decompressor().decompress(frame, max_output_size=size))

    def decompress_into(frame: "Buffer", into: memoryview) -> int:
        done = 0
        with decompressor().stream_reader(frame) as reader:
            while done < len(into):
                got = reader.readinto(into[done:])
                if not got:
                    return done
                done += got
            # The checksum may be left, or more contents than expected.
            return done + len(reader.read(1))

    return Library(compress, decompress, decompress_into, module.ZstdError)


def level_of(compression: str) -> int:
    """The level that "zstd" or "zstd:LEVEL" names. Raises ValueError."""
    name, colon, level = compression.partition(":")
    if name != FORMAT or (colon and not (level.isdigit() and 1 <= int(level) <= _HIGHEST_LEVEL)):
        raise ValueError("unknown compression {!r}; known are zstd and zstd:LEVEL, from 1 to {}".format(
            compression, _HIGHEST_LEVEL))
    return int(level) if colon else DEFAULT_LEVEL


def compression_of(sink: object, compress: "Optional[str]") -> "Optional[str]":
    """``compress``, or if that is None what the name of a sink's path says: zstd for ``.zst``."""
    if compress is None and isinstance(sink, (str, os.PathLike)) and os.fspath(sink).endswith(".zst"):
        return FORMAT
    return compress


@contextmanager
def compressed(sink: Sink, compress: "Optional[str]", threads: int = 1) -> "Iterator[Sink]":
    """A sink that compresses into ``sink``, or without ``compress`` that sink itself. Page data that is compressed
    already is copied, unless ``compress`` names a level. The image is ended when the block succeeds. Raises what
    ZstdSink and level_of raise."""
    if compress is None:
        yield sink
        return
    into = ZstdSink(sink, level_of(compress), threads, copies=compress == FORMAT)
    try:
        yield into
        into.finish()
    finally:
        into.close()


class ZstdSink(Sink):
    """Compresses into another sink. ``offset`` counts the bytes before compression. :meth:`finish` ends the image.

    ``threads`` compress at the same time; at most three frames for each are in memory. ``copies``: frames of page data
    from a compressed source are written as they are. Raises UnsupportedStream if no library is installed.
    """

    def __init__(self, sink: Sink, level: int = DEFAULT_LEVEL, threads: int = 1, *, copies: bool = False) -> None:
        self._library = library()
        self._sink = sink
        self._level = level
        self._copies = copies
        self._pool: Optional[ThreadPoolExecutor] = thread_pool(threads) if threads > 1 else None
        self._most = threads * _WAITING
        from collections import deque
        self._waiting: Deque[Tuple[Union[bytes, Future[bytes]], int]] = deque()
        self._rest = bytearray()  # what isn't page data, or too little of it, since the last frame
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
                for frame, size in frames:
                    self.offset += size
                    self._put(bytes(frame), size)
                return
        held = data.held()
        if held is not None:
            self.write_data([], held)
            return
        collected = bytearray()
        for piece in data.pieces():
            collected += piece
            if len(collected) >= PAGES_SIZE:
                self._pages(memoryview(collected))
                collected = bytearray()
        self._pages(memoryview(collected))

    def write_pages(self, head: "Sequence[Buffer]", memory: "Buffer", pfns: "Buffer") -> None:
        pages = memoryview(bytearray(len(pfns) * page_kernel.PAGE_SIZE))
        page_kernel.gather(memory, pfns, pages)
        self.write_data(head, pages)

    def write_data(self, head: "Sequence[Buffer]", data: "Buffer") -> None:
        self.write(head)
        view = memoryview(data).cast("B")
        for start in range(0, len(view), PAGES_SIZE):
            self._pages(view[start:start + PAGES_SIZE])

    def finish(self) -> None:
        """Write what is left, and the table. Raises OSError."""
        self._end_rest()
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
        if len(data) < PAGES_LEAST:
            self.write([data])
            return
        self._end_rest()
        self.offset += len(data)
        self._compress(data)

    def _end_rest(self) -> None:
        if self._rest:
            rest, self._rest = self._rest, bytearray()
            self._compress(rest)

    def _compress(self, data: "Buffer") -> None:
        """Compress one frame, now or later, and write it later. The caller may change ``data`` afterwards."""
        if self._pool is None:
            self._put(self._library.compress(data, self._level), len(data))
        else:
            self._put(self._pool.submit(self._library.compress, bytes(data), self._level), len(data))

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


def skippable_size(data: "Buffer", begin: int) -> "Optional[int]":
    """How many bytes follow the header of the skippable frame that begins at ``begin``; None if none begins there. Such
    a frame is no contents."""
    if len(data) < begin + SKIPPABLE.size:
        return None
    magic, size = SKIPPABLE.unpack_from(data, begin)
    return int(size) if magic & ~0xF == SKIPPABLE_MAGIC & ~0xF else None
