"""The wire modules by the name of their layer."""
from typing import Any, Dict

from xstream.wire import colo, legacy, libvirt, libxc, libxl, xend, xenopsd, xl

#: Layer to its module. Each has type_of, type_name, build and ignored_content.
MODULES: Dict[str, Any] = {module.LAYER: module for module in (libxc, libxl, xl, libvirt, xenopsd, xend, colo)}


def record_name(layer: str, record: Any) -> str:
    """The name of a record's type."""
    if layer == legacy.LAYER:
        return legacy.type_name(record)
    module = MODULES[layer]
    name: str = module.type_name(module.type_of(record))
    return name
