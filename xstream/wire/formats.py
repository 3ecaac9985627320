"""The wire modules by the name of their layer."""

from xstream.wire import colo, legacy, libvirt, libxc, libxl, xend, xenopsd, xl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Dict, Union

    #: A record of any layer.
    AnyRecord = Union[libxc.Record, libxl.Record, xl.SaveHeader, libvirt.SaveHeader, xenopsd.Record, xend.SaveHeader,
                      colo.Record, legacy.Record]

#: Layer to its module. Each has type_of, type_name, build and ignored_content.
MODULES: "Dict[str, ModuleType]" = {module.LAYER: module for module in (libxc, libxl, xl, libvirt, xenopsd, xend, colo)}


def record_name(layer: str, record: "AnyRecord") -> str:
    """The name of a record's type."""
    if layer == legacy.LAYER:
        return legacy.type_name(record)  # type: ignore[arg-type]
    module = MODULES[layer]
    name: str = module.type_name(module.type_of(record))
    return name
