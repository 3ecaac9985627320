"""A run as text: aligned tables, and a sparkline for each sweep. No line is wider than the terminal."""
import sys
from typing import Iterator, List, Sequence

from xstream.bench import runs
from xstream.bench.claim import size_name
from xstream.bench.runs import Document
from xstream.printing import print_table, print_text, terminal_width

_BLOCKS = "▁▂▃▄▅▆▇█"


def print_run(run: Document) -> None:
    """Print all of a run."""
    machine, guest = run["machine"], run["guest"]
    print_text("{cpu}, {cores} cores, Linux {kernel}; Python {python}, numpy {numpy}, xstream {xstream}".format(
        **machine))
    print_text("{} guest, {}; medians (least-most); the sides of a row are measured in turn".format(
        size_name(guest["bytes"]), guest["source"]))
    print_text("ratio: a side's seconds divided by those of xstream, the first side: over 1 if xstream is faster")
    _print_parts(run["parts"])
    if run["sweeps"]:
        _print_sweeps(run["sweeps"])
    if run["claim"]:
        _print_claim(run)


def _print_parts(rows: Sequence[Document]) -> None:
    table = [["work", "by", "ms", "least", "most", "GiB/s", "CPU ns/page", "ratio", "spread"]]
    for row in rows:
        for side in row["sides"]:
            first = side is row["sides"][0]
            table.append([row["name"] if first else "", side["name"], *_milliseconds(side["seconds"]),
                          "{:.2f}".format(row["bytes"] / side["seconds"]["median"] / (1 << 30)),
                          "{:.1f}".format(side["cpu_ns_per_page"]), "" if first else ratio(side["ratio"]),
                          "" if first else spread(side["ratio"])])
    _print_wide(table, 2)
    print()
    for row in rows:
        print_text("{}: {}".format(row["name"], "; ".join(
            (side["what"] if side is row["sides"][0] else "{}: {}".format(side["name"], side["what"]))
            for side in row["sides"])))


def _print_sweeps(sweeps: Sequence[Document]) -> None:
    table = [["cost", "from", "to", "", "ms", "to ms", "slope"]]
    for sweep in sweeps:
        points = sweep["points"]
        seconds = [point["seconds"] for point in points]
        table.append([sweep["name"], points[0]["label"], points[-1]["label"], sparkline(seconds),
                      *("{:.2f}".format(value * 1e3) for value in (seconds[0], seconds[-1])), slope(sweep)])
    _print_wide(table, 1)


def _print_claim(run: Document) -> None:
    for verb in ("save", "restore"):
        rows = [row for row in run["claim"] if row["verb"] == verb]
        forms = list(dict.fromkeys(side["name"] for row in rows for side in row["sides"]))
        table = [[verb, forms[0] + " ms"] + forms[1:]]
        for row in rows:
            sides = {side["name"]: side for side in row["sides"]}
            table.append([row["name"].partition(" ")[2], "{:.1f}".format(sides[forms[0]]["seconds"]["median"] * 1e3)]
                         + [ratio(sides[form]["ratio"]) if form in sides else "" for form in forms[1:]])
        _print_wide(table, 1)
        print_text("each form's seconds divided by those of {}".format(forms[0]))
    _print_costs(run["claim"])
    print()
    for line in verdict(run):
        print_text(line)


def _print_costs(rows: Sequence[Document]) -> None:
    """The costs of saves into a pipe. Those of the others are in the JSON document and on the page."""
    table = [["to a pipe", "form", "stream bytes", "calls", "CPU ms", "peak KiB"]]
    for row in rows:
        if (row["verb"], row["where"]) == ("save", "pipe"):
            table += [[row["name"].split(" ", 1)[1] if side is row["sides"][0] else "", side["name"],
                       str(side["bytes"]), count(side["calls"]), "{:.1f}".format(side["cpu"] * 1e3),
                       count(None if side["peak"] is None else side["peak"] >> 10)] for side in row["sides"]]
    _print_wide(table, 2)


def _print_wide(table: Sequence[Sequence[str]], keys: int) -> None:
    """Print a table; if it is wider than the terminal, as several, each with the first ``keys`` columns."""
    widths = [max(len(row[column]) for row in table) + 2 for column in range(len(table[0]))]
    at = keys
    while at < len(widths):
        end, room = at + 1, (terminal_width() or sys.maxsize) - sum(widths[:keys]) - widths[at] + 2
        while end < len(widths) and widths[end] <= room:
            room -= widths[end]
            end += 1
        print_table([[*row[:keys], *row[at:end]] for row in table])
        at = end


def verdict(run: Document) -> List[str]:
    """The claim's verdict, a sentence for each form."""
    lines = []
    for standing in runs.standings(run):
        line = "Version 3 by writev against {}: ahead in {}".format(standing.form, standing.ahead)
        for word, cases in (("level", standing.level), ("behind", standing.behind)):
            if cases:
                line += "; {} in {}: {}".format(word, len(cases), ", ".join(cases))
        lines.append(line + ".")
    return lines


def print_changes(path: str, changes: Sequence[runs.Change]) -> None:
    """Print the result of a comparison."""
    table = [["ratio", "before", "now", "", "since " + path]]
    for change in changes:
        now = "" if change.now is None else "{:.3f}".format(change.now)
        share = "" if change.now is None else "{:+.0%}".format(change.now / change.before - 1)
        table.append([change.name, "{:.3f}".format(change.before), now, share, change.verdict])
    _print_wide(table, 1)


def sparkline(values: Sequence[float]) -> str:
    """A block for each value, scaled from the least to the most."""
    low, high = min(values), max(values)
    step = (high - low) / (len(_BLOCKS) - 1) or 1
    return "".join(_BLOCKS[round((value - low) / step)] for value in values)


def slope(sweep: Document) -> str:
    """The slope of a sweep, with its unit."""
    return "{:.1f} ns a {}".format(sweep["slope"], sweep["unit"])


def ratio(value: Document) -> str:
    """The median of a ratio, with three significant digits."""
    return "{:.3f}".format(value["median"]) if value["median"] < 10 else "{:.1f}".format(value["median"])


def spread(value: Document) -> str:
    """Least and most."""
    return "{:.2f}-{:.2f}".format(value["least"], value["most"])


def count(value: object) -> str:
    """A number, or nothing if it isn't known."""
    return "" if value is None else str(value)


def _milliseconds(seconds: Document) -> Iterator[str]:
    return ("{:.1f}".format(seconds[name] * 1e3) for name in ("median", "least", "most"))
