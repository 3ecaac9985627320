"""A run as one HTML page that needs no network and no script; charts are inline SVG."""
import math
from html import escape
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from xstream.bench import text
from xstream.bench.claim import size_name
from xstream.bench.runs import Document

_WIDTH, _HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 10, 10, 24
_COLOURS = 8
#: How every chart begins.
CHART = '<svg viewBox="0 0 {} {}" role="img"'.format(_WIDTH, _HEIGHT)
#: Bars are drawn to scale up to this ratio; a longer one ends in an arrow.
_LONGEST_BAR = 1.25
#: Width of a character of an axis label.
_CHARACTER = 6

_STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1c2430; --soft: #5b6675; --line: #d5dbe3; --back: #ffffff; --panel: #f5f7fa;
  --c0: #1f6fc4; --c1: #c8501c; --c2: #23875a; --c3: #8d4bb5; --c4: #a17c00; --c5: #c03a6b; --c6: #4a7d8c;
  --c7: #777777;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e4e8ee; --soft: #9aa5b4; --line: #384250; --back: #12161c; --panel: #1b212a;
    --c0: #6aaef5; --c1: #f08a5a; --c2: #5cc795; --c3: #c394e6; --c4: #dcb93c; --c5: #f0829f; --c6: #87bccb;
    --c7: #aaaaaa;
  }
}
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 78rem; padding: 1rem; background: var(--back); color: var(--ink);
  font: 16px/1.45 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin: .2rem 0 }
h2 { font-size: 1.2rem; margin: 2rem 0 .4rem }
h3 { font-size: 1rem; margin: 0 }
p { margin: .3rem 0; max-width: 60rem; overflow-wrap: anywhere }
.soft { color: var(--soft) }
.big { font-size: 1.1rem }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: .8rem }
figure { margin: 0; padding: .6rem; background: var(--panel); border-radius: .4rem }
figure svg { width: 100%; height: auto }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif }
svg .grid { stroke: var(--line) }
svg .one { stroke: var(--ink); stroke-dasharray: 4 3 }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1rem; list-style: none; padding: 0; margin: .4rem 0 }
.key svg { width: 1.4rem; height: .7rem; vertical-align: middle }
.bars { display: grid; grid-template-columns: max-content max-content 1fr; gap: .25rem .7rem; align-items: center }
.bars svg { width: 100%; height: 1rem; display: block }
.bars .track { fill: var(--panel) }
.bars .arrow { fill: var(--back) }
.number { text-align: right }
.bars .number, td { font-variant-numeric: tabular-nums }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .85rem; white-space: nowrap }
th, td { padding: .15rem .6rem; border-bottom: 1px solid var(--line); text-align: right }
th { color: var(--soft) }
th:first-child, td:first-child, .left { text-align: left }
summary { cursor: pointer; margin: .4rem 0 }
@media (max-width: 40rem) {
  .bars { grid-template-columns: 1fr max-content }
  .bars svg { grid-column: 1 / -1 }
}
""" + "".join(".c{0} {{ stroke: var(--c{0}); fill: var(--c{0}) }} ".format(colour) for colour in range(_COLOURS))


class Dot(NamedTuple):
    """A point of a line, with the least and most of its rounds, if any."""

    x: float
    y: float
    least: Optional[float] = None
    most: Optional[float] = None


class Scale(NamedTuple):
    """Maps values to places along an axis."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        low, high, value = (math.log(v) if self.logarithmic else v for v in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)


def page(run: Document, before: Sequence[Document]) -> str:
    """The page of a run, with the history of earlier runs, oldest first."""
    machine, guest = run["machine"], run["guest"]
    sections = [
        "<h1>xstream bench</h1>",
        _paragraph("{cpu}, {cores} cores ({features}), Linux {kernel}; Python {python}, numpy {numpy}, "
                   "xstream {xstream}, commit {commit}".format(**dict(
                       machine, features=" ".join(machine["features"]), commit=machine["commit"] or "unknown"))),
        _paragraph("{}; guest of {}, {}. Medians; the sides of a comparison are measured in turn.".format(
            run["when"], size_name(guest["bytes"]), guest["source"])),
        *_claim(run), *_limits(run), *_history([*before, run]), *_sweeps(run), *_tables(run)]
    return ("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
            "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>xstream bench</title>\n"
            "<style>{}</style>\n</head>\n<body>\n{}\n</body>\n</html>\n").format(_STYLE, "\n".join(sections))


