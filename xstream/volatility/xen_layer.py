"""The layer, and the stacker by which Volatility finds that a file is one for it."""
import os
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple
from urllib.parse import urlparse
from urllib.request import url2pathname

from volatility3.framework import exceptions, interfaces
from volatility3.framework.configuration import requirements

from xstream.containers.opening import recognise
from xstream.errors import StreamError
from xstream.guest.memory_view import MemoryView
from xstream.stream.signs import OTHERS
from xstream.stream.source import BufferSource
from xstream.wire.libxc import PAGE_SIZE

#: Bytes at the beginning of a file that are enough to recognise it.
_HEAD = 4096


class XenLayer(interfaces.layers.DataLayerInterface):
    """The guest-physical memory in a Xen save file or migration stream; read-only.

    Addresses in pages that aren't populated are invalid. ``location`` is the file's URL.
    """

    def __init__(self, context: Any, config_path: str, name: str, metadata: Optional[Dict[str, Any]] = None) -> None:
        super().__init__(context, config_path, name, metadata)
        self._view = MemoryView(_path(self.config["location"]))

    @classmethod
    def get_requirements(cls) -> List[Any]:
        return [requirements.URIRequirement(name="location", optional=False)]

    @property
    def location(self) -> str:
        """The URL of the file."""
        location: str = self.config["location"]
        return location

    @property
    def minimum_address(self) -> int:
        return 0

    @property
    def maximum_address(self) -> int:
        return self._view.size - 1

    def is_valid(self, offset: int, length: int = 1) -> bool:
        return self._view.is_populated(offset, length)

    def read(self, offset: int, length: int, pad: bool = False) -> bytes:
        """``length`` bytes; raises InvalidAddressException for those that aren't populated, or ``pad``s with zeros."""
        if not pad and length and not self._view.is_populated(offset, length):
            raise exceptions.InvalidAddressException(self.name, self._first_absent(offset, length),
                                                     "not populated in the saved guest")
        return self._view.read(offset, length)

    def write(self, offset: int, data: bytes) -> None:
        raise exceptions.LayerException(self.name, "a saved guest is read-only")

    def scan(self, context: Any, scanner: Any, progress_callback: Any = None,
             sections: Optional[Iterable[Tuple[int, int]]] = None) -> Iterable[Any]:
        """Scan what is populated: a chunk with a hole in it would be passed over as a whole."""
        if sections is None:
            sections = [(0, self._view.size)]
        populated = [piece for start, length in sections for piece in self._populated(start, length)]
        if populated:
            yield from super().scan(context, scanner, progress_callback, populated)

    def destroy(self) -> None:
        self._view.close()

    def _populated(self, start: int, length: int) -> Iterator[Tuple[int, int]]:
        """The populated parts of a section, as (address, size)."""
        end = start + length
        for first, count in self._view.runs(start // PAGE_SIZE, -(-end // PAGE_SIZE)).tolist():
            begin = max(first * PAGE_SIZE, start)
            yield begin, min((first + count) * PAGE_SIZE, end) - begin

    def _first_absent(self, offset: int, length: int) -> int:
        address = offset
        while address < offset + length and self._view.is_populated(address):
            address = (address // PAGE_SIZE + 1) * PAGE_SIZE
        return address


class XenStacker(interfaces.automagic.StackerLayerInterface):
    """Puts a XenLayer on files that are Xen's."""

    stack_order = 5

    @classmethod
    def stack(cls, context: Any, layer_name: str, progress_callback: Any = None) -> Optional[XenLayer]:
        """The layer for a file, or None for one that isn't a stream or save file (whole and good)."""
        location = getattr(context.layers[layer_name], "location", None)
        if isinstance(context.layers[layer_name], XenLayer) or not location or not _is_ours(location):
            return None
        name = context.layers.free_layer_name("XenLayer")
        context.config[interfaces.configuration.path_join(name, "location")] = location
        try:
            return XenLayer(context, name, name)
        except (StreamError, OSError) as error:
            raise exceptions.LayerException(name, str(error))


def _path(location: str) -> str:
    return url2pathname(urlparse(location).path)


def _is_ours(location: str) -> bool:
    """Whether a file's beginning is that of a format known here."""
    if urlparse(location).scheme != "file" or not os.path.isfile(_path(location)):
        return False
    with open(_path(location), "rb") as file:
        sign = recognise(BufferSource(file.read(_HEAD)))
    return sign is not None and sign not in OTHERS
