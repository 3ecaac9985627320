"""Runs the fuzzer; ``scripts/fuzz`` sets up what it needs and starts this.

    driver.py --work FOLDER replay              every seed through every target
    driver.py --work FOLDER mutants [PERCENT]   a number of mutants of each seed through each target, always the same
    driver.py --work FOLDER blind [SECONDS]     random mutants through all targets of streams, as fast as they go
    driver.py --work FOLDER calls [SECONDS]     kernels by themselves, as fast as they go
    driver.py --work FOLDER TARGET [SECONDS]    one target, guided by coverage; "all": each input decides on one

Findings go to FOLDER/found: the input, and a .txt that says what is wrong; one for each kind. The exit status is 1 if
there are any. Memory errors in a kernel end the process; the input is then in FOLDER as well.
"""
import argparse
import faulthandler
import hashlib
import importlib
import os
import pkgutil
import random
import resource
import sys
import tempfile
import time
import traceback
import zlib
from pathlib import Path
from typing import Any, Dict, Iterator, List, Set, Tuple

try:
    import atheris
except ImportError:
    atheris = None

#: CPU seconds that a target may take, for any input and for each of its bytes, with the sanitizers' and the coverage's
#: share; and the memory by which one input may raise the process's peak.
SECONDS, SECONDS_PER_BYTE, MEGABYTES = 2.0, 2e-5, 300
#: Modes that don't measure coverage, which would take most of the time.
UNGUIDED = ("replay", "mutants", "blind", "calls")


def load_package(instrument: bool) -> None:
    """Import all of the package, with its branches counted."""
    with atheris.instrument_imports(include=["xstream"]) if instrument else _nothing():
        package = importlib.import_module("xstream")
        for module in pkgutil.walk_packages(package.__path__, "xstream."):
            if not any(part in module.name for part in (".bench", "__main__", ".volatility")):
                importlib.import_module(module.name)
    # Small buffers: more of the borders between them, and less time.
    reader = importlib.import_module("xstream.stream.reader")
    reader._RUN_WORDS, reader._RUN_BATCHES = 256, 8  # type: ignore[attr-defined]


class _nothing:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: Any) -> None:
        pass


class Runner:
    """Runs inputs through targets, and keeps the findings and the figures."""

    def __init__(self, work: Path) -> None:
        self.found = work / "found"
        self.found.mkdir(parents=True, exist_ok=True)
        self.keys: Set[str] = set()
        self.executions = self.good = 0
        self.started = time.time()
        self._peak = 0

    def run(self, name: str, data: bytes) -> bool:
        """One input through one target; whether it was a good stream."""
        self.executions += 1
        try:
            good = self._measured(name, data)
        except Exception as error:
            self._report(name, data, error)
            return False
        self.good += good
        return good

    def _measured(self, name: str, data: bytes) -> bool:
        allowed = SECONDS + SECONDS_PER_BYTE * len(data)
        for _ in range(3):  # a loaded machine slows down one run, not all
            start = time.process_time()
            good = bool(TARGETS[name](data, random.Random(zlib.crc32(data))))
            taken = time.process_time() - start
            if taken <= allowed:
                break
        else:
            raise Finding("slow", taken)
        before, self._peak = self._peak, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if before and self.executions > 100 and self._peak - before > MEGABYTES << 10:
            raise Finding("memory", (before, self._peak))
        return good

    def _report(self, name: str, data: bytes, error: Exception) -> None:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/xstream/" in frame.filename]
        where = "{}:{}".format(Path(frames[-1].filename).name, frames[-1].lineno) if frames else ""
        key = "{} {}".format(name, error.key if isinstance(error, Finding) else type(error).__name__ + " " + where)
        if key in self.keys:
            return
        self.keys.add(key)
        print("FOUND", key, flush=True)
        safe = "".join(letter if letter.isalnum() else "-" for letter in key)[:100]
        path = self.found / "{}-{}".format(safe, hashlib.sha256(data).hexdigest()[:8])
        path.write_bytes(data)
        told = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        Path(str(path) + ".txt").write_text(told, encoding="utf-8")

    def figures(self) -> str:
        seconds = time.time() - self.started
        return "{} inputs, {:.0f} a second, {:.0f} % of them good streams; {} tool runs; {} kinds of findings".format(
            self.executions, self.executions / seconds, 100 * self.good / max(self.executions, 1), Ran.tools,
            len(self.keys))