# Sections

def _claim(run: Document) -> List[str]:
    rows = run["claim"]
    if not rows:
        return []
    forms = list(dict.fromkeys(side["name"] for row in rows for side in row["sides"][1:]))
    sections = ["<h2>Version 3 against the legacy format</h2>",
                *(_paragraph(line, "big") for line in text.verdict(run)),
                _paragraph("Seconds of each form divided by those of version 3 by writev, by the size of the guest: "
                           "over 1, version 3 by writev is faster. Vertical lines span the rounds."),
                _key(forms) if len({row["size"] for row in rows}) > 1 else "", '<div class="charts">']
    for verb, guest, where in dict.fromkeys((row["verb"], row["guest"], row["where"]) for row in rows):
        chosen = [row for row in rows if (row["verb"], row["guest"], row["where"]) == (verb, guest, where)]
        lines = {form: [Dot(row["size"], *_of_ratio(side["ratio"])) for row in chosen for side in row["sides"][1:]
                        if side["name"] == form] for form in forms}
        title = "{} {} {} {}".format(verb, guest.upper(), "to" if verb == "save" else "from", where)
        labels = {row["size"]: size_name(row["size"]).replace("iB", "") for row in chosen}
        if len(labels) == 1:
            sections.append(_figure("{}, {}".format(title, size_name(chosen[0]["size"])), _bars(
                (form, dots[0].y) for form, dots in lines.items() if dots)))
        elif any(lines.values()):
            sections.append(_figure(title, _chart(lines, labels, forms, logarithmic=True, one=True)))
    return [*sections, "</div>"]


def _limits(run: Document) -> List[str]:
    bars = ["<h2>Against the machine's limits</h2>", _paragraph(
        "Seconds of the machine's limit divided by those of xstream: at 1, the full line, xstream is as fast as the "
        "limit; the dotted line is 0.9. An arrow marks a ratio over {}.".format(_LONGEST_BAR)), '<div class="bars">']
    for row in run["parts"]:
        for side in row["sides"]:
            if side["kind"] == "machine":
                bars.append('<span>{} <span class="soft">: {}</span></span><span class="number">{}</span>{}'.format(
                    escape(row["name"]), escape(side["name"]), text.ratio(side["ratio"]),
                    _bar(side["ratio"]["median"])))
    return [*bars, "</div>"]


def _history(every: Sequence[Document]) -> List[str]:
    if len(every) < 2:
        return []
    names = [name for name, ratio in every[-1]["ratios"].items() if ratio["kind"] == "machine"]
    labels = {float(at): run["when"][:10] for at, run in enumerate(every) if at in (0, len(every) - 1)}
    sections = ["<h2>History</h2>", _paragraph("Ratios to the machine's limits in the saved runs; this run is "
                                               "the last."), '<div class="charts">']
    for name in names:
        dots = [Dot(float(at), *_of_ratio(run["ratios"][name])) for at, run in enumerate(every)
                if name in run["ratios"]]
        sections.append(_figure(name, _chart({name: dots}, labels, [name], one=True)))
    return [*sections, "</div>"]


