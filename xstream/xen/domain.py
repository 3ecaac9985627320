"""``XenGuest``: a domain of the running Xen as a guest for :func:`xstream.save` and :func:`xstream.restore`.

Source: tools/libs/guest/xg_sr_{save,restore}*.c, xg_dom_boot.c (grant table), xg_domain.c (PV: machine-to-physical
table).
"""
import struct

from xstream.contexts import suppress
from xstream.guest.guest import Completed, Guest, GuestError, Pages
from xstream.kernels import pfns as pfn_kernel
from xstream.kernels.buffers import uint64_of
from xstream.wire.libxc import CpuidPolicy, MsrPolicy, SharedInfo
from xstream.xen import interface, state
from xstream.xen.errors import XenError
from xstream.xen.privcmd import ForeignMapping, HypercallBuffer, Privcmd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, List, Optional, Sequence, Tuple

    from xstream.wire.frames import Buffer
    from xstream.wire.libxc import Record

_BATCH = 1024
#: A superpage, 2 MiB: its order as Xen counts it, and its pages.
_SUPERPAGE_ORDER, _SUPERPAGE_PFNS = 9, 512
#: From the high byte of a frame's type word, as getpageframeinfo3 returns it, to the type.
_TYPE_OF_BYTE = bytes(byte >> 4 for byte in range(256))
#: Where the wallclock lies in the shared info page, by guest width; it is the new host's, and stays.
_WALLCLOCK = {8: slice(0xC00, 0xC10), 4: slice(0x900, 0x90C)}
# What static_data_done() reports as missing: XGR_SDD_MISSING_* of xenguest.h.
MISSING_CPUID_POLICY, MISSING_MSR_POLICY = 1, 2


class Toolstack:
    """What only a domain's toolstack can do while the domain is saved or restored. Derive from it.

    Each method raises an exception where it fails.
    """

    def suspend(self) -> None:
        """Have the guest suspend itself; on return Xen says that the domain has shut down to suspend."""
        raise NotImplementedError

    def resume(self) -> None:
        """Let the suspended guest run again. Default: nothing, for toolstacks that do it on their own."""

    def qemu_log_dirty(self, on: bool) -> None:
        """HVM: have QEMU report the pages that it writes to in the dirty bitmap, or stop that. Without it, what an
        emulated device writes during a live save is lost. Default: nothing, for guests without QEMU."""

    def static_data_done(self, missing: int) -> None:
        """Restoring: the CPU policies have been loaded; ``missing`` says which the stream doesn't have
        (``MISSING_MSR_POLICY``, ``MISSING_CPUID_POLICY``): the toolstack makes those up. Default: nothing."""


