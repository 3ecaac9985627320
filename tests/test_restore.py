"""What a restore hands to the guest and to its caller, whatever is around the memory stream."""
import contextlib
import io
import os
import struct

import containers
import pytest
import samples
from ways import WAYS, rest_of

import xstream
from xstream import (
    HookError,
    HvmParams,
    LimitExceeded,
    Limits,
    Pages,
    Reader,
    SimulatedGuest,
    UnsupportedStream,
    Writer,
)
from xstream.guest.restore import Restorer
from xstream.wire.console import CONNECTION


def stream_of(guest, **options):
    out = io.BytesIO()
    xstream.save(guest, out, **options)
    return out.getvalue()


def rewritten(data, change):
    """A stream with ``change(record)``, a list of records, in the place of each record."""
    out = io.BytesIO()
    with Reader(data) as reader:
        writer = Writer(out, reader.domain)
        for record in reader:
            for new in change(record):
                writer.write(new)
    return out.getvalue()


def params_of(guest):
    return dict(next(record for record in guest.state if isinstance(record, HvmParams)).params)


def test_parameters_of_several_records_add_up():
    source = SimulatedGuest()
    whole = params_of(source)

    def split(record):
        if not isinstance(record, HvmParams):
            return [record]
        return [HvmParams.of(record.params[:3]), HvmParams.of([*record.params[3:], (record.params[0][0], 77)])]

    target = SimulatedGuest.empty()
    xstream.restore(rewritten(stream_of(source), split), target)
    first = next(iter(whole))
    # 2 and 18 are the event channels that the destination's toolstack has allocated.
    assert params_of(target) == {**whole, first: 77, 2: target.store_evtchn, 18: target.console_evtchn}


def test_event_channels_are_the_destinations():
    def add(record):
        if not isinstance(record, HvmParams):
            return [record]
        return [HvmParams.of([*record.params, (2, 900), (18, 901), (4, 1)])]

    target = SimulatedGuest.empty()
    target.console_evtchn = 0
    xstream.restore(rewritten(stream_of(SimulatedGuest()), add), target)
    params = params_of(target)
    assert params[2] == target.store_evtchn and 18 not in params and 4 not in params


def test_the_console_starts_disconnected():
    """An HVM guest's console page is cleared, a PV guest's keeps its contents."""
    def low(record):
        return [HvmParams.of([(17, 30), (1, 31)])] if isinstance(record, HvmParams) else [record]

    target = SimulatedGuest.empty()
    xstream.restore(rewritten(stream_of(SimulatedGuest(holes=0)), low), target)
    page = bytearray(4096)
    page[CONNECTION] = 1
    assert target.memory.pages[30].tobytes() == page
    assert target.memory.pages[31].tobytes() == bytes(4096)

    source, target = SimulatedGuest("pv"), SimulatedGuest.empty("pv")
    before = bytearray(source.memory.pages[3].tobytes())
    xstream.restore(stream_of(source), target)
    before[CONNECTION] = 1
    assert target.memory.pages[3].tobytes() == before


@pytest.mark.parametrize("options", [{}, {"width": 4}, {"p2m": "linear"}, {"width": 4, "p2m": "linear"}])
def test_a_restored_guest_can_be_saved_and_restored_again(options):
    source = SimulatedGuest("pv", 1200, **options)
    middle, last = SimulatedGuest.empty("pv", seed=5), SimulatedGuest.empty("pv", seed=6)
    xstream.restore(stream_of(source), middle)
    data = stream_of(middle, live=True)
    xstream.verify(data, strict=True)
    xstream.restore(data, last)
    assert last.digest() == middle.digest()
    hvm = SimulatedGuest.empty()
    xstream.restore(stream_of(SimulatedGuest()), hvm)
    assert 2 not in dict(params_in(stream_of(hvm)))


def params_in(data):
    with Reader(data) as reader:
        return [param for record in reader if isinstance(record, HvmParams) for param in record.params]


# Containers

def memory(guest):
    """A guest's memory stream, and the device model's records that follow it in a libxl stream."""
    data = stream_of(guest)
    return data, containers.xenstore(b"physmap/f0/size", b"800") + containers.emulator()


