"""The errors of reading and writing streams. Each says where it is, and what was expected and found there."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Mapping, Optional, Sequence, Union

    #: What JSON can represent, as reports have it.
    JsonValue = Union[None, bool, int, float, str, Sequence["JsonValue"], Mapping[str, "JsonValue"]]

#: Exit statuses of the command line, which the records of a scan have too: 0 good; 1 the stream is bad; 2 wrong use, or
#: an error of the operating system; 3 a bug in xstream; 4 one of xstream's limits was reached.
GOOD, BAD_STREAM, BAD_USE, OWN_FAULT, LIMIT_REACHED = range(5)


class StreamError(Exception):
    """Base class of all errors about a stream; not raised itself.

    Attributes, each None if it doesn't apply:

    - ``message``: what is wrong, without the place;
    - ``layer``: the format in which the error is: "libxc", "libxl", "xl", "libvirt", "xenopsd", "legacy", ...
    - ``offset``: offset in bytes, from the start of the input, of the bad field or of its record;
    - ``record``: index of the record within its layer, counted from 0;
    - ``record_type``: the record's name;
    - ``field``: the field's name in the specification;
    - ``expected``, ``got``: what a good stream has there, and what this one has.
    """

    def __init__(self, message: str, *, layer: "Optional[str]" = None, offset: "Optional[int]" = None,
                 record: "Optional[int]" = None, record_type: "Optional[str]" = None, field: "Optional[str]" = None,
                 expected: object = None, got: object = None) -> None:
        super().__init__(message)
        self.message = message
        self.layer = layer
        self.offset = offset
        self.record = record
        self.record_type = record_type
        self.field = field
        self.expected = expected
        self.got = got

    def located(self, *, layer: "Optional[str]" = None, base: int = 0, record: "Optional[int]" = None,
                record_type: "Optional[str]" = None) -> "StreamError":
        """Add the place, which the code that raised the error didn't know; returns the error itself.

        The offset of an error without a layer (0 if it has none) is relative to ``base``, and becomes absolute. Other
        attributes that are already set are kept.
        """
        if self.layer is None:
            self.offset = base + (self.offset or 0)
        self.layer = layer if self.layer is None else self.layer
        self.record = record if self.record is None else self.record
        self.record_type = record_type if self.record_type is None else self.record_type
        return self

    def as_dict(self) -> "Dict[str, JsonValue]":
        """The attributes and the class's name as values that JSON can represent."""
        return {
            "error": type(self).__name__, "message": self.message, "layer": self.layer, "offset": self.offset,
            "record": self.record, "record_type": self.record_type, "field": self.field,
            "expected": _plain(self.expected), "got": _plain(self.got),
        }

    def __str__(self) -> str:
        where = []
        if self.layer is not None:
            where.append(self.layer)
        if self.offset is not None:
            where.append("offset {0} ({0:#x})".format(self.offset))
        if self.record is not None:
            where.append("record {}".format(self.record))
        if self.record_type is not None:
            where.append(self.record_type)
        if self.field is not None:
            where.append("field {}".format(self.field))
        text = ", ".join(where) + ": " + self.message if where else self.message
        if self.expected is not None:
            text += "; expected {}".format(_plain(self.expected))
        if self.got is not None:
            text += "; got {}".format(_plain(self.got))
        return printable(text)


class CorruptStream(StreamError):
    """The bytes violate the format: a restore would fail, or restore something else than was saved."""


class StrictViolation(CorruptStream):
    """Something that a restore ignores and that only strict reading reports: reserved bits, padding, trailing bytes,
    usual records that are missing."""


class OrderError(CorruptStream):
    """A record comes at a place where it may not, comes twice, or is missing."""


class IncompleteStream(StreamError):
    """The stream ends as it should, but lacks records without which no guest runs.

    An interrupted save can look like this: zeros in place of what was never written read as the END record. ``missing``
    names the records.
    """

    def __init__(self, message: str, *, missing: "Sequence[str]", layer: "Optional[str]" = None,
                 offset: "Optional[int]" = None, record: "Optional[int]" = None, record_type: "Optional[str]" = None,
                 field: "Optional[str]" = None, expected: object = None, got: object = None) -> None:
        super().__init__(message, layer=layer, offset=offset, record=record, record_type=record_type, field=field,
                         expected=expected, got=got)
        self.missing = tuple(missing)

    def as_dict(self) -> "Dict[str, JsonValue]":
        return dict(super().as_dict(), missing=list(self.missing))


class TruncatedStream(StreamError):
    """The input ended within a record or header.

    ``missing`` is the least number of bytes that are missing; ``offset`` is where the input ended.
    """

    def __init__(self, message: str, *, missing: int, layer: "Optional[str]" = None, offset: "Optional[int]" = None,
                 record: "Optional[int]" = None, record_type: "Optional[str]" = None, field: "Optional[str]" = None,
                 expected: object = None, got: object = None) -> None:
        super().__init__(message, layer=layer, offset=offset, record=record, record_type=record_type, field=field,
                         expected=expected, got=got)
        self.missing = missing

    def as_dict(self) -> "Dict[str, JsonValue]":
        return dict(super().as_dict(), missing=self.missing)


class UnsupportedStream(StreamError):
    """The stream may be good, but can't be read here: another byte order, a later version, an unknown mandatory record,
    an unknown compression."""


class LimitExceeded(StreamError):
    """The stream needs more than the caller's :class:`~xstream.limits.Limits` allow. It may be good."""


class MissingPart(ValueError):
    """A container needs a part that neither its source nor the caller has, such as a configuration."""


class MemoryMismatch(StreamError):
    """Pages sent for comparison (after VERIFY) differ from those restored; ``pfns`` names them."""

    def __init__(self, message: str, *, pfns: "Sequence[int]", layer: "Optional[str]" = None,
                 offset: "Optional[int]" = None, record: "Optional[int]" = None,
                 record_type: "Optional[str]" = None, field: "Optional[str]" = None, expected: object = None,
                 got: object = None) -> None:
        super().__init__(message, layer=layer, offset=offset, record=record, record_type=record_type, field=field,
                         expected=expected, got=got)
        self.pfns = pfns


def printable(text: object) -> str:
    """Text that may come from a stream, with every character that isn't printable escaped."""
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in shown)


def _plain(value: object) -> "JsonValue":
    """A value for JSON and messages: the start of bytes as escaped text; other types than JSON's as text."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        shown = bytes(value[:32])
        return repr(shown)[1:] + ("..." if len(value) > 32 else "")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value)
