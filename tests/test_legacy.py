"""Legacy streams: read in every way, loaded, written back; genuine ones against their manifest."""
import hashlib
import io
import struct
import tempfile

import legacy_samples as samples
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from legacy_samples import BROKEN, L2TAB, PIN, XALLOC, XTAB, batch, chunk, page, word
from samples import context, hvm_context, memory_of
from ways import WAYS, whole

import xstream
from xstream import GuestMemory, LegacyReader, LegacyWriter, PageData
from xstream.wire import legacy, libxc


def records_of(source, **options):
    with LegacyReader(source, **options) as reader:
        return [(reader.index, reader.offset, whole(record)) for record in reader]


def ranges(flags):
    edges = numpy.flatnonzero(numpy.diff(numpy.concatenate(([0], flags.astype(numpy.int8), [0]))))
    return edges.reshape(-1, 2).tolist()


def loaded(source, **options):
    memory = GuestMemory()
    return memory, xstream.load(source, memory, **options)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name, stream", samples.SMALL, ids=[name for name, _ in samples.SMALL])
def test_every_way_gives_the_same_records(name, stream, way):
    expected = records_of(stream, strict=True)
    with WAYS[way](stream) as source:
        assert records_of(source) == expected
    offsets = [offset for _, offset, _ in expected]
    assert offsets == sorted(offsets) and offsets[0] == 0


@pytest.mark.parametrize("name, stream", samples.SMALL, ids=[name for name, _ in samples.SMALL])
@pytest.mark.parametrize("way", ["mapped", "pipe", "trickle"])
def test_tools_take_them(name, stream, way):
    kind = name[:2] if name.startswith("pv") else "hvm"
    with WAYS[way](stream) as source:
        memory, _ = loaded(source)
    expected = samples.MEMORY[kind]
    assert memory.pages.tobytes() == memory_of(expected, len(memory))
    populated = {pfn for pfn in range(len(memory)) if memory.populated[pfn]}
    assert populated == set(expected) | ({2} if kind == "hvm" else set())
    report = xstream.verify(stream, strict=True)
    assert report.format == "legacy" and report.bytes == len(stream)
    shown = xstream.info(stream)
    assert shown.populated == len(expected) + (kind == "hvm") and sum(shown.sizes["legacy"].values()) == len(stream)
    assert xstream.digest(stream).crc32c == xstream.digest(stream, format="legacy").crc32c


