"""A saved guest's memory as a grid of cells, each for the same number of neighbouring PFNs, to be drawn.

The grid has at most _ROWS x _COLUMNS cells, whatever the guest's size, and leaves out long ranges without pages.
"""
from functools import partial
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy

from xstream.errors import StreamError
from xstream.guest.memory_view import MemoryView
from xstream.guest.paging import Tables, reached_tables, uses_paging
from xstream.guest.parallel import Workers
from xstream.guest.vcpus import Vcpu, vcpus
from xstream.kernels import contents as contents_kernel
from xstream.kernels import pfns as pfn_kernel
from xstream.tools.diff import PageChanges, changed_pages, grown
from xstream.wire.libxc import PAGE_SIZE

_COLUMNS, _ROWS = 128, 64
#: Smaller guests have narrower grids: pages from which on a grid has this many columns.
_NARROWEST = 32
_WIDTHS = ((2048, _COLUMNS), (512, 64), (0, _NARROWEST))
#: Parts that a grid may have, with ranges without pages between them.
_PARTS = 6
#: PFNs looked at in one step, and pages classified in one task.
_AT_ONCE, _TASK = 1 << 20, 1024


class Kind(NamedTuple):
    """A kind of page: its name, its colour (a key of the palettes), and its weight. A cell has the colour of the kind
    of which it has most pages, multiplied by their weight."""

    name: str
    colour: str
    weight: float = 1


#: The kind of PFNs that the guest doesn't have: it is seen where there is nothing else. The last of each view.
_ABSENT = Kind("absent", "absent", 1e-12)
_INVALID = Kind("XTAB or broken", "invalid", 1e-6)

_CONTENTS = (Kind("zero", "zero"), Kind("text-like", "text"), Kind("random", "random"), Kind("other", "other"),
             Kind("without contents", "bare"), _ABSENT)
#: By the kernel's numbers.
_CONTENTS_CODES = numpy.zeros(4, numpy.uint8)
_CONTENTS_CODES[[contents_kernel.ZERO, contents_kernel.TEXT, contents_kernel.RANDOM, contents_kernel.OTHER]] = range(4)
_WITHOUT_CONTENTS = 4

_LEVELS = ("level1", "level2", "level3", "level4", "level5")
_TYPES = (Kind("normal", "plain"), *(Kind("L{} table".format(level), _LEVELS[level - 1], 8) for level in range(1, 5)),
          Kind("pinned table", "pinned", 8), Kind("without contents", "bare"), _INVALID, _ABSENT)
#: By page type; the reserved types 5 to 8 don't occur.
_TYPES_CODES = numpy.array([0, 1, 2, 3, 4, 0, 0, 0, 0, 5, 5, 5, 5, 7, 6, 7], numpy.uint8)

_SENDS = (Kind("once", "plain"), Kind("2 times", "twice", 2), Kind("3 or 4 times", "often3", 4),
          Kind("5 to 8 times", "often5", 8), Kind("9 times or more", "often9", 16), Kind("never", "bare"), _ABSENT)
#: By the number of sends, up to 9.
_SENDS_CODES = numpy.array([5, 0, 1, 2, 2, 3, 3, 3, 3, 4], numpy.uint8)

_TABLES = (Kind("other pages", "plain"), *(Kind("level {}".format(level), colour, 8 * level)
                                           for level, colour in enumerate(_LEVELS, 1)), _ABSENT)

_CHANGES = (Kind("the same", "plain"), Kind("contents differ", "differing", 16),
            Kind("page type differs", "retyped", 16), Kind("appeared", "appeared", 16),
            Kind("vanished", "vanished", 16), _ABSENT)

_VIEWS = (("Differences", _CHANGES), ("Contents", _CONTENTS), ("Page types", _TYPES), ("Times sent", _SENDS),
          ("Page tables in use", _TABLES))


class View(NamedTuple):
    """One way to colour the grid: ``counts``, ndarray (cells, kinds) uint32, PFNs of each kind in each cell."""

    title: str
    kinds: Tuple[Kind, ...]
    counts: numpy.ndarray

    @property
    def totals(self) -> Dict[str, int]:
        """PFNs of each kind."""
        return dict(zip((kind.name for kind in self.kinds), self.counts.sum(axis=0, dtype=numpy.int64).tolist()))

    @property
    def key(self) -> List[Tuple[Kind, str]]:
        """The kinds that occur, and a text for each."""
        shown = ((kind, self.totals[kind.name]) for kind in self.kinds)
        return [(kind, kind.name if kind is _ABSENT else "{}: {}".format(kind.name, count))
                for kind, count in shown if count]

    @property
    def colours(self) -> numpy.ndarray:
        """The kind that each cell is coloured by, ndarray (cells,)."""
        chosen: numpy.ndarray = (self.counts * numpy.array([kind.weight for kind in self.kinds])).argmax(axis=1)
        return chosen


