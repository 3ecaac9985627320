"""Reading libxc streams: every source yields the same records."""
import os

import numpy
import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st
from ways import WAYS, records_of, whole

import xstream
from xstream import NeedMoreData, PageData, PushReader, Reader
from xstream.stream.source import ObjectSource

SMALL = dict(samples.SMALL)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SMALL)
def test_every_source_gives_the_same_records(name, way):
    with WAYS[way](SMALL[name]) as source:
        assert records_of(source) == records_of(SMALL[name])


def test_records_in_order_with_their_places():
    got = records_of(samples.hvm())
    assert [type(record).__name__ for _, _, record in got] == [
        "CpuidPolicy", "MsrPolicy", "StaticDataEnd", "PageData", "TscInfo", "HvmContext", "HvmParams", "End"]
    assert [index for index, _, _ in got] == list(range(8))
    assert got[0][1] == 40 and got[1][1] == 40 + 32 and got[2][1] == 40 + 32 + 24


def test_fields():
    records = {type(record).__name__: record for _, _, record in records_of(samples.hvm())}
    batch = records["PageData"]
    assert batch.pfn_count == 5
    assert batch.pfns.tolist() == [0, 1, 2, 3, 4] and batch.pfns.dtype == numpy.uint64
    assert batch.types.tolist() == [0, 0xF, 0xE, 0xD, 0] and batch.types.dtype == numpy.uint8
    assert batch.pages.shape == (2, 4096) and batch.pages[1].tobytes() == samples.page(2)
    assert records["TscInfo"][:4] == (1, 2400000, 123456789, 3)
    assert records["HvmParams"].params == [(1, 0xFEFFC), (5, 0xFEFFD)]
    records = {type(record).__name__: record for _, _, record in records_of(samples.pv())}
    assert records["PVInfo"][:2] == (8, 4)
    assert (records["P2MFrames"].start_pfn, records["P2MFrames"].end_pfn) == (0, 15)
    assert records["P2MFrames"].pfns.tolist() == [4]
    assert records["VcpuBasic"].vcpu_id == 0 and len(records["VcpuBasic"].blob) == 0x1430


def test_headers():
    reader = Reader(samples.headers(samples.PV, 2, xen=(4, 6)) + b"")
    assert reader.image.version == 2
    assert (reader.domain.type, reader.domain.xen_major, reader.domain.xen_minor) == (1, 4, 6)
    assert reader.identity == ("libxc", 2, "x86 PV", "Xen 4.6")
    assert "conversion" in Reader(samples.headers(xen=(0, 1))).identity.made_by


def test_records_cannot_be_changed():
    record = next(iter(Reader(samples.hvm())))
    with pytest.raises(AttributeError):
        record.leaves = b""


def test_pages_of_a_mapped_file_are_views_of_the_mapping(tmp_path):
    path = tmp_path / "stream"
    path.write_bytes(samples.hvm())
    with Reader(str(path)) as reader:
        pages = [record.pages for record in reader if isinstance(record, PageData)][0]
    assert not pages.flags.owndata and not pages.flags.writeable
    assert pages[0].tobytes() == samples.page(1)


def test_pages_of_a_pipe_are_read_once_and_on_time():
    stream = samples.hvm(memory=samples.batch([samples.word(7)], [samples.page(7)]) * 2)
    with WAYS["pipe"](stream) as fd:
        reader = Reader(fd)
        batches = []
        for record in reader:
            if isinstance(record, PageData):
                batches.append(record)
                if len(batches) == 1:
                    continue  # not read: skipped by asking for the next
                assert record.pages[0].tobytes() == samples.page(7)
                with pytest.raises(ValueError, match="read or skipped"):
                    record.data.read()
    with pytest.raises(ValueError, match="read or skipped"):
        batches[0].data.read()


def test_a_descriptor_stays_open_and_a_file_behind_the_stream_can_be_read_on():
    with WAYS["pipe"](samples.hvm() + b"what follows") as fd:
        with Reader(fd) as reader:
            for _ in reader:
                pass
            assert bytes(reader.source.buffered()) == b"what follows"
        os.fstat(fd)