def test_width_and_guest_are_found_out():
    for name, stream in samples.SMALL:
        head = LegacyReader(stream).head
        width = int(name[-2:]) if " by " in name or name.startswith("hvm") else int(name[2:4])
        assert (head.guest, head.width) == (name[:3].rstrip("0123456789"), width // 8)
        assert (LegacyReader(stream, width=head.width, guest=head.guest).head) == head
    with pytest.raises(ValueError):
        LegacyReader(b"", width=32)
    with pytest.raises(ValueError):
        LegacyReader(b"", guest="pvh")


def test_words():
    """Entries without a page are left out; the pin bit of a page that isn't a page table is dropped."""
    records = [record for _, _, record in records_of(samples.hvm())]
    words = next(record for record in records if isinstance(record, PageData))
    assert list(zip(words.pfns.tolist(), words.types.tolist())) == [(0, 0), (2, XALLOC), (3, BROKEN), (4, 0)]
    nothing = samples.hvm(memory=batch(8, [word(0, XTAB)] * 3))
    assert not any(isinstance(record, PageData) for _, _, record in records_of(nothing))
    assert xstream.verify(nothing).pages == 0


def test_all_parameters():
    read = [(record.param, record.value) for _, _, record in records_of(samples.hvm())
            if isinstance(record, legacy.HvmParam)]
    assert read == [(legacy.PARAMS[number], value) for number, value in samples.PARAMS]
    assert [index for index, _ in read] == [34, 12, 27, 28, 29, 15, 17, 19, 9, 32, 33, 36]


def test_tmem_is_passed_over_by_its_own_framing():
    pools = samples.tmem([(0, 0, b""), (1, 2, samples.tmem_page(1) + samples.tmem_page(2)),
                          (7, 100, samples.tmem_page(3) + b"\xff" * 24)])
    stream = samples.hvm(chunks=pools + samples.tmem_extra(3))
    for way in ("buffer", "pipe", "trickle", "fed"):
        with WAYS[way](stream) as source:
            names = [legacy.type_name(record) for _, _, record in records_of(source)]
        at = names.index("TMEM")
        assert names[at:at + 14] == [
            "TMEM", "TMEM_POOL", "TMEM_POOL", "TMEM_PAGE", "TMEM_PAGE", "TMEM_POOL", "TMEM_PAGE", "TMEM_PAGES_END",
            "TMEM_END", "TMEM_EXTRA", "TMEM_INVALID", "TMEM_INVALID", "TMEM_INVALID", "TMEM_END"]


@pytest.mark.parametrize("signature", legacy.SIGNATURES)
def test_device_models(signature):
    stream = samples.hvm(tail=samples.hvm_tail(signature=signature, blob=b"QEVM" + bytes(20000)))
    for way in ("buffer", "pipe", "trickle", "fed"):
        with WAYS[way](stream) as source:
            last = records_of(source)[-1][2]
        assert last == legacy.DeviceModel(signature, b"QEVM" + bytes(20000))


def test_vcpus():
    stream = samples.pv(tail=samples.pv_tail(8, 8, [], [samples.vcpu(8, 0, mark=1), samples.vcpu(8, 700, mark=4)]))
    vcpus = [record for _, _, record in records_of(stream) if isinstance(record, legacy.VcpuContext)]
    assert [(one.vcpu_id, one.basic[:1], one.extended[-1:], len(one.xsave)) for one in vcpus] == [
        (0, b"\1", b"\2", 0), (2, b"\4", b"\5", 700)]
    bare = samples.pv_head(8, 8, xsave=None, extended=False) + chunk(-9) + chunk(0) + \
        samples.pv_tail(8, 8, [], [samples.vcpu(8, None, False)])
    vcpu = next(record for _, _, record in records_of(bare) if isinstance(record, legacy.VcpuContext))
    assert vcpu.vcpu_id == 0 and not vcpu.extended and vcpu.mask is None and vcpu.xsave is None
    everyone = legacy.VcpuInfo.of(range(4096))
    assert everyone.max_vcpu_id == 4095 and len(everyone.online) == 512 and everyone.vcpus == list(range(4096))


def test_a_plain_stream_ends_with_its_tail():
    names = [legacy.type_name(record) for _, _, record in records_of(samples.hvm() + b"more")]
    assert names[-1] == "DEVICE_MODEL"
    with pytest.raises(xstream.StrictViolation):
        records_of(samples.hvm() + b"more", strict=True)


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("way", ["mapped", "pipe"])
def test_remus(width, way):
    stream = samples.remus(width, [batch(width, [word(0)], [page(20)]), batch(width, [word(0), word(3)],
                                                                              [page(30), page(33)])])
    for cut in range(3):
        # Whatever is cut off makes the last checkpoint void as a whole.
        with WAYS[way](stream[:len(stream) - cut]) as source:
            memory, result = loaded(source)
        assert result.checkpoints == 3 - bool(cut)
        assert memory.pages.tobytes()[:4096] == page(30 if not cut else 20)
        assert bool(memory.populated[-1]) is True and len(memory) == (4 if not cut else 2)


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("between", [False, True])
def test_compressed_checkpoints(width, between):
    """Compressed pages are joined within a checkpoint, wherever the chunks are cut and placed."""
    forms = [samples.whole(page(40)), b"\0", samples.whole(page(50)), b"\x01CHNG\xff\xff\xff\xff\xff\xff\xff\xff\x87"]
    data = b"".join(forms)
    first, second = batch(width, [word(0), word(2, XALLOC), word(1)]), batch(width, [word(5), word(0)])
    for cut in (0, 1, 100, 4097, 4098, 5000, len(data) - 1, len(data)):
        parts = samples.compressed(width, data[:cut]), samples.compressed(width, data[cut:])
        if between and cut <= 4098:
            body = first + parts[0] + second + parts[1]
        else:
            body = first + second + parts[0] + parts[1]
        stream = samples.remus(width, [body], compress=True)
        for way in ("buffer", "pipe"):
            with WAYS[way](stream) as source:
                memory, _ = loaded(source)
            expected = {0: b"CHNG" + page(40)[4:], 1: page(11), 5: page(50)}
            assert memory.pages.tobytes() == memory_of(expected, 6)
            assert memory.populated.tolist() == [True, True, True, False, False, True]


def test_what_the_tail_takes_back():
    """Only the last complete tail counts; what it names is as if it had never been sent."""
    memory, _ = loaded(samples.pv())
    assert memory.populated.tolist() == [False] * 3 + [True, True, False] and not memory.pages[5].any()
    with tempfile.TemporaryFile() as file:
        xstream.load(samples.pv(), GuestMemory(file=file.fileno()))
        file.seek(5 * 4096)
        assert not any(file.read())


def test_physmap():
    for width in (4, 8):
        entries = [(0x100, 0xF0000000, 0x800000, b"vga\0"), (0x200, 1, 2, b"")]
        parsed = legacy.parse_physmap(samples.physmap(width, entries), width)
        assert parsed == [(0x100, 0xF0000000, 0x800000, b"vga"), (0x200, 1, 2, b"")]
        assert legacy.parse_physmap(legacy.build_physmap(parsed, width), width) == parsed


def test_genuine_streams(legacy_stream):
    about = legacy_stream.about
    for way in ("mapped", "pipe"):
        with WAYS[way](legacy_stream.path.read_bytes()) as source:
            memory, result = loaded(source, strict=True)
        populated = memory.populated
        final = about["memory"]
        assert hashlib.sha256(memory.pages[populated].tobytes()).hexdigest() == final["pages_sha256"]
        assert ranges(populated) == final["populated"]
        assert {str(pfn): kind for pfn, kind in enumerate(memory.types.tolist())
                if populated[pfn] and kind} == final["page_types"]
        assert not len(result.differing)
        assert result.checkpoints == (len(about["checkpoints"]) if "remus" in about["file"] else 0)
    report = xstream.digest(str(legacy_stream.path))
    assert report.populated == final["populated_pages"] and report.pages_sha256 == final["pages_sha256"]


NAMES = {"enable_compression": "ENABLE_COMPRESSION", "compressed_data": "COMPRESSED_PAGES", "vcpu_info": "VCPU_INFO",
         "verify_mode": "VERIFY", "tsc_info": "TSC_INFO", "toolstack": "TOOLSTACK", "end": "END_OF_BODY",
         "last_checkpoint": "LAST_CHECKPOINT"}


def test_genuine_chunks(legacy_stream):
    """The chunks are the manifest's, in its order."""
    with xstream.open(str(legacy_stream.path)) as reader:
        got = []
        for record in reader:
            name = "SAVE_HEADER" if reader.layer != "legacy" else legacy.type_name(record)
            if isinstance(record, (PageData, legacy.CompressedBatch)):
                kinds = [byte >> 4 for byte in bytes(record.words[7::8])]
                got.append(("batch", len([kind for kind in kinds if kind < 0xD]), kinds.count(XALLOC)))
            elif isinstance(record, legacy.HvmParam):
                got.append(("param", record.value))
            elif name in NAMES.values():
                got.append((name,))
    wanted = []
    for one in legacy_stream.about["chunks"]:
        name, value = next(iter(one.items()))
        if name == "batch":
            carrying = sum(count for kind, count in one.items() if kind not in ("batch", "xtab", "xalloc", "broken"))
            wanted.append(("batch", carrying, one.get("xalloc", 0)))
        elif name in NAMES:
            wanted.append((NAMES[name],))
        elif name != "tail":
            wanted.append(("param", value))
    assert got == wanted


@pytest.mark.parametrize("gathered", [True, False])
def test_written_back_it_is_the_same_bytes(legacy_stream, gathered):
    """Except for entries without a PFN, which a reader leaves out."""
    out = io.BytesIO()
    with xstream.open(str(legacy_stream.path)) as reader:
        head = reader.memory.head
        start = reader.memory.start
        writer = LegacyWriter(out, head.p2m_size, width=head.width, guest=head.guest, gathered=gathered)
        for record in reader:
            if reader.layer == "legacy" and not isinstance(record, legacy.Start):
                writer.write(record)
    written = out.getvalue()
    empty = legacy_stream.about["entries"].get("xtab", 0)
    assert len(written) == len(legacy_stream.path.read_bytes()) - start - head.width * empty
    assert xstream.digest(written).pages_sha256 == legacy_stream.about["memory"]["pages_sha256"]


@pytest.mark.parametrize("name, stream", samples.SMALL, ids=[name for name, _ in samples.SMALL])
@pytest.mark.parametrize("way", ["buffer", "pipe"])
def test_written_back_small(name, stream, way):
    stream = stream.replace(struct.pack("<Q", word(0, XTAB)), b"") if name == "hvm64" else stream
    if name.startswith("hvm"):
        return  # the entries without a page
    out = io.BytesIO()
    with WAYS[way](stream) as source:
        reader = LegacyReader(source)
        head = reader.next_record()
        writer = LegacyWriter(out, head.p2m_size, width=head.width, guest=head.guest)
        for record in reader:
            writer.write(record)
    assert out.getvalue() == stream


class Calls:
    """An object that remembers how it was written to."""

    def __init__(self):
        self.sizes = []

    def write(self, data):
        self.sizes.append(len(data))
        return len(data)


def test_the_old_way_of_writing():
    """A count, the words, runs of pages, each page table alone; an entry without a page ends a run."""
    kinds = [0, 0, XALLOC, 0, 1, PIN | 2, 0, XTAB, 0]
    pages = b"".join(page(number) for number in range(len([kind for kind in kinds if kind < 0xD])))
    calls = Calls()
    writer = LegacyWriter(calls, 16, gathered=False)
    calls.sizes.clear()
    writer.write_pages(numpy.arange(9, dtype=numpy.uint64), bytes(kinds), pages)
    assert calls.sizes == [4, 72, 8192, 4096, 4096, 4096, 4096, 4096]


def test_the_writer_refuses_what_the_reader_would():
    writer = LegacyWriter(io.BytesIO(), 16)
    with pytest.raises(xstream.OrderError):
        writer.write(legacy.ExtendedInfo(8, bytes(0x1430)))
    with pytest.raises(xstream.OrderError):
        writer.write(legacy.SharedInfo(bytes(4096)))
    with pytest.raises(xstream.CorruptStream):
        writer.write_pages(numpy.array([16], numpy.uint64), b"\0", bytes(4096))
    with pytest.raises(xstream.CorruptStream):
        writer.write(PageData(struct.pack("<Q", 5 << 60), bytes(4096)))
    with pytest.raises(xstream.CorruptStream):
        writer.write(PageData(struct.pack("<Q", 5), b""))
    with pytest.raises(TypeError):
        writer.write(libxc.Verify())
    with pytest.raises(ValueError):
        LegacyWriter(io.BytesIO(), 16, width=32)
    with pytest.raises(xstream.CorruptStream):
        LegacyWriter(io.BytesIO(), 1 << 28)
    pv = LegacyWriter(io.BytesIO(), 16, guest="pv")
    pv.write(legacy.ExtendedInfo(8, bytes(0x1430)))
    with pytest.raises(xstream.CorruptStream):
        pv.write(legacy.P2MFrames(bytes(16)))


PAGE_CHANGES = st.lists(st.tuples(st.integers(0, 15), st.integers(0, 1023), st.binary(min_size=4, max_size=4)),
                        max_size=12)


def finish(writer, last):
    if last:
        writer.write(legacy.LastCheckpoint())
    writer.write(legacy.EndOfBody())
    writer.write(legacy.HvmTail(1, 2, 3, hvm_context()[8:]))
    writer.write(legacy.DeviceModel(legacy.REMUS_DEVICE_MODEL, b"blob"))
    if not last:
        writer.write(libxc.Checkpoint())


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([4, 8]), st.booleans(), st.lists(PAGE_CHANGES, min_size=1, max_size=5))
def test_any_remus_guest_comes_back(width, compress, rounds):
    """Written with or without compression, loaded, and converted and loaded."""
    guest = numpy.frombuffer(b"".join(page(pfn) for pfn in range(16)), numpy.uint8).reshape(16, 4096).copy()
    out = io.BytesIO()
    writer = LegacyWriter(out, 16, width=width)
    writer.write_pages(numpy.arange(16, dtype=numpy.uint64), bytes(16), guest)
    if compress:
        writer.write(legacy.EnableCompression())
    finish(writer, False)
    for changes in rounds:
        for pfn, at, content in changes:
            guest[pfn, 4 * at:4 * at + 4] = list(content)
        dirty = sorted({pfn for pfn, _, _ in changes})
        if dirty:
            pfns = numpy.array(dirty, numpy.uint64)
            writer.write_pages(pfns, bytes(len(dirty)), guest[dirty].tobytes())
        finish(writer, False)
    stream = out.getvalue()
    memory, result = loaded(stream)
    assert memory.pages.tobytes() == guest.tobytes() and result.checkpoints == len(rounds) + 1
    for options in ({}, {"last_checkpoint": True}, {"squash": True}, {"to": "libxl"}):
        for way in ("buffer", "descriptor", "pipe"):
            converted = io.BytesIO()
            with WAYS[way](stream) as source:
                xstream.convert(source, converted, **options)
            assert loaded(converted.getvalue(), checkpointed=True)[0].pages.tobytes() == guest.tobytes()