@pytest.mark.parametrize("way", ["buffer", "mapped", "pipe", "object"])
@pytest.mark.parametrize("around", ["xl", "libxl", "libvirt", "xenopsd", "xenopsd libxl", "libxc"])
def test_any_container(way, around):
    source, target = SimulatedGuest(pages=300), SimulatedGuest.empty()
    data, tail = memory(source)
    libxl = containers.libxl(data, tail)
    blob = containers.xenopsd_record(0x0F01, containers.QEMU)
    stream, layers, config = {
        "libxc": (data, [], None),
        "libxl": (libxl, ["libxl", "libxl"], None),
        "xl": (containers.xl(libxl), ["xl", "libxl", "libxl"], containers.JSON_CONFIG.rstrip(b"\0")),
        "libvirt": (containers.libvirt(libxl), ["libvirt", "libxl", "libxl"], b"<domain type='xen'/>"),
        "xenopsd": (containers.xenopsd(data, after=blob), ["xenopsd", "xenopsd"], containers.XENOPS),
        "xenopsd libxl": (containers.xenopsd(libxl, 0xF1), ["xenopsd", "libxl", "libxl", "xenopsd"],
                          containers.XENOPS),
    }[around]
    with WAYS[way](stream) as input_:
        report = xstream.restore(input_, target)
    assert target.running and target.digest() == source.digest()
    assert [record.layer for record in report.records] == layers
    assert report.config == config
    assert report.device_model == (None if around == "libxc" else containers.QEMU)
    assert report.xenstore_data == (((b"physmap/f0/size", b"800"),) if "libxl" in layers else ())
    assert report.bytes == len(stream)


def test_optional_records_are_reported():
    optional = xstream.Unknown(0x80000005, b"abc")
    data = rewritten(stream_of(SimulatedGuest()), lambda record: [record, optional] if isinstance(
        record, xstream.TscInfo) else [record])
    report = xstream.restore(data, SimulatedGuest.empty())
    assert [(layer, record.type, bytes(record.body)) for layer, record in report.records] == [
        ("libxc", 0x80000005, b"abc")]


def test_checkpoints_within_libxl():
    """The device model's record is the last complete checkpoint's; what follows that is void."""
    stream = containers.libxl_checkpointed(3)
    target = SimulatedGuest.empty()
    report = xstream.restore(stream, target, checkpointed=True)
    assert report.checkpoints == 3 and target.memory.pages[0].tobytes() == samples.page(12)
    assert [record.layer for record in report.records] == ["libxl", "libxl"]
    third = stream.rindex(samples.tsc_info())
    for way in ("buffer", "pipe"):
        for cut in (third, len(stream) - 8, len(stream) - 40):
            with WAYS[way](stream[:cut]) as input_:
                report = xstream.restore(input_, target, checkpointed=True)
            assert (report.checkpoints, report.failover, len(report.records)) == (2, None, 2)
            assert target.memory.pages[0].tobytes() == samples.page(11)


def test_pages_for_comparison_within_a_checkpoint():
    """What comes before VERIFY is written; what differs after it is an error of the memory stream's layer."""
    stream = containers.libxl_checkpointed(2)
    batch = samples.batch([samples.word(0)], [samples.page(11)])
    compared = samples.record(0x0D) + samples.batch([samples.word(0)], [samples.page(9)])
    stream = stream.replace(batch, batch + compared)
    target, memory = SimulatedGuest.empty(), xstream.GuestMemory()
    assert xstream.restore(stream, target, checkpointed=True).differing == (0,)
    assert xstream.load(stream, memory, checkpointed=True).differing == (0,)
    assert target.memory.pages[0].tobytes() == memory.pages[0].tobytes() == samples.page(11)
    with pytest.raises(xstream.MemoryMismatch) as caught:
        xstream.restore(stream, SimulatedGuest.empty(), checkpointed=True, strict=True)
    assert caught.value.record_type == "PAGE_DATA" and caught.value.layer == "libxl"


def test_a_stream_that_is_cut_after_a_checkpoint_gives_the_same_report_from_every_source():
    """Wherever it is cut: within page data, heads or state."""
    source = SimulatedGuest(pages=40, dirty=0.3)
    data = stream_of(source, live=True, checkpoint=lambda number: number < 3)
    with Reader(data, checkpointed=True) as reader:
        ends = [reader.offset + 8 for record in reader if isinstance(record, xstream.Checkpoint)]
    for cut in [*range(ends[0], len(data), 3001), *ends]:
        reports = []
        for way in ("buffer", "mapped", "descriptor", "pipe", "object"):
            with WAYS[way](data[:cut]) as input_:
                reports.append(xstream.restore(input_, SimulatedGuest.empty(), checkpointed=True))
        assert reports.count(reports[0]) == 5 and reports[0].failover is None
        assert reports[0].checkpoints == sum(end <= cut for end in ends)


def test_a_legacy_stream_has_to_be_converted_first():
    target = SimulatedGuest.empty()
    with pytest.raises(UnsupportedStream, match="convert"):
        xstream.restore(containers.legacy_hvm(), target)
    assert target.abandoned