def _sweeps(run: Document) -> List[str]:
    if not run["sweeps"]:
        return []
    sections = ["<h2>How cost grows</h2>", '<div class="charts">']
    for sweep in run["sweeps"]:
        points = sweep["points"]
        dots = [Dot(float(at), point["seconds"] * 1e3) for at, point in enumerate(points)]
        labels = {float(at): points[at]["label"] for at in (0, len(points) // 2, len(points) - 1)}
        caption = "{}: milliseconds; slope {}".format(sweep["what"], text.slope(sweep))
        sections.append(_figure(sweep["name"], _chart({"": dots}, labels, [""], zero=True), caption))
    return [*sections, "</div>"]


def _tables(run: Document) -> List[str]:
    heads = ["work", "by", "ms", "least", "most", "GiB/s", "CPU ns/page", "ratio", "spread"]
    parts = [[row["name"], side["name"], *_times(side), "{:.2f}".format(
        row["bytes"] / side["seconds"]["median"] / (1 << 30)), "{:.1f}".format(side["cpu_ns_per_page"]),
        *_ratio_cells(row, side)] for row in run["parts"] for side in row["sides"]]
    sections = ["<h2>All figures</h2>", _table("The parts", heads, parts, shown=True),
                "<details><summary>What each row does</summary><ul>"]
    sections += ["<li>{} <span class=\"soft\">by {}</span>: {}</li>".format(*map(escape, (
        row["name"], side["name"], side["what"]))) for row in run["parts"] for side in row["sides"]]
    sections.append("</ul></details>")
    if run["claim"]:
        heads = ["case", "form", "ms", "least", "most", "stream bytes", "calls", "CPU ms", "peak KiB", "ratio",
                 "spread"]
        sections.append(_table("The claim", heads, [
            [row["name"], side["name"], *_times(side), str(side["bytes"]), text.count(side["calls"]),
             "{:.1f}".format(side["cpu"] * 1e3), text.count(None if side["peak"] is None else side["peak"] >> 10),
             *_ratio_cells(row, side)] for row in run["claim"] for side in row["sides"]]))
    for sweep in run["sweeps"]:
        sections.append(_table("{} ({})".format(sweep["name"], text.slope(sweep)), ["value", "ms"], [
            [point["label"], "{:.3f}".format(point["seconds"] * 1e3)] for point in sweep["points"]]))
    return sections


# Parts of sections

def _paragraph(content: str, kind: str = "soft") -> str:
    return '<p class="{}">{}</p>'.format(kind, escape(content))


def _figure(title: str, chart: str, caption: str = "") -> str:
    below = '<figcaption class="soft">{}</figcaption>'.format(escape(caption)) if caption else ""
    return "<figure><h3>{}</h3>{}{}</figure>".format(escape(title), chart, below)


def _key(names: Sequence[str]) -> str:
    entry = ('<li><svg viewBox="0 0 20 10" aria-hidden="true"><rect class="{}" y="3" width="20" height="4"/></svg> '
             '{}</li>')
    return '<ul class="key">{}</ul>'.format("".join(
        entry.format(_colour(at), escape(name)) for at, name in enumerate(names)))


def _bars(ratios: Iterable[Tuple[str, float]]) -> str:
    """Bars of named ratios: in place of a chart that would have a single point."""
    return '<div class="bars">{}</div>'.format("".join(
        '<span>{}</span><span class="number">{:.3f}</span>{}'.format(escape(name), value, _bar(value))
        for name, value in ratios))


def _bar(value: float) -> str:
    def place(ratio: float) -> str:
        return "{:.2f}%".format(100 * min(ratio, _LONGEST_BAR) / _LONGEST_BAR)
    arrow = ('<svg x="100%" overflow="visible"><path class="arrow" d="M-14 1 L-2 8 L-14 15 Z"/></svg>'
             if value > _LONGEST_BAR else "")
    return ('<svg role="img" aria-label="{value:.3f}"><rect class="track" width="100%" height="100%"/>'
            '<rect class="c0" width="{width}" height="100%" stroke-width="0"/>'
            '<line class="grid" x1="{most}" x2="{most}" y2="100%" stroke-dasharray="2 2"/>'
            '<line class="one" x1="{one}" x2="{one}" y2="100%" style="stroke-dasharray:none"/>{arrow}</svg>').format(
                value=value, width=place(value), most=place(0.9), one=place(1), arrow=arrow)


def _chart(lines: Dict[str, List[Dot]], labels: Dict[float, str], order: Sequence[str], *, logarithmic: bool = False,
           one: bool = False, zero: bool = False) -> str:
    """A line chart over labelled places. ``one``: with a line at 1; ``zero``: the y axis begins at 0."""
    dots = [dot for line in lines.values() for dot in line]
    values = [value for dot in dots for value in (dot.y, dot.least, dot.most) if value is not None]
    low, high = _bounds(values + ([1.0] if one else []) + ([0.0] if zero else []), logarithmic)
    across = [dot.x for dot in dots] + list(labels)
    x = Scale(min(across), max(across), _LEFT + 8, _WIDTH - _RIGHT - 8, logarithmic)
    y = Scale(low, high, _HEIGHT - _BOTTOM, _TOP, logarithmic)
    parts = [_horizontal(y.at(tick), "one" if one and tick == 1 else "grid", _number(tick))
             for tick in _ticks(low, high, logarithmic)]
    parts += ['<text x="{:.1f}" y="{}" text-anchor="{}">{}</text>'.format(
        x.at(place), _HEIGHT - 6, _anchor(x.at(place), label), escape(label)) for place, label in labels.items()]
    for name in order:
        parts += _line(lines[name], x, y, _colour(order.index(name)), name)
    return "{}>{}</svg>".format(CHART, "".join(parts))


def _line(dots: Sequence[Dot], x: Scale, y: Scale, colour: str, name: str) -> Iterable[str]:
    places = ["{:.1f},{:.1f}".format(x.at(dot.x), y.at(dot.y)) for dot in dots]
    yield '<polyline class="{}" style="fill:none" stroke-width="1.6" points="{}"/>'.format(colour, " ".join(places))
    for dot in dots:
        at = "{:.1f}".format(x.at(dot.x))
        if dot.least is not None and dot.most is not None:
            yield '<line class="{}" opacity=".5" x1="{x}" x2="{x}" y1="{:.1f}" y2="{:.1f}"/>'.format(
                colour, y.at(dot.least), y.at(dot.most), x=at)
        yield '<circle class="{}" cx="{}" cy="{:.1f}" r="2.4"><title>{} {}</title></circle>'.format(
            colour, at, y.at(dot.y), escape(name), _number(dot.y))


def _horizontal(at: float, kind: str, label: str) -> str:
    return ('<line class="{}" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/>'
            '<text x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
                kind, _LEFT, _WIDTH - _RIGHT, _LEFT - 5, at + 4, label, y=at)


def _anchor(place: float, label: str) -> str:
    """How to align a label at a place of the x axis, so that all of it is in the picture."""
    half = len(label) * _CHARACTER / 2
    return "start" if place < half else "end" if place > _WIDTH - half else "middle"


def _bounds(values: Sequence[float], logarithmic: bool) -> Tuple[float, float]:
    low, high = min(values), max(values)
    if logarithmic:
        return low / 1.1, high * 1.1
    margin = 0.08 * (high - low) or 0.1
    return (low - margin if low else low), high + margin


def _ticks(low: float, high: float, logarithmic: bool) -> List[float]:
    if logarithmic:
        every = 1 if high / low < 40 else 2
        powers = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
        ticks = [2.0 ** power for power in powers if power % every == 0]
        # A narrow range may have no power of two but 1 in it.
        between = [tick for tick in (0.7, 0.8, 0.9, 1.2, 1.4) if low < tick < high] if len(ticks) < 3 else []
        return sorted(ticks + between)
    raw = (high - low) / 4
    step = 10.0 ** math.floor(math.log10(raw))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= raw)
    ticks = [step * at for at in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [round(tick, 9) for tick in ticks]


def _number(value: float) -> str:
    return "{:.3g}".format(value)


def _colour(at: int) -> str:
    return "c{}".format(at % _COLOURS)


def _of_ratio(ratio: Document) -> Sequence[float]:
    return ratio["median"], ratio["least"], ratio["most"]


def _times(side: Document) -> List[str]:
    return ["{:.2f}".format(side["seconds"][name] * 1e3) for name in ("median", "least", "most")]


def _ratio_cells(row: Document, side: Document) -> List[str]:
    return ["", ""] if side is row["sides"][0] else [text.ratio(side["ratio"]), text.spread(side["ratio"])]


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], shown: bool = False) -> str:
    lines = "".join("<tr>{}</tr>".format("".join("<td{}>{}</td>".format(
        ' class="left"' if at < 2 and not cell.replace(".", "").isdigit() else "", escape(cell))
        for at, cell in enumerate(row))) for row in rows)
    return '<details{}><summary>{}</summary><div class="wide"><table><tr>{}</tr>{}</table></div></details>'.format(
        " open" if shown else "", escape(title), "".join("<th{}>{}</th>".format(
            ' class="left"' if at < 2 and head != "ms" else "", escape(head)) for at, head in enumerate(heads)), lines)
