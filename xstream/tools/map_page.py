"""A memory map as one HTML page that needs no network. Without a script, everything but the figures of single squares
is there."""
import json
from html import escape
from itertools import groupby
from typing import Iterable, Iterator, List, Sequence, Tuple

from xstream.tools.memory_map import Grid, MemoryMap, Part, View
from xstream.wire.libxc import PAGE_SIZE

#: Colours of kinds of pages: on a light and on a dark background.
COLOURS = {
    "absent": ("#eef1f4", "#20262e"), "invalid": ("#dde2e8", "#2b333d"), "bare": ("#c9d2dc", "#46525f"),
    "plain": ("#a9bccf", "#4c6278"), "zero": ("#f0d48a", "#7a6a34"), "text": ("#2e9e6b", "#4fc48d"),
    "random": ("#c2447d", "#e5719f"), "other": ("#4a82c3", "#5f97d9"),
    "level1": ("#e3b23c", "#e6c15a"), "level2": ("#e07b2a", "#f0954a"), "level3": ("#c8401f", "#f06a4a"),
    "level4": ("#8a1c1c", "#ff9a9a"), "level5": ("#4a0d2e", "#ffd0e6"), "pinned": ("#7b4bb5", "#b48be8"),
    "twice": ("#e3c04a", "#c9a73a"), "often3": ("#e38b2f", "#ee9b45"), "often5": ("#cf4a2a", "#f26f50"),
    "often9": ("#8a1c5a", "#ff86c8"),
    "differing": ("#cf3f2f", "#f2705c"), "retyped": ("#7b4bb5", "#b48be8"), "appeared": ("#2e9e6b", "#4fc48d"),
    "vanished": ("#d9962b", "#e6b04f"),
}
#: How every picture begins: the grid is drawn with squares of size 1.
PICTURE = '<svg class="grid"'
#: Vcpus listed; the top page tables of all are marked.
_MOST_VCPUS = 16

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --line: #d5dbe3; --back: #fff; --panel: #f5f7fa }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ee; --soft: #9aa5b4; --line: #384250; --back: #12161c; --panel: #1b212a }
}
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 84rem; padding: 1rem; background: var(--back); color: var(--ink);
  font: 16px/1.45 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin: .2rem 0; overflow-wrap: anywhere }
.soft, figcaption, dt { color: var(--soft) }
main { display: grid; grid-template-columns: minmax(0, 1fr) 19rem; gap: 1.2rem; align-items: start }
.tab { position: absolute; opacity: 0 }
.tab + label { display: inline-block; padding: .25rem .7rem; margin: 0 .3rem .5rem 0; border: 1px solid var(--line);
  border-radius: .4rem; cursor: pointer }
.tab:checked + label { background: var(--ink); color: var(--back); border-color: var(--ink) }
.tab:focus-visible + label { outline: 2px solid var(--soft); outline-offset: 2px }
.view { display: none }
figure { margin: 0 0 .8rem }
figcaption, dl, .key { font-size: .9rem; font-variant-numeric: tabular-nums }
.grid { display: block; width: 100%; height: auto; background: var(--absent) }
.grid path { fill: none; stroke-width: 1; shape-rendering: crispEdges }
.ring, .cursor { fill: none; stroke: var(--ink) }
.cursor { display: none }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; list-style: none; padding: 0; margin: .4rem 0 }
.key svg { width: .9rem; height: .9rem; vertical-align: -.1rem }
.key rect { stroke: var(--line) }
aside { background: var(--panel); border-radius: .4rem; padding: .2rem .9rem }
dl { margin: .5rem 0 }
dd { margin: 0 0 .45rem; overflow-wrap: anywhere }
#figures { position: fixed; display: none; width: max-content; max-width: min(26rem, calc(100vw - 1rem));
  padding: .5rem .7rem;
  background: var(--back); border: 1px solid var(--line); border-radius: .4rem; box-shadow: 0 2px 12px #0004;
  font-size: .85rem; white-space: pre-line; pointer-events: none }
