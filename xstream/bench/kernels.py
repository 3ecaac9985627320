"""The kernels, each alone."""
import contextlib
import importlib
from typing import Any, Callable, Dict, List, NamedTuple, Tuple, Union

import numpy

from xstream.bench import machine
from xstream.bench.guests import BenchGuest
from xstream.bench.workloads import Side, Work, Workload, limit, ours, peer
from xstream.guest.memory import GuestMemory
from xstream.kernels import checksum, deltas, pagetables
from xstream.kernels import pages as page_kernel
from xstream.kernels import pfns as pfn_kernel
from xstream.wire.libxc import BATCH_PFNS, PAGE_SIZE, words_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xstream.wire.frames import Buffer

#: PyPI's packages: module, function, name.
_CRC_PACKAGES = (("crc32c", "crc32c", "crc32c"), ("google_crc32c", "value", "google-crc32c"))
#: Length of a run of PFNs.
_RUN = 16
#: Page tables converted at once: as many as a guest of 2 GiB has.
_TABLES = 1024


class Tables(NamedTuple):
    """Full L1 tables with PFNs in their entries, and a p2m and m2p to turn these into MFNs."""

    pages: numpy.ndarray
    types: numpy.ndarray
    p2m: numpy.ndarray
    m2p: numpy.ndarray


