"""Time several sides in turn, so that changes of the machine's speed affect all of them alike."""
import contextlib
import os
import resource
import statistics
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence

_RESET_PEAK = "5"  # to clear_refs: see proc(5)


class Sample(NamedTuple):
    """One run: seconds; CPU seconds of this process, including the kernel's; system calls that read or write (Linux
    doesn't count splice and vmsplice); and the peak memory in bytes above what the process had before. None if the
    kernel doesn't report them."""

    seconds: float
    cpu: float
    calls: Optional[int]
    peak: Optional[int]


class Spread(NamedTuple):
    """Median, least and most of some rounds."""

    median: float
    least: float
    most: float


class Figures(NamedTuple):
    """All rounds of one side; the median of calls and peak. ``ratio``: seconds of this side divided by those of the
    first side in the same round: over 1 if the first is faster; 1 for the first side."""

    seconds: Spread
    cpu: float
    calls: Optional[int]
    peak: Optional[int]
    ratio: Spread


class Effort(NamedTuple):
    """How long to measure: the least and the most rounds, and the seconds after which no further round begins once
    there are the least. ``warm``: run each side once before measuring; otherwise only the first side, which would bear
    the start-up costs of all."""

    least: int
    most: int
    seconds: float
    warm: bool = True


def measure(sides: Sequence[Callable[[], object]], effort: Effort) -> List[Figures]:
    """Run all sides in turn, round by round."""
    begin = time.perf_counter()
    for side in sides if effort.warm else sides[:1]:
        side()
    taken: List[List[Sample]] = []
    while len(taken) < effort.least or (len(taken) < effort.most and time.perf_counter() - begin < effort.seconds):
        taken.append(_round(sides, len(taken)))
    return [_figures([samples[at] for samples in taken], [samples[0] for samples in taken]) for at in range(len(sides))]


def _round(sides: Sequence[Callable[[], object]], number: int) -> List[Sample]:
    """Run all sides once. Each round begins with another side, because a side affects the caches for the next one."""
    order = [(number + at) % len(sides) for at in range(len(sides))]
    samples = {at: once(sides[at]) for at in order}
    return [samples[at] for at in range(len(sides))]


def once(work: Callable[[], object]) -> Sample:
    """Run it once and measure it."""
    _reset_peak()
    resident, calls, cpu = _status("VmRSS"), _calls(), _cpu()
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    cpu = _cpu() - cpu
    return Sample(seconds, cpu, _less(_calls(), calls), _less(_status("VmHWM"), resident))


def _figures(rounds: List[Sample], first: List[Sample]) -> Figures:
    ratios = [_seconds(sample) / _seconds(other) for sample, other in zip(rounds, first)]
    return Figures(spread(_seconds(sample) for sample in rounds), statistics.median(sample.cpu for sample in rounds),
                   _median(sample.calls for sample in rounds), _median(sample.peak for sample in rounds),
                   spread(ratios))


def spread(values: Iterable[float]) -> Spread:
    """The spread of at least one value."""
    known = sorted(values)
    return Spread(statistics.median(known), known[0], known[-1])


def _seconds(sample: Sample) -> float:
    return max(sample.seconds, 1e-9)


def _median(values: Iterable[Optional[int]]) -> Optional[int]:
    known = [value for value in values if value is not None]
    return int(statistics.median_low(known)) if known else None


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _less(after: Optional[int], before: Optional[int]) -> Optional[int]:
    return None if after is None or before is None else max(after - before, 0)


def _calls() -> Optional[int]:
    fields = _fields("/proc/self/io")
    return int(fields["syscr"]) + int(fields["syscw"]) if "syscw" in fields else None


def _status(name: str) -> Optional[int]:
    field = _fields("/proc/self/status").get(name)
    return int(field.split()[0]) << 10 if field else None


def _fields(path: str) -> Dict[str, str]:
    with contextlib.suppress(OSError):
        # A single read(), because reads are counted.
        fd = os.open(path, os.O_RDONLY)
        try:
            text = os.read(fd, 1 << 16).decode()
        finally:
            os.close(fd)
        return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
    return {}


def _reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="utf-8")


def as_document(figures: Figures) -> Dict[str, Any]:
    """The figures for JSON."""
    return dict(figures._asdict(), seconds=figures.seconds._asdict(), ratio=figures.ratio._asdict())
