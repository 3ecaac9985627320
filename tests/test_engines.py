"""Guests saved and restored: every kind, live, with every hook failing, cut anywhere, with checkpoints."""
import hashlib
import io
import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ways import WAYS

import xstream
from xstream import (
    Cancelled,
    CorruptStream,
    Decision,
    GuestError,
    GuestMemory,
    HookError,
    LimitExceeded,
    Limits,
    MemoryMismatch,
    PageData,
    Reader,
    SimulatedGuest,
    StreamError,
    TruncatedStream,
    VcpuBasic,
    Verify,
    Writer,
)
from xstream.wire import vcpu

KINDS = {
    "hvm": {"kind": "hvm"},
    "pv64": {"kind": "pv"},
    "pv64 linear": {"kind": "pv", "p2m": "linear"},
    "pv32": {"kind": "pv", "width": 4},
    "pv32 linear": {"kind": "pv", "width": 4, "p2m": "linear"},
}
LIVELY = {"dirty": 0.3, "balloon": 40, "torn": 2}


@pytest.fixture(params=list(KINDS))
def make(request):
    """A maker of guests of each kind."""
    def make(**options):
        return SimulatedGuest(**dict({"pages": 1200, "seed": 7}, **KINDS[request.param], **options))
    return make


def stream_of(guest, **options):
    out = io.BytesIO()
    xstream.save(guest, out, **options)
    return out.getvalue()


def restored(data, source, **options):
    target = SimulatedGuest.empty(source.kind, seed=99)
    return target, xstream.restore(data, target, **options)


def same_contexts(target, source):
    """The records of state of both, frames in terms of PFNs."""
    def plain(guest):
        records = []
        for record in guest.state:
            if isinstance(record, VcpuBasic):
                mfns = vcpu.frames(record.blob, guest.guest_width, in_stream=False)
                m2p = guest.m2p()
                pfns = vcpu.Frames(m2p[mfns.start_info] if record.vcpu_id == 0 else mfns.start_info,
                                   tuple(m2p[mfn] for mfn in mfns.gdt), m2p[mfns.cr3], mfns.user and m2p[mfns.user])
                records.append((record.vcpu_id, vcpu.with_frames(record.blob, guest.guest_width, pfns, in_stream=True)))
            elif isinstance(record, xstream.HvmParams):
                # Event channels belong to the host.
                records.append([param for param in record.params if param[0] not in (2, 18)])
            elif not isinstance(record, xstream.SharedInfo):
                records.append((type(record), *map(bytes_of, record)))
        return sorted(records, key=str)
    return plain(target) == plain(source) and list(map(bytes_of, target.static)) == list(map(bytes_of, source.static))


def bytes_of(value):
    return bytes(value) if isinstance(value, memoryview) else tuple(map(bytes_of, value)) if isinstance(value, tuple) \
        else value


def same(target, source):
    assert target.running and not source.running
    assert [bytes(words) for words, _ in target.contents()] == [bytes(words) for words, _ in source.contents()]
    assert target.digest() == source.digest()
    assert same_contexts(target, source)


