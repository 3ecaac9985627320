"""extract(salvage=True) of genuine streams that are cut: exactly the pages that are whole before the cut, and the same
report from every kind of source."""
import gzip
import io
import lzma
import struct
import zlib
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import containers
import pytest
import samples
import zstandard
from samples import XALLOC, XTAB, batch, page, word
from ways import WAYS

import xstream
from xstream.wire.legacy import Start

PAGE = 4096
END, PAGE_DATA, P2M_FRAMES, VERIFY, CHECKPOINT = 0, 1, 3, 13, 14
#: A byte at a time takes long for megabytes.
QUICK = [way for way in WAYS if way not in ("trickle", "read only")]


class Batch(NamedTuple):
    words: List[int]
    at: int  # of the first page


class Layout(NamedTuple):
    """The batches of a stream up to VERIFY or the first checkpoint; and where the guest's memory ends, if known."""

    batches: List[Batch]
    end: Optional[int]


def layout_of(stream: bytes) -> Layout:
    """The layout of a libxc stream in whatever container."""
    at = stream.index(b"\xff" * 8 + b"XENF") + 40
    batches, end = [], 0
    while True:
        kind, length = struct.unpack_from("<II", stream, at)
        if kind in (END, VERIFY, CHECKPOINT):
            return Layout(batches, end or None)
        if kind == P2M_FRAMES:
            end = max(end, struct.unpack_from("<II", stream, at + 8)[1] + 1)
        if kind == PAGE_DATA:
            count, = struct.unpack_from("<I", stream, at + 8)
            batches.append(Batch(list(struct.unpack_from("<{}Q".format(count), stream, at + 16)), at + 16 + 8 * count))
        at += 8 + length + -length % 8


