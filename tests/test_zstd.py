"""Compressed images: zstd frames along the stream's structure, with a table at the end."""
import array
import importlib
import os
import random
import struct
import sys
import types

import containers
import genuine_streams
import pytest
import samples
from samples import batch, page, word
from test_cli import run
from ways import WAYS

import xstream
from xstream.guest.guest import Pages
from xstream.guest.memory import GuestMemory
from xstream.guest.simulated import SimulatedGuest
from xstream.kernels import zframes
from xstream.stream import framed, packing, seekable, zstd
from xstream.stream.piped import PipedFrames
from xstream.stream.seekable import SeekableSource, frames
from xstream.testing.checked import CheckedGuest

zstandard = pytest.importorskip("zstandard")

BATCH, PAGES = 40, 160
STREAM_PAGES = [page(pfn) if pfn % 3 else random.Random(pfn).getrandbits(8 * 4096).to_bytes(4096, "little")
                for pfn in range(PAGES)]
STREAM = samples.hvm(memory=b"".join(
    batch([word(pfn) for pfn in range(first, first + BATCH)], STREAM_PAGES[first:first + BATCH])
    for first in range(0, PAGES, BATCH)))


def compressed(stream, tmp_path, **options):
    xstream.convert(stream, tmp_path / "out.zst", **options)
    return bytearray((tmp_path / "out.zst").read_bytes())


def decompressed(image):
    """The contents by another reader, front to back."""
    return zstandard.ZstdDecompressor().stream_reader(bytes(image), read_across_frames=True).read()


def opened_frames(image):
    found = frames(memoryview(bytes(image)))
    assert found is not None
    return found


def pages_of(image):
    """The frames of page data of STREAM's image."""
    return [frame for frame in opened_frames(image) if frame.size == BATCH * 4096]


def records(source, **options):
    with xstream.open(source, **options) as reader:
        return [(reader.layer, reader.offset, type(record), bytes(record.data) if isinstance(record, xstream.PageData)
                 else record) for record in map(kept, reader)]


def kept(record):
    return record._replace(data=b"".join(map(bytes, xstream.stream.source.pieces(record.data)))) if isinstance(
        record, xstream.PageData) else record


@pytest.fixture(autouse=True)
def no_image_is_small(request, monkeypatch):
    """Cut all images into frames, as large ones are."""
    if "small" not in request.fixturenames:
        monkeypatch.setattr(packing, "SMALL_IMAGE", 0)


@pytest.fixture
def small():
    """Leave small images whole."""


@pytest.fixture
def count(monkeypatch):
    """The sizes of what has been decompressed."""
    sizes = []
    installed = seekable.zstd_library()

    def decompress(frame, size):
        sizes.append(size)
        return installed.decompress(frame, size)

    def decompress_into(frame, into):
        sizes.append(len(into))
        return installed.decompress_into(frame, into)

    counting = installed._replace(decompress=decompress, decompress_into=decompress_into)
    for module in (framed, seekable):
        monkeypatch.setattr(module, "zstd_library", lambda: counting)
    return sizes


@pytest.mark.parametrize("group, name", [
    *(("few", name) for name in genuine_streams.images("few")), ("v3", "hvm.xs.xz"), ("v3", "pv64.xs.xz"),
    ("xl", "hvm-bios.xl.xz")])
def test_genuine_images(group, name, genuine_stream, tmp_path):
    stream = genuine_stream(group, name).path.read_bytes()
    image = compressed(stream, tmp_path, jobs=3)
    assert decompressed(image) == stream and len(image) < len(stream)
    assert xstream.verify(tmp_path / "out.zst") == xstream.verify(stream)
    assert xstream.verify(tmp_path / "out.zst", strict=True) == xstream.verify(stream, strict=True)
    assert xstream.digest(tmp_path / "out.zst") == xstream.digest(stream)
    assert xstream.info(tmp_path / "out.zst") == xstream.info(stream)._replace(zero=None)


@pytest.mark.parametrize("way", ["buffer", "mapped", "descriptor", "pipe", "object"])
def test_every_source(way, tmp_path):
    image = bytes(compressed(STREAM, tmp_path))
    with WAYS[way](STREAM) as plain, WAYS[way](image) as source:
        assert records(source) == records(plain)
    with WAYS[way](image) as source:
        assert xstream.convert(source, tmp_path / "back").bytes_written == len(STREAM)
    assert (tmp_path / "back").read_bytes() == STREAM


def test_pages_have_frames_of_their_own(tmp_path, count):
    image = compressed(STREAM, tmp_path)
    assert [frame.size for frame in pages_of(image)] == [BATCH * 4096] * (PAGES // BATCH)
    xstream.verify(tmp_path / "out.zst")
    xstream.info(tmp_path / "out.zst")
    assert sum(count) < 4096 * 2
    with xstream.open(tmp_path / "out.zst") as reader:
        assert isinstance(reader.source, SeekableSource)
    xstream.verify(tmp_path / "out.zst", strict=True)
    assert sum(count) > PAGES * 4096


@pytest.mark.parametrize("seed", range(20))
def test_frames_cut_anywhere_tell_the_same(seed, tmp_path):
    """Without pages, batches are read many at once; where frames aren't cut as this package does, one by one."""
    chance = random.Random(seed)
    ends = {at + chance.choice((0, 0, 1, -1, 4096)) for at in boundaries(STREAM) if chance.random() < 0.7}
    cuts = sorted(end for end in ends | set(chance.sample(range(len(STREAM)), 3)) if 0 < end < len(STREAM))
    image = by_hand([STREAM[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(STREAM)])])
    (tmp_path / "image").write_bytes(image)
    assert xstream.verify(tmp_path / "image") == xstream.verify(STREAM)
    assert xstream.info(tmp_path / "image") == xstream.info(STREAM)._replace(zero=None)