class XenGuest(Guest):
    """A domain of the running Xen.

    - ``domid``: the domain; to restore into, one that the toolstack has created, with its memory limit, vcpus and
      event channels set up and nothing in it;
    - ``toolstack``: what suspends it, and so on;
    - ``xen``: the hypercall device, shared with other guests; default: a new one, which ``end`` closes;
    - ``store_evtchn``, ``console_evtchn``, ``store_domid``, ``console_domid``: restoring: event channels of the
      xenstore and console rings, and the domains that serve them.

    Raises XenError (an OSError) for hypercalls that fail. Not for several threads at once.
    """

    def __init__(self, domid: int, toolstack: Toolstack, *, xen: "Optional[Privcmd]" = None, store_evtchn: int = 0,
                 console_evtchn: int = 0, store_domid: int = 0, console_domid: int = 0) -> None:
        self.domid = domid
        self.xen = xen or Privcmd()
        self._own_xen = xen is None
        self._toolstack = toolstack
        info = self.xen.domain_info(domid)
        self.kind = "hvm" if info.hvm else "pv"
        self.xen_version = self.xen.xen_version()
        self.store_evtchn, self.console_evtchn = store_evtchn, console_evtchn
        self._domids = {interface.GRANT_CONSOLE: console_domid, interface.GRANT_XENSTORE: store_domid}
        self._restoring = False
        self._superpages = True  # until Xen has no contiguous memory left
        self._pfn_end = 0
        self._list = self.xen.buffer(8 * _BATCH)
        self._bitmap: Optional[HypercallBuffer] = None
        self._shared_info: Optional[ForeignMapping] = None
        self._m2p: Optional[ForeignMapping] = None
        if not info.hvm:
            self.shared_info_frame = info.shared_info_frame
            self.guest_width = self.xen.guest_width(domid)
            if self.guest_width == 4:
                self.compat_m2p_mfn = self._mfn_list(interface.MACHPHYS_COMPAT_MFN_LIST, 1)[0]

    def end(self) -> None:
        """The save or restore is over: unmap what it kept mapped."""
        for kept in (self._shared_info, self._m2p):
            if kept is not None:
                # The engine may still hold a view; then it is unmapped with the engine's last reference.
                with suppress(BufferError):
                    kept.close()
        self._shared_info = self._m2p = self._bitmap = None
        if self._own_xen:
            self.xen.close()

    # Memory

    def map_pages(self, frames: memoryview) -> Pages:
        """Map frames: writable to restore; read-only to save, where some may be gone by now."""
        if self._restoring:
            mapped = self.xen.map_whole(self.domid, frames, writable=True)
        else:
            mapped = self.xen.map_frames(self.domid, frames)
        missing = b"" if mapped.whole else bytes(map(bool, mapped.errors))
        return Pages(mapped.memory, _indices(len(frames)), missing, mapped)

    def unmap_pages(self, pages: Pages) -> None:
        """Unmap what ``map_pages`` mapped."""
        pages.handle.close()

    # Saving

    def start_save(self, pfn_end: int) -> None:
        """Take note of the size of dirty bitmaps."""
        self._pfn_end = pfn_end

    def pfn_end(self) -> int:
        """One more than the highest GFN that the domain has."""
        argument = struct.pack("<H", self.domid)
        return self.xen.memory_op(interface.MAXIMUM_GPFN, argument, "maximum_gpfn", self.domid)[0] + 1

    def page_types(self, frames: memoryview, types: memoryview) -> None:
        """getpageframeinfo3, in pieces of 1024 frames: Xen refuses more."""
        source = frames.cast("B")
        for first in range(0, len(types), _BATCH):
            count = min(_BATCH, len(types) - first)
            self._list.view[:8 * count] = source[8 * first:8 * (first + count)]
            self.xen.domctl(interface.GET_PAGE_FRAME_INFO, self.domid, count, self._list.address)
            types[first:first + count] = bytes(self._list.view[3:8 * count:8]).translate(_TYPE_OF_BYTE)

    def static_records(self) -> "Sequence[Record]":
        """The domain's CPU policies."""
        return state.read_policies(self.xen, self.domid)

    def state_records(self) -> "Sequence[Record]":
        """What comes after memory."""
        if self.kind == "hvm":
            return state.read_hvm_state(self.xen, self.domid)
        return state.read_pv_state(self.xen, self.domid, self.guest_width, bytes(self.shared_info()))

    def track_dirty(self, on: bool) -> None:
        """Turn log-dirty mode on or off, in Xen and in QEMU."""
        if not on:
            try:
                self._shadow_op(interface.LOGDIRTY_OFF)
            finally:
                if self.kind == "hvm":
                    self._toolstack.qemu_log_dirty(False)
            return
        if self.kind == "hvm":
            self._toolstack.qemu_log_dirty(True)
        try:
            self._shadow_op(interface.LOGDIRTY_ENABLE)
        except XenError:
            # It may be on already, for the guest's video memory: as Xen's own code does, off and on again.
            self._shadow_op(interface.LOGDIRTY_OFF)
            self._shadow_op(interface.LOGDIRTY_ENABLE)

    def read_dirty(self, bitmap: memoryview, clean: bool, final: bool) -> None:
        """Read the dirty bitmap; ``final`` adds the pages that Xen itself has mapped."""
        if self._bitmap is None:
            self._bitmap = self.xen.buffer(-(-self._pfn_end // 64) * 8)
        operation = interface.LOGDIRTY_CLEAN if clean else interface.LOGDIRTY_PEEK
        pages = self._shadow_op(operation, interface.LOGDIRTY_FINAL if final else 0, self._bitmap.address,
                                self._pfn_end)[4]
        if pages != self._pfn_end:
            raise GuestError("Xen's dirty bitmap has {:#x} PFNs, not {:#x}".format(pages, self._pfn_end))
        bitmap[:] = self._bitmap.view[:len(bitmap)]

    def count_dirty(self) -> "Optional[int]":
        """How many PFNs are dirty, without reading the bitmap."""
        count: int = self._shadow_op(interface.LOGDIRTY_PEEK)[6]
        return count

    def _shadow_op(self, operation: int, mode: int = 0, address: int = 0, pages: int = 0) -> "Sequence[int]":
        return self.xen.domctl(interface.SHADOW_OP, self.domid, operation, mode, 0, address, pages)

    def suspend(self) -> None:
        """Have the toolstack suspend the guest, and check that it has."""
        self._toolstack.suspend()
        reason = self.xen.domain_info(self.domid).shutdown
        if reason != interface.SHUTDOWN_SUSPEND:
            raise GuestError("domain {} was to suspend, but {}".format(
                self.domid, "still runs" if reason is None else "shut down for reason {}".format(reason)))

    def resume(self) -> None:
        """Let the guest run again."""
        self._toolstack.resume()

    def m2p(self) -> "Buffer":
        """The host's machine-to-physical table, mapped."""
        highest = self.xen.memory_op(interface.MAXIMUM_RAM_PAGE, b"", "maximum_ram_page")[0]
        extents = self._mfn_list(interface.MACHPHYS_MFN_LIST, -(-8 * highest // interface.M2P_EXTENT))
        pages = interface.M2P_EXTENT // interface.PAGE_SIZE
        frames = uint64_of(first + page for first in extents for page in range(pages))
        self._m2p = self.xen.map_whole(interface.DOMID_XEN, frames)
        return self._m2p.memory[:8 * (highest + 1)].cast("Q")

    def _mfn_list(self, command: int, count: int) -> "List[int]":
        buffer = self.xen.buffer(8 * count)
        argument = interface.MFN_LIST.pack(count, buffer.address, 0)
        _, answer = self.xen.memory_op(command, argument, "machphys_mfn_list")
        if interface.MFN_LIST.unpack(answer)[2] != count:
            raise GuestError("Xen's machine-to-physical table has another size than it says")
        return list(memoryview(bytes(buffer.view[:8 * count])).cast("Q"))

    def shared_info(self) -> "Buffer":
        """A PV guest's shared info page, mapped."""
        if self._shared_info is None:
            frames = uint64_of([self.shared_info_frame])
            self._shared_info = self.xen.map_whole(self.domid, frames, writable=self._restoring)
        return self._shared_info.memory

    # Restoring

    def start_restore(self, guest_width: int) -> None:
        """Set a PV guest's width."""
        self._restoring = True
        if self.kind == "pv" and guest_width != self.guest_width:
            self.xen.domctl(interface.SET_ADDRESS_SIZE, self.domid, 8 * guest_width)
        super().start_restore(guest_width)

    def load_static(self, records: "Sequence[Record]") -> None:
        """Load the CPU policies, and have the toolstack make up what is missing."""
        leaves = b"".join(bytes(record.leaves) for record in records if isinstance(record, CpuidPolicy))
        msrs = b"".join(bytes(record.entries) for record in records if isinstance(record, MsrPolicy))
        if leaves or msrs:
            state.load_policies(self.xen, self.domid, leaves, msrs)
        self._toolstack.static_data_done((0 if msrs else MISSING_MSR_POLICY) | (0 if leaves else MISSING_CPUID_POLICY))

    def populate(self, pfns: memoryview, frames: memoryview) -> None:
        """populate_physmap: one 2 MiB extent for each aligned range of 512 PFNs, as long as Xen has any, and one page
        for every other PFN."""
        for start, end, whole in _ranges(pfns):
            if whole and self._superpages:
                start += self._populate_superpages(pfns[start:end], frames[start:end])
            self._populate_pages(pfns[start:end], frames[start:end])

    def _populate_superpages(self, pfns: memoryview, frames: memoryview) -> int:
        """Populate as many whole superpages as Xen has memory for; returns how many PFNs those are."""
        done = self._populate_physmap(pfns[::_SUPERPAGE_PFNS], _SUPERPAGE_ORDER)
        made = done * _SUPERPAGE_PFNS
        self._superpages = made == len(pfns)
        if self.kind == "hvm":
            frames[:made] = pfns[:made]
            return made
        for number, base in enumerate(self._made(done)):
            first = _SUPERPAGE_PFNS * number
            following = (base * _ONES + _FOLLOWING).to_bytes(8 * _SUPERPAGE_PFNS, "little")
            frames[first:first + _SUPERPAGE_PFNS] = memoryview(following).cast("Q")
        return made

    def _populate_pages(self, pfns: memoryview, frames: memoryview) -> None:
        for first in range(0, len(pfns), _BATCH):
            part = pfns[first:first + _BATCH]
            done = self._populate_physmap(part, 0)
            if done < len(part):
                raise GuestError("Xen had memory for {} of {} PFNs: the domain's limit is reached, or the host is "
                                 "full".format(done, len(part)))
            frames[first:first + _BATCH] = part if self.kind == "hvm" else self._made(done)

    def _populate_physmap(self, pfns: memoryview, order: int) -> int:
        """Populate extents of 2 ** ``order`` pages at ``pfns``; returns how many Xen made."""
        self._list.view[:8 * len(pfns)] = pfns.tobytes()
        argument = interface.RESERVATION.pack(self._list.address, len(pfns), order, 0, self.domid)
        return self.xen.memory_op(interface.POPULATE_PHYSMAP, argument, "populate_physmap", self.domid)[0]

    def _made(self, count: int) -> memoryview:
        """PV: the first frame of each extent that Xen made last."""
        return self._list.view[:8 * count].cast("Q")

    def load_state(self, records: "Sequence[Record]") -> None:
        """Load the records in their order."""
        for record in records:
            if isinstance(record, SharedInfo):
                self._load_shared_info(bytes(record.page))
            else:
                state.load(self.xen, self.domid, record)

    def _load_shared_info(self, page: bytes) -> None:
        view, clock = memoryview(self.shared_info()), _WALLCLOCK[self.guest_width]
        view[:clock.start] = page[:clock.start]
        view[clock.stop:] = page[clock.stop:]

    def pin_tables(self, frames: memoryview, types: memoryview) -> None:
        """Pin page tables."""
        buffer = self.xen.buffer(interface.MMUEXT.size * len(frames))
        for index, (frame, kind) in enumerate(zip(frames, types)):
            interface.MMUEXT.pack_into(buffer.view, interface.MMUEXT.size * index,
                                       kind - interface.PIN_COMMAND_OFFSET, frame, 0)
        self.xen.call(interface.MMUEXT_OP, buffer.address, len(frames), 0, self.domid, what="mmuext_op pin",
                      domid=self.domid)

    def complete(self, result: Completed) -> None:
        """Grant the pages of the console and xenstore rings to the domains that serve them."""
        granted = {interface.GRANT_CONSOLE: result.console_frame, interface.GRANT_XENSTORE: result.store_frame}
        table = self.xen.map_resource(self.domid, interface.RESOURCE_GRANT_TABLE, 0, 0, 1)
        for entry, frame in granted.items():
            if frame is not None:
                interface.GRANT_ENTRY.pack_into(table.memory, interface.GRANT_ENTRY.size * entry,
                                                interface.GRANT_PERMIT_ACCESS, self._domids[entry], frame)
        table.close()


def _ranges(pfns: memoryview) -> "Iterator[Tuple[int, int, bool]]":
    """Split an array of PFNs: (start index, end index, whether it is whole superpages, aligned and in order)."""
    import bisect  # not needed to save guests
    start = at = 0
    last = False
    while at < len(pfns):
        boundary = pfns[at] - pfns[at] % _SUPERPAGE_PFNS + _SUPERPAGE_PFNS
        end = min(at + _SUPERPAGE_PFNS, len(pfns))
        if pfns[end - 1] >= boundary:
            end = bisect.bisect_left(pfns, boundary, at + 1, end)
        whole = end - at == _SUPERPAGE_PFNS and pfn_kernel.ascending(pfns[at:end])
        if at > start and whole != last:
            yield start, at, last
            start = at
        at, last = end, whole
    if at > start:
        yield start, at, last


def _indices(count: int) -> memoryview:
    if count <= len(_FIRST_INDICES):
        return _FIRST_INDICES[:count]
    return uint64_of(range(count))


_FIRST_INDICES = uint64_of(range(_BATCH))
#: Arrays of uint64 as one number each, to calculate with all of a superpage's frames at once: ones, and 0, 1, 2, ...
_ONES = int.from_bytes(struct.pack("<Q", 1) * _SUPERPAGE_PFNS, "little")
_FOLLOWING = int.from_bytes(_FIRST_INDICES[:_SUPERPAGE_PFNS].tobytes(), "little")
