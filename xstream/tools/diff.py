"""What differs between two saved guests: memory by PFN, page types, registers and parameters."""
from functools import partial
from typing import Callable, Dict, Iterator, NamedTuple, Optional, Tuple

import numpy

from xstream.guest.memory_view import MemoryView
from xstream.guest.parallel import Workers
from xstream.kernels import pages as page_kernel
from xstream.limits import Limits
from xstream.tools.contents import contents_of
from xstream.wire import libxc, libxl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xstream.errors import JsonValue
    from xstream.stream.types import SourceLike

#: Pages compared in one task.
_AT_ONCE = 1024

Runs = Tuple[Tuple[int, int], ...]


class Changed(NamedTuple):
    """A value that differs: where it is, such as ``X86_PV_VCPU_BASIC.0.rip``, and both values; None where one guest
    doesn't have it."""

    name: str
    first: "JsonValue"
    second: "JsonValue"


class DiffReport(NamedTuple):
    """Differences between a first and a second guest. PFNs are in runs: (first PFN, pages), ascending.

    - ``differing``: populated in both, with other contents (a page without contents counts as zeros);
    - ``appeared``, ``vanished``: populated only in the second, only in the first;
    - ``retyped``: populated in both, with another page type;
    - ``state``: registers, parameters and other state that differ;
    - ``compared``: pages that are populated in both.
    """

    differing: Runs
    appeared: Runs
    vanished: Runs
    retyped: Runs
    state: Tuple[Changed, ...]
    compared: int

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.differing or self.appeared or self.vanished or self.retyped or self.state)


def diff(first: "SourceLike", second: "SourceLike", *, format: Optional[str] = None, limits: Limits = Limits(),
         width: Optional[int] = None, guest: Optional[str] = None,
         progress: Callable[[int], object] = lambda offset: None, jobs: int = 1) -> DiffReport:
    """Compare two saved guests: two saves of one, or a source and its restored copy.

    Both are anything that :class:`~xstream.guest.memory_view.MemoryView` takes, in any container; ``format``, ``width``
    and ``guest`` are about the first. ``jobs`` threads compare pages; ``progress`` is called with the offset reached
    while the first is read. Raises StreamError or a subclass, and OSError.
    """
    with MemoryView(first, format=format, limits=limits, width=width, guest=guest, progress=progress) as one, \
            MemoryView(second, limits=limits) as other:
        return diff_views(one, other, jobs)


class PageChanges(NamedTuple):
    """The PFNs of each of the kinds that a :class:`DiffReport` lists, and those populated in both guests: ndarrays (n,)
    bool, as long as the larger guest."""

    both: numpy.ndarray
    differing: numpy.ndarray
    appeared: numpy.ndarray
    vanished: numpy.ndarray
    retyped: numpy.ndarray


def diff_views(one: MemoryView, other: MemoryView, jobs: int = 1) -> DiffReport:
    """Compare two views."""
    pages = changed_pages(one, other, jobs)
    return DiffReport(_runs(pages.differing), _runs(pages.appeared), _runs(pages.vanished), _runs(pages.retyped),
                      tuple(_state_changes(one, other)), int(pages.both.sum()))


def changed_pages(one: MemoryView, other: MemoryView, jobs: int = 1) -> PageChanges:
    """Compare the memory of two views."""
    size = max(len(one), len(other))
    here, there = grown(one.populated, size, False), grown(other.populated, size, False)
    both = here & there
    retyped = both & (grown(one.types, size, 0xF) != grown(other.types, size, 0xF))
    return PageChanges(both, _differing(one, other, both, jobs), ~here & there, here & ~there, retyped)


def grown(array: numpy.ndarray, size: int, fill: int) -> numpy.ndarray:
    """An array with ``fill`` added up to a size; a copy."""
    return numpy.concatenate((array, numpy.full(size - len(array), fill, array.dtype)))


def _differing(one: MemoryView, other: MemoryView, both: numpy.ndarray, jobs: int) -> numpy.ndarray:
    """Which PFNs have other contents, bool."""
    found = numpy.zeros(len(both), bool)
    pfns = numpy.flatnonzero(both)

    def compare(some: numpy.ndarray) -> None:
        differing = numpy.empty(len(some), numpy.uint64)
        count = page_kernel.compare(one.pages(some).reshape(-1), numpy.arange(len(some), dtype=numpy.uint64),
                                    other.pages(some).reshape(-1), differing)
        found[some[differing[:count].astype(numpy.int64)]] = True

    with Workers(jobs) as workers:
        workers.run([partial(compare, pfns[start:start + _AT_ONCE]) for start in range(0, len(pfns), _AT_ONCE)])
    return found


def _runs(flags: numpy.ndarray) -> Runs:
    edges = numpy.flatnonzero(numpy.diff(numpy.concatenate(([0], flags.view(numpy.int8), [0]))))
    return tuple((first, stop - first) for first, stop in edges.reshape(-1, 2).tolist())


def _state_changes(one: MemoryView, other: MemoryView) -> Iterator[Changed]:
    first, second = _state(one), _state(other)
    for name in list(first) + [name for name in second if name not in first]:
        if first.get(name) != second.get(name):
            yield Changed(name, first.get(name), second.get(name))


def _state(view: MemoryView) -> "Dict[str, JsonValue]":
    """Every value in the records beside memory, by name. The domain's own XenStore paths are left out."""
    values: Dict[str, JsonValue] = {}
    for record in view.records.records():
        if not isinstance(record, libxl.EmulatorXenstoreData):
            shown = contents_of(record, libxc.GUEST_WIDTHS.get(view.pt_levels, 8))
            number = shown.pop("vcpu_id", None)
            name = type(record).__name__ + ("" if number is None else ".{}".format(number))
            values.update(_flat(name, shown))
    return values


#: Fields by which the entries of a list are known, rather than by their position.
_KEYS = ("name", "index", "leaf", "subleaf", "instance", "vcpu", "vector")


def _flat(name: str, value: "JsonValue") -> "Iterator[Tuple[str, JsonValue]]":
    if isinstance(value, dict):
        for key, item in value.items():
            if key != "offset":
                yield from _flat("{}.{}".format(name, key), item)
    elif isinstance(value, (list, tuple)) and any(isinstance(item, dict) for item in value):
        for position, item in enumerate(value):
            parts = [str(item[key]) for key in _KEYS if item.get(key) is not None]
            yield from _flat("{}.{}".format(name, ".".join(parts) or position), item)
    else:
        yield name, value
