"""What is this? Recognition of formats by content, and the reader for each."""
from typing import Any, Callable, Optional, Tuple, Union

from xstream.errors import LimitExceeded, StreamError, TruncatedStream
from xstream.limits import Limits
from xstream.stream.legacy_reader import LegacyReader
from xstream.stream.reader import Reader
from xstream.stream.source import Source, open_source
from xstream.wire import legacy, xend, xl
from xstream.wire.frames import Buffer

AnyReader = Union[Reader, LegacyReader]


def open_stream(source: Any, *, width: Optional[int] = None, guest: Optional[str] = None, limits: Limits = Limits(),
                **options: Any) -> AnyReader:
    """The reader for a stream: Reader's or LegacyReader's, whose arguments these are; behind an xl or xend header too.

    ``source`` is anything that :func:`~xstream.stream.source.open_source` takes. ``width`` and ``guest`` are a legacy
    stream's, and say that it is one.
    """
    opened = open_source(source)
    try:
        read_head(opened, limits)
        if width is not None or guest is not None or is_legacy(opened):
            return LegacyReader(opened, width=width, guest=guest, limits=limits, **options)
        return Reader(opened, limits=limits, **options)
    except BaseException:
        if opened is not source:
            opened.close()
        raise


def is_legacy(source: Source) -> bool:
    """Whether a legacy stream begins here; nothing is consumed."""
    return legacy.is_start(source.peek(16)[:16])


def read_head(source: Source, limits: Limits) -> Any:
    """The header of xl or xend in front of a stream, consumed; None where there is none."""
    for magic, layer, read in _HEADS:
        if source.peek(1)[:1] == magic[:1] and source.peek(len(magic))[:len(magic)] == magic:
            start = source.offset
            try:
                return read(source, limits)
            except StreamError as error:
                raise error.located(layer=layer, base=0 if isinstance(error, TruncatedStream) else start)
    return None


def _read_xl(source: Source, limits: Limits) -> xl.SaveHeader:
    head, length = xl.parse_head(source.need(xl.HEADER_SIZE))
    _check_length(length, limits, 44, "optional_data_len")
    untrusted: Buffer = bytes(source.need(xl.HEADER_SIZE + length)[xl.HEADER_SIZE:])
    head = xl.parse_optional_data(head, untrusted)
    source.advance(xl.HEADER_SIZE + length)
    return head


def _read_xend(source: Source, limits: Limits) -> xend.SaveHeader:
    length = xend.parse_head(source.need(xend.HEADER_SIZE))
    _check_length(length, limits, 16, "length")
    head = xend.SaveHeader(bytes(source.need(xend.HEADER_SIZE + length)[xend.HEADER_SIZE:]))
    source.advance(xend.HEADER_SIZE + length)
    return head


def _check_length(length: int, limits: Limits, offset: int, field: str) -> None:
    if length > limits.body_length:
        raise LimitExceeded("longer than the limit", offset=offset, field=field,
                            expected="at most {}".format(limits.body_length), got=length)


_HEADS: Tuple[Tuple[bytes, str, Callable[[Source, Limits], Any]], ...] = (
    (xl.MAGIC, xl.LAYER, _read_xl),
    (xend.MAGIC, xend.LAYER, _read_xend),
)
