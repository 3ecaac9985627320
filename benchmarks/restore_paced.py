"""Time to load a guest's memory from a source of limited speed, plain and compressed.

    python benchmarks/restore_paced.py [--size 4G] [--rounds 3] [--level 3] [STREAM]

A process sends the file into a pipe at the speed of a network of 1 or 10 Gb/s; without a limit, the file is read from
the page cache by its path. Each time the guest's memory is new. Prints a Markdown table: medians, all measured in one
run. Needs three times the guest's size of memory.
"""
import argparse
import os
import statistics
import subprocess
import sys
import time
from typing import Dict, List, Optional

from xstream import GuestMemory, convert, load
from xstream.arguments import parse_size
from xstream.bench.guests import seeded_guest, write_stream
from xstream.bench.machine import scratch
from xstream.bench.partner import pipe
from xstream.guest.parallel import usable_cpus

#: Bytes per second of each source; None is the page cache.
_SOURCES: Dict[str, Optional[float]] = {"1 Gb/s": 125e6, "10 Gb/s": 1.25e9, "page cache": None}
_CHUNK = 1 << 20
_SEND = """
import os, sys, time
file, rate, start = os.open(sys.argv[1], os.O_RDONLY), float(sys.argv[2]), time.perf_counter()
sent, size = 0, os.fstat(file).st_size
while sent < size:
    time.sleep(max(0, start + sent / rate - time.perf_counter()))
    sent += os.sendfile(1, file, None, {})
""".format(_CHUNK)


def measure(path: str, rate: Optional[float]) -> float:
    """Seconds to load a file."""
    start = time.perf_counter()
    if rate is None:
        load(path, GuestMemory())
    else:
        reading, writing = pipe()
        with subprocess.Popen([sys.executable, "-S", "-c", _SEND, path, repr(rate)], stdout=writing) as sender:
            os.close(writing)
            load(reading, GuestMemory())
            while os.read(reading, _CHUNK):  # the table after the last frame
                pass
            os.close(reading)
        if sender.returncode:
            sys.exit("the sender failed")
    return time.perf_counter() - start


def main() -> None:
    """Make the images, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=4 << 30, help="size of the guest (K, M, G; default 4G)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median counts (default 3)")
    parser.add_argument("--level", type=int, default=3, help="zstd's level (default 3)")
    parser.add_argument("stream", nargs="?", help="an HVM guest's stream, instead of a seeded guest")
    options = parser.parse_args()
    with scratch(options.size + options.size // 2) as folder:
        plain, packed = os.path.join(folder, "plain"), os.path.join(folder, "packed.zst")
        if options.stream:
            convert(options.stream, plain)
        else:
            with open(plain, "wb", buffering=0) as file:
                write_stream(seeded_guest(options.size >> 12), file.fileno())
        convert(plain, packed, compress="zstd:{}".format(options.level), jobs=usable_cpus())
        sizes = [os.stat(path).st_size for path in (plain, packed)]
        print("{:.0f} MB plain, {:.0f} MB compressed, {} CPUs\n".format(sizes[0] / 1e6, sizes[1] / 1e6, usable_cpus()))
        print("| source | plain | `.zst` | |\n|---|---|---|---|")
        for name, rate in _SOURCES.items():
            times: List[List[float]] = [[], []]
            for _ in range(options.rounds):
                for path, of_path in zip((plain, packed), times):
                    of_path.append(measure(path, rate))
            ours = [statistics.median(of_path) for of_path in times]
            print("| {} | {:.2f} s | {:.2f} s | {:.2f} × |".format(name, *ours, ours[0] / ours[1]), flush=True)


if __name__ == "__main__":
    main()
