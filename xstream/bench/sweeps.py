"""How cost grows: the cost for several values of one quantity, and the slope."""
import io
import os
from functools import partial
from typing import Callable, Dict, List, NamedTuple, Sequence, Tuple, TypeVar

import numpy

from xstream.bench import machine
from xstream.bench.guests import BenchGuest, begin_stream, end_stream, seeded_guest, write_in_batches, write_stream
from xstream.bench.timing import Effort, measure
from xstream.bench.workloads import Work
from xstream.guest.load import load
from xstream.guest.memory import GuestMemory
from xstream.kernels import pages as page_kernel
from xstream.tools.verify import verify
from xstream.wire.libxc import Unknown

T = TypeVar("T")

#: An optional record type that readers ignore.
_OPTIONAL = 0x80000055


class Point(NamedTuple):
    """``x``: the quantity that the cost is expected to grow with; ``label``: the value that was varied; ``seconds``:
    the median."""

    x: float
    label: str
    seconds: float


class Sweep(NamedTuple):
    """The cost of one kind of work for several values of a quantity. ``slope``: that of the line of least squares, in
    ns for each ``unit``."""

    name: str
    what: str
    unit: str
    points: Sequence[Point]

    @property
    def slope(self) -> float:
        """Nanoseconds for each additional ``unit``."""
        line = numpy.polyfit([point.x for point in self.points], [point.seconds * 1e9 for point in self.points], 1)
        return float(line[0])


class Sweeps:
    """All sweeps over guests of at most ``size`` bytes."""

    def __init__(self, size: int, effort: Effort, coarse: bool = False) -> None:
        self._pages = size // 4096
        self._effort = effort
        self._step = 4 if coarse else 1

    def run(self) -> List[Sweep]:
        """Measure everything."""
        return [*self._sizes(), *self._batches(), *self._zero_shares(), *self._absent_shares(), *self._records()]

    def _sizes(self) -> List[Sweep]:
        values = self._thin([self._pages >> shift for shift in range(5, -1, -1)])
        return self._by_stream("guest size", "page", [
            (pages, "{:g}M".format(pages / 256), _streamed(pages, write_stream)) for pages in values])

    def _batches(self) -> List[Sweep]:
        values = self._thin([1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1])
        return self._by_stream("pages in a batch", "record", [
            (self._pages / batch, str(batch), _streamed(self._pages, _batched(batch, 0))) for batch in values])

    def _absent_shares(self) -> List[Sweep]:
        values = self._thin([0.0, 0.2, 0.4, 0.6, 0.8])
        return self._by_stream("share of XTAB entries", "XTAB entry", [
            (self._pages * share / (1 - share), "{:.0%}".format(share), _streamed(self._pages, _batched(64, share)))
            for share in values])

    def _zero_shares(self) -> List[Sweep]:
        found = numpy.zeros(self._pages, numpy.uint64)
        points = []
        for share in self._thin([0.0, 0.25, 0.5, 0.75, 1.0]):
            memory = seeded_guest(self._pages, zero=share).memory.buffer
            seconds, = self._time(partial(page_kernel.zero_pages, memory, found))
            points.append(Point(self._pages * share, "{:.0%}".format(share), seconds))
        return [Sweep("zero scan by share of zero pages", "pages with contents are left at their first bytes",
                      "zero page", points)]

    def _records(self) -> List[Sweep]:
        points = []
        for count in self._thin([1 << shift for shift in range(8, 13)]):
            stream = io.BytesIO()
            guest = seeded_guest(1)
            writer = begin_stream(guest, stream)
            for _ in range(count):
                writer.write(Unknown(_OPTIONAL, b""))
            end_stream(guest, writer)
            seconds, = self._time(partial(verify, stream.getvalue()))
            points.append(Point(count, str(count), seconds))
        return [Sweep("verify by number of records", "optional records without contents", "record", points)]

    def _by_stream(self, quantity: str, unit: str,
              streams: Sequence[Tuple[float, str, Callable[[str], Tuple[str, int]]]]) -> List[Sweep]:
        """Decode and verify the same streams."""
        points: Dict[str, List[Point]] = {"decode": [], "verify": []}
        with machine.scratch(self._pages * 4096) as folder:
            for x, label, make in streams:
                path, pages = make(folder)
                ready = GuestMemory(pages, limit=64 * pages)
                ready.pages[:] = 1
                for name, seconds in zip(points, self._time(partial(load, path, ready), partial(verify, path))):
                    points[name].append(Point(x, label, seconds))
                os.unlink(path)
        return [Sweep("{} by {}".format(name, quantity), "a mapped file", unit, found)
                for name, found in points.items()]

    def _time(self, *works: Work) -> List[float]:
        return [figures.seconds.median for figures in measure(works, self._effort)]

    def _thin(self, values: Sequence[T]) -> Sequence[T]:
        """All values, or a selection that includes the first and the last."""
        return sorted(set(values[::self._step]) | {values[-1]}, key=values.index)


def _batched(batch: int, absent: float) -> Callable[[BenchGuest, int], None]:
    return lambda guest, fd: write_in_batches(guest, fd, batch, absent)


def _streamed(pages: int, write: Callable[[BenchGuest, int], None]) -> Callable[[str], Tuple[str, int]]:
    def make(folder: str) -> Tuple[str, int]:
        path = os.path.join(folder, "sweep")
        with open(path, "wb", buffering=0) as file:
            write(seeded_guest(pages), file.fileno())
        return path, pages
    return make
