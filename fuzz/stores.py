"""Targets for stores of images: scans, policy files, and compressed images that are read by their table."""
import json
import os
import random
import tempfile
from typing import Any, Dict, List, Tuple

from common import (
    LIMITS,
    Target,
    attempt,
    check,
    compare_outcomes,
    differ,
    loaded,
    memory_of,
    options_of,
    printed,
    read,
    to_file,
    verified,
    ways,
    without,
)

import xstream
from xstream import fleet, printing
from xstream.fleet.cache import Cache
from xstream.fleet.places import Place
from xstream.fleet.policy_file import parse_policy
from xstream.stream import packing
from xstream.stream.seekable import frames
from xstream.stream.zstd import ENTRY, FOOTER, FOOTER_MAGIC, SKIPPABLE, SKIPPABLE_MAGIC

_SMALL_IMAGE = packing.SMALL_IMAGE
#: A frame of an image: its bytes, and what the table says of it: compressed size, size of the contents.
Parts = List[List[Any]]


def scan(data: bytes, rng: random.Random) -> bool:
    """A scan says of an image what verify says; its record survives the cache, and prints as text."""
    settings = fleet.Settings(limits=LIMITS, strict=rng.random() < 0.2, checkpointed=rng.random() < 0.5,
                              duplicates=rng.random() < 0.5, digest=rng.random() < 0.3)
    options = {"limits": LIMITS, "strict": settings.strict, "checkpointed": settings.checkpointed}
    with tempfile.TemporaryDirectory(prefix="xstream-fuzz-") as folder:
        path = os.path.join(folder, "image")
        with open(path, "wb") as file:
            file.write(data)
        place = Place(path, len(data), "1")
        found = fleet.scan_image(place, settings)
        check(found.status in (0, 1, 4), "state of a scan", found)
        verdict = verified(data, options)
        if verdict[0] == "error":
            same = found.error == verdict[1][0] and found.offset == verdict[1][2]
            check(same, "scan and verify differ", found, verdict)
        elif not settings.digest:
            check(found.state == "ok", "scan of a good image", found)
        json.dumps(found.as_dict())
        report = None
        if found.sample is not None:
            total = fleet.Duplicates()
            total.add(found.sample)
            total.add(found.sample)
            report = total.report()
            check(report.distinct + report.within + report.between == report.pages == 2 * found.sample.pages
                  and min(report) >= 0, "duplicates don't add up", report)
        printed(lambda: (printing.print_scanned(found), printing.print_scan([found, found], report)))
        fleet.write_csv([found], os.path.join(folder, "csv"))
        for _ in range(2):
            cache = Cache(os.path.join(folder, "cache"), settings)
            known = cache.find(place)
            cache.add(place, found)
            cache.close()
        check(known == found, "a record differs from the cache's", known, found)
    attempt(lambda: parse_policy(data[:20000]))
    return found.status == 0


def seekable(data: bytes, rng: random.Random) -> bool:
    """A compressed image whose frames or table are damaged or lie: read by its table it gives the same as read from
    front to back, or an error."""
    options = without(options_of(rng), "format", "strict")
    packing.SMALL_IMAGE = rng.choice((0, 0, _SMALL_IMAGE))  # most streams here are small
    outcome, image = to_file(lambda out: xstream.convert(data, out, compress="zstd:1", **options))
    if outcome[0] == "error" or "legacy" in outcome[1].source or not image.startswith(b"\x28\xb5\x2f\xfd"):
        return False
    compare_outcomes("compressed by convert", attempt(lambda: memory_of(loaded(data, options))),
                     attempt(lambda: memory_of(loaded(image, options))), options)
    parts = split_image(image)
    check(join_image(parts) == image, "an image that isn't frames and a table")
    for _ in range(rng.choice((1, 1, 2, 4))):
        rng.choice(CHANGES)(parts, rng)
    changed = join_image(parts)
    plain = read_plainly(changed, options)
    with ways.mapped(changed) as path:
        by_table = read(path, options)
        # A frame that is cut looks like the end of a stream with checkpoints, unless a table says that it was longer.
        if plain[-1][0] == "end" and not (options.get("checkpointed") and by_table[-1][0] == "error"):
            differ("read by its table, an image differs", ("", plain), ("", by_table), options)
        memory, view = (attempt(lambda: memory_of(loaded(path, options))), attempt(lambda: xstream.MemoryView(
            path, **without(dict(options, checkpointed=True), "strict"))))
        if memory[0] == "ok" and view[0] == "ok":
            with view[1] as opened:
                read_pages = attempt(lambda: bytes(opened[0:len(opened)].reshape(-1)) if len(opened) else b"")
            if read_pages[0] == "ok":
                check(read_pages[1] == bytes(loaded(path, options).buffer), "MemoryView of an image differs", options)
        first = attempt(lambda: xstream.digest(path, jobs=1, **options))
        second = attempt(lambda: xstream.digest(path, jobs=3, **options))
        compare_outcomes("digest with threads", first, second, options)
    return plain[-1][0] == "end"


