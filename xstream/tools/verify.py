"""Is this stream good? Structure, order and PFN words; page data isn't looked at."""
from typing import Any, Callable, NamedTuple

from xstream.stream.opening import open_stream
from xstream.wire.libxc import PAGE_SIZE, PageData


class VerifyReport(NamedTuple):
    """A good stream's summary."""

    format: str
    version: int
    guest: str
    made_by: str
    records: int
    batches: int
    pfns: int
    pages: int
    checkpoints: int
    bytes: int


def verify(source: Any, *, progress: Callable[[int], Any] = lambda offset: None, **options: Any) -> VerifyReport:
    """Check a whole stream; ``source`` and ``options`` are those of
    :func:`~xstream.stream.opening.open_stream`.

    ``progress`` is told the offset reached, now and then. Raises the first fault, as StreamError's kin.
    """
    with open_stream(source, **options) as reader:
        batches = pfns = pages = 0
        while True:
            run = reader.next_run()
            if run is not None:
                batches += run.records
                pfns += len(run.words) // 8
                pages += run.pages
            else:
                record = reader.next_record()
                if record is None:
                    break
                if isinstance(record, PageData):
                    batches += 1
                    pfns += record.pfn_count
                    pages += len(record.data) // PAGE_SIZE
            progress(reader.source.offset)
        return VerifyReport(*reader.identity, records=reader.index + 1, batches=batches, pfns=pfns, pages=pages,
                            checkpoints=reader.checkpoints, bytes=reader.source.offset)
