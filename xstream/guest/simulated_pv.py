"""The internals of a simulated PV guest: its frames, its p2m, and page tables that map all of its memory."""
import random
import struct
from array import array
from typing import Dict, List, NamedTuple, Union

from xstream.guest.memory import GuestMemory
from xstream.kernels import p2m as p2m_kernel
from xstream.kernels.buffers import reserve
from xstream.wire.libxc import PAGE_SIZE

INVALID = p2m_kernel.INVALID
START_INFO, STORE, CONSOLE, GDT, FIRST_P2M = range(1, 6)
#: The first frame: above 4 GiB, so that a 32-bit guest's cr3 needs its high bits.
_FIRST_MFN = 0x180000
#: Frames that belong to the hypervisor.
_XEN_MFN = 0x1000
COMPAT_M2P_MFN = 0x2000

_DATA, _TABLE, _XEN = 0x67, 0x25, 0x63  # flags of page-table entries for: a writable page, a table, the hypervisor
_NX = 1 << 63
_FRAME = (1 << 52) - (1 << 12)


class Layout(NamedTuple):
    """The PFNs that a PV guest of ``pages`` pages uses for its p2m and page tables."""

    width: int
    pages: int
    leaves: range
    lists: range
    top_list: int
    l1: range
    l2: range
    l3: range
    l4: range
    end: int

    @property
    def top(self) -> int:
        """The top-level table of the kernel."""
        return self.l4[0] if self.width == 8 else self.l3[0]

    @property
    def user(self) -> int:
        """The top-level table for user mode of a 64-bit guest."""
        return self.l4[1] if self.width == 8 else 0

    def levels(self) -> Dict[int, int]:
        """The type of each page table, by PFN; top-level tables are pinned."""
        types = {pfn: level for level, run in enumerate((self.l1, self.l2, self.l3, self.l4), 1) for pfn in run}
        for pfn in (self.l4 if self.width == 8 else self.l3):
            types[pfn] |= 8
        return types