GUEST = st.dictionaries(st.integers(0, 63), st.tuples(st.sampled_from([0, 0, 0, 1, 9, XALLOC, BROKEN]),
                                                      st.integers(0, 2 ** 32)), max_size=40)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([4, 8]), st.lists(GUEST, min_size=1, max_size=3))
def test_any_guest_converted_is_that_guest(width, rounds):
    expected = GuestMemory(limit=64)
    out = io.BytesIO()
    writer = LegacyWriter(out, 64, width=width)
    for guest in rounds:
        pfns = numpy.array(sorted(guest), numpy.uint64)
        types = bytes(guest[pfn][0] for pfn in sorted(guest))
        pages = b"".join(page(guest[pfn][1]) for pfn in sorted(guest) if guest[pfn][0] < 0xD)
        if guest:
            writer.write_pages(pfns, types, pages)
            words = bytearray(8 * len(pfns))
            xstream.kernels.pfns.pack(pfns, types, words)
            expected.apply(PageData(words, pages))
    finish(writer, True)
    read, _ = loaded(out.getvalue())
    for way in ("buffer", "descriptor", "pipe"):
        converted = io.BytesIO()
        with WAYS[way](out.getvalue()) as source:
            xstream.convert(source, converted)
        again, _ = loaded(converted.getvalue())
        for memory in (read, again):
            assert memory.pages.tobytes() == expected.pages.tobytes()
            assert memory.types.tolist() == expected.types.tolist()
            assert memory.populated.tolist() == expected.populated.tolist()


