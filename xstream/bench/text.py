"""A run on a terminal: aligned tables, and a line of blocks for each sweep."""
from typing import Any, Iterator, List, Sequence

from xstream.bench import runs
from xstream.bench.claim import size_name
from xstream.bench.runs import Document
from xstream.printing import print_table

_BLOCKS = "▁▂▃▄▅▆▇█"


def print_run(run: Document) -> None:
    """All of it."""
    machine, guest = run["machine"], run["guest"]
    print("{cpu}, {cores} cores, Linux {kernel}; Python {python}, numpy {numpy}, xstream {xstream}".format(**machine))
    print("{} guest, {}; medians (least-most), all sides of a row in turn".format(
        size_name(guest["bytes"]), guest["source"]))
    print("ratio: seconds of a side by those of xstream, the row's first: over 1 where xstream is faster")
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
    print_table(table)
    print()
    for row in rows:
        print("{}: {}".format(row["name"], "; ".join(
            (side["what"] if side is row["sides"][0] else "{}: {}".format(side["name"], side["what"]))
            for side in row["sides"])))


def _print_sweeps(sweeps: Sequence[Document]) -> None:
    table = [["cost", "from", "to", "", "ms", "to ms", "slope"]]
    for sweep in sweeps:
        points = sweep["points"]
        seconds = [point["seconds"] for point in points]
        table.append([sweep["name"], points[0]["label"], points[-1]["label"], sparkline(seconds),
                      *("{:.2f}".format(value * 1e3) for value in (seconds[0], seconds[-1])), slope(sweep)])
    print_table(table)


def _print_claim(run: Document) -> None:
    for verb in ("save", "restore"):
        rows = [row for row in run["claim"] if row["verb"] == verb]
        forms = list(dict.fromkeys(side["name"] for row in rows for side in row["sides"]))
        table = [[verb, forms[0] + " ms"] + forms[1:]]
        for row in rows:
            sides = {side["name"]: side for side in row["sides"]}
            table.append([row["name"].partition(" ")[2], "{:.1f}".format(sides[forms[0]]["seconds"]["median"] * 1e3)]
                         + [ratio(sides[form]["ratio"]) if form in sides else "" for form in forms[1:]])
        print_table(table)
        print("each form's seconds by those of {}".format(forms[0]))
    _print_costs(run["claim"])
    print()
    for line in verdict(run):
        print(line)


def _print_costs(rows: Sequence[Document]) -> None:
    """Of saves into a pipe, the others being in the JSON document and on the page."""
    table = [["to a pipe", "form", "stream bytes", "calls", "CPU ms", "peak KiB"]]
    for row in rows:
        if (row["verb"], row["where"]) == ("save", "pipe"):
            table += [[row["name"].split(" ", 1)[1] if side is row["sides"][0] else "", side["name"],
                       str(side["bytes"]), count(side["calls"]), "{:.1f}".format(side["cpu"] * 1e3),
                       count(None if side["peak"] is None else side["peak"] >> 10)] for side in row["sides"]]
    print_table(table)


def verdict(run: Document) -> List[str]:
    """What has become of the claim, form by form."""
    lines = []
    for standing in runs.standings(run):
        line = "Version 3 by writev against {}: ahead in {}".format(standing.form, standing.ahead)
        for word, cases in (("level", standing.level), ("behind", standing.behind)):
            if cases:
                line += "; {} in {}: {}".format(word, len(cases), ", ".join(cases))
        lines.append(line + ".")
    return lines


def print_changes(path: str, changes: Sequence[runs.Change]) -> None:
    """What a comparison found."""
    table = [["ratio", "before", "now", "", "since " + path]]
    for change in changes:
        now = "" if change.now is None else "{:.3f}".format(change.now)
        share = "" if change.now is None else "{:+.0%}".format(change.now / change.before - 1)
        table.append([change.name, "{:.3f}".format(change.before), now, share, change.verdict])
    print_table(table)


def sparkline(values: Sequence[float]) -> str:
    """A block for each value, from the least to the most."""
    low, high = min(values), max(values)
    step = (high - low) / (len(_BLOCKS) - 1) or 1
    return "".join(_BLOCKS[round((value - low) / step)] for value in values)


def slope(sweep: Document) -> str:
    """With its unit."""
    return "{:.1f} ns a {}".format(sweep["slope"], sweep["unit"])


def ratio(value: Document) -> str:
    """Of a ratio, its median, to three digits that count."""
    return "{:.3f}".format(value["median"]) if value["median"] < 10 else "{:.1f}".format(value["median"])


def spread(value: Document) -> str:
    """Least and most."""
    return "{:.2f}-{:.2f}".format(value["least"], value["most"])


def count(value: Any) -> str:
    """A number, or nothing where it isn't known."""
    return "" if value is None else str(value)


def _milliseconds(seconds: Document) -> Iterator[str]:
    return ("{:.1f}".format(seconds[name] * 1e3) for name in ("median", "least", "most"))