@media (max-width: 52rem) { main { grid-template-columns: minmax(0, 1fr) } }
"""

#: Each item of CELLS is the number of pages of some kinds, a letter for each kind, and after * how many such cells
#: follow one another.
_SCRIPT = """
const cells = CELLS.split(",").flatMap(item => {
  const [kinds, times] = item.split("*");
  return Array(Number(times || 1)).fill(kinds);
});
const box = document.getElementById("figures");
const hex = number => "0x" + number.toString(16);
function figures(cell) {
  const counts = {};
  for (const [, letter, count] of cells[cell].matchAll(/([A-Za-z])(\\d+)/g)) counts[letter] = count;
  return VIEWS.map(([title, kinds]) => title + ": " + kinds.filter(([letter]) => counts[letter])
    .map(([letter, name]) => EACH > 1 ? counts[letter] + " " + name : name).join(", ")).join("\\n");
}
function hide() {
  box.style.display = "none";
  document.querySelectorAll(".cursor").forEach(cursor => { cursor.style.display = "none"; });
}
function show(event) {
  hide();
  const svg = event.currentTarget, place = svg.getBoundingClientRect(), rows = svg.viewBox.baseVal.height;
  const x = Math.floor((event.clientX - place.left) / place.width * COLUMNS);
  const y = Math.floor((event.clientY - place.top) / place.height * rows);
  if (x < 0 || x >= COLUMNS || y < 0 || y >= rows) return;
  const first = Number(svg.dataset.pfn) + (y * COLUMNS + x) * EACH, last = first + EACH - 1;
  box.textContent = "PFN " + hex(first) + (EACH > 1 ? " to " + hex(last) : "") + ", from address " + hex(first * 4096)
    + "\\n" + figures(Number(svg.dataset.cell) + y * COLUMNS + x);
  const cursor = svg.querySelector(".cursor");
  cursor.setAttribute("x", x);
  cursor.setAttribute("y", y);
  cursor.style.display = box.style.display = "block";
  const left = Math.min(event.clientX + 14, innerWidth - box.offsetWidth - 8);
  const below = event.clientY + 18 + box.offsetHeight < innerHeight;
  box.style.left = Math.max(left, 8) + "px";
  box.style.top = (below ? event.clientY + 18 : Math.max(event.clientY - box.offsetHeight - 12, 8)) + "px";
}
document.querySelectorAll(".grid").forEach(svg => {
  svg.onpointermove = svg.onpointerdown = show;
  svg.onpointerleave = hide;
});
addEventListener("scroll", hide);
"""


def page(mapped: MemoryMap, rows: Sequence[Tuple[str, str]], name: str) -> bytes:
    """The page of a memory map, with a summary and the name of the guest's file."""
    title = "Guest memory" + (": " + name if name else "")
    body = ["<h1>{}</h1>".format(escape(title)), "<main><div>", *_tabs(mapped.views), '<div class="views">',
            *(part for number, view in enumerate(mapped.views) for part in _view(number, view, mapped)),
            "</div>", _colouring(mapped.grid), "</div>", "<aside><dl>",
            *("<dt>{}</dt><dd>{}</dd>".format(*map(escape, row)) for row in rows), "</dl></aside></main>",
            '<div id="figures"></div>', "<script>", _data(mapped), _SCRIPT, "</script>"]
    return ('<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{}</title>\n'
            '<style>{}</style>\n</head>\n<body>\n{}\n</body>\n</html>\n').format(
                escape(title), _style(len(mapped.views)), "\n".join(body)).encode("utf-8", "backslashreplace")


def _colouring(grid: Grid) -> str:
    """How a square of several pages is coloured."""
    return "" if grid.per_cell == 1 else (
        '<p class="soft">A square stands for {} pages and has the colour of the most frequent kind; page tables, pages '
        "that differ and pages sent often count more.</p>").format(grid.per_cell)


def _style(views: int) -> str:
    """The style, with the rules that show the view whose tab is chosen."""
    palettes = ["".join("--{}: {}; ".format(name, colours[at]) for name, colours in COLOURS.items()) for at in (0, 1)]
    return "".join([
        _STYLE, ":root {{ {} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {} }} }}\n".format(*palettes),
        *(".{0} {{ stroke: var(--{0}) }} .key .{0} {{ fill: var(--{0}) }}\n".format(name) for name in COLOURS),
        *("#tab{0}:checked ~ .views .view{0} {{ display: block }}\n".format(number) for number in range(views))])


def _tabs(views: Sequence[View]) -> Iterator[str]:
    for number, view in enumerate(views):
        yield '<input class="tab" type="radio" name="view" id="tab{0}"{1}><label for="tab{0}">{2}</label>'.format(
            number, "" if number else " checked", escape(view.title))


