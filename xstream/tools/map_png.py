"""A memory map as a PNG image. This module needs Pillow."""
import io
from typing import Any, Iterator, Sequence, Tuple

import numpy
from PIL import Image, ImageDraw, ImageFont

from xstream.tools.map_page import COLOURS, caption, ring_places, top_tables
from xstream.tools.memory_map import MemoryMap, Part, View

_WIDTH, _HEIGHT, _MARGIN, _LINE, _TEXT = 896, 1 << 14, 24, 20, 13
_BACK, _INK, _SOFT, _FRAME = "#ffffff", "#1c2430", "#5b6675", "#8a94a3"
_BOX = 12


class _Canvas:
    """An image on which ``y`` is how far it has been drawn on. It has room for any memory map."""

    def __init__(self) -> None:
        self.image = Image.new("RGB", (_WIDTH + 2 * _MARGIN, _HEIGHT), _BACK)
        self.draw = ImageDraw.Draw(self.image)
        try:
            self.font: Any = ImageFont.load_default(_TEXT)
        except TypeError:  # Pillow up to 10.0 has a font of one size only
            self.font = ImageFont.load_default()
        self.y = _MARGIN

    def width(self, text: str) -> int:
        """Pixels that a text takes."""
        if hasattr(self.font, "getbbox"):
            return int(self.font.getbbox(text)[2])
        return int(self.font.getsize(text)[0])  # Pillow up to 7

    def text(self, text: str, colour: str = _INK) -> None:
        """A paragraph, wrapped between words."""
        for line in self._lines(text):
            self.draw.text((_MARGIN, self.y), line, colour, self.font)
            self.y += _LINE

    def _lines(self, text: str) -> Iterator[str]:
        line = ""
        for word in text.split(" "):
            if line and self.width(line + " " + word) > _WIDTH:
                yield line
                line = "  "
            line += word if not line.strip() else " " + word
        yield line

    def png(self) -> bytes:
        """What has been drawn."""
        out = io.BytesIO()
        self.image.crop((0, 0, self.image.width, min(self.y + _MARGIN, _HEIGHT))).save(out, "PNG", optimize=True)
        return out.getvalue()


def picture(mapped: MemoryMap, rows: Sequence[Tuple[str, str]], name: str) -> bytes:
    """The image of a memory map, with a summary and the name of the guest's file, in light colours."""
    canvas = _Canvas()
    canvas.text("Guest memory" + (": " + _plain(name) if name else ""))
    for row in rows:
        canvas.text("{}: {}".format(*map(_plain, row)), _SOFT)
    if top_tables(mapped):
        canvas.text("Ring: " + top_tables(mapped), _SOFT)
    for view in mapped.views:
        canvas.y += _LINE
        canvas.text(view.title)
        _key(canvas, view)
        for part in mapped.grid.parts:
            canvas.text(caption(part, mapped.grid), _SOFT)
            _part(canvas, view, part, mapped)
    return canvas.png()


def _plain(text: str) -> str:
    """Text that Pillow's built-in font has."""
    return "".join(character if character.isprintable() else "?" for character in text).encode(
        "latin-1", "replace").decode("latin-1")


def _key(canvas: _Canvas, view: View) -> None:
    x = _MARGIN
    for kind, text in view.key:
        size = _BOX + 5 + canvas.width(text)
        if x > _MARGIN and x + size > _MARGIN + _WIDTH:
            x, canvas.y = _MARGIN, canvas.y + _LINE
        canvas.draw.rectangle((x, canvas.y, x + _BOX, canvas.y + _BOX), COLOURS[kind.colour][0], _FRAME)
        canvas.draw.text((x + _BOX + 5, canvas.y), text, _INK, canvas.font)
        x += size + 16
    canvas.y += _LINE


def _part(canvas: _Canvas, view: View, part: Part, mapped: MemoryMap) -> None:
    columns = mapped.grid.columns
    scale = _WIDTH // columns
    palette = numpy.array([[int(COLOURS[kind.colour][0][at:at + 2], 16) for at in (1, 3, 5)] for kind in view.kinds],
                          numpy.uint8)
    cells = view.colours[part.cell:part.cell + part.rows * columns].reshape(-1, columns)
    squares = Image.fromarray(palette[cells].repeat(scale, axis=0).repeat(scale, axis=1))
    rings = ImageDraw.Draw(squares)
    for x, y in ring_places(part, mapped):
        middle, radius = ((x + 0.5) * scale, (y + 0.5) * scale), _WIDTH // 100
        rings.ellipse([place - radius for place in middle] + [place + radius for place in middle], outline=_INK)
    canvas.image.paste(squares, (_MARGIN, canvas.y))
    canvas.y += part.rows * scale + _LINE // 2
