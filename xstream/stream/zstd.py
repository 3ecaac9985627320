"""Compressed images: the seekable format of zstd, and the libraries that compress and decompress its frames.

A compressed image is a series of ordinary zstd frames with content checksums, and a skippable frame with a table of
their sizes at the end: ``zstd -d`` yields the stream. :mod:`xstream.stream.packing` writes it,
:mod:`xstream.stream.seekable` reads it.

The compression is done by Python 3.14's ``compression.zstd``, or by the package ``zstandard``.

Source: doc/zstd_compression_format.md and contrib/seekable_format/zstd_seekable_compression_format.md in zstd's
repository.
"""
import struct
import sys

from xstream.errors import UnsupportedStream
from xstream.tuples import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Optional, Tuple, Type

    from xstream.wire.frames import Buffer

FORMAT = "zstd"
DEFAULT_LEVEL, _HIGHEST_LEVEL = 3, 22
#: Page data in one frame at most: a batch of 1024 pages.
PAGES_SIZE = 4 << 20
#: Page data smaller than this isn't worth a frame.
PAGES_LEAST = 64 << 10
#: Largest contents of a frame that is decompressed as a whole, or written.
MOST_CONTENTS = 32 << 20
#: How far back, as a power of two, a frame may refer to its own contents: as far as it reaches. zstd's usual window at
#: levels 1 to 3 is smaller than a frame of pages.
_WINDOW, _WHOLE_WINDOW = 23, 25
#: Levels that are added for a small image as a whole.
_MORE_LEVELS = 3

SKIPPABLE = struct.Struct("<II")  # magic number, size of what follows
SKIPPABLE_MAGIC = 0x184D2A5E
ENTRY = struct.Struct("<II")  # compressed and decompressed size of a frame
FOOTER = struct.Struct("<IBI")  # number of entries, descriptor, magic number
FOOTER_MAGIC = 0x8F92EAB1


class Library(NamedTuple):
    """Compression and decompression of single frames.

    - ``compress(data, level, whole)``: a frame with a content checksum and the size of the contents; ``whole``: for a
      small image, of which it takes a little longer and finds what repeats far apart;
    - ``usual_size(data, level)``: the size of the frame that ``zstd`` makes of a file by default;
    - ``decompress(frame, size)``: the contents, ``size`` bytes at most;
    - ``decompress_into(frame, into)``: write the contents to ``into``, which must have their size; returns how many
      bytes were written, or another number than ``len(into)`` if the contents have another size.

    Decompression checks the content checksum. Both ways of decompressing raise ``error`` for bad frames.
    """

    compress: "Callable[[Buffer, int, bool], bytes]"
    usual_size: "Callable[[Buffer, int], int]"
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

    def compress(data: "Buffer", level: int, whole: bool) -> bytes:
        level, window = _level_and_window(level, whole)
        return bytes(module.compress(data, options={
            parameter.compression_level: level, parameter.window_log: window, parameter.checksum_flag: 1,
            parameter.enable_long_distance_matching: int(whole)}))

    def usual_size(data: "Buffer", level: int) -> int:
        compressor = module.ZstdCompressor(level)
        return len(compressor.compress(data)) + len(compressor.flush())

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

    return Library(compress, usual_size, decompress, decompress_into, module.ZstdError)


def _level_and_window(level: int, whole: bool) -> "Tuple[int, int]":
    return (min(level + _MORE_LEVELS, _HIGHEST_LEVEL), _WHOLE_WINDOW) if whole else (level, _WINDOW)


def zstandard_library(module: "Any") -> Library:
    """By the package ``zstandard``."""
    # Objects of the package are for one thread each; making one for each frame takes as long as a small frame.
    import threading  # loaded when frames are compressed or decompressed
    of_thread = threading.local()

    def compress(data: "Buffer", level: int, whole: bool) -> bytes:
        wanted = _level_and_window(level, whole)
        if getattr(of_thread, "wanted", None) != wanted:
            of_thread.wanted = wanted
            of_thread.compressor = module.ZstdCompressor(compression_params=module.ZstdCompressionParameters(
                compression_level=wanted[0], window_log=wanted[1], write_checksum=True, write_content_size=True,
                enable_ldm=whole))
        return bytes(of_thread.compressor.compress(data))

    def usual_size(data: "Buffer", level: int) -> int:
        # Like zstd, piece by piece: contents that are given in one go are compressed in another way.
        compressor = module.ZstdCompressor(level).compressobj()
        return len(compressor.compress(data)) + len(compressor.flush())

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

    return Library(compress, usual_size, decompress, decompress_into, module.ZstdError)


def level_of(compression: str) -> int:
    """The level that "zstd" or "zstd:LEVEL" names. Raises ValueError."""
    name, colon, level = compression.partition(":")
    if name != FORMAT or (colon and not (level.isdigit() and 1 <= int(level) <= _HIGHEST_LEVEL)):
        raise ValueError("unknown compression {!r}; known are zstd and zstd:LEVEL, from 1 to {}".format(
            compression, _HIGHEST_LEVEL))
    return int(level) if colon else DEFAULT_LEVEL


def skippable_size(data: "Buffer", begin: int) -> "Optional[int]":
    """How many bytes follow the header of the skippable frame that begins at ``begin``; None if none begins there. Such
    a frame is no contents."""
    if len(data) < begin + SKIPPABLE.size:
        return None
    magic, size = SKIPPABLE.unpack_from(data, begin)
    return int(size) if magic & ~0xF == SKIPPABLE_MAGIC & ~0xF else None
