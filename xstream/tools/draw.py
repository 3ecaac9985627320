"""Pictures of a saved guest's memory, as HTML or PNG."""
import os
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

from xstream.guest.memory_view import MemoryView
from xstream.kernels import pfns as pfn_kernel
from xstream.limits import Limits
from xstream.stream.sink import check_not_same_file, opened_sink
from xstream.tools.memory_map import MemoryMap, memory_map
from xstream.wire.libxc import PAGE_SIZE, PAGE_TYPES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xstream.stream.types import SinkLike, SourceLike


class Drawn(NamedTuple):
    """What is in a picture.

    - ``format``, ``version``, ``guest``, ``made_by``: the stream, as :class:`xstream.Reader` has them in ``identity``;
    - ``highest_pfn``; ``populated``: populated PFNs; ``types``: PFNs by page type;
    - ``contents``: pages by what they contain: "zero", "text-like" (mostly printable ASCII), "random" (as compressed or
      encrypted data), "other", or "without contents";
    - ``resent``: pages sent again, each time counted;
    - ``page_tables``: page tables that the vcpus' cr3 lead to, by level; ``vcpus``: PFN of the top one of each vcpu, by
      its number, None for one without paging; ``problem``: why there are none, if the vcpus' records are bad;
    - ``differences``: pages that are the same, differ, appeared or vanished in another guest; None without one;
    - ``pages_per_square``: PFNs that one square of the picture stands for.
    """

    format: str
    version: int
    guest: str
    made_by: str
    highest_pfn: int
    populated: int
    types: Dict[str, int]
    contents: Dict[str, int]
    resent: int
    page_tables: Dict[str, int]
    vcpus: Dict[int, Optional[int]]
    problem: Optional[str]
    differences: Optional[Dict[str, int]]
    pages_per_square: int

    def rows(self) -> List[Tuple[str, str]]:
        """The summary beside the picture: names and values."""
        share = " ({:.1f} %)".format(100 * self.contents["zero"] / self.populated) if self.populated else ""
        rows = [("Format", "{}, version {}".format(self.format, self.version)),
                ("Written by", self.made_by),
                ("Guest", "{}, {} vcpu{}".format(self.guest, len(self.vcpus), "" if len(self.vcpus) == 1 else "s")),
                ("Memory", "{} in {} pages".format(_size(self.populated), self.populated)),
                ("Highest PFN", hex(max(self.highest_pfn, 0))),
                ("Zero pages", "{}{}".format(self.contents["zero"], share)),
                ("Pages sent again", str(self.resent)),
                ("Page types", _listed(self.types))]
        if self.page_tables:
            rows.append(("Page tables in use", _listed(self.page_tables)))
        if self.problem is not None:
            rows.append(("No registers", self.problem))
        if self.differences is not None:
            rows.append(("Differences", _listed(self.differences)))
        return rows + [("One square", "{} page{}, {}".format(
            self.pages_per_square, "" if self.pages_per_square == 1 else "s", _size(self.pages_per_square)))]


def draw_memory(source: "SourceLike", sink: "SinkLike", *, to: Optional[str] = None,
                against: "Optional[SourceLike]" = None, format: Optional[str] = None,
                limits: Limits = Limits(), width: Optional[int] = None, guest: Optional[str] = None,
                progress: Callable[[int], object] = lambda offset: None, jobs: int = 1) -> Drawn:
    """Draw a picture of the memory that a stream ends with: what is in its pages, their types, how often each was sent,
    and which are page tables in use.

    - ``to``: "html", a page that needs no network, with light and dark colours and figures for each square; or "png",
      which needs Pillow (extra ``picture``). By default "png" for a path that ends so, else "html";
    - ``against``: another guest, whose pages are compared with the first's, as by :func:`xstream.diff`.

    Both sources are anything that :class:`~xstream.guest.memory_view.MemoryView` takes, in any container; ``sink`` is
    anything that :func:`~xstream.stream.sink.opened_sink` takes. ``format``, ``width`` and ``guest`` are about the
    first source. ``jobs`` threads look at pages; ``progress`` is called with the offset reached while the first source
    is read. A page of any guest stays under 2 MiB.

    Raises StreamError or a subclass, shutil.SameFileError if a source and the sink are the same file, other OSErrors,
    ImportError without Pillow, and ValueError for an unknown ``to``.
    """
    path = os.fspath(sink) if isinstance(sink, (str, os.PathLike)) else ""
    draw = _drawer(to or ("png" if path.lower().endswith(".png") else "html"))
    check_not_same_file(source, sink)
    with MemoryView(source, format=format, limits=limits, width=width, guest=guest, progress=progress) as view:
        if against is None:
            mapped = memory_map(view, jobs=jobs)
        else:
            check_not_same_file(against, sink)
            with MemoryView(against, limits=limits) as other:
                mapped = memory_map(view, other, jobs)
        drawn = _drawn(view, mapped)
    names = [os.path.basename(os.fspath(each)) for each in (source, against) if isinstance(each, (str, os.PathLike))]
    with opened_sink(sink) as opened:
        opened.write([draw(mapped, drawn.rows(), " and ".join(names))])
    return drawn


def _drawer(to: str) -> Callable[[MemoryMap, List[Tuple[str, str]], str], bytes]:
    """What draws a picture of a kind."""
    if to == "png":
        from xstream.tools.map_png import picture
        return picture
    if to == "html":
        from xstream.tools.map_page import page
        return page
    raise ValueError("unknown kind of picture {!r}; known are html, png".format(to))


def _drawn(view: MemoryView, mapped: MemoryMap) -> Drawn:
    types = zip(PAGE_TYPES, pfn_kernel.type_histogram(view.state))
    totals = {each.title: each.totals for each in mapped.views}
    for each in totals.values():
        del each["absent"]
    tables = totals.get("Page tables in use", {})
    tables.pop("other pages", None)
    return Drawn(*view.identity, len(view) - 1, view.populated_count, {name: count for name, count in types if count},
                 totals["Contents"], mapped.resent, {level: count for level, count in tables.items() if count},
                 mapped.tables, mapped.problem, totals.get("Differences"), mapped.grid.per_cell)


def _listed(counts: Dict[str, int]) -> str:
    return ", ".join("{} {}".format(count, name) for name, count in counts.items() if count)


def _size(pages: int) -> str:
    """The size of pages in a unit that people read."""
    value, unit = pages * PAGE_SIZE / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return "{:.4g} {}".format(value, unit)
