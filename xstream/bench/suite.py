"""The whole bench, or some of its workloads. They are made one after the other, so that memory is freed in between."""
import contextlib
from typing import Callable, List, NamedTuple, Optional, Sequence, Set, Tuple

from xstream.bench import engines, kernels, machine, runs, verbs
from xstream.bench.claim import LARGE, Claim, case_names
from xstream.bench.guests import MIX, BenchGuest, loaded_guest, seeded_guest
from xstream.bench.partner import Partner
from xstream.bench.sweeps import Sweeps
from xstream.bench.timing import Effort, Figures, measure
from xstream.bench.workloads import PEER, Workload
from xstream.wire.libxc import PAGE_SIZE

_MIB = 1 << 20
#: The parts' guest has one size in both extents, so that their ratios are comparable: large enough for the C library to
#: copy it with non-temporal stores.
_PARTS = 256 * _MIB
NAMES = verbs.NAMES + engines.NAMES + kernels.NAMES


class Extent(NamedTuple):
    """How much is measured.

    - ``size``: of the guest of the parts; ``claims``: kinds and sizes of those of the claim; ``sweep``: of the largest
      of the sweeps, all in bytes; ``coarse``: sweeps of few values; ``peers``: compare the parts with other programs;
    - ``effort`` for each row, but for ``large`` guests.
    """

    size: int
    claims: List[Tuple[str, int]]
    sweep: int
    coarse: bool
    peers: bool
    effort: Effort
    large: Effort


#: A row of a large guest takes seconds.
_LARGE = Effort(2, 7, 2, warm=False)
FULL = Extent(_PARTS, [(kind, size * _MIB) for size in (64, 256) for kind in ("hvm", "pv")]
              + [("hvm", 1024 * _MIB), ("hvm", 4096 * _MIB)], 64 * _MIB, False, True, Effort(3, 7, 0.6), _LARGE)
QUICK = Extent(_PARTS, [("hvm", 64 * _MIB)], 16 * _MIB, True, False, Effort(2, 5, 0.1, warm=False), _LARGE)


class Suite:
    """All measurements on a seeded guest, or on the final memory of ``stream``. Call ``close`` to remove its files."""

    def __init__(self, extent: Extent, stream: Optional[str], partner: Partner) -> None:
        self._extent = extent
        self._stream = stream
        self._partner = partner
        self._cleanup = contextlib.ExitStack()

    def close(self) -> None:
        """Remove the files of the workloads that ``workload`` returned."""
        self._cleanup.close()

    def run(self) -> runs.Document:
        """Measure everything; for a stream, the parts only, because sweeps and claim have their own guests."""
        guest = self._guest()
        run = runs.document(machine.facts(), {"bytes": guest.size, "pages": len(guest.types),
                                              "source": self._stream or "seeded: " + MIX})
        self._measure_parts(run, guest, None)
        del guest
        if self._stream is None:
            for sweep in self._sweeps().run():
                runs.add_sweep(run, sweep)
            self._measure_claim(run, None)
        return run

    def run_again(self, run: runs.Document, names: Set[str]) -> None:
        """Measure some of the workloads again, with more rounds."""
        effort = self._extent.effort
        effort = effort._replace(least=effort.most, most=3 * effort.most, seconds=3 * effort.seconds)
        self._extent = self._extent._replace(effort=effort, large=effort._replace(warm=False))
        self._measure_parts(run, self._guest(), names)
        if self._stream is None:
            self._measure_claim(run, names)

    def workload(self, name: str) -> Workload:
        """The workload of a name. Raises UsageError for an unknown one."""
        if name in verbs.NAMES:
            return self._cleanup.enter_context(contextlib.closing(verbs.Verbs(self._guest(), self._partner))).workload(
                name)
        if name in engines.NAMES:
            return self._cleanup.enter_context(contextlib.closing(self._engines())).workload(name)
        if name in kernels.NAMES:
            return kernels.Kernels(self._guest()).workload(name)
        known = list(NAMES)
        for kind, size in self._extent.claims:
            known += case_names(kind, size)
            if name in known:
                claim = self._cleanup.enter_context(contextlib.closing(Claim(kind, size, self._partner)))
                return next(case.workload for case in claim.cases() if case.workload.name == name)
        raise runs.UsageError("no workload of the name {!r}; there are: {}".format(name, ", ".join(known)))

    def _guest(self) -> BenchGuest:
        if self._stream is not None:
            return loaded_guest(self._stream)
        return seeded_guest(max(1, self._extent.size // PAGE_SIZE))

    def _sweeps(self) -> Sweeps:
        extent = self._extent
        return Sweeps(extent.sweep, extent.effort, extent.coarse)

    def _engines(self) -> engines.Engines:
        return engines.Engines(max(1, self._extent.size // PAGE_SIZE), self._partner)

    def _measure_parts(self, run: runs.Document, guest: BenchGuest, names: Optional[Set[str]]) -> None:
        with contextlib.closing(verbs.Verbs(guest, self._partner)) as of_verbs:
            self._measure_each(run, verbs.NAMES, of_verbs.workload, names)
        if self._stream is None:
            with contextlib.closing(self._engines()) as of_engines:
                self._measure_each(run, engines.NAMES, of_engines.workload, names)
        self._measure_each(run, kernels.NAMES, kernels.Kernels(guest).workload, names)

    def _measure_each(self, run: runs.Document, every: Sequence[str], make: Callable[[str], Workload],
                      names: Optional[Set[str]]) -> None:
        for name in every:
            if names is None or name in names:
                workload = make(name)
                if not self._extent.peers:
                    workload = workload._replace(sides=tuple(side for side in workload.sides if side.kind != PEER))
                runs.add_part(run, workload, self._measure(workload))

    def _measure_claim(self, run: runs.Document, names: Optional[Set[str]]) -> None:
        for kind, size in self._extent.claims:
            if names is not None and names.isdisjoint(case_names(kind, size)):
                continue
            with contextlib.closing(Claim(kind, size, self._partner)) as claim:
                for case in claim.cases():
                    if names is None or case.workload.name in names:
                        runs.add_case(run, case, self._measure(case.workload))

    def _measure(self, workload: Workload) -> List[Figures]:
        return measure([side.run for side in workload.sides],
                       self._extent.large if workload.bytes >= LARGE else self._extent.effort)
