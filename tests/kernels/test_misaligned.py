"""Every kernel with every buffer at an odd address: the same results as with aligned ones.

A stream inside a save file begins at any byte. scripts/sanitize runs these tests under the undefined-behaviour
sanitizer, which reports misaligned loads and stores.
"""
import os
import tempfile

import pytest

from xstream.kernels import batches, checksum, contents, deltas, hashes, mapping, p2m, pages, pagetables, pfns, vmsplice

PAGE = 4096


def shifted(data, shift, code="B"):
    """A writable copy that begins ``shift`` bytes after an aligned address."""
    whole = memoryview(bytearray(bytes(shift) + bytes(data)))
    return whole[shift:].cast(code)


class Maker:
    """Makes a case's buffers, all with one shift, and keeps them to compare them afterwards."""

    def __init__(self, shift):
        self.shift = shift
        self.made = []

    def octets(self, data):
        return self._keep(shifted(data, self.shift))

    def numbers(self, *values):
        return self._keep(shifted(b"".join(value.to_bytes(8, "little") for value in values), self.shift, "Q"))

    def room(self, count):
        return self.numbers(*[0] * count)

    def sums(self, count):
        return self._keep(shifted(bytes(4 * count), self.shift, "I"))

    def _keep(self, buffer):
        self.made.append(buffer)
        return buffer


def words(*pairs):
    return b"".join((kind << 60 | pfn).to_bytes(8, "little") for kind, pfn in pairs)


WORDS = words((0, 1), (0xF, 2), (1, 3), (0xE, 4), (0, 5))
LEGACY = b"".join((kind << 28 | pfn).to_bytes(8, "little") for kind, pfn in ((0, 1), (0xF, 0), (9, 3)))
LEGACY32 = b"".join((kind << 28 | pfn).to_bytes(4, "little") for kind, pfn in ((0, 1), (0xF, 0), (9, 3)))
PAGES = bytes(range(256)) * 16 * 3
TABLE = b"".join(((index % 8) << 12 | 1).to_bytes(8, "little") for index in range(512))
BATCH = b"".join(number.to_bytes(4, "little") for number in (1, 8 + 8 + PAGE, 1, 0)) + words((0, 2)) + PAGES[:PAGE]
MAP = tuple(range(8))


def through_pipe(call):
    reading, writing = os.pipe()
    try:
        return call(writing), os.read(reading, 1 << 16)
    finally:
        os.close(reading)
        os.close(writing)


def from_pipe(data, call):
    reading, writing = os.pipe()
    try:
        os.write(writing, data)
        return call(reading)
    finally:
        os.close(reading)
        os.close(writing)


def with_file(call):
    with tempfile.TemporaryFile() as file:
        file.write(PAGES)
        file.flush()
        call(file.fileno())
        file.seek(0)
        return file.read()


def encode_by_cache(m):
    cache = deltas.Cache(8, 4)
    types, out = m.octets(bytes(3)), m.octets(bytes(deltas.bound(3)))
    return [cache.encode(m.numbers(1, 2, 1), types, m.octets(PAGES), out) for _ in range(2)]


