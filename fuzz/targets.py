"""What the fuzzer does with an input: one function for each way into the package, with what must hold there.

A target takes the input and a random number generator that depends on it alone, and returns whether the input was a
good stream. It raises Finding where something doesn't hold; any other exception is a finding as well, unless
``attempt`` knows it as an answer about the stream.
"""
import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import random
import tempfile
from functools import partial
from typing import Any, Dict, List, Optional, Tuple

from common import (
    CONFIGS,
    CONTAINERS,
    LIMITS,
    PAGE,
    SOURCES,
    Finding,
    Outcome,
    Ran,
    Target,
    about_pages,
    after_end,
    around_memory,
    at_limit,
    attempt,
    check,
    compare_outcomes,
    differ,
    from_any,
    from_source,
    is_compressed,
    loaded,
    memory_of,
    options_of,
    printed,
    read,
    structural,
    to_file,
    verified,
    ways,
    without,
)

import xstream
from xstream import cli, printing
from xstream.kernels import checksum
from xstream.stream.legacy_writer import LegacyWriter
from xstream.tools import bodies
from xstream.tools.contents import Wanted, contents_of
from xstream.wire import legacy, libxc

#: Layers that convert writes as they were.
COPIED = (("libxc",), ("libxl", "libxc"), ("xl", "libxl", "libxc"), ("libvirt", "libxl", "libxc"),
          ("xenopsd", "libxc"), ("xenopsd", "libxl", "libxc"))


# Readers.

def push(data: bytes, options: Dict[str, Any], rng: random.Random) -> List[Any]:
    """The same, from pieces of random sizes."""
    found: List[Any] = []
    reader = xstream.PushReader(**options)

    def feed() -> None:
        at, most = 0, rng.choice((100, 1000, 5000, 100000))
        while at <= len(data):
            size = rng.randrange(1, most)
            if at < len(data):
                reader.feed(data[at:at + size])
            at += size
            if at >= len(data):
                reader.finish()
            for record in reader.records():
                found.append((reader.reader.layer, reader.reader.index, reader.reader.offset, ways.whole(record)))
        last = reader.reader
        found.append(("end", last.layers, last.checkpoints, last.identity, last.missing, last.unread))

    outcome = attempt(feed)
    return found if outcome[0] == "ok" else found + [outcome]


def records(data: bytes, rng: random.Random) -> bool:
    """Every kind of source gives the same records or the same error."""
    options = options_of(rng)
    first = read(data, options)
    for way in rng.sample(SOURCES, 2) + ["push"] + ["trickle"] * (len(data) < 2000):
        if way == "push":
            if not is_compressed(data):
                differ("push differs", ("", first), ("", push(data, options, rng)), options)
        elif data and not (is_compressed(data) and way == "fed"):
            with ways.WAYS[way](data) as source:
                differ("source {} differs".format(way), ("", first), ("", read(source, options)), options)
    return first[-1][0] == "end"


def again(data: bytes, rng: random.Random) -> bool:
    """What is read and written again is the same."""
    options = options_of(rng)
    with contextlib.suppress(xstream.StreamError), xstream.open(data, **options) as reader:
        if isinstance(reader, xstream.Reader):
            return _libxc_again(data, reader)
        if isinstance(reader, xstream.LegacyReader):
            return _legacy_again(data, reader)
    outcome, copy = to_file(lambda out: xstream.convert(data, out, **options))
    if outcome[0] == "ok" and outcome[1].source in COPIED and not is_compressed(data):
        # What libvirt's version and xl's flags say of the stream is set right; the output ends where the stream ends.
        head = {"libvirt": 20, "xl": 40}.get(outcome[1].source[0], 0)
        check(copy[head:] == data[head:len(copy)], "a copy differs", options, outcome)
    return outcome[0] == "ok"


def _libxc_again(data: bytes, reader: Any) -> bool:
    out = io.BytesIO()
    writer = xstream.Writer(out, reader.domain, reader.image, checkpointed=reader.checkpointed)
    _copy(reader, writer)
    check(data.startswith(out.getvalue()), "written again, a stream differs", out.getvalue()[-100:])
    return True


def _legacy_again(data: bytes, reader: Any) -> bool:
    out = io.BytesIO()
    start = reader.next_record()
    writer = LegacyWriter(out, start.p2m_size, width=start.width, guest=start.guest)
    compressed = False
    with contextlib.suppress(xstream.OrderError):  # the writer wants a definite order, the reader doesn't
        for record in reader:
            compressed = compressed or isinstance(record, (legacy.EnableCompression, legacy.CompressedBatch))
            if compressed:  # compression has more than one form
                return True
            with _same_error("the legacy writer refuses what was read"):
                writer.write(ways.whole(record))
    return True