def test_the_cache_makes_deltas():
    """Pages that have been sent compressed come as what has changed of them."""
    sizes = []
    out = io.BytesIO()
    writer = LegacyWriter(out, 16)
    writer.write_pages(numpy.arange(16, dtype=numpy.uint64), bytes(16), bytes(16 * 4096))
    writer.write(legacy.EnableCompression())
    for number in range(3):
        finish(writer, False)
        before = out.tell()
        writer.write_pages(numpy.arange(16, dtype=numpy.uint64), bytes(16), bytes([number] + [0] * 63) * 1024)
        sizes.append(out.tell() - before)
    finish(writer, False)
    assert sizes[0] > 16 * 4096 > 8 * sizes[1]


def test_tables_that_changed_under_the_senders_hands():
    """Tables with arbitrary bits, superpage bits included, that are sent again are accepted, and converted."""
    torn = struct.pack("<Q", 0xE3) * 512
    body = batch(8, [word(6, L2TAB)], [torn]) + \
        batch(8, [word(3, samples.L4TAB), word(4), word(6, L2TAB)], [bytes(4096), page(4), bytes(4096)])
    stream = samples.pv(8, 8, memory=body)
    for way in ("buffer", "pipe"):
        with WAYS[way](stream) as source:
            assert loaded(source, strict=True)[1].resent == 1
        converted = io.BytesIO()
        with WAYS[way](stream) as source:
            xstream.convert(source, converted)
        assert loaded(converted.getvalue())[1].resent == 1
    past = struct.pack("<Q", 16 << 12 | 1) + bytes(4088)
    with pytest.raises(xstream.CorruptStream, match="past the end of the p2m"):
        loaded(samples.pv(8, 8, memory=batch(8, [word(3, L2TAB)], [past])))


