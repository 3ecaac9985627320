"""Arguments that another thread changes while a kernel reads them, as a mapped file can.

Each case runs for a short time while a thread flips words between good and bad values. A kernel may return anything or
raise its documented errors. It must not touch memory outside its buffers: scripts/sanitize runs these tests under the
address sanitizer, which reports that; without it, the worst cases crash.
"""
import contextlib
import ctypes
import os
import sys
import threading
import time

import numpy
import pytest

from xstream.kernels import batches, contents, deltas, p2m, pages, pagetables, pfns, vmsplice

SECONDS = 0.15
COUNT = 512
GOOD, BAD = 3, (1 << 52) - 1


class Flipper(threading.Thread):
    """Flips bytes of a buffer between two contents, from outside the GIL, until it is stopped."""

    def __init__(self, buffer, contents):
        super().__init__(daemon=True)
        self._address = buffer.ctypes.data
        self._size = buffer.nbytes
        self._contents = [numpy.frombuffer(content, numpy.uint8).copy() for content in contents]
        assert all(len(content) == self._size for content in self._contents)
        self._stop_now = threading.Event()

    def run(self):
        while not self._stop_now.is_set():
            for content in self._contents:
                ctypes.memmove(self._address, content.ctypes.data, self._size)

    def stop(self):
        self._stop_now.set()
        self.join()


def while_flipping(buffer, contents, call):
    """Call again and again while the buffer changes."""
    flipper = Flipper(buffer, contents)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    flipper.start()
    try:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(IndexError, ValueError):
                call()
    finally:
        flipper.stop()
        sys.setswitchinterval(interval)


def numbers(value, count=COUNT):
    return numpy.full(count, value, numpy.uint64).tobytes()


def mostly(value, other, count=COUNT):
    """An array of one value, with another at its end."""
    array = numpy.full(count, value, numpy.uint64)
    array[-1] = other
    return array.tobytes()


def room(count=COUNT):
    return numpy.zeros(count, numpy.uint64)


def words_of(value):
    return numpy.frombuffer(numbers(value), numpy.uint8).copy()


FLIPS = [numbers(GOOD), mostly(GOOD, BAD), numbers(GOOD), mostly(GOOD, 2 ** 64 - 1)]
STATE = 64


def on_words(call):
    """A case whose PFN words change."""
    words = words_of(GOOD)
    return words, FLIPS, lambda: call(words)


def on_kinds(call):
    """A case in which the types of the words change too, and with them how many carry data."""
    words = words_of(GOOD)
    return words, CARRYING, lambda: call(words)


def on_pfns(call):
    """A case whose PFNs change."""
    array = numpy.frombuffer(numbers(GOOD), numpy.uint64).copy()
    return array, FLIPS, lambda: call(array)


def page_room(count=COUNT):
    return numpy.zeros(count * 4096, numpy.uint8)


def on_device(path, flags, call):
    """``call`` with a descriptor of a device before the array."""
    def run(array):
        fd = os.open(path, flags)
        try:
            call(fd, array)
        finally:
            os.close(fd)
    return run


def devnull(call):
    return on_device(os.devnull, os.O_RDWR, call)


def zero_file(call):
    return on_device("/dev/zero", os.O_RDONLY, call)


def drained_pipe(array):
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        vmsplice.splice_pages(writing, SMALL, array[:8])
    finally:
        os.close(reading)
        os.close(writing)


SMALL = page_room(STATE)
CARRYING = [numbers(GOOD), numbers(0xF << 60 | GOOD), mostly(GOOD, BAD)]


def scan_case():
    """Batches whose words change between types with and without data, and to PFNs out of range."""
    head = numpy.array([1, 8 + 8 * 4, 4, 0], numpy.uint32).tobytes()
    contents = []
    for word in (0xF << 60 | GOOD, 0xF << 60 | BAD, GOOD):
        contents.append((head + numbers(word, 4)) * 64)
    data = numpy.frombuffer(contents[0], numpy.uint8).copy()
    words, extents = numpy.zeros(8 * 256, numpy.uint8), room(128)

    def call():
        found = batches.scan(data, 1, 1 << 20, STATE, False, words, extents)
        kept = words[:8 * found[2]]
        assert pfns.highest_pfn(kept) < STATE  # the words returned are the words that were checked
        assert pfns.count_data(kept) == found[3] == 0
    return data, contents, call


def scan_sparse_case():
    data, contents, _ = scan_case()
    words, holes = numpy.zeros(8 * 256, numpy.uint8), numpy.zeros(0, numpy.uint64)

    def call():
        found = batches.scan_sparse(data, holes, 1, 1 << 20, STATE, False, words)
        kept = words[:8 * found[2]]
        assert pfns.highest_pfn(kept) < STATE
        assert pfns.count_data(kept) == found[3] == 0
    return data, contents, call


