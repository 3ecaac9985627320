"""What info reports of streams that aren't as they should be, and within which bounds."""
import json
import struct

import containers
import pytest
import samples
from ways import WAYS

from xstream.cli import main
from xstream.errors import CorruptStream, TruncatedStream
from xstream.tools.info import info


@pytest.mark.parametrize("name", [name for name, _, _ in containers.ALL])
def test_a_cut_stream_is_described_up_to_the_cut(name):
    stream = containers.STREAMS[name]
    whole = info(stream)
    assert whole.error is None
    report = info(stream[:len(stream) - 1])
    assert isinstance(report.error, TruncatedStream)
    assert report[:4] == whole[:4] and report.sent == whole.sent and report.layers[-1].format == whole.layers[-1].format


def test_every_source_describes_a_cut_alike():
    stream = containers.xl()[:-300]
    reports = []
    for way in ("buffer", "mapped", "pipe", "object"):
        with WAYS[way](stream) as source:
            report = info(source)
            reports.append(dict(report._asdict(), error=str(report.error)))
    assert all(report == reports[0] for report in reports)


def test_a_cut_stream_on_the_command_line(tmp_path, capsys):
    path = tmp_path / "cut.xl"
    path.write_bytes(containers.xl()[:-300])
    assert main(["info", str(path)]) == 1
    out, err = capsys.readouterr()
    assert "xl > libxl > libxc stream, version 3" in out and "X86_TSC_INFO" in out and "offset" in err
    assert main(["info", "--json", str(path)]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False and document["error"] == "TruncatedStream" and document["sent"] == 2


def test_without_headers_there_is_nothing_to_describe():
    with pytest.raises(TruncatedStream):
        info(samples.hvm()[:30])
    with pytest.raises(CorruptStream):
        info(b"hello, world")


def test_record_types_are_counted_one_by_one_up_to_a_limit():
    optional = b"".join(struct.pack("<II", 0x80000100 + number, 0) for number in range(5000))
    report = info(samples.hvm(tail=optional + samples.tsc_info() + samples.hvm_context() + samples.hvm_params()
                              + samples.end()))
    sizes = report.sizes["libxc"]
    assert len(sizes) <= 1001 and sizes["other types"] > 8 * 3000
    assert sum(sizes.values()) == report.bytes - 40


def test_a_table_of_many_rows_is_printed_in_linear_time(tmp_path, capsys):
    """The alignment of a column is found once; done for each cell, this would take minutes."""
    path = tmp_path / "rows.xs"
    alternating = (samples.tsc_info() + struct.pack("<II", 0x80000001, 0)) * 5000
    path.write_bytes(samples.hvm(tail=alternating + samples.hvm_context() + samples.hvm_params() + samples.end()))
    assert main(["info", str(path)]) == 0
    assert "more rows" in capsys.readouterr().out
