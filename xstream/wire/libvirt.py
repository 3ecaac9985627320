"""libvirt's save file of a domain under its libxl driver: a header and the domain's XML before the stream.

Source: struct _libxlSavefileHeader in libvirt's src/libxl/libxl_conf.h; libxlDoDomainSave() in libxl_driver.c,
libxlDomainSaveImageOpen() in libxl_domain.c. Fields are in the saving host's byte order.
"""
import struct

from xstream.errors import CorruptStream, UnsupportedStream
from xstream.tuples import NamedTuple
from xstream.wire import signatures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional, Tuple

    from xstream.wire.frames import Buffer

LAYER = signatures.LIBVIRT
MAGIC = signatures.LIBVIRT_MAGIC
LEGACY_STREAM, LIBXL_STREAM = 1, 2

#: The element <os>, and the contents of <type> in it, by libvirt's names of guest types.
_OS = br"<os[ >]"
_TYPE = br"<type[^<>]{0,256}>\s{0,64}(\w{1,16})"
_GUEST_TYPES = {b"hvm": "hvm", b"xenpvh": "pvh", b"xen": "pv", b"linux": "pv"}

_HEADER = struct.Struct("<16sII40s")
HEADER_SIZE = _HEADER.size


class SaveHeader(NamedTuple):
    """Everything before the stream. ``xml``: the domain's definition with its NUL; never parsed."""

    xml: "Buffer"
    version: int = LIBXL_STREAM
    unused: "Buffer" = bytes(40)

    @classmethod
    def of(cls, xml: bytes) -> "SaveHeader":
        """The header of a libxl stream for a domain's XML."""
        return cls(xml.rstrip(b"\0") + b"\0")

    @property
    def xml_text(self) -> str:
        """The XML without its NUL; invalid UTF-8 is replaced."""
        return bytes(self.xml).split(b"\0", 1)[0].decode("utf-8", "replace")

    @property
    def guest_type(self) -> "Optional[str]":
        """"hvm", "pvh" or "pv" as the element <type> in <os> says; None if it doesn't say. The XML isn't parsed."""
        import re  # not needed for other formats
        xml = bytes(self.xml)
        os_element = re.search(_OS, xml)
        start = xml.find(b"<type", os_element.end()) if os_element else -1
        found = re.match(_TYPE, xml[start:start + 512]) if start >= 0 else None
        return _GUEST_TYPES.get(found.group(1)) if found else None


#: Record type to (name, class): the header is this layer's only record.
RECORDS = {0: ("SAVE_HEADER", SaveHeader)}


def type_name(record_type: int) -> str:
    """The name of the only record."""
    return RECORDS[record_type][0]


def type_of(record: SaveHeader) -> int:
    """0: there is one record only."""
    return 0


def parse_head(untrusted: "Buffer") -> "Tuple[SaveHeader, int]":
    """The header without its XML, and the XML's length, from 64 bytes.

    Raises CorruptStream for another file's, UnsupportedStream for another byte order or version. Offsets in errors are
    relative to the first byte.
    """
    magic, version, length, unused = _HEADER.unpack_from(untrusted)
    if magic != MAGIC:
        raise CorruptStream("not a save file of libvirt's libxl driver", offset=0, field="magic", expected=MAGIC,
                            got=magic)
    if version in (LEGACY_STREAM << 24, LIBXL_STREAM << 24):
        raise UnsupportedStream("saved by a host of the other byte order (big-endian)", offset=16, field="version",
                                expected="1 or 2", got=hex(version))
    if version not in (LEGACY_STREAM, LIBXL_STREAM):
        raise UnsupportedStream("unknown version", offset=16, field="version", expected="1 or 2", got=version)
    if not length:
        raise CorruptStream("no domain XML", offset=20, field="xmlLen", expected="at least 1", got=0)
    return SaveHeader(b"", version, unused), length


def build(record: SaveHeader) -> "List[Buffer]":
    """The pieces of the whole header, in order."""
    return [_HEADER.pack(MAGIC, record.version, len(record.xml), bytes(record.unused)), record.xml]


def ignored_content(record: SaveHeader) -> "Optional[Tuple[int, str, object]]":
    """(offset, field, value) of a field that libvirt ignores and should be zero, or None."""
    if any(record.unused):
        return 24, "unused", bytes(record.unused)
    return None
