"""Timing of two sides in turn, so that a machine that changes its speed changes it for both."""
import resource
import statistics
import time
from typing import Callable, List, NamedTuple, Optional


class Figures(NamedTuple):
    """Seconds of one side: median, least and most of all rounds; ``cpu`` is the median of CPU seconds, ours and the
    kernel's."""

    median: float
    least: float
    most: float
    cpu: float


class Pair(NamedTuple):
    """Both sides; ``ratio`` is the median of limit's seconds by ours, round by round: 1 is as fast as the limit."""

    ours: Figures
    limit: Optional[Figures]
    ratio: Optional[float]


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _once(work: Callable[[], object]) -> List[float]:
    cpu, start = _cpu(), time.perf_counter()
    work()
    return [time.perf_counter() - start, _cpu() - cpu]


def _figures(rounds: List[List[float]]) -> Figures:
    seconds = [wall for wall, _ in rounds]
    return Figures(statistics.median(seconds), min(seconds), max(seconds), statistics.median(cpu for _, cpu in rounds))


def measure(ours: Callable[[], object], limit: Optional[Callable[[], object]], rounds: int) -> Pair:
    """Run both sides in turn, once unmeasured and ``rounds`` times measured."""
    ours()
    if limit is None:
        return Pair(_figures([_once(ours) for _ in range(rounds)]), None, None)
    limit()
    both = [(_once(ours), _once(limit)) for _ in range(rounds)]
    ratio = statistics.median(theirs[0] / own[0] for own, theirs in both)
    return Pair(_figures([own for own, _ in both]), _figures([theirs for _, theirs in both]), ratio)
