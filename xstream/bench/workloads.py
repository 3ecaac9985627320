"""What is measured: each workload once, with what its work is, for the bench and for benchmarks/ alike."""
import importlib
import mmap
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import numpy

from xstream.bench.guests import stream_file, write_stream
from xstream.guest.load import load
from xstream.guest.memory import GuestMemory
from xstream.kernels import checksum
from xstream.kernels import pages as page_kernel
from xstream.tools.verify import verify
from xstream.wire.libxc import PAGE_SIZE


class Workload(NamedTuple):
    """One row: ``run`` does the work of ``what`` on ``bytes`` bytes; ``limit`` is what ``limit_what`` says."""

    name: str
    what: str
    bytes: int
    run: Callable[[], object]
    limit_what: str = ""
    limit: Optional[Callable[[], object]] = None


class Bench:
    """A guest memory, its stream in a file, and memory made ready to decode it to. Close it: the file is temporary."""

    def __init__(self, memory: GuestMemory) -> None:
        self.memory = memory
        self.size = len(memory) * PAGE_SIZE
        self._file = tempfile.NamedTemporaryFile(prefix="xstream-bench-")
        stream_file(memory, self._file.fileno())
        self.path = self._file.name
        self.ready = GuestMemory(len(memory), limit=len(memory))
        self.ready.pages[:] = 1
        self._null = os.open(os.devnull, os.O_WRONLY)

    def close(self) -> None:
        """Remove the file."""
        self._file.close()
        os.close(self._null)

    def workloads(self) -> List[Workload]:
        """All rows, in order."""
        return [self.decode(), self.encode_null(), self.encode_file(), self.verify(), *self.verify_peers(),
                self.digest(), *self.digest_peers(), self.zero_scan()]

    def decode(self) -> Workload:
        mapping = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        pages = numpy.frombuffer(mapping, numpy.uint8)[-self.size:]
        copy = numpy.ones(self.size, numpy.uint8)
        return Workload("decode", "map the stream's file, copy its pages to guest memory that is there", self.size,
                        lambda: load(self.path, self.ready), "memcpy of as many bytes of the mapped file",
                        lambda: numpy.copyto(copy, pages))

    def encode_null(self) -> Workload:
        return Workload("encode", "write the guest's stream to /dev/null; see the CPU time of a page", self.size,
                        lambda: write_stream(self.memory, self._null))

    def encode_file(self) -> Workload:
        buffer = self.memory.buffer

        def write_with(write: Callable[[int], object]) -> None:
            with tempfile.TemporaryFile(prefix="xstream-bench-") as file:
                write(file.fileno())

        def write_plainly(fd: int) -> None:
            for start in range(0, self.size, 4 << 20):
                page_kernel.writev(fd, [buffer[start:start + (4 << 20)]])
        return Workload("encode to a file", "write the guest's stream to a new file", self.size,
                        lambda: write_with(lambda fd: write_stream(self.memory, fd)),
                        "write() of as many bytes to a new file, 4 MiB at a time", lambda: write_with(write_plainly))

    def verify(self) -> Workload:
        return Workload("verify", "check headers, order and PFN words of the file; pages are passed over", self.size,
                        lambda: verify(self.path))

    def verify_peers(self) -> List[Workload]:
        module = xen_verifier()
        if module is None:
            return []

        def run() -> None:
            with open(self.path, "rb") as file:
                module.VerifyLibxc(lambda text: None, file.read).verify()
        return [Workload("verify by Xen's tool", "the same check by verify-stream-v2's own code, which reads all pages",
                         self.size, run, "our verify", lambda: verify(self.path))]

    def digest(self) -> Workload:
        sums = numpy.zeros(len(self.memory), numpy.uint32)
        return Workload("digest", "CRC32C of each page ({})".format(checksum.implementation()), self.size,
                        lambda: checksum.crc32c_pages(self.memory.buffer, sums),
                        "reading the same memory (sum of words)", self._read)

    def digest_peers(self) -> List[Workload]:
        buffer = self.memory.buffer
        peers: Dict[str, str] = {"crc32c": "crc32c", "google_crc32c": "value"}
        rows = []
        for name, function in peers.items():
            try:
                run = getattr(importlib.import_module(name), function)
            except ImportError:
                continue
            rows.append(Workload("CRC32C by {} of PyPI".format(name), "one CRC32C of the whole memory", self.size,
                                 _call(run, numpy.frombuffer(buffer, numpy.uint8)), "our CRC32C of the same",
                                 lambda: checksum.crc32c(buffer)))
        return rows

    def zero_scan(self) -> Workload:
        found = numpy.zeros(len(self.memory), numpy.uint64)
        zeros = numpy.zeros(self.size, numpy.uint8)
        zeros[:] = 0
        words = zeros.view(numpy.uint64)
        return Workload("zero scan", "find the zero pages of a memory that is all zero, so that all of it is read",
                        self.size, lambda: page_kernel.zero_pages(zeros, found),
                        "reading the same memory (sum of words)", lambda: int(words.sum()))

    def _read(self) -> int:
        return int(numpy.frombuffer(self.memory.buffer, numpy.uint64).sum())


def _call(function: Callable[[Any], object], argument: Any) -> Callable[[], object]:
    return lambda: function(argument)


def xen_verifier() -> Optional[ModuleType]:
    """Xen's own verifier of libxc streams, where its tools are installed or unpacked under XSTREAM_XEN_TOOLS."""
    for root in (os.environ.get("XSTREAM_XEN_TOOLS", "/"), "/"):
        for folder in sorted(Path(root).glob("usr/lib/xen-*/lib/python")):
            sys.path.append(str(folder))
            try:
                return importlib.import_module("xen.migration.libxc")
            except ImportError:
                sys.path.remove(str(folder))
    return None