def test_cold(make):
    source = make()
    target, report = restored(stream_of(source), source)
    same(target, source)
    assert report.pages == sum(len(pages) // 4096 for _, pages in source.contents())


def test_live(make):
    source = make(**LIVELY)
    target, report = restored(stream_of(source, live=True), source)
    same(target, source)
    assert report.differing == ()


@pytest.mark.parametrize("live", [False, True])
def test_the_crc_of_the_memory_is_the_same_at_both_ends(make, live):
    source, sink = make(**LIVELY), io.BytesIO()
    saved = xstream.save(source, sink, live=live, memory_crc=True)
    target, report = restored(sink.getvalue(), source, memory_crc=True)
    assert saved.memory_crc is not None and report.memory_crc == saved.memory_crc
    changed = bytearray(sink.getvalue())
    changed[changed.index(last_data_page(changed)) + 100] ^= 1
    assert restored(bytes(changed), source, memory_crc=True)[1].memory_crc != saved.memory_crc


def last_data_page(data):
    """The contents of the last page that no later one replaces and that isn't a page table."""
    memory = GuestMemory()
    xstream.load(bytes(data), memory)
    pages = [page.tobytes() for page, kind in zip(memory.pages, memory.types) if kind == 0 and page.any()]
    return next(page for page in pages if data.count(page) == 1)


def test_the_crc_of_the_memory_is_that_of_the_image():
    sink = io.BytesIO()
    saved = xstream.save(SimulatedGuest(pages=1200, seed=7), sink, memory_crc=True)
    assert saved.memory_crc == xstream.digest(sink.getvalue()).crc32c


def test_no_crc_unless_asked(make):
    source, sink = make(), io.BytesIO()
    assert xstream.save(source, sink).memory_crc is None
    assert restored(sink.getvalue(), source)[1].memory_crc is None


def test_verify_finds_nothing_in_a_sound_stream_and_names_what_differs(make):
    source = make()
    data = stream_of(source, live=True, verify=True)
    assert restored(data, source)[1].differing == ()
    out, pfn = io.BytesIO(), 900
    with Reader(data) as reader:
        writer, verifying = Writer(out, reader.domain), False
        for record in reader:
            verifying = verifying or isinstance(record, Verify)
            if verifying and isinstance(record, PageData):
                pages = bytearray(record.data)
                pages[4096 * list(record.pfns[record.types < 13]).index(pfn) + 5] ^= 1 if pfn in record.pfns else 0
                record = record._replace(data=pages)
                verifying = False
            writer.write(record)
    target, report = restored(out.getvalue(), source)
    assert report.differing == (pfn,)
    same(target, source)
    with pytest.raises(MemoryMismatch) as caught:
        restored(out.getvalue(), source, strict=True)
    assert caught.value.pfns == [pfn]


@settings(max_examples=40)
@given(data=st.data())
def test_whatever_the_guest_and_however_it_is_saved(data):
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    source = SimulatedGuest(
        pages=data.draw(st.integers(40, 2500)), seed=data.draw(st.integers(0, 9)), used=data.draw(st.floats(0, 1)),
        holes=data.draw(st.floats(0, 1)), dirty=data.draw(st.floats(0, 0.9)), vcpus=data.draw(st.integers(1, 4)),
        pattern=data.draw(st.sampled_from(["random", "hot", "sweep"])), balloon=data.draw(st.integers(0, 50)),
        torn=data.draw(st.integers(0, 3)), **KINDS[kind])
    policy = data.draw(st.sampled_from([
        None, xstream.xen_policy(1, 0), xstream.downtime_policy(0, rounds=3), xstream.downtime_policy(1000)]))
    stream = stream_of(source, live=data.draw(st.booleans()), policy=policy)
    xstream.verify(stream, strict=True)
    way = WAYS[data.draw(st.sampled_from(["buffer", "misaligned", "mapped", "pipe", "socket", "object"]))]
    with way(stream) as input_:
        target, _ = restored(input_, source)
    same(target, source)


def test_the_same_seed_makes_the_same_stream(make):
    assert stream_of(make(**LIVELY), live=True) == stream_of(make(**LIVELY), live=True)
    assert stream_of(make()) != stream_of(make(seed=8))


def test_xen_accepts(make, xen_tools):
    accepted, said = xen_tools.verify_stream_v2(stream_of(make(**LIVELY), live=True, verify=True))
    assert accepted, said


def test_genuine_streams(v3_stream):
    """What Xen saved restores to what the manifest says; page tables go to frames and back without a difference."""
    about, kind = v3_stream.about, "pv" if "pv" in v3_stream.path.name else "hvm"
    target = SimulatedGuest.empty(kind, seed=3)
    xstream.restore(str(v3_stream.path), target, checkpointed="remus" in v3_stream.path.name)
    if kind == "hvm":
        assert hashlib.sha256(target.memory.buffer).hexdigest() == about["final_memory_sha256"]
        assert target.memory.types.tolist() == list(bytes.fromhex(about["final_types"]))
        return
    memory = GuestMemory()
    xstream.load(str(v3_stream.path), memory)
    assert hashlib.sha256(memory.pages).hexdigest() == about["final_memory_sha256"]
    changed = set()
    for words, pages in target.contents():
        changed.update(memory.compare(PageData(words, pages)))
    # A restore writes to the start info and the p2m.
    assert changed - {target._console_pfn()} == {target.start_info_pfn, *target.p2m_pfns}
    pinned = [kind for kind in bytes.fromhex(about["final_types"]) if 9 <= kind <= 12]
    assert sorted(target.pinned.values()) == sorted(pinned)


# Hooks that fail

SAVING = ["start_save", "pfn_end", "page_types", "map_pages", "unmap_pages", "static_records", "state_records",
          "track_dirty", "read_dirty", "count_dirty", "suspend", "resume", "m2p", "shared_info"]
RESTORING = ["map_pages", "unmap_pages", "start_restore", "load_static", "populate", "set_types", "load_state",
             "pin_tables", "complete"]


@pytest.mark.parametrize("hook", SAVING)
def test_a_hook_of_the_source_fails(make, hook):
    """At its first call, its second, and so on, until it isn't called that often."""
    for call in range(1, 100):
        source = make(fail={hook: call}, **LIVELY)
        try:
            stream_of(source, live=True, verify=True)
        except HookError as error:
            assert error.hook == hook and isinstance(error.__cause__, OSError)
            assert hook in str(error)
            assert source.running
            if hook != "track_dirty":
                with pytest.raises(OSError, match="aren't tracked"):
                    source.read_dirty(bytearray(1000), False, False)
            # It can be saved again.
            target, _ = restored(stream_of(source, live=True), source)
            same(target, source)
        else:
            break
    assert call > 1 or hook in ("resume", "pfn_end", "m2p", "shared_info", "read_dirty")


def test_the_guest_cannot_be_resumed():
    source = SimulatedGuest(fail={"state_records": 1, "resume": 1})
    with pytest.raises(HookError) as caught:
        stream_of(source)
    assert caught.value.hook == "resume"
    assert caught.value.__cause__.__context__.hook == "state_records"
    assert not source.running


@pytest.mark.parametrize("hook", RESTORING)
def test_a_hook_of_the_destination_fails(make, hook):
    source = make(**LIVELY)
    data = stream_of(source, live=True)
    for call in range(1, 100):
        target = SimulatedGuest.empty(source.kind, fail={hook: call})
        try:
            xstream.restore(data, target)
        except HookError as error:
            assert error.hook == hook
            assert target.abandoned and not target.running
        else:
            assert not target.abandoned
            break
    assert call > 1 or (hook, source.kind) == ("pin_tables", "hvm")


# Connections that break

class Breaking(io.RawIOBase):
    """Accepts ``size`` bytes; then the connection is reset."""

    def __init__(self, size):
        super().__init__()
        self.left = size

    def write(self, data):
        if not self.left:
            raise ConnectionResetError(104, "the other end has gone")
        taken = min(len(data), self.left)
        self.left -= taken
        return taken


def cuts(data):
    """Places around records, and some within."""
    places = {0, 1, 39, 40}
    with Reader(data, checkpointed=True) as reader:
        for _ in reader:
            places.update((reader.offset - 1, reader.offset, reader.offset + 5, reader.offset + 5000))
    return sorted(place for place in places if place < len(data))


def test_the_stream_is_cut(make):
    source = make(pages=300)
    data = stream_of(source)
    for place in cuts(data):
        target = SimulatedGuest.empty(source.kind)
        with pytest.raises(StreamError) as caught:
            xstream.restore(data[:place], target)
        # Too short to be recognised: reported as no stream at all.
        known = place >= 12
        assert isinstance(caught.value, TruncatedStream if known else CorruptStream)
        assert caught.value.offset == (place if known else 0)
        assert target.abandoned and not target.running
        source = make(pages=300)
        with pytest.raises(ConnectionResetError):
            xstream.save(source, Breaking(place))
        assert source.running
    same(restored(stream_of(source), source)[0], source)


def test_a_reader_that_goes_away():
    source = SimulatedGuest(pages=5000)
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        xstream.save(source, writing, live=True)
    os.close(writing)
    assert source.running


# Checkpoints

def remus(source, checkpoints=4):
    """A stream with checkpoints, and the digest of the guest at each."""
    digests = []

    def checkpoint(number):
        digests.append(source.digest())
        source.step(500)
        assert source.running
        return number < checkpoints

    return stream_of(source, live=True, checkpoint=checkpoint), digests


def test_checkpoints(make):
    source = make(**LIVELY)
    data, digests = remus(source)
    assert len(set(digests)) == len(digests) == 4
    target, report = restored(data, source, checkpointed=True)
    assert target.digest() == digests[-1]
    assert report.checkpoints == 4
    assert source.running
    target, report = restored(data, source, checkpointed=True, checkpoint=lambda number: number < 2)
    assert target.digest() == digests[1]


def test_a_failover_goes_back_to_the_last_checkpoint(make):
    source = make(pages=300)
    data, digests = remus(source)
    ends = []
    with Reader(data, checkpointed=True) as reader:
        for record in reader:
            if isinstance(record, xstream.Checkpoint):
                ends.append(reader.offset + 8)
    for place in cuts(data):
        complete = sum(end <= place for end in ends)
        for way in ("buffer", "pipe"):
            with WAYS[way](data[:place]) as cut:
                if not complete:
                    with pytest.raises(StreamError):
                        restored(cut, source, checkpointed=True)
                    continue
                target, report = restored(cut, source, checkpointed=True)
                assert report.checkpoints == complete
                assert target.digest() == digests[complete - 1]


def test_a_failure_after_a_checkpoint_leaves_the_decision_to_the_caller():
    source = SimulatedGuest(fail={"state_records": 2})
    with pytest.raises(HookError):
        stream_of(source, live=True, checkpoint=lambda number: True)
    assert not source.running
    source.resume()
    assert source.running


def test_colo():
    """Both guests run between checkpoints; each makes the secondary what the primary is."""
    primary, secondary = SimulatedGuest(dirty=0.5, seed=1), SimulatedGuest.empty()
    secondary._dirtying = 0.5
    there, back = os.pipe(), os.pipe()
    digests, seen = [], []

    def at_primary(number):
        digests.append(primary.digest())
        primary.step(300)
        return number < 4

    def at_secondary(number):
        seen.append(secondary.digest())
        secondary.step(400)
        return True

    def receive():
        with os.fdopen(there[0], "rb", buffering=0) as file, os.fdopen(back[1], "wb", buffering=0) as answers:
            xstream.restore(file.fileno(), secondary, back_channel=answers.fileno(), checkpoint=at_secondary)

    thread = threading.Thread(target=receive)
    thread.start()
    try:
        xstream.save(primary, there[1], live=True, checkpoint=at_primary, back_channel=back[0])
    finally:
        os.close(there[1])
        thread.join()
        os.close(back[0])
    assert len(digests) == 4 and seen == digests


@pytest.mark.parametrize("answer, error", [
    (b"\x01" + bytes(7), CorruptStream), (b"\x0f\0\0\0\x04\0\0\0" + bytes(8), CorruptStream),
    (b"\x0f\0\0\0\xff\xff\xff\x7f", LimitExceeded), (b"\x0f\0\0\0\x08\0\0\0" + b"\xff" * 8, CorruptStream),
    (b"\x0f\0\0\0\x08\0\0\0\1", TruncatedStream)])
def test_a_bad_list_of_dirty_pfns(answer, error):
    with pytest.raises(error):
        stream_of(SimulatedGuest(), live=True, checkpoint=lambda number: True, back_channel=answer)


def test_what_goes_together():
    for options in ({"back_channel": b""}, {"verify": True, "checkpoint": lambda number: True}):
        with pytest.raises(ValueError):
            stream_of(SimulatedGuest(), **options)
    with pytest.raises(ValueError):
        stream_of(SimulatedGuest("pv"), back_channel=b"", checkpoint=lambda number: True)


# Rounds and policies

def test_rounds_follow_from_the_rate():
    """A guest that dirties a tenth of what is sent: each round has a tenth of the one before."""
    rounds = []
    source = SimulatedGuest(pages=100000, used=0.01, holes=0, dirty=0.1, pattern="sweep")
    saved = xstream.save(source, open_null(), live=True, on_round=rounds.append)
    assert saved.rounds == tuple(rounds)
    assert [last.phase for last in rounds] == ["live"] * (len(rounds) - 1) + ["final"]
    sent = [last.pfns for last in rounds]
    assert sent[0] == 100000
    for before, after in zip(sent, sent[1:]):
        assert abs(after - before / 10) <= 3
    # 100000, 10000, 1000, 100, and ten are few enough.
    assert len(rounds) == 5
    for before, after in zip(rounds, rounds[1:]):
        assert before.dirty == after.pfns
    assert sum(last.bytes for last in rounds) < saved.bytes
    assert rounds[0].pages == 100000 and rounds[0].bytes == 100000 * 4104 + 98 * 16


def open_null():
    class Null(io.RawIOBase):
        def write(self, data):
            return len(data)
    return Null()


def test_a_guest_that_never_comes_to_rest_is_stopped():
    rounds = xstream.save(SimulatedGuest(dirty=2.0), open_null(), live=True).rounds
    assert [last.phase for last in rounds] == ["live"] * 5 + ["final"]


def test_a_policy_of_the_callers_own():
    asked = []

    def policy(last):
        asked.append(last.number)
        return Decision.STOP if len(asked) == 3 else Decision.CONTINUE

    rounds = xstream.save(SimulatedGuest(dirty=0.5), open_null(), live=True, policy=policy).rounds
    assert asked == [0, 1, 2] and len(rounds) == 4
    source = SimulatedGuest()
    with pytest.raises(Cancelled):
        xstream.save(source, open_null(), live=True, policy=lambda last: Decision.ABORT)
    assert source.running


def test_downtime_policy():
    def after(dirty, number=0):
        last = xstream.Round(number, "live", 1000, 1000, 1000 * 4104, 1.0, dirty)
        return xstream.downtime_policy(100)(last)
    assert after(100) is Decision.STOP
    assert after(101) is Decision.CONTINUE
    assert after(101, 29) is Decision.STOP
    assert xstream.Round(0, "live", 0, 0, 0, 0.0, 5).downtime is None


@pytest.mark.parametrize("live", [False, True])
def test_cancelled_at_any_moment(make, live):
    for moment in range(100):
        asked = []

        def cancelled(asked=asked, moment=moment):
            asked.append(1)
            return len(asked) > moment

        source = make(**LIVELY)
        try:
            stream_of(source, live=live, cancelled=cancelled)
        except Cancelled:
            assert source.running
        else:
            break
    assert 1 < moment < 99
    target = SimulatedGuest.empty(source.kind)
    with pytest.raises(Cancelled):
        xstream.restore(stream_of(make()), target, cancelled=lambda: True)
    assert target.abandoned


def test_progress(make):
    reported, offsets = [], []
    source = make()
    data = stream_of(source, progress=lambda done, total: reported.append((done, total)))
    assert reported[-1] == (1200, 1200) and reported == sorted(reported)
    restored(data, source, progress=offsets.append)
    assert offsets == sorted(offsets)


# Invalid guests

def test_the_wrong_kind():
    target = SimulatedGuest.empty("pv")
    with pytest.raises(GuestError, match="HVM"):
        xstream.restore(stream_of(SimulatedGuest()), target)
    assert target.abandoned


def test_limits(make):
    source = make()
    with pytest.raises(GuestError):
        stream_of(source, limits=Limits(guest_pfns=1199))
    data = stream_of(source)
    with pytest.raises(LimitExceeded):
        restored(data, source, limits=Limits(guest_pfns=1199))
    small = SimulatedGuest.empty(source.kind, limit=1199)
    with pytest.raises(HookError):
        xstream.restore(data, small)


@pytest.mark.parametrize("options", [{}, {"width": 4}, {"p2m": "linear"}, {"width": 4, "p2m": "linear"}])
@pytest.mark.parametrize("field", range(6))
def test_a_pv_guest_with_a_broken_shared_info(options, field):
    """Whatever the fields that lead to the p2m contain, the guest is saved or refused."""
    source = SimulatedGuest("pv", 1200, **options)
    good = bytes(source.shared_info())
    width = source.guest_width
    for value in (0, 1, 0xFFF, 0x7FFFFFFF, 2 ** (8 * width) - 1, 1 << (8 * width - 1), 0x180001):
        page = bytearray(good)
        at = (3088 if width == 8 else 2316) + field * width
        page[at:at + width] = value.to_bytes(width, "little")
        source.shared_info = lambda page=page: page
        source.running = True
        try:
            stream_of(source)
        except GuestError:
            assert source.running


def test_a_page_table_that_is_not_whole_when_the_guest_is_suspended():
    source = SimulatedGuest("pv", 1200)
    source.suspend = lambda: source._kernel.tear(source._where.l1[0])
    with pytest.raises(GuestError, match="isn't the guest's"):
        stream_of(source)


def test_numbers_in_a_pv_stream_that_lead_nowhere(make):
    """Each frame number in the stream's vcpu 0, past the guest's end or in a page of another kind."""
    source = make()
    if source.kind != "pv":
        pytest.skip("not applicable: an HVM guest has none")
    data = bytearray(stream_of(source))
    with Reader(bytes(data)) as reader:
        for record in reader:
            if isinstance(record, VcpuBasic) and record.vcpu_id == 0:
                blob, offset = record.blob, reader.offset + 16
    good = vcpu.frames(blob, source.guest_width, in_stream=True)
    table = source._where.l1[0]
    bad = [good._replace(start_info=pfn) for pfn in (5000, table)]
    bad += [good._replace(gdt=(pfn,)) for pfn in (5000, table)]
    bad += [good._replace(cr3=pfn) for pfn in (5000, table, 900)]
    if source.guest_width == 8:
        bad += [good._replace(user=pfn) for pfn in (5000, 900)]
    for frames in bad:
        data[offset:offset + len(blob)] = vcpu.with_frames(blob, source.guest_width, frames, in_stream=True)
        target = SimulatedGuest.empty("pv")
        with pytest.raises(CorruptStream) as caught:
            xstream.restore(bytes(data), target)
        assert caught.value.record_type == "X86_PV_VCPU_BASIC"
        assert target.abandoned


@pytest.mark.parametrize("pfn", [5000, 5])
def test_a_p2m_that_is_not_in_the_guest(pfn):
    source = SimulatedGuest("pv", 1200)
    data = bytearray(stream_of(source))
    with Reader(bytes(data)) as reader:
        offset = next(reader.offset for record in reader if isinstance(record, xstream.P2MFrames))
    data[offset + 16:offset + 24] = (source._where.l1[0] if pfn == 5 else pfn).to_bytes(8, "little")
    with pytest.raises(CorruptStream) as caught:
        restored(bytes(data), source)
    assert caught.value.offset == offset and caught.value.record_type == "X86_PV_P2M_FRAMES"


def test_empty_records_are_passed_over(make):
    """As Xen 4.6 to 4.8 sent them, here after records with contents."""
    source = make()
    out = io.BytesIO()
    with Reader(stream_of(source)) as reader:
        writer = Writer(out, reader.domain)
        for record in reader:
            writer.write(record)
            if hasattr(record, "vcpu_id"):
                writer.write(record._replace(blob=b""))
            elif isinstance(record, xstream.HvmParams):
                writer.write(record._replace(entries=b""))
    target, _ = restored(out.getvalue(), source)
    same(target, source)


def test_version_2(make):
    """Its policies are the toolstack's, and its STATIC_DATA_END is inferred."""
    source = make()
    out = io.BytesIO()
    with Reader(stream_of(source)) as reader:
        writer = Writer(out, reader.domain, reader.image._replace(version=2))
        for record in reader:
            if not isinstance(record, (xstream.StaticDataEnd, xstream.CpuidPolicy, xstream.MsrPolicy)):
                writer.write(record)
    target, _ = restored(out.getvalue(), source)
    assert target.digest() == source.digest()
    assert list(target.static) == []


# Pipes

@pytest.mark.parametrize("spliceable", [False, True])
def test_through_a_pipe(make, spliceable):
    """While the guest changes, by writev and by reference; it isn't let run while pages of it are in the pipe."""
    source = make(spliceable=spliceable, pages=4000, **LIVELY)
    target = SimulatedGuest.empty(source.kind)
    reading, writing = os.pipe()

    def receive():
        with os.fdopen(reading, "rb", buffering=0) as file:
            xstream.restore(file.fileno(), target)

    thread = threading.Thread(target=receive)
    thread.start()
    try:
        xstream.save(source, writing, live=True)
    finally:
        os.close(writing)
        thread.join()
    same(target, source)


# Hostile streams

@settings(max_examples=150)
@given(data=st.data())
def test_hostile_bytes_escape_as_nothing_but_stream_errors(data):
    """A few bytes changed anywhere, headers and records' heads rather than pages: restored, or refused."""
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    stream = bytearray(SMALL_STREAMS[kind])
    with Reader(bytes(stream)) as reader:
        heads = [reader.offset for _ in reader]
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(heads)) + data.draw(st.integers(0, 700))
        if place < len(stream):
            stream[place] = data.draw(st.integers(0, 255))
    target = SimulatedGuest.empty(KINDS[kind]["kind"], limit=1 << 16)
    try:
        xstream.restore(bytes(stream), target, checkpointed=data.draw(st.booleans()))
    except (StreamError, GuestError):
        assert target.abandoned and not target.running


