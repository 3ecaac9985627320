"""saves.py DOMID COUNT: save a paused domain again and again; exit status 1 if descriptors, mappings or memory grow."""
import os
import sys

import xstream
from xstream.xen.domain import Toolstack, XenGuest


class Paused(XenGuest):
    """A domain that doesn't run, though it hasn't suspended itself."""

    def suspend(self):
        pass


def held():
    with open("/proc/self/maps") as maps, open("/proc/self/statm") as memory:
        mapped = sum("xen" in line for line in maps)
        return len(os.listdir("/proc/self/fd")), mapped, int(memory.read().split()[1])


with open("/dev/null", "wb") as null:
    for number in range(int(sys.argv[2])):
        xstream.save(Paused(int(sys.argv[1]), Toolstack()), null.fileno())
        if number == 4:
            before = held()
after = held()
print("descriptors, mappings of Xen's devices, resident pages: {} after 5 saves, {} after {}".format(
    before, after, sys.argv[2]))
sys.exit(int(after[0] > before[0] or after[1] > before[1] or after[2] > before[2] + 256))
