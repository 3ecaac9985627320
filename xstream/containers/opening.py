"""Recognition of formats by content, and the reader for each."""
from xstream.errors import CorruptStream, UnsupportedStream
from xstream.limits import Limits
from xstream.stream.reader import AnyReader as AnyReader
from xstream.stream.reader import Reader
from xstream.stream.records import RecordReader
from xstream.stream.source import BufferSource, FedSource, NeedMoreData, Source, open_source
from xstream.wire import libxc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, ContextManager, Iterator, Optional, Tuple

    from xstream.kernels.buffers import BufferLike
    from xstream.stream.signs import Sign
    from xstream.stream.types import SourceLike, StreamLike
    from xstream.wire.formats import AnyRecord

#: Bytes of a disk to look at: enough for every magic number in signs.
DISK_START = 2048
#: Formats that can be asked for by name.
FORMATS = (libxc.LAYER, "legacy", "xl", "libvirt", "libxl", "xenopsd", "xend", "colo")


def open_stream(source: "SourceLike", *, format: "Optional[str]" = None, limits: Limits = Limits(),
                strict: bool = False, checkpointed: bool = False, exact: bool = False, width: "Optional[int]" = None,
                guest: "Optional[str]" = None, jobs: "Optional[int]" = None) -> "AnyReader":
    """The reader for a stream of any format, or for a container of one.

    ``source`` is anything that :func:`~xstream.stream.source.open_source` takes; recognition consumes nothing. Input
    compressed by gzip, xz, bzip2 or zstd is decompressed (zstd needs Python 3.14 or the package ``zstandard``); offsets
    then count decompressed bytes. ``jobs`` threads decompress an image whose frames can be decompressed apart; default:
    one for each CPU that this process may use. ``format``, one of FORMATS, replaces recognition. ``width`` and
    ``guest`` are LegacyReader's, for legacy memory streams; the others are Reader's.

    ``exact``: take no byte from a descriptor, socket or object past the end of the stream, or past a CHECKPOINT record
    before the next record is asked for. The caller can read on there; see
    :func:`~xstream.stream.source.open_source`.

    Raises UnsupportedStream for a known format that isn't a Xen stream, with advice; CorruptStream for an unknown one;
    NeedMoreData if a fed source has too little; ValueError for an unknown ``format``.
    """
    if format is not None and format not in FORMATS:
        raise ValueError("unknown format {!r}; known are {}".format(format, ", ".join(FORMATS)))
    opened = open_source(source, exact=exact)
    try:
        if format is None:
            opened, format = _recognised(opened, strict, jobs)
        return _reader(opened, format, limits, strict, checkpointed, width, guest)
    except BaseException:
        if opened is not source:
            opened.close()
        raise


def _reader(source: Source, format: str, limits: Limits, strict: bool, checkpointed: bool, width: "Optional[int]",
            guest: "Optional[str]") -> "AnyReader":
    """The reader for a format. What only some formats need is loaded here."""
    if format == libxc.LAYER:
        return Reader(source, limits=limits, strict=strict, checkpointed=checkpointed)
    if format == "legacy":
        from xstream.stream.legacy_reader import LegacyReader
        return LegacyReader(source, limits=limits, strict=strict, checkpointed=checkpointed, width=width, guest=guest)
    from xstream.containers.reader import NestedReader
    return NestedReader(source, format, limits=limits, strict=strict, checkpointed=checkpointed, width=width,
                        guest=guest)


class _Lent:
    """A context manager that doesn't close its reader."""

    def __init__(self, reader: "AnyReader") -> None:
        self._reader = reader

    def __enter__(self) -> "AnyReader":
        return self._reader

    def __exit__(self, *exc: object) -> None:
        pass


def reading(source: "StreamLike", *, format: "Optional[str]" = None, limits: Limits = Limits(), strict: bool = False,
            checkpointed: bool = False, width: "Optional[int]" = None, guest: "Optional[str]" = None,
            exact: bool = False, jobs: "Optional[int]" = None) -> "ContextManager[AnyReader]":
    """A reader for ``source``, for a ``with`` block: :func:`open_stream`'s, closed at the end of the block; or
    ``source`` itself if it is a reader, which keeps its own settings and stays open."""
    if isinstance(source, RecordReader):
        return _Lent(source)  # type: ignore[arg-type]  # all subclasses are readers
    return open_stream(source, format=format, limits=limits, strict=strict,  # type: ignore[arg-type]  # no reader
                       checkpointed=checkpointed, width=width, guest=guest, exact=exact, jobs=jobs)


