"""speed.py: the times of whole `xl save` and `xl restore` commands, the stock helper and ours alternately, medians.

speed.py NAME SMALL BIG ROUNDS STOCK OURS: NAME.small and NAME.big are running guests of SMALL and BIG MiB.
"""

import os
import resource
import statistics
import subprocess
import sys
import time

name, stock, ours = sys.argv[1], sys.argv[5], sys.argv[6]
small, big, rounds = map(int, sys.argv[2:5])
IMAGE = "/tmp/speed.xl"


def run(helper, *command):
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, env=dict(os.environ, LIBXL_SAVE_HELPER=helper), stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - begin, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(domain):
    found = {}
    for _ in range(rounds):
        for label, helper in (("stock", stock), ("ours", ours)):
            for verb, command in (("save", ("xl", "save", domain, IMAGE)), ("restore", ("xl", "restore", IMAGE))):
                found.setdefault((label, verb), []).append(run(helper, *command))
    os.remove(IMAGE)
    return {key: tuple(statistics.median(column) for column in zip(*values)) for key, values in found.items()}


figures = {size: measure("{}-{}".format(name, size)) for size in ("small", "big")}
good = True
for verb in ("save", "restore"):
    wall = figures["big"]["ours", verb][0] / figures["big"]["stock", verb][0]
    cpu = {label: (figures["big"][label, verb][1] - figures["small"][label, verb][1]) * 1024 / (big - small)
           for label in ("stock", "ours")}
    print("{} {}: {} MiB: stock {:.2f} s, ours {:.2f} s, {:.2f} x; CPU per GiB: stock {:.2f} s, ours {:.2f} s".format(
        name, verb, big, figures["big"]["stock", verb][0], figures["big"]["ours", verb][0], wall, cpu["stock"],
        cpu["ours"]))
    good = good and wall <= 1.2 and cpu["ours"] <= cpu["stock"]

sys.exit(not good)
