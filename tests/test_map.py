"""Pictures of guest memory: what they count, how they lay memory out, and what a browser makes of them."""
import io
import json
import shutil
import struct
import subprocess
import sys

import containers
import legacy_samples
import numpy
import pytest
import samples
from samples import BROKEN, L1TAB, L3TAB, L4TAB, XALLOC, XTAB, batch, page, word
from ways import pipe

import xstream
from xstream import MemoryView, draw_memory
from xstream.cli import main
from xstream.guest.paging import reached_tables
from xstream.guest.vcpus import vcpus
from xstream.tools import map_page
from xstream.tools.memory_map import Grid, MemoryMap, Part, View, memory_map

PAGE_SIZE = 4096
NOISE = bytes(range(256)) * 16
TEXT = b"Linux version 6.1\n".ljust(PAGE_SIZE, b"x")


def drawn(source, **options):
    return draw_memory(source, io.BytesIO(), **options)


def view_of(source, title, against=None):
    """The totals of one view, without kinds that don't occur."""
    with MemoryView(source) as view:
        other = None if against is None else MemoryView(against)
        found = {each.title: each for each in memory_map(view, other).views}
    return {name: count for name, count in found[title].totals.items() if count} if title in found else None


# What is counted

MIXED = samples.hvm(memory=batch([word(0), word(1), word(2), word(3), word(4, XALLOC), word(5, XTAB), word(6, BROKEN)],
                                 [bytes(PAGE_SIZE), TEXT, NOISE, page(3)]))


@pytest.mark.parametrize("jobs", [1, 3])
def test_contents(jobs):
    report = drawn(MIXED, jobs=jobs)
    assert report.contents == {"zero": 1, "text-like": 1, "random": 1, "other": 1, "without contents": 1}
    assert report.populated == 5 and report.highest_pfn == 6 and report.pages_per_square == 1
    assert report.types == {"NOTAB": 4, "XALLOC": 1, "XTAB": 1, "BROKEN": 1}
    assert (report.format, report.version, report.guest) == ("libxc", 3, "x86 HVM")
    assert report.differences is None and report.problem is None


def test_page_types():
    assert view_of(MIXED, "Page types") == {"normal": 4, "without contents": 1, "XTAB or broken": 2, "absent": 25}
    memory = batch([word(3, L4TAB), word(4, L3TAB), word(5, L1TAB), word(6, L1TAB | 8), word(7)],
                   [bytes(PAGE_SIZE)] * 5)
    assert view_of(samples.pv(memory=memory), "Page types") == {
        "normal": 1, "L1 table": 1, "L3 table": 1, "L4 table": 1, "pinned table": 1, "absent": 27}


def test_times_sent():
    assert view_of(MIXED, "Times sent") is None
    memory = b"".join(batch([word(pfn) for pfn in range(count)], [page(count)] * count)
                      for count in (12, 9, 9, 5, 5, 2))
    memory += b"".join(batch([word(0)], [page(0)]) for _ in range(3))
    data = samples.hvm(memory=memory + batch([word(20, XALLOC)]))
    assert view_of(data, "Times sent") == {"once": 3, "3 or 4 times": 4, "5 to 8 times": 4, "9 times or more": 1,
                                           "never": 1, "absent": 19}
    assert drawn(data).resent == 12 + 9 + 9 + 5 + 5 + 2 + 3 - 12
    assert view_of(samples.checkpointed(3), "Times sent") == {"3 or 4 times": 1, "absent": 31}


def test_differences():
    one = samples.hvm(memory=batch([word(1), word(2), word(3), word(9)], [page(1), page(2), page(3), page(9)]))
    other = samples.hvm(memory=batch([word(1, L1TAB), word(2), word(3), word(40), word(41)],
                                     [page(1), page(7), page(3), page(4), page(5)]))
    assert view_of(one, "Differences", other) == {
        "the same": 1, "contents differ": 1, "page type differs": 1, "appeared": 2, "vanished": 1, "absent": 58}
    assert drawn(one, against=other).differences == {
        "the same": 1, "contents differ": 1, "page type differs": 1, "appeared": 2, "vanished": 1}
    assert drawn(other, against=one).differences["appeared"] == 1
    assert drawn(one, against=one).differences["the same"] == 4


