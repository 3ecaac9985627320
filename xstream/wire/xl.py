"""xl save file: the header and the domain's configuration before a libxl or legacy stream.

Source: struct save_file_header in tools/xl/xl.h; save_domain_core_writeconfig() in tools/xl/xl_saverestore.c,
create_domain() in tools/xl/xl_vmcontrol.c. Up to Xen 4.5: tools/libxl/xl_cmdimpl.c.
"""
import struct

from xstream.errors import CorruptStream, LimitExceeded, UnsupportedStream
from xstream.tuples import NamedTuple
from xstream.wire import signatures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional, Tuple

    from xstream.errors import JsonValue
    from xstream.wire.frames import Buffer

LAYER = signatures.XL
MAGIC = signatures.XL_MAGIC
#: Bits of ``mandatory_flags``: the config is JSON; a libxl stream follows, and not a legacy one.
JSON_CONFIG, LIBXL_STREAM = 1, 2
_BYTE_ORDER, _OTHER_BYTE_ORDER = 0x01020304, 0x04030201
#: Limits on a config that is parsed: bytes, nesting of lists and objects, digits of a number. xl writes a few KiB,
#: nested five deep.
MAX_JSON, MAX_DEPTH, _MAX_DIGITS = 1 << 20, 100, 100

_GUEST_TYPES = ("hvm", "pvh", "pv")
_SETTING = br"""(?m)^[ \t]*(type|builder)[ \t]*=[ \t]*["'](\w{1,16})["']"""

_HEADER = struct.Struct("<32sIIII")
HEADER_SIZE = _HEADER.size
_LENGTH = struct.Struct("<I")


class SaveHeader(NamedTuple):
    """Everything before the stream: flags and optional data.

    - ``config``: the domain's configuration: JSON with its NUL, or the text of a config file;
    - ``rest``: optional data after the config, which xl ignores;
    - ``has_config``: whether there is optional data; without it, xl needs a config file to restore.
    """

    mandatory_flags: int = JSON_CONFIG | LIBXL_STREAM
    config: "Buffer" = b""
    optional_flags: int = 0
    rest: "Buffer" = b""
    has_config: bool = True

    @classmethod
    def of(cls, config: bytes) -> "SaveHeader":
        """The header of a libxl stream for a configuration as JSON, or as the text of a config file."""
        if not config.lstrip().startswith(b"{"):
            return cls(LIBXL_STREAM, config)
        return cls(LIBXL_STREAM | JSON_CONFIG, config.rstrip(b"\0") + b"\0")

    @property
    def config_text(self) -> str:
        """The config without its NUL; invalid UTF-8 is replaced."""
        return bytes(self.config).split(b"\0", 1)[0].decode("utf-8", "replace")

    @property
    def config_object(self) -> "JsonValue":
        """The parsed JSON config; None for a text config. Raises CorruptStream if it isn't JSON though the flags say
        so, LimitExceeded over the limits."""
        if not self.mandatory_flags & JSON_CONFIG:
            return None
        if len(self.config) > MAX_JSON:
            raise _too_large("{} bytes".format(MAX_JSON))
        import json  # not needed for other formats
        try:
            parsed: JsonValue = json.loads(self.config_text, parse_int=_integer, parse_float=_finite,
                                           parse_constant=_finite)
        except RecursionError:
            raise _too_large("{} deep".format(MAX_DEPTH))
        except ValueError as error:
            raise CorruptStream("config isn't JSON: {}".format(error), layer=LAYER, offset=HEADER_SIZE + 4,
                                field="config")
        _check_depth(parsed)
        return parsed

    @property
    def guest_type(self) -> "Optional[str]":
        """"hvm", "pvh" or "pv" as the config says, which is what libxl goes by; None if it doesn't say."""
        if not self.mandatory_flags & JSON_CONFIG:
            return _text_type(bytes(self.config[:MAX_JSON]))
        try:
            return _json_type(self.config_object)
        except (CorruptStream, LimitExceeded):
            return None


def _json_type(config: "JsonValue") -> "Optional[str]":
    """The type by the key of the build info's union, or else by the create info's field."""
    build, create = (config.get(name) if isinstance(config, dict) else None for name in ("b_info", "c_info"))
    for guest_type in _GUEST_TYPES:
        if isinstance(build, dict) and "type." + guest_type in build:
            return guest_type
    found = create.get("type") if isinstance(create, dict) else None
    return next((guest_type for guest_type in _GUEST_TYPES if guest_type == found), None)


