"""Rows of the bench for the engines: guests saved into pipes and restored, page tables exchanged."""
import contextlib
import os
import tempfile
import threading
from array import array
from typing import Callable, Iterator, List

import numpy

from xstream.bench.workloads import Workload
from xstream.guest.restore import restore
from xstream.guest.save import save
from xstream.guest.simulated import SimulatedGuest
from xstream.kernels import pages as page_kernel
from xstream.kernels import pagetables
from xstream.wire.libxc import PAGE_SIZE

_PIECE = 4 << 20
_TABLES = 4096


class EngineBench:
    """A simulated HVM guest of so many pages, its stream in a file, and a guest with memory to restore into. Close it:
    the file is temporary."""

    def __init__(self, pages: int) -> None:
        self.guest = SimulatedGuest(pages=pages, holes=0)
        self.splicing = SimulatedGuest(pages=pages, holes=0, spliceable=True)
        self.target = SimulatedGuest.empty(limit=pages)
        self.size = pages * PAGE_SIZE
        self._file = tempfile.NamedTemporaryFile(prefix="xstream-bench-")
        save(self.guest, self._file.fileno())
        restore(self._file.name, self.target)

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def workloads(self) -> List[Workload]:
        """All rows, in order."""
        rows = [self.restore_file(), self.restore_pipe(), self.save_pipe()]
        if hasattr(os, "splice"):
            rows.append(self.save_by_reference())
        return rows + self.page_tables()

    def restore_file(self) -> Workload:
        pages = numpy.memmap(self._file.name, numpy.uint8, "r")
        copy = numpy.ones(len(pages), numpy.uint8)
        return Workload("restore", "map the stream's file, restore it into a guest whose memory is there", self.size,
                        lambda: restore(self._file.name, self.target), "memcpy of the file, mapped before",
                        lambda: numpy.copyto(copy, pages))

    def restore_pipe(self) -> Workload:
        into = numpy.ones(self.size + _PIECE, numpy.uint8)

        def read_all(fd: int) -> None:
            at = 0
            while True:
                got = page_kernel.readv(fd, [into[at:at + _PIECE]])
                if not got:
                    return
                at += got
        return Workload("restore from a pipe", "as restore, while a thread writes the stream", self.size,
                        lambda: self._fed(lambda fd: restore(fd, self.target)),
                        "reading the same bytes to memory of that size, 4 MiB at a time", lambda: self._fed(read_all))

    def save_pipe(self) -> Workload:
        return Workload("save into a pipe", "save the guest by writev, while a thread reads", self.size,
                        lambda: _drained(_read, lambda fd: save(self.guest, fd)),
                        "write() of its memory, 4 MiB at a time", lambda: _drained(_read, self._write_memory))

    def save_by_reference(self) -> Workload:
        return Workload("save by vmsplice", "save the guest, while a thread splices to /dev/null", self.size,
                        lambda: _drained(_splice, lambda fd: save(self.splicing, fd)),
                        "write() of its memory to the same thread",
                        lambda: _drained(_splice, self._write_memory))

    def page_tables(self) -> List[Workload]:
        frames = array("Q", range(1 << 16))
        entries = numpy.random.RandomState(1).randint(0, 1 << 16, _TABLES * 512).astype(numpy.uint64)
        tables = (entries << numpy.uint64(12) | numpy.uint64(0x67)).view(numpy.uint8)
        types, out, torn = bytes([1]) * _TABLES, bytearray(len(tables)), bytearray(_TABLES)
        return [
            Workload("normalise", "page tables full of entries: MFNs become PFNs", len(tables),
                     lambda: pagetables.normalise(tables, types, frames, frames, out, torn, levels=4, paused=True)),
            Workload("localise", "page tables full of entries: PFNs become MFNs", len(tables),
                     lambda: pagetables.localise(tables, types, frames, out))]

    def _write_memory(self, fd: int) -> None:
        memory = self.guest.memory.buffer
        for start in range(0, self.size, _PIECE):
            page_kernel.writev(fd, [memory[start:start + _PIECE]])

    def _fed(self, read: Callable[[int], object]) -> None:
        """Run ``read`` on a pipe into which a thread writes the stream."""
        stream = numpy.memmap(self._file.name, numpy.uint8, "r")

        def write(fd: int) -> None:
            with contextlib.suppress(BrokenPipeError):
                for start in range(0, len(stream), _PIECE):
                    page_kernel.writev(fd, [stream[start:start + _PIECE]])
            os.close(fd)
        reading, writing = os.pipe()
        with _beside(lambda: write(writing)):
            read(reading)
            os.close(reading)


def _drained(drain: Callable[[int], object], write: Callable[[int], object]) -> None:
    """Run ``write`` on a pipe that a thread drains."""
    reading, writing = os.pipe()
    with _beside(lambda: drain(reading)):
        write(writing)
        os.close(writing)
    os.close(reading)


@contextlib.contextmanager
def _beside(run: Callable[[], object]) -> Iterator[None]:
    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()


def _read(fd: int) -> None:
    into = numpy.ones(1 << 20, numpy.uint8)
    while page_kernel.readv(fd, [into]):
        pass


def _splice(fd: int) -> None:
    with open(os.devnull, "wb", buffering=0) as null:
        while os.splice(fd, null.fileno(), 1 << 20):  # type: ignore[attr-defined]
            pass
