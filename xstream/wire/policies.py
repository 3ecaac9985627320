"""X86_CPUID_POLICY and X86_MSR_POLICY: the CPU that a guest sees, and how two of them differ.

Source: struct xen_cpuid_leaf and struct xen_msr_entry in xen/include/public/arch-x86/xen.h; the order and meaning of
leaves: xen/arch/x86/lib/cpu-policy/copy-{to,from}-buffer.c; compatibility: policy.c there. MSR policies are arrays of
:mod:`xstream.wire.msrs`.

A leaf that a policy doesn't have reads as zeros, as CPUID returns for it. Of repeated leaves the last one counts.
"""
import struct

from xstream.errors import CorruptStream, LimitExceeded
from xstream.tuples import NamedTuple
from xstream.wire import features, msrs
from xstream.wire.msrs import Msr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterable, List, Optional, Tuple

    from xstream.wire.frames import Buffer

#: Leaves in one policy. Xen sends about 150, and accepts no more than it would send.
MAX_LEAVES = 65536

NO_SUBLEAF = 0xFFFFFFFF
_LEAF = struct.Struct("<6I")
_MSR_FEATURES = {msrs.INTEL_PLATFORM_INFO: features.PLATFORM_INFO, msrs.ARCH_CAPABILITIES: features.ARCH_CAPABILITIES}

if TYPE_CHECKING:
    _Key = Tuple[int, Optional[int]]

    _Registers = Tuple[int, int, int, int]
_ZEROS = (0, 0, 0, 0)


class Leaf(NamedTuple):
    """What CPUID returns for a leaf in eax, ebx, ecx and edx. ``subleaf`` is None if the leaf has no subleaves."""

    leaf: int
    subleaf: "Optional[int]"
    a: int
    b: int
    c: int
    d: int


class Difference(NamedTuple):
    """A register in which two policies differ.

    ``lost`` names the features that only the first policy has, ``gained`` those that only the second has; both are
    empty if the register holds no features.
    """

    leaf: int
    subleaf: "Optional[int]"
    register: str
    value_a: int
    value_b: int
    lost: "Tuple[str, ...]"
    gained: "Tuple[str, ...]"


class MsrDifference(NamedTuple):
    """The same for an MSR."""

    number: int
    value_a: int
    value_b: int
    lost: "Tuple[str, ...]"
    gained: "Tuple[str, ...]"