class Inputs:
    """The seeds of each target, and mutants of them."""

    def __init__(self) -> None:
        self.whole = seeds.streams()
        self.bodies = seeds.bodies(self.whole)
        good = [data for data in self.whole.values() if is_good(data)]
        self.mutator = mutator.Mutator(list(self.whole.values()), good, atheris.Mutate if guided() else None)

    def seeds_of(self, name: str) -> List[bytes]:
        return list((self.bodies if name in OF_BODIES else self.whole).values())

    def fixed(self, name: str, percent: float) -> Iterator[bytes]:
        """A target's mutants. Each depends on its seed, its number and the donors alone: a new seed adds mutants, and
        changes no other."""
        donors = [self.whole[donor] for donor in seeds.DONORS]
        ways = [(seed, hashlib.sha256(seed).hexdigest(),
                 mutator.Mutator(donors, [seed] if is_good(seed) else []).mutate)
                for seed in self.seeds_of(name)]
        for number in range(int(MUTANTS[name] * percent / 100)):
            for seed, digest, mutate in ways:
                key = "{} {} {}".format(name, digest, number)
                yield mutator.scrambled(seed, random.Random(key)) if name in OF_BODIES else mutate(seed, key)

    def mutant(self, name: str, number: int) -> bytes:
        """One of 2^64 mutants for a target, as the seeds are now."""
        rng = random.Random("{} {}".format(name, number))
        seed = rng.choice(self.seeds_of(name))
        return mutator.scrambled(seed, rng) if name in OF_BODIES else self.mutator.mutate(seed, rng.getrandbits(48))


def is_good(data: bytes) -> bool:
    return verified(data, {"limits": LIMITS})[0] == "ok"


def guided() -> bool:
    """Whether this process measures coverage."""
    return atheris is not None and not set(UNGUIDED) & set(sys.argv)


def replay(runner: Runner, inputs: Inputs) -> None:
    for name in TARGETS:
        for data in inputs.seeds_of(name):
            runner.run(name, data)


def mutants(runner: Runner, inputs: Inputs, percent: float, work: Path) -> None:
    """Runs each target's mutants in a process of its own, as many at a time as there are CPUs."""
    running: Dict[int, str] = {}
    failed = []
    for name in TARGETS:
        while len(running) >= usable_cpus():
            failed += _await_one(running)
        sys.stdout.flush()
        child = os.fork()
        if not child:
            last = work / "last-of-{}".format(name.replace(" ", "-"))
            for data in inputs.fixed(name, percent):
                last.write_bytes(data)  # what a memory error in a kernel leaves behind
                runner.run(name, data)
            finish(runner, name)
        running[child] = name
    while running:
        failed += _await_one(running)
    print("mutants: {}".format("failed: " + ", ".join(failed) if failed else "nothing found"), flush=True)
    os._exit(1 if failed else 0)


def _await_one(running: Dict[int, str]) -> List[str]:
    """The name of the target whose process has ended, if it failed."""
    child, status = os.wait()
    name = running.pop(child)
    return [name] if status else []


def names_of(target: str) -> List[str]:
    """The targets that a target or mode stands for."""
    return [target] if target in TARGETS else [name for name in TARGETS if name not in OF_BODIES]


