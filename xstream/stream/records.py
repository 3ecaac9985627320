"""The base class of all readers of records: iteration, and closing by ``with``."""

from xstream.errors import IncompleteStream, TruncatedStream
from xstream.stream.source import Source
from xstream.wire.libxc import PageData

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator, Optional, Tuple, TypeVar

    from xstream.stream.reader import AnyReader
    from xstream.wire.frames import Buffer
    from xstream.wire.pending import Data

    Self = TypeVar("Self", bound="RecordReader")


class RecordReader:
    """Records from ``source``, in order.

    A reader is for one thread at a time. A second thread that reads while the first does gets a RuntimeError if it is
    noticed, which isn't certain; otherwise records are lost.
    """

    source: Source
    #: What follows in the source that can't be read, in words; None if everything can. See NestedReader.
    unread: "Optional[str]" = None
    #: After a TruncatedStream: the batch that the input's end cuts off, with as much of its data as there is, if the
    #: source knew that before the batch was returned. None otherwise.
    cut: "Optional[PageData]" = None
    #: Whether the stream's last record has been read.
    ended = False
    #: The record that completed the last checkpoint: its layer, number and offset; None before the first.
    last_checkpoint: "Optional[Tuple[str, int, int]]" = None

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

    def _batch_data(self, words: "Buffer", at: int, size: int) -> "Data":
        """The data of a batch, ``size`` bytes that begin ``at`` bytes from here."""
        try:
            return self.source.page_data(at, size)
        except TruncatedStream:
            self.cut = PageData(words, self.source.peek(at + size)[at:])
            raise

    def check_whole(self) -> None:
        """Raise IncompleteStream if the stream, read to its end, lacks what a guest can't run without. Of a PV guest's,
        the bytes that follow the stream are looked at, unless the source is ``exact``."""
        missing = self.missing or self._lost()
        if missing:
            raise incomplete(self, missing)  # type: ignore[arg-type]  # all subclasses are readers

    def _lost(self) -> "Tuple[str, ...]":
        """Records that what follows the end of the stream has taken the place of; needs ``missing`` to be empty."""
        return ()

    def next_record(self) -> "Optional[object]":
        """The next record, or None after the last one."""
        raise NotImplementedError

    def __iter__(self) -> "Iterator[Any]":
        while True:
            record = self.next_record()
            if record is None:
                return
            yield record


def after_end(source: Source, most: int = 256 << 10) -> "Tuple[memoryview, Optional[int]]":
    """The bytes that follow the end of the stream, ``most`` at most (forty vcpus' records), and the offset at which the
    input ends; None if there are more. Nothing is consumed. No bytes if the source is exact or can't be read to its
    end."""
    if source.exact or not source.can_drain():
        return memoryview(b""), None
    after = source.peek(most + 1)
    return after[:most], source.offset + len(after) if len(after) <= most else None


def incomplete(reader: "AnyReader", missing: "Tuple[str, ...]") -> IncompleteStream:
    """The error for a stream that ends without what ``missing`` names. It is located at the last record; where the
    input ends after a checkpoint, at the one that completed this: not every source notices that a later record is cut
    off before it has been returned."""
    place = reader.last_checkpoint if not reader.ended else None
    layer, number, offset = place or (reader.layer, reader.index, reader.offset)
    return IncompleteStream(
        "not whole: the stream ends without records that a guest can't run without, as after an interrupted save",
        missing=missing, layer=layer, offset=offset, record=number, field="records", expected=", ".join(missing),
        got="the end of the stream")
