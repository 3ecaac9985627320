"""A guest that passes every hook on to a backend and checks what comes back against the rules of the interface."""
import contextlib
from array import array
from typing import Container, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from xstream.errors import StreamError
from xstream.guest.guest import Completed, Guest, Pages
from xstream.kernels import checksum
from xstream.wire import hvm_context, hvm_params, libxc
from xstream.wire.libxc import BATCH_PFNS, PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xstream.wire.frames import Buffer
    from xstream.wire.libxc import Record

_NOTAB, _BROKEN, _XALLOC, _XTAB = 0x0, 0xD, 0xE, 0xF
_TYPES = frozenset([0, 1, 2, 3, 4, 9, 10, 11, 12, _BROKEN, _XALLOC, _XTAB])
_WITHOUT_DATA = (_BROKEN, _XALLOC, _XTAB)
#: Written to arrays that a hook has to fill: no frame number, and no page type, has this value.
_UNWRITTEN = 2 ** 64 - 2
_UNWRITTEN_TYPE = 0x55
#: HVM parameters that are never sent: the event channels of the host.
_HOST_PARAMS = (hvm_params.NUMBERS["STORE_EVTCHN"], hvm_params.NUMBERS["CONSOLE_EVTCHN"])
#: State records in the order in which they have to come.
_HVM_STATE = (libxc.TscInfo, libxc.HvmContext, libxc.HvmParams)
_PV_STATE = (libxc.TscInfo, libxc.SharedInfo)
_VCPU_STATE = (libxc.VcpuBasic, libxc.VcpuExtended, libxc.VcpuXsave, libxc.VcpuMsrs)
#: Hooks that release something. An injected failure comes after the backend's own hook, so that nothing leaks.
_RELEASING = ("unmap_pages", "end", "abandon", "resume")


class Violation(AssertionError):
    """A backend breaks a rule of the interface. ``hook`` is the hook's name, ``rule`` what it has to do."""

    def __init__(self, hook: str, rule: str, found: str = "") -> None:
        super().__init__("{}(): {}{}".format(hook, rule, "; " + found if found else ""))
        self.hook = hook
        self.rule = rule


class InjectedFailure(Exception):
    """What a CheckedGuest raises in place of a hook, to see what becomes of the backend."""


class _Mapping(NamedTuple):
    """The handle of a mapping that a CheckedGuest hands out: the backend's own Pages, and the frames."""

    pages: Pages
    frames: Tuple[int, ...]