def legacy_layout(stream: bytes) -> Layout:
    """The layout of a legacy stream in whatever container."""
    batches = []
    end = width = 0
    reader = xstream.open(stream)
    for record in reader:
        if isinstance(record, Start):
            end, width = record.p2m_size, record.width
        elif isinstance(record, xstream.PageData) and not reader.verifying:
            count, = struct.unpack_from("<i", stream, reader.offset)
            batches.append(Batch(list(struct.unpack("<{}Q".format(len(record.words) // 8), record.words)),
                                 reader.offset + 4 + width * count))
        elif reader.checkpoints:
            break
    return Layout(batches, end)


class Saved(NamedTuple):
    """What is whole of a cut stream: where each PFN's page is in it; and the report's numbers."""

    pages: Dict[int, int]
    size: int
    populated: int
    missing: Tuple[Tuple[int, int], ...]


def whole_before(layout: Layout, cut: int) -> Saved:
    """What is whole of a stream that ends at ``cut``."""
    pages: Dict[int, int] = {}
    mentioned, populated = set(), set()
    for words, at in layout.batches:
        if at > cut:
            break
        for pfn, kind in ((number & ((1 << 52) - 1), number >> 60) for number in words):
            if kind < 0xD:
                at += PAGE
                if at > cut:
                    continue
                pages[pfn] = at - PAGE
            if kind < 0xD or kind == XALLOC:
                populated.add(pfn)
            mentioned.add(pfn)
    size = max(mentioned, default=-1) + 1
    known = [-1] + sorted(mentioned) + [layout.end or size]
    missing = tuple((low + 1, high - low - 1) for low, high in zip(known, known[1:]) if high > low + 1)
    return Saved(pages, size * PAGE, len(populated), missing)


def check_image(path: Any, stream: bytes, expected: Saved) -> None:
    """Exactly these pages, and nothing where there is none."""
    with path.open("rb") as file:
        done = 0
        for pfn, at in sorted(expected.pages.items()):
            if pfn - done < 1024:
                assert not any(file.read((pfn - done) * PAGE))
            file.seek(pfn * PAGE)
            assert file.read(PAGE) == stream[at:at + PAGE], hex(pfn)
            done = pfn + 1
    assert path.stat().st_size == expected.size


def cuts_of(some: Batch) -> Iterator[int]:
    """Places in a batch's pages: none whole, one, all but the last byte, and about half of them."""
    count = sum(word >> 60 < 0xD for word in some.words)
    if count:
        yield from {some.at, some.at + 1, some.at + PAGE - 1, some.at + PAGE, some.at + count // 2 * PAGE + 100,
                    some.at + count * PAGE - 1}


def check(stream: bytes, source_bytes: bytes, way: str, folder: Any, expected: Saved,
          **options: Any) -> xstream.ExtractReport:
    """The report of what a source holds of a stream, after comparing it with what is whole."""
    with WAYS[way](source_bytes) as source:
        report = xstream.extract(source, folder / "image", salvage=True, **options)
    check_image(folder / "image", stream, expected)
    assert (report.bytes, report.populated, report.missing) == (
        expected.size, expected.populated, expected.missing[:10000])
    assert report.missing_pages == sum(count for _, count in expected.missing)
    assert report.error is not None
    return report


def check_ways(stream: bytes, layout: Layout, cut: int, folder: Any, ways: List[str] = QUICK, **options: Any) -> None:
    """Every way in gives what is whole and the same error, the one that a plain extract raises."""
    expected = whole_before(layout, cut)
    if not expected.populated:
        return
    with pytest.raises(xstream.TruncatedStream) as caught:
        xstream.extract(stream[:cut], folder / "plain", **options)
    assert caught.value.offset == cut and caught.value.record_type == "PAGE_DATA"
    for way in ways:
        report = check(stream, stream[:cut], way, folder, expected, **options)
        assert report.error is not None and report.error.as_dict() == caught.value.as_dict(), way


def check_cuts(stream: bytes, layout: Layout, some: Batch, number: int, folder: Any, **options: Any) -> None:
    """The cuts of a batch: one of them in every way, the others in a changing one."""
    for place, cut in enumerate(sorted(set(cuts_of(some)))):
        ways = QUICK if number == place == 1 else [QUICK[(2 * number + 3 * place) % len(QUICK)]]
        check_ways(stream, layout, cut, folder, ways, **options)


def test_batches(v3_stream, tmp_path):
    """Of the streams of libxenguest: PV, HVM, live, with VERIFY, with checkpoints."""
    stream = v3_stream.path.read_bytes()
    layout = layout_of(stream)
    assert layout.batches
    for number, some in enumerate(layout.batches[::len(layout.batches) // 3 + 1]):
        check_cuts(stream, layout, some, number, tmp_path, checkpointed="remus" in v3_stream.path.name)


@pytest.mark.parametrize("name", ["pv64-few.xl.xz", "hvm-linux-few.xl.xz", "pvh-few.xl.xz"])
def test_images_of_xl(name, genuine_stream, tmp_path):
    stream = genuine_stream("few", name).path.read_bytes()
    layout = layout_of(stream)
    for number in (0, 1):
        check_cuts(stream, layout, layout.batches[number], number, tmp_path)
    check_ways(stream, layout, layout.batches[len(layout.batches) // 2].at + 10 * PAGE + 7, tmp_path,
               ["mapped", "pipe"])


def test_legacy_streams(legacy_stream, tmp_path):
    stream = legacy_stream.path.read_bytes()
    layout = legacy_layout(stream)
    with_pages = [some for some in layout.batches if any(cuts_of(some))]
    for number in (0, 1):
        check_cuts(stream, layout, with_pages[number], number, tmp_path)


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(data)


def xz(data: bytes) -> bytes:
    return lzma.compress(data, preset=0)


def own_zstd(data: bytes) -> bytes:
    """As this package compresses: frames of their own for pages, and a table."""
    out = io.BytesIO()
    xstream.convert(data, out, to="libxc", compress="zstd")
    return out.getvalue()


@pytest.mark.parametrize("compress", [gzip.compress, xz, zstd])
def test_a_cut_stream_that_was_compressed(compress, genuine_stream, tmp_path):
    stream = genuine_stream("v3", "hvm.xs.xz").path.read_bytes()
    layout = layout_of(stream)
    for cut in cuts_of(layout.batches[0]):
        expected = whole_before(layout, cut)
        for way in ["mapped", "pipe"] if expected.populated else []:
            report = check(stream, compress(stream[:cut]), way, tmp_path, expected)
            assert report.error is not None and report.error.offset == cut


def prefix(compressed: bytes, compress: Callable[[bytes], bytes]) -> bytes:
    """What a cut compressed file still holds."""
    if compress == gzip.compress:
        return zlib.decompressobj(wbits=31).decompress(compressed)
    if compress == xz:
        return lzma.LZMADecompressor().decompress(compressed)
    parts = b""
    left = compressed
    while left:
        frame = zstandard.ZstdDecompressor().decompressobj()
        parts += frame.decompress(left)
        left = frame.unused_data
    return parts


@pytest.mark.parametrize("compress", [gzip.compress, xz, zstd, own_zstd])
def test_a_compressed_stream_that_is_cut(compress, genuine_stream, tmp_path):
    stream = genuine_stream("v3", "pv64-live.xs.xz").path.read_bytes()
    layout = layout_of(stream)
    compressed = compress(stream)
    seen = set()
    for cut in range(len(compressed) // 20, len(compressed) // 2, len(compressed) // 15):
        plain = prefix(compressed[:cut], compress)
        assert stream.startswith(plain)
        expected = whole_before(layout, len(plain))
        seen.add(expected.populated)
        reports = [check(stream, compressed[:cut], way, tmp_path, expected) for way in ("mapped", "pipe", "object")]
        assert len({str(report.error) for report in reports}) == 1
        assert reports[0].error is not None and reports[0].error.layer in ("gzip", "xz", "zstd")
    assert len(seen) > 3


WRAPPERS = {"libxc": bytes, "libxl": containers.libxl, "xl": lambda stream: containers.xl(containers.libxl(stream)),
            "libvirt": lambda stream: containers.libvirt(containers.libxl(stream)), "xenopsd": containers.xenopsd}
WORDS = [word(0, XTAB), word(1), word(2, XALLOC), word(3), word(4, XTAB), word(5), word(9, XALLOC)]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_words_without_data(wrapper, tmp_path):
    """Among pages that are cut they are whole; in the only batch of a stream, in every container."""
    stream = WRAPPERS[wrapper](samples.hvm(memory=batch(WORDS, [page(1), page(2), page(3)])))
    layout = layout_of(stream)
    at = layout.batches[0].at
    for cut, whole in ((at, 0), (at + PAGE - 1, 0), (at + PAGE, 1), (at + 2 * PAGE + 1, 2), (at + 3 * PAGE - 1, 2)):
        expected = whole_before(layout, cut)
        assert expected.populated == 2 + whole and expected.size == 10 * PAGE
        check_ways(stream, layout, cut, tmp_path, list(WAYS) if whole == 1 else ["mapped", "trickle"])


def test_cut_words(tmp_path):
    """Nothing is taken of a batch whose words are cut."""
    second = batch([word(5), word(6)], [page(3), page(4)])
    stream = samples.hvm(memory=batch([word(0)], [page(1)]) + second)
    for way in WAYS:
        with WAYS[way](stream[:stream.index(second) + 31]) as source:
            report = xstream.extract(source, tmp_path / "image", salvage=True)
        assert (report.populated, report.missing) == (1, ())


def test_unmapped_words_of_a_cut_batch(tmp_path):
    """A converted stream's batch of XTAB words alone removes pages; a cut batch of which only such words are whole
    doesn't."""
    first = batch([word(0)], [page(1)])
    second = batch([word(0, XTAB), word(1)], [page(2)])
    stream = samples.hvm(memory=first + second)
    converted = stream[:32] + struct.pack("<II", 0, 1) + stream[40:]
    cut = converted.index(second) + len(second) - PAGE + 5
    for way in WAYS:
        with WAYS[way](converted[:cut]) as source:
            report = xstream.extract(source, tmp_path / "image", salvage=True)
        assert (tmp_path / "image").read_bytes() == page(1) and report.populated == 1
