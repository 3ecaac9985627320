"""The name and UUID of a domain, as the configuration in its container says.

Source: ``c_info`` in xl's JSON; ``name`` and ``uuid`` in xl's config files and in xend's S-expression; the elements of
these names in libvirt's XML; ``vm_str`` in xenopsd's record, the S-expression (or JSON) of a Vm.t, whose ``id`` is the
UUID.
"""
import re

from xstream.errors import StreamError
from xstream.tuples import NamedTuple
from xstream.wire import libvirt, sexp, xend, xenopsd, xl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Optional

    from xstream.wire.formats import AnyRecord

#: Characters of a name that are kept.
_MOST_TEXT = 256
#: Bytes of a text in which names are searched for.
_MOST_SEARCHED = 1 << 20
_SETTING = re.compile(br"""^[ \t]*(name|uuid)[ \t]*=[ \t]*(["'])([^"'\n]{0,256})\2""", re.MULTILINE)
_ELEMENT = {name: re.compile("<{0}>([^<]{{0,256}})</{0}>".format(name).encode()) for name in ("name", "uuid")}
_ENTITIES = (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"), ("&amp;", "&"))


class DomainName(NamedTuple):
    """A domain's name and UUID; each None if the configuration doesn't say. The text is untrusted."""

    name: "Optional[str]" = None
    uuid: "Optional[str]" = None


def domain_name(record: "AnyRecord") -> DomainName:
    """The domain's name in a record of a container. Empty for records without a configuration, and for one that can't
    be parsed: that isn't judged here."""
    try:
        if isinstance(record, xl.SaveHeader):
            return _of_xl(record)
        if isinstance(record, libvirt.SaveHeader):
            return _of_xml(bytes(record.xml[:_MOST_SEARCHED]))
        if isinstance(record, xend.SaveHeader):
            return _of_fields(_fields(sexp.parse(record.config)))
        if isinstance(record, xenopsd.Xenops):
            return _of_vm(record.fields.get("vm_str"))
    except (StreamError, UnicodeEncodeError):
        pass
    return DomainName()


def _of_xl(record: xl.SaveHeader) -> DomainName:
    if not record.mandatory_flags & xl.JSON_CONFIG:
        return _of_fields({key.decode(): value.decode("utf-8", "replace")
                           for key, _, value in _SETTING.findall(bytes(record.config[:_MOST_SEARCHED]))})
    config = record.config_object
    return _of_fields(config.get("c_info") if isinstance(config, dict) else None)


def _of_xml(xml: bytes) -> DomainName:
    """The first elements of these names: libvirt writes them before all others that may have such children."""
    found = {name: pattern.search(xml) for name, pattern in _ELEMENT.items()}
    return _of_fields({name: _unescaped(match.group(1).decode("utf-8", "replace"))
                       for name, match in found.items() if match})


def _unescaped(text: str) -> str:
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    return text


def _of_vm(text: "Optional[sexp.Sexp]") -> DomainName:
    if not isinstance(text, str):
        return DomainName()
    if text.lstrip().startswith("{"):
        fields: object = xl.SaveHeader.of(text.encode("utf-8")).config_object
    else:
        fields = _fields(sexp.parse(text.encode("utf-8")))
    return _of_fields(fields, uuid="id")


def _fields(whole: "sexp.Sexp") -> "Dict[str, sexp.Sexp]":
    """The fields of an S-expression that are pairs of a name and an atom."""
    return {field[0]: field[1] for field in whole
            if isinstance(field, tuple) and len(field) == 2 and isinstance(field[0], str)}


def _of_fields(fields: object, uuid: str = "uuid") -> DomainName:
    if not isinstance(fields, dict):
        return DomainName()
    return DomainName(_text(fields.get("name")), _text(fields.get(uuid)))


def _text(value: object) -> "Optional[str]":
    return value[:_MOST_TEXT] if isinstance(value, str) else None