CASES = {
    "pfns.unpack": lambda m: pfns.unpack(m.octets(WORDS), m.room(5), m.octets(bytes(5))),
    "pfns.pack": lambda m: pfns.pack(m.numbers(1, 2, 3), m.octets(b"\0\1\x0f"), m.octets(bytes(24))),
    "pfns.check": lambda m: pfns.check(m.octets(WORDS), 100, True),
    "pfns.widen, 64": lambda m: pfns.widen(m.octets(LEGACY), 8, 100, True, m.octets(bytes(24))),
    "pfns.widen, 32": lambda m: pfns.widen(m.octets(LEGACY32), 4, 100, True, m.octets(bytes(24))),
    "pfns.narrow, 64": lambda m: pfns.narrow(m.octets(WORDS), 8, m.octets(bytes(40))),
    "pfns.narrow, 32": lambda m: pfns.narrow(m.octets(WORDS), 4, m.octets(bytes(20))),
    "pfns.count_data": lambda m: pfns.count_data(m.octets(WORDS)),
    "pfns.data_pfns": lambda m: pfns.data_pfns(m.octets(WORDS), m.room(3)),
    "pfns.highest_pfn": lambda m: pfns.highest_pfn(m.octets(WORDS)),
    "pfns.mark": lambda m: pfns.mark(m.octets(WORDS), m.octets(bytes(8))),
    "pfns.select": lambda m: pfns.select(
        m.octets(WORDS), m.octets(b"\x0a"), False, True, m.octets(bytes(40)), m.room(5)),
    "pfns.populated_of": lambda m: pfns.populated_of(m.numbers(1, 9), m.octets(b"\xff" * 8), m.octets(bytes(2))),
    "pfns.forget": lambda m: pfns.forget(m.numbers(1, 9, 2), m.octets(b"\xff" * 8), m.room(3)),
    "pfns.types_of": lambda m: pfns.types_of(m.octets(b"\xf3" * 9), m.octets(bytes(9))),
    "pfns.populated": lambda m: pfns.populated(m.octets(b"\xf3" * 9), m.octets(bytes(9))),
    "pfns.count_populated": lambda m: pfns.count_populated(m.octets(b"\xf3" * 19)),
    "pfns.populated_pfns": lambda m: pfns.populated_pfns(m.octets(bytes(12) + b"\xf3" * 9), 1, m.room(5)),
    "pfns.type_histogram": lambda m: pfns.type_histogram(m.octets(bytes(12) + b"\xf3" * 9)),
    "pfns.count_bits": lambda m: pfns.count_bits(m.octets(b"\xf3" * 19)),
    "pfns.bitmap_to_pfns": lambda m: pfns.bitmap_to_pfns(m.octets(b"\xf3" * 9), 5, m.room(54)),
    "pfns.pfns_to_bitmap": lambda m: pfns.pfns_to_bitmap(m.numbers(1, 9, 2), m.octets(bytes(2))),
    "pfns.runs": lambda m: pfns.runs(m.numbers(1, 2, 3, 9), m.room(4), m.room(4)),
    "pfns.ascending": lambda m: pfns.ascending(m.numbers(1, 2, 2 ** 60, 2 ** 64 - 1)),
    "pfns.batch_end": lambda m: pfns.batch_end(m.numbers(1022, 1023, 1024, 1025), 0, 10),
    "p2m.lookup": lambda m: p2m.lookup(m.numbers(*MAP), m.numbers(1, 99), m.room(2)),
    "p2m.types_at": lambda m: p2m.types_at(m.octets(b"\xf3" * 8), m.numbers(1, 99), m.octets(bytes(2))),
    "p2m.changed": lambda m: p2m.changed(m.numbers(1, 2, 3), m.numbers(1, 9, 3), m.octets(bytes(1))),
    "p2m.widen": lambda m: p2m.widen(m.octets(b"\xff" * 4 + b"\1" * 4), m.room(2)),
    "p2m.narrow": lambda m: p2m.narrow(m.numbers(1, 2 ** 64 - 1), m.octets(bytes(8))),
    "p2m.claim": lambda m: p2m.claim(m.octets(WORDS), m.octets(bytes(8)), m.room(5)),
    "p2m.assign": lambda m: p2m.assign(m.numbers(*MAP), m.numbers(1, 2), m.numbers(7, 8)),
    "p2m.populated_only": lambda m: p2m.populated_only(m.numbers(1, 2), m.octets(b"\xff\0"), m.room(2)),
    "batches.scan": lambda m: batches.scan(m.octets(BATCH), 1, 1 << 20, 9, True, m.octets(bytes(8)), m.room(2)),
    "batches.scan_sparse": lambda m: batches.scan_sparse(
        m.octets(BATCH[:24]), m.numbers(24, PAGE), 1, 1 << 20, 9, True, m.octets(bytes(8))),
    "batches.scatter": lambda m: batches.scatter(
        m.octets(bytes(4 * PAGE)), m.numbers(3, 1), m.octets(PAGES), m.numbers(100, 2)),
    "pages.scatter": lambda m: pages.scatter(m.octets(bytes(8 * PAGE)), m.numbers(5, 6, 1), m.octets(PAGES)),
    "pages.gather": lambda m: pages.gather(m.octets(PAGES), m.numbers(1, 2, 0, 0), m.octets(bytes(4 * PAGE))),
    "pages.compare": lambda m: pages.compare(m.octets(bytes(3 * PAGE)), m.numbers(1, 2, 0), m.octets(PAGES), m.room(3)),
    "pages.zero_pages": lambda m: pages.zero_pages(m.octets(bytes(PAGE) + PAGES), m.room(4)),
    "pages.zero_pfns": lambda m: pages.zero_pfns(m.octets(bytes(PAGE) + PAGES), m.numbers(3, 0), m.room(2)),
    "pages.writev": lambda m: through_pipe(lambda fd: pages.writev(fd, [m.octets(PAGES[:5]), m.octets(PAGES)])),
    "pages.readv": lambda m: from_pipe(PAGES, lambda fd: pages.readv(fd, [m.octets(bytes(9)), m.octets(bytes(99))])),
    "pages.write_pages": lambda m: through_pipe(
        lambda fd: pages.write_pages(fd, m.octets(b"head"), m.octets(PAGES), m.numbers(1, 2, 0))),
    "pages.write_batches": lambda m: through_pipe(
        lambda fd: pages.write_batches(
            fd, 1, m.octets(WORDS), m.numbers(2, len(WORDS) // 8), m.octets(bytes(8 * PAGE)))),
    "pages.read_pages": lambda m: from_pipe(
        PAGES, lambda fd: pages.read_pages(fd, m.octets(bytes(4 * PAGE)), m.numbers(1, 2), 100)),
    "pages.read_file_pages": lambda m: with_file(
        lambda fd: pages.read_file_pages(fd, 0, m.octets(bytes(4 * PAGE)), m.numbers(1, 2))),
    "pages.pwrite_pages": lambda m: with_file(
        lambda fd: pages.pwrite_pages(fd, m.numbers(1, 2, 4), m.octets(PAGES))),
    "pages.pread_pages": lambda m: with_file(
        lambda fd: pages.pread_pages(fd, m.numbers(1, 2, 4), m.octets(bytes(3 * PAGE)))),
    "vmsplice.splice_pages": lambda m: through_pipe(
        lambda fd: vmsplice.splice_pages(fd, m.octets(PAGES), m.numbers(1, 2, 0))),
    "pagetables.normalise": lambda m: pagetables.normalise(
        m.octets(TABLE), m.octets(b"\1"), m.numbers(*MAP), m.numbers(*MAP), m.octets(bytes(PAGE)), m.octets(b"\0"),
        levels=4, paused=True),
    "pagetables.referenced": lambda m: pagetables.referenced(
        m.octets(TABLE), m.octets(b"\1"), m.octets(bytes(8)), m.room(8)),
    "pagetables.localise": lambda m: pagetables.localise(
        m.octets(TABLE), m.octets(b"\1"), m.numbers(*MAP), m.octets(bytes(PAGE))),
    "pagetables.check": lambda m: pagetables.check(m.octets(TABLE), m.octets(b"\1"), 4, levels=4, strict=True),
    "deltas.encode": lambda m: deltas.encode(
        m.octets(bytes(3 * PAGE)), m.octets(PAGES[:PAGE] + bytes(2 * PAGE - 8) + b"changed."),
        m.octets(bytes(deltas.bound(3)))),
    "deltas.decode": lambda m: deltas.decode(
        m.octets(b"\x80" + PAGES[:PAGE] + b"\x02" + b"8 bytes." + b"\xff" * 8 + b"\x86"), m.octets(bytes(3 * PAGE)),
        m.numbers(2, 1), m.octets(b"\0\1")),
    "deltas.Cache": encode_by_cache,
    "contents.classify": lambda m: contents.classify(m.octets(PAGES), m.octets(bytes(3))),
    "mapping.address": lambda m: mapping.address(m.octets(PAGES)) % 8 == m.shift,
    "checksum.crc32c": lambda m: checksum.crc32c(m.octets(PAGES)),
    "hashes.xxh64_pages": lambda m: hashes.xxh64_pages(m.octets(PAGES), m.numbers(0, 0, 0)),
    "checksum.crc32c_pages": lambda m: checksum.crc32c_pages(m.octets(PAGES), m.sums(3)),
}


@pytest.mark.parametrize("shift", range(1, 8))
@pytest.mark.parametrize("name", sorted(CASES))
def test_results_are_those_of_aligned_buffers(name, shift):
    outcomes = []
    for maker in (Maker(0), Maker(shift)):
        result = CASES[name](maker)
        outcomes.append((result, [bytes(buffer) for buffer in maker.made]))
    assert outcomes[0] == outcomes[1]


def test_every_kernel_function_has_a_case():
    skipped = {"pages.use", "pages.implementation", "pages.implementations", "checksum.use", "checksum.implementation",
               "checksum.implementations", "checksum.crc32c_combine", "checksum.crc32c_zeros", "deltas.bound"}
    public = {"{}.{}".format(module.__name__.split(".")[-1], name)
              for module in (batches, checksum, contents, deltas, hashes, mapping, p2m, pages, pagetables, pfns,
                             vmsplice)
              for name in dir(module) if callable(getattr(module, name)) and not name.startswith("_")}
    assert {name.split(",")[0] for name in CASES} | skipped == public