def test_info_tells_what_holds_at_the_end():
    """Of the last complete checkpoint; without what the tail takes back, as it came and once converted."""
    stream = samples.remus(8, [batch(8, [word(0), word(3)], [page(20), page(23)]), batch(8, [word(7)], [page(37)])])
    for cut, populated, resent in ((0, 4, 1), (1, 3, 1)):
        for way in ("buffer", "pipe"):
            with WAYS[way](stream[:len(stream) - cut]) as source:
                report = xstream.info(source)
            assert (report.populated, report.resent, report.sent) == (populated, resent, 5)
            assert report.types == {"NOTAB": populated} and report.checkpoints == 3 - cut
    with WAYS["pipe"](samples.pv()) as source:
        converted = io.BytesIO()
        xstream.convert(source, converted)
    for report in (xstream.info(samples.pv()), xstream.info(converted.getvalue())):
        assert (report.populated, report.sent) == (2, 3) and "NOTAB" in report.types and "XTAB" not in report.types


TABLE_ENTRIES = st.lists(st.tuples(st.integers(0, 511), st.integers(0, 63), st.sampled_from([1, 7, 0x67, 0xE3])),
                         max_size=9)
PV_GUEST = st.dictionaries(st.integers(0, 63), st.one_of(
    st.tuples(st.just(0), st.integers(0, 2 ** 32)), st.tuples(st.sampled_from([1, 2, 3, 9, 10, 11]), TABLE_ENTRIES)),
    min_size=1, max_size=20)
