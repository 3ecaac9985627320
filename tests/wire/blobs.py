"""The genuine blobs of tests/data, and checks for every parser of blobs."""
import lzma
from pathlib import Path
from typing import Any, Callable

from xstream.errors import StreamError

FOLDER = Path(__file__).resolve().parent.parent / "data" / "blobs"


def blob(name: str) -> bytes:
    """A genuine blob, unpacked."""
    with lzma.open(str(FOLDER / (name + ".xz"))) as file:
        return file.read()


def survives(read: Callable[[Any], Any], data: bytes) -> bool:
    """Whether ``read`` accepts the bytes. It may raise StreamErrors with an offset, and nothing else."""
    try:
        read(data)
    except StreamError as error:
        assert error.offset is not None
        assert str(error)
        return False
    return True


def assert_hostile_bytes_survive(read: Callable[[Any], Any], data: bytes, step: int = 1) -> None:
    """Truncate at each ``step``-th length; invert each ``step``-th byte, set it to 0xff and to 0."""
    for length in range(0, len(data), step):
        survives(read, data[:length])
    for place in range(0, len(data), step):
        changed = bytearray(data)
        for value in (data[place] ^ 0xFF, 0xFF, 0):
            changed[place] = value
            survives(read, bytes(changed))
