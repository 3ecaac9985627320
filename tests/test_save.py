"""How a save divides memory into batches, and what it sends again later."""
import io

import pytest
from superpages import rebuilt

import xstream
from xstream import GuestError, PageData, Reader, SimulatedGuest
from xstream.guest.save import _batches
from xstream.wire import vcpu, xenopsd


def stream_of(guest, **options):
    out = io.BytesIO()
    xstream.save(guest, out, **options)
    return out.getvalue()


def bitmap_of(*ranges):
    bitmap = bytearray(1 << 15)
    for pfns in ranges:
        for pfn in pfns:
            bitmap[pfn // 8] |= 1 << pfn % 8
    return bitmap


def batches_of(*ranges):
    return [list(batch) for batch in _batches(bitmap_of(*ranges))]


@pytest.mark.parametrize("ranges", [
    [range(100000)], [range(3, 100000)], [range(300, 5000)], [range(1, 6), range(512, 100000)],
    [range(1600), range(2048, 4096)], [range(k * 1024 + k % 7, k * 1024 + 900) for k in range(60)],
    [range(65500, 70000)]], ids=str)
def test_no_superpage_is_split_over_batches(ranges):
    batches = batches_of(*ranges)
    pfns = [pfn for part in ranges for pfn in part]
    assert [pfn for batch in batches for pfn in batch] == pfns
    assert max(map(len, batches)) <= 1024
    assert rebuilt(batches) == rebuilt([pfns])
    # Only the batch before a whole 2 MiB page is shorter, by less than such a page.
    assert all(len(batch) > 512 for batch in batches[:-1])


def test_scattered_pfns_fill_their_batches():
    batches = batches_of(range(0, 200000, 3))
    assert {len(batch) for batch in batches[:-1]} == {1024}


def test_a_guest_with_holes_keeps_its_rebuilt():
    source = SimulatedGuest(pages=8192, holes=0)
    with Reader(stream_of(source)) as reader:
        batches = [record.pfns.tolist() for record in reader if isinstance(record, PageData)]
    assert rebuilt(batches) == 16


def table_words(data, pfn):
    """The types that a stream has for a PFN, in order."""
    types = []
    with Reader(data) as reader:
        for record in reader:
            if isinstance(record, PageData):
                types += record.types[record.pfns == pfn].tolist()
    return types


def test_bad_entries_of_a_running_guests_page_table():
    """A superpage bit, after a stale entry, before one, or alone: sent again once the guest is suspended."""
    def entries(table, kernel):
        words = kernel._words
        return [words[table * 512 + at] for at in range(3)]

    for bad in ({0: 0x1000067, 1: 0xE7}, {0: 0xE7, 1: 0x1000067}, {2: 0xE7}):
        source = SimulatedGuest("pv", 1200, seed=7)
        table = source._where.l2[0]
        kernel = source._kernel
        good = entries(table, kernel)
        suspend = source.suspend
        for at, flags in bad.items():
            kernel._words[table * 512 + at] = good[at] & ~0xFFF | flags if flags == 0xE7 else flags << 12 | 0x67

        def mend(table=table, kernel=kernel, good=good, suspend=suspend):
            for at, entry in enumerate(good):
                kernel._words[table * 512 + at] = entry
            suspend()

        source.suspend = mend
        data = stream_of(source, live=True)
        types = table_words(data, table)
        assert types[0] == 0xF and types[-1] == 2
        target = SimulatedGuest.empty("pv")
        xstream.restore(data, target)
        assert target.digest() == source.digest()


def test_a_superpage_is_fatal_once_the_guest_is_suspended():
    source = SimulatedGuest("pv", 1200)
    source._kernel._words[source._where.l2[0] * 512] |= 0x80
    with pytest.raises(GuestError, match="superpage"):
        stream_of(source, live=True)
    assert source.running


def test_the_start_infos_pfn_is_all_of_rdx():
    blob = bytearray(0x1430)
    frames = vcpu.Frames(0x123456789A, (), 5, None)
    assert vcpu.frames(vcpu.with_frames(blob, 8, frames, in_stream=True), 8, in_stream=True) == frames
    assert SimulatedGuest("pv").guest_width == 8
    for record in SimulatedGuest("pv").state:
        if isinstance(record, xstream.VcpuBasic) and record.vcpu_id == 0:
            assert vcpu.frames(record.blob, 8, in_stream=False).start_info < 1 << 32
            assert vcpu.basic(record.blob)["rdx"] < 1 << 32
    with pytest.raises(ValueError):
        vcpu.with_frames(bytearray(0xAF0), 4, frames._replace(cr3=1), in_stream=True)


# Containers

CONFIGS = {"libxl": None, "xl": b'{"c_info": {}}', "libvirt": b"<domain/>",
           "xenopsd": b'((time 20230101T00:00:00Z)(word_size 64))'}


@pytest.mark.parametrize("container", list(CONFIGS))
@pytest.mark.parametrize("kind", ["hvm", "pv"])
@pytest.mark.parametrize("live", [False, True])
def test_saving_into_a_container(container, kind, live):
    """The device model's record is asked for once the guest is suspended and its own state has been written."""
    source, target = SimulatedGuest(kind), SimulatedGuest.empty(kind)
    asked = []

    def device_model():
        assert not source.running
        asked.append("device model")
        return b"QEMU's record"

    parts = {}
    if kind == "hvm":
        parts["device_model"] = device_model
        if container != "xenopsd":
            parts["xenstore_data"] = [(b"physmap/f0/size", b"10")]
    data = stream_of(source, live=live, container=container, config=CONFIGS[container], **parts)
    xstream.verify(data, strict=True)
    report = xstream.restore(data, target)
    assert target.digest() == source.digest() and not source.running
    assert report.config == CONFIGS[container]
    assert report.device_model == (b"QEMU's record" if kind == "hvm" else None)
    assert report.xenstore_data == tuple(parts.get("xenstore_data", ()))
    assert asked == (["device model"] if kind == "hvm" else [])


def test_qemus_record_in_a_suspend_image():
    """xenopsd restores Qemu_trad, whichever QEMU it is, and fails at Qemu_xen: process_header() in xen-api's
    ocaml/xenopsd/xc/domain.ml."""
    data = stream_of(SimulatedGuest(), container="xenopsd", config=CONFIGS["xenopsd"], device_model=b"QEMU's record")
    with xstream.open(data) as reader:
        types = [record.type for record in reader if isinstance(record, xenopsd.Blob)]
    assert types == [xenopsd.QEMU_TRAD]


@pytest.mark.parametrize("container", ["libxl", "xl", "libvirt"])
def test_checkpoints_within_a_container(container):
    source, target = SimulatedGuest(dirty=0.2), SimulatedGuest.empty()
    digests = []

    def checkpoint(number):
        digests.append(source.digest())
        return number < 3

    data = stream_of(source, live=True, container=container, config=CONFIGS[container], checkpoint=checkpoint,
                     device_model=lambda: b"%d" % len(digests), xenstore_data=lambda: [(b"key", b"%d" % len(digests))])
    xstream.verify(data, checkpointed=True, strict=True)
    report = xstream.restore(data, target, checkpointed=True)
    assert report.checkpoints == 3 and target.digest() == digests[-1]
    assert report.device_model == b"2" and report.xenstore_data == ((b"key", b"2"),)


@pytest.mark.parametrize("options, error", [
    ({"container": "xl"}, xstream.MissingPart), ({"container": "libvirt"}, xstream.MissingPart),
    ({"container": "xenopsd"}, xstream.MissingPart), ({"container": "tar"}, ValueError),
    ({"config": b"{}"}, ValueError), ({"container": "libxl", "config": b"{}"}, ValueError),
    ({"device_model": b"x"}, ValueError), ({"xenstore_data": []}, ValueError),
    ({"container": "xenopsd", "config": b"", "xenstore_data": []}, ValueError),
    ({"container": "xenopsd", "config": b"", "checkpoint": lambda number: False}, ValueError),
    ({"container": "libxl", "back_channel": b"", "checkpoint": lambda number: False}, ValueError)], ids=str)
def test_parts_that_do_not_go_together(options, error):
    source = SimulatedGuest()
    with pytest.raises(error):
        stream_of(source, **options)
    assert source.running


def test_a_pv_guest_has_no_device_model():
    source = SimulatedGuest("pv")
    with pytest.raises(xstream.OrderError):
        stream_of(source, container="libxl", device_model=b"QEMU")
    assert source.running


def test_a_failing_device_model_lets_the_guest_run():
    source = SimulatedGuest()
    with pytest.raises(KeyError):
        stream_of(source, container="libxl", device_model=lambda: {}["record"])
    assert source.running


# Files

def test_saving_to_a_path(tmp_path):
    path = tmp_path / "guest.xs"
    source, target = SimulatedGuest(), SimulatedGuest.empty()
    saved = xstream.save(source, path)
    assert path.stat().st_size == saved.bytes and path.stat().st_mode & 0o777 == 0o600
    xstream.restore(path, target)
    assert target.digest() == source.digest()


def test_a_file_that_cannot_be_completed_lets_the_guest_run(tmp_path, monkeypatch):
    def full(fd):
        raise OSError(28, "No space left on device")

    source = SimulatedGuest()
    with monkeypatch.context() as patch, pytest.raises(OSError, match="space"):
        patch.setattr("os.fsync", full)
        xstream.save(source, str(tmp_path / "guest.xs"), live=True)
    assert source.running and list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        xstream.save(source, str(tmp_path / "missing" / "guest.xs"))
    assert source.running
