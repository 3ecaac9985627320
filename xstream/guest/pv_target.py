"""Restoring PV guests: translating PFNs in page tables, vcpu contexts and start info to MFNs, and writing the p2m.

Source: tools/libs/guest/xg_sr_restore_x86_pv.c.
"""

from xstream.errors import CorruptStream, StreamError
from xstream.guest.guest import Completed, Guest
from xstream.guest.hooks import Hooks
from xstream.guest.tables import LEVELS, any_tables, checked_tables, data_types
from xstream.guest.target import TargetMemory
from xstream.kernels import p2m as p2m_kernel
from xstream.kernels import pagetables
from xstream.kernels.buffers import uint64, uint64_of
from xstream.wire import console
from xstream.wire import shared_info as shared_info_wire
from xstream.wire import start_info as start_info_wire
from xstream.wire import vcpu as vcpu_wire
from xstream.wire.libxc import BATCH_PFNS, PAGE_SIZE, P2MFrames, PageData, SharedInfo, VcpuBasic
from xstream.wire.pending import PendingPages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, List, Tuple

    from xstream.stream.reader import AnyReader
    from xstream.wire.frames import Buffer
    from xstream.wire.pending import Data

_NOTAB = 0
_PINNED = range(9, 13)
_NO_PFN = 2 ** 64 - 1


