"""Saving PV guests: finding the p2m, and translating MFNs outside of page tables to PFNs.

Source: tools/libs/guest/xg_sr_save_x86_pv.c and xg_sr_common_x86_pv.c.
"""
import struct

from xstream.errors import StreamError
from xstream.guest.guest import Guest, GuestError
from xstream.guest.hooks import Hooks
from xstream.guest.tables import LEVELS, any_tables, data_types
from xstream.kernels import p2m as p2m_kernel
from xstream.kernels import pages as page_kernel
from xstream.kernels import pagetables
from xstream.kernels.buffers import uint64, uint64_of
from xstream.tuples import NamedTuple
from xstream.wire import shared_info as shared_info_wire
from xstream.wire import vcpu as vcpu_wire
from xstream.wire.libxc import BATCH_PFNS, PAGE_SIZE, P2MFrames, PVInfo, VcpuBasic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional, Sequence, Tuple

    from xstream.kernels.buffers import Numbers
    from xstream.wire.libxc import Record

_INVALID = p2m_kernel.INVALID
_FRAME_MASK = (1 << 52) - (1 << 12)
#: First and last virtual address reserved for the hypervisor, by guest width.
_XEN_ADDRESSES = {8: (0xFFFF800000000000, 0xFFFF87FFFFFFFFFF), 4: (0xF5800000, 0xFFFFFFFF)}
_ADDRESS_MASKS = {8: (1 << 48) - 1, 4: (1 << 32) - 1}
_BAD_TABLE = {
    pagetables.STALE: "an MFN that isn't the guest's",
    pagetables.SUPERPAGE: "a superpage, which can't be saved",
    pagetables.LEVEL: "a level that the guest doesn't have",
}


class _Linear(NamedTuple):
    """A p2m mapped into the guest's own address space."""

    cr3_frame: int
    address: int


