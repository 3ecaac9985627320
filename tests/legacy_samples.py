"""Small legacy streams built byte by byte from the format's description, independently of the package's own writer."""
import struct
from typing import Any, Dict, List, Optional, Sequence, Tuple

from samples import TOP_TABLE, context, hvm_context, page
from samples import extended as extended_state

ALL_ONES = 2 ** 32 - 1
NOTAB, L1TAB, L2TAB, L4TAB, PIN, BROKEN, XALLOC, XTAB = 0x0, 0x1, 0x2, 0x4, 0x8, 0xD, 0xE, 0xF
BASIC = {4: 0xAF0, 8: 0x1430}


def ulongs(width: int, *numbers: int) -> bytes:
    return struct.pack("<{}{}".format(len(numbers), {4: "I", 8: "Q"}[width]), *numbers)


def chunk(number: int, body: bytes = b"") -> bytes:
    return struct.pack("<i", number) + body


def word(pfn: int, kind: int = NOTAB) -> int:
    return kind << 28 | pfn


def batch(width: int, words: Sequence[int], pages: Sequence[bytes] = (), count: Optional[int] = None) -> bytes:
    return chunk(len(words) if count is None else count, ulongs(width, *words) + b"".join(pages))


def vcpu_info(*vcpus: int, highest: Optional[int] = None) -> bytes:
    highest = max(vcpus, default=0) if highest is None else highest
    bits = sum(1 << vcpu for vcpu in vcpus)
    return chunk(-2, struct.pack("<i", highest) + bits.to_bytes(8 * (max(highest, 0) // 64 + 1), "little"))


def param(number: int, value: int, padding: int = 0) -> bytes:
    return chunk(number, struct.pack("<IQ", padding, value))


def tsc_info() -> bytes:
    return chunk(-7, struct.pack("<IQII", 1, 123456789, 2400000, 3))


def tmem(pools: Sequence[Tuple[int, int, bytes]] = (), head: bytes = b"") -> bytes:
    """``pools``: id, announced pages, and the pages' bytes."""
    head = head or struct.pack("<7I", 1, 16, ALL_ONES, 2, 3, 4, ALL_ONES)
    return chunk(-5, head + b"".join(struct.pack("<III16s", number, 0, count, b"uuid") + body
                                     for number, count, body in pools) + struct.pack("<I", ALL_ONES))


def tmem_page(number: int) -> bytes:
    return struct.pack("<QQQI", number, 0, 0, number) + page(number)


def tmem_extra(count: int = 1) -> bytes:
    return chunk(-6, struct.pack("<IQQQI", 0, 1, 2, 3, 4) * count + struct.pack("<I", ALL_ONES))


def physmap(width: int, entries: Sequence[Tuple[int, int, int, bytes]], version: int = 1,
            count: Optional[int] = None) -> bytes:
    """``entries``: offset, start, size, and the name with its NUL, or none."""
    body = b"".join(struct.pack("<QQQI", *entry[:3], len(entry[3])) + entry[3] + b"\xEEEEE" * (width == 8)
                    for entry in entries)
    return struct.pack("<II", version, len(entries) if count is None else count) + body


def toolstack(blob: bytes) -> bytes:
    return chunk(-18, struct.pack("<I", len(blob)) + blob)


def compressed(width: int, data: bytes) -> bytes:
    return chunk(-12, ulongs(width, len(data)) + data)


def whole(content: bytes) -> bytes:
    """The form of a page that comes whole."""
    return b"\x80" + content


def extended_info(width: int, guest_width: int, xsave: Optional[int] = 864, extended: bool = True,
                  others: bytes = b"") -> bytes:
    blocks = b"vcpu" + struct.pack("<I", BASIC[guest_width]) + b"M" * BASIC[guest_width]
    blocks += b"extv" + struct.pack("<I", 0) if extended else b""
    blocks += b"xcnt" + struct.pack("<II", 4, xsave) if xsave is not None else b""
    return b"\xff" * width + struct.pack("<I", len(blocks + others)) + blocks + others


def pv_head(width: int, guest_width: int, p2m_size: int = 16, **info: Any) -> bytes:
    frames = -(-p2m_size // (4096 // guest_width))
    return ulongs(width, p2m_size) + extended_info(width, guest_width, **info) + ulongs(width, *[4] * frames)


def vcpu(guest_width: int, xsave: Optional[int] = 848, extended: bool = True, mark: int = 0) -> bytes:
    body = context(guest_width, mark) + (extended_state(mark + 1) if extended else b"")
    return body + (struct.pack("<QQ", 3, xsave) + bytes([mark + 2]) * xsave if xsave is not None else b"")


def pv_tail(width: int, guest_width: int, unmapped: Sequence[int] = (), vcpus: Sequence[bytes] = ()) -> bytes:
    head = struct.pack("<I", len(unmapped)) + ulongs(width, *unmapped)
    return head + b"".join(vcpus or [vcpu(guest_width)]) + page(99)


def hvm_tail(context: bytes = hvm_context()[8:], signature: bytes = b"DeviceModelRecord0002", blob: bytes = b"QEMU's",
             length: Optional[int] = None) -> bytes:
    size = b"" if signature == b"QemuDeviceModelRecord" else struct.pack("<I", len(blob) if length is None else length)
    return struct.pack("<QQQI", 0xFEFFC, 0xFEFFD, 0xFEFFE, len(context)) + context + signature + size + blob


PARAMS = [(-14, 0xFC000000), (-3, 0xFE000), (-15, 8), (-16, 9), (-17, 10), (-4, 0xFFE0), (-8, 11), (-10, 1), (-11, 3),
          (-19, 12), (-20, 8), (-21, 4)]


def hvm(width: int = 8, memory: Optional[bytes] = None, chunks: bytes = b"", tail: Optional[bytes] = None) -> bytes:
    """A cold HVM stream of 16 PFNs: a page, an XTAB, an XALLOC, a BROKEN, a page pinned as nothing."""
    if memory is None:
        memory = batch(width, [word(0), word(0, XTAB), word(2, XALLOC), word(3, BROKEN), word(4, PIN)],
                       [page(1), page(2)])
    parts = [ulongs(width, 16), tsc_info(), memory, vcpu_info(0, 1)] + [param(*one) for one in PARAMS]
    return b"".join(parts) + chunks + chunk(-9) + chunk(0) + (hvm_tail() if tail is None else tail)


def pv(width: int = 8, guest_width: int = 8, memory: Optional[bytes] = None, tail: Optional[bytes] = None) -> bytes:
    """A live PV stream of 16 PFNs; PFN 5 is sent, and taken back by the tail."""
    if memory is None:
        memory = batch(width, [word(3, TOP_TABLE[guest_width]), word(4), word(5)], [bytes(4096), page(4), page(5)])
    tail = pv_tail(width, guest_width, [5, 9], [vcpu(guest_width, mark=7), vcpu(guest_width, 700, mark=20)]) \
        if tail is None else tail
    return pv_head(width, guest_width) + memory + tsc_info() + vcpu_info(0, 2) + \
        toolstack(struct.pack("<II", 1, 0)) + chunk(-9) + chunk(0) + tail


def remus(width: int = 8, rounds: Sequence[bytes] = (), compress: bool = False) -> bytes:
    """An HVM stream of checkpoints: PFN 0 holds page(10), then what ``rounds``, bodies without end, make of it."""
    end = vcpu_info(0) + param(-3, 0xFE000)
    body = batch(width, [word(0), word(1)], [page(10), page(11)]) + tsc_info() + end
    parts = [ulongs(width, 16), body, chunk(-13) if compress else b"", chunk(0), hvm_tail(blob=b"0")]
    for number, one in enumerate(rounds, 1):
        parts += [one, end, chunk(0), hvm_tail(blob=str(number).encode())]
    return b"".join(parts)


MEMORY: Dict[str, Dict[int, bytes]] = {
    "hvm": {0: page(1), 4: page(2)}, "pv": {3: bytes(4096), 4: page(4)},
}

SMALL: List[Tuple[str, bytes]] = [
    ("hvm64", hvm(8)), ("hvm32", hvm(4)), ("pv64", pv(8, 8)), ("pv32", pv(4, 4)), ("pv32 by 64", pv(8, 4)),
    ("pv64 by 32", pv(4, 8)),
]
