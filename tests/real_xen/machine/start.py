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
helper = [sys.argv[2], "--save-domain", str(os.open(os.devnull, os.O_WRONLY)), "-1", "32000", "0", "0", "0"]
times = [(cpu([sys.argv[1], "-c", "pass"], b""), cpu(helper, struct.pack("<i", 0))) for _ in range(15)]
python, ours = (statistics.median(column) for column in zip(*times))
print("Python {:.0f} ms of CPU, helper {:.0f} ms, {:.2f} x".format(1000 * python, 1000 * ours, ours / python))
sys.exit(ours > 2 * python)
