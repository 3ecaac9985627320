"""extract(salvage=True): keeps what is complete in a cut or damaged stream."""
import json

import containers
import pytest
import samples
from samples import XTAB, batch, page, word
from test_cli import run
from ways import WAYS

import xstream

FIRST = batch([word(0), word(2)], [page(1), page(2)])
SECOND = batch([word(5), word(6), word(7, XTAB)], [page(3), page(4)])
STREAM = samples.hvm(memory=FIRST + SECOND)
CUT = STREAM[:STREAM.index(SECOND) + 5000]
#: The cut is in the page of PFN 6.
SAVED = samples.memory_of({0: page(1), 2: page(2), 5: page(3)}, 8)
DAMAGED = STREAM.replace(SECOND, batch([word(5, 7)], [page(3)]))
WRAPPERS = {"libxc": bytes, "libxl": containers.libxl, "xl": lambda stream: containers.xl(containers.libxl(stream)),
            "xenopsd": containers.xenopsd}


def image_of(stream, tmp_path, **options):
    report = xstream.extract(stream, tmp_path / "image", salvage=True, **options)
    return report, (tmp_path / "image").read_bytes()


@pytest.mark.parametrize("way", WAYS)
def test_a_truncated_stream(way, tmp_path):
    with WAYS[way](CUT) as source:
        report, image = image_of(source, tmp_path)
    assert image == SAVED
    assert isinstance(report.error, xstream.TruncatedStream) and report.error.offset == len(CUT)
    assert (report.missing, report.missing_pages, report.populated) == (((1, 1), (3, 2), (6, 1)), 4, 3)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_container(wrapper, tmp_path):
    stream = WRAPPERS[wrapper](STREAM)
    report, image = image_of(stream[:stream.index(SECOND) + 5000], tmp_path)
    assert image == SAVED and report.missing == ((1, 1), (3, 2), (6, 1))
    with pytest.raises(xstream.StreamError):
        image_of(stream[:stream.index(FIRST)], tmp_path)


def test_a_damaged_stream(tmp_path):
    report, image = image_of(DAMAGED, tmp_path)
    assert image == samples.memory_of({0: page(1), 2: page(2)}, 3)
    assert isinstance(report.error, xstream.CorruptStream) and report.error.record_type == "PAGE_DATA"


def test_a_stream_without_its_state(tmp_path):
    """A tail of zeros is not an END: memory may be complete, the guest isn't."""
    at = STREAM.index(SECOND) + len(SECOND)
    report, image = image_of(STREAM[:at] + bytes(100), tmp_path)
    assert isinstance(report.error, xstream.StreamError) and report.missing == ((1, 1), (3, 2))
    assert image == samples.memory_of({0: page(1), 2: page(2), 5: page(3), 6: page(4)}, 8)


def test_a_good_stream_is_what_it_was(tmp_path):
    report, image = image_of(STREAM, tmp_path)
    assert report == xstream.extract(STREAM, tmp_path / "other") and report.error is None and report.missing == ()
    assert image == (tmp_path / "other").read_bytes()


def test_legacy_streams_say_where_memory_ends(tmp_path):
    stream = containers.legacy_hvm()
    for size in range(len(stream) - 1, 100, -997):
        try:
            report, _ = image_of(stream[:size], tmp_path)
        except xstream.StreamError:
            return
        assert report.error is not None
    raise AssertionError("a stream without pages is an error")


def test_a_limit_is_still_an_error(tmp_path):
    with pytest.raises(xstream.LimitExceeded):
        image_of(STREAM, tmp_path, limits=xstream.Limits(guest_pfns=4))


def test_command(tmp_path):
    path, out = tmp_path / "cut.xs", tmp_path / "image"
    path.write_bytes(CUT)
    assert run("extract", str(path), str(out))[0] == 1 and not out.exists()
    status, said, err = run("extract", str(path), str(out), "--salvage")
    assert status == 1 and said == b"" and out.stat().st_size == 8 * 4096
    assert "offset {}".format(len(CUT)) in err and "salvaged 3 pages; missing: 4 PFNs: 0x1-0x1, 0x3-0x4, 0x6-0x6" in err
    status, said, _ = run("extract", str(path), str(out), "--salvage", "--json", "-f")
    document = json.loads(said.decode())
    assert status == 1 and document["missing"] == [[1, 1], [3, 2], [6, 1]] and document["offset"] == len(CUT)
    assert document["ok"] is False and document["populated"] == 3
    status, said, err = run("extract", str(path), "-", "--salvage")
    assert status == 1 and said == out.read_bytes()
    assert run("extract", "-", "-", "--salvage", stdin=STREAM)[0] == 0