def test_only_what_was_opened_is_closed(tmp_path):
    data = stream_of(SimulatedGuest())
    path = tmp_path / "guest.xs"
    path.write_bytes(data)
    with open(str(path), "rb") as file:
        xstream.restore(file.fileno(), SimulatedGuest.empty())
        os.fstat(file.fileno())
        file.seek(0)
        with Reader(file) as reader:
            xstream.restore(reader, SimulatedGuest.empty())
            assert reader.ended and reader.source.at_end()
        assert not file.closed
    before = os.listdir("/proc/self/fd")
    xstream.restore(path, SimulatedGuest.empty())
    with pytest.raises(xstream.TruncatedStream):
        path.write_bytes(data[:5000])
        xstream.restore(path, SimulatedGuest.empty())
    assert os.listdir("/proc/self/fd") == before


# Bounds

MANY_PARAMETERS = samples.record(0xA, struct.pack("<II10000Q", 5000, 0, *range(10000)))


@pytest.mark.parametrize("record", [samples.record(0x80000001, bytes(100000)), MANY_PARAMETERS],
                         ids=["optional", "parameters"])
def test_records_beside_memory_are_bounded(record):
    start = samples.headers() + samples.static_data_end()
    limits = Limits(state_length=1 << 20)
    with pytest.raises(LimitExceeded) as caught:
        xstream.restore(start + record * 20 + samples.end(), SimulatedGuest.empty(), limits=limits)
    assert caught.value.layer == "libxc" and caught.value.offset > 40 and caught.value.record is not None


def test_what_repeats_after_a_checkpoint_is_not_kept():
    state = samples.tsc_info() + samples.hvm_context() + samples.hvm_params()
    stream = samples.headers() + samples.static_data_end() + state + samples.record(0xE)
    stream += state * 1000 + samples.record(0xE)
    report = xstream.restore(stream, SimulatedGuest.empty(), checkpointed=True, limits=Limits(state_length=1 << 16))
    assert report.checkpoints == 2


# Hooks

class Counting(SimulatedGuest):
    """Counts what is mapped, and how often an operation ended."""

    open = ends = 0

    def map_pages(self, frames):
        pages = super().map_pages(frames)
        self.open += 1
        return pages._replace(handle=("mapping", self.open))

    def unmap_pages(self, pages):
        assert pages.handle[0] == "mapping"
        self.open -= 1
        super().unmap_pages(pages)

    def end(self):
        super().end()
        assert not self.open
        self.ends += 1


@pytest.mark.parametrize("kind", ["hvm", "pv"])
def test_every_operation_ends_once(kind):
    source, target = Counting(kind), Counting.empty(kind)
    data = stream_of(source, live=True)
    assert source.ends == 1
    xstream.restore(data, target)
    assert target.ends == 1
    for hook in ("suspend", "static_records", "state_records", "page_types"):
        source = Counting(kind, fail={hook: 1})
        with pytest.raises(HookError):
            stream_of(source)
        assert source.ends == 1
    for cut in (len(data) - 1, 5000, 39):
        target = Counting.empty(kind)
        with pytest.raises(xstream.StreamError):
            xstream.restore(data[:cut], target)
        assert target.ends == 1 and target.abandoned
    source = Counting(kind, fail={"end": 1})
    with pytest.raises(HookError) as caught:
        stream_of(source)
    # The stream is complete: the guest must not run here as well.
    assert caught.value.hook == "end" and not source.running


def test_frames_of_the_p2m_are_unmapped_after_a_failure():
    class Short(Counting):
        def map_pages(self, frames):
            pages = super().map_pages(frames)
            return pages._replace(memory=pages.memory[:4096])

    source = Short("pv")
    with pytest.raises(IndexError, match="past the 1 pages"):
        stream_of(source)
    assert source.open == 0 and source.ends == 1


class Vanishing(SimulatedGuest):
    """Pages vanish between page_types and map_pages, while the guest runs and in its first round."""

    vanish = ()

    def map_pages(self, frames):
        pages = super().map_pages(frames)
        flags = bytes(pfn in self.vanish for pfn in pages.at)
        return pages._replace(missing=flags if any(flags) else b"")


@pytest.mark.parametrize("kind", ["hvm", "pv"])
def test_pages_that_vanish_are_sent_later(kind):
    source, target = Vanishing(kind, 2500, holes=0.01), SimulatedGuest.empty(kind)
    source.vanish = {pfn for pfn in range(900, 2400, 7) if source._type(pfn) == 0} | set(range(2048, 2060))
    rounds, vanished = [], source.vanish

    def over(last):
        source.vanish = ()
        rounds.append(last)

    data = stream_of(source, live=True, on_round=over)
    assert rounds[0].dirty >= len(vanished)
    xstream.restore(data, target)
    assert target.digest() == source.digest()
    xstream.verify(data, strict=True)