@contextlib.contextmanager
def _same_error(key: str) -> Any:
    try:
        yield
    except xstream.OrderError:
        raise
    except xstream.StreamError as error:
        raise Finding(key, error)


def _copy(reader: Any, writer: Any) -> None:
    for record in reader:
        with _same_error("the writer refuses what was read"):
            writer.write(ways.whole(record))


# Tools.

def verify(data: bytes, rng: random.Random) -> bool:
    """verify gives the same answer from every source; it says ok if and only if memory can be loaded."""
    options = options_of(rng)
    verdict = verified(data, options)
    again = from_any(data, rng, lambda source: xstream.verify(source, **options))
    if not after_end(verdict):
        differ("verify differs", verdict, again, options)
    memory = attempt(lambda: loaded(data, options))
    if not at_limit(verdict) and not at_limit(memory) and not about_pages(memory):
        # Record bodies are verify's alone; a loader only takes what carries memory.
        agree = verdict[0] == memory[0] or (verdict[0] == "error" and not structural(data, options))
        check(agree, "verify and load disagree", options, verdict[0:2], memory[1] if memory[0] == "error" else "ok")
    return verdict[0] == "ok"


def info(data: bytes, rng: random.Random) -> bool:
    """info and contents describe whatever verify accepts, and print nothing but text."""
    options = options_of(rng)
    verdict = verified(data, options)

    def show(source: Any) -> Any:
        report = xstream.info(source, **options)
        printed(lambda: printing.print_info(report))
        json.dumps(report._replace(error=None)._asdict(), default=str)
        return report

    shown = from_any(data, rng, show)
    if verdict[0] == "ok" and not at_limit(shown):
        check(shown[0] == "ok" and shown[1].error is None and not shown[1].missing, "info of a good stream", shown)
    wanted = rng.choice((None, None, Wanted(None, rng.randrange(8))))

    def rows(source: Any) -> None:
        for row in xstream.contents(source, wanted, **options):
            printed(partial(printing.print_contents, row, rng.random() < 0.5))
            json.dumps(row._asdict())

    listed = from_any(data, rng, rows)
    check(verdict[0] == "error" or listed[0] == "ok" or at_limit(listed), "contents of a good stream", listed)
    return verdict[0] == "ok"


def extract(data: bytes, rng: random.Random) -> bool:
    """extract, digest and page_digests agree with load, with any number of threads; salvage always writes something."""
    options = options_of(rng)
    memory = attempt(lambda: loaded(data, options))
    jobs = rng.choice((1, 1, 1, 2))
    image, written = to_file(lambda out: from_source(data, rng, lambda source: xstream.extract(
        source, out, jobs=jobs, **options)))
    compare_outcomes("extract", memory, image, options)
    digest = from_any(data, rng, lambda source: xstream.digest(source, jobs=jobs, **options))
    compare_outcomes("digest", memory, digest, options)
    if memory[0] == "ok":
        check(written == bytes(memory[1].buffer), "extract and load differ", options)
        check(digest[1].crc32c == checksum.crc32c(written), "digest and load differ", options)
    elif rng.random() < 0.3:
        to_file(lambda out: xstream.extract(data, out, salvage=True, **options))
    return memory[0] == "ok"


def policy(data: bytes, rng: random.Random) -> bool:
    """policy and diff: a guest is compatible with itself and doesn't differ from itself."""
    options = options_of(rng)
    found = from_any(data, rng, lambda source: xstream.policy(source, **options))
    if found[0] == "ok":
        report = xstream.compare_policies(found[1], found[1])
        same = report.compatible is not False and not report.cpuid and not report.msr
        check(same, "incompatible with itself", report)
        printed(lambda: (printing.print_policy(found[1]), printing.print_differences(report)))
    itself = attempt(lambda: xstream.diff(data, data, **without(options, "strict", "checkpointed")))
    if not options.keys() & {"format", "width", "guest"}:  # those are about the first only
        check(itself[0] == "error" or itself[1].same, "differs from itself", itself)
    return itself[0] == "ok"


