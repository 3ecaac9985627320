"""What the fuzzer's targets share: outcomes and how they are compared, options, sources and sinks."""
import contextlib
import io
import itertools
import json
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import ways  # noqa: E402

import xstream  # noqa: E402
from xstream.kernels import checksum  # noqa: E402
from xstream.stream.reader import without_cut_record  # noqa: E402
from xstream.wire import libxc  # noqa: E402

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


class Ran:
    """How often anything of the package has been tried."""

    tools = 0


def attempt(work: Callable[[], Any]) -> Outcome:
    """The outcome of some work. Checks that an error says where it is, and can be printed."""
    Ran.tools += 1
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
    outcome: Outcome = from_source(data, rng, lambda source: attempt(lambda: work(source)))
    return outcome


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


def memory_of(memory: xstream.GuestMemory) -> Tuple[int, bytes]:
    """What memory holds: a checksum of it, and which PFNs are populated, both without the zeros at the end."""
    return checksum.crc32c(bytes(memory.buffer).rstrip(b"\0")), memory.populated.tobytes().rstrip(b"\0")


def verified(data: Any, options: Dict[str, Any]) -> Outcome:
    return attempt(lambda: xstream.verify(data, **options))


def printed(work: Callable[[], Any]) -> Any:
    """The result of some work that prints. Control characters would reach a terminal."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        result = work()
    check(out.getvalue().replace("\n", "").isprintable(), "control characters are printed", out.getvalue()[:3000])
    return result


def from_source(data: bytes, rng: random.Random, work: Callable[[Any], Any]) -> Any:
    """The result of some work on a source of any kind."""
    way = rng.choice(SOURCES) if data and not is_compressed(data) else "buffer"
    with ways.WAYS[way](data) as source:
        return work(source)


def compare_outcomes(key: str, first: Outcome, second: Outcome, *detail: Any) -> None:
    """Check that both worked, or that both raised the same error."""
    if after_end(first):
        return
    check(first[0] == second[0], key + ": another outcome", detail, first[1], second[1])
    if first[0] == "error":
        differ(key + ": another error", first, second, *detail)


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


def about_pages(outcome: Outcome) -> bool:
    """Whether an error is about the contents of pages, which verify doesn't read: a page table, the start info, pages
    sent for comparison. (A COLO back channel has no memory: verify takes it, nothing loads it.)"""
    return outcome[0] == "error" and (outcome[1][0] == "MemoryMismatch" or outcome[1][1] == "colo"
                                      or outcome[1][5] in ("page table entry", "page", "store_mfn", "console.domU.mfn"))


def after_end(outcome: Outcome) -> bool:
    """Whether an error comes from what follows the stream, up to which a socket isn't read."""
    return outcome[0] == "error" and outcome[1][0] == "IncompleteStream" and "vcpu" in outcome[1][6]


def structural(data: bytes, options: Dict[str, Any]) -> bool:
    """Whether iterating over the records raises an error."""
    return read(data, options)[-1][0] == "error"


def around_memory(verdict: Outcome, data: bytes, options: Dict[str, Any]) -> bool:
    """Whether verify objects to the body of a container's record, such as a configuration, which restore hands on."""
    return verdict[0] == "error" and verdict[1][1] not in ("libxc", "legacy") and not structural(data, options)