def check_genuine(stream):
    report = drawn(str(stream.path), jobs=2)
    info = xstream.info(str(stream.path))
    assert report.populated == info.populated and sum(report.contents.values()) == info.populated
    assert report.highest_pfn == info.highest_pfn and report.types == info.types
    if not info.checkpoints:
        assert report.resent == info.resent


def test_v3(v3_stream):
    check_genuine(v3_stream)


def test_xl(xl_stream):
    check_genuine(xl_stream)


def test_legacy(legacy_stream):
    check_genuine(legacy_stream)


@pytest.mark.parametrize("data", [containers.libxl(), samples.pv(), samples.pv(width=4), legacy_samples.hvm(),
                                  samples.hvm(memory=batch([word(3, XTAB)]))])
def test_any_stream_from_a_file_or_a_pipe(data):
    """One without any page, too."""
    found = []
    for source in (data, io.BytesIO(data)):
        out = io.BytesIO()
        draw_memory(source, out)
        found.append(out.getvalue())
    with pipe(data) as source:
        out = io.BytesIO()
        draw_memory(source, out)
        found.append(out.getvalue())
    assert found[0] == found[1] == found[2]


# Page tables in use

PG, PAE, LA57, LMA = 1 << 31, 1 << 5, 1 << 12, 1 << 10


def hvm_guest(memory, *cpus):
    """An HVM guest whose vcpus have these (cr0, cr3, cr4, efer)."""
    context = struct.pack("<HHIIIQII", 1, 0, 24, 0x54381286, 1, 0, 0, 0)
    for number, (cr0, cr3, cr4, efer) in enumerate(cpus):
        data = bytearray(1032)
        struct.pack_into("<Q", data, 512 + 8 * 18, cr0)
        struct.pack_into("<QQ", data, 512 + 8 * 20, cr3, cr4)
        struct.pack_into("<Q", data, 992, efer)
        context += struct.pack("<HHI", 2, number, len(data)) + bytes(data)
    tail = samples.tsc_info() + samples.record(0x09, context + struct.pack("<HHI", 0, 0, 0)) + samples.hvm_params() \
        + samples.end()
    return samples.hvm(memory=memory, tail=tail)


def table(*entries, size=8):
    """A page table: (index, PFN, flags)."""
    made = bytearray(PAGE_SIZE)
    for index, pfn, flags in entries:
        struct.pack_into("<Q" if size == 8 else "<I", made, size * index, pfn << 12 | flags)
    return bytes(made)


def memory(*pages):
    return batch([word(pfn) for pfn in range(len(pages))], pages)


def levels(data):
    """The level of each page table in use, by its PFN."""
    with MemoryView(data) as view:
        found = reached_tables(view, vcpus(view.records.records()))
    return dict(zip(found.pfns.tolist(), found.levels.tolist()))


LARGE = 1 << 7
FOUR = memory(table((0, 1, 3), (511, 2, 1 << 63 | 3), (5, 9, 3), (6, 3, 2)), table((7, 3, 1)), table((0, 4, LARGE | 1)),
              table((0, 5, 1), (1, 4, LARGE | 1)), page(4), table((0, 4, 1)), page(6))


def test_four_levels():
    """Entries that aren't present, map large pages, or point past the memory lead nowhere."""
    assert levels(hvm_guest(FOUR, (PG, 0, PAE, LMA))) == {0: 4, 1: 3, 2: 3, 3: 2, 5: 1}
    assert levels(hvm_guest(FOUR, (PG, 1 << 12 | 0x18, PAE, LMA))) == {1: 4, 3: 3, 5: 2, 4: 1}


