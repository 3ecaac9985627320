"""Decompression of input: gzip, xz and bzip2 by the standard library; zstd by that of Python 3.14, or by the package
``zstandard`` if it is installed."""
import importlib

from xstream.errors import CorruptStream, LimitExceeded, TruncatedStream, UnsupportedStream
from xstream.stream.signs import COMPRESSED
from xstream.stream.source import Source, StreamSource
from xstream.tuples import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Callable, Dict, Optional, Protocol, Tuple, Type

    from xstream.wire.frames import Buffer

    class _Decompressor(Protocol):
        """What lzma.LZMADecompressor has."""

        @property
        def eof(self) -> bool: ...

        @property
        def needs_input(self) -> bool: ...

        @property
        def unused_data(self) -> bytes: ...

        def decompress(self, __data: bytes, __most: int) -> bytes: ...

#: Compressed bytes read at once.
_INPUT = 64 << 10
#: Bytes decompressed after the end of a stream, to reach the checksum.
BEHIND = 1 << 20
#: Most memory for the dictionary of an xz stream; ``xz -9`` needs 64 MiB.
_XZ_MEMORY = 256 << 20
#: Most memory for a frame of zstd; the libraries' own limit, that of ``zstd -d`` without ``--long``.
_ZSTD_MEMORY = 128 << 20
#: What errors of xz and zstd say if a dictionary takes more than the limit.
_MEMORY = {"usage limit": _XZ_MEMORY, "too much memory": _ZSTD_MEMORY}
_MAGICS = {sign.format: sign.magic for sign in COMPRESSED}


class _Codec(NamedTuple):
    """How to decompress one member (gzip), stream (xz, bzip2) or frame (zstd).

    ``new()`` returns an object such as lzma.LZMADecompressor: ``decompress(data, most)``, ``eof``, ``needs_input``,
    ``unused_data``; ``errors`` are the exceptions that it raises for bad data.
    """

    new: "Callable[[], _Decompressor]"
    errors: "Tuple[Type[BaseException], ...]"


class DecompressedSource(StreamSource):
    """The decompressed bytes of another source, of all its members in order.

    ``offset`` counts decompressed bytes. Memory is bounded whatever the input says. Reading raises CorruptStream,
    TruncatedStream and LimitExceeded, whose layer is the compression and whose offset is the number of compressed bytes
    read; construction raises UnsupportedStream if no decompressor is installed.
    """

    def __init__(self, source: Source, format: str) -> None:
        super().__init__()
        self._lower = source
        self._format = format
        self._codec = _CODECS[format]()
        self._member: Optional[_Decompressor] = None  # not begun yet
        self._input = b""  # taken from the source and not decompressed yet

    def check_end(self) -> None:
        # The checksum follows the last byte. More data than this isn't part of the stream.
        self.peek(BEHIND)

    def close(self) -> None:
        self._lower.close()

    def receive(self, into: memoryview) -> int:
        """Write at least one byte to ``into``; returns how many, 0 only at the end of the input."""
        while True:
            member = self._member
            if member is None or member.eof:
                if not self._next_member():
                    return 0
                continue
            if member.needs_input and not self._take(1):
                raise TruncatedStream("the input ends inside compressed data", missing=1, layer=self._format,
                                      offset=self._lower.offset)
            data = self._decompress(member, self._input if member.needs_input else b"", len(into))
            if data:
                into[:len(data)] = data
                return len(data)

    def _receive(self, into: memoryview) -> int:
        return self.receive(into)

    def _take(self, size: int) -> bytes:
        """The compressed bytes that are in memory; at least ``size``, unless the input ends."""
        while len(self._input) < size:
            piece = bytes(self._lower.peek(_INPUT)[:_INPUT])
            if not piece:
                break
            self._lower.advance(len(piece))
            self._input += piece
        return self._input

    def _decompress(self, member: "_Decompressor", untrusted: bytes, most: int) -> bytes:
        try:
            wanted = member.needs_input
            data = member.decompress(untrusted, most)
        except self._codec.errors as error:
            limit = next((limit for text, limit in _MEMORY.items() if text in str(error)), None)
            if limit is not None:
                raise LimitExceeded("dictionary larger than the limit", layer=self._format, offset=self._lower.offset,
                                    expected="at most {} bytes".format(limit))
            raise CorruptStream("bad compressed data: {}".format(error), layer=self._format,
                                offset=self._lower.offset)
        if member.eof:
            self._input = member.unused_data
        elif wanted:
            self._input = b""
        return data

    def _next_member(self) -> bool:
        """Begin the next member; False if none follows. Zeros after the last one are padding."""
        while self._skip_frame() or (self._take(1) and not self._input.strip(b"\0")):
            self._input = self._input.lstrip(b"\0")
        self._input = self._input.lstrip(b"\0")
        magic = _MAGICS[self._format]
        if not self._take(1):
            return False
        start = self._take(len(magic))
        if len(start) < len(magic) and magic.startswith(start):
            raise TruncatedStream("the input ends inside compressed data", missing=len(magic) - len(start),
                                  layer=self._format, offset=self._lower.offset)
        if not start.startswith(magic):
            raise CorruptStream("bytes after the compressed data", layer=self._format, offset=self._lower.offset,
                                expected="the end of the input", got=self._input[:16])
        self._member = self._codec.new()
        return True

    def _skip_frame(self) -> bool:
        """Skip a frame of zstd that isn't contents, such as a table; False if there is none."""
        if self._format != "zstd":
            return False
        from xstream.stream import zstd  # loaded for this format only
        left = zstd.skippable_size(self._take(zstd.SKIPPABLE.size), 0)
        if left is None:
            return False
        self._input = self._input[zstd.SKIPPABLE.size:]
        while left:
            if not self._take(1):
                raise TruncatedStream("the input ends inside compressed data", missing=left, layer=self._format,
                                      offset=self._lower.offset)
            skipped = min(left, len(self._input))
            self._input = self._input[skipped:]
            left -= skipped
        return True