class Part(NamedTuple):
    """A rectangle of the grid: its first PFN, its rows, and its first cell."""

    pfn: int
    rows: int
    cell: int


class Grid(NamedTuple):
    """How PFNs are laid out: cells in a row, PFNs in a cell, and the parts in ascending order."""

    columns: int
    per_cell: int
    parts: Tuple[Part, ...]

    @property
    def cells(self) -> int:
        """Cells in all."""
        return self.parts[-1].rows * self.columns + self.parts[-1].cell

    def cell_of(self, pfns: numpy.ndarray) -> numpy.ndarray:
        """The cell of each of these PFNs, ndarray (n,) int64; -1 for those that are left out."""
        firsts, rows, starts = numpy.array(self.parts, numpy.int64).reshape(-1, 3).T
        which = numpy.maximum(numpy.searchsorted(firsts, pfns, "right") - 1, 0)
        cells = (pfns - firsts[which]) // self.per_cell
        return numpy.where((cells >= 0) & (cells < rows[which] * self.columns), starts[which] + cells, -1)


class MemoryMap(NamedTuple):
    """A guest's memory, ready to be drawn.

    - ``resent``: pages sent again, each time counted;
    - ``tables``: PFN of the top page table of each vcpu, by its number, None for one without paging; ``problem``: why
      there are none, if the vcpus' records are bad.
    """

    grid: Grid
    views: Tuple[View, ...]
    resent: int
    tables: Dict[int, Optional[int]]
    problem: Optional[str]


def memory_map(view: MemoryView, against: Optional[MemoryView] = None, jobs: int = 1) -> MemoryMap:
    """Lay out a guest's memory and count the kinds of its pages; ``against``: also what differs in another guest.

    ``jobs`` threads read and compare the pages.
    """
    cpus, problem = _vcpus(view)
    changes = None if against is None else changed_pages(view, against, jobs)
    grid = _grid(view, against)
    views = [View(title, kinds, numpy.zeros((grid.cells, len(kinds)), numpy.uint32)) for title, kinds in _VIEWS]
    resent = 0
    with Workers(jobs) as workers:
        for cells, times, codes in _chunks(view, against, grid, reached_tables(view, cpus), changes, workers):
            resent += int((numpy.maximum(times, 1) - 1).sum())
            for (_, kinds, counts), numbers in zip(views, codes):
                found = numpy.bincount(cells * len(kinds) + numbers, minlength=counts.size)
                counts += found.reshape(counts.shape).astype(counts.dtype)
    for each in views:
        each.counts[:, -1] = grid.per_cell - each.counts[:, :-1].sum(axis=1)
    differences, contents, types, sends, tables = views
    shown = [differences] * (against is not None) + [contents, types] + [sends] * (resent > 0) + \
        [tables] * any(map(uses_paging, cpus))
    tops = {cpu.number: cpu.page_table if uses_paging(cpu) else None for cpu in cpus}
    return MemoryMap(grid, tuple(shown), resent, tops, problem)


def _vcpus(view: MemoryView) -> Tuple[List[Vcpu], Optional[str]]:
    try:
        return vcpus(view.records.records()), None
    except StreamError as error:
        return [], str(error)


def _spans(view: MemoryView, against: Optional[MemoryView]) -> Iterator[Tuple[int, numpy.ndarray]]:
    """(first PFN, the guests' states from there on combined by or) of each span in which any PFN is mentioned."""
    states = [each.state for each in (view, against) if each is not None]
    for start in range(0, max(map(len, states)), _AT_ONCE):
        here = [state[start:start + _AT_ONCE] for state in states if state[start:start + _AT_ONCE].any()]
        if here:
            yield start, numpy.bitwise_or.reduce([grown(state, _AT_ONCE, 0) for state in here])


