"""Targets for what moves guests: restore, save, the asyncio protocol, COLO's back channel, libxl's messages."""
import asyncio
import contextlib
import io
import os
import random
import socket
import struct
import tempfile
import threading
import warnings
from typing import Any, Callable, Dict, List, Tuple

from common import (
    CONFIGS,
    CONTAINERS,
    LIMITS,
    PFNS,
    Outcome,
    Target,
    about_pages,
    around_memory,
    at_limit,
    attempt,
    check,
    differ,
    is_compressed,
    options_of,
    read,
    to_file,
    verified,
    ways,
    without,
)

import xstream
from xstream import aio
from xstream.kernels import checksum
from xstream.wire import colo, libxc
from xstream.xen import convert_helper, libxl, save_helper

#: Hooks of the simulated guest that can fail.
HOOKS = ("map_pages", "page_types", "static_records", "state_records", "track_dirty", "start_save", "count_dirty",
         "read_dirty", "suspend", "resume", "end")


def restore(data: bytes, rng: random.Random) -> bool:
    """A guest is restored from any source if and only if verify says ok."""
    options = options_of(rng)
    options.pop("width", None)
    guest = options.pop("guest", None) or kind_of(data, options)
    first = attempt(lambda: restored(data, guest, options))
    with ways.WAYS[rng.choice(("pipe", "object", "mapped", "descriptor") if data else ("buffer",))](data) as source:
        second = attempt(lambda: restored(source, guest, options))
    if any(met_trailing_bytes(one) for one in (first, second)):
        return False  # restore reads descriptors exactly up to the end, and doesn't see what follows
    if gives_up_before_the_end(first, second) or gives_up_before_the_end(second, first):
        return False
    differ("restore differs", first, second, options)
    verdict = verified(data, options)
    if first[0] == "error" and first[1][:2] == ("UnsupportedStream", "legacy"):
        return False  # they are converted first
    if first[0] == "ok" and verdict[0] == "error" and verdict[1][0] == "IncompleteStream" \
            and "HVM_CONTEXT" not in verdict[1][6]:
        return False  # libxenguest insists on nothing else, nor does restore
    if first[0] == "ok" and verdict[0] == "error" and verdict[1][4:6] == ("HVM_CONTEXT", "typecode"):
        return False  # restore passes on entries of machines that aren't Xen's
    refused = first[0] == "ok" and first[1][0] == "refused"
    if first[0] == "ok" and not refused and first[1][4] != "None":
        return False  # an error after a complete checkpoint is a failover to it, not a failure
    if first[0] == "ok" and verdict[0] == "error" and replaced_later(verdict, data, options):
        return False  # restore applies only the last of the records that may be sent again
    if not refused and not at_limit(first) and not at_limit(verdict) and not about_pages(first) \
            and not around_memory(verdict, data, options):
        check(first[0] == verdict[0], "verify and restore disagree", options, verdict, first)
    return first[0] == "ok" and not refused


def gives_up_before_the_end(first: Outcome, second: Outcome) -> bool:
    """Whether the second refuses a record that is too long, for a limit or to come before the memory, of which the
    first knows that it is cut off: only a file's end is known before as much has been read."""
    return first[0] == second[0] == "error" and first[1][0] == "TruncatedStream" and (
        second[1][0] == "LimitExceeded" or second[1][-1] == "no memory image at the beginning")


def met_trailing_bytes(outcome: Outcome) -> bool:
    """Whether bytes after the end ended a restore, or made it fail over to the last checkpoint."""
    if outcome[0] == "error":
        return bool(outcome[1][5] == "trailing bytes")
    return outcome[1][0] != "refused" and "bytes after" in outcome[1][4]


def replaced_later(verdict: Outcome, data: bytes, options: Dict[str, Any]) -> bool:
    """Whether a record that verify objects to is sent again, or comes after the last complete checkpoint."""
    found = [row for row in read(data, options) if len(row) == 4 and row[0] == verdict[1][1]]
    bad = [row for row in found if row[1] == verdict[1][3]]
    checkpoints = [row[2] for row in found if isinstance(row[3], libxc.Checkpoint)]
    if not bad:
        return False
    return any(type(row[3]) is type(bad[0][3]) and row[2] > bad[0][2] for row in found) \
        or bool(checkpoints) and checkpoints[-1] < bad[0][2]