def convert(data: bytes, rng: random.Random) -> bool:
    """What convert writes is good, and holds the same memory."""
    options = options_of(rng)
    options["squash"] = squash = rng.random() < 0.25
    options["last_checkpoint"] = last = not squash and rng.random() < 0.25
    target = rng.choice(CONTAINERS + (None, "config", "device-model"))
    if rng.random() < 0.7:
        options["config"] = CONFIGS.get(target or "")
        options["device_model"] = rng.choice((b"QEVM" + bytes(50), None)) if target in CONTAINERS else None
        options["no_device_model"] = target in CONTAINERS and options["device_model"] is None and rng.random() < 0.5
    done, written = to_file(lambda out: from_source(data, rng, lambda source: xstream.convert(
        source, out, to=target, **options)))
    if done[0] == "error":
        check_refused(data, done, options, target)
        return False
    if done[1].target in ("config", "device-model"):
        return False
    check_converted(data, written, done[1], options, plain=squash or last)
    return True


#: Why convert refuses a good stream: what it is asked to write can't hold it.
REFUSALS = ("this format can't hold checkpoints", "a device model's record for a guest that isn't HVM",
            "a record whose length isn't known", "a compressed Remus stream that can't be read twice")


def check_refused(data: bytes, done: Outcome, options: Dict[str, Any], target: Optional[str]) -> None:
    """Only for a reason of its own does convert refuse what verify accepts."""
    reading = without(options, "squash", "last_checkpoint", "config", "device_model", "no_device_model")
    reading["checkpointed"] |= options["squash"] or options["last_checkpoint"]
    if target in CONTAINERS + (None,) and done[1][0] != "MissingPart" and not at_limit(done) and not about_pages(done) \
            and not any(reason in done[1][-1] for reason in REFUSALS):
        check(verified(data, reading)[0] == "error", "verify accepts what convert refuses", options, target, done)


def check_converted(data: bytes, written: bytes, done: Any, options: Dict[str, Any], *, plain: bool) -> None:
    kept = ("limits", "checkpointed", "format", "width", "guest")
    reading = {name: value for name, value in options.items() if name in kept}
    reading["checkpointed"] |= plain
    judged = verified(data, reading)
    keeps = not plain and done.checkpoints > 0
    verdict = verified(written, {"limits": LIMITS, "checkpointed": keeps})
    # Bodies of a container's own records, such as a configuration, are copied as they are.
    copied = judged[0] == "error" and around_memory(judged, data, reading)
    # A guest that is said to have no device model needs a configuration that says so, too.
    lacks = options.get("no_device_model") and verdict[0] == "error" and verdict[1][0] == "IncompleteStream"
    good = verdict[0] == "ok" or at_limit(verdict) or copied or lacks
    check(good, "converted, a stream is bad", options, done, verdict)
    supplied = options.get("device_model") or options.get("no_device_model")
    completed = judged[0] == "error" and supplied and judged[1][0] == "IncompleteStream"
    # What the target can't hold isn't looked at.
    left_out = judged[0] == "error" and "{} {}".format(judged[1][1], judged[1][4]) in done.dropped
    # A plain stream doesn't have the state that a later checkpoint replaces.
    good = judged[0] == "ok" or at_limit(judged) or copied or completed or left_out or plain
    check(good, "converted, a bad stream", options, judged)
    before = attempt(lambda: memory_of(loaded(data, reading)))
    after = attempt(lambda: memory_of(loaded(written, {"limits": LIMITS, "checkpointed": keeps})))
    if before[0] == "ok" and after[0] == "ok":
        check(before == after, "converted, the memory differs", options, done)


def compressed(data: bytes, rng: random.Random) -> bool:
    """Compressed, a stream gives the same records; damaged, an error."""
    if is_compressed(data):
        read(data, options_of(rng))
        return False
    options = without(options_of(rng), "format")
    packed = rng.choice((lambda: gzip.compress(data, 1), lambda: bz2.compress(data, 1),
                         lambda: lzma.compress(data, preset=0), lambda: zstd(data)))()
    if rng.random() < 0.4:
        damaged = bytearray(packed)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        read(bytes(damaged), options)
        read(packed[:rng.randrange(len(packed))], options)
        return False
    plain, through = read(data, options), read(packed, options)
    if plain[-1] != ("error",) and not (plain[-1][0] == "error" and plain[-1][1][1] is None):
        differ("compressed differs", ("", plain), ("", through), options)
    return plain[-1][0] == "end"


def zstd(data: bytes) -> bytes:
    try:
        import zstandard
    except ImportError:
        return gzip.compress(data, 1)
    return bytes(zstandard.ZstdCompressor(level=1).compress(data))