def test_several_vcpus():
    assert levels(hvm_guest(FOUR, (PG, 3 << 12, PAE, LMA), (PG, 0, PAE, LMA), (0, 6 << 12, 0, 0))) == {
        0: 4, 1: 3, 2: 3, 3: 4, 5: 3, 4: 3}
    report = drawn(hvm_guest(FOUR, (PG, 3 << 12, PAE, LMA), (0, 6 << 12, 0, 0)))
    assert report.vcpus == {0: 3, 1: None} and report.page_tables == {"level 3": 2, "level 4": 1}


def test_five_levels():
    assert levels(hvm_guest(FOUR, (PG, 0, PAE | LA57, LMA))) == {0: 5, 1: 4, 2: 4, 3: 3, 5: 2, 4: 3}


def test_pae():
    """The top table has four entries, at any multiple of 32 in its page."""
    top = bytearray(PAGE_SIZE)
    struct.pack_into("<5Q", top, 64, 1 << 12 | 1, 0, 2 << 12 | 1, 0, 4 << 12 | 1)
    guest = memory(bytes(top), table((0, 3, 1)), table((0, 4, LARGE | 1)), page(3), page(4))
    assert levels(hvm_guest(guest, (PG, 64, PAE, 0))) == {0: 3, 1: 2, 2: 2, 3: 1}


def test_32_bit():
    guest = memory(table((0, 1, 1), (1023, 2, LARGE | 1), size=4), page(1), page(2))
    assert levels(hvm_guest(guest, (PG, 0, 0, 0))) == {0: 2, 1: 1}


def test_pv():
    tables = batch([word(3, L4TAB), word(4, L3TAB), word(5)], [table((0, 4, 1)), table((1, 9, 1)), page(5)])
    assert levels(samples.pv(memory=tables)) == {3: 4, 4: 3}
    tables = batch([word(3, L3TAB), word(4, 2), word(5)], [table((0, 4, 1)), bytes(PAGE_SIZE), page(5)])
    assert levels(samples.pv(width=4, memory=tables)) == {3: 3, 4: 2}


def test_hostile_tables():
    """Loops, and tables in which every entry points somewhere."""
    assert levels(hvm_guest(memory(table((0, 0, 1))), (PG, 0, PAE, LMA))) == {0: 4}
    full = numpy.arange(512, dtype="<u8") * PAGE_SIZE + 1
    guest = memory(*[full.tobytes()] * 64)
    found = levels(hvm_guest(guest, (PG, 0, PAE, LMA), (PG, (1 << 64) - 1, PAE, LMA)))
    assert found == {pfn: 3 if pfn else 4 for pfn in range(64)}
    assert levels(hvm_guest(samples.batch([word(0, XALLOC)]), (PG, 0, PAE, LMA))) == {}


def test_bad_registers_do_not_cost_the_picture():
    context = struct.pack("<HHIIIQIIHHI", 1, 0, 24, 0x54381286, 9, 0, 0, 0, 0, 0, 0)  # version 9
    tail = samples.tsc_info() + samples.record(0x09, context) + samples.hvm_params() + samples.end()
    report = drawn(samples.hvm(tail=tail))
    assert report.vcpus == {} and "another version" in report.problem


# The layout

def grid_of(*runs):
    parts = [batch([word(pfn, XALLOC) for pfn in range(start, min(start + 1000, first + count))])
             for first, count in runs for start in range(first, first + count, 1000)]
    with MemoryView(samples.hvm(memory=b"".join(parts))) as view:
        return memory_map(view).grid


def test_grid():
    assert grid_of((0, 10)) == Grid(32, 1, (Part(0, 1, 0),))
    assert grid_of((0, 600)) == Grid(64, 1, (Part(0, 10, 0),))
    assert grid_of((0, 8192)) == Grid(128, 1, (Part(0, 64, 0),))
    assert grid_of((0, 8193)) == Grid(128, 2, (Part(0, 33, 0),))


