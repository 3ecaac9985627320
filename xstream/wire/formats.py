"""All formats by the name of their layer, for what treats their records alike."""
from typing import Any, Dict

from xstream.wire import legacy, libvirt, libxc, libxl, xend, xenopsd, xl
from xstream.wire.frames import FRAME, padded

#: Layer to its module: type_of and type_name mean the same in each; build and ignored_content in each but legacy.
MODULES: Dict[str, Any] = {module.LAYER: module for module in (libxc, libxl, xl, libvirt, xenopsd, xend, legacy)}
_FRAMED = (libxc.LAYER, libxl.LAYER)


def record_name(layer: str, record: Any) -> str:
    """The name of a record's type."""
    module = MODULES[layer]
    name: str = module.type_name(module.type_of(record))
    return name


def record_size(layer: str, record: Any) -> int:
    """Bytes that a record takes in its stream, with what frames it; a legacy stream's reader says it of each."""
    size = sum(len(piece) for piece in MODULES[layer].build(record))
    return FRAME.size + padded(size) if layer in _FRAMED else size
