"""The base class of all readers of records: iteration, and closing by ``with``."""
from typing import Any, Generic, Iterator, Optional, TypeVar

from xstream.stream.source import Source

R = TypeVar("R")
Self = TypeVar("Self", bound="RecordReader[Any]")


class RecordReader(Generic[R]):
    """Records from ``source``, in order.

    A reader is for one thread at a time. A second thread that reads while the first does gets a RuntimeError if it is
    noticed, which isn't certain; otherwise records are lost.
    """

    source: Source
    #: What follows in the source that can't be read, in words; None if everything can. See NestedReader.
    unread: Optional[str] = None

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()

    def close(self) -> None:
        """Close what the reader opened: a path's file, not a caller's descriptor."""
        self.source.close()

    def next_record(self) -> Optional[R]:
        """The next record, or None after the last one."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[R]:
        while True:
            record = self.next_record()
            if record is None:
                return
            yield record