class _Gzip:
    """Decompressor of a gzip member with the interface of lzma.LZMADecompressor."""

    def __init__(self) -> None:
        import zlib
        self._inner = zlib.decompressobj(wbits=31)
        self._full = False

    def decompress(self, untrusted: "Buffer", most: int) -> bytes:
        data = self._inner.decompress(self._inner.unconsumed_tail or untrusted, most)
        self._full = len(data) == most
        return data

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        # If the output is full there may be more, even if all input has been consumed.
        return not self._inner.unconsumed_tail and not self._full

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data


class _Zstandard:
    """Decompressor of a zstd frame, by the package ``zstandard``. It is fed little at once, because it doesn't
    bound its output."""

    _FED = 1 << 10

    def __init__(self, module: "ModuleType") -> None:
        self._inner = module.ZstdDecompressor().decompressobj()
        self._waiting = memoryview(b"")
        self._data = memoryview(b"")
        self.unused_data = b""

    def decompress(self, untrusted: "Buffer", most: int) -> bytes:
        if len(untrusted):
            self._waiting = memoryview(untrusted)
        while not self._data and self._waiting and not self._inner.eof:
            fed, self._waiting = self._waiting[:self._FED], self._waiting[self._FED:]
            self._data = memoryview(self._inner.decompress(fed))
        if self._inner.eof:
            self.unused_data = bytes(self._inner.unused_data) + bytes(self._waiting)
        given, self._data = self._data[:most], self._data[most:]
        return bytes(given)

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof) and not self._data

    @property
    def needs_input(self) -> bool:
        return not self._data and not self._waiting


def _zstd() -> _Codec:
    try:
        module = importlib.import_module("compression.zstd")
        return _Codec(module.ZstdDecompressor, (module.ZstdError,))
    except ImportError:
        pass
    try:
        module = importlib.import_module("zstandard")
        return _Codec(lambda: _Zstandard(module), (module.ZstdError,))
    except ImportError:
        raise UnsupportedStream("a zstd file, which needs Python 3.14 or the package zstandard; or decompress it: "
                                "zstd -dc FILE | xstream ... -", layer="zstd", offset=0)


def _gzip() -> _Codec:
    import zlib
    return _Codec(_Gzip, (zlib.error,))


def _xz() -> _Codec:
    import lzma
    return _Codec(lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY), (lzma.LZMAError,))


def _bzip2() -> _Codec:
    import bz2
    return _Codec(bz2.BZ2Decompressor, (OSError, ValueError))


_CODECS: "Dict[str, Callable[[], _Codec]]" = {"gzip": _gzip, "xz": _xz, "bzip2": _bzip2, "zstd": _zstd}
