"""Buffers for kernels: arrays are made, and what callers pass is checked: errors name the argument, and come before
anything is read.

The module array isn't used: it loads collections, which takes as long as ten of the package's modules.
"""
import mmap
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    import array as array_module
    from typing import Iterable, Iterator, Optional, Protocol, Union

    from _typeshed import ReadableBuffer

    class Array(Protocol):
        """A numpy array. numpy's types say that arrays are buffers from Python 3.12 on only."""

        @property
        def data(self) -> memoryview: ...

        @property
        def nbytes(self) -> int: ...

        def tobytes(self) -> bytes: ...

        def __len__(self) -> int: ...

        def __iter__(self) -> Iterator[int]: ...

    #: What kernels and writers take: any object with the buffer protocol, such as bytes, bytearray, memoryview, mmap or
    #: a numpy array.
    BufferLike = Union[ReadableBuffer, Array]
    #: An array of numbers: a memoryview of a known format, an array.array or a numpy array.
    Numbers = Union[memoryview, array_module.array[int], Array]
    #: An array of bytes.
    Flags = Union[bytes, bytearray, memoryview, Array]

_MAP_NORESERVE = 0x4000  # not in Python's mmap module before 3.13
_FORMATS = {"uint8": ("B", 1), "uint64": ("LQ", 8)}


def uint64(count: int) -> memoryview:
    """A zeroed uint64 array."""
    return memoryview(bytearray(8 * count)).cast("Q")


def uint64_of(numbers: "Iterable[int]") -> memoryview:
    """A uint64 array of these numbers; read-only."""
    values = tuple(numbers)
    return memoryview(struct.pack("{}Q".format(len(values)), *values)).cast("Q")


def reserve(size: int) -> mmap.mmap:
    """Zeroed bytes that use memory only where they are written."""
    return mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)


def octets(name: str, buffer: "BufferLike", *, size: "Optional[int]" = None, writable: bool = False) -> memoryview:
    """Any contiguous buffer as bytes (1-d uint8); a view.

    ``size``: the number of bytes that it must have. Raises TypeError for an object that isn't a buffer, and ValueError
    for one that isn't contiguous, isn't writable though ``writable`` is set, or has another size.
    """
    view = _view(name, buffer, writable)
    if view.nbytes == 0:
        view = memoryview(bytearray())  # an empty view of several dimensions can't be cast
    elif view.ndim != 1 or view.format != "B":
        view = view.cast("B")
    if size is not None and view.nbytes != size:
        raise ValueError("{} must have {} bytes, not {}".format(name, size, view.nbytes))
    return view


def pages(name: str, buffer: "BufferLike", *, writable: bool = False) -> memoryview:
    """As ``octets``, for whole pages of 4096 bytes."""
    view = octets(name, buffer, writable=writable)
    if view.nbytes % 4096:
        raise ValueError("{} must hold whole pages of 4096 bytes, not {} bytes".format(name, view.nbytes))
    return view


def array(name: str, buffer: "BufferLike", dtype: str, *, length: "Optional[int]" = None,
          writable: bool = False) -> memoryview:
    """A contiguous 1-d buffer of ``dtype`` ("uint8" or "uint64", native order), of any alignment; a view.

    ``length``: the number of elements that it must have. Raises what ``octets`` raises, and TypeError for elements of
    another type.
    """
    view = _view(name, buffer, writable)
    codes, itemsize = _FORMATS[dtype]
    if view.format.lstrip("@=") not in tuple(codes) or view.itemsize != itemsize:
        raise TypeError("{} must be of {}, not of format {!r}".format(name, dtype, view.format))
    if view.ndim != 1:
        raise ValueError("{} must have one dimension, not {}".format(name, view.ndim))
    if length is not None and len(view) != length:
        raise ValueError("{} must have {} elements, not {}".format(name, length, len(view)))
    return view


def _view(name: str, buffer: "BufferLike", writable: bool) -> memoryview:
    try:
        view = memoryview(buffer)  # type: ignore[arg-type]  # an Array is a buffer
    except TypeError:
        raise TypeError("{} must be a buffer, not {}".format(name, type(buffer).__name__))
    if not view.c_contiguous:
        raise ValueError("{} must be contiguous".format(name))
    if writable and view.readonly:
        raise ValueError("{} must be writable".format(name))
    return view
