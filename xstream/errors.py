"""Every error that reading or writing a stream raises, each saying where it is and what was wrong there."""
from typing import Any, Dict, Optional, Sequence


class StreamError(Exception):
    """Base of all errors about a stream; never raised itself.

    Attributes, each None where it doesn't apply:

    - ``layer``: the format that the fault is in: "libxc", "libxl", "xl", "libvirt", "xenopsd", "legacy", ...
    - ``offset``: absolute offset in bytes of the faulty field, or of its record, from the start of the input;
    - ``record``: index of the record within its layer, counted from 0;
    - ``record_type``: the record's name;
    - ``field``: the field's name as the specification has it;
    - ``expected``, ``got``: what a good stream would have, and what this one has.
    """

    def __init__(self, message: str, *, layer: Optional[str] = None, offset: Optional[int] = None,
                 record: Optional[int] = None, record_type: Optional[str] = None, field: Optional[str] = None,
                 expected: Any = None, got: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.layer = layer
        self.offset = offset
        self.record = record
        self.record_type = record_type
        self.field = field
        self.expected = expected
        self.got = got

    def located(self, *, layer: Optional[str] = None, base: int = 0, record: Optional[int] = None,
                record_type: Optional[str] = None) -> "StreamError":
        """Add what a lower floor could not know, and return the error itself.

        ``base`` is the absolute offset that the error's own offset (0 where it has none) is relative to.
        What is already known is kept, but for the offset, which is moved.
        """
        self.offset = base + (self.offset or 0)
        self.layer = layer if self.layer is None else self.layer
        self.record = record if self.record is None else self.record
        self.record_type = record_type if self.record_type is None else self.record_type
        return self

    def as_dict(self) -> dict:
        """The error as plain values, for JSON."""
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
        return text


class CorruptStream(StreamError):
    """The bytes contradict the format: a restore would fail, or do worse."""


class StrictViolation(CorruptStream):
    """A restore ignores this, a verifier doesn't: reserved bits, padding, trailing bytes, missing records."""


class OrderError(CorruptStream):
    """A record stands where it must not, comes twice, or is missing."""


class IncompleteStream(StreamError):
    """The stream ends as it should, but lacks records without which no guest runs.

    An interrupted save can look like this: zeros in place of what was never written read as the END record. ``missing``
    names the records.
    """

    def __init__(self, message: str, *, missing: Sequence[str], **where: Any) -> None:
        super().__init__(message, **where)
        self.missing = tuple(missing)

    def as_dict(self) -> Dict[str, Any]:
        return dict(super().as_dict(), missing=list(self.missing))


class TruncatedStream(StreamError):
    """The input ended inside something.

    ``missing`` is how many bytes at least were wanted beyond the end; ``offset`` is where the input ended.
    """

    def __init__(self, message: str, *, missing: int, **where: Any) -> None:
        super().__init__(message, **where)
        self.missing = missing

    def as_dict(self) -> dict:
        return dict(super().as_dict(), missing=self.missing)


class UnsupportedStream(StreamError):
    """Well formed as far as can be told, but not understood: another byte order, a later version, an unknown
    mandatory record, an unknown compression."""


class LimitExceeded(StreamError):
    """The stream asks for more than the caller's :class:`~xstream.limits.Limits` allow."""


class MissingPart(ValueError):
    """A container needs what its source hasn't got, and what can't be invented: it has to be given."""


class MemoryMismatch(StreamError):
    """Pages sent for comparison (after VERIFY) differ from those restored; ``pfns`` names them."""

    def __init__(self, message: str, *, pfns: Any, **where: Any) -> None:
        super().__init__(message, **where)
        self.pfns = pfns


def _plain(value: Any) -> Any:
    """Bytes from outside as escaped text, other values as they are."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        shown = bytes(value[:32])
        return repr(shown)[1:] + ("..." if len(value) > 32 else "")
    return value