def layout(width: int, pages: int) -> Layout:
    """Raises ValueError for too few pages."""
    entries = PAGE_SIZE // width
    counts = [-(-pages // entries)]
    counts.append(-(-counts[0] // entries))
    counts.append(1)
    if width == 8:
        l1 = -(-pages // 512)
        l2 = -(-l1 // 512)
        counts += [l1, l2, -(-l2 // 512), 2]
    else:
        # The last 84 slots of the four L2 tables are reserved for the hypervisor.
        counts += [min(-(-pages // 512), 4 * 512 - 84), 4, 1, 0]
    runs: List[range] = []
    at = FIRST_P2M
    for count in counts:
        runs.append(range(at, at + count))
        at += count
    if at > pages:
        raise ValueError("a PV guest of {} pages has no room for its {} tables".format(pages, at))
    leaves, lists, top_lists, *tables = runs
    return Layout(width, pages, leaves, lists, top_lists[0], tables[0], tables[1], tables[2], tables[3], at)


class Frames:
    """The guest's frames. ``m2p`` (PFN by MFN) and ``mfns`` (MFN by PFN) are uint64 views."""

    def __init__(self, rng: random.Random, pages: int) -> None:
        # Each frame is handed out once, in pseudo-random order.
        self._room = 1 << max(16, (2 * pages - 1).bit_length())
        self._step = rng.randrange(self._room // 4, self._room // 2) | 1
        self._next = rng.randrange(self._room)
        self._left = self._room
        size = 8 * (_FIRST_MFN + self._room)
        self.m2p = memoryview(reserve(size))[:size].cast("Q")
        self.mfns = memoryview(array("Q", [INVALID])) if not pages else memoryview(array("Q", [INVALID]) * pages)

    def take(self, pfns: List[int]) -> "array[int]":
        """Allocate frames for PFNs. Raises MemoryError if there are none left."""
        if len(pfns) > self._left:
            raise MemoryError("the host has no frames left")
        self._left -= len(pfns)
        mfns = array("Q")
        for pfn in pfns:
            self._next = (self._next + self._step) % self._room
            mfns.append(_FIRST_MFN + self._next)
            self.m2p[mfns[-1]] = pfn
            self.mfns[pfn] = mfns[-1]
        return mfns

    def give_up(self, pfn: int) -> None:
        """Return a PFN's frame to the host."""
        self.m2p[self.mfns[pfn]] = INVALID
        self.mfns[pfn] = INVALID


class Kernel:
    """The guest's kernel: it writes p2m, page tables and start info to the guest's memory."""

    def __init__(self, memory: GuestMemory, frames: Frames, where: Layout, *, linear: bool) -> None:
        self._words = memory.buffer.cast("Q")
        self._bytes = memory.buffer
        self._frames = frames
        self._where = where
        self._linear = linear

    def build(self) -> None:
        """Write the p2m, its lists, the page tables and the start info."""
        where, mfns = self._where, self._frames.mfns
        for at, pfn in enumerate(where.leaves):
            entries = PAGE_SIZE // where.width
            self._write_frames(pfn, mfns[at * entries:(at + 1) * entries])
        self.write_lists()
        kinds = where.levels()
        for at, pfn in enumerate(where.l1):
            first = at * 512
            self._words[pfn * 512:(pfn + 1) * 512] = array("Q", [
                self._entry(below, kinds) for below in range(first, first + 512)])
        for above, below in ((where.l2, where.l1), (where.l3, where.l2), (where.l4[:1], where.l3)):
            self._point(above, below)
        self._add_xen_slots()
        self.write_start_info(in_mfns=True)

    def map(self, pfn: int) -> List[int]:
        """Update p2m and page table for a PFN; returns the PFNs written to."""
        where = self._where
        entries = PAGE_SIZE // where.width
        leaf = where.leaves[pfn // entries]
        struct.pack_into("<Q" if where.width == 8 else "<I", self._bytes,
                         leaf * PAGE_SIZE + pfn % entries * where.width,
                         self._frames.mfns[pfn] & (1 << 8 * where.width) - 1)
        if pfn // 512 >= len(where.l1):
            return [leaf]
        table = where.l1[pfn // 512]
        self._words[table * 512 + pfn % 512] = self._entry(pfn, {})
        return [leaf, table]

    def tear(self, table: int) -> None:
        """Let the first entry of an L1 table point to a frame that doesn't belong to the guest."""
        self._words[table * 512] = _XEN_MFN << 12 | _DATA

    def mend(self, table: int) -> None:
        """Undo ``tear``."""
        self._words[table * 512] = self._entry((table - self._where.l1[0]) * 512, self._where.levels())

    def write_start_info(self, in_mfns: bool) -> None:
        """Write the start info: with MFNs, as Xen fills it in, or with PFNs, as a guest does before it suspends."""
        store, console = (self._frames.mfns[pfn] if in_mfns else pfn for pfn in (STORE, CONSOLE))
        form = "<32sQQI4xQI4xQI" if self._where.width == 8 else "<32sIIIIIII"
        struct.pack_into(form, self._bytes, START_INFO * PAGE_SIZE, b"xen-3.0-x86", self._where.pages, 0x7F000, 0,
                         store, 1, console, 2)

    def shared_info(self) -> bytearray:
        """The shared info page."""
        where, mfns = self._where, self._frames.mfns
        page = bytearray(PAGE_SIZE)
        form, at = ("<6Q", 3088) if where.width == 8 else ("<6I", 2316)
        cr3, address = 0, 0
        top_list = mfns[where.top_list]
        if self._linear:
            top = mfns[where.top]
            cr3 = top << 12 if where.width == 8 else (top << 12 | top >> 20) & 0xFFFFFFFF
            address, top_list = self._base() + where.leaves[0] * PAGE_SIZE, 0
        struct.pack_into(form, page, at, where.pages, top_list, 0, cr3, address, 2)
        return page

    def _base(self) -> int:
        """The virtual address of PFN 0."""
        return 0xFFFF880000000000 if self._where.width == 8 else 0

    def write_lists(self) -> None:
        """Write the frame numbers of the p2m's pages to its lists."""
        mfns, where = self._frames.mfns, self._where
        entries = PAGE_SIZE // where.width
        for at, pfn in enumerate(where.lists):
            self._write_frames(pfn, array("Q", [mfns[leaf] for leaf in where.leaves[at * entries:(at + 1) * entries]]))
        self._write_frames(where.top_list, array("Q", [mfns[pfn] for pfn in where.lists]))

    def _write_frames(self, pfn: int, frames: "Union[memoryview, array[int]]") -> None:
        """Write a page of frame numbers of the guest's width, padded with all ones."""
        page = self._bytes[pfn * PAGE_SIZE:(pfn + 1) * PAGE_SIZE]
        page[:] = b"\xff" * PAGE_SIZE
        if self._where.width == 8:
            page[:8 * len(frames)] = memoryview(frames).cast("B")
        else:
            p2m_kernel.narrow(frames, page[:4 * len(frames)])

    def _entry(self, pfn: int, kinds: Dict[int, int]) -> int:
        mfn = self._frames.mfns[pfn] if pfn < len(self._frames.mfns) else INVALID
        if mfn == INVALID:
            return 0
        return mfn << 12 | (_TABLE if pfn in kinds else _DATA | _NX)

    def _point(self, above: range, below: range) -> None:
        """Let the tables ``above`` point to those ``below``, starting at the slot that maps PFN 0."""
        first = 272 if above == self._where.l4[:1] and len(above) else 0
        for at, pfn in enumerate(above):
            some = below[at * 512:(at + 1) * 512]
            slot = pfn * 512 + first
            # In a PAE L3 only the present bit is allowed.
            flags = 1 if above == self._where.l3 and self._where.width == 4 else _TABLE | 2
            self._words[pfn * 512:(pfn + 1) * 512] = array("Q", [0]) * 512
            self._words[slot:slot + len(some)] = array("Q", [self._frames.mfns[table] << 12 | flags for table in some])

    def _add_xen_slots(self) -> None:
        where = self._where
        if where.width == 8:
            self._words[where.user * 512:(where.user + 1) * 512] = array("Q", [0]) * 512
            for pfn in where.l4:
                self._words[pfn * 512 + 256:pfn * 512 + 272] = array("Q", [
                    _XEN_MFN + slot << 12 | _XEN for slot in range(16)])
            return
        top = where.l2[3] * 512
        self._words[top + 428:top + 512] = array("Q", [COMPAT_M2P_MFN + slot << 12 | _XEN for slot in range(84)])
        l3 = where.l3[0] * 512
        self._words[l3 + 4:l3 + 8] = array("Q", [_XEN_MFN + slot << 12 | 1 for slot in range(4)])