def kind_of(data: bytes, options: Dict[str, Any]) -> str:
    """The kind of guest in a stream."""
    try:
        with xstream.open(data, **options) as reader:
            return "pv" if "PV" in reader.identity.guest else "hvm"
    except (xstream.StreamError, xstream.NeedMoreData):
        return "hvm"


def restored(source: Any, kind: str, options: Dict[str, Any]) -> Tuple[Any, ...]:
    guest = xstream.SimulatedGuest.empty(kind, limit=PFNS, seed=5)
    return reported(guest, lambda: xstream.restore(source, guest, **options))


def reported(guest: Any, work: Callable[[], Any]) -> Tuple[Any, ...]:
    """What a restore did: what it returned, and what is in the guest."""
    try:
        done = work()
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


# Save.

class Dribble(io.RawIOBase):
    """A sink that takes a part of what it is given, and an error after some bytes."""

    def __init__(self, rng: random.Random, most: int) -> None:
        super().__init__()
        self.taken = bytearray()
        self._rng, self._most = rng, most

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        taken = bytes(data[:self._rng.randrange(1, 5000)])
        if len(self.taken) + len(taken) > self._most:
            raise OSError(28, "no space left")
        self.taken += taken
        return len(taken)


def made(rng: random.Random, fail: Dict[str, int]) -> xstream.SimulatedGuest:
    """A small guest of any kind."""
    kind = rng.choice(("hvm", "hvm", "pv"))
    return xstream.SimulatedGuest(
        kind, rng.choice((24, 30, 50)) if kind == "pv" else rng.choice((1, 2, 12, 40)), seed=rng.getrandbits(16),
        width=rng.choice((4, 8)) if kind == "pv" else 8, vcpus=rng.choice((1, 1, 2, 5)),
        p2m=rng.choice(("tree", "linear")), used=rng.random(), holes=rng.choice((0, 0.02, 0.5)),
        dirty=rng.choice((0, 0.05, 0.6)), balloon=rng.choice((0, 0, 3)), torn=rng.choice((0, 0, 2)), fail=fail)


def save(data: bytes, rng: random.Random) -> bool:
    """A guest that was restored from the input, or any other, is saved as a good stream, the same into every sink, from
    which it is restored as it was. If a hook or the sink fails, it goes on running."""
    seed, options = rng.getrandbits(32), saving(data, rng)
    source = random.Random(seed)
    guest = None
    if rng.random() < 0.5:
        guest = xstream.SimulatedGuest.empty(kind_of(data, {"limits": LIMITS}), limit=PFNS, seed=5)
        try:
            xstream.restore(data, guest, limits=LIMITS)
        except (xstream.StreamError, xstream.GuestError):
            guest = None
    strict = guest is None  # a stream of version 2 has no CPU policies, so that its guest has none
    guest = guest or made(source, {})
    outcome, written = to_file(lambda out: saved(guest, out, options))
    if outcome[0] == "error":
        # A container may not take what the input supplies for it.
        check(outcome[1][0] == "MissingPart" or "container" in options, "a guest can't be saved", options, outcome)
        return False
    reading = {"limits": LIMITS, "checkpointed": "checkpoint" in options}
    judged = verified(written, dict(reading, strict=strict))
    # The input's guest may lack what libxenguest restores a guest without; the input's device model is anything.
    incomplete = judged[0] == "error" and judged[1][0] == "IncompleteStream" and ("container" in options or not strict)
    foreign = judged[0] == "error" and judged[1][4:6] == ("HVM_CONTEXT", "typecode")  # a machine that isn't Xen's
    check(judged[0] == "ok" or incomplete or foreign or at_limit(judged), "saved, a stream is bad", options, judged)
    if not options.get("checkpoint") and not incomplete and not at_limit(judged):
        copy = xstream.SimulatedGuest.empty(guest.kind, limit=PFNS, seed=6)
        back = attempt(lambda: xstream.restore(written, copy, **reading))
        check(back[0] == "ok" and copy.digest() == guest.digest(), "saved and restored, a guest differs", options, back)
    into_another(seed, options, rng)
    failing(random.Random(seed), seed, options, written)
    return True


