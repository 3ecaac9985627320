"""What the fuzzer does with an input: one function for each way into the package, with what must hold there.

A target takes the input and a random number generator that depends on it alone, and returns whether the input was a
good stream. It raises Finding where something doesn't hold; any other exception is a finding as well, unless
``attempt`` knows it as an answer about the stream.
"""
import bz2
import contextlib
import gzip
import io
import itertools
import json
import lzma
import os
import random
import struct
import tempfile
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Tuple

import ways

import xstream
from xstream import cli, printing
from xstream.kernels import batches, checksum, deltas, p2m, pages, pagetables, pfns
from xstream.stream.legacy_writer import LegacyWriter
from xstream.stream.reader import without_cut_record
from xstream.tools import bodies
from xstream.tools.contents import Wanted, contents_of
from xstream.tools.digest import digest_memory
from xstream.wire import legacy, libxc
from xstream.xen import convert_helper, libxl, save_helper

PAGE = libxc.PAGE_SIZE
PFNS = 1 << 12
LIMITS = xstream.Limits(record_length=1 << 22, body_length=1 << 18, batch_pfns=1 << 13, guest_pfns=PFNS,
                        state_length=1 << 20)
#: Every kind of source. One that gives single bytes is only used for short inputs.
SOURCES = [name for name in ways.WAYS if name not in ("buffer", "trickle")]
CONTAINERS = ("libxc", "libxl", "xl", "libvirt", "xenopsd")
CONFIGS = {"xl": b'{"c_info": {"name": "x"}}', "libvirt": b"<domain/>",
           "xenopsd": b'((time 20230101T00:00:00Z)(word_size 64)(vm_str x)(xs_subtree()))'}
Target = Callable[[bytes, random.Random], Any]
Outcome = Tuple[Any, Any]  # ("ok", value) or ("error", how it is compared); see attempt()


class Finding(Exception):
    """Something that must hold doesn't. ``key`` is the same for findings that are probably the same fault."""

    def __init__(self, key: str, detail: Any = "") -> None:
        super().__init__("{}: {!r:.3000}".format(key, detail))
        self.key = key


def check(holds: Any, key: str, *detail: Any) -> None:
    if not holds:
        raise Finding(key, detail)


# Helpers: outcomes, options, sources.

def attempt(work: Callable[[], Any]) -> Outcome:
    """What some work gives. Checks that an error says where it is, and can be printed."""
    try:
        return "ok", work()
    except xstream.StreamError as error:
        json.dumps(error.as_dict())
        check(str(error).isprintable(), "unprintable error", str(error))
        check(error.offset is not None, "error without offset: " + error.message)
        return "error", (type(error).__name__, error.layer, error.offset, error.record, error.record_type, error.field,
                         str(error.expected), str(error.got), error.message)
    except xstream.MissingPart as error:
        return "error", ("MissingPart", str(error))


def at_limit(outcome: Outcome) -> bool:
    return outcome[0] == "error" and outcome[1][0] == "LimitExceeded"


def differ(key: str, first: Outcome, second: Outcome, *detail: Any) -> None:
    """Check that two outcomes are the same, and say where they begin to differ."""
    if first != second:
        a, b = first[1], second[1]
        if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
            a, b = next(((x, y) for x, y in itertools.zip_longest(a, b) if x != y), (a, b))
        raise Finding(key, (detail, first[0], a, second[0], b))


def options_of(rng: random.Random, *, checkpointed: Optional[bool] = None) -> Dict[str, Any]:
    options: Dict[str, Any] = {"limits": LIMITS, "strict": rng.random() < 0.2}
    options["checkpointed"] = rng.random() < 0.5 if checkpointed is None else checkpointed
    if rng.random() < 0.05:
        options["format"] = rng.choice(("libxc", "legacy", "xl", "libvirt", "libxl", "xenopsd", "xend", "colo"))
    if rng.random() < 0.05:
        options.update(width=rng.choice((4, 8)), guest=rng.choice(("pv", "hvm")))
    return options


