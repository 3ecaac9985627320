"""What is measured: each workload once, with what its work is, for the bench and for benchmarks/ alike."""
import contextlib
import fcntl
import hashlib
import importlib
import mmap
import os
import socket
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Tuple

import numpy

from xstream.bench import machine
from xstream.bench.guests import BenchGuest, words_of, write_in_batches, write_stream
from xstream.bench.partner import Partner
from xstream.guest.load import load
from xstream.guest.memory import GuestMemory
from xstream.kernels import checksum, deltas, pagetables
from xstream.kernels import pages as page_kernel
from xstream.kernels import pfns as pfn_kernel
from xstream.stream.writer import BATCH_PFNS
from xstream.tools.digest import digest_memory
from xstream.tools.extract import extract
from xstream.tools.verify import verify
from xstream.wire.libxc import PAGE_SIZE

Work = Callable[[], object]

_F_SETPIPE_SZ = 1031  # not in Python's fcntl module before 3.10
_PIPE_SIZE = 1 << 20
_MACHINE, _PEER = "machine", "peer"


class Side(NamedTuple):
    """One way to do a workload's work: who does it, what exactly it does, and the doing. ``kind``: "xstream", "machine"
    (a limit: nobody who does the work can be faster by much), "peer" (who does the same)."""

    name: str
    what: str
    run: Work
    kind: str = "xstream"


class Workload(NamedTuple):
    """Sides that do the same work, ours first, on ``bytes`` bytes of guest pages."""

    name: str
    bytes: int
    sides: Tuple[Side, ...]


class Files(NamedTuple):
    """Streams of one guest that workloads read."""

    full: str
    single: str


