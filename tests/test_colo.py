"""COLO: the back channel, from secondary to primary, and the primary's state in the forward stream."""
import io
import json
import struct

import containers
import pytest
import samples
from test_cli import run

import xstream
from xstream import BackChannelWriter, CheckpointDirtyPfnList, CorruptStream, LimitExceeded, OrderError, TruncatedStream
from xstream.wire.libxl import CheckpointState

READY, RESUMED, SUSPENDED = (containers.checkpoint_state(control) for control in (2, 3, 1))
DIRTY = samples.record(0x0F, struct.pack("<3Q", 0, 5, 9))
BACK = containers.colo()


def read(stream, **options):
    with xstream.open(stream, **options) as reader:
        return [(reader.offset, reader.index, record) for record in reader]


def test_both_kinds_of_records_come_with_their_places():
    records = read(READY + RESUMED + SUSPENDED + DIRTY + READY)
    assert [offset for offset, _, _ in records] == [0, 16, 32, 48, 80]
    assert [index for _, index, _ in records] == [0, 1, 2, 3, 4]
    assert [record.control_id for _, _, record in records if isinstance(record, CheckpointState)] == [2, 3, 1, 2]
    dirty = records[3][2]
    assert isinstance(dirty, CheckpointDirtyPfnList)
    assert struct.unpack("<3Q", bytes(dirty.entries)) == (0, 5, 9)


def test_it_may_end_behind_any_record_and_nowhere_else():
    ends = {0, 16, 32, 48, 80, 96}
    stream = READY + RESUMED + SUSPENDED + DIRTY + READY
    for size in range(1, len(stream) + 1):
        if size in ends:
            assert read(stream[:size], format="colo")
        else:
            with pytest.raises(TruncatedStream):
                read(stream[:size], format="colo")


@pytest.mark.parametrize("stream", [
    RESUMED, SUSPENDED, DIRTY, READY + READY, READY + SUSPENDED, READY + RESUMED + DIRTY,
    READY + RESUMED + SUSPENDED + READY, READY + containers.checkpoint_state(0)])
def test_the_order_is_kept(stream):
    with pytest.raises(OrderError) as caught:
        read(stream, format="colo")
    assert caught.value.layer == "colo"


@pytest.mark.parametrize("stream, error", [
    (READY + containers.checkpoint_state(4), xstream.UnsupportedStream),
    (READY + samples.record(0x03, bytes(8)), xstream.UnsupportedStream),
    (READY + samples.record(0x80000000, bytes(8)), xstream.UnsupportedStream),
    (READY + samples.record(0x05, bytes(16)), CorruptStream),
    (READY + RESUMED + SUSPENDED + samples.record(0x0F, bytes(12)), CorruptStream),
    (READY + RESUMED + SUSPENDED + samples.record(0x0F, struct.pack("<Q", 1 << 40)), LimitExceeded),
    (READY + RESUMED + SUSPENDED + struct.pack("<II", 0x0F, 0xFFFFFFF8), LimitExceeded)])
def test_what_is_wrong_is_said(stream, error):
    with pytest.raises(error):
        read(stream)


def test_what_is_ignored_is_reported_strictly():
    stream = READY[:12] + b"\x01" + READY[13:]
    assert len(read(stream)) == 1
    with pytest.raises(xstream.StrictViolation):
        read(stream, strict=True)


def test_what_is_read_is_written_again():
    sink = io.BytesIO()
    writer = BackChannelWriter(sink)
    for _, _, record in read(BACK):
        writer.write(record)
    assert sink.getvalue() == BACK
    with pytest.raises(OrderError):
        writer.write(CheckpointState(1))
    with pytest.raises(OrderError):
        writer.write(CheckpointState(0))


def test_commands_say_that_it_has_no_memory(tmp_path):
    path = tmp_path / "back"
    path.write_bytes(BACK)
    status, out, _ = run("verify", str(path))
    assert status == 0 and out == b"ok: colo, 8 records, 168 bytes\n"
    status, out, _ = run("info", str(path))
    assert status == 0 and b"without memory" in out
    status, out, _ = run("info", "--records", "--json", str(path))
    shown = [row["contents"] for row in json.loads(out.decode())["contents"]]
    assert status == 0 and shown[3] == {"count": 3, "pfns": [0, 1, 2]}
    for command in (["extract", str(path), str(tmp_path / "out")], ["digest", str(path)],
                    ["convert", str(path), str(tmp_path / "out")]):
        status, _, err = run(*command)
        assert status == 1 and "no memory image" in err
    assert not (tmp_path / "out").exists()


def test_the_primary_states_come_in_the_forward_stream():
    stream = containers.libxl_checkpointed(2, colo=True)
    states = [record.control_id for _, _, record in read(stream, checkpointed=True, strict=True)
              if isinstance(record, CheckpointState)]
    assert states == [0, 0]