def _recognised(source: Source, strict: bool, jobs: "Optional[int]") -> "Tuple[Source, str]":
    """The source to read from, itself or one that decompresses it, and the format of what it holds."""
    if not isinstance(source, FedSource) and source.peek(len(libxc.MARKER)) == libxc.MARKER:
        return source, libxc.LAYER  # without loading the other formats
    from xstream.stream.signs import COMPRESSED, OTHERS
    sign = recognise(source)
    if sign in COMPRESSED:
        if isinstance(source, FedSource):
            raise UnsupportedStream("input compressed by {}, fed piece by piece: decompress what is fed".format(
                sign.format), layer=sign.format, offset=0)
        source = _decompressed(source, sign.format, strict, jobs)
        sign = recognise(source)
        if sign in COMPRESSED:
            raise UnsupportedStream("input compressed by {} within compressed input".format(sign.format),
                                    layer=sign.format, offset=0, expected="one compression at most")
    if sign is None:
        start = bytes(source.peek(16)[:16])
        raise CorruptStream("not a stream or save file of any format known here", offset=source.offset,
                            expected="one of " + ", ".join(FORMATS), got=start or "an empty input")
    if sign in OTHERS:
        name, advice = _advice(source, sign)
        raise UnsupportedStream("not a Xen stream but {}: {}".format(name, advice), offset=source.offset)
    return source, sign.format


def _decompressed(source: Source, compression: str, strict: bool, jobs: "Optional[int]") -> Source:
    """The source of what a compressed source holds. Raises UnsupportedStream if no library for it is installed."""
    from xstream.stream.compressed import DecompressedSource
    whole = DecompressedSource(source, compression)
    if compression != "zstd":
        return whole
    from xstream.stream.threads import usable_cpus
    jobs = usable_cpus() if jobs is None else jobs
    if isinstance(source, BufferSource):
        from xstream.stream.seekable import SeekableSource, frames
        data = source.buffered()
        found = frames(data)
        if found is not None:
            return SeekableSource(source, data, found, strict=strict, jobs=jobs)
    from xstream.stream.piped import PipedFrames, comes_in_frames
    return PipedFrames(source, strict=strict, jobs=jobs) if comes_in_frames(source) else whole


def _advice(source: Source, sign: "Sign") -> "Tuple[str, str]":
    """The name of a format that xstream doesn't read, and what to do with the file. A disk image may hold a stream."""
    if not sign.disk:
        return sign.format, sign.advice
    from xstream.containers.disks import start_of_disk
    from xstream.stream.signs import OTHERS, RAW
    start = start_of_disk(source, sign.disk, DISK_START)
    on_disk = None if start is None else recognise(BufferSource(start))
    raw = "make it raw: " + RAW[sign.disk]
    if on_disk is None:
        return sign.format, "if a suspend image is on the disk, " + raw
    if on_disk in OTHERS:
        return "{} with {} on it".format(sign.format, on_disk.format), "{}; OUT: {}".format(raw, on_disk.advice)
    return "{} with a suspend image on it (format {})".format(sign.format, on_disk.format), raw + "; then read OUT"


def recognise(source: Source) -> "Optional[Sign]":
    """The sign of what a source holds, or None. Consumes nothing, and reads no more than needed."""
    from xstream.stream.signs import COMPRESSED, LEGACY, LEGACY_SIZE, OTHERS, OURS
    size = 1
    while True:
        start = bytes(source.peek(size)[:size])
        possible = [sign for sign in OURS + COMPRESSED + OTHERS if _fits(sign, start)]
        for sign in possible:
            if len(start) >= sign.offset + len(sign.magic):
                return sign
        # What knows legacy streams is loaded only once no magic number at offset 0 can fit.
        if len(start) >= LEGACY_SIZE and all(sign.offset for sign in possible) and _is_legacy(start):
            return LEGACY
        if len(start) < size:
            return None
        sizes = [sign.offset + len(sign.magic) for sign in possible] + [LEGACY_SIZE]
        size = min((other for other in sizes if other > size), default=0)
        if not size:
            return None


def _is_legacy(start: bytes) -> bool:
    from xstream.wire import legacy  # not needed for other formats
    return legacy.is_start(start)


def _fits(sign: "Sign", start: bytes) -> bool:
    """Whether what is known of the beginning agrees with a sign."""
    return sign.magic.startswith(start[sign.offset:sign.offset + len(sign.magic)])


class PushReader:
    """Reads a stream of any format that the caller feeds piece by piece; does no I/O.

    ``feed`` takes bytes, ``records`` yields the records that have become complete; pages are views of what was fed, and
    stay valid. Time is linear in what is fed. The keyword arguments are those of :func:`open_stream`.
    """

    def __init__(self, *, format: "Optional[str]" = None, limits: Limits = Limits(), strict: bool = False,
                 checkpointed: bool = False, width: "Optional[int]" = None, guest: "Optional[str]" = None) -> None:
        self._source = FedSource()
        self._open: Callable[[], AnyReader] = lambda: open_stream(
            self._source, format=format, limits=limits, strict=strict, checkpointed=checkpointed, width=width,
            guest=guest)
        self._reader: Optional[AnyReader] = None

    @property
    def reader(self) -> "AnyReader":
        """The reader. Raises NeedMoreData until enough has been fed to recognise the format."""
        if self._reader is None:
            self._reader = self._open()
        return self._reader

    def feed(self, data: "BufferLike") -> None:
        """Add bytes; they are copied."""
        self._source.feed(data)

    def finish(self) -> None:
        """Mark the end of the input; ``records`` then raises TruncatedStream if the stream isn't complete."""
        self._source.finish()

    def records(self) -> "Iterator[AnyRecord]":
        """Yield the records that are complete and haven't been yielded yet."""
        try:
            yield from self.reader
        except NeedMoreData:
            return
