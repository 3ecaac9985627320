"""The registers of a saved guest's virtual CPUs, whatever kind of record they came in."""
from xstream.errors import StreamError
from xstream.tuples import NamedTuple
from xstream.wire import hvm_context, legacy, libxc, vcpu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterable, List

    from xstream.wire.formats import AnyRecord
    from xstream.wire.frames import Buffer
    from xstream.wire.layouts import Fields

_IN_KERNEL = 1 << 2  # VGCF_in_kernel


class Vcpu(NamedTuple):
    """One virtual CPU.

    - ``kind``: "hvm" or "pv";
    - ``registers``: those in the record, by their names in Xen's headers (:func:`xstream.wire.hvm_context.decode` of a
      CPU entry, or :func:`xstream.wire.vcpu.basic`); those of a 32-bit PV guest under their 64-bit names, and a PV
      guest's with ``gs_base``, the base in effect;
    - ``page_table``: the PFN of the top page table.
    """

    number: int
    kind: str
    registers: "Fields"
    page_table: int


def vcpus(records: "Iterable[AnyRecord]") -> "List[Vcpu]":
    """The virtual CPUs that the records describe (those of :attr:`MemoryView.records`), by ascending number.

    Raises CorruptStream for a blob that isn't what it should be.
    """
    found: Dict[int, Vcpu] = {}
    for record in records:
        if isinstance(record, libxc.HvmContext):
            found.update(_of_context(record.blob))
        elif isinstance(record, legacy.HvmTail):
            found.update(_of_context(record.context))
        elif isinstance(record, libxc.VcpuBasic):
            found[record.vcpu_id] = _of_pv(record.vcpu_id, record.blob)
        elif isinstance(record, legacy.VcpuContext):
            found[record.vcpu_id] = _of_pv(record.vcpu_id, record.basic)
    return [found[number] for number in sorted(found)]


def _of_context(blob: "Buffer") -> "Dict[int, Vcpu]":
    found = {}
    for entry in hvm_context.parse(blob):
        if entry.typecode == hvm_context.CPU:
            registers = hvm_context.decode(entry)
            found[entry.instance] = Vcpu(entry.instance, "hvm", registers, registers.get("cr3", 0) >> 12)
    return found


#: 32-bit names to 64-bit ones.
_WIDE_NAMES = {"e" + name: "r" + name
               for name in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp", "ip", "flags")}


def _of_pv(number: int, blob: "Buffer") -> Vcpu:
    width = 8 if len(blob) > 4096 else 4
    try:
        fields = vcpu.basic(blob)
    except StreamError as error:
        raise error.located(record_type="X86_PV_VCPU_BASIC")
    registers = {_WIDE_NAMES.get(name, name): value for name, value in fields.items()}
    base = "gs_base_kernel" if fields["flags"] & _IN_KERNEL else "gs_base_user"
    registers["gs_base"] = fields.get(base, 0)
    return Vcpu(number, "pv", registers, vcpu.cr3_frame(fields["ctrlreg"][3], width))
