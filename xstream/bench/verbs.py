"""The verbs: streams read, written, checked and extracted."""
import contextlib
import hashlib
import importlib.util
import mmap
import os
import shutil
import subprocess
import tempfile
from typing import Callable, Dict, Iterator, List, NamedTuple

import numpy

from xstream.bench import machine
from xstream.bench.guests import BenchGuest, write_legacy, write_single, write_stream
from xstream.bench.partner import PIPE_SIZE, Partner, pipe
from xstream.bench.workloads import (
    THREADS,
    Side,
    Work,
    Workload,
    by_parts,
    by_threads,
    limit,
    ours,
    peer,
    xen_converter,
    xen_module,
)
from xstream.convert.conversion import convert
from xstream.convert.exports import export
from xstream.guest.load import load
from xstream.guest.memory import GuestMemory
from xstream.stream.threads import usable_cpus
from xstream.tools.digest import digest_memory, run_digests
from xstream.tools.extract import extract
from xstream.tools.verify import verify
from xstream.wire.libxc import PAGE_SIZE, words_of


class Files(NamedTuple):
    """Streams of one guest that are read: in full batches, with a record for each page, and a legacy one."""

    full: str
    single: str
    legacy: str


class Verbs:
    """Workloads over one guest. Close it: it has files.

    ``partner`` is at the other end of pipes; it must have been started before the guest took memory.
    """

    def __init__(self, guest: BenchGuest, partner: Partner) -> None:
        self.guest = guest
        self.size = guest.size
        self._partner = partner
        self._cleanup = contextlib.ExitStack()
        self.folder = self._cleanup.enter_context(machine.scratch(5 * self.size))
        # Of this one a filesystem's page cache maps many pages at a fault; shared memory doesn't, and would be what is
        # measured.
        disk = self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="xstream-bench-"))
        self.files = Files(self._stream(self.folder, "full", write_stream), self._stream(disk, "single", write_single),
                           self._stream(self.folder, "legacy", lambda guest, fd: write_legacy(guest, fd, 8, True)))
        self.ready = GuestMemory(len(guest.memory), limit=len(guest.memory))
        self.ready.pages[:] = 1
        self.copy: numpy.ndarray = numpy.ones(self.size, numpy.uint8)
        self._null = os.open(os.devnull, os.O_WRONLY)
        self._cleanup.callback(os.close, self._null)

    def close(self) -> None:
        """Remove the files."""
        self._cleanup.close()

    def workload(self, name: str) -> Workload:
        """The one of that name."""
        sides = _MAKERS[name](self)
        return Workload(name, self.size // _DIGESTED if name == "digest" else self.size, tuple(sides))

    def _decode(self) -> Iterator[Side]:
        yield ours("map the stream's file, copy or read its pages into guest memory that is there",
                   lambda: load(self.files.full, self.ready, jobs=1))
        yield limit("memcpy", "map the file, copy as many bytes to memory that is there",
                    lambda: numpy.copyto(self.copy, self._mapped_pages()))

    def _decode_new(self) -> Iterator[Side]:
        yield ours("map the stream's file, copy or read its pages into new guest memory",
                   lambda: load(self.files.full, GuestMemory(), jobs=1))
        yield limit("memcpy", "map the file, copy as many bytes into new memory",
                    lambda: numpy.copyto(numpy.empty(self.size, numpy.uint8), self._mapped_pages()))

    def _decode_threads(self) -> Iterator[Side]:
        yield from by_threads(
            "the same as decode", lambda jobs: load(self.files.full, self.ready, jobs=jobs),
            "map the file, copy as many bytes to memory that is there", lambda: (self.copy, self._mapped_pages()))

    def _decode_new_threads(self) -> Iterator[Side]:
        yield from by_threads(
            "the same as decode into new memory", lambda jobs: load(self.files.full, GuestMemory(), jobs=jobs),
            "map the file, copy as many bytes into new memory",
            lambda: (numpy.empty(self.size, numpy.uint8), self._mapped_pages()))

    def _decode_pipe(self) -> Iterator[Side]:
        yield ours("read the stream out of a pipe into guest memory that is there",
                   lambda: self._from_pipe(lambda fd: load(fd, self.ready)))
        room = self.copy.data
        yield limit("read()", "read the same bytes from the same pipe into memory that is there, 1 MiB at a time",
                    lambda: self._from_pipe(lambda fd: machine.read_all(fd, room)))

    def _encode(self) -> Iterator[Side]:
        yield ours("write the guest's stream to /dev/null: what a page costs beside its way through the kernel",
                   lambda: write_stream(self.guest, self._null))

    def _encode_pipe(self) -> Iterator[Side]:
        yield ours("write the guest's stream into a pipe, by writev",
                   lambda: self._to_pipe(lambda fd: write_stream(self.guest, fd)))
        yield limit("write()", "write as many bytes into the same pipe, 1 MiB at a time",
                    lambda: self._to_pipe(lambda fd: machine.write_all(fd, self.guest.memory.buffer)))

    def _encode_file(self) -> Iterator[Side]:
        yield ours("write the guest's stream to a new file, by writev",
                   lambda: self._to_file(lambda fd: write_stream(self.guest, fd)))
        yield limit("write()", "write as many bytes to a new file, 1 MiB at a time",
                    lambda: self._to_file(lambda fd: machine.write_all(fd, self.guest.memory.buffer)))

    def _verify(self) -> Iterator[Side]:
        yield ours("check headers, order and PFN words of the file; no page is read", lambda: verify(self.files.full))
        yield from _xen_verifier(self.files.full)

    def _verify_single(self) -> Iterator[Side]:
        yield ours("the same of a stream with a record for each page", lambda: verify(self.files.single))
        yield from _xen_verifier(self.files.single)

    def _verify_pipe(self) -> Iterator[Side]:
        yield ours("check a stream that comes through a pipe", lambda: self._from_pipe(verify))
        if hasattr(os, "splice"):
            yield limit("splice", "move the same bytes from the pipe to /dev/null",
                        lambda: self._from_pipe(self._splice))

    def _convert_pipe(self) -> Iterator[Side]:
        yield ours("convert a legacy stream to version 3, from a pipe into another",
                   lambda: self._between_pipes(lambda reading, writing: convert(reading, writing)))
        cat = shutil.which("cat")
        if cat:
            yield limit("cat", "copy the same bytes between the same pipes", lambda: self._between_pipes(
                lambda reading, writing: subprocess.check_call([str(cat)], stdin=reading, stdout=writing)))
        command = xen_converter("0", "1")
        if command:
            yield peer("convert-legacy-stream", "the same by that tool, its start included",
                       lambda: self._between_pipes(lambda reading, writing: subprocess.check_call(
                           command, stdin=reading, stdout=writing)))

    def _convert_file(self) -> Iterator[Side]:
        target = os.path.join(self.folder, "converted")
        yield ours("convert a legacy stream to version 3, from a file into a new one",
                   _anew(target, lambda: convert(self.files.legacy, target)))
        yield limit("copy, fsync", "copy the file by the standard library's copyfile, and sync it as convert does",
                    _anew(target, lambda: _copy_and_sync(self.files.legacy, target)))
        command = xen_converter(self.files.legacy, target)
        if command:
            yield peer("convert-legacy-stream", "the same by that tool, its start included",
                       _anew(target, lambda: subprocess.check_call(command)))

    def _extract(self) -> Iterator[Side]:
        target = os.path.join(self.folder, "image")
        yield ours("write the guest's memory out of the stream's file to a raw file",
                   _anew(target, lambda: extract(self.files.full, target)))
        yield limit("write()", "map the file, write as many bytes to a new file, 1 MiB at a time",
                    lambda: self._to_file(lambda fd: machine.write_all(fd, self._mapped_pages().data)))

    def _export(self) -> Iterator[Side]:
        target = os.path.join(self.folder, "core")
        yield ours("write the guest's memory out of the stream's file to an ELF core file",
                   _anew(target, lambda: export(self.files.full, target, to="elf")))
        yield limit("write()", "map the file, write as many bytes to a new file, 1 MiB at a time",
                    lambda: self._to_file(lambda fd: machine.write_all(fd, self._mapped_pages().data)))

    def _compress(self) -> Iterator[Side]:
        jobs, target = usable_cpus(), os.path.join(self.folder, "compressed.zst")
        yield ours("write the stream's file as a compressed image, at level 1, by {} threads".format(jobs),
                   _anew(target, lambda: convert(self.files.full, target, compress="zstd:1", jobs=jobs)))
        yield from _zstd(["-1", "-T0", "-f", self.files.full, "-o", target], "compress the file by zstd -1 -T0")

    def _decompress(self) -> Iterator[Side]:
        image = os.path.join(self.folder, "image.zst")
        if not os.path.exists(image):
            convert(self.files.full, image, compress="zstd:1", jobs=usable_cpus())
        yield ours("load a compressed image's pages into guest memory that is there", lambda: load(image, self.ready))
        yield from _zstd(["-d", "-c", image], "decompress the image to /dev/null by zstd -d")

    def _page_digests(self) -> Iterator[Side]:
        memory, jobs = self.guest.memory, usable_cpus()
        yield ours("the CRC32C of each populated page, by {} threads".format(jobs),
                   lambda: list(run_digests(memory, jobs)))
        words = numpy.frombuffer(memory.buffer, numpy.uint64)
        yield limit("memory read", "read the same memory by {} threads".format(jobs),
                    lambda: by_parts(machine.read_memory, jobs, words))
        yield Side("1 thread for {}".format(jobs), "the same by one", lambda: list(run_digests(memory)), THREADS)

    def _digest(self) -> Iterator[Side]:
        memory = GuestMemory(array=self.guest.memory.buffer[:self.size // _DIGESTED // PAGE_SIZE * PAGE_SIZE])
        pfns = numpy.arange(len(memory), dtype=numpy.uint64)
        memory.mark(words_of(pfns, numpy.zeros(len(pfns), numpy.uint8)))
        yield ours("CRC32C and SHA-256 of a sixteenth of the guest's memory", lambda: digest_memory(memory))
        yield limit("hashlib", "SHA-256 of the same memory", lambda: hashlib.sha256(memory.buffer).digest())

    def _stream(self, folder: str, name: str, write: Callable[[BenchGuest, int], None]) -> str:
        path = os.path.join(folder, name)
        with open(path, "wb", buffering=0) as file:
            write(self.guest, file.fileno())
        return path

    def _mapped_pages(self) -> numpy.ndarray:
        with open(self.files.full, "rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return numpy.frombuffer(mapping, numpy.uint8)[-self.size:]

    def _to_pipe(self, write: Callable[[int], object]) -> None:
        self._partner.take(pipe(), write)

    def _to_file(self, write: Callable[[int], object]) -> None:
        with tempfile.TemporaryFile(dir=self.folder) as file:
            write(file.fileno())

    def _from_pipe(self, read: Callable[[int], object]) -> None:
        self._partner.give(pipe(), self.files.full, read)

    def _between_pipes(self, work: Callable[[int, int], object]) -> None:
        self._partner.take(pipe(), lambda writing: self._partner.give(
            pipe(), self.files.legacy, lambda reading: work(reading, writing)))

    def _splice(self, fd: int) -> None:
        splice: Callable[[int, int, int], int] = vars(os)["splice"]
        while splice(fd, self._null, PIPE_SIZE):
            pass


def _anew(target: str, work: Work) -> Work:
    """The work, after the file that it makes has been removed: all sides then write into memory that has just been
    freed. Memory that was never used, or was long unused, can be several times as slow: a hypervisor has to provide it.
    """
    def run() -> object:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target)
        return work()
    return run


def _copy_and_sync(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    fd = os.open(target, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


#: SHA-256 is slow: part of the memory is enough to measure it.
_DIGESTED = 16

_MAKERS: Dict[str, Callable[[Verbs], Iterator[Side]]] = {
    "decode": Verbs._decode,
    "decode, all CPUs": Verbs._decode_threads,
    "decode into new memory": Verbs._decode_new,
    "decode into new memory, all CPUs": Verbs._decode_new_threads,
    "decode from a pipe": Verbs._decode_pipe,
    "encode": Verbs._encode,
    "encode to a pipe": Verbs._encode_pipe,
    "encode to a file": Verbs._encode_file,
    "verify": Verbs._verify,
    "verify, one page a record": Verbs._verify_single,
    "verify from a pipe": Verbs._verify_pipe,
    "convert": Verbs._convert_pipe,
    "convert a file": Verbs._convert_file,
    "extract": Verbs._extract,
    "extract to ELF": Verbs._export,
    "page digests": Verbs._page_digests,
    "digest": Verbs._digest,
}
if importlib.util.find_spec("zstandard"):
    _MAKERS.update({"compress": Verbs._compress, "decompress": Verbs._decompress})
#: Of all verbs' workloads, in order.
NAMES = tuple(_MAKERS)


def _zstd(arguments: List[str], what: str) -> Iterator[Side]:
    """zstd's own program, if it is installed."""
    program = shutil.which("zstd")
    if program:
        command = [program, "-q", *arguments]
        yield peer("zstd", what, lambda: subprocess.check_call(command, stdout=subprocess.DEVNULL))


def _xen_verifier(path: str) -> Iterator[Side]:
    """Xen's own verifier of libxc streams, if it is installed."""
    module = xen_module("xen.migration.libxc")

    if module is None:
        return
    verifier = module.VerifyLibxc

    def run() -> None:
        with open(path, "rb") as file:
            verifier(lambda text: None, file.read).verify()

    yield peer("verify-stream-v2", "the same check by that tool's own code, which reads all pages", run)