def _text_type(config: bytes) -> "Optional[str]":
    """The type by ``type``, or else by ``builder``, as the text of a config file has them."""
    import re  # not needed for other configurations
    found: Dict[bytes, bytes] = dict(re.findall(_SETTING, config))
    guest_type = found.get(b"type", b"").decode("ascii", "replace")
    if guest_type in _GUEST_TYPES:
        return guest_type
    return {b"hvm": "hvm", b"generic": "pv", b"linux": "pv"}.get(found.get(b"builder", b""))


#: Record type to (name, class): the header is this layer's only record.
RECORDS = {0: ("SAVE_HEADER", SaveHeader)}


def type_name(record_type: int) -> str:
    """The name of the only record."""
    return RECORDS[record_type][0]


def type_of(record: SaveHeader) -> int:
    """0: there is one record only."""
    return 0


def parse_head(untrusted: "Buffer") -> "Tuple[SaveHeader, int]":
    """The header without its optional data, and that data's length, from 48 bytes.

    Raises CorruptStream for another file's, UnsupportedStream for another byte order and unknown mandatory flags.
    Offsets in errors are relative to the first byte.
    """
    magic, byte_order, mandatory, optional, length = _HEADER.unpack_from(untrusted)
    if magic != MAGIC:
        raise CorruptStream("not an xl save file", offset=0, field="magic", expected=MAGIC, got=magic)
    if byte_order == _OTHER_BYTE_ORDER:
        raise UnsupportedStream("saved by a host of the other byte order (big-endian)", offset=32, field="byteorder",
                                expected=hex(_BYTE_ORDER), got=hex(byte_order))
    if byte_order != _BYTE_ORDER:
        raise CorruptStream("impossible byte order", offset=32, field="byteorder", expected=hex(_BYTE_ORDER),
                            got=hex(byte_order))
    if mandatory & ~(JSON_CONFIG | LIBXL_STREAM):
        raise UnsupportedStream("unknown mandatory flags", offset=36, field="mandatory_flags",
                                expected="bits 0 and 1 only", got=hex(mandatory))
    return SaveHeader(mandatory, b"", optional), length


def parse_optional_data(head: SaveHeader, untrusted: "Buffer") -> SaveHeader:
    """The whole header: ``head`` with its optional data, of which config and rest are slices.

    Raises CorruptStream if the config is longer than the optional data, with offsets relative to the header's first
    byte.
    """
    if not len(untrusted):
        return head._replace(has_config=False)
    if len(untrusted) < _LENGTH.size:
        raise CorruptStream("optional data too short for the config's length", offset=44, field="optional_data_len",
                            expected="0 or at least 4", got=len(untrusted))
    length, = _LENGTH.unpack_from(untrusted)
    if length > len(untrusted) - _LENGTH.size:
        raise CorruptStream("config longer than the optional data", offset=HEADER_SIZE, field="config length",
                            expected="at most {}".format(len(untrusted) - _LENGTH.size), got=length)
    return head._replace(config=untrusted[4:4 + length], rest=untrusted[4 + length:])


def build(record: SaveHeader) -> "List[Buffer]":
    """The pieces of the whole header, in order."""
    optional = [_LENGTH.pack(len(record.config)), record.config, record.rest] if record.has_config else []
    length = sum(len(piece) for piece in optional)
    return [_HEADER.pack(MAGIC, _BYTE_ORDER, record.mandatory_flags, record.optional_flags, length)] + optional


def ignored_content(record: SaveHeader) -> "Optional[Tuple[int, str, object]]":
    """(offset, field, value) of data that xl ignores and doesn't write, or None."""
    if len(record.rest):
        return HEADER_SIZE + 4 + len(record.config), "optional data", bytes(record.rest[:32])
    return None


def _integer(digits: str) -> int:
    """An integer of bounded length: converting a long one takes quadratic time."""
    if len(digits) > _MAX_DIGITS:
        raise ValueError("number of {} digits".format(len(digits)))
    return int(digits)


def _finite(text: str) -> float:
    """A finite number: JSON has no NaN and no infinities."""
    number = float(text)
    if number - number:
        raise ValueError("number out of range")
    return number


def _check_depth(parsed: "JsonValue") -> None:
    level = [parsed]
    for _ in range(MAX_DEPTH):
        level = [item for outer in level if isinstance(outer, (dict, list))
                 for item in (outer.values() if isinstance(outer, dict) else outer)]
        if not level:
            return
    raise _too_large("{} deep".format(MAX_DEPTH))


def _too_large(most: str) -> LimitExceeded:
    return LimitExceeded("JSON config larger than the limit", layer=LAYER, offset=HEADER_SIZE + 4, field="config",
                         expected="at most " + most)


#: What the flags say, for people.
FLAGS: "Dict[int, str]" = {JSON_CONFIG: "JSON config", LIBXL_STREAM: "libxl stream"}