def without(options: Dict[str, Any], *names: str) -> Dict[str, Any]:
    return {name: value for name, value in options.items() if name not in names}


def from_any(data: bytes, rng: random.Random, work: Callable[[Any], Any]) -> Outcome:
    """The outcome of some work on a source of any kind that holds the bytes."""
    way = rng.choice(SOURCES) if data and not is_compressed(data) else "buffer"
    with ways.WAYS[way](data) as source:
        return attempt(lambda: work(source))


def is_compressed(data: bytes) -> bool:
    return data[:3] in (b"\x1f\x8b\x08", b"BZh") or data[:6] == b"\xfd7zXZ\0" or data[:4] == b"\x28\xb5\x2f\xfd"


def to_file(work: Callable[[str], Any]) -> Tuple[Outcome, bytes]:
    """The outcome of some work that writes a file, and what is in it. After an error there must be no file."""
    with tempfile.TemporaryDirectory(prefix="xstream-fuzz-") as folder:
        path = os.path.join(folder, "out")
        outcome = attempt(lambda: work(path))
        left = os.listdir(folder)
        check(left == (["out"] if outcome[0] == "ok" else []), "files left", left, outcome)
        if not left:
            return outcome, b""
        check(os.stat(path).st_mode & 0o777 == 0o600, "mode of the output")
        check(os.stat(path).st_blocks * 512 < 64 << 20, "an output larger than its input", os.stat(path))
        with open(path, "rb") as file:
            return outcome, file.read()


def loaded(data: Any, options: Dict[str, Any]) -> xstream.GuestMemory:
    memory = xstream.GuestMemory(limit=PFNS)
    xstream.load(data, memory, **dict({"jobs": 1}, **options))
    return memory


def memory_of(memory: xstream.GuestMemory) -> Tuple[str, bytes]:
    """What memory holds: the checksum of its pages, and which are populated up to the highest."""
    return digest_memory(memory).pages_sha256, memory.populated.tobytes().rstrip(b"\0")


def verified(data: Any, options: Dict[str, Any]) -> Outcome:
    return attempt(lambda: xstream.verify(data, **options))


