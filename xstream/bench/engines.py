"""The engines: simulated HVM guests are saved and restored, including all hooks."""
import contextlib
import os
from typing import Callable, Dict, Iterator

import numpy

from xstream.bench import machine
from xstream.bench.partner import Partner, pipe
from xstream.bench.workloads import Side, Workload, by_threads, limit, ours
from xstream.guest.restore import restore
from xstream.guest.save import save
from xstream.guest.simulated import SimulatedGuest
from xstream.wire.libxc import PAGE_SIZE


class Engines:
    """Workloads over a guest of ``pages`` pages, and a second guest to restore into. Call ``close`` to remove the file.

    ``partner`` is at the other end of pipes; it must have been started before memory was taken.
    """

    def __init__(self, pages: int, partner: Partner) -> None:
        self.guest = SimulatedGuest(pages=pages, holes=0)
        self.splicing = SimulatedGuest(pages=pages, holes=0, spliceable=True)
        self.target = SimulatedGuest.empty(limit=pages)
        self.size = pages * PAGE_SIZE
        self._partner = partner
        self._cleanup = contextlib.ExitStack()
        self.path = os.path.join(self._cleanup.enter_context(machine.scratch(2 * self.size)), "saved")
        with open(self.path, "wb", buffering=0) as file:
            save(self.guest, file.fileno())
        restore(self.path, self.target)

    def close(self) -> None:
        """Remove the file."""
        self._cleanup.close()

    def workload(self, name: str) -> Workload:
        """The workload of a name."""
        return Workload(name, self.size, tuple(_MAKERS[name](self)))

    def _save(self) -> Iterator[Side]:
        yield ours("save the guest into a pipe, by writev", lambda: self._to_pipe(lambda fd: save(self.guest, fd)))
        yield self._write()

    def _save_spliced(self) -> Iterator[Side]:
        yield ours("save the guest into a pipe, by reference", lambda: self._to_pipe(lambda fd: save(
            self.splicing, fd)))
        yield self._write()

    def _restore(self) -> Iterator[Side]:
        copy: numpy.ndarray = numpy.ones(self.size, numpy.uint8)
        yield ours("map the stream's file, restore it into a guest whose memory is there",
                   lambda: restore(self.path, self.target, jobs=1))
        yield limit("memcpy", "map the file, copy as many bytes to memory that is there",
                    lambda: numpy.copyto(copy, numpy.memmap(self.path, numpy.uint8, "r")[:self.size]))

    def _restore_threads(self) -> Iterator[Side]:
        copy: numpy.ndarray = numpy.ones(self.size, numpy.uint8)
        yield from by_threads(
            "the same as restore", lambda jobs: restore(self.path, self.target, jobs=jobs),
            "map the file, copy as many bytes to memory that is there",
            lambda: (copy, numpy.memmap(self.path, numpy.uint8, "r")[:self.size]))

    def _restore_pipe(self) -> Iterator[Side]:
        copy: numpy.ndarray = numpy.ones(self.size, numpy.uint8)
        room = copy.data
        yield ours("restore out of a pipe into a guest whose memory is there",
                   lambda: self._partner.give(pipe(), self.path, lambda fd: restore(fd, self.target)))
        yield limit("read()", "read the same bytes from the same pipe into memory that is there, 1 MiB at a time",
                    lambda: self._partner.give(pipe(), self.path, lambda fd: machine.read_all(fd, room)))

    def _write(self) -> Side:
        return limit("write()", "write as many bytes into the same pipe, 1 MiB at a time", lambda: self._to_pipe(
            lambda fd: machine.write_all(fd, self.guest.memory.buffer)))

    def _to_pipe(self, write: Callable[[int], object]) -> None:
        self._partner.take(pipe(), write)


_MAKERS: Dict[str, Callable[[Engines], Iterator[Side]]] = {
    "save": Engines._save,
    "save by vmsplice": Engines._save_spliced,
    "restore": Engines._restore,
    "restore, all CPUs": Engines._restore_threads,
    "restore from a pipe": Engines._restore_pipe,
}
#: Names of the engines' workloads, in order.
NAMES = tuple(_MAKERS)