class Parts:
    """Verbs and kernels over one guest. Memory and streams are made ready once. Close it: it has files and a process.

    ``partner`` is at the other end of pipes; it must have been started before the guest took memory.
    """

    def __init__(self, guest: BenchGuest, tables: BenchGuest, partner: Partner) -> None:
        self.guest = guest
        self.size = guest.size
        self._tables = tables
        self._partner = partner
        self._cleanup = contextlib.ExitStack()
        self.folder = self._cleanup.enter_context(machine.scratch(4 * self.size))
        self.files = Files(self._stream("full", write_stream),
                           self._stream("single", lambda guest, fd: write_in_batches(guest, fd, 1)))
        self.ready = GuestMemory(len(guest.memory), limit=len(guest.memory))
        self.ready.pages[:] = 1
        self.copy = numpy.ones(self.size, numpy.uint8)
        self.pfns = numpy.arange(len(guest.memory), dtype=numpy.uint64)
        self._null = os.open(os.devnull, os.O_WRONLY)
        self._cleanup.callback(os.close, self._null)

    def close(self) -> None:
        """Remove the files."""
        self._cleanup.close()

    def workloads(self) -> List[Workload]:
        """All of them, in order."""
        return [make() for make in self.makers()]

    def makers(self) -> List[Callable[[], Workload]]:
        """What makes each workload; some take memory of their own, which goes when the workload goes."""
        return [self.decode, self.decode_pipe, self.encode, self.encode_pipe, self.encode_file, self.verify,
                self.verify_single, self.verify_pipe, self.extract, self.digest, self.page_crc, self.buffer_crc,
                self.zero_scan, self.scatter, self.gather, self.compare, self.unpack, self.bitmap, self.encode_deltas,
                self.decode_deltas, self.normalise, self.localise]

    # Verbs

    def decode(self) -> Workload:
        mapping = self._mapped_pages()
        return self._work(
            "decode", Side("xstream", "map the stream's file, copy its pages into guest memory that is there",
                           lambda: load(self.files.full, self.ready)),
            Side("memcpy", "copy as many bytes out of the mapped file, which stays mapped",
                 lambda: numpy.copyto(self.copy, mapping), _MACHINE))

    def decode_pipe(self) -> Workload:
        room = memoryview(self.copy)
        return self._work(
            "decode from a pipe", Side("xstream", "read the stream out of a pipe into guest memory that is there",
                                       lambda: self._from_pipe(lambda fd: load(fd, self.ready))),
            Side("read()", "read the same bytes from the same pipe into memory that is there, 1 MiB at a time",
                 lambda: self._from_pipe(lambda fd: machine.read_all(fd, room)), _MACHINE))

    def encode(self) -> Workload:
        return self._work("encode", Side("xstream", "write the guest's stream to /dev/null: what a page costs beside "
                                                    "its way through the kernel", self._encode_null))

    def encode_pipe(self) -> Workload:
        return self._work(
            "encode to a pipe", Side("xstream", "write the guest's stream into a pipe, by writev",
                                     lambda: self.to_pipe(lambda fd: write_stream(self.guest, fd))),
            Side("write()", "write as many bytes into the same pipe, 1 MiB at a time",
                 lambda: self.to_pipe(lambda fd: machine.write_all(fd, self.guest.memory.buffer)), _MACHINE))

    def encode_file(self) -> Workload:
        return self._work(
            "encode to a file", Side("xstream", "write the guest's stream to a new file, by writev",
                                     lambda: self.to_file(lambda fd: write_stream(self.guest, fd))),
            Side("write()", "write as many bytes to a new file, 1 MiB at a time",
                 lambda: self.to_file(lambda fd: machine.write_all(fd, self.guest.memory.buffer)), _MACHINE))

    def verify(self) -> Workload:
        return self._work("verify", Side("xstream", "check headers, order and PFN words of the file; no page is read",
                                         lambda: verify(self.files.full)), *xen_verifier(self.files.full))

    def verify_single(self) -> Workload:
        return self._work("verify, one page a record",
                          Side("xstream", "the same of a stream whose batches have one page each",
                               lambda: verify(self.files.single)), *xen_verifier(self.files.single))

    def verify_pipe(self) -> Workload:
        return self._work(
            "verify from a pipe", Side("xstream", "check a stream that comes through a pipe",
                                       lambda: self._from_pipe(verify)),
            Side("splice", "move the same bytes from the pipe to /dev/null", lambda: self._from_pipe(self._splice),
                 _MACHINE) if hasattr(os, "splice") else None)

    def extract(self) -> Workload:
        target = os.path.join(self.folder, "image")
        mapping = memoryview(self._mapped_pages())
        return self._work(
            "extract", Side("xstream", "write the guest's memory out of the stream's file to a raw file",
                            lambda: extract(self.files.full, target)),
            Side("write()", "write as many bytes out of the mapped file to a new file, 1 MiB at a time",
                 lambda: self.to_file(lambda fd: machine.write_all(fd, mapping)), _MACHINE))

    def digest(self) -> Workload:
        buffer = self.guest.memory.buffer
        return self._work(
            "digest", Side("xstream", "CRC32C and SHA-256 of the guest's memory", lambda: digest_memory(
                self.guest.memory)),
            Side("hashlib", "SHA-256 of the same memory", lambda: hashlib.sha256(buffer).digest(), _MACHINE))

    # Kernels

    def page_crc(self) -> Workload:
        sums = numpy.zeros(len(self.pfns), numpy.uint32)
        return self._work("page CRC32C", Side("xstream", "the CRC32C of each page",
                                              lambda: checksum.crc32c_pages(self.guest.memory.buffer, sums)),
                          self._read(self.guest.memory.buffer))

    def buffer_crc(self) -> Workload:
        buffer = self.guest.memory.buffer
        sides = [Side("xstream", "one CRC32C of the whole memory", lambda: checksum.crc32c(buffer)), self._read(buffer)]
        for module, function, name in (("crc32c", "crc32c", "crc32c"), ("google_crc32c", "value", "google-crc32c")):
            with contextlib.suppress(ImportError):
                sides.append(Side(name, "the same, by the package of that name on PyPI", _call(
                    getattr(importlib.import_module(module), function), numpy.frombuffer(buffer, numpy.uint8)), _PEER))
        return self._work("CRC32C", *sides)

    def zero_scan(self) -> Workload:
        zeros = numpy.zeros(self.size, numpy.uint8)
        zeros[:] = 0
        rows, found = zeros.reshape(-1, PAGE_SIZE), numpy.zeros(len(self.pfns), numpy.uint64)
        return self._work(
            "zero scan", Side("xstream", "find the zero pages of a memory that is all zero, so that all of it is read",
                              lambda: page_kernel.zero_pages(zeros, found)),
            self._read(zeros), Side("numpy", "the same by any(axis=1)",
                                    lambda: numpy.flatnonzero(~rows.view(numpy.uint64).any(axis=1)), _PEER))

    def scatter(self) -> Workload:
        pfns, view, pages = self._shuffled(), self.ready.pages, self.guest.memory.pages
        memory = self.ready.buffer
        return self._work(
            "scatter", Side("xstream", "copy pages to PFNs in random order, in batches of 1024",
                            self._by_batches(lambda part: page_kernel.scatter(memory, pfns[part], pages[part].reshape(-1)))),
            Side("memcpy", "copy as many bytes, front to back", lambda: numpy.copyto(view, pages), _MACHINE),
            Side("numpy", "the same by an index array", self._by_batches(
                lambda part: _assign(view, pfns[part], pages[part])), _PEER))

    def gather(self) -> Workload:
        pfns, memory, buffer = self._shuffled(), self.guest.memory.pages, self.guest.memory.buffer
        room = numpy.empty(BATCH_PFNS * PAGE_SIZE, numpy.uint8)
        out = room.reshape(-1, PAGE_SIZE)
        return self._work(
            "gather", Side("xstream", "copy pages from PFNs in random order into one batch's room, again and again",
                           self._by_batches(lambda part: page_kernel.gather(buffer, pfns[part], room[:_size(part) * PAGE_SIZE]))),
            Side("memcpy", "copy as many bytes into the same room, front to back", self._by_batches(
                lambda part: numpy.copyto(out[:_size(part)], memory[part])), _MACHINE),
            Side("numpy", "the same by take()", self._by_batches(
                lambda part: numpy.take(memory, pfns[part].view(numpy.int64), axis=0, out=out[:_size(part)],
                                        mode="clip")), _PEER))

    def compare(self) -> Workload:
        memory, same = self.guest.memory.pages, self.copy.reshape(-1, PAGE_SIZE)
        differing = numpy.zeros(len(self.pfns), numpy.uint64)
        same[:] = memory
        words = memory.view(numpy.uint64), same.view(numpy.uint64)
        return self._work(
            "compare", Side("xstream", "find the pages that differ between two equal memories",
                            lambda: page_kernel.compare(self.guest.memory.buffer, self.pfns, self.copy, differing)),
            Side("memory read", "read both: the sums of their 64-bit words",
                 lambda: [machine.read_memory(side) for side in words], _MACHINE),
            Side("numpy", "the same by != and any(axis=1), in batches of 1024", self._by_batches(
                lambda part: numpy.flatnonzero((words[0][part] != words[1][part]).any(axis=1))), _PEER))

    def unpack(self) -> Workload:
        count = self.size // 8
        words = memoryview(words_of(numpy.arange(count, dtype=numpy.uint64), numpy.zeros(count, numpy.uint8)))
        pfns, types = numpy.zeros(count, numpy.uint64), numpy.zeros(count, numpy.uint8)
        values = numpy.frombuffer(words, numpy.uint64)
        mask, shift = numpy.uint64((1 << 52) - 1), numpy.uint64(60)

        def by_numpy() -> None:
            numpy.bitwise_and(values, mask, out=pfns)
            types[:] = values >> shift
        return self._work("unpack PFN words", Side("xstream", "split as many bytes of PFN words into PFNs and types",
                                                   lambda: pfn_kernel.unpack(words, pfns, types)),
                          Side("memcpy", "copy the words", lambda: numpy.copyto(pfns, values), _MACHINE),
                          Side("numpy", "the same by mask and shift", by_numpy, _PEER))

    def bitmap(self) -> Workload:
        bits = numpy.random.RandomState(2).randint(0, 256, self.size // 64).astype(numpy.uint8)
        found = numpy.zeros(8 * len(bits), numpy.uint64)
        return self._work(
            "bitmap to PFNs", Side("xstream", "the PFNs of a dirty bitmap, half of its bits set",
                                   lambda: pfn_kernel.bitmap_to_pfns(bits, 0, found)),
            Side("numpy", "the same by unpackbits() and flatnonzero()", lambda: numpy.flatnonzero(
                numpy.unpackbits(bits.reshape(-1, 1)[:, ::-1], axis=1)[:, ::-1]), _PEER), bytes=8 * 8 * len(bits) // 2)

    def encode_deltas(self) -> Workload:
        held, changed = self._changed()
        out = bytearray(deltas.bound(BATCH_PFNS))
        return self._work(
            "encode deltas", Side("xstream", "legacy page deltas of pages of which one 32-bit word in 16 has changed",
                                  self._by_batches(lambda part: self._encode_batch(held, changed, part, out))),
            Side("memcpy", "copy the pages", lambda: numpy.copyto(held, changed), _MACHINE))

    def decode_deltas(self) -> Workload:
        held, changed = self._changed()
        forms = []
        for part in self._batches():
            out = bytearray(deltas.bound(_size(part)))
            forms.append((bytes(out[:deltas.encode(held[part].copy().reshape(-1), changed[part].reshape(-1), out)]), self.pfns[part]))

        def apply() -> None:
            for form, pfns in forms:
                deltas.decode(form, held.reshape(-1), pfns)
        return self._work("decode deltas", Side("xstream", "apply those deltas", apply),
                          Side("memcpy", "copy the pages", lambda: numpy.copyto(held, changed), _MACHINE))

    def normalise(self) -> Workload:
        return self._tables_work("normalise", "full L1 tables from MFNs to PFNs", True)

    def localise(self) -> Workload:
        return self._tables_work("localise", "full L1 tables from PFNs to MFNs", False)

    # What they have in common

    def to_pipe(self, write: Callable[[int], object]) -> None:
        """Have it write into a pipe whose other end is drained; until all has been read."""
        to_partner(self._partner, pipe(), write)

    def to_file(self, write: Callable[[int], object]) -> None:
        """Have it write to a new file, which goes at once."""
        with tempfile.TemporaryFile(dir=self.folder) as file:
            write(file.fileno())

    def _from_pipe(self, read: Callable[[int], object]) -> None:
        from_partner(self._partner, pipe(), self.files.full, read)

    def _work(self, name: str, *sides: Optional[Side], bytes: Optional[int] = None) -> Workload:
        return Workload(name, self.size if bytes is None else bytes, tuple(side for side in sides if side))

    def _stream(self, name: str, write: Callable[[BenchGuest, int], None]) -> str:
        path = os.path.join(self.folder, name)
        with open(path, "wb", buffering=0) as file:
            write(self.guest, file.fileno())
        return path

    def _mapped_pages(self) -> Any:
        with open(self.files.full, "rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return numpy.frombuffer(mapping, numpy.uint8)[-self.size:]

    def _encode_null(self) -> None:
        write_stream(self.guest, self._null)

    def _splice(self, fd: int) -> None:
        while os.splice(fd, self._null, _PIPE_SIZE):  # type: ignore[attr-defined,unused-ignore]
            pass

    def _read(self, memory: Any) -> Side:
        words = numpy.frombuffer(memory, numpy.uint64)
        return Side("memory read", "read the same memory: the sum of its 64-bit words",
                    lambda: machine.read_memory(words), _MACHINE)

    def _shuffled(self) -> Any:
        return numpy.random.RandomState(3).permutation(len(self.pfns)).astype(numpy.uint64)

    def _batches(self) -> List[slice]:
        return [slice(start, min(start + BATCH_PFNS, len(self.pfns)))
                for start in range(0, len(self.pfns), BATCH_PFNS)]

    def _by_batches(self, work: Callable[[slice], object]) -> Work:
        batches = self._batches()

        def run() -> None:
            for part in batches:
                work(part)
        return run

    def _changed(self) -> Tuple[Any, Any]:
        held = self.guest.memory.pages.copy()
        changed = held.copy()
        changed.view(numpy.uint32)[:, ::16] ^= numpy.uint32(1)
        return held, changed

    def _encode_batch(self, held: Any, changed: Any, part: slice, out: bytearray) -> None:
        # The copies held become what was sent: the words that changed change back with the next round.
        deltas.encode(held[part].reshape(-1), changed[part].reshape(-1), out)
        held[part].view(numpy.uint32)[:, ::16] ^= numpy.uint32(1)

    def _tables_work(self, name: str, what: str, to_stream: bool) -> Workload:
        count = len(self._tables.types)
        p2m = numpy.random.RandomState(4).permutation(count).astype(numpy.uint64)
        m2p = numpy.empty(count, numpy.uint64)
        m2p[p2m] = numpy.arange(count, dtype=numpy.uint64)
        types = numpy.ones(count, numpy.uint8)
        tables = numpy.tile(self._tables.memory.pages[:1], (count, 1))
        flat, torn = tables.reshape(-1), numpy.zeros(count, numpy.uint8)
        out = numpy.empty_like(flat)
        if to_stream:
            work: Work = lambda: pagetables.normalise(  # noqa: E731
                flat, types, p2m, m2p, out, torn, levels=4, paused=True)
        else:
            work = lambda: pagetables.localise(flat, types, p2m, out)  # noqa: E731
        return self._work(name, Side("xstream", what, work),
                          Side("memcpy", "copy the tables", lambda: numpy.copyto(out, flat), _MACHINE),
                          bytes=tables.nbytes)


def _assign(view: Any, pfns: Any, pages: Any) -> None:
    view[pfns] = pages


def _size(part: slice) -> int:
    return int(part.stop - part.start)


def _call(function: Callable[[Any], object], argument: Any) -> Work:
    return lambda: function(argument)


def pipe() -> Tuple[int, int]:
    """A pipe with room for 1 MiB, where one may have that: its ends for reading and writing."""
    reading, writing = os.pipe()
    with contextlib.suppress(OSError):
        fcntl.fcntl(writing, _F_SETPIPE_SZ, _PIPE_SIZE)
    return reading, writing


def unix_socket() -> Tuple[int, int]:
    """A pair of connected sockets."""
    reading, writing = socket.socketpair()
    return reading.detach(), writing.detach()


def to_partner(partner: Partner, ends: Tuple[int, int], write: Callable[[int], object]) -> None:
    """Have ``write`` write to the second end while the partner drains the first; until it has all."""
    reading, writing = ends
    partner.drain(reading)
    try:
        write(writing)
    finally:
        os.close(writing)
    partner.wait()


def from_partner(partner: Partner, ends: Tuple[int, int], path: str, read: Callable[[int], object]) -> None:
    """Have ``read`` read from the first end while the partner sends a file to the second."""
    reading, writing = ends
    partner.feed(writing, path)
    try:
        read(reading)
    finally:
        os.close(reading)
    partner.wait()


def xen_verifier(path: str) -> Iterator[Side]:
    """Xen's own verifier of libxc streams, where it is at hand."""
    module = xen_module("xen.migration.libxc")
    if module is not None:
        yield Side("verify-stream-v2", "the same check by that tool's own code, which reads all pages",
                   lambda: _verify_by_xen(module, path), _PEER)


def _verify_by_xen(module: Any, path: str) -> None:
    with open(path, "rb") as file:
        module.VerifyLibxc(lambda text: None, file.read).verify()


def xen_module(name: str) -> Optional[ModuleType]:
    """A module of Xen's own tools, where they are installed or unpacked under XSTREAM_XEN_TOOLS."""
    for root in (os.environ.get("XSTREAM_XEN_TOOLS", "/"), "/"):
        for folder in sorted(Path(root).glob("usr/lib/xen-*/lib/python")):
            sys.path.append(str(folder))
            try:
                return importlib.import_module(name)
            except ImportError:
                sys.path.remove(str(folder))
    return None
