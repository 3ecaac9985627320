"""Digests are the same with several threads as with one."""
import hashlib

import numpy
import pytest

from xstream import GuestMemory
from xstream.kernels import checksum, pfns
from xstream.tools import digest

PAGES = 20000  # several pieces, and what is left


@pytest.fixture(scope="module", params=["whole", "holes"])
def memory(request):
    made = GuestMemory(PAGES, limit=PAGES)
    populated = numpy.arange(PAGES, dtype=numpy.uint64)
    if request.param == "holes":
        # Long runs, short ones and single pages.
        populated = populated[(populated < 9000) | (populated % 7 == 0) | ((populated > 15000) & (populated < 15100))]
    made.pages[populated, 0] = populated % 251
    words = bytearray(8 * len(populated))
    pfns.pack(populated, bytes(len(populated)), words)
    made.mark(words)
    return made


def test_threads_change_nothing(memory):
    alone = digest.digest_memory(memory)
    for jobs in (2, 3, 8):
        assert digest.digest_memory(memory, jobs) == alone
    assert alone.sha256 == hashlib.sha256(memory.buffer).hexdigest()
    assert alone.crc32c == checksum.crc32c(memory.buffer)


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_pages_by_threads(memory, jobs):
    found = {first + at: crc for first, sums in digest.run_digests(memory, jobs) for at, crc in enumerate(sums)}
    assert sorted(found) == list(numpy.flatnonzero(memory.populated))
    for pfn in (0, 7000, 14994, 19999):
        if pfn in found:
            assert found[pfn] == checksum.crc32c(memory.pages[pfn])


def test_no_memory_at_all():
    assert list(digest.run_digests(GuestMemory(), 3)) == []
    assert digest.digest_memory(GuestMemory(), 3).bytes == 0
