"""Which records of a PV guest's vcpus have come, and whether others were lost.

An interrupted save leaves zeros, which read as END, wherever it stopped. libxenguest asks for no record of any vcpu but
VCPU_BASIC of vcpu 0, and a vcpu that is offline has none, so what is missing shows only in other ways: in what Xen
writes for every vcpu, and in the bytes that follow END.

Source: write_all_vcpu_information() in tools/libs/guest/xg_sr_save_x86_pv.c and what it calls; XEN_DOMCTL_get_vcpu_msrs
in xen/arch/x86/domctl.c.
"""
import struct

from xstream.stream.ordering import CPUID_POLICY, VCPU_BASIC, VCPU_EXTENDED, VCPU_MSRS, VCPU_XSAVE
from xstream.wire import libxc
from xstream.wire.frames import FRAME, padded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Optional, Set, Tuple

    from xstream.wire.frames import Buffer

#: Records that Xen writes for every online vcpu or for none: which ones depends on the host's CPU, not on the vcpu.
_ALIKE = (VCPU_EXTENDED, VCPU_XSAVE)
_KINDS = (VCPU_BASIC, *_ALIKE, VCPU_MSRS)
#: vcpus that are looked at; Xen's limit for PV guests.
MOST_VCPUS = 8192
#: Records of vcpus that are named.
_MOST_NAMED = 8
#: A record of one MSR, and of the seven that Xen sends at most. How many there are differs from vcpu to vcpu.
_MSRS_LEAST, _MSRS_MOST = 32, 128
#: CPUID leaf 1, register c: XSAVE.
_LEAF, _XSAVE_LEAF, _XSAVE_BIT = struct.Struct("<6I"), 1, 1 << 26
#: What block devices and preallocated files are multiples of.
_SECTOR = 512


class VcpuRecords:
    """Takes note of the records of one stream. Memory: a few numbers for each vcpu, of Xen's limit at most."""

    def __init__(self) -> None:
        self._ids: Dict[int, Set[int]] = {kind: set() for kind in _KINDS}
        self._sizes: Dict[int, int] = {}  # by type: the largest record's, with its header
        self._last = 0  # the vcpu of the last record
        self._needs_xsave = False

    def note(self, record_type: int, record: "libxc.Record") -> None:
        """Take note of a record."""
        if record_type == CPUID_POLICY and isinstance(record, libxc.CpuidPolicy):
            whole = record.leaves[:len(record.leaves) // _LEAF.size * _LEAF.size]
            self._needs_xsave = any(leaf == _XSAVE_LEAF and c & _XSAVE_BIT
                                    for leaf, _, _, _, c, _ in _LEAF.iter_unpack(whole))
        elif record_type in _KINDS and isinstance(record, libxc.PER_VCPU) and record.vcpu_id < MOST_VCPUS:
            self._last = record.vcpu_id
            self._ids[record_type].add(record.vcpu_id)
            size = FRAME.size + padded(8 + len(record.blob))
            self._sizes[record_type] = max(size, self._sizes.get(record_type, 0))

    @property
    def missing(self) -> "Tuple[str, ...]":
        """Records that some vcpus have and others lack."""
        return _named({(vcpu_id, kind) for kind in _ALIKE if self._ids[kind]
                       for vcpu_id in self._ids[VCPU_BASIC] - self._ids[kind]})

    def lost(self, after: "Buffer", end: "Optional[int]") -> "Tuple[str, ...]":
        """Records in whose place the bytes ``after`` END seem to be, of a stream that Xen wrote. ``end``: the offset of
        the input's end; None if there are more bytes than these.

        Every Xen writes VCPU_EXTENDED, and VCPU_XSAVE if the policy has XSAVE, for each vcpu. Whole vcpus are missed
        where END is followed by as many zeros as their records take and the input has a size that no block device has.
        """
        if not len(after):
            return ()
        wanted = [VCPU_EXTENDED] + [VCPU_XSAVE] * self._needs_xsave
        lacking = {(vcpu_id, kind) for kind in wanted for vcpu_id in self._ids[VCPU_BASIC] - self._ids[kind]}
        if not lacking and end is not None and end % _SECTOR and not any(after) and self._fits(len(after)):
            return ("records of further vcpus",)
        return _named(lacking)

    def _fits(self, zeros: int) -> bool:
        """Whether the records that follow the last one, of any number of vcpus, can take ``zeros`` bytes."""
        others, has = self._ids[VCPU_MSRS], self._last in self._ids[VCPU_MSRS]
        if others and not has and _MSRS_LEAST <= zeros <= _MSRS_MOST:
            return True
        own = 0 if has else _MSRS_MOST
        vcpu = sum(self._sizes.get(kind, 0) for kind in (VCPU_BASIC, *_ALIKE))
        return any(count * vcpu <= zeros <= count * (vcpu + _MSRS_MOST) + own for count in range(1, zeros // vcpu + 1))


def _named(records: "Set[Tuple[int, int]]") -> "Tuple[str, ...]":
    return tuple("{} of vcpu {}".format(libxc.type_name(kind), vcpu_id)
                 for vcpu_id, kind in sorted(records)[:_MOST_NAMED])
