"""SHARED_INFO: the page that a PV guest shares with Xen: time, event channels, the location of the p2m.

Source: struct shared_info, struct vcpu_info and struct vcpu_time_info in xen/include/public/xen.h, struct
arch_shared_info in arch-x86/xen.h. What a restore keeps, vcpu_info without the pending selectors and ``arch``
without pfn_to_mfn_frame_list_list: handle_shared_info() in tools/libs/guest/xg_sr_restore_x86_pv.c.
"""
from xstream.errors import CorruptStream
from xstream.tuples import NamedTuple
from xstream.wire.layouts import Layout
from xstream.wire.libxc import PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Tuple

    from xstream.wire.frames import Buffer
    from xstream.wire.layouts import Fields, Row

#: Entries of vcpu_info in the page; further vcpus have theirs in the guest's memory.
VCPUS = 32
_VCPU_INFO_SIZE = 64


class SharedPage(NamedTuple):
    """A decoded page.

    - ``fields``: ``wc_version``, ``wc_sec``, ``wc_nsec``, ``wc_sec_hi`` and the fields of arch_shared_info as
      ``arch.max_pfn`` and so on;
    - ``vcpu_info``: the fields of each of the 32 entries;
    - ``pending``, ``masked``: event channel bitmaps; bit n is port n, of 4096 for a 64-bit guest or 1024.
    """

    fields: "Dict[str, int]"
    vcpu_info: "Tuple[Dict[str, int], ...]"
    pending: int
    masked: int

    @property
    def wallclock(self) -> int:
        """Seconds since the epoch at which the guest's system time was 0; ``wc_nsec`` has the nanoseconds."""
        high = self.fields.get("wc_sec_hi", self.fields.get("arch.wc_sec_hi", 0))
        return high << 32 | self.fields["wc_sec"]

    @property
    def pending_ports(self) -> "Tuple[int, ...]":
        """Ports with an event pending, lowest first."""
        return _bits(self.pending)

    @property
    def due_ports(self) -> "Tuple[int, ...]":
        """Ports that are pending and not masked, lowest first: the guest is about to be notified of them."""
        return _bits(self.pending & ~self.masked)


_TIME: "Tuple[Row, ...]" = (
    ("time.version", "I4x"), ("time.tsc_timestamp", "Q"), ("time.system_time", "Q"), ("time.tsc_to_system_mul", "I"),
    ("time.tsc_shift", "b"), ("time.flags", "B"), ("", "2x"))
_P2M: "Tuple[str, ...]" = ("arch.max_pfn", "arch.pfn_to_mfn_frame_list_list", "arch.nmi_reason", "arch.p2m_cr3",
                         "arch.p2m_vaddr", "arch.p2m_generation")

_VCPU_INFO = {
    8: Layout(*((("evtchn_upcall_pending", "B"), ("evtchn_upcall_mask", "B6x"), ("evtchn_pending_sel", "Q"),
                 ("arch.cr2", "Q8x")) + _TIME)),
    4: Layout(*((("evtchn_upcall_pending", "B"), ("evtchn_upcall_mask", "B2x"), ("evtchn_pending_sel", "I"),
                 ("arch.cr2", "I20x")) + _TIME)),
}
_REST = {
    8: Layout(*((("pending", "512s"), ("masked", "512s"), ("wc_version", "I"), ("wc_sec", "I"), ("wc_nsec", "I"),
                 ("wc_sec_hi", "I")) + tuple((name, "Q") for name in _P2M))),
    4: Layout(*((("pending", "128s"), ("masked", "128s"), ("wc_version", "I"), ("wc_sec", "I"), ("wc_nsec", "I"))
                + tuple((name, "I") for name in _P2M) + (("arch.wc_sec_hi", "I"),))),
}


def parse(untrusted: "Buffer", guest_width: int) -> SharedPage:
    """Decode the page of a guest with words of ``guest_width`` bytes: 8 or 4, from X86_PV_INFO.

    ``wc_sec_hi``, p2m_cr3, p2m_vaddr and p2m_generation exist since Xen 4.6; before, they are padding.

    Raises CorruptStream unless the page has 4096 bytes.
    """
    if len(untrusted) != PAGE_SIZE:
        raise CorruptStream("shared info of a wrong size", offset=0, field="length", expected=PAGE_SIZE,
                            got=len(untrusted))
    page = memoryview(untrusted)
    vcpu_info = tuple(_VCPU_INFO[guest_width].decode(page[offset:offset + _VCPU_INFO_SIZE])
                      for offset in range(0, VCPUS * _VCPU_INFO_SIZE, _VCPU_INFO_SIZE))
    fields: Fields = _REST[guest_width].decode(page[VCPUS * _VCPU_INFO_SIZE:])
    return SharedPage(pending=fields.pop("pending"), masked=fields.pop("masked"), fields=fields, vcpu_info=vcpu_info)


#: Where ``arch`` begins, with the end of the p2m; by the guest's width.
_ARCH = {8: 3088, 4: 2316}


def is_whole(page: "Buffer", guest_width: int, p2m_size: int) -> bool:
    """Whether the page names the end of the guest's p2m, as that of every guest that can be saved does: Xen takes the
    size of a PV guest's memory, ``p2m_size``, from it (arch_get_max_pfn() in xen/common/domain.c). An interrupted save
    leaves zeros in place of all its bytes or of the higher ones."""
    end = _ARCH[guest_width]
    max_pfn = int.from_bytes(page[end:end + guest_width], "little")
    return max_pfn > 0 and max_pfn not in (p2m_size & (1 << bits) - 1 for bits in range(8, p2m_size.bit_length(), 8))


def restored(page: "Buffer", guest_width: int) -> bytearray:
    """A copy of the page with only what a restore keeps: vcpu_info and ``arch``.

    No event is pending, every port is masked, and the frame lists are cleared. The wallclock is zero: the new host sets
    it.
    """
    # Bytes of each event bitmap, and end of the page's fields.
    events, end = (512, 3136) if guest_width == 8 else (128, 2344)
    arch = _ARCH[guest_width]
    taken = bytearray(PAGE_SIZE)
    infos = VCPUS * _VCPU_INFO_SIZE
    taken[:infos] = page[:infos]
    for info in range(0, infos, _VCPU_INFO_SIZE):
        taken[info + guest_width:info + 2 * guest_width] = bytes(guest_width)
    taken[infos + events:infos + 2 * events] = b"\xff" * events
    taken[arch:end] = page[arch:end]
    taken[arch + guest_width:arch + 2 * guest_width] = bytes(guest_width)
    return taken


def _bits(bitmap: int) -> "Tuple[int, ...]":
    return tuple(bit for bit in range(bitmap.bit_length()) if bitmap >> bit & 1)
