"""All formats by the name of their layer, for what treats their records alike."""
from typing import Any, Dict

from xstream.wire import libvirt, libxc, libxl, xend, xenopsd, xl
from xstream.wire.frames import FRAME, padded

#: Layer to its module: type_of, type_name, build and ignored_content mean the same in each.
MODULES: Dict[str, Any] = {module.LAYER: module for module in (libxc, libxl, xl, libvirt, xenopsd, xend)}
_FRAMED = (libxc.LAYER, libxl.LAYER)


def record_name(layer: str, record: Any) -> str:
    """The name of a record's type."""
    module = MODULES[layer]
    name: str = module.type_name(module.type_of(record))
    return name


def record_size(layer: str, record: Any) -> int:
    """Bytes that a record takes in its stream, with what frames it."""
    size = sum(len(piece) for piece in MODULES[layer].build(record))
    return FRAME.size + padded(size) if layer in _FRAMED else size
