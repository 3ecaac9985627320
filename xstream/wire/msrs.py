"""Model-specific registers: 16 bytes each, and their names.

X86_PV_VCPU_MSRS, X86_MSR_POLICY and the CPU_MSR entries of an HVM context are arrays of the same three fields.

Source: struct xen_domctl_vcpu_msr (xen/include/public/domctl.h), struct xen_msr_entry (arch-x86/xen.h), struct
hvm_one_msr (arch-x86/hvm/save.h); names from xen/arch/x86/include/asm/msr-index.h.
"""
import struct

from xstream.errors import CorruptStream, LimitExceeded
from xstream.tuples import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterable, Tuple

    from xstream.wire.frames import Buffer

INTEL_PLATFORM_INFO = 0xCE
ARCH_CAPABILITIES = 0x10A

#: Registers that some version of Xen sends: hvm_save_cpu_msrs() and its predecessors per vendor (xen/arch/x86/hvm),
#: XEN_DOMCTL_get_vcpu_msrs (xen/arch/x86/domctl.c), x86_msr_copy_to_buffer() (xen/arch/x86/lib/cpu-policy).
NAMES: "Dict[int, str]" = {
    0x00000048: "SPEC_CTRL",
    INTEL_PLATFORM_INFO: "INTEL_PLATFORM_INFO",
    ARCH_CAPABILITIES: "ARCH_CAPABILITIES",
    0x00000140: "INTEL_MISC_FEATURES_ENABLES",
    0x000006E1: "PKRS",
    0x00000D90: "IA32_BNDCFGS",
    0x00000DA0: "IA32_XSS",
    0xC0000103: "TSC_AUX",
    0xC001011F: "VIRT_SPEC_CTRL",
    0xC0011019: "AMD64_DR1_ADDRESS_MASK",
    0xC001101A: "AMD64_DR2_ADDRESS_MASK",
    0xC001101B: "AMD64_DR3_ADDRESS_MASK",
    0xC0011027: "AMD64_DR0_ADDRESS_MASK",
}

#: The most registers in one array. Xen sends at most a dozen.
MAX_ENTRIES = 65536

_MSR = struct.Struct("<IIQ")
#: Bytes of one register.
SIZE = _MSR.size


class Msr(NamedTuple):
    """One register: ``number`` is what RDMSR takes, ``flags`` is reserved and zero."""

    number: int
    flags: int
    value: int

    @property
    def name(self) -> str:
        """Its name, or its number in hex if it has none here."""
        return NAMES.get(self.number) or "{:#x}".format(self.number)


def parse(untrusted: "Buffer") -> "Tuple[Msr, ...]":
    """The registers of an array, in order, repeated ones included.

    Raises CorruptStream unless the length is a multiple of 16, LimitExceeded over 65536 registers.
    """
    if len(untrusted) % SIZE:
        raise CorruptStream("array of MSRs of a wrong size", offset=0, field="length", expected="a multiple of 16",
                            got=len(untrusted))
    if len(untrusted) > MAX_ENTRIES * SIZE:
        raise LimitExceeded("too many MSRs", offset=0, expected="at most {}".format(MAX_ENTRIES),
                            got=len(untrusted) // SIZE)
    return tuple(Msr(*fields) for fields in _MSR.iter_unpack(untrusted))


def check(msrs: "Iterable[Msr]", offset: int = 0) -> None:
    """Raise CorruptStream for reserved bits that aren't zero, which every Xen refuses. ``offset``: where the array
    begins."""
    for index, msr in enumerate(msrs):
        if msr.flags:
            raise CorruptStream("reserved bits of an MSR aren't zero", offset=offset + index * SIZE + 4,
                                field="msrs[{}]".format(index), expected=0, got=msr.flags)


def build(msrs: "Iterable[Msr]") -> bytes:
    """The array's bytes."""
    return b"".join(_MSR.pack(*msr) for msr in msrs)