def export(data: bytes, rng: random.Random) -> bool:
    """A view of the memory reads as what load loads; every export is written whenever there is a view."""
    options = without(options_of(rng, checkpointed=True), "strict")
    memory = attempt(lambda: loaded(data, options))
    view = from_any(data, rng, lambda source: look(source, options, rng))
    compare_outcomes("MemoryView", memory, view, options)
    if memory[0] == "ok":
        for address, found in view[1]:
            expected = bytes(memory[1].buffer[address:address + len(found)]).ljust(len(found), b"\0")
            check(found == expected, "MemoryView and load differ", hex(address), len(found))
    target = rng.choice(("elf", "lime", "raw"))
    pfn = rng.randrange(32)
    only = rng.choice((None, None, (pfn, pfn + rng.randrange(40))))
    exported, written = to_file(lambda out: xstream.export(data, out, to=target, pfns=only, **options))
    compare_outcomes("export", memory, exported, options, target)
    if memory[0] == "ok" and target == "raw" and only is None:
        check(written == bytes(memory[1].buffer), "raw export and load differ")
    return memory[0] == "ok"


def look(source: Any, options: Dict[str, Any], rng: random.Random) -> List[Tuple[int, bytes]]:
    """Read a view of the memory here and there."""
    with xstream.MemoryView(source, **options) as view:
        reads = []
        for _ in range(8):
            address = rng.randrange(max(view.size, 1)) if rng.random() < 0.8 else rng.randrange(1 << 40)
            reads.append((address, view.read(address, rng.choice((0, 1, 8, 4096, 10000)))))
        list(view.populated_pfns())
        check(int(view.runs()[:, 1].sum()) == view.populated_count, "runs don't add up")
        if len(view):
            pfn = rng.randrange(len(view))
            reads.append((pfn * PAGE, bytes(view[pfn])))
            reads.append((pfn * PAGE, bytes(view[pfn:pfn + 5].reshape(-1))))
        return reads


def commands(data: bytes, rng: random.Random) -> bool:
    """The command line prints text and ends with a documented status, never with "a bug in xstream"."""
    with tempfile.TemporaryDirectory(prefix="xstream-fuzz-") as folder:
        stream, out = os.path.join(folder, "in"), os.path.join(folder, "out")
        with open(stream, "wb") as file:
            file.write(data)
        words = rng.choice((
            ["verify", stream], ["verify", stream, "--strict"], ["verify", stream, stream, "--json"], ["info", stream],
            ["info", stream, "--json"], ["info", stream, "--records"], ["info", stream, "--records", "--json"],
            ["info", stream, "--record", str(rng.randrange(9))], ["digest", stream], ["digest", stream, "--pages"],
            ["extract", stream, out], ["extract", stream, out, "--salvage"], ["policy", stream],
            ["policy", stream, stream], ["diff", stream, stream], ["extract", stream, out, "--to", "elf"],
            ["convert", stream, out], ["convert", stream, out, "--squash"],
            ["convert", stream, out, "--last-checkpoint"],
            ["convert", stream, out, "--to", rng.choice(CONTAINERS)], ["convert", stream, out, "--to", "config"]))
        if words[0] != "policy":
            words += ["--limit", "256M"]
        Ran.tools += 1
        status = printed(lambda: cli.main(words))
        check(status in (0, 1, 2, 4), "exit status", status, words[:1] + words[2:])
        check(not os.path.exists(out) or status == 0 or "--salvage" in words, "a file left", words)
        return bool(status == 0)


def wire(data: bytes, rng: random.Random) -> bool:
    """Each record body, by itself: parsed and built again it is the same; its contents can be shown."""
    kind = rng.choice(sorted(libxc.RECORDS))
    body = data[:4096]
    parsed = attempt(lambda: libxc.parse(kind, body))
    if parsed[0] == "error":
        return False
    check(b"".join(map(bytes, libxc.build(parsed[1]))) == body, "a body parsed and built", kind)
    with contextlib.suppress(xstream.StreamError):
        bodies.check_body(parsed[1], rng.choice((0, 4, 8)))
    json.dumps(contents_of(parsed[1], rng.choice((4, 8))))
    return True


TARGETS: Dict[str, Target] = {
    "records": records, "again": again, "verify": verify, "info": info, "extract": extract, "policy": policy,
    "convert": convert, "compressed": compressed, "export": export, "commands": commands, "wire": wire,
}
