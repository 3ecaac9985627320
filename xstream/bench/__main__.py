"""``python -m xstream.bench``: arguments and tables."""
import argparse
import json
import os
import platform
import sys
from typing import Any, Dict, List, Optional

try:
    import numpy
except ImportError:
    print("xstream.bench: this needs numpy, which isn't installed here", file=sys.stderr)
    sys.exit(2)

from xstream.bench.guests import MIX, seeded_guest
from xstream.bench.timing import Pair, measure
from xstream.bench.workloads import Bench, Workload
from xstream.cli import parse_size, print_table
from xstream.errors import StreamError
from xstream.guest.load import load
from xstream.guest.memory import GuestMemory
from xstream.kernels import checksum
from xstream.version import __version__
from xstream.wire.libxc import PAGE_SIZE


def main(arguments: Optional[List[str]] = None) -> int:
    """Measure and print; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        memory = _guest(options)
    except (OSError, StreamError) as error:
        print("xstream.bench: {}".format(error), file=sys.stderr)
        return 1 if isinstance(error, StreamError) else 2
    bench = Bench(memory)
    try:
        rows = [(work, measure(work.run, work.limit, options.rounds)) for work in bench.workloads()]
    finally:
        bench.close()
    machine = {"python": platform.python_version(), "numpy": numpy.__version__, "xstream": __version__,
               "cpu": _cpu_name(), "cores": len(os.sched_getaffinity(0)), "crc32c": checksum.implementation()}
    guest = {"bytes": bench.size, "pages": len(memory), "source": options.stream or "seeded: " + MIX}
    if options.json:
        json.dump({"machine": machine, "guest": guest, "rounds": options.rounds,
                   "rows": [_plain(work, pair) for work, pair in rows]}, sys.stdout, indent=2)
        print()
        return 0
    print("{cpu}, {cores} cores; Python {python}, numpy {numpy}, xstream {xstream}".format(**machine))
    print("guest of {} MiB, {}; medians of {} rounds, both sides in turn".format(
        bench.size >> 20, guest["source"], options.rounds))
    _print(rows)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m xstream.bench", description="Measure reading and writing of streams against what the machine "
        "can do, both sides in one run.")
    parser.add_argument("stream", nargs="?", help="a libxc stream whose memory is measured; default: a seeded guest")
    parser.add_argument("--size", type=parse_size, default=512 << 20,
                        help="of the seeded guest (K, M, G; default 512M)")
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds of each row (default 7)")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return parser


def _guest(options: Any) -> GuestMemory:
    if options.stream is None:
        return seeded_guest(max(1, options.size // PAGE_SIZE))
    memory = GuestMemory()
    load(options.stream, memory)
    return memory


def _cpu_name() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _plain(work: Workload, pair: Pair) -> Dict[str, Any]:
    return {"name": work.name, "work": work.what, "bytes": work.bytes, "ours": pair.ours._asdict(),
            "limit_work": work.limit_what, "limit": pair.limit._asdict() if pair.limit else None, "ratio": pair.ratio,
            "cpu_ns_per_page": pair.ours.cpu / (work.bytes / PAGE_SIZE) * 1e9}


def _print(rows: List[Any]) -> None:
    table = [["work", "ms", "least", "most", "GiB/s", "CPU ns/page", "limit ms", "limit : ours"]]
    for work, pair in rows:
        ours, limit = pair.ours, pair.limit
        table.append([
            work.name, "{:.1f}".format(ours.median * 1e3), "{:.1f}".format(ours.least * 1e3),
            "{:.1f}".format(ours.most * 1e3), "{:.2f}".format(work.bytes / ours.median / (1 << 30)),
            "{:.1f}".format(ours.cpu / (work.bytes / PAGE_SIZE) * 1e9),
            "{:.1f}".format(limit.median * 1e3) if limit else "", "{:.3f}".format(pair.ratio) if limit else ""])
    print_table(table)
    print()
    for work, _ in rows:
        print("{}: {}{}".format(work.name, work.what, "; limit: " + work.limit_what if work.limit_what else ""))


if __name__ == "__main__":
    sys.exit(main())
