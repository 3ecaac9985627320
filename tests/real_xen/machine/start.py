"""start.py PYTHON HELPER: CPU time to start the helper, up to its first look at Xen, against that of Python alone."""
import os
import resource
import statistics
import struct
import subprocess
import sys


def cpu(command, answers):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, input=answers, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# A domain that doesn't exist: the helper starts, asks Xen, and reports the error.
fd = str(os.open(os.devnull, os.O_RDWR))
commands = {"Python": [sys.argv[1], "-c", "pass"],
            "saving": [sys.argv[2], "--save-domain", fd, "-1", "32000", "0", "0", "0"],
            "restoring": [sys.argv[2], "--restore-domain", fd, "-1", "32000", "0", "0", "0", "0", "0", "0"]}
times = {name: [] for name in commands}
for _ in range(15):
    for name, command in commands.items():
        times[name].append(cpu(command, struct.pack("<i", 0)))
python, saving, restoring = (statistics.median(times[name]) for name in commands)
print("Python {:.0f} ms of CPU, helper {:.0f} ms for saving, {:.2f} x, {:.0f} ms for restoring, {:.2f} x".format(
    1000 * python, 1000 * saving, saving / python, 1000 * restoring, restoring / python))
sys.exit(max(saving, restoring) > 2 * python)