def into_another(seed: int, options: Dict[str, Any], rng: random.Random) -> None:
    """Every kind of sink receives the same bytes."""
    options = dict(options, config=CONFIGS.get(options.get("container", "")))
    kept = {name: value for name, value in options.items()
            if value is not None and name not in ("xenstore_data", "device_model")}
    first = received_by("descriptor", lambda sink: xstream.save(made(random.Random(seed), {}), sink, **kept), rng)
    kind = rng.choice(("pipe", "pipe", "socket", "object"))
    guest = made(random.Random(seed), {})
    guest.spliceable = not kept["live"]
    second = received_by(kind, lambda sink: xstream.save(guest, sink, **kept), rng)
    check(first == second, "saved into a {}, a stream differs".format(kind), kept)


def received_by(kind: str, work: Callable[[Any], Any], rng: random.Random) -> bytes:
    """What a sink of some kind has received."""
    if kind == "object":
        sink = Dribble(rng, 1 << 30)
        work(sink)
        return bytes(sink.taken)
    if kind == "descriptor":
        with tempfile.TemporaryFile() as file:
            work(file.fileno())
            file.seek(0)
            return file.read()
    reading, writing = (end.detach() for end in socket.socketpair()) if kind == "socket" else os.pipe()
    found: List[bytes] = []
    thread = threading.Thread(target=lambda: found.append(ways.rest_of(reading)))
    thread.start()
    try:
        work(writing)
    finally:
        os.close(writing)
        thread.join()
        os.close(reading)
    return found[0]


def saving(data: bytes, rng: random.Random) -> Dict[str, Any]:
    """Options of a save; what a toolstack supplies is part of the input."""
    container = rng.choice((None, None, *CONTAINERS[1:]))
    options: Dict[str, Any] = {"live": rng.random() < 0.4, "verify": rng.random() < 0.2, "container": container,
                               "limits": LIMITS}
    if container:
        options["config"] = rng.choice((CONFIGS.get(container), CONFIGS.get(container), data[:200]))
        options["device_model"] = rng.choice((b"QEVM" + data[-300:], None))
        options["xenstore_data"] = rng.choice(((), [(b"a", b"b"), (data[:9].replace(b"\0", b"x") or b"k", data[9:50])]))
    else:
        checkpoints = {"checkpoint": lambda number: number < 3, "verify": False}
        options.update(rng.choice(({}, {}, {"compress": "zstd:1"}, checkpoints)))
    if container == "xl" and options["config"] is not None:
        options["config"] = options["config"].replace(b"\0", b" ")
    return {name: value for name, value in options.items() if value is not None and value != ()}


def saved(guest: Any, sink: Any, options: Dict[str, Any]) -> Any:
    try:
        return xstream.save(guest, sink, **options)
    except (ValueError, xstream.OrderError) as error:
        # What a configuration or a device model must not be; never a guest's own records.
        check("container" in options, "a guest's records are refused", options, error)
        raise xstream.MissingPart(str(error))


def failing(source: random.Random, seed: int, options: Dict[str, Any], written: bytes) -> None:
    """The same save with a hook or a sink that fails somewhere."""
    fail = {source.choice(HOOKS): source.randrange(1, 4)} if source.random() < 0.5 else {}
    guest = made(random.Random(seed), fail)
    sink = Dribble(source, 1 << 30 if fail else source.randrange(len(written) + 1))
    options = dict(options, config=CONFIGS.get(options.get("container", "")))
    if options["config"] is None:
        options = without(options, "compress", "config")
    try:
        xstream.save(guest, sink, **options)
    except (OSError, xstream.GuestError, xstream.MissingPart, ValueError) as error:
        hook = getattr(error, "hook", None)
        stays = hook in ("resume", "end") or "checkpoint" in options
        check(guest.running or stays, "a guest that stays suspended", options, fail, error)


# asyncio.

class Transport:
    """What a RestoreProtocol wants from a transport."""

    def __init__(self) -> None:
        self.paused = False

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Writer:
    """What ``aio.save`` wants from a StreamWriter."""

    def __init__(self) -> None:
        self.taken = bytearray()

    def write(self, data: Any) -> None:
        self.taken += data

    async def drain(self) -> None:
        await asyncio.sleep(0)


