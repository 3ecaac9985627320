"""Targets for the kernels, on bytes of the input: one kernel after the other, and calls as fast as they go."""
import contextlib
import os
import random
import socket
import struct
import tempfile
import threading
from typing import Any, Callable, Dict, List, Tuple

import numpy
from common import PAGE, Target, check

from xstream.kernels import (
    batches,
    checksum,
    contents,
    deltas,
    hashes,
    p2m,
    pages,
    pagetables,
    pfns,
    transfer,
    vmsplice,
    zframes,
)


def kernels(data: bytes, rng: random.Random) -> None:
    """Each kernel on arrays that are the input, against a plain Python version where that is short."""
    size = len(data) // 8 * 8
    words, numbers = data[:size], memoryview(data[:size]).cast("Q")
    for _ in range(8):
        rng.choice(KERNELS)(data, words, numbers, rng)


def _words(data: bytes, words: bytes, numbers: memoryview, rng: random.Random) -> None:
    count = len(numbers)
    pfn_end = rng.choice((1, 1 << 16, 1 << 28, 1 << 52))
    first_bad, carrying, _ = pfns.check(words, pfn_end, rng.random() < 0.5)
    unpacked = memoryview(bytearray(size_of(count))).cast("Q")
    types, packed = bytearray(count), bytearray(size_of(count))
    pfns.unpack(words, unpacked, types)
    check(list(types) == [word >> 60 for word in numbers], "unpacked types")
    pfns.pack(unpacked, types, packed)
    check([word & 0xF00FFFFFFFFFFFFF for word in numbers] == list(memoryview(packed).cast("Q")), "packed words")
    carrying = pfns.count_data(words)
    check(carrying == sum(word >> 60 not in (0xD, 0xE, 0xF) for word in numbers) or first_bad >= 0, "count of pages")
    state, at = bytearray(1 << 12), memoryview(bytearray(size_of(carrying))).cast("Q")
    pfns.data_pfns(words, at)
    with contextlib.suppress(IndexError):
        pfns.mark(words, state)
        check(pfns.count_populated(state) == len(pfns_of(state)), "count of populated PFNs")
        pfns.forget(unpacked, state, memoryview(bytearray(size_of(count))).cast("Q"))


def size_of(count: int) -> int:
    return 8 * count


def pfns_of(state: Any) -> Any:
    found = memoryview(bytearray(8 * len(state))).cast("Q")
    return found[:pfns.populated_pfns(state, 0, found)]


def _bitmaps(data: bytes, words: bytes, numbers: memoryview, rng: random.Random) -> None:
    bits = pfns.count_bits(words)
    check(bits == sum(bin(word).count("1") for word in numbers), "count of bits")
    found = memoryview(bytearray(size_of(bits))).cast("Q")
    pfns.bitmap_to_pfns(words, 0, found)
    back = bytearray(len(words))
    pfns.pfns_to_bitmap(found, back)
    check(back == words, "bitmap and back")
    small = memoryview(bytearray(b"".join(struct.pack("<Q", number % 4096) for number in numbers))).cast("Q")
    starts, lengths = (memoryview(bytearray(size_of(len(small)))).cast("Q") for _ in range(2))
    count = pfns.runs(small, starts, lengths)
    check(sum(lengths[:count]) == len(small), "runs of PFNs")
    with contextlib.suppress(IndexError):
        pfns.pfns_to_bitmap(numbers, bytearray(512))


