"""What all readers of records have in common: they are iterated over, and closed by ``with``."""
from typing import Any, Generic, Iterator, Optional, TypeVar

from xstream.stream.source import Source

R = TypeVar("R")
Self = TypeVar("Self", bound="RecordReader[Any]")


class RecordReader(Generic[R]):
    """Records out of ``source``, in order."""

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
        """The next record, or None behind the last."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[R]:
        while True:
            record = self.next_record()
            if record is None:
                return
            yield record
