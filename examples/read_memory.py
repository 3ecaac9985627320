#!/usr/bin/env python3
"""Search a guest's memory: print where a text occurs, and what is around it.

    python read_memory.py guest.xl                      the Linux kernel's banner
    python read_memory.py guest.xl --text "BIOS"

FILE may be any stream or save file that xstream knows. Its pages are read where they lie; those of a compressed file
are first copied to an unnamed temporary file.
"""
import argparse
import re
import sys
from typing import Iterator

import xstream

PAGE_SIZE = 4096
AROUND = 80
AT_ONCE = 16 << 20


def search(view: xstream.MemoryView, text: bytes) -> Iterator[int]:
    """Guest-physical addresses at which the text occurs, ascending. (In a PV guest: pseudo-physical ones.)

    Only populated pages are looked at: what lies between them may be terabytes of nothing. A text across two pages is
    found where both are populated.
    """
    for first, pages in view.runs().tolist():
        end = (first + pages) * PAGE_SIZE
        for start in range(first * PAGE_SIZE, end, AT_ONCE):
            data = view.read(start, min(AT_ONCE + len(text) - 1, end - start))
            for found in re.finditer(re.escape(text), data):
                yield start + found.start()


def printable(data: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)


def main() -> int:
    parser = argparse.ArgumentParser(description="Search a guest's memory for a text.")
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--text", default="Linux version ", help="what to search for (default: Linux version)")
    options = parser.parse_args()
    try:
        view = xstream.MemoryView(options.file)
    except xstream.StreamError as error:
        print("{}: {}".format(options.file, error), file=sys.stderr)
        return 1
    count = 0
    with view:
        for address in search(view, options.text.encode()):
            count += 1
            around = view.read(address, AROUND)
            print("{:#x} (PFN {:#x}): {}".format(address, address // PAGE_SIZE, printable(around)))
    return 0 if count else 1


if __name__ == "__main__":
    sys.exit(main())