def in_loop(work: Callable[[], Any]) -> Any:
    """The result of a coroutine in an event loop of its own, in which nothing else may be left behind."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return loop.run_until_complete(asyncio.wait_for(work(), 60))
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def asynchronous(data: bytes, rng: random.Random) -> bool:
    """A RestoreProtocol that receives a stream in pieces of any sizes does what restore does, and keeps what follows; a
    save by ``aio`` writes what save writes."""
    options = {"limits": LIMITS, "checkpointed": rng.random() < 0.5}
    kind = kind_of(data, options)
    if not is_compressed(data):
        behind = bytes(rng.getrandbits(8) for _ in range(rng.choice((0, 0, 50))))
        with ways.fed(data + behind) as source:
            first = attempt(lambda: restored(source, kind, options))
        second = attempt(lambda: in_loop(lambda: received(data + behind, kind, options, rng)))
        differ("RestoreProtocol differs", first, second, options)
    if rng.random() < 0.2:
        same_save(rng.getrandbits(32), rng.random() < 0.5)
    return not is_compressed(data) and first[0] == "ok"


def same_save(seed: int, live: bool) -> None:
    plain, writer = io.BytesIO(), Writer()
    xstream.save(made(random.Random(seed), {}), plain, live=live)
    in_loop(lambda: aio.save(made(random.Random(seed), {}), writer, live=live))  # type: ignore[arg-type]
    check(bytes(writer.taken) == plain.getvalue(), "aio.save differs", seed, live)


async def received(data: bytes, kind: str, options: Dict[str, Any], rng: random.Random) -> Tuple[Any, ...]:
    guest = xstream.SimulatedGuest.empty(kind, limit=PFNS, seed=5)
    protocol, transport = aio.RestoreProtocol(guest, **options), Transport()
    protocol.connection_made(transport)  # type: ignore[arg-type]
    at, most = 0, rng.choice((100, 3000, 70000))
    while at < len(data) and not protocol.restored.done():
        size = rng.randrange(1, most)
        if transport.paused and rng.random() < 0.9:  # a transport may deliver a little although it is paused
            await asyncio.sleep(0)
            continue
        if hasattr(protocol, "buffer_updated"):
            room = memoryview(protocol.get_buffer(size))
            piece = data[at:at + min(size, len(room))]
            room[:len(piece)] = piece
            protocol.buffer_updated(len(piece))
        else:
            piece = data[at:at + size]
            protocol.data_received(piece)
        at += len(piece)
    protocol.eof_received()
    await asyncio.wait([protocol.restored])
    return reported(guest, protocol.restored.result)


# COLO.

def back_channel(data: bytes, rng: random.Random) -> bool:
    """COLO's back channel: read from any source and written again it is the same; a primary that is sent anything for
    it ends with an error or a good stream; a secondary writes a good one."""
    options = {"limits": LIMITS, "format": "colo", "strict": rng.random() < 0.2}
    channel = data if data.startswith(colo.START) else colo.START + data[:rng.choice((0, 8, 40, 4096))]
    first = read(channel, options)
    way = rng.choice(("pipe", "object", "fed", "descriptor", "trickle"))
    with ways.WAYS[way](channel[:4096] if way == "trickle" else channel) as source:
        if way != "trickle" or len(channel) <= 4096:
            differ("COLO from {} differs".format(way), ("", first), ("", read(source, options)), options)
    sink = io.BytesIO()
    writer = xstream.BackChannelWriter(sink)
    for found in first:
        if found[0] == "colo":
            writer.write(found[3])
    if not options["strict"]:
        check(_same_but_padding(channel, sink.getvalue()), "COLO written again differs")
    guest, out = xstream.SimulatedGuest("hvm", 12, seed=1), io.BytesIO()
    with contextlib.suppress(xstream.StreamError):
        xstream.save(guest, out, live=True, checkpoint=lambda number: number < 3, back_channel=io.BytesIO(channel),
                     limits=LIMITS)
        judged = verified(out.getvalue(), {"limits": LIMITS, "checkpointed": True})
        check(judged[0] == "ok", "a primary's stream is bad", judged)
    if rng.random() < 0.3:
        back = io.BytesIO()
        with contextlib.suppress(xstream.StreamError, xstream.GuestError):
            xstream.restore(data, xstream.SimulatedGuest.empty("hvm", limit=PFNS), limits=LIMITS, back_channel=back)
    return first[-1][0] == "end"


def _same_but_padding(channel: bytes, written: bytes) -> bool:
    """Whether what was written is what was read; padding, which isn't kept, may differ."""
    at = 0
    while at < len(written):
        number, length = struct.unpack_from("<II", written, at)
        end = at + 8 + length
        if channel[at:end] != written[at:end]:
            return False
        at = end + -length % 8
    return True


# libxl.

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


TARGETS: Dict[str, Target] = {
    "restore": restore, "save": save, "asynchronous": asynchronous, "back channel": back_channel, "helpers": helpers,
}