def scatter_extents_case():
    extents = numpy.array([0, 1] * 64, numpy.uint64)
    contents = [numpy.array([0, 1] * 64, numpy.uint64).tobytes(),
                numpy.array([0, 1] * 63 + [2 ** 63, 1], numpy.uint64).tobytes(),
                numpy.array([0, 1] * 63 + [0, 2 ** 40], numpy.uint64).tobytes()]
    memory, places = page_room(STATE), room(64)
    data = page_room(4)
    return extents, contents, lambda: batches.scatter(memory, places, data, extents)


def entries_case(call):
    """Page tables whose entries change between a PFN that is there and one that isn't."""
    tables = numpy.zeros(4 * 4096, numpy.uint8)
    contents = [numpy.full(4 * 512, frame << 12 | 1, numpy.uint64).tobytes() for frame in (GOOD, (1 << 40) - 1, 70)]
    return tables, contents, lambda: call(tables)


def map_case(call):
    """A p2m or m2p whose entries change."""
    frames = numpy.zeros(STATE, numpy.uint64)
    contents = [numbers(GOOD, STATE), numbers(2 ** 64 - 1, STATE), numbers(STATE, STATE)]
    return frames, contents, lambda: call(frames)


L1 = numpy.ones(4, numpy.uint8)
TABLES = numpy.frombuffer(numpy.full(4 * 512, GOOD << 12 | 1, numpy.uint64).tobytes(), numpy.uint8).copy()
MAP = numpy.arange(STATE, dtype=numpy.uint64)
OUT = page_room(4)
TORN = numpy.zeros(4, numpy.uint8)


def normalise(tables, frames, back):
    pagetables.normalise(tables, L1, frames, back, OUT, TORN, levels=4, paused=False)


def deltas_case():
    """The forms of pages whose markers change."""
    forms = [b"\x7f" + bytes(508) + b"\xff" * 7 + b"\x88", b"\xff" * 8 + b"\x88" + bytes(508), b"\x80" + bytes(516)]
    size = max(map(len, forms))
    contents = [form.ljust(size, b"\0") for form in forms]
    data = numpy.zeros(size, numpy.uint8)
    memory, places = page_room(4), room(4)
    return data, contents, lambda: deltas.decode(data, memory, places)


def cache_case():
    cache = deltas.Cache(STATE, 8)
    types, fresh, out = numpy.zeros(COUNT, numpy.uint8), page_room(), bytearray(deltas.bound(COUNT))
    return on_pfns(lambda array: cache.encode(array, types, fresh, out))


def classify_case():
    """A page that changes between all zeros, text and every byte while its bytes are counted."""
    pages, kinds = page_room(1), numpy.zeros(1, numpy.uint8)
    forms = [bytes(4096), b"text" * 1024, bytes(range(256)) * 16]
    return pages, forms, lambda: contents.classify(pages, kinds)


def encode_case():
    """Pages that change while their deltas are written."""
    fresh, held, out = page_room(4), page_room(4), bytearray(deltas.bound(4))
    half = numpy.zeros(4 * 4096, numpy.uint8)
    half[::8] = 1
    return fresh, [bytes(4 * 4096), half.tobytes(), b"\1" * (4 * 4096)], lambda: deltas.encode(held, fresh, out)


