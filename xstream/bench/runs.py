"""A run as a document: made from figures, saved, and compared with others by its ratios."""
import datetime
import json
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from xstream.bench.claim import SPLICED, Case
from xstream.bench.sweeps import Sweep
from xstream.bench.timing import Figures, as_document
from xstream.bench.workloads import THREADS, Workload

FORMAT = "xstream bench 1"
#: The runs that ``--check`` compares with, one file for each CPU family; only a checkout has them.
BASELINES = Path(__file__).resolve().parents[2] / "bench_data"
#: Bounds of the tolerance of a ratio, whatever its spread.
_TOLERANCE = 0.4, 0.6
#: A change that is smaller than this, or within the spread of either run, doesn't count.
_NOTABLE = 0.05
#: Sides that differ by less are level, even if the same one was ahead in every round.
_LEVEL = 0.02

Document = Dict[str, Any]


class UsageError(Exception):
    """The bench was asked for something that it can't do."""


class Change(NamedTuple):
    """A ratio in two runs; ``verdict``: "better", "worse", "level", or "gone" if the later run doesn't have it."""

    name: str
    before: float
    now: Optional[float]
    verdict: str


def document(machine: Document, guest: Document, *, when: Optional[datetime.datetime] = None) -> Document:
    """An empty run."""
    moment = when or datetime.datetime.now(datetime.timezone.utc)
    return {"format": FORMAT, "when": moment.replace(microsecond=0).isoformat(), "machine": machine, "guest": guest,
            "parts": [], "claim": [], "sweeps": [], "ratios": {}}


def add_part(run: Document, workload: Workload, figures: Sequence[Figures]) -> None:
    """Enter a workload's figures, in place of those of an earlier measurement."""
    _enter(run, "parts", workload, figures, {})


def add_case(run: Document, case: Case, figures: Sequence[Figures]) -> None:
    """Enter a case of the claim."""
    fields = {"verb": case.verb, "guest": case.guest, "size": case.size, "where": case.where}
    row = _enter(run, "claim", case.workload, figures, fields)
    for side, size in zip(row["sides"], case.sizes):
        side["bytes"] = size
        if side["name"] == SPLICED:
            side["calls"] = None  # Linux doesn't count vmsplice


def add_sweep(run: Document, sweep: Sweep) -> None:
    """Enter a sweep."""
    run["sweeps"].append(dict(sweep._asdict(), points=[point._asdict() for point in sweep.points], slope=sweep.slope))


def _enter(run: Document, section: str, workload: Workload, figures: Sequence[Figures],
           fields: Document) -> Document:
    pages = workload.bytes / 4096
    sides = [dict(as_document(of_side), name=side.name, what=side.what, kind=side.kind,
                  cpu_ns_per_page=of_side.cpu / pages * 1e9) for side, of_side in zip(workload.sides, figures)]
    row = dict(fields, name=workload.name, bytes=workload.bytes, sides=sides)
    rows = run[section]
    at = next((at for at, other in enumerate(rows) if other["name"] == workload.name), len(rows))
    rows[at:at + 1] = [row]
    for side in sides[1:]:
        ratio = side["ratio"]
        run["ratios"]["{}: {}".format(workload.name, side["name"])] = dict(
            ratio, tolerance=_tolerance(ratio, side["kind"]), workload=workload.name, kind=side["kind"])
    return row


def _tolerance(ratio: Document, kind: str) -> float:
    """The share of itself that a ratio may lose: the downward spread of its rounds, within bounds."""
    least, most = _TOLERANCE
    lost = most if kind == THREADS else 1.5 * float(1 - ratio["least"] / ratio["median"])
    return round(min(max(least, lost), most), 2)


def save(run: Document, path: str) -> None:
    """Write a run to a file. Raises OSError."""
    Path(path).write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")


def load(path: str) -> Document:
    """Read a saved run. Raises OSError, and UsageError if the file isn't one."""
    try:
        run = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError:
        run = None
    if not isinstance(run, dict) or run.get("format") != FORMAT:
        raise UsageError("{}: not a saved run of this bench".format(path))
    return run


def load_baseline(family: str) -> Optional[Document]:
    """The baseline of a CPU family (:func:`~xstream.bench.machine.cpu_family`), or None if there is none."""
    path = BASELINES / (family + ".json")
    return load(str(path)) if path.exists() else None


def changes(before: Document, now: Document) -> List[Change]:
    """How each ratio of the earlier run has changed."""
    return [_change(name, ratio, now["ratios"].get(name)) for name, ratio in before["ratios"].items()]


def _change(name: str, before: Document, now: Optional[Document]) -> Change:
    if now is None:
        return Change(name, before["median"], None, "gone")
    change = now["median"] / before["median"] - 1
    if abs(change) < _NOTABLE or (before["least"] <= now["median"] <= before["most"]
                                  or now["least"] <= before["median"] <= now["most"]):
        verdict = "level"
    else:
        verdict = "better" if change > 0 else "worse"
    return Change(name, before["median"], now["median"], verdict)


def fallen(baseline: Document, now: Document) -> Dict[str, str]:
    """The ratios that are below the baseline's by more than their tolerance, with their workloads."""
    return {name: ratio["workload"] for name, ratio in baseline["ratios"].items() if name in now["ratios"]
            and now["ratios"][name]["median"] < ratio["median"] * (1 - ratio["tolerance"])}


class Standing(NamedTuple):
    """How version 3 by writev compares with one form: the number of cases in which it is ahead; the cases in which it
    is level, that is, slower by the median but faster in some round, or slower by at most 2 %; and the cases in which
    it is slower."""

    form: str
    ahead: int
    level: List[str]
    behind: List[str]


def standings(run: Document) -> List[Standing]:
    """The standing against each legacy form, saves and restores together."""
    pairs = [(row["name"], side) for row in run["claim"] for side in row["sides"] if side["name"].startswith("legacy")]
    forms = list(dict.fromkeys(side["name"] for _, side in pairs))
    return [Standing(form, *_cases([(name, side["ratio"]) for name, side in pairs if side["name"] == form]))
            for form in forms]


def _cases(ratios: List[Tuple[str, Document]]) -> Tuple[int, List[str], List[str]]:
    return (sum(ratio["median"] >= 1 for _, ratio in ratios),
            [name for name, ratio in ratios if ratio["median"] < 1 and not _is_behind(ratio)],
            [name for name, ratio in ratios if _is_behind(ratio)])


def _is_behind(ratio: Document) -> bool:
    return bool(ratio["most"] < 1 and ratio["median"] < 1 - _LEVEL)