class CheckedGuest(Guest):
    """Wraps a backend; save it, or restore into it, in the backend's place.

    Raises :class:`Violation` where a hook breaks a rule; the first one stays in ``violation``, because an engine turns
    it into a HookError. ``calls`` counts the calls of each hook. ``fail`` is (hook, number of its call, from 1) that
    raises InjectedFailure. PFNs in ``volatile`` may change while the guest is suspended.

    ``memory`` is, after a save, the CRC32C of each page of the suspended guest by PFN; page tables are left out.
    """

    def __init__(self, guest: Guest, *, fail: Optional[Tuple[str, int]] = None, volatile: Container[int] = ()) -> None:
        self.guest = guest
        self.violation: Optional[Violation] = None
        self.calls: Dict[str, int] = {}
        self.memory: Dict[int, int] = {}
        self._fail = fail
        self._volatile = volatile
        self._pfns = 0
        self._running = self._restoring = False
        self._m2p: Optional[memoryview] = None
        self._frames: Set[int] = set()       # PV, saving: frames that page_types has been asked about
        self._populated: Dict[int, int] = {}  # restoring: PFN by frame
        self._written: Dict[int, int] = {}    # restoring: CRC of what has been written to each frame
        self._take_attributes()

    def _take_attributes(self) -> None:
        guest = self.guest
        self.kind, self.guest_width, self.xen_version = guest.kind, guest.guest_width, guest.xen_version
        self.spliceable, self.compat_m2p_mfn = guest.spliceable, guest.compat_m2p_mfn
        self.store_evtchn, self.console_evtchn = guest.store_evtchn, guest.console_evtchn
        self.shared_info_frame = guest.shared_info_frame

    # Failures and violations

    @contextlib.contextmanager
    def _hook(self, name: str, releasing: bool = False) -> Iterator[None]:
        """Count a call, and fail where that was asked for."""
        self.calls[name] = self.calls.get(name, 0) + 1
        failing = self._fail == (name, self.calls[name])
        if failing and not (releasing or name in _RELEASING):
            raise InjectedFailure(name)
        with self._blaming(name):
            yield
        if failing:
            raise InjectedFailure(name)

    @contextlib.contextmanager
    def _blaming(self, name: str) -> Iterator[None]:
        """Note the first violation. Any other exception is one of the hook ``name``."""
        try:
            yield
        except Violation as violation:
            self.violation = self.violation or violation
            raise
        except NotImplementedError:
            self.violation = self.violation or Violation(name, "has to be implemented")
            raise self.violation
        except Exception as error:
            self.violation = self.violation or Violation(name, "must not fail when used as documented", repr(error))
            raise self.violation

    def _unchanged(self, hook: str, name: str, argument: "Buffer", before: bytes) -> None:
        if bytes(argument) != before:
            raise Violation(hook, "must not change {}".format(name))

    # Memory

    def map_pages(self, frames: memoryview) -> Pages:
        with self._hook("map_pages"):
            pages = self._map(frames)
            return pages._replace(handle=_Mapping(pages, tuple(frames)))

    def _map(self, frames: memoryview) -> Pages:
        """The backend's mapping, checked."""
        before = bytes(frames)
        pages = self.guest.map_pages(frames)
        try:
            self._unchanged("map_pages", "frames", frames, before)
            self._check_pages(pages, frames)
        except Violation:
            with contextlib.suppress(Exception):
                self.guest.unmap_pages(pages)
            raise
        return pages

    def _checksums_of(self, frames: memoryview) -> Dict[int, int]:
        """The CRC of each page, by frame, read outside of what the engine does."""
        with self._blaming("map_pages"):
            pages = self._map(frames)
            sums = _checksums(pages, frames)
        with self._blaming("unmap_pages"):
            self.guest.unmap_pages(pages)
        return sums

    def _check_pages(self, pages: object, frames: memoryview) -> None:
        def violated(rule: str, found: str = "") -> Violation:
            return Violation("map_pages", rule, found)

        if not isinstance(pages, Pages):
            raise violated("has to return xstream.Pages", "got {}".format(type(pages).__name__))
        try:
            memory, at = memoryview(pages.memory).cast("B"), memoryview(pages.at)  # type: ignore[arg-type]
            missing = memoryview(pages.missing)  # type: ignore[arg-type]
        except TypeError as error:
            raise violated("memory, at and missing have to be contiguous buffers", str(error))
        if len(memory) % PAGE_SIZE:
            raise violated("memory has to be whole pages", "got {} bytes".format(len(memory)))
        if at.itemsize != 8 or at.ndim != 1 or at.format not in ("Q", "<Q", "@Q", "L", "<L"):
            raise violated("at has to be a uint64 array", "got format {!r}".format(at.format))
        if len(at) != len(frames):
            raise violated("at has to have an entry for each frame", "{} for {}".format(len(at), len(frames)))
        if len(missing) not in (0, len(frames)):
            raise violated("missing has to be empty, or to have a byte for each frame", "{} for {}".format(
                len(missing), len(frames)))
        used = [number for index, number in enumerate(at) if not len(missing) or not missing[index]]
        if used and max(used) >= len(memory) // PAGE_SIZE:
            raise violated("at has to be numbers of pages within memory", "page {} of {}".format(
                max(used), len(memory) // PAGE_SIZE))
        if len(set(used)) < len(set(frames)) and not any(missing):
            raise violated("each frame must have its own page")
        if self._restoring and memory.readonly:
            raise violated("memory has to be writable when restoring")
        if any(missing) and not self._running:
            raise violated("a page can be missing only while the guest runs")

    def unmap_pages(self, pages: Pages) -> None:
        with self._hook("unmap_pages"):
            mapping: _Mapping = pages.handle
            if self._restoring:
                self._written.update(_checksums(mapping.pages, mapping.frames))
            self.guest.unmap_pages(mapping.pages)

    def end(self) -> None:
        with self._hook("end"):
            self.guest.end()

    # Saving

    def start_save(self, pfn_end: int) -> None:
        with self._hook("start_save"):
            self._pfns, self._running = pfn_end, True
            self.guest.start_save(pfn_end)

    def pfn_end(self) -> int:
        with self._hook("pfn_end"):
            end = self.guest.pfn_end()
            if isinstance(end, bool) or not isinstance(end, int) or end < 1:
                raise Violation("pfn_end", "has to return a positive int", repr(end))
            return end

    def page_types(self, frames: memoryview, types: memoryview) -> None:
        with self._hook("page_types"):
            self._fill_types(frames, types)
            if self.kind == "pv":
                self._frames.update(frame for frame, kind in zip(frames, types) if kind not in _WITHOUT_DATA)

    def _fill_types(self, frames: memoryview, types: memoryview) -> None:
        """The backend's types, checked."""
        before = bytes(frames)
        types[:] = bytes([_UNWRITTEN_TYPE]) * len(types)
        self.guest.page_types(frames, types)
        self._unchanged("page_types", "frames", frames, before)
        for frame, kind in zip(frames, types):
            if kind == _UNWRITTEN_TYPE:
                raise Violation("page_types", "has to write every element of types")
            if kind not in _TYPES:
                raise Violation("page_types", "types are 0 to 4, 9 to 15", "type {} of frame {:#x}".format(kind, frame))

    def static_records(self) -> "Sequence[Record]":
        with self._hook("static_records"):
            records = self.guest.static_records()
            kinds = [type(record) for record in records]
            if kinds not in ([], [libxc.CpuidPolicy], [libxc.MsrPolicy], [libxc.CpuidPolicy, libxc.MsrPolicy]):
                raise Violation("static_records", "has to return at most a CpuidPolicy and an MsrPolicy, in this order",
                                ", ".join(kind.__name__ for kind in kinds))
            _check_bodies("static_records", records)
            return records

    def state_records(self) -> "Sequence[Record]":
        with self._hook("state_records"):
            self._compare_memory()
            records = self.guest.state_records()
            (_check_pv_state if self.kind == "pv" else _check_hvm_state)(records)
            return records

    def track_dirty(self, on: bool) -> None:
        with self._hook("track_dirty", releasing=not on):
            self.guest.track_dirty(on)

    def read_dirty(self, bitmap: memoryview, clean: bool, final: bool) -> None:
        with self._hook("read_dirty"):
            if self._restoring:
                self._pfns = 8 * len(bitmap)
            before = self._peek_thrice(final)
            bitmap[:] = b"\xff" * len(bitmap)
            self.guest.read_dirty(bitmap, clean, final)
            result = int.from_bytes(bytes(bitmap), "little")
            if result >> self._pfns:
                raise Violation("read_dirty", "bits past the last PFN have to be zero", _bits(result >> self._pfns))
            if before & ~result:
                raise Violation("read_dirty", "a PFN stays dirty until it is cleaned", _bits(before & ~result))
            if clean and not self._running and any(
                    pfn not in self._volatile for pfn in _numbers(self._peek(False, 0x00))):
                raise Violation("read_dirty", "with clean, no PFN is dirty afterwards")

    def _peek_thrice(self, final: bool) -> int:
        """The dirty bitmap as it is at the end; meanwhile PFNs may become dirty, but not clean."""
        first, second, third = (self._peek(final, fill) for fill in (0x00, 0xFF, 0x00))
        if first & ~second:
            raise Violation("read_dirty", "a PFN stays dirty until it is cleaned", _bits(first & ~second))
        if second & ~third:
            raise Violation("read_dirty", "has to write all of bitmap", _bits(second & ~third))
        return third

    def _peek(self, final: bool, fill: int) -> int:
        """The dirty bitmap as a number, read without cleaning into an array of bytes ``fill``."""
        bitmap = bytearray([fill]) * -(-self._pfns // 8)
        self.guest.read_dirty(memoryview(bitmap), False, final)
        return int.from_bytes(bitmap, "little") & ((1 << self._pfns) - 1)

    def count_dirty(self) -> Optional[int]:
        with self._hook("count_dirty"):
            least = bin(self._peek(False, 0x00)).count("1")
            count = self.guest.count_dirty()
            most = bin(self._peek(False, 0x00)).count("1")
            if count is not None and not least <= count <= most:
                raise Violation("count_dirty", "has to agree with read_dirty", "{}, not {} to {}".format(
                    count, least, most))
            return count

    def suspend(self) -> None:
        with self._hook("suspend"):
            self.guest.suspend()
            self._running = False
            self.memory = {} if self._restoring else self._read_memory()

    def resume(self) -> None:
        with self._hook("resume"):
            self.guest.resume()
            self._running = True
            self._written.clear()

    def m2p(self) -> "Buffer":
        with self._hook("m2p"):
            m2p = self.guest.m2p()
            try:
                self._m2p = memoryview(m2p)
            except TypeError:
                raise Violation("m2p", "has to return a buffer", type(m2p).__name__)
            if self._m2p.itemsize != 8 or self._m2p.ndim != 1:
                raise Violation("m2p", "has to be a uint64 array", "format {!r}".format(self._m2p.format))
            return m2p

    def shared_info(self) -> "Buffer":
        with self._hook("shared_info"):
            page = self.guest.shared_info()
            if memoryview(page).nbytes != PAGE_SIZE:
                raise Violation("shared_info", "has to return 4096 bytes", str(memoryview(page).nbytes))
            return page

    def _compare_memory(self) -> None:
        """Check that the suspended guest's memory is still as it was when ``suspend`` returned."""
        now = self._read_memory()
        # More frames of a PV guest may be known by now.
        changed = [pfn for pfn in sorted(self.memory)
                   if now.get(pfn) != self.memory[pfn] and pfn not in self._volatile]
        self.memory = now
        if changed:
            raise Violation("suspend", "memory must not change while the guest is suspended",
                            "PFN {:#x}".format(changed[0]))

    def _read_memory(self) -> Dict[int, int]:
        """The CRC of each page that isn't a page table, by PFN."""
        frames = range(self._pfns) if self.kind == "hvm" else sorted(self._frames)
        memory: Dict[int, int] = {}
        for start in range(0, len(frames), BATCH_PFNS):
            some = memoryview(array("Q", frames[start:start + BATCH_PFNS]))
            types = memoryview(bytearray(len(some)))
            with self._blaming("page_types"):
                self._fill_types(some, types)
            data = memoryview(array("Q", [frame for frame, kind in zip(some, types) if kind == _NOTAB]))
            for frame, crc in self._checksums_of(data).items() if len(data) else ():
                memory[self._m2p[frame] if self._m2p is not None else frame] = crc
        return memory

    # Restoring

    def start_restore(self, guest_width: int) -> None:
        with self._hook("start_restore"):
            self._restoring = True
            self.guest.start_restore(guest_width)
            self._take_attributes()
            if guest_width and self.guest_width != guest_width:
                raise Violation("start_restore", "has to set guest_width", "{}, not {}".format(
                    self.guest_width, guest_width))

    def load_static(self, records: "Sequence[Record]") -> None:
        with self._hook("load_static"):
            self.guest.load_static(records)

    def populate(self, pfns: memoryview, frames: memoryview) -> None:
        with self._hook("populate"):
            before = bytes(pfns)
            frames[:] = memoryview(array("Q", [_UNWRITTEN]) * len(frames))
            self.guest.populate(pfns, frames)
            self._unchanged("populate", "pfns", pfns, before)
            for pfn, frame in zip(pfns, frames):
                if frame == _UNWRITTEN:
                    raise Violation("populate", "has to write every element of frames")
                if self.kind == "hvm" and frame != pfn:
                    raise Violation("populate", "an HVM guest's frames are its PFNs", "{:#x} for PFN {:#x}".format(
                        frame, pfn))
                if frame in self._populated:
                    raise Violation("populate", "each PFN must get its own frame", "frame {:#x}".format(frame))
                self._populated[frame] = pfn

    def set_types(self, words: memoryview) -> None:
        with self._hook("set_types"):
            before = bytes(words)
            self.guest.set_types(words)
            self._unchanged("set_types", "words", words, before)

    def load_state(self, records: "Sequence[Record]") -> None:
        with self._hook("load_state"):
            self._check_written()
            self.guest.load_state(records)

    def _check_written(self) -> None:
        """Check that what has been written to the guest's memory is in it."""
        frames = sorted(self._written)
        for start in range(0, len(frames), BATCH_PFNS):
            some = memoryview(array("Q", frames[start:start + BATCH_PFNS]))
            found = self._checksums_of(some)
            for frame in some:
                if found[frame] != self._written[frame] and self._populated.get(frame) not in self._volatile:
                    raise Violation("map_pages", "what the engine writes to memory has to stay there",
                                    "frame {:#x}".format(frame))

    def pin_tables(self, frames: memoryview, types: memoryview) -> None:
        with self._hook("pin_tables"):
            self.guest.pin_tables(frames, types)

    def complete(self, result: Completed) -> None:
        with self._hook("complete"):
            self.guest.complete(result)
            self._running = True

    def abandon(self) -> None:
        with self._hook("abandon"):
            self.guest.abandon()


def _checksums(pages: Pages, frames: Sequence[int]) -> Dict[int, int]:
    """The CRC of each page that isn't missing, by frame."""
    memory, missing = memoryview(pages.memory).cast("B"), list(pages.missing)
    return {frame: checksum.crc32c(memory[number * PAGE_SIZE:(number + 1) * PAGE_SIZE])
            for index, (frame, number) in enumerate(zip(frames, pages.at))
            if not len(missing) or not missing[index]}


def _check_bodies(hook: str, records: "Sequence[Record]") -> None:
    """Check that each record is one that a reader accepts."""
    for record in records:
        body = b"".join(bytes(piece) for piece in libxc.build(record))
        try:
            libxc.parse(libxc.type_of(record), body)
        except StreamError as error:
            raise Violation(hook, "has to return valid records", "{}: {}".format(type(record).__name__, error))


def _check_hvm_state(records: "Sequence[Record]") -> None:
    def violated(rule: str, found: str = "") -> Violation:
        return Violation("state_records", rule, found)

    kinds: List[type] = [type(record) for record in records]
    if kinds != [kind for kind in _HVM_STATE if kind in kinds] or libxc.HvmContext not in kinds:
        raise violated("an HVM guest's state is TscInfo, HvmContext, HvmParams, in this order",
                       ", ".join(kind.__name__ for kind in kinds))
    _check_bodies("state_records", records)
    for record in records:
        if isinstance(record, libxc.HvmContext):
            try:
                hvm_context.check(record.blob, unknown=True)
            except StreamError as error:
                raise violated("HvmContext has to be a chain of entries from HEADER to END", str(error))
        if isinstance(record, libxc.HvmParams):
            for index, value in record.params:
                if index in _HOST_PARAMS:
                    raise violated("event channels belong to the host and aren't sent", "parameter {}".format(index))
                if not value:
                    raise violated("parameters that are 0 are left out", "parameter {}".format(index))


def _check_pv_state(records: "Sequence[Record]") -> None:
    def violated(rule: str, found: str = "") -> Violation:
        return Violation("state_records", rule, found)

    kinds: List[type] = [type(record) for record in records]
    common = [kind for kind in kinds if kind in _PV_STATE]
    vcpus = [(record.vcpu_id, _VCPU_STATE.index(type(record))) for record in records
             if isinstance(record, _VCPU_STATE)]
    if common != [kind for kind in _PV_STATE if kind in common] or kinds[:len(common)] != common or \
            len(common) + len(vcpus) != len(records) or libxc.SharedInfo not in common:
        raise violated("a PV guest's state is TscInfo, SharedInfo, then the records of each vcpu, in this order",
                       ", ".join(kind.__name__ for kind in kinds))
    if vcpus != sorted(set(vcpus)):
        raise violated("each vcpu has VcpuBasic, VcpuExtended, VcpuXsave, VcpuMsrs, in this order and at most once")
    if (0, 0) not in vcpus:
        raise violated("vcpu 0 has to have a VcpuBasic")
    for record in records:
        if isinstance(record, _VCPU_STATE) and not len(record.blob):
            raise violated("empty records are left out", type(record).__name__)
    _check_bodies("state_records", records)


def _numbers(bits: int) -> List[int]:
    return [number for number in range(bits.bit_length()) if bits >> number & 1]


def _bits(bits: int) -> str:
    numbers = _numbers(bits)
    return "PFN {}".format(", ".join(map(hex, numbers[:4]))) if numbers else ""
