"""Runs the fuzzer; ``scripts/fuzz`` sets up what it needs and starts this.

    driver.py --work FOLDER replay            every seed through every target
    driver.py --work FOLDER TARGET SECONDS    fuzz one target, or "all": for each input one that it determines

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
import time
import traceback
import zlib
from pathlib import Path
from typing import Any, List, Set

try:
    import atheris
except ImportError:
    atheris = None

#: CPU seconds that a target may take, for any input and for each of its bytes, with the sanitizers' and the coverage's
#: share; and the memory by which one input may raise the process's peak.
SECONDS, SECONDS_PER_BYTE, MEGABYTES = 2.0, 2e-5, 300
#: Targets whose inputs are record bodies, not streams.
OF_BODIES = ("helpers", "wire", "kernels")


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

    def __init__(self, found: Path) -> None:
        self.found = found
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
        return "{} executions, {:.0f} a second, {:.0f} % on good streams, {} kinds of findings".format(
            self.executions, self.executions / seconds, 100 * self.good / max(self.executions, 1), len(self.keys))


def replay(runner: Runner) -> None:
    whole = seeds.streams()
    parts = seeds.bodies(whole)
    for name in TARGETS:
        for data in (parts if name in OF_BODIES else whole).values():
            runner.run(name, data)


def fuzz(runner: Runner, target: str, seconds: float, work: Path) -> None:
    names = [name for name in TARGETS if name not in OF_BODIES] if target == "all" else [target]
    whole = seeds.streams()
    begin = seeds.bodies(whole) if target in OF_BODIES else whole
    good = [data for data in whole.values() if targets.verified(data, {"limits": targets.LIMITS})[0] == "ok"]
    mutate = mutator.Mutator(list(whole.values()), good, atheris.Mutate if atheris else None)
    end = time.time() + seconds

    def one(data: bytes) -> None:
        if time.time() > end:
            finish(runner)
        name = names[zlib.crc32(data) // 7 % len(names)]
        if runner.run(name, data) and name not in OF_BODIES and not runner.executions % 4:
            mutate.remember(data)

    def change(data: bytes, most: int, seed: int) -> bytes:
        changed = atheris.Mutate(data, most) if target in OF_BODIES else mutate.mutate(data, seed)
        return changed[:most]

    if atheris is None:
        fuzz_blindly(one, mutate, list(begin.values()))
    corpus = work / "corpus" / target
    for folder in (corpus, work / "seeds" / target):
        folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(begin.values()):
        (work / "seeds" / target / str(number)).write_bytes(data)
    seeds.write_dictionary(work / "dictionary")
    atheris.Setup([sys.argv[0], str(corpus), str(work / "seeds" / target), "-dict=" + str(work / "dictionary"),
                   "-timeout=120", "-max_len={}".format(mutator.LONGEST), "-len_control=0", "-rss_limit_mb=4096",
                   "-verbosity=1", "-artifact_prefix=" + str(work) + "/", "-print_final_stats=1"],
                  one, custom_mutator=change)
    atheris.Fuzz()


def fuzz_blindly(one: Any, mutate: Any, begin: List[bytes]) -> None:
    """Without atheris: mutants of the seeds, with no regard to what they reach."""
    numbers = random.Random()
    while True:
        one(mutate.mutate(numbers.choice(begin), numbers.getrandbits(48)))


def finish(runner: Runner) -> None:
    """End the process from wherever it is; libFuzzer has no other end than exiting."""
    print(runner.figures(), flush=True)
    os._exit(1 if runner.keys else 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("target")
    parser.add_argument("seconds", type=float, nargs="?", default=60)
    options = parser.parse_args()
    if options.target not in [*TARGETS, "all", "replay"]:
        parser.error("no target {}; there are {}, all and replay".format(options.target, ", ".join(TARGETS)))
    found = options.work / "found"
    found.mkdir(parents=True, exist_ok=True)
    runner = Runner(found)
    if options.target == "replay":
        replay(runner)
    else:
        fuzz(runner, options.target, options.seconds, options.work)
    finish(runner)


if __name__ == "__main__":
    faulthandler.enable()
    load_package(instrument=atheris is not None and "replay" not in sys.argv)

import mutator  # noqa: E402
import seeds  # noqa: E402
import targets  # noqa: E402
from targets import TARGETS, Finding  # noqa: E402

if __name__ == "__main__":
    main()
