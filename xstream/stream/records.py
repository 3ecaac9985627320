"""The base class of all readers of records: iteration, and closing by ``with``."""

from xstream.errors import IncompleteStream
from xstream.stream.source import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator, Optional, Tuple, TypeVar

    from xstream.stream.reader import AnyReader

    Self = TypeVar("Self", bound="RecordReader")


class RecordReader:
    """Records from ``source``, in order.

    A reader is for one thread at a time. A second thread that reads while the first does gets a RuntimeError if it is
    noticed, which isn't certain; otherwise records are lost.
    """

    source: Source
    #: What follows in the source that can't be read, in words; None if everything can. See NestedReader.
    unread: "Optional[str]" = None

    def __enter__(self: "Self") -> "Self":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what the reader opened: a path's file, not a caller's descriptor."""
        self.source.close()

    @property
    def missing(self) -> "Tuple[str, ...]":
        """Records that a guest can't run without and that haven't come."""
        raise NotImplementedError

    def check_whole(self) -> None:
        """Raise IncompleteStream if the stream, read to its end, lacks what a guest can't run without."""
        if self.missing:
            raise _incomplete(self)  # type: ignore[arg-type]  # all subclasses are readers

    def next_record(self) -> "Optional[object]":
        """The next record, or None after the last one."""
        raise NotImplementedError

    def __iter__(self) -> "Iterator[Any]":
        while True:
            record = self.next_record()
            if record is None:
                return
            yield record


def _incomplete(reader: "AnyReader") -> IncompleteStream:
    """The error for a stream that ends without what ``reader.missing`` names."""
    return IncompleteStream(
        "not whole: the stream ends without records that a guest can't run without, as after an interrupted save",
        missing=reader.missing, layer=reader.layer, offset=reader.offset, record=reader.index, field="records",
        expected=", ".join(reader.missing), got="the end of the stream")