VCPUS = st.dictionaries(st.integers(0, 70), st.integers(16, 900), min_size=1, max_size=4)


def pv_page(kind, content):
    if not kind:
        return page(content)
    entries = [0] * 512
    for slot, pfn, flags in content:
        entries[slot] = pfn << 12 | flags
    return struct.pack("<512Q", *entries)


@settings(max_examples=40, deadline=None)
@given(width=st.sampled_from([4, 8]), guest_width=st.sampled_from([4, 8]),
       rounds=st.lists(PV_GUEST, min_size=1, max_size=3), unmapped=st.sets(st.integers(0, 63)), others=VCPUS,
       xsave=st.booleans(), extended=st.booleans(), verify=st.booleans(), gathered=st.booleans())
def test_any_pv_guest_converted_is_that_guest(width, guest_width, rounds, unmapped, others, xsave, extended, verify,
                                              gathered):
    """Memory, tables, what the tail takes back, and each vcpu's state."""
    expected = GuestMemory(limit=64)
    vcpus = {0: 400, **others}
    # The frames that the vcpus' registers and the p2m are in.
    rounds[-1].update({3: (samples.TOP_TABLE[guest_width], []), 4: (0, 4)})
    unmapped -= {3, 4}
    out = io.BytesIO()
    writer = LegacyWriter(out, 64, width=width, guest="pv", gathered=gathered)
    writer.write(legacy.ExtendedInfo(guest_width, bytes(samples.BASIC[guest_width]), extended, 416 if xsave else None))
    writer.write(legacy.P2MFrames(struct.pack("<Q", 4)))
    for number, guest in enumerate(rounds + rounds[-1:] * verify):
        pfns = numpy.array(sorted(guest), numpy.uint64)
        types = bytes(guest[pfn][0] for pfn in sorted(guest))
        pages = b"".join(pv_page(*guest[pfn]) for pfn in sorted(guest))
        if number == len(rounds):
            writer.write(legacy.VerifyMode())
        else:
            words = bytearray(8 * len(pfns))
            xstream.kernels.pfns.pack(pfns, types, words)
            expected.apply(PageData(words, pages))
        writer.write_pages(pfns, types, pages)
    expected.forget(numpy.array(sorted(unmapped), numpy.uint64))
    writer.write(legacy.TscInfo(1, 2, 3, 4))
    writer.write(legacy.VcpuInfo.of(vcpus))
    writer.write(legacy.LastCheckpoint())
    writer.write(legacy.EndOfBody())
    writer.write(legacy.UnmappedPfns(struct.pack("<{}Q".format(len(unmapped)), *sorted(unmapped))))
    for vcpu in sorted(vcpus):
        writer.write(legacy.VcpuContext(vcpu, context(guest_width, vcpu), bytes([1]) * 128 * extended,
                                        3 if xsave else None, bytes([vcpu]) * vcpus[vcpu] if xsave else None))
    writer.write(legacy.SharedInfo(page(77)))
    for way in ("buffer", "descriptor", "pipe"):
        converted = io.BytesIO()
        with WAYS[way](out.getvalue()) as source:
            xstream.convert(source, converted)
        for stream in (out.getvalue(), converted.getvalue()):
            memory, result = loaded(stream)
            memory.grow(len(expected))
            expected.grow(len(memory))
            assert memory.pages.tobytes() == expected.pages.tobytes() and not len(result.differing)
            assert memory.populated.tolist() == expected.populated.tolist()
            assert [kind for kind, there in zip(memory.types, memory.populated) if there] == [
                kind for kind, there in zip(expected.types, expected.populated) if there]
        records = list(xstream.open(converted.getvalue()))
        basic = {one.vcpu_id: bytes(one.blob) for one in records if isinstance(one, libxc.VcpuBasic)}
        assert basic == {vcpu: context(guest_width, vcpu) for vcpu in vcpus}
        areas = {one.vcpu_id: bytes(one.blob) for one in records if isinstance(one, libxc.VcpuXsave)}
        assert areas == ({vcpu: bytes([vcpu]) * vcpus[vcpu] for vcpu in vcpus} if xsave else {})
        assert sum(isinstance(one, libxc.VcpuExtended) for one in records) == len(vcpus) * extended
        assert records[-2].page == page(77) and isinstance(records[-1], libxc.End)


@pytest.mark.parametrize("width", [4, 8])
def test_contents_of_a_toolstack_chunk(width):
    """libxl's physmap is shown entry by entry, of a 32-bit or 64-bit toolstack; other contents as bytes."""
    for count in range(4):
        entries = [(number, 0xF0000000, 4096, b"vga.vram\0" if number else b"") for number in range(count)]
        stream = samples.hvm(width, chunks=samples.toolstack(samples.physmap(width, entries)))
        shown = next(row for row in xstream.contents(stream) if row.type == "TOOLSTACK").contents
        assert shown == {"physmap": [
            {"phys_offset": number, "start_addr": 0xF0000000, "size": 4096, "name": "vga.vram" if number else ""}
            for number in range(count)]}
    stream = samples.hvm(width, chunks=samples.toolstack(b"another's"))
    shown = next(row for row in xstream.contents(stream) if row.type == "TOOLSTACK").contents
    assert shown == {"blob": {"bytes": 9, "start": b"another's".hex()}}