def printed(work: Callable[[], Any]) -> Any:
    """The result of some work that prints. Control characters would reach a terminal."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        result = work()
    check(out.getvalue().replace("\n", "").isprintable(), "control characters are printed", out.getvalue()[:3000])
    return result


# Readers.

def read(source: Any, options: Dict[str, Any]) -> List[Any]:
    """All records of a source, what an error or the end says last."""
    found: List[Any] = []

    def iterate() -> None:
        with xstream.open(source, **options) as reader:
            layers = None
            for record in reader:
                try:
                    found.append((reader.layer, reader.index, reader.offset, ways.whole(record)))
                except xstream.TruncatedStream:
                    # Pages that are cut off after a complete checkpoint are void; who reads them as they come decides.
                    if not reader.checkpoints:
                        raise
                    layers = without_cut_record(reader)
                    break
            found.append(("end", layers or reader.layers, reader.checkpoints, reader.identity, reader.missing,
                          reader.unread))

    outcome = attempt(iterate)
    return found if outcome[0] == "ok" else found + [outcome]


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
    if outcome[0] == "ok" and "legacy" not in outcome[1].source and not is_compressed(data):
        # libvirt's version is set right; the output ends where the stream ends.
        same = copy[20:] == data[20:len(copy)] if data.startswith(b"libvirt-") else data.startswith(copy)
        check(same, "a copy differs", options, outcome)
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
    differ("verify differs", verdict, from_any(data, rng, lambda source: xstream.verify(source, **options)), options)
    memory = attempt(lambda: loaded(data, options))
    if not at_limit(verdict) and not at_limit(memory) and not about_pages(memory):
        # Record bodies are verify's alone; a loader only takes what carries memory.
        agree = verdict[0] == memory[0] or (verdict[0] == "error" and not structural(data, options))
        check(agree, "verify and load disagree", options, verdict[0:2], memory[1] if memory[0] == "error" else "ok")
    return verdict[0] == "ok"


def about_pages(outcome: Outcome) -> bool:
    """Whether an error is about the contents of pages, which verify doesn't read: a page table, the start info, pages
    sent for comparison. (A COLO back channel has no memory: verify takes it, nothing loads it.)"""
    return outcome[0] == "error" and (outcome[1][0] == "MemoryMismatch" or outcome[1][1] == "colo"
                                      or outcome[1][5] in ("page table entry", "page", "store_mfn", "console.domU.mfn"))


def structural(data: bytes, options: Dict[str, Any]) -> bool:
    """Whether iterating over the records raises an error."""
    return read(data, options)[-1][0] == "error"


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


def from_source(data: bytes, rng: random.Random, work: Callable[[Any], Any]) -> Any:
    """The result of some work on a source of any kind."""
    way = rng.choice(SOURCES) if data and not is_compressed(data) else "buffer"
    with ways.WAYS[way](data) as source:
        return work(source)


def compare_outcomes(key: str, first: Outcome, second: Outcome, *detail: Any) -> None:
    """Check that both worked, or that both raised the same error."""
    check(first[0] == second[0], key + ": another outcome", detail, first[1], second[1])
    if first[0] == "error":
        differ(key + ": another error", first, second, *detail)


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
    if done[0] == "error" or done[1].target in ("config", "device-model"):
        return False
    check_converted(data, written, done[1], options, plain=squash or last)
    return True


def check_converted(data: bytes, written: bytes, done: Any, options: Dict[str, Any], *, plain: bool) -> None:
    kept = ("limits", "checkpointed", "format", "width", "guest")
    reading = {name: value for name, value in options.items() if name in kept}
    reading["checkpointed"] |= plain
    judged = verified(data, reading)
    supplied = options.get("device_model") or options.get("no_device_model")
    if judged[0] == "error" and not (supplied and judged[1][0] == "IncompleteStream"):
        return  # convert passes on bodies that it doesn't read; verify judges them
    keeps = not plain and done.checkpoints > 0
    verdict = verified(written, {"limits": LIMITS, "checkpointed": keeps})
    bare_hvm = done.target == "libxc" and verdict[0] == "error" and verdict[1][0] == "IncompleteStream"
    # verify judges neither the bodies of legacy records nor the frames in a legacy PV guest's registers.
    bodies_of_legacy = ("X86_PV_VCPU_BASIC", "HVM_CONTEXT")
    registers = "legacy" in done.source and verdict[0] == "error" and verdict[1][4] in bodies_of_legacy
    good = verdict[0] == "ok" or at_limit(verdict) or bare_hvm or registers
    check(good, "converted, a stream is bad", options, done, verdict)
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


def restore(data: bytes, rng: random.Random) -> bool:
    """A guest is restored from any source if and only if verify says ok."""
    options = options_of(rng)
    options.pop("width", None)
    guest = options.pop("guest", None) or kind_of(data, options)
    options.pop("guest", None)
    first = attempt(lambda: restored(data, guest, options))
    with ways.WAYS[rng.choice(("pipe", "object", "mapped", "descriptor") if data else ("buffer",))](data) as source:
        second = attempt(lambda: restored(source, guest, options))
    if first[0] != second[0] and any(one[0] == "error" and one[1][5] == "trailing bytes" for one in (first, second)):
        return False  # restore reads descriptors exactly up to the end, and doesn't see what follows
    differ("restore differs", first, second, options)
    verdict = verified(data, options)
    if first[0] == "error" and first[1][:2] == ("UnsupportedStream", "legacy"):
        return False  # they are converted first
    refused = first[0] == "ok" and first[1][0] == "refused"
    if first[0] == "ok" and not refused and first[1][4] != "None":
        return False  # an error after a complete checkpoint is a failover to it, not a failure
    if not refused and not at_limit(first) and not at_limit(verdict) and not about_pages(first) \
            and not around_memory(verdict, data, options):
        check(first[0] == verdict[0], "verify and restore disagree", options, verdict, first)
    return first[0] == "ok" and not refused


def around_memory(verdict: Outcome, data: bytes, options: Dict[str, Any]) -> bool:
    """Whether verify objects to the body of a container's record, such as a configuration, which restore hands on."""
    return verdict[0] == "error" and verdict[1][1] != "libxc" and not structural(data, options)


