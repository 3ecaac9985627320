"""What differs between two saved guests."""
import json
import struct

import containers
import pytest
import samples
from samples import L1TAB, XALLOC, batch, page, word

from xstream import diff
from xstream.cli import main


def guest(words, pages, tail=b""):
    return samples.hvm(memory=batch(words, pages), tail=tail)


ONE = guest([word(1), word(2), word(3), word(9)], [page(1), page(2), page(3), page(9)])


def test_the_same():
    report = diff(ONE, ONE)
    assert report.same and report.compared == 4
    assert diff(samples.hvm(), containers.libxl(samples.hvm())).same
    assert diff(samples.pv(), samples.pv()).same


@pytest.mark.parametrize("jobs", [1, 3])
def test_memory(jobs):
    other = guest([word(1, L1TAB), word(2), word(3), word(12), word(13)],
                  [page(1), page(7), page(8), page(12), page(13)])
    report = diff(ONE, other, jobs=jobs)
    assert report.differing == ((2, 2),) and report.retyped == ((1, 1),)
    assert report.appeared == ((12, 2),) and report.vanished == ((9, 1),)
    assert report.state == () and report.compared == 3 and not report.same


def test_many_pages():
    count = 3000
    one = [batch([word(pfn) for pfn in range(start, start + 1000)], [page(pfn) for pfn in range(start, start + 1000)])
           for start in range(0, count, 1000)]
    other = one + [batch([word(2500)], [page(1)])]
    report = diff(samples.hvm(memory=b"".join(one)), samples.hvm(memory=b"".join(other)), jobs=4)
    assert report.differing == ((2500, 1),) and report.compared == count


def test_no_contents_is_zeros():
    assert diff(guest([word(1, XALLOC)], []), guest([word(1)], [bytes(4096)])).differing == ()
    assert diff(guest([word(1, XALLOC)], []), guest([word(1)], [page(1)])).differing == ((1, 1),)


def test_state():
    params = samples.record(0x0A, struct.pack("<II4Q", 2, 0, 1, 0xFEFFC, 5, 7))
    tail = samples.tsc_info() + samples.hvm_context() + params + samples.end()
    changed, = diff(guest([word(1)], [page(1)]), guest([word(1)], [page(1)], tail)).state
    assert changed.name.startswith("HvmParams.params.") and (changed.first, changed.second) == (0xFEFFD, 7)


def test_registers_of_pv():
    blob = bytearray(samples.vcpu_basic()[16:16 + 0x1430])
    struct.pack_into("<Q", blob, 520 + 15 * 8 + 8, 0x1234)
    tail = samples.pv_tail().replace(samples.vcpu_basic(), samples.vcpu(0x04, 0, bytes(blob)))
    assert [tuple(row) for row in diff(samples.pv(), samples.pv(tail=tail)).state] == [("VcpuBasic.0.rip", 0, 0x1234)]


def test_command(tmp_path, capsys):
    (tmp_path / "one").write_bytes(ONE)
    (tmp_path / "two").write_bytes(guest([word(1), word(2)], [page(1), page(5)]))
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    assert main(["diff", one, one]) == 0
    assert "the same" in capsys.readouterr().out
    assert main(["diff", one, two]) == 1
    assert "1 PFNs differing: 0x2" in capsys.readouterr().out
    assert main(["diff", "--json", one, two]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["differing"] == [[2, 1]] and document["vanished"] == [[3, 1], [9, 1]] and not document["same"]