CASES = {
    "pfns.unpack": lambda: on_words(lambda words: pfns.unpack(words, room(), numpy.zeros(COUNT, numpy.uint8))),
    "pfns.pack": lambda: on_pfns(lambda array: pfns.pack(array, bytes(COUNT), bytearray(8 * COUNT))),
    "pfns.check": lambda: on_words(lambda words: pfns.check(words, STATE, True)),
    "pfns.widen": lambda: on_words(lambda words: pfns.widen(words, 8, STATE, True, bytearray(8 * COUNT))),
    "pfns.narrow": lambda: on_words(lambda words: pfns.narrow(words, 4, bytearray(4 * COUNT))),
    "pfns.data_pfns": lambda: on_kinds(lambda words: pfns.data_pfns(words, room(8))),
    "pfns.mark": lambda: on_words(lambda words: pfns.mark(words, bytearray(STATE))),
    "pfns.select": lambda: on_kinds(lambda words: pfns.select(
        words, bytearray(STATE // 8), False, True, bytearray(8 * COUNT), room(pfns.count_data(words)))),
    "pfns.populated_of": lambda: on_pfns(lambda array: pfns.populated_of(array, bytes(STATE), bytearray(COUNT))),
    "pfns.forget": lambda: on_pfns(lambda array: pfns.forget(array, bytearray(b"\xff" * STATE), room())),
    "pfns.pfns_to_bitmap": lambda: on_pfns(lambda array: pfns.pfns_to_bitmap(array, bytearray(STATE // 8))),
    "pfns.runs": lambda: on_pfns(lambda array: pfns.runs(array, room(), room())),
    "pfns.bitmap_to_pfns": lambda: on_words(lambda words: pfns.bitmap_to_pfns(words, 0, room(2 * COUNT))),
    "p2m.claim": lambda: on_words(lambda words: p2m.claim(words, bytearray(STATE), room())),
    "p2m.lookup": lambda: on_pfns(lambda array: p2m.lookup(MAP, array, room())),
    "p2m.types_at": lambda: on_pfns(lambda array: p2m.types_at(bytes(STATE), array, bytearray(COUNT))),
    "p2m.changed": lambda: on_pfns(lambda array: p2m.changed(array, room(), bytearray(COUNT // 8))),
    "p2m.assign": lambda: on_pfns(lambda array: p2m.assign(room(STATE), array, room())),
    "p2m.narrow": lambda: on_pfns(lambda array: p2m.narrow(array, bytearray(4 * COUNT))),
    "batches.scan": scan_case,
    "batches.scan_sparse": scan_sparse_case,
    "batches.scatter, extents": scatter_extents_case,
    "batches.scatter, PFNs": lambda: on_pfns(lambda array: batches.scatter(
        SMALL, array, page_room(1), numpy.array([0, 1] * COUNT, numpy.uint64))),
    "pages.scatter": lambda: on_pfns(lambda array: pages.scatter(SMALL, array, PAGES)),
    "pages.gather": lambda: on_pfns(lambda array: pages.gather(SMALL, array, PAGES)),
    "pages.compare": lambda: on_pfns(lambda array: pages.compare(SMALL, array, PAGES, room())),
    "pages.zero_pfns": lambda: on_pfns(lambda array: pages.zero_pfns(SMALL, array, room())),
    "pages.write_pages": lambda: on_pfns(devnull(lambda fd, array: pages.write_pages(fd, b"head", SMALL, array))),
    "pages.write_batches, words": lambda: on_words(devnull(
        lambda fd, words: pages.write_batches(fd, 1, words, numpy.array([COUNT], numpy.uint64), SMALL))),
    "pages.write_batches, ends": lambda: on_pfns(devnull(
        lambda fd, array: pages.write_batches(fd, 1, bytes(8 * COUNT), array, SMALL))),
    "pages.read_pages": lambda: on_pfns(zero_file(lambda fd, array: pages.read_pages(fd, SMALL, array))),
    "pages.read_file_pages": lambda: on_pfns(zero_file(lambda fd, array: pages.read_file_pages(fd, 0, SMALL, array))),
    "pages.pread_pages": lambda: on_pfns(zero_file(lambda fd, array: pages.pread_pages(fd, array, PAGES))),
    "pages.pwrite_pages": lambda: on_pfns(devnull(lambda fd, array: pages.pwrite_pages(fd, array, PAGES))),
    "vmsplice.splice_pages": lambda: on_pfns(drained_pipe),
    "pagetables.normalise, tables": lambda: entries_case(lambda tables: normalise(tables, MAP, MAP)),
    "pagetables.normalise, p2m": lambda: map_case(lambda frames: normalise(TABLES, frames, MAP)),
    "pagetables.normalise, m2p": lambda: map_case(lambda frames: normalise(TABLES, MAP, frames)),
    "pagetables.referenced": lambda: entries_case(
        lambda tables: pagetables.referenced(tables, L1, bytearray(STATE), room(8))),
    "pagetables.localise, tables": lambda: entries_case(lambda tables: pagetables.localise(tables, L1, MAP, OUT)),
    "pagetables.localise, p2m": lambda: map_case(lambda frames: pagetables.localise(TABLES, L1, frames, OUT)),
    "pagetables.check": lambda: entries_case(
        lambda tables: pagetables.check(tables, L1, STATE, levels=4, strict=True)),
    "contents.classify": classify_case,
    "deltas.decode, data": deltas_case,
    "deltas.decode, PFNs": lambda: on_pfns(lambda array: deltas.decode(bytes(COUNT), SMALL, array)),
    "deltas.Cache": cache_case,
    "deltas.encode": encode_case,
}
PAGES = page_room()


@pytest.mark.parametrize("name", sorted(CASES))
def test_it_stays_within_its_buffers(name):
    buffer, contents, call = CASES[name]()
    while_flipping(buffer, contents, call)