@pytest.mark.parametrize("kind", ["hvm", "pv"])
def test_pages_must_not_vanish_from_a_suspended_guest(kind):
    source = Vanishing(kind)
    source.vanish = {2000}
    with pytest.raises(xstream.GuestError, match="missing"):
        stream_of(source)
    assert source.running


def test_flags_of_missing_pages_for_another_number_of_frames():
    source = SimulatedGuest()
    source.map_pages = lambda frames: Pages(source.memory.buffer, frames, missing=b"\1")
    with pytest.raises(xstream.GuestError, match="map_pages"):
        stream_of(source, live=True)


def test_the_dirty_bitmap_is_read_with_final_once_the_guest_is_suspended():
    calls = []

    class Noting(SimulatedGuest):
        def start_save(self, pfn_end):
            calls.append(pfn_end)

        def read_dirty(self, bitmap, clean, final):
            calls.append((len(bitmap), clean, final, self.running))
            super().read_dirty(bitmap, clean, final)

        def count_dirty(self):
            return None

    stream_of(Noting(pages=1001, dirty=0.4), live=True)
    assert calls[0] == 1001
    counting, cleaning, final = (126, False, False, True), (126, True, False, True), (126, True, True, False)
    rounds = len(calls) // 2
    assert rounds > 1 and calls[1:] == [counting, cleaning] * (rounds - 1) + [counting, final]


def test_counting_takes_the_place_of_reading():
    class Counted(SimulatedGuest):
        def count_dirty(self):
            return 49

    rounds = xstream.save(Counted(dirty=0.5), io.BytesIO(), live=True).rounds
    assert [last.phase for last in rounds] == ["live", "final"] and rounds[0].dirty == 49


# Exact reading

@contextlib.contextmanager
def descriptors(data):
    """The descriptors of a pipe, a socket and a regular file that hold the same bytes."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(WAYS[way](data)) for way in ("pipe", "socket", "descriptor")]


TINY = samples.hvm(memory=b"".join(samples.batch([samples.word(pfn)], [samples.page(pfn)]) for pfn in range(50)))


@pytest.mark.parametrize("around", ["large batches", "small batches", "pv", "libxl", "xl"])
def test_nothing_is_read_past_the_end(around):
    kind = "pv" if around == "pv" else "hvm"
    data = TINY if around == "small batches" else stream_of(SimulatedGuest(kind))
    data = {"libxl": containers.libxl, "xl": lambda inner: containers.xl(containers.libxl(inner))}.get(
        around, bytes)(data)
    for behind in (b"", b"x", bytes(8), b"\1" * 100000):
        with descriptors(data + behind) as fds:
            for fd in fds:
                xstream.restore(fd, SimulatedGuest.empty(kind))
                assert rest_of(fd) == behind
    file = io.BytesIO(data + b"behind")
    xstream.restore(file, SimulatedGuest.empty(kind))
    assert file.read() == b"behind"


def test_nothing_is_read_past_a_checkpoint():
    """What the toolstack sends between a checkpoint and the next record is read by the checkpoint function."""
    source, out, ends = SimulatedGuest(pages=300, dirty=0.3), io.BytesIO(), []

    def between(number):
        ends.append(out.tell())
        out.write(b"toolstack's record %d" % number)
        return number < 4

    xstream.save(source, out, live=True, checkpoint=between)
    seen = []
    with descriptors(out.getvalue()) as fds:
        for fd in fds:
            report = xstream.restore(fd, SimulatedGuest.empty(), checkpointed=True, checkpoint=lambda number: (
                seen.append(os.read(fd, len(b"toolstack's record 1"))) or number < 4))  # noqa: B023
            assert report.checkpoints == 4
    assert seen == [b"toolstack's record %d" % number for number in range(1, 5)] * 3


def test_small_batches_are_read_in_runs():
    """Exact reading doesn't make a step of each record."""
    with descriptors(TINY) as fds:
        for fd in fds:
            restorer = Restorer(fd, SimulatedGuest.empty())
            steps = 0
            while restorer.step():
                steps += 1
            assert steps < 20


@pytest.mark.parametrize("cut", [41, 500, 4000, len(TINY) - 1])
def test_exact_reading_of_a_cut_stream(cut):
    with descriptors(TINY[:cut]) as fds:
        for fd in fds:
            with pytest.raises(xstream.TruncatedStream) as caught:
                xstream.restore(fd, SimulatedGuest.empty())
            assert caught.value.offset == cut