def _view(number: int, view: View, mapped: MemoryMap) -> Iterator[str]:
    yield '<section class="view view{}">'.format(number)
    yield from _key(view, mapped)
    for part in mapped.grid.parts:
        yield "<figure><figcaption>{}</figcaption>".format(caption(part, mapped.grid))
        yield '{} viewBox="0 0 {} {}" data-pfn="{}" data-cell="{}" role="img" aria-label="{}">'.format(
            PICTURE, mapped.grid.columns, part.rows, part.pfn, part.cell, escape(view.title))
        yield from _squares(view, part, mapped.grid.columns)
        yield from _rings(part, mapped)
        yield '<rect class="cursor" width="1" height="1" stroke-width="{}"/></svg></figure>'.format(
            mapped.grid.columns / 500)
    yield "</section>"


def caption(part: Part, grid: Grid) -> str:
    """Which memory a part of the grid shows."""
    end = part.pfn + part.rows * grid.columns * grid.per_cell
    return "PFN {:#x} to {:#x}, addresses {:#x} to {:#x}".format(
        part.pfn, end - 1, part.pfn * PAGE_SIZE, end * PAGE_SIZE - 1)


def _key(view: View, mapped: MemoryMap) -> Iterator[str]:
    yield '<ul class="key">'
    entry = '<li><svg viewBox="0 0 10 10" aria-hidden="true">{}</svg> {}</li>'
    for kind, text in view.key:
        yield entry.format('<rect class="{}" width="10" height="10"/>'.format(kind.colour), escape(text))
    if top_tables(mapped):
        yield entry.format('<circle class="ring" stroke-width="1.5" cx="5" cy="5" r="4"/>', escape(top_tables(mapped)))
    yield "</ul>"


def top_tables(mapped: MemoryMap) -> str:
    """The top page table of each vcpu, in words; empty if there are none."""
    shown = ["vcpu {}: PFN {:#x}".format(number, pfn) for number, pfn in mapped.tables.items() if pfn is not None]
    if len(shown) > _MOST_VCPUS:
        shown[_MOST_VCPUS:] = ["..."]
    return "top page table (cr3) of " + ", ".join(shown) if shown else ""


def _squares(view: View, part: Part, columns: int) -> Iterator[str]:
    """One path for each colour, of horizontal lines as wide as a row is high. The background is absent pages."""
    lines: List[List[str]] = [[] for _ in view.kinds]
    colours = view.colours[part.cell:part.cell + part.rows * columns].reshape(-1, columns).tolist()
    for y, row in enumerate(colours):
        x = 0
        for colour, run in groupby(row):
            length = len(list(run))
            lines[colour].append("M{} {}h{}".format(x, y, length))
            x += length
    for kind, drawn in list(zip(view.kinds, lines))[:-1]:
        if drawn:
            yield '<path class="{}" transform="translate(0 .5)" d="{}"/>'.format(kind.colour, "".join(drawn))


def ring_places(part: Part, mapped: MemoryMap) -> List[Tuple[int, int]]:
    """(column, row) of the squares in a part with the top page table of a vcpu, each once."""
    cells = [(pfn - part.pfn) // mapped.grid.per_cell for pfn in mapped.tables.values() if pfn is not None]
    return [(cell % mapped.grid.columns, cell // mapped.grid.columns) for cell in sorted(set(cells))
            if 0 <= cell < part.rows * mapped.grid.columns]


def _rings(part: Part, mapped: MemoryMap) -> Iterator[str]:
    for x, y in ring_places(part, mapped):
        yield '<circle class="ring" cx="{}.5" cy="{}.5" r="{}" stroke-width="{}"/>'.format(
            x, y, mapped.grid.columns / 100, mapped.grid.columns / 400)


def _data(mapped: MemoryMap) -> str:
    """The script's constants: the kinds of each view and the figures of each cell."""
    letters = iter("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    views = [(view.title, [(next(letters), kind.name) for kind in view.kinds]) for view in mapped.views]
    every = "".join(letter for _, kinds in views for letter, _ in kinds)
    cells = zip(*(view.counts.tolist() for view in mapped.views))
    items = ("".join(letter + str(count) for letter, count in zip(every, _joined(cell)) if count) for cell in cells)
    packed = ",".join(item if times == 1 else "{}*{}".format(item, times) for item, times in (
        (item, len(list(run))) for item, run in groupby(items)))
    return "const COLUMNS = {}, EACH = {}, VIEWS = {},\nCELLS = \"{}\";".format(
        mapped.grid.columns, mapped.grid.per_cell, json.dumps(views), packed)


def _joined(lists: Iterable[List[int]]) -> Iterator[int]:
    return (item for some in lists for item in some)