def _legacy_words(data: bytes, words: bytes, numbers: memoryview, rng: random.Random) -> None:
    width = rng.choice((4, 8))
    wide = bytearray(8 * (len(words) // width))
    first = pfns.widen(words, width, 1 << 28, rng.random() < 0.5, wide)[0]
    narrow = bytearray(len(words))
    if first < 0:
        pfns.narrow(wide, width, narrow)


def _deltas(data: bytes, words: bytes, numbers: memoryview, rng: random.Random) -> None:
    count = rng.randrange(1, 8)
    memory = bytearray(PAGE * 8)
    numbered = [rng.randrange(8 + (rng.random() < 0.01)) for _ in range(count)]
    at = memoryview(struct.pack("<{}Q".format(count), *numbered)).cast("Q")
    with contextlib.suppress(IndexError):
        done, taken, _, _ = deltas.decode(data, memory, at)
        check(0 <= done <= count and 0 <= taken <= len(data), "deltas decoded", done, taken)
    held, new = (bytearray(data[start::3].ljust(PAGE, b"\7")[:PAGE]) for start in (0, 1))
    out, copy = bytearray(deltas.bound(1)), bytearray(held)
    size = deltas.encode(held, new, out)
    done, taken, _, _ = deltas.decode(out[:size], copy, memoryview(bytes(8)).cast("Q"))
    check(done == 1 and taken == size and copy == new, "deltas encoded and decoded")


def _scan(data: bytes, words: bytes, numbers: memoryview, rng: random.Random) -> None:
    room = rng.choice((0, 8, 64, 4096))
    found, extents = bytearray(room), memoryview(bytearray(rng.choice((16, 160)))).cast("Q")
    done, position, count, _ = batches.scan(data, 1, 1 << 20, 1 << 16, rng.random() < 0.5, found, extents)
    check(position <= len(data) and 8 * count <= room and 2 * done <= len(extents), "batches scanned")
    with contextlib.suppress(IndexError, ValueError):
        batches.scatter(bytearray(4 * PAGE), numbers[:4], data, numbers[4:8])


def _tables(data: bytes, words: bytes, numbers: memoryview, rng: random.Random) -> None:
    whole = bytearray(data[:2 * PAGE].ljust(2 * PAGE, b"\0"))
    types = bytes(rng.choice((1, 2, 3, 4, 9, 10, 11, 12)) for _ in range(2))
    frames = memoryview(bytearray(data[:512].ljust(512, b"\0"))).cast("Q")
    levels = rng.choice((3, 4))
    pagetables.check(bytes(whole), types, rng.choice((1, 64, 1 << 40)), levels=levels, strict=rng.random() < 0.5)
    pagetables.localise(bytes(whole), types, frames, whole)
    pagetables.referenced(bytes(whole), types, bytearray(64), memoryview(bytearray(64)).cast("Q"))


def _p2m(data: bytes, words: bytes, numbers: memoryview, rng: random.Random) -> None:
    out = memoryview(bytearray(len(words))).cast("Q")
    with contextlib.suppress(IndexError, ValueError):
        p2m.claim(words, bytearray(4096), out)
    with contextlib.suppress(IndexError, ValueError):
        p2m.lookup(numbers, memoryview(bytearray(numbers)).cast("Q"), out)
    with contextlib.suppress(IndexError, ValueError):
        p2m.assign(out, numbers, numbers)


def _pages(data: bytes, words: bytes, numbers: memoryview, rng: random.Random) -> None:
    whole = data[:len(data) // PAGE * PAGE]
    count = len(whole) // PAGE
    memory = bytearray(8 * PAGE)
    at = memoryview(struct.pack("<{}Q".format(count), *(rng.randrange(8) for _ in range(count)))).cast("Q")
    pages.scatter(memory, at, whole)
    out = bytearray(len(whole))
    pages.gather(memory, at, out)
    if len(set(at)) == count:
        check(out == whole, "pages scattered and gathered")
        check(pages.compare(memory, at, whole, memoryview(bytearray(size_of(count))).cast("Q")) == 0, "pages compared")
    zeros = memoryview(bytearray(size_of(count))).cast("Q")
    zero = sum(not any(whole[start:start + PAGE]) for start in range(0, len(whole), PAGE))
    check(pages.zero_pages(whole, zeros) == zero, "zero pages")
    cut = rng.randrange(len(data) + 1)
    both = checksum.crc32c_combine(checksum.crc32c(data[:cut]), checksum.crc32c(data[cut:]), len(data) - cut)
    check(both == checksum.crc32c(data), "checksums combined")


KERNELS = (_words, _bitmaps, _legacy_words, _deltas, _scan, _tables, _p2m, _pages)


# Calls as fast as they go. Each function below calls kernels on small pieces of a block, and then compares what all of
# them have written with numpy's result for the block. It returns the number of calls.

Bytes = memoryview
WORDS = 1920  # of a block: divides by all sizes of pieces


def many(rng: random.Random) -> int:
    """Call all kernels on pieces of blocks that depend on ``rng``; returns the number of calls."""
    words = block_of(rng)
    size = rng.choice((1, 2, 3, 8, 16))
    return sum(calls(words, size, rng) for calls in CALLS)


def block_of(rng: random.Random) -> numpy.ndarray:
    """PFN words: of all types, with neighbouring, repeated, random and border PFNs, and some reserved bits."""
    random_words = numpy.frombuffer(rng.getrandbits(64 * WORDS).to_bytes(8 * WORDS, "little"), numpy.uint64).copy()
    kinds = random_words >> numpy.uint64(60) << numpy.uint64(60)
    if rng.random() < 0.5:
        kinds &= numpy.uint64(rng.choice((0, 1 << 60, 0xD << 60, 0xF << 60)))
    pfns = random_words & numpy.uint64(rng.choice((0, 7, 0xFFF, 0xFFFF, (1 << 52) - 1)))
    if rng.random() < 0.5:
        pfns = numpy.arange(WORDS, dtype=numpy.uint64)
    words = kinds | pfns
    for _ in range(rng.randrange(40)):
        border = rng.choice((0, (1 << 64) - 1, 1 << 52, 1 << 59, (1 << 52) - 1))
        words[rng.randrange(WORDS)] = rng.choice((rng.getrandbits(64), border))
    return words


def view(array: numpy.ndarray, shift: int = 0) -> Bytes:
    """The bytes of an array, or of a copy ``shift`` bytes after an aligned address."""
    if not shift:
        return memoryview(array).cast("B")
    copy = bytearray(shift + array.nbytes)
    copy[shift:] = array.tobytes()
    return memoryview(copy)[shift:]


def pieces(buffer: Bytes, size: int) -> List[Bytes]:
    return [buffer[at:at + size] for at in range(0, len(buffer), size)]


def same(found: Any, expected: Any, key: str) -> None:
    if not numpy.array_equal(found, expected):
        check(False, key, numpy.flatnonzero(numpy.asarray(found) != numpy.asarray(expected))[:9])


def call_words(words: numpy.ndarray, size: int, rng: random.Random) -> int:
    inputs = pieces(view(words, rng.choice((0, 1, 4))), 8 * size)
    numbers, types, back = numpy.zeros_like(words), numpy.zeros(WORDS, numpy.uint8), numpy.zeros_like(words)
    for word, number, kind, packed in zip(inputs, pieces(view(numbers), 8 * size), pieces(view(types), size),
                                          pieces(view(back), 8 * size)):
        pfns.unpack(word, number.cast("Q"), kind)
        pfns.pack(number.cast("Q"), kind, packed)
    kinds, low = (words >> numpy.uint64(60)).astype(numpy.uint8), words & numpy.uint64((1 << 52) - 1)
    same(types, kinds, "types unpacked")
    same(numbers, low, "PFNs unpacked")
    same(back, low | words >> numpy.uint64(60) << numpy.uint64(60), "words packed")
    end, strict = rng.choice((1, 8, 1 << 12, 1 << 52)), rng.random() < 0.5
    bad = ((kinds >= 5) & (kinds <= 8)) | (low >= end)
    if strict:
        bad |= (words >> numpy.uint64(52) & numpy.uint64(0xFF)) != 0
    bad = bad.reshape(-1, size)
    first = numpy.where(bad.any(1), bad.argmax(1), -1)
    same([pfns.check(word, end, strict)[0] for word in inputs], first, "first bad word")
    data = (kinds <= 4) | ((kinds >= 9) & (kinds <= 12))
    same([pfns.count_data(word) for word in inputs], data.reshape(-1, size).sum(1), "words with data")
    same([pfns.highest_pfn(word) for word in inputs], low.reshape(-1, size).max(1), "highest PFN")
    for word, number in zip(inputs, pieces(view(numbers), 8 * size)):
        pfns.data_pfns(word, number.cast("Q"))
    return 6 * len(inputs)


def call_states(words: numpy.ndarray, size: int, rng: random.Random) -> int:
    """States of PFNs: the last word of each decides."""
    words = words & numpy.uint64(0xF << 60 | 0x3FF)
    kinds, low = (words >> numpy.uint64(60)).astype(numpy.uint8), words & numpy.uint64(0x3FF)
    state, types = bytearray(1 << 10), numpy.zeros(1 << 10, numpy.uint8)
    inputs = pieces(view(words, rng.choice((0, 3))), 8 * size)
    found = memoryview(bytearray(8 * size)).cast("Q")
    marked = [pfns.mark(word, state) for word in inputs]
    pfns.types_of(state, view(types))
    expected = numpy.full(1 << 10, 0xF, numpy.uint8)
    for number, kind in zip(low.tolist(), kinds.tolist()):
        expected[number] = kind
    same(types, expected, "last types")
    data = ((kinds <= 4) | ((kinds >= 9) & (kinds <= 12))).reshape(-1, size).sum(1)
    same([one[0] for one in marked], data, "words with data marked")
    same([one[1] + one[2] for one in marked], data, "first and repeated pages")
    populated = pfns.count_populated(state)
    check(populated == len(pfns_of(state)), "count of populated PFNs")
    claimed = bytearray(1 << 10)
    total = sum(p2m.claim(word, claimed, found) for word in inputs)
    check(total == pfns.count_populated(claimed), "PFNs claimed", total)
    numbers = pieces(view(low), 8 * size)
    for number in numbers:
        pfns.forget(number.cast("Q"), state, found)
    check(not pfns.count_populated(state) and not any(pfns.type_histogram(state)), "PFNs forgotten")
    for word in inputs:  # past the end of the state
        with contextlib.suppress(IndexError):
            pfns.mark(word, state[:0x200])
    return 4 * len(inputs) + 4


def call_bitmaps(words: numpy.ndarray, size: int, rng: random.Random) -> int:
    inputs = pieces(view(words, rng.choice((0, 1))), 8 * size)
    bits = numpy.unpackbits(view(words)).reshape(-1, 64 * size).sum(1)
    counts = [pfns.count_bits(word) for word in inputs]
    same(counts, bits, "bits counted")
    found, back = memoryview(bytearray(512 * size)).cast("Q"), numpy.zeros_like(words)
    starts, lengths = (memoryview(bytearray(512 * size)).cast("Q") for _ in range(2))
    for count, word, again in zip(counts, inputs, pieces(view(back), 8 * size)):
        numbers = found[:count]
        pfns.bitmap_to_pfns(word, 0, numbers)
        pfns.pfns_to_bitmap(numbers, again)
        runs = pfns.runs(numbers, starts, lengths)
        check(sum(lengths[:runs]) == count, "runs of PFNs")
    same(back, words, "bitmap and back")
    bitmap = bytearray(64)
    for numbers in pieces(view(words & numpy.uint64(0x3FF)), 8 * size):
        with contextlib.suppress(IndexError):
            pfns.pfns_to_bitmap(numbers.cast("Q"), bitmap)
    return 5 * len(inputs)


def call_legacy(words: numpy.ndarray, size: int, rng: random.Random) -> int:
    width = rng.choice((4, 8))
    wide, narrow = bytearray(16 * size), bytearray(16 * size)
    inputs = pieces(view(words & numpy.uint64(0xFFFFFFFFFFFFFFFF if width == 4 else 0xFFFFFFFF)), 8 * size)
    for word in inputs:
        count = len(word) // width
        bad, _, written, _ = pfns.widen(word, width, 1 << 28, True, memoryview(wide)[:8 * count])
        if bad < 0:
            pfns.narrow(memoryview(wide)[:8 * written], width, memoryview(narrow)[:width * written])
            again, _, second, _ = pfns.widen(memoryview(narrow)[:width * written], width, 1 << 28, False,
                                             memoryview(wide)[:8 * written])
            check(again < 0 and second == written, "legacy words and back", bytes(word), width)
    return 3 * len(inputs)


def call_tables(words: numpy.ndarray, size: int, rng: random.Random) -> int:
    """The guest's frame tables."""
    table = view(words & numpy.uint64(0x7FF)).cast("Q")
    out, plain = numpy.zeros_like(words), numpy.zeros_like(words)
    for number, into in zip(pieces(view(words & numpy.uint64(0xFFF)), 8 * size), pieces(view(out), 8 * size)):
        p2m.lookup(table, number.cast("Q"), into.cast("Q"))
    indices = (words & numpy.uint64(0xFFF)).astype(numpy.int64)
    known = numpy.asarray(table)
    plain[:] = numpy.where(indices < WORDS, known[numpy.minimum(indices, WORDS - 1)], numpy.uint64((1 << 64) - 1))
    same(out, plain, "entries looked up")
    bitmap = bytearray(-(-size // 8))
    differing = [p2m.changed(a.cast("Q"), b.cast("Q"), bitmap) for a, b in zip(
        pieces(view(out), 8 * size), pieces(view(words), 8 * size))]
    same(differing, (out != words).reshape(-1, size).sum(1), "entries that changed")
    wide, entries = memoryview(bytearray(8 * size)).cast("Q"), bytearray(4 * size)
    for part in pieces(view(words)[:4 * WORDS], 4 * size):
        p2m.widen(part, wide)
        p2m.narrow(wide, entries)
        check(entries == part, "entries of a 32-bit guest and back")
    writable = memoryview(bytearray(64)).cast("Q")
    for number in pieces(view(words & numpy.uint64(0xF)), 8 * size):
        with contextlib.suppress(IndexError):
            p2m.assign(writable, number.cast("Q"), number.cast("Q"))
    return 5 * (WORDS // size)


def call_pages(words: numpy.ndarray, size: int, rng: random.Random) -> int:
    """Pages that are zero but for a byte or none, checksums in pieces, page deltas, page tables."""
    memory = bytearray(8 * PAGE)
    for page in range(8):
        kind = rng.random()
        if kind < 0.3:
            memory[page * PAGE + rng.randrange(PAGE)] = rng.randrange(256)
        elif kind < 0.5:
            memory[page * PAGE:(page + 1) * PAGE] = view(words)[page * 8:][:PAGE]
    parts, index = pieces(memoryview(memory), PAGE), memoryview(bytearray(8)).cast("Q")
    numbers, zeros, before = view(numpy.arange(8, dtype=numpy.uint64)).cast("Q"), index_of(8), pages.implementation()
    backwards, gathered = view(numpy.arange(7, -1, -1, dtype=numpy.uint64)).cast("Q"), bytearray(8 * PAGE)
    for name in pages.implementations():
        pages.use(name)
        zero = [pages.zero_pages(page, index) for page in parts]
        same(zero, [not any(page) for page in parts], "zero pages")
        count = pages.zero_pfns(memory, numbers, zeros)
        same(zeros[:count], numpy.flatnonzero(zero), "PFNs of zero pages")
        pages.gather(memory, backwards, gathered)
        check(gathered == b"".join(reversed(parts)), "gathered pages")
    pages.use(before)
    sums, hashed = numpy.zeros(8, numpy.uint32), numpy.zeros(8, numpy.uint64)
    checksum.crc32c_pages(memory, memoryview(sums))
    hashes.xxh64_pages(memory, memoryview(hashed))
    one, kinds = numpy.zeros(1, numpy.uint64), bytearray(8)
    for number, page in enumerate(parts):
        hashes.xxh64_pages(page, memoryview(one))
        check(one[0] == hashed[number] and checksum.crc32c(page) == sums[number], "hash of a page")
        contents.classify(page, memoryview(kinds)[number:number + 1])
    return 34 + 10 * len(pages.implementations()) + call_checksums(words, size) + call_deltas(words, memory) \
        + call_page_tables(words, rng)


def index_of(count: int) -> Bytes:
    """Room for numbers."""
    return memoryview(bytearray(8 * count)).cast("Q")


def call_checksums(words: numpy.ndarray, size: int) -> int:
    """Of pieces, one after the other and combined, by each implementation."""
    data, calls = view(words, 1)[:1500], 0
    expected = None
    before = checksum.implementation()
    page, sums = memoryview(view(words, 3)[:PAGE]), numpy.zeros(1, numpy.uint32)
    for name in checksum.implementations():
        checksum.use(name)
        checksum.crc32c_pages(page, memoryview(sums))
        check(sums[0] == checksum.crc32c(page), "the checksum of a page", name)
        value = combined = 0
        for piece in pieces(data, 5 * size):
            value = checksum.crc32c(piece, value)
            combined = checksum.crc32c_combine(combined, checksum.crc32c(piece), len(piece))
            calls += 3
        check(value == combined == checksum.crc32c(data), "checksums in pieces", name)
        found = value, checksum.crc32c(page)
        check(expected in (None, found), "checksums by implementation", name)
        expected = found
    checksum.use(before)
    return calls + 4 * len(checksum.implementations())


def call_deltas(words: numpy.ndarray, memory: bytearray) -> int:
    zero, room = memoryview(bytes(8)).cast("Q"), bytearray(deltas.bound(1))
    for held, new in zip(pieces(memoryview(memory), PAGE), pieces(memoryview(memory)[PAGE:], PAGE)):
        sender, receiver = bytearray(held), bytearray(held)
        size = deltas.encode(sender, new, room)
        done, taken, _, _ = deltas.decode(memoryview(room)[:size], receiver, zero)
        check(done == 1 and taken == size and receiver == new, "deltas encoded and decoded")
    numbers, target = memoryview(struct.pack("<3Q", 0, 1, 0)).cast("Q"), bytearray(2 * PAGE)
    hostile = pieces(view(words), 24)[:120]
    for data in hostile:
        done, taken, _, _ = deltas.decode(data, target, numbers)
        check(0 <= done <= 3 and 0 <= taken <= len(data), "deltas decoded", done, taken)
    return 14 + len(hostile)


def call_page_tables(words: numpy.ndarray, rng: random.Random) -> int:
    table = bytearray((view(words).tobytes() * 2)[:PAGE])
    frames, state = memoryview(bytearray(8 * 64)).cast("Q"), bytearray(64)
    for kind in (1, 2, 3, 4, 9, 10, 11, 12, 0):
        types = bytes([kind])
        for levels in (3, 4):
            pagetables.check(table, types, rng.choice((1, 64, 1 << 40)), levels=levels, strict=True)
        pagetables.localise(table, types, frames, bytearray(PAGE))
        pagetables.referenced(table, types, state, frames)
    return 36


def call_batches(words: numpy.ndarray, size: int, rng: random.Random) -> int:
    """Batches of pages that aren't all there, in every frame that the words make, with hardly any room."""
    head = struct.pack("<IIII", 1, 8 + 8 * size, size, 0)
    found, extents = bytearray(8 * rng.choice((1, size, 64))), memoryview(bytearray(16 * 4)).cast("Q")
    inputs = [head + bytes(piece) + b"\0" * 16 for piece in pieces(view(words), 8 * size)]
    strict = rng.random() < 0.5
    for data in inputs:
        done, position, count, _ = batches.scan(data, 1, 1 << 20, 1 << 12, strict, found, extents)
        check(position <= len(data) and 8 * count <= len(found) and 2 * done <= len(extents), "batches scanned")
    for data in pieces(view(words, 1), 8 * size):
        batches.scan(data, 1, 1 << 20, 1 << 52, strict, found, extents)
    return 2 * len(inputs)


def call_frames(words: numpy.ndarray, size: int, rng: random.Random) -> int:
    """Headers of zstd frames with anything after their magic number, and small blocks."""
    magic, data = b"\x28\xb5\x2f\xfd", view(words & numpy.uint64(rng.choice((0x3F, 0xFF00FF, (1 << 64) - 1))), 1)
    for piece in pieces(data, 8 * size):
        frame = magic + bytes(piece)
        status, end, _, _, _ = zframes.header(frame, 0)
        check(status != zframes.GOOD or 4 < end <= len(frame), "the header of a frame", frame)
        status, end, _ = zframes.follow(frame * 3, 0)
        check(status != zframes.GOOD or end <= 3 * len(frame), "the end of a frame", frame)
        zframes.header(data, rng.randrange(len(data)))
        found = zframes.agreeing(frame * 3, bytes(piece), 0, 0)
        check(0 <= found <= size, "frames that agree with a table", frame)
    return 4 * (WORDS // size)


def call_cache(words: numpy.ndarray, size: int, rng: random.Random) -> int:
    """A sender's cache of pages, and the receiver that has its deltas only."""
    cache, received = deltas.Cache(16, rng.choice((1, 3, 20))), bytearray(16 * PAGE)
    room, data = bytearray(deltas.bound(2)), view(words)
    for _ in range(20):
        numbers = numpy.array(rng.sample(range(16), 2), numpy.uint64)
        kinds = bytes(rng.choice((0, 0, 0, 1)) for _ in numbers)
        new = b"".join(bytes(received[number * PAGE:number * PAGE + PAGE]) for number in numbers.tolist())
        changed = bytearray(rng.choice((new, bytes(2 * PAGE))))
        for _ in range(rng.randrange(4)):
            at = rng.randrange(0, len(changed) - 64, 4)
            changed[at:at + 8 * size] = data[at:at + 8 * size]
        changed = changed[:2 * PAGE].ljust(2 * PAGE, b"\0")
        used = cache.encode(view(numbers).cast("Q"), kinds, changed, room)
        done, taken, _, _ = deltas.decode(memoryview(room)[:used], received, view(numbers).cast("Q"))
        check((done, taken) == (2, used), "a sender's deltas decoded", done, taken, used)
        for place, number in enumerate(numbers.tolist()):
            same_page = received[number * PAGE:number * PAGE + PAGE] == changed[place * PAGE:place * PAGE + PAGE]
            check(same_page, "a page by its deltas")
    return 40


def call_files(words: numpy.ndarray, size: int, rng: random.Random) -> int:
    """Pages into a file and a pipe and back."""
    memory = bytearray((view(words).tobytes() * 9)[:16 * PAGE])
    memory[:PAGE * rng.randrange(3)] = b""
    memory = memory.ljust(16 * PAGE, b"\0")
    numbers = numpy.array([rng.randrange(16) for _ in range(rng.randrange(1, 9))], numpy.uint64)
    at, head, sparse = view(numbers).cast("Q"), view(words)[:rng.randrange(64)], rng.random() < 0.5
    expected = bytearray(len(numbers) * PAGE)
    pages.gather(memory, at, expected)
    with tempfile.TemporaryFile() as file:
        fd = file.fileno()
        written = pages.write_pages(fd, head, memory, at, rng.random() < 0.5, sparse)
        check(written == len(head) + len(expected) == os.fstat(fd).st_size, "bytes of pages written")
        check(os.pread(fd, written, 0) == bytes(head) + expected, "pages written")
        os.lseek(fd, len(head), os.SEEK_SET)
        back, rest = bytearray(16 * PAGE), bytearray(rng.choice((0, 100)))
        check(pages.read_pages(fd, back, at, 0, rest or None) == len(expected), "bytes of pages read")
        from_file = bytearray(16 * PAGE)
        check(pages.read_file_pages(fd, len(head), from_file, at) == len(expected) and from_file == back,
              "pages read from a place in a file")
        again = bytearray(len(expected))
        pages.gather(back, at, again)
        last = {number: place for place, number in enumerate(numbers.tolist())}
        for place in last.values():
            check(again[place * PAGE:][:PAGE] == expected[place * PAGE:][:PAGE], "pages read")
        os.ftruncate(fd, 0)
        pages.pwrite_pages(fd, at, expected, sparse)
        pages.pread_pages(fd, at, again)
        check(all(again[place * PAGE:][:PAGE] == expected[place * PAGE:][:PAGE] for place in last.values()),
              "pages of a memory image")
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        ends = numpy.array(sorted({rng.randrange(1, len(numbers) + 1), len(numbers)}), numpy.uint64)
        pages.write_batches(fd, 1, view(numbers), view(ends).cast("Q"), memory, rng.random() < 0.5, sparse)
        batches_written = os.pread(fd, 1 << 20, 0)
        check(batches_written == _batches_of(numbers.tolist(), ends.tolist(), bytes(expected)), "batches written")
        os.lseek(fd, 0, os.SEEK_SET)
        reading, writing = os.pipe()
        moved = transfer.transfer(fd, writing, rng.choice((0, 1, 5000, 60000)))
        os.close(writing)
        piped = bytearray(moved)
        check(pages.readv(reading, [memoryview(piped)[:moved // 2], memoryview(piped)[moved // 2:]]) == moved
              and piped == batches_written[:moved], "bytes moved to a pipe", moved)
        os.close(reading)
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        cut = [memory[start:start + 999 * size] for start in range(0, len(memory), 999 * size)]
        pages.writev(fd, cut, sparse)
        check(os.pread(fd, 1 << 20, 0) == memory, "buffers written")
    return 9


def call_transfers(words: numpy.ndarray, size: int, rng: random.Random) -> int:
    """Bytes from any kind of file to any other, and pages by reference into a pipe that is full at times."""
    data = view(words)[:rng.randrange(8 * WORDS)]
    pairs = socket.socketpair(), os.pipe()
    ends = pairs[0][0].detach(), pairs[0][1].detach(), *pairs[1]
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as copy:
        file.write(data)
        file.flush()
        most, plain, sink = rng.randrange(2 * len(data) + 1), file.fileno(), copy.fileno()
        wanted = bytes(data[:most])
        for source, into in ((plain, ends[1]), (ends[0], ends[3]), (ends[2], sink), (plain, sink)):
            os.lseek(plain, 0, os.SEEK_SET)
            moved = transfer.transfer(source, into, most if source == plain else len(wanted))
            check(moved == len(wanted), "bytes moved", moved, len(wanted))
        transfer.begin_writing(sink, len(wanted))
        check(os.pread(sink, 4 * len(data) + 1, 0) == 2 * wanted, "bytes moved through all kinds of files")
    memory = bytearray((view(words).tobytes() * 5)[:8 * PAGE])
    numbers = numpy.array([rng.randrange(8) for _ in range(40)], numpy.uint64)
    os.set_blocking(ends[3], rng.random() < 0.5)
    taken: List[bytes] = []
    reader = threading.Thread(target=lambda: taken.append(_read(ends[2], 40 * PAGE)))
    reader.start()
    sent = vmsplice.splice_pages(ends[3], memory, view(numbers).cast("Q"))
    reader.join()
    expected = bytearray(40 * PAGE)
    pages.gather(memory, view(numbers).cast("Q"), expected)
    check(sent == len(expected) and taken[0] == expected, "pages sent by reference")
    for end in ends:
        os.close(end)
    return 7


def _read(fd: int, size: int) -> bytes:
    found = b""
    while len(found) < size:
        found += os.read(fd, size - len(found))
    return found


def call_refusals(words: numpy.ndarray, size: int, rng: random.Random) -> int:
    """Buffers of sizes that don't fit together: nothing outside them is read or written."""
    data, null = view(words, rng.choice((0, 1))), os.open("/dev/null", os.O_RDWR)
    numbers = view(words & numpy.uint64(rng.choice((1, 7, 63, (1 << 64) - 1)))).cast("Q")

    def argument(kind: str) -> Any:
        if kind in "if":
            return rng.choice((0, 1, 4, 8, 16, 1 << 20)) if kind == "i" else null
        at = rng.randrange(WORDS - 1100)
        if kind in "qQ":
            count = rng.choice((0, 1, 2, size, 64, 512, 1024))
            return numbers[at:at + count] if kind == "q" else index_of(count)
        count = rng.choice((0, 1, 8, 64, PAGE, 3 * PAGE))
        return data[:count] if kind == "b" else bytearray(data[at:at + count])

    for _ in range(64):
        kernel, kinds = rng.choice(REFUSING)
        with contextlib.suppress(ValueError, IndexError, OverflowError, OSError):
            kernel(*map(argument, kinds))
    os.close(null)
    return 64


#: Kernels, and their arguments: bytes, numbers (both capital if written), an integer, a descriptor.
REFUSING: Tuple[Tuple[Callable[..., object], str], ...] = (
    (pfns.unpack, "bQB"), (pfns.pack, "qBB"), (pfns.check, "bii"), (pfns.widen, "biiiB"), (pfns.narrow, "biB"),
    (pfns.count_data, "b"), (pfns.data_pfns, "bQ"), (pfns.highest_pfn, "b"), (pfns.mark, "bB"),
    (pfns.select, "bBiiBQ"), (pfns.populated_of, "qBB"), (pfns.forget, "qBQ"), (pfns.types_of, "bB"),
    (pfns.populated, "bB"), (pfns.populated_pfns, "biQ"), (pfns.bitmap_to_pfns, "biQ"), (pfns.pfns_to_bitmap, "qB"),
    (pfns.runs, "qQQ"), (pfns.ascending, "q"), (pfns.batch_end, "qii"), (p2m.lookup, "qqQ"), (p2m.types_at, "bqB"),
    (p2m.changed, "qqB"), (p2m.widen, "bQ"), (p2m.narrow, "qB"), (p2m.claim, "bBQ"), (p2m.assign, "Qqq"),
    (p2m.populated_only, "qbQ"), (pages.scatter, "Bqb"), (pages.gather, "bqB"), (pages.compare, "bqbQ"),
    (pages.zero_pages, "bQ"), (pages.zero_pfns, "bqQ"), (pages.write_pages, "fbbqii"),
    (pages.write_batches, "fibqbii"), (pages.read_pages, "fBqi"), (pages.pwrite_pages, "fqbi"),
    (pages.pread_pages, "fqB"), (batches.scan, "biiiiBQ"), (batches.scan_sparse, "bqiiiiB"),
    (batches.scatter, "Bqbq"), (checksum.crc32c_pages, "bB"), (contents.classify, "bB"), (hashes.xxh64_pages, "bQ"),
    (deltas.decode, "bBq"), (deltas.encode, "BbB"), (pagetables.referenced, "bbBQ"), (pagetables.localise, "bbqB"),
    (vmsplice.splice_pages, "fbq"), (zframes.header, "bi"), (zframes.follow, "bi"), (zframes.agreeing, "bbii"),
)


def _batches_of(numbers: List[int], ends: List[int], data: bytes) -> bytes:
    made, begin = b"", 0
    for end in ends:
        count = end - begin
        made += struct.pack("<IIII", 1, 8 + count * (8 + PAGE), count, 0) + struct.pack(
            "<{}Q".format(count), *numbers[begin:end]) + data[begin * PAGE:end * PAGE]
        begin = end
    return made


CALLS = (call_words, call_states, call_bitmaps, call_legacy, call_tables, call_pages, call_batches, call_frames,
         call_cache, call_files, call_transfers, call_refusals)
TARGETS: Dict[str, Target] = {"kernels": kernels}
