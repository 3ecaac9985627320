"""Guest memory in the file formats that analysis tools read."""
from typing import Callable, NamedTuple, Optional, Tuple

from xstream.convert.elf import write_elf
from xstream.convert.images import write_pages
from xstream.convert.lime import write_lime
from xstream.guest.memory_view import MemoryView
from xstream.limits import Limits
from xstream.stream.sink import Sink, check_not_same_file, opened_sink
from xstream.wire.libxc import PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xstream.stream.types import SinkLike, SourceLike

#: What ``export`` can write.
FORMATS = ("elf", "lime", "raw")


class Exported(NamedTuple):
    """What was written: the format, bytes (holes included), populated pages, and runs of them.

    Of an ELF core file also the vcpus with a register note, the kernel release that its VMCOREINFO names (None without
    one), and the reason why there are no register notes, if the vcpus' records are bad.
    """

    format: str
    bytes: int
    populated: int
    runs: int
    vcpus: int = 0
    release: Optional[str] = None
    problem: Optional[str] = None


def export(source: "SourceLike", sink: "SinkLike", *, to: str = "elf", pfns: Optional[Tuple[int, int]] = None,
           format: Optional[str] = None, limits: Limits = Limits(), checkpointed: bool = True,
           width: Optional[int] = None, guest: Optional[str] = None,
           progress: Callable[[int], object] = lambda offset: None, sparse: bool = True) -> Exported:
    """Write the guest memory that a stream ends with to ``sink``, in a format that analysis tools read.

    - ``to``: "elf", a core file for crash, drgn, gdb, makedumpfile and Volatility; "lime", for Volatility and Rekall;
      "raw", the pages alone, the first PFN's at offset 0;
    - ``pfns``: only the PFNs from the first up to and including the second number.

    ``sink`` is anything that :func:`~xstream.stream.sink.opened_sink` takes. A file at a path has mode 0600, and with
    ``sparse`` holes instead of zeros, and appears when it is complete; anything else is written front to back.
    ``source`` and the other arguments are those of :class:`~xstream.guest.memory_view.MemoryView`.

    Raises StreamError or a subclass, shutil.SameFileError if source and sink are the same file, other OSErrors, and
    ValueError for an unknown format or a range that ends before it begins.
    """
    if to not in FORMATS:
        raise ValueError("unknown format {!r}; known are {}".format(to, ", ".join(FORMATS)))
    if pfns is not None and not 0 <= pfns[0] <= pfns[1]:
        raise ValueError("not a range of PFNs: {} to {}".format(*pfns))
    check_not_same_file(source, sink)
    with MemoryView(source, format=format, limits=limits, checkpointed=checkpointed, width=width, guest=guest,
                    progress=progress) as view, opened_sink(sink, sparse=sparse) as opened:
        first, stop = (0, len(view)) if pfns is None else (pfns[0], min(pfns[1] + 1, len(view)))
        if to == "elf":
            return Exported(to, *write_elf(view, opened, first, stop))
        if to == "lime":
            return Exported(to, *write_lime(view, opened, first, stop))
        return Exported(to, *_write_raw(view, opened, first, stop))


def _write_raw(view: MemoryView, sink: Sink, first: int, stop: int) -> Tuple[int, int, int]:
    runs = view.runs(first, stop)
    start, done = sink.offset, first
    for begin, count in runs.tolist():
        sink.write_zeros((begin - done) * PAGE_SIZE)
        write_pages(sink, view, begin, count)
        done = begin + count
    sink.write_zeros(max(stop - done, 0) * PAGE_SIZE)
    return sink.offset - start, int(runs[:, 1].sum()), len(runs)