class SourceP2M:
    """The p2m of a PV guest that is being saved. It is located once, and read again for each round.

    ``frames`` is what was read last: uint64, the MFN of each PFN. ``m2p`` is the host's table. Raises GuestError for a
    guest whose p2m can't be located, or has more than ``limit`` PFNs.
    """

    def __init__(self, guest: Guest, hooks: Hooks, limit: int) -> None:
        self._guest = guest
        self._hooks = hooks
        self.width = guest.guest_width
        self.levels = LEVELS[self.width]
        self.m2p = memoryview(hooks.m2p())
        self._entries = PAGE_SIZE // self.width
        fields = self._shared_fields()
        self.pfn_end = fields["arch.max_pfn"]
        self._generation: Optional[int] = None
        if not 0 < self.pfn_end <= limit:
            raise GuestError("max_pfn {:#x} in the guest's shared info, not 1 to {:#x}".format(self.pfn_end, limit))
        cr3 = fields["arch.p2m_cr3"]
        if cr3:
            self._generation = fields["arch.p2m_generation"]
            linear = _Linear(vcpu_wire.cr3_frame(cr3, self.width), fields["arch.p2m_vaddr"])
            self._leaves = self._walk_tables(linear)
        else:
            self._leaves = self._walk_tree(fields["arch.pfn_to_mfn_frame_list_list"])
        self.frames = self._read_p2m()
        self.pfns = uint64_of(self.pfn_of(mfn, "p2m frame {}".format(at)) for at, mfn in enumerate(self._leaves))

    def records(self) -> "Tuple[Sequence[Record], Sequence[Record]]":
        """The records before and after the static records."""
        return [PVInfo(self.width, self.levels)], [P2MFrames(0, self.pfn_end - 1, self.pfns.tobytes())]

    def refresh(self, dirty: bytearray) -> None:
        """Read the p2m again, and set in ``dirty`` the bits of PFNs whose frame has changed."""
        new = self._read_p2m()
        p2m_kernel.changed(self.frames, new, dirty)
        self.frames = new

    def check_unmoved(self) -> None:
        """Raise GuestError if the guest has moved its linear p2m: a stream can't describe that."""
        if self._generation is not None and self._shared_fields()["arch.p2m_generation"] != self._generation:
            raise GuestError("the guest has changed where its p2m is")

    def frames_of(self, pfns: "Numbers") -> memoryview:
        """The MFN of each PFN; INVALID_MFN for a PFN without a page."""
        found = uint64(len(pfns))
        p2m_kernel.lookup(self.frames, pfns, found)
        return found

    def pfn_of(self, mfn: int, what: str) -> int:
        """The PFN of an MFN of the guest. Raises GuestError for any other, with ``what`` in its message."""
        if mfn < len(self.m2p):
            pfn = self.m2p[mfn]
            if pfn < len(self.frames) and self.frames[pfn] == mfn:
                return int(pfn)
        raise GuestError("{}: MFN {:#x} isn't the guest's".format(what, mfn))

    def any_tables(self, words: memoryview) -> bool:
        """Whether a batch, of which these are the PFN words, has page tables."""
        return any_tables(data_types(words))

    def normalise_tables(self, data: memoryview, words: memoryview, pfns: memoryview, *, paused: bool) -> bytearray:
        """Normalise the page tables of a batch in place: MFNs become PFNs. ``data``: the pages of ``pfns``, those of
        ``words`` that carry data.

        Returns a byte for each page, nonzero for a table that the running guest was changing; once it is ``paused``,
        and for anything else that can't be saved, raises GuestError.
        """
        torn = bytearray(len(pfns))
        page, entry, reason = pagetables.normalise(
            data, data_types(words), self.frames, self.m2p, data, torn, levels=self.levels, paused=paused,
            compat_m2p_mfn=self._guest.compat_m2p_mfn)
        if reason != pagetables.OK:
            raise GuestError("the page table in PFN {:#x} has {} (entry {})".format(
                pfns[page], _BAD_TABLE[reason], entry))
        return torn

    def normalised(self, record: VcpuBasic) -> VcpuBasic:
        """The record with its MFNs translated to PFNs. Raises GuestError."""
        name = "vcpu {}".format(record.vcpu_id)
        try:
            mfns = vcpu_wire.frames(record.blob, self.width, in_stream=False)
        except StreamError as error:
            raise GuestError("{}: {}".format(name, error))
        pfns = vcpu_wire.Frames(
            mfns.start_info if record.vcpu_id else self.pfn_of(mfns.start_info, name + "'s start info"),
            tuple(self.pfn_of(mfn, name + "'s GDT") for mfn in mfns.gdt),
            self.pfn_of(mfns.cr3, name + "'s cr3"),
            mfns.user if mfns.user is None else self.pfn_of(mfns.user, name + "'s cr1"))
        return record._replace(blob=vcpu_wire.with_frames(record.blob, self.width, pfns, in_stream=True))

    def _shared_fields(self) -> "Dict[str, int]":
        return shared_info_wire.parse(self._hooks.shared_info(), self.width).fields

    def _read_frames(self, mfns: "Sequence[int]") -> bytearray:
        """The contents of frames, concatenated; a copy."""
        out = bytearray(len(mfns) * PAGE_SIZE)
        view = memoryview(out)
        for start in range(0, len(mfns), BATCH_PFNS):
            some = uint64_of(mfns[start:start + BATCH_PFNS])
            with self._hooks.mapped(some) as pages:
                page_kernel.gather(pages.memory, pages.at, view[start * PAGE_SIZE:(start + len(some)) * PAGE_SIZE])
        return out

    def _read_p2m(self) -> memoryview:
        # The frames may hold more entries than the guest has PFNs.
        held = memoryview(self._read_frames(self._leaves))[:self.pfn_end * self.width]
        if self.width == 8:
            return held.cast("Q")
        frames = uint64(self.pfn_end)
        p2m_kernel.widen(held, frames)
        return frames

    def _walk_tree(self, top: int) -> "List[int]":
        """The p2m's frames, found through the list of lists of frames."""
        lists = -(-self.pfn_end // self._entries ** 2)
        if lists > self._entries:
            raise GuestError("max_pfn {:#x} is too large for a p2m tree".format(self.pfn_end))
        self._check_mfn(top, "p2m frame list list")
        middle = self._list(self._read_frames([top]), lists)
        self._check_mfns(middle, "p2m frame list list")
        # A run of identical entries at the end means PFNs that don't exist.
        kept = _repeated_end(middle) + 1
        self.pfn_end = min(self.pfn_end, kept * self._entries ** 2)
        leaves = self._list(self._read_frames(middle[:kept]), -(-self.pfn_end // self._entries))
        self._check_mfns(leaves, "p2m frame list")
        return leaves

    def _list(self, data: bytearray, count: int) -> "List[int]":
        return list(struct.unpack_from("<{}{}".format(count, "Q" if self.width == 8 else "I"), data))

    def _walk_tables(self, linear: _Linear) -> "List[int]":
        """The p2m's frames, found through the page tables that map it."""
        mask = _ADDRESS_MASKS[self.width]
        first = linear.address
        last = first + -(-self.pfn_end // self._entries) * PAGE_SIZE - 1
        self._check_addresses(first, last)
        tables = [linear.cr3_frame]
        self._check_mfns(tables, "p2m_cr3")
        for level in range(self.levels, 0, -1):
            shift = 9 * level + 3
            base = (first & mask) >> (shift + 9) << 9 if level < self.levels else 0
            begin, end = ((first & mask) >> shift) - base, ((last & mask) >> shift) - base + 1
            entries = memoryview(self._read_frames(tables)).cast("Q")[begin:end]
            tables = [(entry & _FRAME_MASK) >> 12 for entry in entries]
            self._check_mfns(tables, "p2m list's L{}".format(level))
            if level == 2:
                tables = self._without_missing(tables, first)
                last = first + -(-self.pfn_end // self._entries) * PAGE_SIZE - 1
        return tables

    def _without_missing(self, tables: "List[int]", address: int) -> "List[int]":
        """The L1 tables without the run of identical ones at the end, whose PFNs don't exist."""
        kept = _repeated_end(tables)
        if kept in (0, len(tables) - 1):
            return tables
        self.pfn_end = min(self.pfn_end, (kept * 512 - (address >> 12 & 511)) * self._entries)
        return tables[:kept]

    def _check_addresses(self, first: int, last: int) -> None:
        begin, end = _XEN_ADDRESSES[self.width]
        wraps = last >> (64 if self.width == 8 else 32)
        canonical = self.width == 4 or (_canonical(first) and _canonical(last))
        if wraps or not canonical or (first <= end and last >= begin):
            raise GuestError("bad addresses of the p2m list: {:#x} to {:#x}".format(first, last))

    def _check_mfns(self, mfns: "Sequence[int]", what: str) -> None:
        for mfn in mfns:
            self._check_mfn(mfn, what)

    def _check_mfn(self, mfn: int, what: str) -> None:
        if not 0 < mfn < len(self.m2p):
            raise GuestError("bad MFN {:#x} in the guest's {}".format(mfn, what))


def _canonical(address: int) -> bool:
    return address >> 47 in (0, (1 << 17) - 1)


def _repeated_end(items: "Sequence[int]") -> int:
    """Index at which the run of identical items at the end begins."""
    begin = len(items) - 1
    while begin and items[begin - 1] == items[-1]:
        begin -= 1
    return begin