class Kernels:
    """Workloads over one guest's memory. Some take memory of their own, which goes when the workload goes."""

    def __init__(self, guest: BenchGuest) -> None:
        self.guest = guest
        self.size = guest.size
        self.pages = guest.memory.pages
        self.buffer = guest.memory.buffer
        self._random = numpy.random.RandomState(2)

    def workload(self, name: str) -> Workload:
        """The one of that name."""
        sides, size = _MAKERS[name](self)
        return Workload(name, size, tuple(sides))

    def _page_crc(self) -> "Made":
        sums = numpy.zeros(len(self.pages), numpy.uint32)
        return [ours("the CRC32C of each page", lambda: checksum.crc32c_pages(self.buffer, sums)),
                _read(self.buffer)], self.size

    def _crc(self) -> "Made":
        sides = [ours("one CRC32C of the whole memory", lambda: checksum.crc32c(self.buffer)), _read(self.buffer)]
        for module, function, name in _CRC_PACKAGES:
            with contextlib.suppress(ImportError):
                theirs = getattr(importlib.import_module(module), function)
                sides.append(peer(name, "the same, by the package of that name on PyPI",
                                  _call(theirs, numpy.frombuffer(self.buffer, numpy.uint8))))
        return sides, self.size

    def _zero_scan(self) -> "Made":
        zeros = numpy.zeros((len(self.pages), PAGE_SIZE // 8), numpy.uint64)
        zeros[:] = 0  # so that the pages are there
        found = numpy.zeros(len(zeros), numpy.uint64)
        return [ours("find the zero pages of a memory that is all zero, so that all of it is read",
                     lambda: page_kernel.zero_pages(zeros.view(numpy.uint8).reshape(-1), found)),
                _read(zeros),
                peer("numpy", "the same by any(axis=1)", lambda: numpy.flatnonzero(~zeros.any(axis=1)))], self.size

    def _scatter(self) -> "Made":
        memory = GuestMemory(len(self.pages), limit=len(self.pages))
        view, pfns = memory.pages, self._shuffled()
        view[:] = 1

        def by_numpy(part: slice) -> None:
            view[pfns[part]] = self.pages[part]
        return [ours("copy pages to PFNs in random order, in batches of 1024", self._by_batches(
                    lambda part: page_kernel.scatter(memory.buffer, pfns[part], self.pages[part].reshape(-1)))),
                limit("memcpy", "copy as many bytes, front to back", lambda: numpy.copyto(view, self.pages)),
                peer("numpy", "the same by an index array", self._by_batches(by_numpy))], self.size

    def _gather(self) -> "Made":
        pfns = self._shuffled()
        indices = pfns.view(numpy.int64)
        room = numpy.empty((BATCH_PFNS, PAGE_SIZE), numpy.uint8)
        return [ours("copy pages from PFNs in random order into one batch's room, again and again", self._by_batches(
                    lambda part: page_kernel.gather(self.buffer, pfns[part], _room(room, part).reshape(-1)))),
                limit("memcpy", "copy as many bytes into the same room, front to back",
                      self._by_batches(lambda part: numpy.copyto(_room(room, part), self.pages[part]))),
                peer("numpy", "the same by take()", self._by_batches(lambda part: numpy.take(
                    self.pages, indices[part], axis=0, out=_room(room, part), mode="clip")))], self.size

    def _gather_runs(self) -> "Made":
        starts = self._random.permutation(-(-len(self.pages) // _RUN)) * _RUN
        pfns = (starts[:, None] + numpy.arange(_RUN)).reshape(-1)
        pfns = pfns[pfns < len(self.pages)].astype(numpy.uint64)
        room = numpy.empty((BATCH_PFNS, PAGE_SIZE), numpy.uint8)
        return [ours("the same, but runs of {} consecutive PFNs".format(_RUN), self._by_batches(
                    lambda part: page_kernel.gather(self.buffer, pfns[part], _room(room, part).reshape(-1)))),
                limit("memcpy", "copy as many bytes into the same room, front to back", self._by_batches(
                    lambda part: numpy.copyto(_room(room, part), self.pages[part])))], self.size

    def _compare(self) -> "Made":
        same = self.pages.copy()
        pfns, differing = (numpy.arange(len(same), dtype=numpy.uint64) for _ in range(2))
        left, right = self.pages.view(numpy.uint64), same.view(numpy.uint64)
        return [ours("find the pages that differ between two equal memories",
                     lambda: page_kernel.compare(self.buffer, pfns, same.reshape(-1), differing)),
                limit("memory read", "read both: the sums of their 64-bit words",
                      lambda: (machine.read_memory(left), machine.read_memory(right))),
                peer("numpy", "the same by != and any(axis=1), in batches of 1024", self._by_batches(
                    lambda part: numpy.flatnonzero((left[part] != right[part]).any(axis=1))))], self.size

    def _unpack(self) -> "Made":
        count = self.size // 32
        words = words_of(numpy.arange(count, dtype=numpy.uint64), numpy.zeros(count, numpy.uint8))
        values = numpy.frombuffer(words, numpy.uint64)
        pfns, types = numpy.ones(count, numpy.uint64), numpy.ones(count, numpy.uint8)
        mask, shift = numpy.uint64((1 << 52) - 1), numpy.uint64(60)

        def by_numpy() -> None:
            numpy.bitwise_and(values, mask, out=pfns)
            types[:] = values >> shift
        return [ours("split PFN words into PFNs and types", lambda: pfn_kernel.unpack(words, pfns, types)),
                limit("memcpy", "copy the words", lambda: numpy.copyto(pfns, values)),
                peer("numpy", "the same by mask and shift", by_numpy)], 8 * count

    def _bitmap(self) -> "Made":
        bits = self._random.randint(0, 256, self.size // 512).astype(numpy.uint8)
        found = numpy.ones(8 * len(bits), numpy.uint64)
        set_bits = int(numpy.unpackbits(bits).sum())

        def by_numpy() -> object:
            # unpackbits() has the highest bit of a byte first; older versions of numpy have no option for that.
            return numpy.flatnonzero(numpy.unpackbits(bits).reshape(-1, 8)[:, ::-1])
        return [ours("the PFNs of a dirty bitmap, half of its bits set",
                     lambda: pfn_kernel.bitmap_to_pfns(bits, 0, found)),
                peer("numpy", "the same by unpackbits() and flatnonzero()", by_numpy)], 8 * set_bits

    def _encode_deltas(self) -> "Made":
        held, changed = self._changed()
        out = bytearray(deltas.bound(BATCH_PFNS))
        # Not into what is held: nothing would differ in the next round.
        copy = changed.copy()

        def encode(part: slice) -> None:
            deltas.encode(held[part].reshape(-1), changed[part].reshape(-1), out)
            # What is held has become what was sent: the words that changed change back for the next round.
            held[part].view(numpy.uint32)[:, ::16] ^= numpy.uint32(1)
        return [ours("legacy page deltas of pages of which one 32-bit word in 16 has changed",
                     self._by_batches(encode, len(held))),
                limit("memcpy", "copy the pages", lambda: numpy.copyto(copy, changed))], held.nbytes

    def _decode_deltas(self) -> "Made":
        held, changed = self._changed()
        pfns = numpy.arange(len(held), dtype=numpy.uint64)
        forms: List[Tuple[bytes, Any]] = []
        for part in _batches(len(held)):
            out = bytearray(deltas.bound(BATCH_PFNS))
            size = deltas.encode(held[part].copy().reshape(-1), changed[part].reshape(-1), out)
            forms.append((bytes(out[:size]), pfns[part]))

        def decode() -> None:
            for form, into in forms:
                deltas.decode(form, held.reshape(-1), into)
        return [ours("apply legacy page deltas in which one 32-bit word in 16 has changed", decode),
                limit("memcpy", "copy the pages", lambda: numpy.copyto(held, changed))], held.nbytes

    def _normalise(self) -> "Made":
        tables = self._tables()
        there, out = numpy.empty_like(tables.pages), numpy.empty_like(tables.pages)
        pagetables.localise(tables.pages, tables.types, tables.p2m, there)
        torn = numpy.zeros(_TABLES, numpy.uint8)
        return [ours("full L1 tables from MFNs to PFNs", lambda: pagetables.normalise(
                    there, tables.types, tables.p2m, tables.m2p, out, torn, levels=4, paused=True)),
                limit("memcpy", "copy the tables", lambda: numpy.copyto(out, there))], out.nbytes

    def _localise(self) -> "Made":
        tables = self._tables()
        out = numpy.empty_like(tables.pages)
        return [ours("full L1 tables from PFNs to MFNs",
                     lambda: pagetables.localise(tables.pages, tables.types, tables.p2m, out)),
                limit("memcpy", "copy the tables", lambda: numpy.copyto(out, tables.pages))], out.nbytes

    def _shuffled(self) -> numpy.ndarray:
        return self._random.permutation(len(self.pages)).astype(numpy.uint64)

    def _by_batches(self, work: Callable[[slice], object], pages: int = 0) -> Work:
        batches = _batches(pages or len(self.pages))

        def run() -> None:
            for part in batches:
                work(part)
        return run

    def _changed(self) -> Tuple[numpy.ndarray, numpy.ndarray]:
        held = self.pages[:len(self.pages) // 4 or 1].copy()
        changed = held.copy()
        changed.view(numpy.uint32)[:, ::16] ^= numpy.uint32(1)
        return held, changed

    def _tables(self) -> Tables:
        pfns = numpy.arange(_TABLES * PAGE_SIZE // 8, dtype=numpy.uint64)
        p2m = self._random.permutation(len(pfns)).astype(numpy.uint64)
        m2p = numpy.empty_like(p2m)
        m2p[p2m] = pfns
        entries = (pfns << numpy.uint64(12)) | numpy.uint64(0x67)
        return Tables(entries.view(numpy.uint8), numpy.ones(_TABLES, numpy.uint8), p2m, m2p)


Made = Tuple[List[Side], int]

_MAKERS: Dict[str, Callable[[Kernels], Made]] = {
    "page CRC32C": Kernels._page_crc,
    "CRC32C": Kernels._crc,
    "zero scan": Kernels._zero_scan,
    "scatter": Kernels._scatter,
    "gather": Kernels._gather,
    "gather runs": Kernels._gather_runs,
    "compare": Kernels._compare,
    "unpack PFN words": Kernels._unpack,
    "bitmap to PFNs": Kernels._bitmap,
    "encode deltas": Kernels._encode_deltas,
    "decode deltas": Kernels._decode_deltas,
    "normalise": Kernels._normalise,
    "localise": Kernels._localise,
}
#: Of all kernels' workloads, in order.
NAMES = tuple(_MAKERS)


def _read(memory: "Union[Buffer, numpy.ndarray]") -> Side:
    words = numpy.frombuffer(memory, numpy.uint64)
    return limit("memory read", "read the same memory: the sum of its 64-bit words",
                 lambda: machine.read_memory(words))


def _batches(pages: int) -> List[slice]:
    return [slice(start, min(start + BATCH_PFNS, pages)) for start in range(0, pages, BATCH_PFNS)]


def _room(room: numpy.ndarray, part: slice) -> numpy.ndarray:
    return room[:part.stop - part.start]


def _call(function: Callable[[Any], object], argument: Any) -> Work:
    return lambda: function(argument)
