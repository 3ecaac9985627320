"""Is this stream good? Structure, order and PFN words; page data isn't looked at."""
from typing import Any, Callable, NamedTuple, Tuple

from xstream.containers.opening import open_stream
from xstream.stream.reader import Layer
from xstream.wire.libxc import PAGE_SIZE, PageData


class VerifyReport(NamedTuple):
    """A good stream's summary. ``records`` counts those of all ``layers``, outermost first; ``format`` is the
    outermost's, ``version``, ``guest`` and ``made_by`` are the memory stream's."""

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
    layers: Tuple[Layer, ...]


def verify(source: Any, *, progress: Callable[[int], Any] = lambda offset: None, **options: Any) -> VerifyReport:
    """Check a whole stream; ``source`` and ``options`` are those of xstream.open.

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
        layers = reader.layers
        return VerifyReport(*reader.identity, records=sum(layer.records for layer in layers), batches=batches,
                            pfns=pfns, pages=pages, checkpoints=reader.checkpoints, bytes=reader.source.offset,
                            layers=layers)