@pytest.mark.parametrize("name", SMALL)
def test_fed_byte_by_byte(name):
    stream = SMALL[name]
    push = PushReader()
    got = []
    for at in range(len(stream)):
        push.feed(stream[at:at + 1])
        got.extend(whole(record) for record in push.records())
    push.finish()
    assert list(push.records()) == []
    assert got == [record for _, _, record in records_of(stream)]


@given(name=st.sampled_from(sorted(SMALL)), data=st.data())
def test_fed_in_any_pieces(name, data):
    stream = SMALL[name]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    push = PushReader()
    kept = []
    for start, stop in zip([0] + cuts, cuts + [len(stream)]):
        push.feed(bytearray(stream[start:stop]))
        kept.extend(push.records())
    assert [whole(record) for record in kept] == [record for _, _, record in records_of(stream)]


def test_views_of_fed_bytes_stay_good():
    stream = samples.hvm(memory=b"".join(
        samples.batch([samples.word(pfn)], [samples.page(pfn)]) for pfn in range(200)))
    push = PushReader()
    kept = []
    for start in range(0, len(stream), 5000):
        push.feed(stream[start:start + 5000])
        kept.extend(record for record in push.records() if isinstance(record, PageData))
    assert [record.pages[0].tobytes() for record in kept] == [samples.page(pfn) for pfn in range(200)]


def test_too_little_fed_consumes_nothing():
    stream = samples.hvm()
    push = PushReader()
    push.feed(stream[:50])
    with pytest.raises(NeedMoreData):
        push.reader.next_record()
    push.feed(stream[50:])
    assert len(list(push.records())) == 8


def test_a_run_is_what_the_records_are():
    batches = [samples.batch([samples.word(pfn), samples.word(pfn + 100, samples.XTAB)], [samples.page(pfn)])
               for pfn in range(50)]
    stream = samples.hvm(memory=b"".join(batches))
    reader = Reader(stream)
    for _ in range(3):
        reader.next_record()
    run = reader.next_run()
    assert (run.records, run.pages, reader.index) == (50, 50, 52)
    records = [record for _, _, record in records_of(stream) if isinstance(record, PageData)]
    assert bytes(run.words) == b"".join(record.words for record in records)
    assert [bytes(run.data[offset:offset + 4096]) for offset in run.extents[::2]] == [record.data for record in records]
    assert reader.next_run() is None and type(reader.next_record()).__name__ == "TscInfo"


def test_checkpointed_streams_end_with_their_last_checkpoint():
    whole_stream = samples.checkpointed(2)
    assert len(records_of(whole_stream, checkpointed=True)) == 13
    with pytest.raises(xstream.OrderError, match="announced"):
        records_of(whole_stream)
    for cut in (1, 7, 8, 24, 100, 4000):
        longer = whole_stream + samples.batch([samples.word(0)], [samples.page(3)])[:cut]
        with WAYS["pipe"](longer) as fd:
            assert len(list(Reader(fd, checkpointed=True))) in (13, 14)
    with pytest.raises(xstream.TruncatedStream):
        records_of(samples.checkpointed(1)[:-4], checkpointed=True)


def test_what_cannot_be_a_source():
    with pytest.raises(TypeError, match="not a path"):
        Reader(3.5)
    with pytest.raises(FileNotFoundError):
        Reader("/nonexistent/stream")
    with pytest.raises(IsADirectoryError):
        Reader("/")


class Returns:
    """A file object whose ``readinto``, or ``read``, returns something impossible or None."""

    def __init__(self, name, result):
        setattr(self, name, lambda argument: result)


@pytest.mark.parametrize(("name", "result", "error"), [
    ("readinto", -1, OSError), ("readinto", 1 << 20, OSError), ("readinto", None, BlockingIOError),
    ("read", None, BlockingIOError), ("read", bytes(1 << 20), OSError)])
def test_objects_that_return_nonsense_are_an_error_and_no_loop(name, result, error):
    with pytest.raises(error):
        Reader(Returns(name, result)).next_record()


def test_a_reader_that_is_used_while_it_reads_says_so():
    class Nested:
        def readinto(self, into):
            reader.next_record()

    stream = Nested()
    reader = Reader(samples.hvm()[:40])
    reader.image  # noqa: B018
    reader.source = ObjectSource(stream)
    with pytest.raises(RuntimeError, match="two threads"):
        reader.next_record()
