"""Saving a guest, cold, live or with checkpoints: the engine that writes its stream.

Source of the order and the rules: tools/libs/guest/xg_sr_save.c; docs/features/migration.pandoc.
"""
import time

from xstream.contexts import suppress
from xstream.errors import CorruptStream, LimitExceeded, StreamError
from xstream.guest.enclosure import Enclosure
from xstream.guest.guest import GUEST_TYPES, Cancelled, Guest, GuestError, HookError, Pages
from xstream.guest.hooks import Hooks
from xstream.guest.rounds import Round
from xstream.kernels import pages as page_kernel
from xstream.kernels import pfns as pfn_kernel
from xstream.kernels.buffers import uint64, uint64_of
from xstream.limits import Limits
from xstream.stream.sink import Sink, compressed, compression_of, opened_sink
from xstream.stream.threads import usable_cpus
from xstream.tuples import NamedTuple
from xstream.wire import libxc
from xstream.wire.frames import FRAME
from xstream.wire.libxc import (
    BATCH_PFNS,
    PAGE_SIZE,
    CheckpointDirtyPfnList,
    DomainHeader,
    PageData,
    StaticDataEnd,
    VcpuBasic,
    Verify,
    data_pfns,
    words_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Generator, Iterator, List, Optional, Tuple

    from xstream.guest.enclosure import DeviceModel, XenstoreData
    from xstream.guest.policies import Policy
    from xstream.guest.pv_source import SourceP2M
    from xstream.kernels.buffers import Flags
    from xstream.stream.source import Source
    from xstream.stream.types import SinkLike, SourceLike

#: Bytes of a dirty bitmap that are expanded to PFNs in one step.
_BITMAP_PIECE = 8192
_XTAB = 0xF
_SUPERPAGE_PFNS = 512


class Saved(NamedTuple):
    """The report of a save.

    - ``rounds``: all rounds, in order; ``bytes``: length of the stream;
    - ``downtime``: seconds from the last suspension until the guest's memory and state had been written;
    - ``checkpoints``: number of checkpoints sent;
    - ``memory_crc``: the CRC32C of the guest's memory, read once more after the last round, if it was asked for; None
      if not. See :func:`save`.
    """

    rounds: "Tuple[Round, ...]"
    bytes: int
    downtime: float
    checkpoints: int
    memory_crc: "Optional[int]" = None


class Saver:
    """One save of one guest. See :func:`save` for the arguments.

    ``steps()`` performs it and yields after each batch, so that a caller with an event loop can send what its sink has
    gathered. ``saved`` is set at the end.
    """

    def __init__(self, guest: Guest, sink: "SinkLike", *, live: bool = False, policy: "Optional[Policy]" = None,
                 verify: bool = False, container: "Optional[str]" = None, config: "Optional[bytes]" = None,
                 device_model: "Optional[DeviceModel]" = None, xenstore_data: "Optional[XenstoreData]" = None,
                 checkpoint: "Optional[Callable[[int], bool]]" = None, back_channel: "Optional[SourceLike]" = None,
                 on_round: "Callable[[Round], object]" = lambda last: None,
                 progress: "Callable[[int, int], object]" = lambda done, total: None,
                 cancelled: "Callable[[], bool]" = lambda: False, limits: Limits = Limits(),
                 sparse: bool = True, compress: "Optional[str]" = None, memory_crc: bool = False) -> None:
        if back_channel is not None and (checkpoint is None or guest.kind != "hvm" or container is not None):
            raise ValueError("a back channel is for bare streams with checkpoints of HVM guests")
        if verify and checkpoint is not None:
            raise ValueError("verify and checkpoint exclude each other: a stream with checkpoints can't hold VERIFY")
        self._compress = compression_of(sink, compress)
        if self._compress is not None and checkpoint is not None:
            raise ValueError("checkpoints can't be compressed: each must reach the other side at once")
        self.saved: Optional[Saved] = None
        self._sink_like = sink
        self._sparse = sparse
        self._sink: Sink
        self._guest = guest
        self._hooks = Hooks(guest)
        self._enclosure = Enclosure(container, config=config, device_model=device_model, xenstore_data=xenstore_data,
                                    checkpointed=checkpoint is not None, limits=limits)
        self._live = live
        self._policy = policy
        self._verify = verify
        self._wants_crc = memory_crc
        self._memory_crc: Optional[int] = None
        self._checkpoint = checkpoint
        self._back_channel: Optional[Source] = None if back_channel is None else _opened(back_channel)
        self._owns_back_channel = self._back_channel is not back_channel
        self._on_round = on_round
        self._progress = progress
        self._cancelled = cancelled
        self._limits = limits
        self._p2m: Optional[SourceP2M] = None
        self._pfn_end = 0
        self._rounds: List[Round] = []
        self._checkpoints = 0
        self._downtime = 0.0
        # A bit for each PFN that couldn't be sent while the guest ran, and has to be sent again.
        self._deferred = bytearray()
        self._scratch_bits = bytearray()
        self._scratch = memoryview(b"")
        self._tracking = self._suspended = False

    def steps(self) -> "Generator[None, None, None]":
        """Perform the save, batch by batch. If it fails, or the iterator is closed, the guest is as :func:`save`
        says."""
        try:
            # A file at a path is completed at the end of this block, before the guest is given up.
            with opened_sink(self._sink_like, splice=self._guest.spliceable and self._compress is None,
                             sparse=self._sparse) as opened, \
                    compressed(opened, self._compress, usable_cpus()) as self._sink:
                yield from self._stream()
        except BaseException:
            try:
                self._roll_back()
            finally:
                with suppress(HookError):
                    self._hooks.end()
            raise
        finally:
            if self._back_channel is not None and self._owns_back_channel:
                self._back_channel.close()
        self._hooks.end()
        self.saved = Saved(tuple(self._rounds), self._sink.offset, self._downtime, self._checkpoints,
                           self._memory_crc)

    def _stream(self) -> "Iterator[None]":
        self._set_up()
        yield
        if self._live or self._checkpoint:
            self._tracking = True
            self._hooks.track_dirty(True)
        if self._live:
            yield from self._live_rounds()
        yield from self._stop_and_send("final", whole=not self._live)
        if self._checkpoint:
            yield from self._send_checkpoints(self._checkpoint)
        else:
            self._stop_tracking()
            self._enclosure.finish(self._writer)
            self._sink.drain()

    def _set_up(self) -> None:
        """Write the headers and everything that precedes memory."""
        if self._guest.kind == "pv":
            from xstream.guest.pv_source import SourceP2M  # not needed for other guests
            self._p2m = SourceP2M(self._guest, self._hooks, self._limits.guest_pfns)
        self._pfn_end = self._p2m.pfn_end if self._p2m else self._hooks.pfn_end()
        if self._pfn_end > self._limits.guest_pfns:
            raise GuestError("a guest of {:#x} PFNs, over the limit of {:#x}".format(
                self._pfn_end, self._limits.guest_pfns))
        self._deferred, self._scratch_bits = (bytearray(-(-self._pfn_end // 8)) for _ in range(2))
        self._hooks.start_save(self._pfn_end)
        static = self._hooks.static_records()
        domain = DomainHeader(GUEST_TYPES[self._guest.kind], 12, 0, *self._guest.xen_version)
        self._writer = self._enclosure.begin(self._sink, domain)
        info, frames = self._p2m.records() if self._p2m else ((), ())
        for record in (*info, *static, StaticDataEnd(), *frames):
            self._writer.write(record)

    def _live_rounds(self) -> "Iterator[None]":
        """Send rounds while the guest runs, until the policy stops. Dirty PFNs then aren't cleaned yet."""
        from xstream.guest.policies import Decision, xen_policy  # not needed for other saves
        policy = self._policy or xen_policy()
        dirty = self._everything()
        while True:
            yield from self._round(dirty, "live")
            decision = policy(self._rounds[-1])
            if decision is Decision.ABORT:
                raise Cancelled("the policy gave up after round {}".format(self._rounds[-1].number))
            if decision is Decision.STOP:
                return
            dirty = self._read_dirty()

    def _stop_and_send(self, phase: str, whole: bool = False) -> "Iterator[None]":
        """Suspend the guest; send all of its memory or what is dirty, and its state."""
        self._hooks.suspend()
        self._suspended = True
        begin = time.monotonic()
        # Needed for a whole round too: it also reads the p2m again.
        dirty = self._read_dirty()
        if pfn_kernel.count_bits(self._deferred):
            dirty = _union(dirty, self._deferred)
            self._deferred = bytearray(len(dirty))
        if self._back_channel is not None and self._checkpoints:
            self._merge_dirty_list(self._back_channel, dirty)
        yield from self._round(self._everything() if whole else dirty, phase)
        if self._verify:
            self._writer.write(Verify())
            yield from self._round(self._everything(), "verify")
        if self._wants_crc:
            from xstream.guest.memory_crc import memory_crc  # rarely asked for
            self._memory_crc = memory_crc(self._hooks, self._pfn_end, self._types_of, self._frames_of)
        for record in self._hooks.state_records():
            if self._p2m and isinstance(record, VcpuBasic):
                record = self._p2m.normalised(record)
            self._writer.write(record)
        self._downtime = time.monotonic() - begin

    def _send_checkpoints(self, go_on: "Callable[[int], bool]") -> "Iterator[None]":
        """Complete the first checkpoint, and send further ones."""
        while True:
            self._enclosure.checkpoint(self._writer)
            self._sink.drain()
            self._checkpoints += 1
            yield
            self._hooks.resume()
            self._suspended = False
            if not go_on(self._checkpoints):
                self._stop_tracking()
                return
            yield from self._stop_and_send("checkpoint")

    def _stop_tracking(self) -> None:
        if self._tracking:
            self._tracking = False
            self._hooks.track_dirty(False)

    def _roll_back(self) -> None:
        """Undo what has been done. Once a checkpoint has been sent, the destination may have continued from it, and the
        guest must not run twice."""
        with suppress(HookError):
            self._stop_tracking()
        if self._suspended and not self._checkpoints:
            self._suspended = False
            self._hooks.resume()

    def _everything(self) -> bytearray:
        bitmap = bytearray(b"\xff") * (self._pfn_end // 8)
        return bitmap + bytes([(1 << self._pfn_end % 8) - 1]) if self._pfn_end % 8 else bitmap

    def _read_dirty(self) -> bytearray:
        """The dirty PFNs, which are clean from now on. Of a PV guest, also those that have moved to another frame."""
        bitmap = bytearray(-(-self._pfn_end // 8))
        if self._tracking:
            self._hooks.read_dirty(memoryview(bitmap), True, self._suspended)
        if self._p2m:
            self._p2m.refresh(bitmap)
        return bitmap

    def _count_dirty(self) -> int:
        """How many PFNs the next round would send."""
        count = self._hooks.count_dirty()
        if count is None:
            bitmap = bytearray(-(-self._pfn_end // 8))
            self._hooks.read_dirty(memoryview(bitmap), False, False)
            count = pfn_kernel.count_bits(bitmap)
        return count + pfn_kernel.count_bits(self._deferred)

    def _merge_dirty_list(self, source: "Source", dirty: bytearray) -> None:
        """COLO: add the PFNs that the secondary has changed since the last checkpoint."""
        start = source.offset
        kind, length = FRAME.unpack_from(source.need(FRAME.size))
        layer = "libxc back channel"
        if libxc.RECORDS.get(kind, ("", None))[1] is not CheckpointDirtyPfnList:
            raise CorruptStream("not a list of dirty PFNs", field="type", expected="CHECKPOINT_DIRTY_PFN_LIST",
                                got=libxc.type_name(kind), layer=layer, offset=start)
        if length > self._limits.body_length:
            raise LimitExceeded("list of dirty PFNs longer than the limit", field="length",
                                expected="at most {}".format(self._limits.body_length), got=length, layer=layer,
                                offset=start)
        body = bytes(source.need(FRAME.size + length)[FRAME.size:])
        try:
            libxc.parse(kind, body)
            pfn_kernel.pfns_to_bitmap(memoryview(body).cast("Q"), dirty)
        except (StreamError, IndexError) as error:
            raise CorruptStream("bad list of dirty PFNs: {}".format(error), field="pfns",
                                expected="PFNs under {:#x}".format(self._pfn_end), layer=layer, offset=start)
        source.advance(FRAME.size + length)

    def _round(self, dirty: bytearray, phase: str) -> "Iterator[None]":
        """Send the PFNs whose bits are set."""
        begin, offset = time.monotonic(), self._sink.offset
        done = pages = 0
        total = pfn_kernel.count_bits(dirty)
        for pfns in _batches(dirty):
            if self._cancelled():
                raise Cancelled("cancelled by the caller")
            pages += self._send_batch(pfns)
            done += len(pfns)
            self._progress(done, total)
            yield
        left = None
        if phase == "live":
            if self._p2m:
                self._p2m.check_unmoved()
            left = self._count_dirty()
        self._rounds.append(Round(len(self._rounds), phase, done, pages, self._sink.offset - offset,
                                  time.monotonic() - begin, left))
        self._on_round(self._rounds[-1])

    def _send_batch(self, pfns: memoryview) -> int:
        """Send PFNs as one record; returns the number of pages in it."""
        types = memoryview(bytearray(len(pfns)))
        self._hooks.page_types(self._frames_of(pfns), types)
        words = words_of(pfns, types)
        carrying = data_pfns(words)
        if not len(carrying):
            self._writer.write_batch(words, b"", carrying)
            return 0
        with self._hooks.mapped(self._frames_of(carrying), running=not self._suspended) as pages:
            if any(pages.missing):
                words, pages = self._without_missing(words, carrying, pages)
                carrying = data_pfns(words)
            if self._p2m and self._p2m.any_tables(words):
                return self._send_with_tables(self._p2m, words, carrying, pages)
            self._writer.write_batch(words, pages.memory, pages.at)
            return len(carrying)

    def _without_missing(self, words: memoryview, pfns: memoryview, pages: Pages) -> "Tuple[memoryview, Pages]":
        """A batch without the pages that the guest has given up since their types were read: they are sent again
        later."""
        words, kept = self._defer(words, pfns, pages.missing)
        from xstream.kernels import p2m as p2m_kernel  # needed for few guests
        at = uint64(len(kept))
        p2m_kernel.lookup(pages.at, kept, at)
        return words, pages._replace(at=at)

    def _types_of(self, first: int, end: int) -> bytes:
        types = bytearray(end - first)
        self._hooks.page_types(self._frames_of(uint64_of(range(first, end))), memoryview(types))
        return bytes(types)

    def _frames_of(self, pfns: memoryview) -> memoryview:
        return self._p2m.frames_of(pfns) if self._p2m else pfns

    def _send_with_tables(self, p2m: "SourceP2M", words: memoryview, pfns: memoryview, pages: Pages) -> int:
        """Send a batch that contains page tables: a copy in which they are normalised."""
        if not len(self._scratch):
            self._scratch = memoryview(bytearray(BATCH_PFNS * PAGE_SIZE))
        copy = self._scratch[:len(pfns) * PAGE_SIZE]
        page_kernel.gather(pages.memory, pages.at, copy)
        torn = p2m.normalise_tables(copy, words, pfns, paused=self._suspended)
        if any(torn):
            words, kept = self._defer(words, pfns, torn)
            whole = memoryview(bytearray(len(kept) * PAGE_SIZE))
            page_kernel.gather(copy, kept, whole)
            copy = whole
        # The next batch overwrites the copy, so it must not be sent by reference.
        self._writer.write(PageData(words, copy))
        return len(copy) // PAGE_SIZE

    def _defer(self, words: memoryview, pfns: memoryview, flags: "Flags") -> "Tuple[memoryview, memoryview]":
        """Mark pages to be sent again once the guest is suspended; ``flags`` has a byte for each of ``pfns``, which are
        those of the words that carry data. Returns the batch's words, with type XTAB for these pages, and the indices
        of its other pages."""
        deferred = uint64_of(pfn for pfn, flag in zip(pfns, flags) if flag)
        pfn_kernel.pfns_to_bitmap(deferred, self._deferred)
        first, last = deferred[0] // 8, deferred[-1] // 8 + 1
        pfn_kernel.pfns_to_bitmap(deferred, self._scratch_bits)
        changed, kept = memoryview(bytearray(len(words))), uint64(len(pfns))
        count, pages = pfn_kernel.select(words, self._scratch_bits, False, False, changed, kept)
        self._scratch_bits[first:last] = bytes(last - first)
        pfn_kernel.pack(deferred, bytes([_XTAB]) * len(deferred), changed[8 * count:])
        return changed, kept[:pages]


def _opened(back_channel: "SourceLike") -> "Source":
    from xstream.stream.source import open_source  # not needed without COLO
    return open_source(back_channel)


def _union(first: bytearray, second: bytearray) -> bytearray:
    """The bits set in either of two bitmaps of the same size."""
    bits = int.from_bytes(first, "little") | int.from_bytes(second, "little")
    return bytearray(bits.to_bytes(len(first), "little"))


def _batches(bitmap: bytearray) -> "Iterator[memoryview]":
    """The set bits of a bitmap as PFNs, ascending, in batches of at most 1024; each is good until the next."""
    bits = memoryview(bitmap)
    room = uint64(8 * _BITMAP_PIECE + BATCH_PFNS)
    held = 0
    for start in range(0, len(bits), _BITMAP_PIECE):
        held += pfn_kernel.bitmap_to_pfns(bits[start:start + _BITMAP_PIECE], 8 * start, room[held:])
        done = 0
        while held - done > BATCH_PFNS:
            size = _batch_size(room[done:held])
            yield room[done:done + size]
            done += size
        room[:held - done] = room[done:held]
        held -= done
    if held:
        yield room[:held]


def _batch_size(pfns: memoryview) -> int:
    """How many of more than 1024 ascending PFNs go into the next batch.

    Since 4.21 Xen rebuilds a 2 MiB page only from 512 aligned PFNs within one record, so a batch ends before such a run
    that doesn't fit whole.
    """
    last = pfns[BATCH_PFNS - 1]
    start = last - last % _SUPERPAGE_PFNS
    at = BATCH_PFNS - 1 - (last - start)
    end = at + _SUPERPAGE_PFNS
    whole = end <= len(pfns) and pfns[at] == start and pfns[end - 1] == start + _SUPERPAGE_PFNS - 1
    return at if whole and end > BATCH_PFNS else BATCH_PFNS


def save(guest: Guest, sink: "SinkLike", *, live: bool = False, policy: "Optional[Policy]" = None, verify: bool = False,
         container: "Optional[str]" = None, config: "Optional[bytes]" = None,
         device_model: "Optional[DeviceModel]" = None, xenstore_data: "Optional[XenstoreData]" = None,
         checkpoint: "Optional[Callable[[int], bool]]" = None,
         back_channel: "Optional[SourceLike]" = None, on_round: "Callable[[Round], object]" = lambda last: None,
         progress: "Callable[[int, int], object]" = lambda done, total: None,
         cancelled: "Callable[[], bool]" = lambda: False, limits: Limits = Limits(), sparse: bool = True,
         compress: "Optional[str]" = None, memory_crc: bool = False) -> Saved:
    """Write a guest's stream to ``sink``: a path, a descriptor, a socket, or an object with ``write``.

    A file at a path appears when the stream is complete and synced, with mode 0600; a pipe or device at the path is
    written in place. Everything else stays open.

    - ``live``: send memory while the guest runs, round after round, before suspending it; else suspend it first;
    - ``policy``: decides after each live round whether another follows: :func:`xen_policy` (the default),
      :func:`downtime_policy`, or any function from :class:`Round` to :class:`Decision`;
    - ``verify``: at the end, send everything once more for comparison;
    - ``container``: "libxl", "xl", "libvirt" or "xenopsd": write the stream within that container. None: a bare libxc
      stream;
    - ``config``: the domain's configuration: for "xl" JSON or the text of a config file, for "libvirt" the XML, for
      "xenopsd" the Xenops record;
    - ``device_model``: QEMU's record; ``xenstore_data``: (key, value) of the device model's xenstore entries. Both are
      values, or functions that return them, called with the guest suspended once everything else has been written;
    - ``checkpoint``: send checkpoints (Remus). Called after each one with its number, from 1, while the guest runs
      again. It returns when the next checkpoint is due, True to send it. The stream has no END;
    - ``back_channel``: COLO: what the secondary sends, as any source. Its list of dirty PFNs is read before each
      checkpoint but the first;
    - ``on_round``: called with each Round once it has been sent; ``progress``: called after each batch with the number
      of PFNs sent and to send in this round; ``cancelled``: called before each batch, True stops. To end a write that
      the other side doesn't accept, close that side;
    - ``limits``: ``guest_pfns`` is the size of the largest guest;
    - ``sparse``: a regular file gets holes instead of blocks of zeros; its bytes are the same;
    - ``compress``: "zstd" or "zstd:LEVEL": write a compressed image, by as many threads as the process may use CPUs;
      see :func:`xstream.convert`;
    - ``memory_crc``: read the suspended guest's whole memory once more, and report its CRC32C: that of the image from
      PFN 0 on, with zeros where there is no page or (PV) a page table. :func:`restore` reports the same of what it has
      restored, so equal values prove a migration correct. It adds to the downtime.

    Afterwards the guest is suspended; or running, if ``checkpoint`` ended the save.

    Raises HookError and other GuestErrors; OSError from the sink; StreamError if the guest's records don't form a valid
    stream; MissingPart if the container needs a configuration; ValueError for arguments that exclude each other; and
    what the caller's functions raise. Then the guest runs as before, with three exceptions. HookError of "resume"
    leaves it suspended. HookError of "end" means that the save itself succeeded. Once a CHECKPOINT has been sent, a
    suspended guest stays suspended, because the destination may continue from that checkpoint: ``guest.resume()`` is
    then the caller's decision.
    """
    saver = Saver(guest, sink, live=live, policy=policy, verify=verify, container=container, config=config,
                  device_model=device_model, xenstore_data=xenstore_data, checkpoint=checkpoint,
                  back_channel=back_channel, on_round=on_round, progress=progress, cancelled=cancelled, limits=limits,
                  sparse=sparse, compress=compress, memory_crc=memory_crc)
    for _ in saver.steps():
        pass
    assert saver.saved is not None
    return saver.saved