def blind(runner: Runner, inputs: Inputs, names: List[str], seconds: float) -> None:
    numbers, weights = random.Random(), [MUTANTS[name] for name in names]  # as much time for each
    end, told = time.time() + seconds, time.time()
    while time.time() < end:
        name, = numbers.choices(names, weights)
        data = inputs.mutant(name, numbers.getrandbits(64))
        if runner.run(name, data) and name not in OF_BODIES and not runner.executions % 16:
            inputs.mutator.remember(data)
        if time.time() > told + 60:
            told = time.time()
            print(runner.figures(), flush=True)


def calls(seconds: float) -> None:
    """The same blocks in each run, as many as there is time for."""
    count, block, begin = 0, 0, time.time()
    while time.time() < begin + seconds:
        count += kernel_calls.many(random.Random(block))
        block += 1
    print("{} calls of kernels, {:.0f} a second".format(count, count / (time.time() - begin)), flush=True)


def fuzz(runner: Runner, inputs: Inputs, target: str, seconds: float, work: Path) -> None:
    """Guided by coverage. Doesn't return."""
    names = names_of(target)
    mutate = inputs.mutator
    end = time.time() + seconds

    def one(data: bytes) -> None:
        if time.time() > end:
            finish(runner, target)
        name = names[zlib.crc32(data) // 7 % len(names)]
        if runner.run(name, data) and name not in OF_BODIES and not runner.executions % 4:
            mutate.remember(data)

    def change(data: bytes, most: int, seed: int) -> bytes:
        changed = atheris.Mutate(data, most) if target in OF_BODIES else mutate.mutate(data, seed)
        return changed[:most]

    corpus, begin = work / "corpus" / target, work / "seeds" / target
    for folder in (corpus, begin):
        folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(inputs.seeds_of(target)):
        (begin / str(number)).write_bytes(data)
    seeds.write_dictionary(work / "dictionary")
    atheris.Setup([sys.argv[0], str(corpus), str(begin), "-dict=" + str(work / "dictionary"),
                   "-timeout=120", "-max_len={}".format(mutator.LONGEST), "-len_control=0", "-rss_limit_mb=4096",
                   "-verbosity=1", "-artifact_prefix=" + str(work) + "/", "-print_final_stats=1"],
                  one, custom_mutator=change)
    atheris.Fuzz()


def finish(runner: Runner, name: str) -> None:
    """End the process from wherever it is; libFuzzer has no other end than exiting."""
    print("{}: {}".format(name, runner.figures()), flush=True)
    os._exit(1 if runner.keys else 0)


def parsed() -> Tuple[str, float, Path]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("target")
    parser.add_argument("amount", type=float, nargs="?")
    options = parser.parse_args()
    if options.target not in [*TARGETS, *UNGUIDED, "all"]:
        parser.error("no target {}; there are: {}".format(options.target, ", ".join([*TARGETS, *UNGUIDED, "all"])))
    target = options.target
    return target, options.amount or (100 if target == "mutants" else 60), options.work


def main() -> None:
    target, amount, work = parsed()
    # Nothing that a target writes has to outlast the machine.
    os.fsync = lambda fd: None
    if os.access("/dev/shm", os.W_OK):
        tempfile.tempdir = "/dev/shm"
    if target == "calls":
        calls(amount)
        return
    runner, inputs = Runner(work), Inputs()
    if target == "replay":
        replay(runner, inputs)
    elif target == "mutants":
        mutants(runner, inputs, amount, work)
    elif target == "blind" or atheris is None:
        blind(runner, inputs, names_of(target), amount)
    else:
        fuzz(runner, inputs, target, amount, work)
    finish(runner, target)


if __name__ == "__main__":
    faulthandler.enable()
    load_package(instrument=guided())

import kernel_calls  # noqa: E402
import mutator  # noqa: E402
import seeds  # noqa: E402
from common import LIMITS, Finding, Ran, verified  # noqa: E402
from registry import MUTANTS, OF_BODIES, TARGETS  # noqa: E402

from xstream.stream.threads import usable_cpus  # noqa: E402

if __name__ == "__main__":
    main()