class TargetPV:
    """The part of a restore that is specific to PV guests.

    Raises CorruptStream for numbers in the stream that contradict each other, with offsets relative to the record.
    """

    def __init__(self, guest: Guest, hooks: Hooks, memory: TargetMemory) -> None:
        assert memory.p2m is not None
        self._p2m = memory.p2m
        self._guest = guest
        self._hooks = hooks
        self._memory = memory
        self._leaves: List[int] = []
        self._pfn_end = 0
        self._width = 0
        self._scratch = memoryview(b"")

    def begin(self, guest_width: int) -> None:
        """The guest's width is known: 8 or 4."""
        self._width = guest_width

    def add_frames(self, record: P2MFrames) -> None:
        """Note where the guest's p2m is; a later record replaces or extends an earlier one."""
        first = record.start_pfn // (PAGE_SIZE // self._width)
        # A range that is skipped has to be filled by a later record.
        self._leaves.extend([_NO_PFN] * (first - len(self._leaves)))
        frames = memoryview(bytes(record.frames)).cast("Q")
        self._leaves[first:first + len(frames)] = frames
        self._pfn_end = max(self._pfn_end, record.end_pfn + 1)

    def localised(self, reader: "AnyReader", record: PageData) -> PageData:
        """The batch with MFNs in its page tables. PFNs that they refer to are populated first. ``reader`` is the
        stream's. The data is good until the next call."""
        types = data_types(record.words)
        if not any_tables(types):
            return record
        tables = self._in_scratch(record.data, len(types))
        checked_tables(reader, record._replace(data=tables))
        wanted = uint64(BATCH_PFNS)
        count = BATCH_PFNS
        state = self._memory.state[:self._pfn_end]
        while count == BATCH_PFNS:
            count = pagetables.referenced(tables, types, state, wanted)
            self._memory.populate(wanted[:count])
        page, entry, reason = pagetables.localise(tables, types, self._p2m[:self._pfn_end], tables)
        if reason != pagetables.OK:
            raise CorruptStream("page table entry without a frame", field="page table entry",
                                got="entry {} of page {} of the batch".format(entry, page))
        return record._replace(data=tables)

    def _in_scratch(self, data: "Data", pages: int) -> memoryview:
        """A batch's pages, in memory that the next batch reuses: new memory costs a page fault for each page."""
        if len(self._scratch) < pages * PAGE_SIZE:
            self._scratch = memoryview(bytearray(pages * PAGE_SIZE))
        scratch = self._scratch[:pages * PAGE_SIZE]
        held = data.held() if isinstance(data, PendingPages) else data
        if held is None:
            assert isinstance(data, PendingPages)
            data.read_into(scratch, uint64_of(range(pages)))
        else:
            scratch[:] = memoryview(held).cast("B")
        return scratch

    def localised_vcpu(self, record: VcpuBasic) -> VcpuBasic:
        """A vcpu context with MFNs. All memory must have arrived."""
        try:
            pfns = vcpu_wire.frames(record.blob, self._width, in_stream=True)
        except StreamError as error:
            error.offset = None
            raise error
        levels = LEVELS[self._width]

        def top_table(pfn: int, field: str) -> int:
            return self._frame_of(pfn, field, lambda kind: kind in (levels, levels | 8))

        register = "rdx" if self._width == 8 else "edx"
        mfns = vcpu_wire.Frames(
            pfns.start_info if record.vcpu_id else self._frame_of(pfns.start_info, register, _is_data),
            tuple(self._frame_of(pfn, "gdt_frames", _is_data) for pfn in pfns.gdt),
            top_table(pfns.cr3, "ctrlreg[3]"), pfns.user if pfns.user is None else top_table(pfns.user, "ctrlreg[1]"))
        return record._replace(blob=vcpu_wire.with_frames(record.blob, self._width, mfns, in_stream=False))

    def restored_info(self, record: SharedInfo) -> SharedInfo:
        """The part of the shared info that a restored guest keeps."""
        return record._replace(page=shared_info_wire.restored(record.page, self._width))

    def finish(self) -> None:
        """Pin the page tables, and write the p2m."""
        self._pin_tables()
        self._write_p2m()

    def write_start_info(self, vcpu0: VcpuBasic) -> Completed:
        """Update the start info for this host. ``vcpu0`` is vcpu 0's context as it arrived."""
        pfn = vcpu_wire.frames(vcpu0.blob, self._width, in_stream=True).start_info
        where = uint64_of([pfn])
        page = self._memory.read(where)
        info = start_info_wire.parse(page, self._width)
        store = self._frame_of(info.store, "store_mfn")
        console_frame = self._frame_of(info.console, "console.domU.mfn")
        guest = self._guest
        new = start_info_wire.StartInfo(self._pfn_end, guest.shared_info_frame * PAGE_SIZE, 0, store,
                                        guest.store_evtchn, console_frame, guest.console_evtchn)
        page[start_info_wire.MAGIC_SIZE:start_info_wire.size(self._width)] = start_info_wire.build(new, self._width)
        self._memory.write(where, page)
        self._disconnect_console(info.console)
        return Completed(store, console_frame, pfn, tuple(self._leaves))

    def _disconnect_console(self, pfn: int) -> None:
        """Mark the console ring as disconnected, as Xen does since 4.21; its contents stay."""
        where = uint64_of([pfn])
        page = self._memory.read(where)
        console.set_disconnected(page)
        self._memory.write(where, page)

    def _pin_tables(self) -> None:
        state = self._memory.state[:self._pfn_end]
        for start in range(0, len(state), 1 << 20):
            pinned = [(start + at, kind) for at, kind in _pinned(state[start:start + (1 << 20)])]
            for first in range(0, len(pinned), BATCH_PFNS):
                some = pinned[first:first + BATCH_PFNS]
                frames = self._memory.frames_of(uint64_of(pfn for pfn, _ in some))
                self._hooks.pin_tables(frames, memoryview(bytearray(kind for _, kind in some)))

    def _write_p2m(self) -> None:
        """Write the new frames to the guest's own p2m."""
        end, entries = self._pfn_end, PAGE_SIZE // self._width
        for pfn in set(self._leaves):
            self._frame_of(pfn, "p2m frame", _is_data)
        for first in range(0, len(self._leaves), BATCH_PFNS):
            leaves = self._leaves[first:first + BATCH_PFNS]
            begin = first * entries
            count = min(end - begin, len(leaves) * entries)
            frames = uint64(count)
            p2m_kernel.populated_only(self._p2m[begin:begin + count], self._memory.state[begin:begin + count], frames)
            where = uint64_of(leaves)
            # Whatever follows the last entry stays.
            content = memoryview(self._memory.read(where))
            if self._width == 8:
                content[:8 * count] = frames.cast("B")
            else:
                p2m_kernel.narrow(frames, content[:4 * count])
            self._memory.write(where, content)

    def _frame_of(self, pfn: int, field: str, fits: "Callable[[int], bool]" = lambda kind: True) -> int:
        if pfn >= self._pfn_end or not self._memory.is_populated(pfn):
            raise CorruptStream("a PFN that the guest doesn't have", field=field,
                                expected="a populated PFN under {:#x}".format(self._pfn_end), got=hex(pfn))
        kind = self._memory.type_of(pfn)
        if not fits(kind):
            raise CorruptStream("a PFN of the wrong type", field=field, got="PFN {:#x} of type {}".format(pfn, kind))
        return int(self._p2m[pfn])


def _is_data(kind: int) -> bool:
    return kind == _NOTAB


#: Maps a state byte to the PFN's type if it is a pinned page table, else to 0.
_PINNED_TYPES = bytes(byte & 0xF ^ 0xF if byte & 0xF ^ 0xF in _PINNED else 0 for byte in range(256))


def _pinned(state: "Buffer") -> "List[Tuple[int, int]]":
    """(index, type) of each state byte of a pinned page table, in order."""
    kinds = bytes(state).translate(_PINNED_TYPES)
    found = []
    for kind in _PINNED:
        at = kinds.find(kind)
        while at >= 0:
            found.append((at, kind))
            at = kinds.find(kind, at + 1)
    return sorted(found)