def boundaries(stream):
    """Where the pages of each batch begin and end."""
    at = 40
    while at < len(stream):
        kind, length = struct.unpack_from("<II", stream, at)
        if kind == 1:
            yield at + 16 + 8 * int.from_bytes(stream[at + 8:at + 12], "little")
        at += 8 + (length + 7) // 8 * 8
        yield at


def test_many_batches_are_read_at_once(tmp_path):
    compressed(STREAM, tmp_path)
    with xstream.open(tmp_path / "out.zst") as reader:
        while reader.next_run(pages=False) is None:
            assert reader.next_record() is not None
        assert reader.index == 2 + PAGES // BATCH  # after two policies and STATIC_DATA_END
        assert reader.next_run(pages=False) is None


@pytest.mark.parametrize("jobs", [2, 5])
def test_threads_change_nothing(jobs, tmp_path):
    assert compressed(STREAM, tmp_path, jobs=jobs) == compressed(STREAM, tmp_path)
    assert len(compressed(STREAM, tmp_path, compress="zstd:19")) <= len(compressed(STREAM, tmp_path, compress="zstd:1"))


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_small_image_is_one_frame(jobs, small, tmp_path, count):
    """Which finds what repeats in all of it, and is read like any other."""
    pages = [random.Random(pfn).getrandbits(8 * 4096).to_bytes(4096, "little") for pfn in range(PAGES)]
    stream = samples.hvm(memory=b"".join(batch([word(pfn) for pfn in range(PAGES)], pages) for _ in range(3)))
    image = compressed(stream, tmp_path, jobs=jobs)
    assert [frame.size for frame in opened_frames(image)] == [len(stream)] and decompressed(image) == stream
    assert len(image) < 1.1 * 4096 * PAGES
    assert xstream.verify(tmp_path / "out.zst") == xstream.verify(stream) and len(count) == 1
    assert xstream.digest(tmp_path / "out.zst") == xstream.digest(stream)
    memory = GuestMemory()
    xstream.load(tmp_path / "out.zst", memory, jobs=jobs)
    assert bytes(memory.buffer) == b"".join(pages)
    xstream.convert(tmp_path / "out.zst", tmp_path / "again.zst", jobs=jobs)
    assert (tmp_path / "again.zst").read_bytes() == image
    with xstream.MemoryView(tmp_path / "out.zst") as view:
        assert view[5].tobytes() == pages[5]


def sent_again():
    """Random pages in one batch, and the same pages in the next."""
    pages = [random.Random(pfn).getrandbits(8 * 4096).to_bytes(4096, "little") for pfn in range(64)]
    return [batch([word(start + number) for number in range(64)], pages) for start in (0, 64)]