SMALL_STREAMS = {name: stream_of(SimulatedGuest(pages=70, vcpus=1, **options)) for name, options in KINDS.items()}


@settings(max_examples=100)
@given(data=st.data())
def test_hostile_page_tables_and_start_info(data):
    """Any bytes in the pages that an engine looks into."""
    kind = data.draw(st.sampled_from([name for name in KINDS if name != "hvm"]))
    source = SimulatedGuest(pages=70, vcpus=1, **KINDS[kind])
    stream = bytearray(SMALL_STREAMS[kind])
    with Reader(bytes(stream)) as reader:
        for record in reader:
            if isinstance(record, PageData):
                pfns = record.pfns[record.types < 13].tolist()
                pages = reader.offset + 16 + len(record.words)
    chosen = [source.start_info_pfn, *source.p2m_pfns, *source._where.levels()]
    for _ in range(data.draw(st.integers(1, 4))):
        place = pages + 4096 * pfns.index(data.draw(st.sampled_from(chosen))) + 8 * data.draw(st.integers(0, 511))
        entry = st.integers(0, 100).map(lambda pfn: (pfn << 12 | 1).to_bytes(8, "little"))
        stream[place:place + 8] = data.draw(st.one_of(st.binary(min_size=8, max_size=8), entry))
    target = SimulatedGuest.empty("pv", limit=1 << 16)
    try:
        xstream.restore(bytes(stream), target)
    except StreamError as error:
        assert error.offset is not None and error.record is not None
        assert target.abandoned
