"""Small streams built byte by byte from the specification, independently of the package's own writer."""
import struct
from typing import Dict, List, Sequence, Tuple

PV, HVM = 1, 2
NOTAB, L1TAB, L3TAB, L4TAB, BROKEN, XALLOC, XTAB = 0x0, 0x1, 0x3, 0x4, 0xD, 0xE, 0xF
#: By guest width: the type of a top-level page table, and where struct vcpu_guest_context has rdx, gdt_ents and cr3.
TOP_TABLE = {8: L4TAB, 4: L3TAB}
CONTEXT_FIELDS = {8: ("<Q", 616, 4960, 5008), 4: ("<I", 524, 2704, 2728)}


def headers(guest: int = HVM, version: int = 3, *, marker: int = 2 ** 64 - 1, ident: int = 0x58454E46, options: int = 0,
            reserved: Tuple[int, int, int] = (0, 0, 0), page_shift: int = 12, xen: Tuple[int, int] = (4, 17)) -> bytes:
    return (struct.pack(">QIIHHI", marker, ident, version, options, *reserved[:2])
            + struct.pack("<IHHII", guest, page_shift, reserved[2], *xen))


def record(kind: int, body: bytes = b"", length: int = -1, padding: int = 0) -> bytes:
    fill = bytes([padding]) * (-len(body) % 8)
    return struct.pack("<II", kind, len(body) if length < 0 else length) + body + fill


def word(pfn: int, kind: int = NOTAB, reserved: int = 0) -> int:
    return kind << 60 | reserved << 52 | pfn


def page(value: int) -> bytes:
    """A page that tells its value from any other's, and is neither zero nor all one byte."""
    return struct.pack("<Q", value * 2654435761 + 1) * 512


def batch(words: Sequence[int], pages: Sequence[bytes] = (), reserved: int = 0, count: int = -1) -> bytes:
    body = struct.pack("<II", len(words) if count < 0 else count, reserved)
    return record(0x01, body + struct.pack("<{}Q".format(len(words)), *words) + b"".join(pages))


def end() -> bytes:
    return record(0x00)


def static_data_end() -> bytes:
    return record(0x10)


def policies() -> bytes:
    leaves = struct.pack("<6I", 0, 0xFFFFFFFF, 13, 0x756E6547, 0x6C65746E, 0x49656E69)
    return record(0x11, leaves) + record(0x12, struct.pack("<IIQ", 0xCE, 0, 0x80000000))


def pv_info(width: int = 8, levels: int = 4) -> bytes:
    return record(0x02, struct.pack("<BB6x", width, levels))


def p2m_frames(start: int, last: int, width: int = 8, frames: int = -1) -> bytes:
    entries = 4096 // width
    wanted = last // entries - start // entries + 1 if frames < 0 else frames
    return record(0x03, struct.pack("<II", start, last) + struct.pack("<{}Q".format(wanted), *[4] * wanted))


def vcpu(kind: int, vcpu_id: int, blob: bytes) -> bytes:
    return record(kind, struct.pack("<II", vcpu_id, 0) + blob)


def context(width: int = 8, mark: int = 0, start_info: int = 4, top_table: int = 3) -> bytes:
    """A vcpu's registers: ``mark`` in every byte but those of the frames."""
    blob = bytearray([mark]) * (0x1430 if width == 8 else 0xAF0)
    form, rdx, gdt_ents, cr3 = CONTEXT_FIELDS[width]
    for offset, value in ((rdx, start_info), (gdt_ents, 0), (cr3, top_table << 12)):
        struct.pack_into(form, blob, offset, value)
    if width == 8:
        struct.pack_into("<Q", blob, 4992, 0)  # cr1: no table for user mode
    return bytes(blob)


def extended(mark: int = 0) -> bytes:
    """struct xen_domctl_ext_vcpucontext: vcpu, size, and the rest."""
    return struct.pack("<II", 0, 128) + bytes([mark]) * 120


def vcpu_basic(width: int = 8, vcpu_id: int = 0) -> bytes:
    return vcpu(0x04, vcpu_id, context(width))


def shared_info() -> bytes:
    return record(0x07, page(99))


def tsc_info() -> bytes:
    return record(0x08, struct.pack("<IIQII", 1, 2400000, 123456789, 3, 0))


def hvm_context() -> bytes:
    return record(0x09, struct.pack("<HHIIIQII", 1, 0, 24, 0x54381286, 1, 0, 0, 0) + struct.pack("<HHI", 0, 0, 0))


def hvm_params() -> bytes:
    return record(0x0A, struct.pack("<II", 2, 0) + struct.pack("<4Q", 1, 0xFEFFC, 5, 0xFEFFD))


def hvm(version: int = 3, memory: bytes = b"", tail: bytes = b"") -> bytes:
    """An HVM stream: two pages, one XTAB, one XALLOC, one BROKEN."""
    static = policies() + static_data_end() if version == 3 else b""
    memory = memory or batch([word(0), word(1, XTAB), word(2, XALLOC), word(3, BROKEN), word(4)], [page(1), page(2)])
    return headers(HVM, version) + static + memory + (tail or tsc_info() + hvm_context() + hvm_params() + end())


def pv_tail(width: int = 8) -> bytes:
    return (tsc_info() + shared_info() + vcpu_basic(width) + vcpu(0x05, 0, extended())
            + vcpu(0x06, 0, bytes(16 + 576)) + vcpu(0x0C, 0, bytes(16)) + end())


def pv(version: int = 3, width: int = 8, memory: bytes = b"", tail: bytes = b"") -> bytes:
    """A PV stream of 16 PFNs: a page table without entries, a page, an XTAB."""
    static = policies() + static_data_end() if version == 3 else b""
    memory = memory or batch([word(3, TOP_TABLE[width]), word(4), word(5, XTAB)], [bytes(4096), page(4)])
    start = headers(PV, version) + pv_info(width, 4 if width == 8 else 3) + static + p2m_frames(0, 15, width)
    return start + memory + (tail or pv_tail(width))


def checkpointed(rounds: int = 2) -> bytes:
    """An HVM stream with checkpoints: PFN 0 holds page(10), then page(11), ...; no END."""
    state = tsc_info() + hvm_context() + hvm_params()
    parts = [headers(HVM) + policies() + static_data_end()]
    parts += [batch([word(0)], [page(10 + number)]) + state + record(0x0E) for number in range(rounds)]
    return b"".join(parts)


def memory_of(pages: Dict[int, bytes], count: int) -> bytes:
    """The image of a guest: the pages by PFN, the others zero."""
    return b"".join(pages.get(pfn, bytes(4096)) for pfn in range(count))


SMALL: List[Tuple[str, bytes]] = [
    ("hvm3", hvm(3)), ("hvm2", hvm(2)), ("pv3", pv(3)), ("pv2-32", pv(2, width=4)),
]