def test_where_small_images_end(small, tmp_path, monkeypatch):
    """Of a larger one, nothing that was held back is lost; more than one frame may hold makes several."""
    stream = samples.hvm(memory=b"".join(sent_again()))
    size = len(stream)
    for limit, most, sizes in ((size, 1 << 20, [size]), (size, 500000, [500000, size - 500000])):
        monkeypatch.setattr(packing, "SMALL_IMAGE", limit)
        monkeypatch.setattr(packing, "MOST_CONTENTS", most)
        image = compressed(stream, tmp_path)
        assert [frame.size for frame in opened_frames(image)] == sizes and decompressed(image) == stream
    for limit in (0, 1000, len(STREAM) // 2, len(STREAM) - 1):
        monkeypatch.setattr(packing, "SMALL_IMAGE", limit)
        assert [len(pages_of(compressed(STREAM, tmp_path, jobs=jobs))) for jobs in (1, 2)] == [PAGES // BATCH] * 2
    xstream.convert(tmp_path / "out.zst", tmp_path / "copy.zst")
    monkeypatch.setattr(packing, "SMALL_IMAGE", 1 << 20)
    xstream.convert(tmp_path / "out.zst", tmp_path / "copy again.zst")  # which has frames already
    assert (tmp_path / "copy.zst").read_bytes() == (tmp_path / "copy again.zst").read_bytes()


@pytest.mark.parametrize("jobs", [1, 2])
def test_small_images_keep_their_frames(small, tmp_path, jobs):
    """Unless zstd makes a smaller file: of pages that are sent again."""
    once, again = sent_again()
    for memory, count in ((once, 3), (once + again, 1)):
        stream = samples.hvm(memory=memory)
        image = compressed(stream, tmp_path, jobs=jobs)
        assert len(opened_frames(image)) == count and decompressed(image) == stream


def test_much_that_is_not_pages(tmp_path, monkeypatch):
    """One piece of it may be larger than a frame that is decompressed as a whole."""
    monkeypatch.setattr(packing, "MOST_CONTENTS", 1000)
    image = compressed(STREAM, tmp_path)
    assert decompressed(image) == STREAM
    assert {frame.size for frame in opened_frames(image) if frame.size > 1000} == {BATCH * 4096}


def test_small_batches_share_frames(tmp_path):
    stream = samples.hvm(memory=b"".join(batch([word(pfn)], [page(pfn)]) for pfn in range(300)))
    image = compressed(stream, tmp_path)
    assert len(opened_frames(image)) < 4 and decompressed(image) == stream


def test_containers_and_legacy_streams(tmp_path):
    compressed(STREAM, tmp_path, to="xl", config=b"{}", no_device_model=True)
    assert xstream.verify(tmp_path / "out.zst").format == "xl"
    compressed(containers.legacy_hvm(), tmp_path)
    assert xstream.verify(tmp_path / "out.zst").format == "libxc"


@pytest.mark.parametrize("kind", ["hvm", "pv"])
def test_saving(kind, tmp_path):
    for path, compress in ((tmp_path / "plain", None), (tmp_path / "a.zst", None), (tmp_path / "b", "zstd:1")):
        xstream.save(SimulatedGuest(kind, 64), path, compress=compress)
    plain = (tmp_path / "plain").read_bytes()
    assert decompressed((tmp_path / "a.zst").read_bytes()) == decompressed((tmp_path / "b").read_bytes()) == plain
    guest = SimulatedGuest(kind, 64)
    xstream.restore(tmp_path / "a.zst", guest)
    with pytest.raises(ValueError, match="checkpoint"):
        xstream.save(SimulatedGuest(kind, 64), tmp_path / "c.zst", checkpoint=lambda number: False)


# Random access

def view_of(path):
    """Everything that a MemoryView shows."""
    with xstream.MemoryView(path) as view:
        assert view.mapped
        whole = bytes(view[:].tobytes())
        pfns = list(range(len(view)))
        random.Random(1).shuffle(pfns)
        return (whole, view.pages(pfns).tobytes(), view.starts(pfns, 12).tobytes(), bytes(view.state),
                view.copies.tolist(), view.runs().tolist(), view.read(4000, 50000), view.read(5, 7),
                view.read(view.size - 3, 20), b"".join(bytes(piece) for _, pieces in view.buffers(0, len(view))
                                                       for piece in pieces or ()))


RESENT = samples.hvm(memory=b"".join(batch([word(pfn)], [page(pfn)]) for pfn in range(300)) + batch(
    [word(pfn) for pfn in range(250, 200, -1)], [page(pfn + 1) for pfn in range(50)]))


@pytest.mark.parametrize("name", ["batches", "resent", "pv", "legacy"])
def test_random_access(name, tmp_path):
    plain = tmp_path / "plain"
    if name == "pv":
        xstream.save(SimulatedGuest("pv", 500), plain)
    else:
        plain.write_bytes({"batches": STREAM, "resent": RESENT, "legacy": containers.legacy_hvm()}[name])
    (tmp_path / "compressed").mkdir()
    stream = plain.read_bytes()
    if name == "legacy":  # by hand: a conversion would write a current stream
        frames_of = [stream[at:at + 70000] for at in range(0, len(stream), 70000)]
        (tmp_path / "out.zst").write_bytes(by_hand(frames_of))
    else:
        compressed(stream, tmp_path)
    assert view_of(tmp_path / "out.zst") == view_of(plain)


def test_random_access_decompresses_what_it_needs(tmp_path, count, monkeypatch):
    compressed(STREAM, tmp_path)
    monkeypatch.setattr(seekable, "_KEPT", 2 * BATCH * 4096)
    with xstream.MemoryView(tmp_path / "out.zst") as view:
        del count[:]
        for pfn in (3, 5, 3 + BATCH, 3, 5):
            assert view[pfn].tobytes() == STREAM_PAGES[pfn]
        assert count == [BATCH * 4096] * 2
        for first in range(0, PAGES, BATCH):
            view.read(first * 4096, 10)
        assert view[0].tobytes() == STREAM_PAGES[0] and len(count) == 5


def test_random_access_to_a_damaged_frame(tmp_path):
    image = compressed(STREAM, tmp_path)
    image[pages_of(image)[1].end - 1] ^= 1
    with xstream.MemoryView(bytes(image)) as view:
        assert view[0].tobytes() == STREAM_PAGES[0]
        with pytest.raises(xstream.CorruptStream) as caught:
            view.read((BATCH - 1) * 4096, 8192)
    assert caught.value.offset == pages_of(image)[1].begin


# Damage

def test_a_damaged_frame_names_its_pages(tmp_path):
    image = compressed(STREAM, tmp_path)
    second = pages_of(image)[1]
    image[second.end - 1] ^= 1  # of its checksum
    (tmp_path / "bad.zst").write_bytes(image)
    assert xstream.verify(tmp_path / "bad.zst").pages == PAGES  # which decompresses no page
    bad = tmp_path / "bad.zst"
    for check in (lambda: xstream.verify(bad, strict=True), lambda: xstream.digest(bad),
                  lambda: xstream.extract(bad, tmp_path / "memory")):
        with pytest.raises(xstream.CorruptStream) as caught:
            check()
        assert caught.value.layer == "zstd" and caught.value.offset == second.begin
    assert caught.value.got == "damaged pages of a batch of PFNs 0x28 to 0x4f"


def test_salvage_takes_the_other_frames(tmp_path):
    image = compressed(STREAM, tmp_path)
    for frame in pages_of(image)[1:3]:
        image[frame.end - 20] ^= 1
    (tmp_path / "bad.zst").write_bytes(image)
    xstream.extract(STREAM, tmp_path / "whole")
    report = xstream.extract(tmp_path / "bad.zst", tmp_path / "memory", salvage=True)
    assert report.populated == PAGES - 2 * BATCH and report.missing == ((BATCH, 2 * BATCH),)
    assert report.error is not None and "PFNs 0x28 to 0x4f" in str(report.error)
    whole, memory = (tmp_path / "whole").read_bytes(), (tmp_path / "memory").read_bytes()
    assert memory == whole[:BATCH * 4096] + bytes(2 * BATCH * 4096) + whole[3 * BATCH * 4096:]
    status, _, err = run("extract", "--salvage", str(tmp_path / "bad.zst"), str(tmp_path / "again"))
    assert status == 1 and "missing: 80 PFNs: 0x28-0x77" in err


@pytest.mark.parametrize("at", [0, 1, 3, 5, 6, 9, 10, 11])
def test_a_frame_with_a_damaged_header(at, tmp_path):
    """Its magic number, size or first block's header: where it ends is known from the table alone."""
    image = compressed(STREAM, tmp_path)
    second = pages_of(image)[1]
    image[second.begin + at] ^= 2
    bad = tmp_path / "bad.zst"
    bad.write_bytes(image)
    assert [frame.begin for frame in opened_frames(image) if frame.broken] == [second.begin]
    for strict in (False, True):
        with pytest.raises(xstream.CorruptStream, match="PFNs 0x28 to 0x4f") as caught:
            xstream.verify(bad, strict=strict)
        assert caught.value.layer == "zstd" and caught.value.offset == second.begin
    error = xstream.info(bad).error
    assert error is not None and error.offset == second.begin
    report = xstream.extract(bad, tmp_path / "memory", salvage=True)
    assert report.populated == PAGES - BATCH and report.missing == ((BATCH, BATCH),)


def test_frames_that_only_zstd_itself_would_accept():
    """Nothing that zstd decompresses counts as damaged because of a table."""
    raw = zstandard.ZstdCompressor(write_checksum=True, write_content_size=True).compress(STREAM)
    skippable = struct.pack("<II", 0x184D2A50, 4) + b"abcd"
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(b"xyz")
    many = b"\x28\xb5\x2f\xfd\x60\x03\0" + bytes(3 * 5000) + struct.pack("<I", 259 << 3 | 1)[:3] + b"x" * 259
    assert decompressed(many) == b"x" * 259
    for odd in (skippable, unsized, many, raw):
        rows = [(len(odd), 7), (len(raw), len(STREAM))]
        table = b"".join(struct.pack("<II", *row) for row in rows) + struct.pack("<IBI", len(rows), 0, 0x8F92EAB1)
        assert frames(memoryview(odd + raw + struct.pack("<II", 0x184D2A5E, len(table)) + table)) is None


def test_damaged_structure_is_not_salvaged(tmp_path):
    """Zeros in place of records would be an END."""
    image = compressed(STREAM, tmp_path)
    head = opened_frames(image)[2]
    image[head.end - 1] ^= 1
    (tmp_path / "bad.zst").write_bytes(image)
    report = xstream.extract(tmp_path / "bad.zst", tmp_path / "memory", salvage=True)
    assert isinstance(report.error, xstream.CorruptStream) and report.error.offset == head.begin
    assert report.populated == BATCH


def entries(image):
    """The offset of the table's first entry, and the number of entries."""
    count = struct.unpack_from("<I", image, len(image) - 9)[0]
    return len(image) - 9 - 8 * count, count


def lied(image, choice):
    """An image with a table that isn't true."""
    image = bytearray(image)
    at, count = entries(image)
    kind, number = choice.randrange(6), choice.randrange(count)
    if kind == 0:
        field = at + 8 * number + 4 * choice.randrange(2)
        struct.pack_into("<I", image, field, choice.choice([0, 1, 2 ** 31, 2 ** 32 - 1]))
    elif kind == 1:
        sizes = struct.unpack_from("<II", image, at + 8 * number)
        other = max(0, sizes[1] + choice.choice([-1, 1, 4096, -4096]))
        struct.pack_into("<II", image, at + 8 * number, sizes[0], other)
    elif kind == 2:  # two frames as one
        rows = [struct.unpack_from("<II", image, at + 8 * row) for row in range(count)]
        number = choice.randrange(count - 1)
        rows[number:number + 2] = [(rows[number][0] + rows[number + 1][0], rows[number][1])]
        image[at - 8:] = table_of(rows)
    elif kind == 3:
        struct.pack_into("<I", image, len(image) - 9, choice.choice([0, 1, count + 1, 2 ** 32 - 1]))
    elif kind == 4:
        image[len(image) - 5] = choice.randrange(1, 256)
    else:
        struct.pack_into("<I", image, at - 4, choice.choice([0, 2 ** 32 - 1]))
    return image


@pytest.mark.parametrize("seed", range(40))
def test_a_table_is_not_trusted(seed, tmp_path):
    image = lied(compressed(STREAM, tmp_path), random.Random(seed))
    try:
        contents = decompressed(image)
    except zstandard.ZstdError:
        contents = b""
    try:
        assert records(bytes(image)) == records(STREAM) and contents == STREAM
    except xstream.StreamError:
        # The table's own size isn't true: it ends before or after the file.
        assert struct.unpack_from("<I", image, entries(image)[0] - 4)[0] != len(image) - entries(image)[0]


def test_a_damaged_header_allocates_nothing(tmp_path):
    """Although it says that the contents are huge; the table says otherwise."""
    contents = bytes(range(256)) * 63
    frame = bytearray(zstandard.ZstdCompressor(level=1, write_checksum=True).compress(contents))
    frame[4] |= 0x80  # the size in the header has 8 bytes, most of which are something else
    image = bytes(frame) + table_of([(len(frame), len(contents))])
    with pytest.raises(xstream.CorruptStream, match="bad compressed data"):
        xstream.verify(image)


@pytest.mark.parametrize("size", [0, 1, 4096])
def test_padding_isnt_a_frame(size, tmp_path):
    """Zeros between frames are padding, also for a table that has an entry for them."""
    image = compressed(STREAM, tmp_path)
    found = opened_frames(image)
    rows = [(frame.end - frame.begin, frame.size) for frame in found]
    rows.insert(2, (7, size))
    padded = bytes(image[:found[2].begin]) + bytes(7) + bytes(image[found[2].begin:found[-1].end])
    padded += table_of(rows)
    assert records(padded) == records(STREAM)


def test_frames_in_another_order(tmp_path):
    """The frames are the contents, whatever their order was meant to be."""
    image = compressed(STREAM, tmp_path)
    found = opened_frames(image)
    order = list(found)
    order[1], order[3] = order[3], order[1]
    swapped = b"".join(bytes(image[frame.begin:frame.end]) for frame in order)
    table = b"".join(struct.pack("<II", frame.end - frame.begin, frame.size) for frame in order)
    swapped += bytes(image[found[-1].end:entries(image)[0]]) + table + bytes(image[-9:])
    contents = decompressed(swapped)
    assert contents != STREAM and [frame.size for frame in opened_frames(swapped)] == [frame.size for frame in order]
    assert records(swapped) == records(contents)


def test_cut_and_flipped_images(tmp_path):
    image = compressed(STREAM, tmp_path)
    choice = random.Random(3)
    for _ in range(60):
        bad = bytearray(image)
        if choice.randrange(2):
            bad = bad[:choice.randrange(60, len(bad) - 1)]
        else:
            bad[choice.randrange(len(bad))] ^= 1 << choice.randrange(8)
        for way in ("buffer", "pipe"):
            with WAYS[way](bytes(bad)) as source:
                try:
                    report = xstream.extract(source, tmp_path / "memory")
                except xstream.StreamError:
                    continue
                assert report.populated == PAGES, "the table alone was hit"


def test_contents_larger_than_they_say(tmp_path):
    """A frame of 1 GiB of zeros, which the table calls small, or large."""
    bomb = zstandard.ZstdCompressor(level=1, write_content_size=True).compress(bytes(1 << 30))
    for size in (4096, 1 << 30, 2 ** 32 - 1):
        image = bomb + table_of([(len(bomb), size)])
        assert frames(memoryview(image)) is None
        with pytest.raises(xstream.StreamError):
            xstream.verify(image)


@pytest.mark.parametrize("way", ["buffer", "pipe"])
def test_huge_windows(way):
    """A frame that asks for more memory than zstd itself would take may be good."""
    for exponent in (18, 21, 31):
        frame = b"\x28\xb5\x2f\xfd\0" + bytes([exponent << 3]) + struct.pack("<I", 5 << 3 | 1)[:3] + b"hello"
        with WAYS[way](frame) as source, pytest.raises(xstream.LimitExceeded, match="at most 134217728 bytes"):
            xstream.open(source)


def test_blocks_without_end():
    """A frame of blocks that hold nothing is not followed to its end."""
    image = b"\x28\xb5\x2f\xfd\x20\x00" + bytes(3 * 5000) + b"\x01\0\0"
    assert zframes.follow(image, 0)[0] == zframes.TOO_MANY
    assert zframes.follow(image[:50], 0)[0] == zframes.CUT


@pytest.mark.parametrize("seed", range(30))
def test_frames_are_compared_with_a_table_in_turns(seed):
    """The first that disagrees counts, as if they were followed one by one."""
    choice = random.Random(seed)
    pieces = [bytes(choice.getrandbits(8) for _ in range(choice.choice((0, 5, 300)))) * choice.choice((1, 2000))
              for _ in range(40)]
    raw = [zstandard.ZstdCompressor(write_checksum=True).compress(piece) for piece in pieces]
    data, rows = bytearray(b"".join(raw)), [[len(frame), len(piece)] for frame, piece in zip(raw, pieces)]
    for _ in range(choice.randrange(3)):
        rows[choice.randrange(40)][choice.randrange(2)] += choice.choice((-1, 1, 1000, 2 ** 31))
    if choice.randrange(2):
        data[choice.randrange(len(data))] ^= 1 << choice.randrange(8)
    if choice.randrange(2):
        del data[choice.randrange(len(data)):]
    at = agreeing = 0
    for length, size in rows:
        if at > len(data) or zframes.follow(data, at) != (zframes.GOOD, at + length, size):
            break
        at, agreeing = at + length, agreeing + 1
    table = b"".join(struct.pack("<II", row[0] & 0xffffffff, row[1] & 0xffffffff) for row in rows)
    assert zframes.agreeing(data, table, 0, 0) == agreeing


# The command line

def test_command_line(tmp_path):
    (tmp_path / "in").write_bytes(STREAM)
    assert run("convert", str(tmp_path / "in"), str(tmp_path / "out.zst")) == (0, b"", "")
    assert run("convert", "--compress", "zstd:3", "-j", "2", "-", "-", stdin=STREAM)[1] == (
        tmp_path / "out.zst").read_bytes()
    status, out, _ = run("convert", "-", "-", stdin=(tmp_path / "out.zst").read_bytes())
    assert status == 0 and out == STREAM
    for wrong in ("gzip", "zstd:", "zstd:0", "zstd:23", "zstd:x"):
        status, _, err = run("convert", "--compress", wrong, str(tmp_path / "in"), str(tmp_path / "other"))
        assert status == 2 and "known are zstd and zstd:LEVEL" in err and not os.path.exists(tmp_path / "other")


def test_without_the_library(tmp_path, monkeypatch):
    for name in ("zstandard", "compression.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(xstream.UnsupportedStream, match="zstandard"):
        xstream.convert(STREAM, tmp_path / "out.zst")
    assert not (tmp_path / "out.zst").exists()


@pytest.mark.skipif(sys.version_info < (3, 9), reason="not applicable: Python 3.14's module has no backport")
@pytest.mark.parametrize("size", [0, 48 << 20])
def test_the_standard_library_alone(size, tmp_path, monkeypatch):
    """Python 3.14's module is found by its name, for frames and for what isn't cut into frames."""
    monkeypatch.setattr(packing, "SMALL_IMAGE", size)
    if sys.version_info < (3, 14):
        backport = importlib.import_module("backports.zstd")
        monkeypatch.setitem(sys.modules, "compression", types.ModuleType("compression"))
        monkeypatch.setitem(sys.modules, "compression.zstd", backport)
    module = sys.modules["compression.zstd"]
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert seekable.zstd_library().error is module.ZstdError
    image = compressed(STREAM, tmp_path, jobs=2)
    assert decompressed(image) == STREAM and records(bytes(image)) == records(STREAM)
    guest, plain = SimulatedGuest.empty("hvm"), SimulatedGuest.empty("hvm")
    xstream.restore(tmp_path / "out.zst", guest, jobs=2)
    xstream.restore(STREAM, plain)
    assert guest.memory.buffer == plain.memory.buffer
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(STREAM)
    with WAYS["pipe"](unsized) as source:
        assert xstream.verify(source) == xstream.verify(STREAM)


# From one compressed image to another

def test_compressed_pages_are_copied(tmp_path, count):
    """Into another container, only what isn't pages is compressed anew."""
    image = compressed(STREAM, tmp_path, jobs=2)
    del count[:]
    for source, jobs in ((tmp_path / "out.zst", 1), (tmp_path / "out.zst", 3), (bytes(image), 1)):
        xstream.convert(source, tmp_path / "xl.zst", to="xl", config=b"{}", no_device_model=True, jobs=jobs)
        assert max(count) < BATCH * 4096
        nested = (tmp_path / "xl.zst").read_bytes()
        xstream.convert(STREAM, tmp_path / "plain", to="xl", config=b"{}", no_device_model=True)
        assert decompressed(nested) == (tmp_path / "plain").read_bytes()
        assert [nested[frame.begin:frame.end] for frame in pages_of(nested)] == [
            image[frame.begin:frame.end] for frame in pages_of(image)]
    xstream.convert(tmp_path / "xl.zst", tmp_path / "back.zst", to="libxc")
    assert (tmp_path / "back.zst").read_bytes() == image
    assert max(count) < BATCH * 4096


@pytest.mark.parametrize("options", [{"compress": "zstd:1"}, {"strict": True}])
def test_compressed_pages_are_compressed_anew(options, tmp_path, count):
    compressed(STREAM, tmp_path)
    xstream.convert(tmp_path / "out.zst", tmp_path / "again.zst", **options)
    assert count.count(BATCH * 4096) == PAGES // BATCH
    assert decompressed((tmp_path / "again.zst").read_bytes()) == STREAM


def test_foreign_frames_are_not_copied(tmp_path):
    """A copied frame has a checksum."""
    image = compressed(STREAM, tmp_path)
    pieces = [decompressed(image[frame.begin:frame.end]) for frame in opened_frames(image)]
    foreign = by_hand(pieces, write_checksum=False)
    assert frames(memoryview(foreign)) is not None
    xstream.convert(foreign, tmp_path / "ours.zst")
    assert (tmp_path / "ours.zst").read_bytes() == image


def test_copying_frames_keeps_none_that_was_decompressed_ahead(tmp_path):
    """Frames without a checksum are decompressed, and others ahead of them, which are then copied."""
    image = compressed(STREAM, tmp_path)
    whole = [bytes(image[frame.begin:frame.end]) for frame in opened_frames(image)]
    pages = [number for number, frame in enumerate(opened_frames(image)) if frame.size == BATCH * 4096]
    for number in pages[::3]:
        whole[number] = zstandard.ZstdCompressor(write_checksum=False).compress(decompressed(whole[number]))
    changed = tmp_path / "changed.zst"
    changed.write_bytes(b"".join(whole) + table_of([(len(frame), len(decompressed(frame))) for frame in whole]))
    with xstream.open(changed, jobs=4) as reader:
        xstream.convert(reader, tmp_path / "copy.zst", compress="zstd", jobs=4)
        assert not reader.source._ahead
    assert decompressed((tmp_path / "copy.zst").read_bytes()) == STREAM


def test_copied_damage(tmp_path):
    """Pages that are copied aren't checked; with strict they are."""
    image = compressed(STREAM, tmp_path)
    image[pages_of(image)[1].end - 1] ^= 1
    xstream.convert(bytes(image), tmp_path / "copy.zst")
    assert (tmp_path / "copy.zst").read_bytes() == image
    with pytest.raises(xstream.CorruptStream, match="checksum"):
        xstream.convert(bytes(image), tmp_path / "other.zst", strict=True)


# By several threads

@pytest.mark.parametrize("name", ["good", "damaged", "cut", "resent", "wrong"])
@pytest.mark.parametrize("file", [False, True])
def test_loading_by_threads(name, file, tmp_path):
    """Any number of threads loads the same, and reports the same error: the first one of the stream."""
    stream = {"resent": RESENT_PAGES, "wrong": STREAM[:-200] + b"\xff" * 200}.get(name, STREAM)
    image = compressed(STREAM, tmp_path) if name == "wrong" else compressed(stream, tmp_path)
    if name == "wrong":  # what follows the pages, too
        image = with_contents(image, stream)
    if name in ("damaged", "wrong"):
        image[pages_of(image)[1].end - 1] ^= 1
    if name == "cut":
        image = image[:len(image) * 2 // 3]
    results = []
    for jobs in (1, 2, 5):
        with open(str(tmp_path / "memory"), "w+b") as backing:
            memory = GuestMemory(file=backing.fileno() if file else None)
            try:
                loaded = xstream.load(bytes(image), memory, jobs=jobs)
                results.append((loaded, memory.read(range_of(len(memory))), bytes(memory.state)))
            except xstream.StreamError as error:
                results.append((type(error), str(error)))
    assert results[1:] == results[:1] * 2
    assert isinstance(results[0][0], type) == (name in ("damaged", "cut", "wrong"))


#: Batches that are sent twice, in another order, and with PFNs that aren't neighbours.
RESENT_PAGES = samples.hvm(memory=b"".join(
    batch([word(pfn) for pfn in pfns], [page(pfn + shift) for pfn in pfns]) for pfns, shift in (
        (range(100), 0), (range(100, 200), 0), (range(100), 1), (range(50, 150), 2), (range(400, 200, -2), 3),
        (list(range(300, 350)) + list(range(300, 350)), 4), (range(0, 400, 5), 6))))


def with_contents(image, stream):
    """An image with frames of the same sizes, and other contents."""
    pieces, at = [], 0
    for frame in opened_frames(image):
        pieces.append(stream[at:at + frame.size])
        at += frame.size
    return bytearray(by_hand(pieces))


def by_hand(pieces, **options):
    """An image of one frame for each piece, by another writer."""
    raw = [zstandard.ZstdCompressor(**options).compress(piece) for piece in pieces]
    return b"".join(raw) + table_of([(len(frame), len(piece)) for frame, piece in zip(raw, pieces)])


def table_of(rows):
    table = b"".join(struct.pack("<II", *row) for row in rows)
    return struct.pack("<II", 0x184D2A5E, len(table) + 9) + table + struct.pack("<IBI", len(rows), 0, 0x8F92EAB1)


def range_of(count):
    return memoryview(array.array("Q", range(count)))


# Front to back

def without_table(image):
    return bytes(image[:entries(image)[0] - 8])


def skippable(size):
    return struct.pack("<II", 0x184D2A53, size) + bytes(size)


@pytest.mark.parametrize("way", ["pipe", "object"])
def test_from_a_pipe(way, tmp_path, count):
    """Frames that nobody wants aren't decompressed; the others by several threads, into memory."""
    image = bytes(compressed(STREAM, tmp_path))
    with WAYS[way](image) as source, xstream.open(source) as reader:
        assert isinstance(reader.source, PipedFrames)
    del count[:]
    with WAYS[way](image) as source:
        assert xstream.verify(source) == xstream.verify(STREAM)
    assert sum(count) < 4096 * 2
    with WAYS[way](image) as source:
        assert xstream.verify(source, strict=True) == xstream.verify(STREAM)
    assert count.count(BATCH * 4096) == PAGES // BATCH
    with WAYS[way](image) as source:
        assert xstream.info(source) == xstream.info(STREAM)
    for jobs in (1, 3):
        memory = GuestMemory()
        with WAYS[way](image) as source:
            xstream.load(source, memory, jobs=jobs)
        assert bytes(memory.buffer) == b"".join(STREAM_PAGES)


@pytest.mark.parametrize("way", ["buffer", "pipe"])
@pytest.mark.parametrize("kind", ["pv", "hvm"])
def test_restoring(way, kind, tmp_path):
    xstream.save(SimulatedGuest(kind, 3000), tmp_path / "plain")
    plain = (tmp_path / "plain").read_bytes()
    image = bytes(compressed(plain, tmp_path))
    digests = set()
    for data, jobs in ((plain, 1), (image, 1), (image, 3)):
        guest = SimulatedGuest.empty(kind)
        with WAYS[way](data) as source:
            xstream.restore(source, guest, jobs=jobs)
        digests.add(guest.digest())
    assert digests == {SimulatedGuest(kind, 3000).digest()}


class MappedGuest(SimulatedGuest):
    """Maps each batch by itself, as a backend for a real machine does, and counts mappings."""

    now = most = 0

    def map_pages(self, frames):
        pages = super().map_pages(frames)
        self.now += 1
        self.most = max(self.most, self.now)
        own = self.memory.read(memoryview(array.array("Q", pages.at)))
        return Pages(own, memoryview(array.array("Q", range(len(frames)))), b"", pages)

    def unmap_pages(self, pages):
        self.now -= 1
        for number, at in enumerate(pages.handle.at):
            self.memory.buffer[at * 4096:at * 4096 + 4096] = pages.memory[number * 4096:number * 4096 + 4096]
        super().unmap_pages(pages.handle)


@pytest.mark.parametrize("way", ["buffer", "pipe"])
@pytest.mark.parametrize("jobs", [1, 2, 5])
@pytest.mark.parametrize("name", ["good", "resent", "damaged", "twice", "wrong", "cut"])
def test_restoring_by_frames(name, jobs, way, tmp_path):
    """Batches are mapped before others are unmapped; the guest, or the error, is that of the plain stream or of one
    thread, and nothing stays mapped."""
    stream = {"resent": RESENT_PAGES, "wrong": STREAM[:-200] + b"\xff" * 200}.get(name, STREAM)
    image = compressed(STREAM if name == "wrong" else stream, tmp_path)
    if name == "wrong":
        image = with_contents(image, stream)
    if name in ("damaged", "twice", "wrong"):
        for frame in pages_of(image)[1:3 if name == "twice" else 2]:
            image[frame.end - 1] ^= 1
    if name == "cut":
        image = image[:len(image) * 2 // 3]
    guest, plain = MappedGuest.empty("hvm"), SimulatedGuest.empty("hvm")
    with WAYS[way](bytes(image)) as source:
        if name in ("good", "resent"):
            restored = xstream.restore(source, guest, jobs=jobs)
            assert restored.pages == xstream.restore(stream, plain).pages
            assert guest.memory.buffer == plain.memory.buffer
            assert (guest.most > 1) == (jobs > 1)
        else:
            with pytest.raises(xstream.StreamError) as caught:
                xstream.restore(source, guest, jobs=jobs)
            if name == "cut":
                assert isinstance(caught.value, xstream.TruncatedStream)
            else:
                assert (caught.value.layer, caught.value.offset) == ("zstd", pages_of(image)[1].begin)
                assert caught.value.got == "damaged pages of a batch of PFNs 0x28 to 0x4f"
    assert guest.now == 0


@pytest.mark.parametrize("kind", ["pv", "hvm"])
def test_restoring_into_a_checked_guest(kind, tmp_path):
    xstream.save(SimulatedGuest(kind, 3000), tmp_path / "image.zst")
    guest = CheckedGuest(SimulatedGuest.empty(kind))
    xstream.restore(tmp_path / "image.zst", guest, jobs=3)
    assert guest.violation is None


@pytest.mark.parametrize("way", ["buffer", "pipe"])
def test_frames_of_all_kinds(way, tmp_path, count):
    """Without a table: skippable frames between the others, empty ones, one that doesn't state its size, padding."""
    image = without_table(compressed(STREAM, tmp_path))
    found = opened_frames(compressed(STREAM, tmp_path))
    whole = [image[frame.begin:frame.end] for frame in found]
    empty = zstandard.ZstdCompressor(write_checksum=True).compress(b"")
    assert zframes.follow(empty, 0) == (zframes.GOOD, len(empty), 0)
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(decompressed(whole[3]))
    for changed in (image, skippable(0).join(whole), (skippable(100000) + empty).join(whole), empty * 1000 + image,
                    b"".join(whole[:3]) + unsized + b"".join(whole[4:]), image + bytes(5000), image + skippable(9)):
        with WAYS[way](changed) as source:
            assert records(source) == records(STREAM)
        with WAYS[way](changed) as source:
            xstream.convert(source, tmp_path / "ours.zst")
        assert decompressed((tmp_path / "ours.zst").read_bytes()) == STREAM
    del count[:]
    with WAYS[way](image) as source:
        assert xstream.verify(source) == xstream.verify(STREAM)
    assert sum(count) < 4096 * 2
    with WAYS[way](image + b"garbage") as source, pytest.raises(xstream.CorruptStream, match="after the compressed"):
        xstream.verify(source)


@pytest.mark.parametrize("way", ["buffer", "pipe"])
def test_damage_without_a_table(way, tmp_path):
    image = bytearray(without_table(compressed(STREAM, tmp_path)))
    found = pages_of(compressed(STREAM, tmp_path))
    image[found[1].end - 1] ^= 1
    with WAYS[way](bytes(image)) as source, pytest.raises(xstream.CorruptStream, match="PFNs 0x28 to 0x4f") as caught:
        xstream.load(source, GuestMemory(), jobs=2)
    assert caught.value.layer == "zstd" and caught.value.offset == found[1].begin
    with WAYS[way](bytes(image)) as source:
        report = xstream.extract(source, tmp_path / "memory", salvage=True)
    assert report.populated == PAGES - BATCH and report.missing == ((BATCH, BATCH),)
    for end in (found[2].begin + 3, found[2].begin + 9, found[2].end - 2, found[2].end):
        with WAYS[way](bytes(image[:end])) as source, pytest.raises(xstream.StreamError) as caught:
            xstream.verify(source)
        assert isinstance(caught.value, xstream.TruncatedStream)
        with WAYS[way](bytes(image[:end])) as source:
            report = xstream.extract(source, tmp_path / "memory", salvage=True)
        assert report.populated in (BATCH, 2 * BATCH)


@pytest.mark.parametrize("way", ["buffer", "pipe", "descriptor"])
def test_hostile_frames(way):
    """Frames that state less than they hold, more, or nothing at all; and far more of them than contents."""
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(1 << 30))
    marker = zstandard.ZstdCompressor().compress(bytes(STREAM[:64]))
    lying = zstandard.ZstdCompressor(level=1).compress(bytes(8 << 20))
    at = 5 if lying[4] & 0x20 else 6
    assert lying[4] & 0xC0 == 0x80 and struct.unpack_from("<I", lying, at) == (8 << 20,)
    lying = lying[:at] + struct.pack("<I", 5000) + lying[at + 4:]
    blocks = b"\x28\xb5\x2f\xfd\x60\x03\0" + bytes(3 * 5000) + struct.pack("<I", 259 << 3 | 1)[:3] + b"x" * 259
    reserved = b"\x28\xb5\x2f\xfd\x20\x05\x07\0\0"
    empty = zstandard.ZstdCompressor().compress(b"")
    for hostile in (bomb, lying, blocks, reserved, marker + bomb, marker + lying, marker + blocks, marker + reserved,
                    marker + empty * 100000, marker + skippable(0) * 100000,
                    marker + struct.pack("<II", 0x184D2A53, 2 ** 32 - 1)):
        with WAYS[way](hostile) as source, pytest.raises(xstream.StreamError):
            xstream.load(source, GuestMemory(), jobs=2)


# The libraries

def library_of(name):
    if name == "zstandard":
        return zstd.zstandard_library(zstandard)
    if sys.version_info < (3, 9):
        pytest.skip("not applicable: Python 3.14's module has no backport for this Python")
    return zstd.standard_library(importlib.import_module(
        "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"))


@pytest.mark.parametrize("name", ["zstandard", "compression.zstd"])
def test_libraries(name):
    """Both make the same of good frames, of damaged ones, and of contents of another size."""
    library = library_of(name)
    data = STREAM[:300000]
    frame = library.compress(data, 3, False)
    assert decompressed(frame) == data and zframes.follow(frame, 0) == (zframes.GOOD, len(frame), len(data))
    for of in (frame, library_of("zstandard").compress(data, 1, True)):
        into = memoryview(bytearray(len(data)))
        assert library.decompress(memoryview(of), len(data)) == data
        assert library.decompress_into(memoryview(of), into) == len(data) and into == data
    damaged = frame[:-1] + bytes([frame[-1] ^ 1])
    with pytest.raises(library.error):
        library.decompress(damaged, len(data))
    with pytest.raises(library.error):
        library.decompress_into(damaged, memoryview(bytearray(len(data))))
    for size in (0, 10, len(data) - 1, len(data) + 1):
        try:
            assert len(library.decompress(frame, size)) != size
        except library.error:
            pass  # which is as good
        assert library.decompress_into(frame, memoryview(bytearray(size))) != size


@pytest.mark.parametrize("name", ["zstandard", "compression.zstd"])
def test_images_by_each_library(name, tmp_path, monkeypatch):
    library = library_of(name)
    for module in (packing, framed, seekable):
        monkeypatch.setattr(module, "library" if module is packing else "zstd_library", lambda: library)
    image = compressed(STREAM, tmp_path, jobs=2)
    assert decompressed(image) == STREAM
    for jobs in (1, 2):
        memory = GuestMemory()
        xstream.load(bytes(image), memory, jobs=jobs)
        assert bytes(memory.buffer) == b"".join(STREAM_PAGES)


def test_a_table_of_many_frames(monkeypatch):
    """The frames are compared with their table by two threads; the first that the table is wrong about counts."""
    monkeypatch.setattr(seekable, "usable_cpus", lambda: 2)
    pieces = [b"%d" % number for number in range(1100)]
    image = bytearray(by_hand(pieces))
    found = frames(memoryview(image))
    assert [frame.size for frame in found] == [len(piece) for piece in pieces]
    assert not any(frame.broken for frame in found)
    for broken in ([3, 700], [900], [549, 550], [0, 1099]):
        damaged = bytearray(image)
        for number in broken:
            damaged[found[number].begin] ^= 1
        assert [number for number, frame in enumerate(frames(memoryview(damaged))) if frame.broken] == broken
    at, count = entries(image)
    for number in (3, 700):
        struct.pack_into("<I", image, at + 8 * number + 4, 9)
        assert frames(memoryview(image)) is None
