"""A whole guest in memory, without a hypervisor: for tests, benchmarks and demonstrations."""
import random
import struct
from array import array
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from xstream.guest import simulated_pv, simulated_state
from xstream.guest.guest import Completed, Guest, Pages
from xstream.guest.memory import GuestMemory
from xstream.kernels import checksum, pagetables
from xstream.kernels import p2m as p2m_kernel
from xstream.kernels import pfns as pfn_kernel
from xstream.kernels.buffers import uint64
from xstream.limits import Limits
from xstream.wire import console, shared_info, start_info
from xstream.wire.libxc import (
    BATCH_PFNS,
    PAGE_SIZE,
    HvmParams,
    SharedInfo,
    TscInfo,
    VcpuBasic,
    data_pfns,
    words_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xstream.wire.frames import Buffer
    from xstream.wire.libxc import Record

_NOTAB, _BROKEN, _XALLOC, _XTAB = 0x0, 0xD, 0xE, 0xF
_BLOCK_PAGES = 64
#: Of 16 PFNs of an HVM guest without a page, these have another type than XTAB.
_ODD_TYPES = {5: _XALLOC, 11: _BROKEN}
_CONSOLE_PFN = 17
_EVTCHN_PARAMS = (2, 18)
_PATTERNS = ("random", "hot", "sweep")


class SimulatedGuest(Guest):
    """A guest of ``pages`` PFNs whose contents depend on ``seed`` alone.

    - ``kind``: "hvm" or "pv"; ``width``: word size of a PV guest, 8 or 4 bytes; ``vcpus``: their number;
    - ``p2m``: how a PV guest publishes its p2m: "tree" or "linear";
    - ``used``: share of the pages that have contents; the others are zero and use no memory;
    - ``holes``: share of PFNs without a page (XTAB; in an HVM guest a few are BROKEN or XALLOC);
    - ``dirty``: pages that it writes to for each page that is sent while it runs; ``pattern``: which pages: "random",
      "hot" (a tenth of its memory), "sweep" (one after the other);
    - ``balloon``: number of pages that it gives up, or takes back, during a live save;
    - ``torn``: number of a PV guest's L1 tables that contain a foreign frame during a live save;
    - ``fail``: maps the name of a hook to the number of the call, from 1, that raises OSError;
    - ``spliceable``: see Guest.

    ``memory`` is its GuestMemory, with MFNs in a PV guest's page tables. ``running`` tells whether it runs. It has no
    thread: it changes its memory within its hooks and when ``step`` is called.

    ``SimulatedGuest.empty()`` makes a guest to restore into.
    """

    kind: str
    memory: GuestMemory
    #: The argument of ``complete`` after a restore, and whether a restore has failed.
    completed: Optional[Completed]
    abandoned: bool
    #: PV: the PFNs of its start info and its p2m.
    start_info_pfn: Optional[int]
    p2m_pfns: Sequence[int]
    _rng: random.Random
    _frames: simulated_pv.Frames
    _kernel: simulated_pv.Kernel
    _where: Optional[simulated_pv.Layout]
    _static: "List[Record]"
    _state: "List[Record]"
    _torn: List[int]

    def __init__(self, kind: str = "hvm", pages: int = 3000, seed: int = 0, *, width: int = 8, vcpus: int = 2,
                 p2m: str = "tree", used: float = 1.0, holes: float = 0.02, dirty: float = 0.05,
                 pattern: str = "random", balloon: int = 0, torn: int = 0, fail: Optional[Dict[str, int]] = None,
                 spliceable: bool = False) -> None:
        if pattern not in _PATTERNS or p2m not in ("tree", "linear") or width not in (4, 8):
            raise ValueError("pattern must be one of {}, p2m tree or linear, width 4 or 8".format(", ".join(_PATTERNS)))
        self._prepare(kind, seed, fail, GuestMemory(pages, limit=pages))
        self.guest_width = width
        self.spliceable = spliceable
        self._vcpus = vcpus
        self._dirtying, self._pattern = dirty, pattern
        self._balloon = balloon
        self._where = simulated_pv.layout(width, pages) if kind == "pv" else None
        self._first = self._where.end if self._where else 0  # ordinary memory begins here
        absent = self._choose_holes(pages, holes)
        self._fill(int(pages * used), absent)
        self._enter_types(absent)
        if self._where:
            self._frames = simulated_pv.Frames(self._rng, pages)
            self._frames.take([pfn for pfn in range(pages) if pfn not in absent])
            self._kernel = simulated_pv.Kernel(self.memory, self._frames, self._where, linear=p2m == "linear")
            self._kernel.build()
            self.start_info_pfn, self.p2m_pfns = simulated_pv.START_INFO, tuple(self._where.leaves)
            self._torn = self._rng.sample(list(self._where.l1), min(torn, len(self._where.l1)))
        self._static = simulated_state.static_records(self._rng)
        self._state = self._first_state()
        self.running = True

    @classmethod
    def empty(cls, kind: str = "hvm", *, seed: int = 0, limit: int = Limits().guest_pfns,
              fail: Optional[Dict[str, int]] = None) -> "SimulatedGuest":
        """A guest without memory, to restore into. ``limit``: number of PFNs for which the host has memory, at most
        2^22 for a PV guest; ``seed`` determines its frames."""
        guest = cls.__new__(cls)
        if kind == "pv":
            limit = min(limit, 1 << 22)
        guest._prepare(kind, seed, fail, GuestMemory(limit=limit))
        if kind == "pv":
            guest._frames = simulated_pv.Frames(guest._rng, limit)
        return guest

    def _prepare(self, kind: str, seed: int, fail: Optional[Dict[str, int]], memory: GuestMemory) -> None:
        if kind not in ("hvm", "pv"):
            raise ValueError("kind must be hvm or pv, not {!r}".format(kind))
        self.kind = kind
        self.memory = memory
        self.running = self.abandoned = False
        self.completed = None
        self.start_info_pfn = None
        self.p2m_pfns = ()
        self.store_evtchn, self.console_evtchn, self.shared_info_frame = 11, 12, 0x7E
        self.compat_m2p_mfn = simulated_pv.COMPAT_M2P_MFN
        self._rng = random.Random(seed)
        self._fail = dict(fail or {})
        self._static = []
        self._state = []
        self._pinned: Dict[int, int] = {}
        self._where = None
        self._torn = []
        self._given_up: List[int] = []
        self._dirty: Optional[bytearray] = None
        self._debt = self._dirtying = 0.0
        self._pattern, self._swept = "random", 0
        self._balloon = self._first = self._suspensions = 0

    @property
    def static(self) -> "Sequence[Record]":
        """Its CPU policies."""
        return self._static

    @property
    def state(self) -> "Sequence[Record]":
        """The records of its state: what ``state_records`` returned last, or what ``load_state`` was called with."""
        return self._state

    @property
    def pinned(self) -> Dict[int, int]:
        """PV: the type of each page table that a restore has pinned, by frame."""
        return self._pinned

    # Contents

    def _choose_holes(self, pages: int, share: float) -> Dict[int, int]:
        """The PFNs without a page, and their types."""
        # The first PFN of each L1 table has a page: tear() and mend() change that entry.
        room = [pfn for pfn in range(self._first, pages) if pfn % 512]
        chosen = self._rng.sample(room, min(int(pages * share), len(room)))
        odd = _ODD_TYPES if self.kind == "hvm" else {}
        return {pfn: odd.get(at % 16, _XTAB) for at, pfn in enumerate(chosen)}

    def _fill(self, used: int, absent: Dict[int, int]) -> None:
        """Fill each page with different contents."""
        memory = self.memory.buffer
        block = simulated_state.noise(self._rng, _BLOCK_PAGES * PAGE_SIZE)
        for start in range(0, used * PAGE_SIZE, len(block)):
            piece = memory[start:min(start + len(block), used * PAGE_SIZE)]
            piece[:] = block[:len(piece)]
        memory[:used * PAGE_SIZE].cast("Q")[::512] = memoryview(array("Q", range(1, used + 1)))
        special = simulated_state.SPECIAL_PAGES.values() if self.kind == "hvm" else ()
        for pfn in [*absent, *(pfn for pfn in special if pfn < used)]:
            self._empty(pfn)

    def _empty(self, pfn: int) -> None:
        self.memory.buffer[pfn * PAGE_SIZE:(pfn + 1) * PAGE_SIZE] = bytes(PAGE_SIZE)

    def _enter_types(self, absent: Dict[int, int]) -> None:
        types = bytearray(len(self.memory))
        for pfn, kind in absent.items():
            types[pfn] = kind
        if self._where:
            for pfn, kind in self._where.levels().items():
                types[pfn] = kind
        self.memory.mark(words_of(array("Q", range(len(types))), types))

    def _first_state(self) -> "List[Record]":
        tsc = TscInfo(0, 2400000, 0, 3)
        if self._where is None:
            return [tsc, *simulated_state.hvm_records(self._rng, self._vcpus)]
        mfns, where = self._frames.mfns, self._where
        records: List[Record] = [tsc, SharedInfo(self._kernel.shared_info())]
        for vcpu in range(self._vcpus):
            start = mfns[simulated_pv.START_INFO] if vcpu == 0 else 0x77
            registers = simulated_state.Registers(start, mfns[simulated_pv.GDT], mfns[where.top],
                                                  mfns[where.user] if self.guest_width == 8 else 0)
            context = simulated_state.vcpu_context(self._rng, self.guest_width, registers)
            records += [VcpuBasic(vcpu, context), *simulated_state.vcpu_records(self._rng, vcpu)]
        return records

    def contents(self) -> Iterator[Tuple[memoryview, bytes]]:
        """The memory in a form that doesn't depend on the host: for each batch the PFN words of the pages that exist,
        and these pages; copies. Page tables contain PFNs; the p2m and what a restore sets in the start info and the
        console page are zeros. Two guests with the same contents are the same."""
        console_pfn = self._console_pfn()
        for start in range(0, len(self.memory), BATCH_PFNS):
            pfns = array("Q", range(start, min(start + BATCH_PFNS, len(self.memory))))
            types = bytearray(len(pfns))
            p2m_kernel.types_at(self.memory.state, pfns, types)
            there = [at for at, kind in enumerate(types) if kind < _BROKEN]
            present, kinds = [pfns[at] for at in there], bytes(types[at] for at in there)
            words = words_of(array("Q", present), kinds)
            pages = self.memory.read(data_pfns(words))
            if self.kind == "pv":
                self._make_comparable(present, kinds, pages)
            if console_pfn in present:
                pages[present.index(console_pfn) * PAGE_SIZE + console.CONNECTION] = 0
            yield words, bytes(pages)

    def _console_pfn(self) -> Optional[int]:
        if self._where:
            return simulated_pv.CONSOLE
        if self.completed is not None and self.completed.console_frame is not None:
            frame = self.completed.console_frame
            return int(self._frames.m2p[frame]) if self.kind == "pv" else frame
        return simulated_state.SPECIAL_PAGES[_CONSOLE_PFN]

    def _make_comparable(self, pfns: List[int], types: bytes, pages: bytearray) -> None:
        fault = pagetables.normalise(
            pages, types, self._frames.mfns, self._frames.m2p, pages, bytearray(len(pfns)), paused=True,
            levels=4 if self.guest_width == 8 else 3, compat_m2p_mfn=self.compat_m2p_mfn)
        if fault[2] != pagetables.OK:
            raise ValueError("PFN {:#x}: bad page table entry {}".format(pfns[fault[0]], fault[1]))
        for pfn in self.p2m_pfns:
            if pfn in pfns:
                at = pfns.index(pfn) * PAGE_SIZE
                pages[at:at + PAGE_SIZE] = bytes(PAGE_SIZE)
        if self.start_info_pfn in pfns:
            at = pfns.index(self.start_info_pfn) * PAGE_SIZE
            fields = slice(at + start_info.MAGIC_SIZE, at + start_info.size(self.guest_width))
            pages[fields] = bytes(fields.stop - fields.start)

    def digest(self) -> int:
        """CRC32C of ``contents``."""
        value = 0
        for words, pages in self.contents():
            value = checksum.crc32c(pages, checksum.crc32c(words, value))
        return value

    # Activity

    def step(self, pages: int) -> None:
        """Run for the time in which ``pages`` pages are sent."""
        if self._dirty is None or not self.running:
            return
        self._debt += pages * self._dirtying
        while self._debt >= 1:
            self._debt -= 1
            self._write_to(self._next_pfn())
        if self._balloon:
            self._balloon -= 1
            self._move_balloon()

    def _next_pfn(self) -> int:
        first, end = self._first, len(self.memory)
        if self._pattern == "sweep":
            self._swept = (self._swept + 1) % (end - first)
            return first + self._swept
        if self._pattern == "hot":
            end = first + max((end - first) // 10, 1)
        return self._rng.randrange(first, end)

    def _write_to(self, pfn: int) -> None:
        if self._type(pfn) == _NOTAB and pfn not in simulated_state.SPECIAL_PAGES.values():
            struct.pack_into("<Q", self.memory.buffer, pfn * PAGE_SIZE + 8 * self._rng.randrange(512),
                             self._rng.getrandbits(64))
            self._note([pfn])

    def _note(self, pfns: List[int]) -> None:
        if self._dirty is not None:
            for pfn in pfns:
                self._dirty[pfn // 8] |= 1 << pfn % 8

    def _type(self, pfn: int) -> int:
        return self.memory.state[pfn] & 0xF ^ 0xF

    def _move_balloon(self) -> None:
        """Give a page up, or, every third time, take one back."""
        if self._given_up and self._balloon % 3 == 0:
            pfn = self._given_up.pop(0)
            self._set_type(pfn, _NOTAB)
            if self._where:
                self._frames.take([pfn])
        else:
            pfn = self._next_pfn()
            if self._type(pfn) != _NOTAB or not pfn % 512 or pfn in simulated_state.SPECIAL_PAGES.values():
                return
            self._given_up.append(pfn)
            self._empty(pfn)
            self._set_type(pfn, _XTAB)
            if self._where:
                self._frames.give_up(pfn)
        # Xen marks the PFN of an HVM guest as dirty, and for a PV guest the pages that the guest itself writes.
        self._note(self._kernel.map(pfn) if self._where else [pfn])

    def _set_type(self, pfn: int, kind: int) -> None:
        self.memory.mark(words_of(array("Q", [pfn]), bytes([kind])))

    def _enter(self, hook: str) -> None:
        """Fail if ``fail`` says so."""
        if hook in self._fail:
            self._fail[hook] -= 1
            if not self._fail[hook]:
                raise OSError(5, "simulated failure of {}".format(hook))

    # Hooks: memory

    def map_pages(self, frames: memoryview) -> Pages:
        self._enter("map_pages")
        return Pages(self.memory.buffer, self._pfns_of(frames) if self.kind == "pv" else frames)

    def _pfns_of(self, mfns: memoryview) -> memoryview:
        pfns, back = uint64(len(mfns)), uint64(len(mfns))
        p2m_kernel.lookup(self._frames.m2p, mfns, pfns)
        p2m_kernel.lookup(self._frames.mfns, pfns, back)
        if bytes(back) != bytes(mfns):
            raise OSError(22, "frames that aren't the guest's")
        return pfns

    def unmap_pages(self, pages: Pages) -> None:
        self._enter("unmap_pages")
        self.step(len(pages.at))

    def end(self) -> None:
        self._enter("end")

    # Hooks: saving

    def pfn_end(self) -> int:
        self._enter("pfn_end")
        return len(self.memory)

    def page_types(self, frames: memoryview, types: memoryview) -> None:
        self._enter("page_types")
        if self.kind == "hvm":
            p2m_kernel.types_at(self.memory.state, frames, types)
            return
        pfns, back = uint64(len(frames)), uint64(len(frames))
        p2m_kernel.lookup(self._frames.m2p, frames, pfns)
        p2m_kernel.lookup(self._frames.mfns, pfns, back)
        p2m_kernel.types_at(self.memory.state, pfns, types)
        foreign = bytearray(-(-len(frames) // 8))
        found = uint64(p2m_kernel.changed(frames, back, foreign))
        pfn_kernel.bitmap_to_pfns(foreign, 0, found)
        for at in found:
            types[at] = _XTAB

    def static_records(self) -> "Sequence[Record]":
        self._enter("static_records")
        return self._static

    def state_records(self) -> "Sequence[Record]":
        self._enter("state_records")
        for at, record in enumerate(self._state):
            if isinstance(record, TscInfo):
                self._state[at] = record._replace(nsec=self._suspensions * 1000000)
            elif isinstance(record, SharedInfo) and self._where:
                self._state[at] = SharedInfo(self._kernel.shared_info())
            elif isinstance(record, HvmParams):
                # Event channels belong to the host.
                self._state[at] = HvmParams.of([param for param in record.params if param[0] not in _EVTCHN_PARAMS])
        return list(self._state)

    def track_dirty(self, on: bool) -> None:
        self._enter("track_dirty")
        self._dirty = bytearray(-(-len(self.memory) // 8)) if on else None
        self._tear(on)

    def _tear(self, on: bool) -> None:
        for table in self._torn:
            (self._kernel.tear if on else self._kernel.mend)(table)
        self._note(self._torn)

    def start_save(self, pfn_end: int) -> None:
        self._enter("start_save")

    def count_dirty(self) -> Optional[int]:
        self._enter("count_dirty")
        if self._dirty is None:
            raise OSError(22, "the dirty pages aren't tracked")
        return pfn_kernel.count_bits(self._dirty)

    def read_dirty(self, bitmap: memoryview, clean: bool, final: bool) -> None:
        self._enter("read_dirty")
        if self._dirty is None:
            raise OSError(22, "the dirty pages aren't tracked")
        bitmap[:len(self._dirty)] = self._dirty
        if clean:
            self._dirty[:] = bytes(len(self._dirty))

    def suspend(self) -> None:
        self._enter("suspend")
        self.running = False
        self._suspensions += 1
        self._tear(False)
        if self._where:
            self._kernel.write_start_info(in_mfns=False)
            self._note([simulated_pv.START_INFO])

    def resume(self) -> None:
        self._enter("resume")
        self.running = True
        if self._where:
            self._kernel.write_start_info(in_mfns=True)
            self._note([simulated_pv.START_INFO])

    def m2p(self) -> "Buffer":
        self._enter("m2p")
        if self._where is None:
            self._rebuild_kernel()
        return self._frames.m2p

    def _rebuild_kernel(self) -> None:
        """What a restored guest's own kernel does once it runs: it enters its new frames into its p2m lists."""
        where = simulated_pv.layout(self.guest_width, len(self.memory))
        if self.p2m_pfns != tuple(where.leaves) or self.start_info_pfn != simulated_pv.START_INFO:
            raise OSError(95, "only a guest that was simulated before can be saved again")
        linear = any(shared_info.parse(record.page, self.guest_width).fields["arch.p2m_cr3"]
                     for record in self._state if isinstance(record, SharedInfo))
        self._where, self._first = where, where.end
        self._kernel = simulated_pv.Kernel(self.memory, self._frames, where, linear=linear)
        self._kernel.write_lists()

    def shared_info(self) -> "Buffer":
        self._enter("shared_info")
        return self._kernel.shared_info()

    # Hooks: restoring

    def start_restore(self, guest_width: int) -> None:
        self._enter("start_restore")
        super().start_restore(guest_width)

    def load_static(self, records: "Sequence[Record]") -> None:
        self._enter("load_static")
        self._static = list(records)

    def populate(self, pfns: memoryview, frames: memoryview) -> None:
        self._enter("populate")
        # Allocated, without contents; the stream's types follow.
        self.memory.mark(words_of(pfns, bytes([_XALLOC]) * len(pfns)))
        frames[:] = memoryview(self._frames.take(list(pfns))) if self.kind == "pv" else memoryview(pfns)

    def set_types(self, words: memoryview) -> None:
        self._enter("set_types")
        self.memory.mark(words)

    def load_state(self, records: "Sequence[Record]") -> None:
        self._enter("load_state")
        self._state = list(records)

    def pin_tables(self, frames: memoryview, types: memoryview) -> None:
        self._enter("pin_tables")
        self._pinned.update(zip(frames, types))

    def complete(self, result: Completed) -> None:
        self._enter("complete")
        self.completed = result
        self.start_info_pfn, self.p2m_pfns = result.start_info_pfn, result.p2m_pfns
        self.running = True

    def abandon(self) -> None:
        self._enter("abandon")
        self.abandoned = True