def kind_of(data: bytes, options: Dict[str, Any]) -> str:
    """The kind of guest in a stream."""
    try:
        with xstream.open(data, **options) as reader:
            return "pv" if "PV" in reader.identity.guest else "hvm"
    except (xstream.StreamError, xstream.NeedMoreData):
        return "hvm"


def restored(source: Any, kind: str, options: Dict[str, Any]) -> Tuple[Any, ...]:
    guest = xstream.SimulatedGuest.empty(kind, limit=PFNS, seed=5)
    try:
        done = xstream.restore(source, guest, **options)
    except xstream.GuestError as error:
        check(guest.abandoned, "a guest that isn't abandoned")
        return "refused", type(error).__name__
    except xstream.StreamError:
        check(guest.abandoned, "a guest that isn't abandoned")
        raise
    check(guest.completed is not None, "a guest that isn't completed")
    contents = checksum.crc32c(guest.memory.buffer) if len(guest.memory) <= PFNS else 0
    return (done.pages, done.bytes, done.differing, done.checkpoints, repr(done.failover), repr(done.completed),
            done.config, done.device_model, done.xenstore_data, contents)


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
        status = printed(lambda: cli.main(words))
        check(status in (0, 1, 2, 4), "exit status", status, words[:1] + words[2:])
        check(not os.path.exists(out) or status == 0 or "--salvage" in words, "a file left", words)
        return bool(status == 0)


def helpers(data: bytes, rng: random.Random) -> None:
    """libxl's side of the save helper's protocol, and the arguments of the helpers, answer any bytes with a result, or
    with LibxlGone."""
    reading, writing = os.pipe()
    os.write(writing, data[:1000])
    os.close(writing)
    with tempfile.TemporaryFile() as sent:
        parent = libxl.Libxl(rng.getrandbits(10), old=rng.random() < 0.5, read_fd=reading, write_fd=sent.fileno())
        text = data.decode("utf-8", "surrogateescape")
        with contextlib.suppress(libxl.LibxlGone):
            for _ in range(300):
                parent.log(libxl.INFO, text)
                parent.progress(text[:100], rng.getrandbits(64), 1)
                check(-1 << 31 <= parent.ask(rng.randrange(1, 9)) < 1 << 31, "an answer of more than 32 bits")
                if not rng.randrange(100):
                    parent.complete(-1, rng.getrandbits(31))
        _check_messages(sent)
    os.close(reading)
    words = [word.decode("utf-8", "replace") for word in data[:2000].split(b"\0")]
    mode = rng.choice(("--save-domain", "--restore-domain"))
    save_helper.parse(words)
    save_helper.parse([mode] + words)
    save_helper.parse([mode] + [str(number) for number in data[:rng.choice((6, 7, 9, 11))]])
    convert_helper._parse(words)


def _check_messages(sent: Any) -> None:
    """Every message has the length that it says."""
    sent.seek(0)
    stream = sent.read()
    at = 0
    while at < len(stream):
        length, = struct.unpack_from("<H", stream, at)
        check(length >= 2 and at + 2 + length <= len(stream), "a message of a wrong length", at, length)
        at += 2 + length


# Kernels.

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
    "convert": convert, "compressed": compressed, "restore": restore, "export": export, "commands": commands,
    "helpers": helpers, "wire": wire, "kernels": kernels,
}
