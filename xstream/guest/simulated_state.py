"""The state of a simulated guest beside its memory: CPU policies, HVM context and parameters, vcpus. The values are
invented, the layouts are Xen's.

Source of the layouts: xen/include/public/arch-x86/hvm/save.h, hvm/params.h, arch-x86/xen.h, domctl.h.
"""
import random
import struct
from typing import List, NamedTuple, Sequence, Tuple

from xstream.wire.libxc import (
    VCPU_BASIC_SIZES,
    CpuidPolicy,
    HvmContext,
    HvmParams,
    MsrPolicy,
    VcpuExtended,
    VcpuMsrs,
    VcpuXsave,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xstream.wire.libxc import Record

_NO_SUBLEAF = 0xFFFFFFFF
_LEAVES: Sequence[Tuple[int, int]] = [
    (0, _NO_SUBLEAF), (1, _NO_SUBLEAF), (2, _NO_SUBLEAF), (4, 0), (7, 0), (0xD, 0), (0xD, 1), (0xD, 2),
    (0x40000000, _NO_SUBLEAF), (0x80000000, _NO_SUBLEAF), (0x80000001, _NO_SUBLEAF), (0x80000008, _NO_SUBLEAF)]

_HVM_MAGIC = 0x54381286
#: (typecode, length) of the HVM context's entries for each vcpu, and for the domain.
_PER_VCPU = [(2, 1032), (5, 24), (6, 1024), (14, 240), (18, 24), (19, 8)]
_PER_DOMAIN = [(3, 8), (4, 400), (7, 16), (8, 8), (9, 8), (10, 56), (11, 24), (12, 1048), (13, 8)]

#: HVM parameters in the order in which Xen writes them; the pages are beyond the memory of a guest under 4 GiB.
SPECIAL_PAGES = {1: 0xFEFFC, 5: 0xFEFFD, 6: 0xFEFFB, 27: 0xFEFF8, 28: 0xFEFF9, 29: 0xFEFFA, 17: 0xFEFFF}
_PARAMS = [*SPECIAL_PAGES.items(), (19, 1), (12, 0xFEFFE000), (34, 0xFC001240), (36, 8)]


class Registers(NamedTuple):
    """The frame numbers in a PV vcpu's context."""

    start_info: int
    gdt: int
    cr3: int
    user: int


def static_records(rng: random.Random) -> "List[Record]":
    """The CPU policies."""
    leaves = b"".join(struct.pack("<6I", leaf, subleaf, *_leaf(leaf, rng)) for leaf, subleaf in _LEAVES)
    msrs = struct.pack("<IIQIIQ", 0xCE, 0, 1 << 31, 0x10A, 0, 0)
    return [CpuidPolicy(leaves), MsrPolicy(msrs)]


def _leaf(leaf: int, rng: random.Random) -> Tuple[int, ...]:
    vendor = struct.unpack("<3I", b"GenuntelineI")
    most = {0: 0xD, 0x40000000: 0x40000002, 0x80000000: 0x80000008}.get(leaf)
    return (most, *vendor) if most is not None else tuple(rng.getrandbits(32) for _ in range(4))


def hvm_records(rng: random.Random, vcpus: int) -> "List[Record]":
    """HVM_CONTEXT and HVM_PARAMS."""
    chain = [_entry(1, 0, struct.pack("<IIQII", _HVM_MAGIC, 1, 0, 0x50654, 2400000))]
    chain += [_entry(kind, vcpu, noise(rng, size)) for kind, size in _PER_VCPU for vcpu in range(vcpus)]
    chain += [_entry(kind, 0, noise(rng, size)) for kind, size in _PER_DOMAIN]
    return [HvmContext(b"".join(chain) + _entry(0, 0, b"")), HvmParams.of(_PARAMS)]


def _entry(kind: int, instance: int, data: bytes) -> bytes:
    return struct.pack("<HHI", kind, instance, len(data)) + data


def vcpu_context(rng: random.Random, width: int, registers: Registers) -> bytes:
    """struct vcpu_guest_context as Xen returns it, with these frame numbers."""
    blob = bytearray(noise(rng, VCPU_BASIC_SIZES[width]))
    word, flags, user_regs, ldt, ctrlreg, tail = ("Q", 512, 520, 4816, 4984, 5136) if width == 8 else \
        ("I", 512, 516, 2632, 2716, 2796)
    cr3 = registers.cr3 << 12 if width == 8 else (registers.cr3 << 12 | registers.cr3 >> 20) & 0xFFFFFFFF
    user = registers.user << 12 if width == 8 else 0
    struct.pack_into("<" + word, blob, flags, 0b100101)  # FPU valid, in the kernel, online
    struct.pack_into("<" + word, blob, user_regs + (96 if width == 8 else 8), registers.start_info)
    # No LDT; a GDT of one frame; the kernel's stack.
    struct.pack_into("<21" + word, blob, ldt, 0, 0, registers.gdt, *[0] * 15, 512, 0x18, 0xC0001000)
    struct.pack_into("<8" + word, blob, ctrlreg, 0x80050033, user, 0, cr3, 0x2660, 0, 0, 0)
    struct.pack_into("<" + word, blob, tail, 0)
    return bytes(blob)


def vcpu_records(rng: random.Random, vcpu: int) -> "List[Record]":
    """The records that follow a vcpu's context."""
    extended = struct.pack("<IIQQHHBB2xQQQQ", vcpu, 64, 0xFFFFFFFF81801000, 0xFFFFFFFF81802000, 0xE033, 0xE033, 1, 0,
                           0, 0, 0, 0)
    # xcr0 and xcr0_accum, then the areas of x87, SSE and AVX.
    area = noise(rng, 512) + struct.pack("<QQ48x", 7, 0) + noise(rng, 256)
    xsave = VcpuXsave(vcpu, struct.pack("<QQ", 7, 7) + area)
    msrs = [(0xC0000103, rng.getrandbits(32))] + [(0x6E0, rng.getrandbits(40))] * (vcpu == 0)
    return [VcpuExtended(vcpu, extended), xsave,
            VcpuMsrs(vcpu, b"".join(struct.pack("<IIQ", index, 0, value) for index, value in msrs))]


def noise(rng: random.Random, size: int) -> bytes:
    """Random bytes, the same in every version of Python."""
    return rng.getrandbits(8 * size).to_bytes(size, "little")
