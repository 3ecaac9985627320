"""C structures as tables of (name, format), decoded into ordered dicts.

A format is that of :mod:`struct`, little-endian and unpadded. A field's value is one number, or a tuple if the format
has several. Three forms are extensions of ``struct``:

- ``"16s"`` is one unsigned number of 16 bytes (registers wider than 64 bits);
- a format of pad bytes only (``"6x"``) is a gap; its name is ignored;
- a name such as ``"vector:8 kind:3 valid:1"`` names bit fields of one number, from bit 0 up; ``_`` skips bits.
"""
import struct

from xstream.tuples import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Tuple, Union

    from xstream.wire.frames import Buffer

    #: A field's name and format.
    Row = Tuple[str, str]

    #: The fields of a structure by name. A value is a number or a tuple of numbers, as the name's format says; callers
    #: know which, type checkers can't.
    Fields = Dict[str, Any]


class _Field(NamedTuple):
    name: str
    offset: int
    end: int
    format: struct.Struct


class Layout:
    """Decodes one structure; ``size`` is its size in bytes."""

    def __init__(self, *rows: "Row") -> None:
        self.size = 0
        self._fields: List[_Field] = []
        for name, form in rows:
            compiled = struct.Struct("<" + form)
            offset, self.size = self.size, self.size + compiled.size
            if form.strip("0123456789") != "x":
                self._fields.append(_Field(name, offset, self.size, compiled))

    def decode(self, untrusted: "Buffer") -> "Fields":
        """Name to value in the structure's order.

        Of a buffer shorter than the structure only the fields that it holds whole; bytes beyond it are passed over.
        """
        values: Fields = {}
        length = len(untrusted)
        for field in self._fields:
            if field.end <= length:
                _put(values, field.name, field.format.unpack_from(untrusted, field.offset))
        return values


def repeated(name: str, count: int, *rows: "Row") -> "Tuple[Row, ...]":
    """Rows of an array of structures: ``name[0].field`` and so on."""
    return tuple(("{}[{}].{}".format(name, index, row), form) for index in range(count) for row, form in rows)


def prefixed(prefix: str, rows: "Tuple[Row, ...]") -> "Tuple[Row, ...]":
    """Rows of a structure within another: ``prefix.field``."""
    return tuple((prefix + "." + name, form) for name, form in rows)


def _put(values: "Fields", name: str, items: "Tuple[Union[int, bytes], ...]") -> None:
    numbers = tuple(int.from_bytes(item, "little") if isinstance(item, bytes) else item for item in items)
    if ":" in name:
        _put_bits(values, name, numbers[0])
    else:
        values[name] = numbers[0] if len(numbers) == 1 else numbers


def _put_bits(values: "Fields", names: str, number: int) -> None:
    for name, width in (part.split(":") for part in names.split()):
        if name != "_":
            values[name] = number & ((1 << int(width)) - 1)
        number >>= int(width)
