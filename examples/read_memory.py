#!/usr/bin/env python3
"""Search a guest's memory: print where a text occurs, and what is around it.

    python read_memory.py guest.xl                      the Linux kernel's banner
    python read_memory.py guest.xl --text "BIOS"

FILE may be any stream or save file that xstream knows, compressed or not; nothing is written to disk.
"""
import argparse
import re
import sys
from typing import Iterator

import numpy

import xstream

PAGE_SIZE = 4096
AROUND = 80


def search(memory: xstream.GuestMemory, text: bytes) -> Iterator[int]:
    """Guest-physical addresses at which the text occurs, ascending. (In a PV guest: pseudo-physical ones.)

    Only populated pages are looked at: what lies between them may be terabytes of nothing. A text across two pages is
    found where both are populated.
    """
    edges = numpy.flatnonzero(numpy.diff(numpy.concatenate(([False], memory.populated, [False])).astype(numpy.int8)))
    for first, end in edges.reshape(-1, 2):
        start = int(first) * PAGE_SIZE
        # A view: nothing is copied.
        for found in re.finditer(re.escape(text), memory.buffer[start:int(end) * PAGE_SIZE]):
            yield start + found.start()


def printable(data: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)


def main() -> int:
    parser = argparse.ArgumentParser(description="Search a guest's memory for a text.")
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--text", default="Linux version ", help="what to search for (default: Linux version)")
    options = parser.parse_args()
    memory = xstream.GuestMemory()
    try:
        xstream.load(options.file, memory)
    except xstream.StreamError as error:
        print("{}: {}".format(options.file, error), file=sys.stderr)
        return 1
    count = 0
    for address in search(memory, options.text.encode()):
        count += 1
        around = bytes(memory.buffer[address:address + AROUND])
        print("{:#x} (PFN {:#x}): {}".format(address, address // PAGE_SIZE, printable(around)))
    return 0 if count else 1


if __name__ == "__main__":
    sys.exit(main())
