"""Diagrams without a browser's script: SVG images become part of the page, and state diagrams in Mermaid's notation are
drawn here. Both then use the colours of the page, light or dark, and need no network.

Only the lines that scripts/draw-ordering writes are understood: ``a --> b`` and ``a --> b: label``.
"""
import re
from html import escape
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Tuple

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform

EDGE = re.compile(r"\s*(\S+) --> (\S+?)(?:: (.*))?$")
BOX_HEIGHT, ROW, LEFT, CHARACTER = 44, 92, 20, 9.0


class Edge(NamedTuple):
    origin: int
    target: int
    label: str


def parse(source: str) -> Tuple[List[str], List[Edge]]:
    """States in the order in which they appear, and the edges; several between the same states become one."""
    labels: Dict[Tuple[str, str], List[str]] = {}
    for line in source.splitlines():
        found = EDGE.match(line)
        if found:
            labels.setdefault((found.group(1), found.group(2)), []).append(found.group(3) or "")
    # [*] is the beginning on the left of an arrow and the end on its right.
    pairs = {("(begin)" if a == "[*]" else a, "(end)" if b == "[*]" else b): text for (a, b), text in labels.items()}
    found = list(dict.fromkeys(name for pair in pairs for name in pair))
    names = sorted(found, key=lambda name: ("end", "(end)").index(name) if name in ("end", "(end)") else -1)
    return names, [Edge(names.index(a), names.index(b), ", ".join(filter(None, text)))
                   for (a, b), text in pairs.items()]


def state_diagram(source: str) -> str:
    """The diagram as SVG: states one below the other, arrows that skip or go back beside them."""
    names, edges = parse(source)
    box = 28 + 8 * max(map(len, names))
    back = [edge for edge in edges if edge.target <= edge.origin]
    skip = sorted((edge for edge in edges if edge.target > edge.origin + 1), key=lambda edge: edge.target - edge.origin)
    left = LEFT + _room(back)
    middle, right = left + box / 2, left + box
    drawn = [_state(name, row, left, box) for row, name in enumerate(names)]
    for edge in edges:
        if edge.target == edge.origin + 1:
            top, bottom = edge.origin * ROW + BOX_HEIGHT, edge.target * ROW
            drawn.append(_arrow("M{} {} V{}".format(middle, _edge_of(names, edge.origin, top), bottom - 7), middle,
                                bottom, 90))
            drawn.append(_text(middle + 9, (top + bottom) / 2 + 5, edge.label))
    # Labels of neighbouring states end left of every arrow that passes them.
    passing = max([middle + 9 + CHARACTER * len(edge.label) - right for edge in edges
                   if edge.target == edge.origin + 1] + [0])
    drawn += _beside(skip, right, 1, passing)
    drawn += _beside(back, left, -1, 0)
    width = right + max(passing, _room(skip, passing)) + 24
    height = (len(names) - 1) * ROW + BOX_HEIGHT
    return ('<div class="diagram{}"><svg viewBox="-2 -2 {:.0f} {:.0f}" width="{:.0f}" role="img" '
            'aria-label="state diagram">{}</svg></div>').format(" wide" if width > 760 else "", width + 4, height + 4,
                                                                width + 4, "".join(drawn))


def _room(edges: List[Edge], passing: float = 0) -> float:
    """The width that arrows beside the states take."""
    if not edges:
        return 0
    return max(passing, max(CHARACTER * len(edge.label) for edge in edges)) + 24 + 14 * len(edges)


def _edge_of(names: List[str], row: int, bottom: float) -> float:
    return bottom - BOX_HEIGHT / 2 + 8 if names[row] == "(begin)" else bottom


def _state(name: str, row: int, left: float, box: float) -> str:
    top, middle = row * ROW, left + box / 2
    if name in ("(begin)", "(end)"):
        radius = 8
        circle = '<circle class="head" cx="{}" cy="{}" r="{}"/>'.format(middle, top + BOX_HEIGHT / 2, radius)
        ring = '<circle class="line" cx="{}" cy="{}" r="12"/>'.format(middle, top + BOX_HEIGHT / 2)
        return circle if name == "(begin)" else ring + circle
    return '<rect class="box" x="{}" y="{}" width="{}" height="{}" rx="6"/>{}'.format(
        left, top, box, BOX_HEIGHT, _text(middle, top + BOX_HEIGHT / 2 + 5, name, "middle"))


def _beside(edges: List[Edge], side: float, direction: int, passing: float) -> List[str]:
    """Arrows that leave a state sideways, run along the others and come back in, each in a separate lane."""
    widest = max([CHARACTER * len(edge.label) for edge in edges] + [passing])
    drawn, leaving, arriving = [], {}, {}  # type: Tuple[List[str], Dict[int, int], Dict[int, int]]
    for lane, edge in enumerate(edges):
        x = side + direction * (widest + 16 + 14 * lane)
        leaving[edge.origin] = leaving.get(edge.origin, -1) + 1
        arriving[edge.target] = arriving.get(edge.target, -1) + 1
        start = edge.origin * ROW + BOX_HEIGHT - 5 - 17 * (leaving[edge.origin] % 3)
        stop = edge.target * ROW + 7 + 10 * (arriving[edge.target] % 3)
        drawn.append(_arrow("M{} {} H{} V{} H{}".format(side, start, x, stop, side + direction * 7), side, stop,
                            180 if direction > 0 else 0))
        drawn.append(_text(side + direction * 8, start - 4, edge.label, "start" if direction > 0 else "end"))
    return drawn


def _arrow(path: str, x: float, y: float, turn: int) -> str:
    return '<path class="line" d="{}"/><path class="head" d="M0 0 L-8 -4 L-8 4 Z" transform="translate({} {}) ' \
           'rotate({})"/>'.format(path, x, y, turn)


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return '<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>'.format(x, y, anchor, escape(text)) if text else ""


class DrawStateDiagrams(SphinxTransform):
    """Replaces fenced ``mermaid`` blocks."""

    default_priority = 200

    def apply(self, **kwargs: Any) -> None:
        for block in list(self.document.findall(nodes.literal_block)):
            if block.get("language") == "mermaid":
                block.replace_self(nodes.raw("", state_diagram(block.astext()), format="html"))


class InlineImages(SphinxPostTransform):
    """Replaces images of SVG files by their content; the file's own style, which is for other viewers, is left out."""

    default_priority = 5

    def run(self, **kwargs: Any) -> None:
        for image in list(self.document.findall(nodes.image)):
            if image["uri"].endswith(".svg"):
                text = (Path(self.env.srcdir) / image["uri"]).read_text(encoding="utf-8")
                text = re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
                text = re.sub(r"<svg ", '<svg role="img" aria-label="{}" '.format(escape(image.get("alt", ""))), text,
                              count=1)
                image.replace_self(nodes.raw("", '<div class="diagram">{}</div>'.format(text), format="html"))


def setup(app: Sphinx) -> Dict[str, Any]:
    app.add_transform(DrawStateDiagrams)
    app.add_post_transform(InlineImages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