def _grid(view: MemoryView, against: Optional[MemoryView]) -> Grid:
    """The finest grid in which every PFN has a cell that is populated or broken. A saver may mention all others, up to
    the highest, as XTAB."""
    pages, blocks = 0, [numpy.zeros(0, numpy.int64)]
    for start, state in _spans(view, against):
        found = numpy.flatnonzero(state & (pfn_kernel.POPULATED | 0xF))
        pages += len(found)
        blocks.append(numpy.unique((found + start) // _NARROWEST))
    if not pages:
        return Grid(_NARROWEST, 1, (Part(0, 1, 0),))
    columns = next(width for least, width in _WIDTHS if pages >= least)
    rows, per_cell = numpy.unique(numpy.concatenate(blocks) // (columns // _NARROWEST)), 1
    while True:
        # A part ends before two or more rows that are empty.
        ends = numpy.flatnonzero(numpy.diff(rows) > 2)
        firsts, lasts = rows[numpy.append(0, ends + 1)], rows[numpy.append(ends, len(rows) - 1)]
        heights = lasts - firsts + 1
        if len(firsts) <= _PARTS and heights.sum() <= _ROWS:
            break
        rows, per_cell = numpy.unique(rows // 2), per_cell * 2
    starts = (numpy.cumsum(heights) - heights) * columns
    parts = zip((firsts * columns * per_cell).tolist(), heights.tolist(), starts.tolist())
    return Grid(columns, per_cell, tuple(Part(*part) for part in parts))


#: (cells, times sent, the numbers of their kinds in each of _VIEWS) of some PFNs.
_Chunk = Tuple[numpy.ndarray, numpy.ndarray, List[numpy.ndarray]]


def _chunks(view: MemoryView, against: Optional[MemoryView], grid: Grid, tables: Tables,
            changes: Optional[PageChanges], workers: Workers) -> Iterator[_Chunk]:
    """All PFNs that are mentioned and drawn."""
    for start, combined in _spans(view, against):
        found = numpy.flatnonzero(combined)
        cells = grid.cell_of(found + start)
        found, cells = found[cells >= 0], cells[cells >= 0]
        pfns = found + start
        state = grown(view.state[start:start + _AT_ONCE], _AT_ONCE, 0)[found]
        populated, sent = state & pfn_kernel.POPULATED != 0, state & pfn_kernel.SENT != 0
        kinds = _contents(view, start, pfns[sent], workers)[found]
        times = grown(view.copies[start:start + _AT_ONCE], _AT_ONCE, 0)[found]
        yield cells, times, [
            _change_codes(changes, pfns) if changes is not None else numpy.zeros(len(pfns), numpy.uint8),
            _where(populated, numpy.where(sent, _CONTENTS_CODES[kinds], _WITHOUT_CONTENTS), _CONTENTS),
            _where(state != 0, _TYPES_CODES[state & 0xF ^ 0xF], _TYPES),
            _where(populated, _SENDS_CODES[numpy.minimum(times, 9)], _SENDS),
            _where(populated, _levels(tables, pfns), _TABLES)]


def _where(there: numpy.ndarray, codes: Union[numpy.ndarray, int], kinds: Sequence[Kind]) -> numpy.ndarray:
    """The codes, but that of absent pages where a page isn't there."""
    return numpy.where(there, codes, len(kinds) - 1)


def _change_codes(changes: PageChanges, pfns: numpy.ndarray) -> numpy.ndarray:
    codes = _where(changes.both[pfns], 0, _CHANGES)
    for code, flags in ((2, changes.retyped), (1, changes.differing), (3, changes.appeared), (4, changes.vanished)):
        codes[flags[pfns]] = code
    return codes


def _contents(view: MemoryView, start: int, pfns: numpy.ndarray, workers: Workers) -> numpy.ndarray:
    """The kernel's kind of each of _AT_ONCE pages from ``start`` on; those of ``pfns`` are looked at."""
    kinds = numpy.zeros(_AT_ONCE, numpy.uint8)

    def classify(first: int) -> None:
        at = first - start
        for _, pieces in view.buffers(first, min(_TASK, len(view) - first)):
            for piece in pieces or ():
                contents_kernel.classify(piece, kinds[at:at + len(piece) // PAGE_SIZE])
                at += len(piece) // PAGE_SIZE

    workers.run([partial(classify, int(task) * _TASK) for task in numpy.unique(pfns // _TASK)])
    return kinds


def _levels(tables: Tables, pfns: numpy.ndarray) -> numpy.ndarray:
    """The level of each of these pages as a page table, 0 of all others."""
    found = numpy.zeros(len(pfns), numpy.uint8)
    at = numpy.searchsorted(tables.pfns, pfns.astype(numpy.uint64))
    is_table = at < len(tables.pfns)
    is_table[is_table] = tables.pfns[at[is_table]] == pfns[is_table].astype(numpy.uint64)
    found[is_table] = tables.levels[at[is_table]]
    return found
