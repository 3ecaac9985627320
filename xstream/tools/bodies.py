"""Checks of what is in a record's body, by the parsers that also show it: what Xen or the toolstack would refuse."""

from xstream.errors import StreamError
from xstream.tuples import kind_of

# Each parser is loaded when a record needs it: most streams need few of them.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict

    from xstream.wire import legacy, libxc, xenopsd, xl
    from xstream.wire.formats import AnyRecord

_VCPU_HEAD = 8


def check_body(record: "AnyRecord", guest_width: int, legacy_width: int = 0, *, converted: bool = False) -> None:
    """Raise a StreamError for a body that can't be what its type says. Its offset is relative to the body.

    ``guest_width``: of a PV guest, in bytes; 0 if unknown. ``legacy_width``: of the toolstack that wrote a legacy
    stream. ``converted``: from a legacy stream, in which nothing is said of an HVM context that doesn't begin as Xen's.
    """
    name = kind_of(record)
    if name in _SHARED_INFO:
        if guest_width:
            from xstream.wire import shared_info
            shared_info.parse(record.page, guest_width)  # type: ignore[union-attr]  # a class of _SHARED_INFO
    elif name == "legacy.Toolstack" and legacy_width:
        _check_toolstack(record, legacy_width)  # type: ignore[arg-type]  # as its name says
    elif name == "libxc.HvmContext" and converted:
        from xstream.wire import libxc
        if not libxc.hvm_context_begins(record.blob):  # type: ignore[union-attr]  # as its name says
            return
    check = _CHECKS.get(name)
    if check is not None:
        check(record)


def _check_hvm_context(record: "libxc.HvmContext") -> None:
    if not len(record.blob):
        return  # check_whole() reports it
    from xstream.wire import hvm_context
    hvm_context.check(record.blob)


def _check_legacy_vcpu(record: "legacy.VcpuContext") -> None:
    from xstream.wire import vcpu
    _shifted(len(record.basic), vcpu.check_extended, record.extended)


def _check_hvm_tail(record: "legacy.HvmTail") -> None:
    from xstream.wire import hvm_context, legacy, libxc
    # check_whole() reports an empty one.
    if libxc.hvm_context_begins(record.context):
        _shifted(legacy.MAGIC_PFNS_SIZE + 4, hvm_context.check, record.context)


def _check_toolstack(record: "legacy.Toolstack", width: int) -> None:
    """The chunk of libxl. The old restore doesn't look at an empty one."""
    from xstream.wire import legacy
    if len(record.blob):
        _shifted(legacy.TOOLSTACK_HEAD_SIZE, legacy.parse_physmap, record.blob, width)


def _shifted(at: int, parse: "Callable[..., object]", *untrusted: object) -> None:
    """Call a parser for bytes that lie ``at`` bytes from the beginning of the body. Its errors' offsets become relative
    to the body."""
    try:
        parse(*untrusted)
    except StreamError as error:
        error.located(base=at)
        raise


def _check_vcpu_msrs(record: "libxc.VcpuMsrs") -> None:
    from xstream.wire import msrs
    _shifted(_VCPU_HEAD, msrs.parse, record.blob)


def _check_xl_header(record: "xl.SaveHeader") -> None:
    from xstream.wire import xl
    if record.has_config and record.mandatory_flags & xl.JSON_CONFIG:
        record.config_object  # noqa: B018


def _check_cpuid_policy(record: "libxc.CpuidPolicy") -> None:
    from xstream.wire import policies
    policies.parse(record.leaves)


def _check_msr_policy(record: "libxc.MsrPolicy") -> None:
    from xstream.wire import msrs
    msrs.parse(record.entries)


def _check_xenops(record: "xenopsd.Xenops") -> None:
    record.fields  # noqa: B018


_SHARED_INFO = ("libxc.SharedInfo", "legacy.SharedInfo")
#: By the record's class and the module that defines it.
# What each takes is a record of its class.
_CHECKS: "Dict[str, Callable[[Any], None]]" = {
    "libxc.HvmContext": _check_hvm_context,
    "libxc.VcpuMsrs": _check_vcpu_msrs,
    "libxc.CpuidPolicy": _check_cpuid_policy,
    "libxc.MsrPolicy": _check_msr_policy,
    "legacy.VcpuContext": _check_legacy_vcpu,
    "legacy.HvmTail": _check_hvm_tail,
    "xl.SaveHeader": _check_xl_header,
    "xenopsd.Xenops": _check_xenops,
}