def read_plainly(image: bytes, options: Dict[str, Any]) -> Any:
    """The records of an image that is read from front to back."""
    with ways.pipe(image) as source:
        return read(source, options)


def split_image(image: bytes) -> Parts:
    found = frames(memoryview(image)) or []
    return [[image[frame.begin:frame.end], frame.end - frame.begin, frame.size] for frame in found]


def join_image(parts: Parts) -> bytes:
    """The frames and their table."""
    table = b"".join(ENTRY.pack(size & 0xFFFFFFFF, contents & 0xFFFFFFFF) for _, size, contents in parts)
    return b"".join(part[0] for part in parts) + SKIPPABLE.pack(SKIPPABLE_MAGIC, len(table) + FOOTER.size) + table \
        + FOOTER.pack(len(parts), 0, FOOTER_MAGIC)


def _drop(parts: Parts, rng: random.Random) -> None:
    if parts:
        del parts[rng.randrange(len(parts))]


def _double(parts: Parts, rng: random.Random) -> None:
    if parts:
        at = rng.randrange(len(parts))
        parts.insert(at, list(parts[at]))


def _swap(parts: Parts, rng: random.Random) -> None:
    if len(parts) > 1:
        at = rng.randrange(len(parts) - 1)
        parts[at], parts[at + 1] = parts[at + 1], parts[at]


def _lie(parts: Parts, rng: random.Random) -> None:
    """Let the table say another size; now and then another's frame pays for it."""
    if parts:
        part, column = rng.choice(parts), rng.choice((1, 2))
        by = rng.choice((1, -1, 8, 4096, -4096, -part[column], 1 << 31))
        part[column] += by
        if rng.random() < 0.5:
            rng.choice(parts)[column] -= by


def _damage(parts: Parts, rng: random.Random) -> None:
    if parts:
        part = rng.choice(parts)
        frame = bytearray(part[0])
        if frame:
            frame[rng.choice((rng.randrange(len(frame)), rng.randrange(min(len(frame), 12))))] ^= 1 << rng.randrange(8)
        part[0] = bytes(frame)


def _truncate(parts: Parts, rng: random.Random) -> None:
    if parts:
        part = rng.choice(parts)
        part[0] = part[0][:rng.randrange(len(part[0]) + 1)]
        if rng.random() < 0.5:
            part[1] = len(part[0])


def _merge(parts: Parts, rng: random.Random) -> None:
    """One entry of the table for two frames."""
    if len(parts) > 1:
        at = rng.randrange(len(parts) - 1)
        first, second = parts[at], parts.pop(at + 1)
        parts[at] = [first[0] + second[0], first[1] + second[1], first[2] + second[2]]


def _insert(parts: Parts, rng: random.Random) -> None:
    """A skippable frame, an empty one, or bytes that are none."""
    import zstandard
    frame = rng.choice((SKIPPABLE.pack(0x184D2A50 + rng.randrange(16), 5) + bytes(5), bytes(7),
                        zstandard.ZstdCompressor().compress(b""),
                        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(rng.randrange(5000)))))
    parts.insert(rng.randrange(len(parts) + 1), [frame, len(frame), rng.choice((0, 0, 1, 4096))])


CHANGES: Tuple[Any, ...] = (_drop, _double, _swap, _lie, _lie, _damage, _damage, _truncate, _merge, _insert)

TARGETS: Dict[str, Target] = {"scan": scan, "seekable": seekable}