def test_long_ranges_without_pages_are_left_out():
    assert grid_of((0, 5), (200, 1), (0xFEFFE, 2)).parts == (Part(0, 1, 0), Part(192, 1, 32), Part(0xFEFE0, 1, 64))
    # One or two rows aren't worth a gap.
    assert grid_of((0, 5), (64, 1)).parts == (Part(0, 3, 0),)
    assert grid_of((0, 5), (1 << 30, 3000)).parts == (Part(0, 1, 0), Part(1 << 30, 24, 128))
    scattered = grid_of(*((1 << shift, 1) for shift in range(8, 28)))
    assert len(scattered.parts) <= 6 and scattered.cells <= 8192
    # What a saver mentions as absent doesn't count.
    with MemoryView(samples.hvm(memory=batch([word(0), word(9000, XTAB)], [page(0)]))) as view:
        assert memory_map(view).grid.parts == (Part(0, 1, 0),)


def test_every_page_has_its_cell():
    with MemoryView(samples.hvm(memory=batch([word(pfn) for pfn in (3, 31, 32, 9000)], [page(0)] * 4))) as view:
        mapped = memory_map(view)
    assert mapped.grid.cell_of(numpy.array([3, 31, 32, 33, 9000, 8991, 64, 99999])).tolist() == [
        3, 31, 32, 33, 64 + 9000 % 32, -1, -1, -1]
    contents = mapped.views[0]
    assert numpy.flatnonzero(contents.counts[:, 3]).tolist() == [3, 31, 32, 64 + 9000 % 32]
    assert (contents.counts.sum(axis=1) == 1).all()


def test_colours_of_several_pages():
    """The most frequent kind, but tables, differences and resent pages count more, and absent pages least."""
    pages = [bytes(PAGE_SIZE)] * 3000 + [page(1)] * 6192
    parts = [batch([word(2 * pfn) for pfn in range(start, min(start + 1000, len(pages)))], pages[start:start + 1000])
             for start in range(0, len(pages), 1000)]
    with MemoryView(samples.hvm(memory=b"".join(parts) + batch([word(0)], [page(0)]))) as view:
        mapped = memory_map(view)
    contents, _, sends = mapped.views
    assert mapped.grid.per_cell == 4
    assert [contents.kinds[kind].name for kind in contents.colours[[0, 1499, 1500]]] == ["zero", "zero", "other"]
    assert [sends.kinds[kind].name for kind in sends.colours[[0, 1]]] == ["2 times", "once"]


# The page

def html_of(source, **options):
    out = io.BytesIO()
    draw_memory(source, out, **options)
    return out.getvalue().decode("utf-8")


def test_page_needs_no_network():
    text = html_of(MIXED, against=samples.hvm())
    assert "http" not in text and "src=" not in text and "url(" not in text
    assert text.count("<script>") == 1 and text.index("<script>") > text.index("</aside>")


def test_page_of_a_large_guest_is_small():
    """Whatever is in the guest: here every cell is different and every kind occurs in it."""
    source = numpy.random.RandomState(1)
    cells, each = 8192, 1 << 13  # 256 GiB
    views = []
    with MemoryView(MIXED) as view, MemoryView(samples.hvm()) as other:
        for title, kinds, _ in memory_map(view, other).views:
            counts = source.multinomial(each, [1 / len(kinds)] * len(kinds), cells).astype(numpy.uint32)
            views.append(View(title, kinds, counts))
    tops = {number: number << 20 for number in range(512)}
    mapped = MemoryMap(Grid(128, each, (Part(0, 64, 0),)), tuple(views), 0, tops, None)
    assert len(map_page.page(mapped, [("Format", "libxc")], "guest")) < 2 << 20


