"""Records as a table for other programs: CSV, or Parquet by pyarrow."""
import csv
import io
import typing
from typing import Any, Dict, Iterable, List

from xstream.errors import printable
from xstream.fleet.image import ImageRecord
from xstream.stream.sink import opened_sink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xstream.errors import JsonValue
    from xstream.stream.types import SinkLike

_TYPES: Dict[str, Any] = {name: kind for name, kind in typing.get_type_hints(ImageRecord).items() if name != "sample"}


def write_csv(records: Iterable[ImageRecord], sink: "SinkLike") -> None:
    """Write a header and one row for each record. Absent values are empty; control characters in text are escaped.
    Raises OSError."""
    text = io.StringIO()
    rows = csv.DictWriter(text, list(_TYPES))
    rows.writeheader()
    rows.writerows(_printable(record) for record in records)
    _write(text.getvalue().encode("utf-8"), sink)


def write_parquet(records: Iterable[ImageRecord], sink: "SinkLike") -> None:
    """The same as a Parquet file, with the fields' types. Raises ImportError without pyarrow."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError("--parquet needs the package pyarrow: install xen-xstream[parquet]")
    kinds = {str: pyarrow.string(), int: pyarrow.int64(), bool: pyarrow.bool_()}
    schema = pyarrow.schema([(name, kinds[_plain(kind)]) for name, kind in _TYPES.items()])
    rows: List[Dict[str, JsonValue]] = [_printable(record) for record in records]
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), out)
    _write(out.getvalue(), sink)


def _plain(kind: Any) -> type:
    """The type itself, of one that may be None."""
    found: type = next((part for part in getattr(kind, "__args__", None) or () if part is not type(None)), kind)
    return found


def _printable(record: ImageRecord) -> "Dict[str, JsonValue]":
    return {name: printable(value) if isinstance(value, str) else value for name, value in record.as_dict().items()}


def _write(data: bytes, sink: "SinkLike") -> None:
    with opened_sink(sink) as opened:
        opened.write([data])