def parse(untrusted: "Buffer") -> "Tuple[Leaf, ...]":
    """The leaves of a CPUID policy in order.

    Raises CorruptStream if the length isn't a multiple of 24, LimitExceeded if there are more than 65536 leaves.
    """
    if len(untrusted) % _LEAF.size:
        raise CorruptStream("CPUID policy has a wrong size", offset=0, field="length", expected="a multiple of 24",
                            got=len(untrusted))
    if len(untrusted) > MAX_LEAVES * _LEAF.size:
        raise LimitExceeded("too many CPUID leaves", offset=0, expected="at most {}".format(MAX_LEAVES),
                            got=len(untrusted) // _LEAF.size)
    return tuple(Leaf(leaf, None if subleaf == NO_SUBLEAF else subleaf, a, b, c, d)
                 for leaf, subleaf, a, b, c, d in _LEAF.iter_unpack(untrusted))


def build(leaves: "Iterable[Leaf]") -> bytes:
    """The policy's bytes."""
    return b"".join(
        _LEAF.pack(leaf.leaf, NO_SUBLEAF if leaf.subleaf is None else leaf.subleaf, leaf.a, leaf.b, leaf.c, leaf.d)
        for leaf in leaves)


def feature_names(leaves: "Iterable[Leaf]") -> "Tuple[str, ...]":
    """All features in a policy, each once, ordered by register and bit; see :func:`features.cpuid_names`."""
    table = _by_key(leaves)
    found: Dict[str, None] = {}
    for place in features.CPUID:
        found.update(dict.fromkeys(features.cpuid_names(*place, _register(table, *place))))
    return tuple(found)


def differences(a: "Iterable[Leaf]", b: "Iterable[Leaf]") -> "List[Difference]":
    """Every register in which two CPUID policies differ, ordered by leaf, subleaf, register."""
    table_a, table_b = _by_key(a), _by_key(b)
    found = []
    for leaf, subleaf in sorted(set(table_a) | set(table_b), key=_order):
        for register in "abcd":
            value_a, value_b = (_register(table, leaf, subleaf, register) for table in (table_a, table_b))
            if value_a != value_b:
                found.append(Difference(
                    leaf, subleaf, register, value_a, value_b,
                    lost=features.cpuid_names(leaf, subleaf, register, value_a & ~value_b),
                    gained=features.cpuid_names(leaf, subleaf, register, value_b & ~value_a)))
    return found


def msr_differences(a: "Iterable[Msr]", b: "Iterable[Msr]") -> "List[MsrDifference]":
    """Every MSR in which two MSR policies differ, by number; an MSR that a policy doesn't have counts as 0."""
    values_a, values_b = ({msr.number: msr.value for msr in policy} for policy in (a, b))
    found = []
    for number in sorted(set(values_a) | set(values_b)):
        value_a, value_b = values_a.get(number, 0), values_b.get(number, 0)
        if value_a != value_b:
            found.append(MsrDifference(number, value_a, value_b, lost=_msr_names(number, value_a & ~value_b),
                                       gained=_msr_names(number, value_b & ~value_a)))
    return found


def conflicts(guest: "Iterable[Leaf]", guest_msrs: "Iterable[Msr]", host: "Iterable[Leaf]",
              host_msrs: "Iterable[Msr]") -> "Tuple[str, ...]":
    """Why Xen refuses a guest's policy on a host, or under a policy, ``host``: the checks of
    x86_cpu_policies_are_compatible(). Empty if it accepts it. Features aren't among them; see :func:`differences`."""
    ours, theirs = _by_key(guest), _by_key(host)
    found = []
    if ours.get((0, None), _ZEROS)[1:] != theirs.get((0, None), _ZEROS)[1:]:
        found.append("vendor {}, not {}".format(_vendor(theirs) or "unknown", _vendor(ours) or "unknown"))
    highest: Tuple[Tuple[str, int, Optional[int]], ...] = (
        ("leaf", 0, None), ("subleaf of leaf 0x7", 7, 0), ("extended leaf", 0x80000000, None))
    for text, leaf, subleaf in highest:
        needed, there = (_register(table, leaf, subleaf, "a") for table in (ours, theirs))
        if needed > there:
            found.append("highest {} {:#x}, not {:#x}".format(text, there, needed))
    needed, there = (_last(policy, msrs.INTEL_PLATFORM_INFO) for policy in (guest_msrs, host_msrs))
    if needed & ~there:
        found.append("MSR INTEL_PLATFORM_INFO lacks {}".format(
            " ".join(_msr_names(msrs.INTEL_PLATFORM_INFO, needed & ~there))))
    return tuple(found)


def _last(policy: "Iterable[Msr]", number: int) -> int:
    """The value of an MSR in a policy; 0 if it isn't there."""
    return {msr.number: msr.value for msr in policy}.get(number, 0)


def maximum_leaves(leaves: "Iterable[Leaf]") -> "Tuple[int, int]":
    """The highest basic and the highest extended leaf; each is 0 if the policy doesn't have the leaf that says so."""
    table = _by_key(leaves)
    return _register(table, 0, None, "a"), _register(table, 0x80000000, None, "a")


def vendor(leaves: "Iterable[Leaf]") -> str:
    """The vendor string of leaf 0, such as ``"GenuineIntel"``; bytes that aren't ASCII become ``"\\ufffd"``."""
    return _vendor(_by_key(leaves))


def _vendor(table: "Dict[_Key, _Registers]") -> str:
    _, b, c, d = table.get((0, None), _ZEROS)
    return _text(b, d, c)


def signature(leaves: "Iterable[Leaf]") -> "Tuple[int, int, int]":
    """Family, model and stepping, from leaf 1."""
    a = _register(_by_key(leaves), 1, None, "a")
    family, model = a >> 8 & 0xF, a >> 4 & 0xF
    if family >= 6:
        model |= a >> 12 & 0xF0
    if family == 0xF:
        family += a >> 20 & 0xFF
    return family, model, a & 0xF


def brand(leaves: "Iterable[Leaf]") -> str:
    """The brand string of leaves 0x80000002 to 0x80000004 up to the first NUL; bytes that aren't ASCII are replaced."""
    table = _by_key(leaves)
    return _text(*(word for leaf in (0x80000002, 0x80000003, 0x80000004)
                   for word in table.get((leaf, None), _ZEROS)))


def xstate_places(leaves: "Iterable[Leaf]") -> "Dict[int, Tuple[int, int]]":
    """Bit of XCR0 to (offset, size) in bytes of its component in an XSAVE area, from leaf 0xd."""
    return {subleaf: (b, a) for (leaf, subleaf), (a, b, _, _) in _by_key(leaves).items()
            if leaf == 0xD and subleaf is not None and subleaf >= 2 and a}


def _by_key(leaves: "Iterable[Leaf]") -> "Dict[_Key, _Registers]":
    return {(leaf.leaf, leaf.subleaf): (leaf.a, leaf.b, leaf.c, leaf.d) for leaf in leaves}


def _order(key: "_Key") -> "Tuple[int, int]":
    return key[0], -1 if key[1] is None else key[1]


def _register(table: "Dict[_Key, _Registers]", leaf: int, subleaf: "Optional[int]", register: str) -> int:
    return table.get((leaf, subleaf), _ZEROS)["abcd".index(register)]


def _msr_names(number: int, value: int) -> "Tuple[str, ...]":
    table = _MSR_FEATURES.get(number)
    return () if table is None else features.names(value, table)


def _text(*words: int) -> str:
    return struct.pack("<{}I".format(len(words)), *words).split(b"\0")[0].decode("ascii", "replace")