def test_page_escapes_what_it_is_told(tmp_path):
    (tmp_path / "<b>&.xl").write_bytes(MIXED)
    draw_memory(str(tmp_path / "<b>&.xl"), str(tmp_path / "out.html"))
    text = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert "<b>" not in text and "&lt;b&gt;&amp;.xl" in text


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
#: Points at the second square of the picture shown, and reports what is seen.
PROBE = """<script>{
const shown = [...document.querySelectorAll(".grid")].filter(grid => grid.clientWidth);
const place = shown[0].getBoundingClientRect();
shown[0].dispatchEvent(new PointerEvent("pointermove", {clientX: place.left + place.width / 32 * 1.5,
                                                        clientY: place.top + 2}));
const box = document.getElementById("figures").getBoundingClientRect();
document.title = [document.documentElement.scrollWidth <= innerWidth, shown.length, shown[0].clientWidth > 300,
                  box.left >= 0 && box.right <= innerWidth && box.bottom <= innerHeight,
                  document.getElementById("figures").textContent.replace(/\\n/g, "; ")].join("|");
}</script></body>"""


@pytest.mark.skipif(not CHROMIUM, reason="no chromium here: apt-get install chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_page_in_a_browser(tmp_path, width):
    """It is drawn without the network, nothing sticks out at the side, and pointing at a square shows its figures."""
    content = html_of(MIXED, against=samples.hvm()).replace("</body>", PROBE)
    (tmp_path / "page.html").write_text(content, encoding="utf-8")
    shown = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir=" + str(tmp_path / "profile"),
         "--window-size={},900".format(width), "--host-resolver-rules=MAP * 127.0.0.1:1", "--dump-dom",
         (tmp_path / "page.html").as_uri()],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=120).stdout.decode("utf-8")
    title = shown.split("<title>")[1].split("</title>")[0].split("|")
    assert title == ["true", "1", "true", "true", "PFN 0x1, from address 0x1000; Differences: vanished; "
                     "Contents: text-like; Page types: normal"]


# The image

def test_png(tmp_path):
    image = pytest.importorskip("PIL.Image")
    draw_memory(MIXED, str(tmp_path / "map.PNG"), against=samples.hvm())
    with image.open(str(tmp_path / "map.PNG")) as picture:
        assert picture.format == "PNG" and picture.size[0] == 944
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}
    for name in ("zero", "text", "random", "other", "bare", "absent", "differing", "vanished", "plain"):
        assert tuple(bytes.fromhex(map_page.COLOURS[name][0][1:])) in colours, name


def test_without_pillow(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.delitem(sys.modules, "xstream.tools.map_png", raising=False)
    (tmp_path / "guest").write_bytes(MIXED)
    assert main(["map", str(tmp_path / "guest"), str(tmp_path / "map.png")]) == 2
    assert "Pillow is needed for this, and not installed" in capsys.readouterr().err
    assert not (tmp_path / "map.png").exists()
    assert main(["map", str(tmp_path / "guest"), str(tmp_path / "map.html")]) == 0


# The command

def test_command(tmp_path, capsys):
    guest, out = str(tmp_path / "guest"), str(tmp_path / "map.html")
    (tmp_path / "guest").write_bytes(MIXED)
    assert main(["map", guest, out]) == 0 and capsys.readouterr().out == ""
    assert (tmp_path / "map.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert main(["map", guest, out]) == 2
    assert main(["map", guest, out, "-f", "--json", "--against", guest]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["differences"]["the same"] == 5 and document["contents"]["text-like"] == 1
    assert main(["map", guest, guest, "-f"]) == 2
    assert main(["map", guest, out, "-f", "--against", out]) == 2
    assert (tmp_path / "guest").read_bytes() == MIXED


def test_failures_leave_nothing(tmp_path):
    with pytest.raises(xstream.TruncatedStream):
        draw_memory(MIXED[:-20], str(tmp_path / "x.html"))
    with pytest.raises(xstream.TruncatedStream):
        draw_memory(MIXED, str(tmp_path / "x.html"), against=MIXED[:-20])
    with pytest.raises(ValueError):
        draw_memory(MIXED, str(tmp_path / "x.html"), to="svg")
    assert not (tmp_path / "x.html").exists()
