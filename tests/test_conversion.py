"""Each row of the table in docs/conversion.md: what Xen's converter does with a stream, and what this package does.

If Xen's converter isn't installed, only the second part is tested.
"""
import io
import re
import struct
from pathlib import Path

import legacy_samples as samples
import pytest
import xen_tools as tools
from hypothesis import given, settings
from hypothesis import strategies as st
from legacy_samples import L4TAB, PARAMS, XTAB, batch, chunk, page, param, toolstack, vcpu, word
from ways import WAYS

import xstream
from xstream.wire import legacy, libxc, libxl, xl

DOCS = Path(__file__).resolve().parents[1] / "docs" / "conversion.md"
#: A PV guest's memory; the tail unmaps PFN 9.
UNMAPPED = batch(8, [word(3, L4TAB), word(4), word(9)], [bytes(4096), page(4), page(5)])
BODY = batch(8, [word(0), word(2)], [page(1), page(2)])
#: What Xen's converter does: it refuses the stream, or its output differs.
REFUSED, OTHERWISE = "refused", "otherwise"


def converted(stream, way="descriptor", **options):
    out = io.BytesIO()
    with WAYS[way](stream) as source:
        report = xstream.convert(source, out, **options)
    return out.getvalue(), report


def records(stream, layer="libxc"):
    with xstream.open(stream, checkpointed=True) as reader:
        return [record for record in reader if reader.layer == layer]


def of_type(stream, kind, layer="libxc"):
    return [record for record in records(stream, layer) if isinstance(record, kind)]


def populated(stream):
    memory = xstream.GuestMemory(limit=64)
    xstream.load(stream, memory, checkpointed=True)
    return [pfn for pfn in range(len(memory)) if memory.populated[pfn]]


def hvm(memory=BODY, chunks=b"", **tail):
    """A cold HVM stream with the parameters of Xen 4.5.0."""
    params = b"".join(param(*one) for one in PARAMS if one[0] != -21)
    return samples.ulongs(8, 16) + samples.tsc_info() + memory + samples.vcpu_info(0, 1) + params + chunks + chunk(-9) \
        + chunk(0) + samples.hvm_tail(**tail)


def pv(memory=batch(8, [word(3, L4TAB), word(4)], [bytes(4096), page(4)]), chunks=samples.vcpu_info(0, 2), freed=(),
       vcpus=(vcpu(8, mark=7), vcpu(8, mark=9)), **info):
    return samples.pv_head(8, 8, **info) + memory + samples.tsc_info() + chunks + chunk(-9) + chunk(0) \
        + samples.pv_tail(8, 8, freed, vcpus)


REMUS = [batch(8, [word(0)], [page(20)]), batch(8, [word(3)], [page(30)])]
XL = b"".join(xl.build(xl.SaveHeader(0, b"name = 'guest'")))
XEND = struct.pack(">16si", b"LinuxGuestRecord", 8) + b"(domain)"


def vcpu_ids(stream):
    return [record.vcpu_id for record in of_type(stream, libxc.VcpuBasic)]


def batches(stream):
    return [(record.pfns.tolist(), record.types.tolist()) for record in of_type(stream, libxc.PageData)]


#: Name in the table: the stream, its guest, the arguments of Xen's converter, what it does, and a check of our result.
ROWS = {
    "xl header": (
        XL + hvm(), "hvm", {"xl": True}, REFUSED,
        lambda ours, report: ours == converted(hvm())[0] and report.dropped == ("xl SAVE_HEADER",)),
    "xend header": (
        XEND + hvm(), "hvm", {}, REFUSED,
        lambda ours, report: ours == converted(hvm())[0] and report.dropped == ("xend SAVE_HEADER",)),
    "Remus": (
        samples.remus(8, REMUS), "hvm", {}, OTHERWISE,
        lambda ours, report: len(of_type(ours, libxc.Checkpoint)) == 3 and populated(ours) == [0, 1, 3]),
    "Remus, compressed": (
        samples.remus(8, [batch(8, [word(0)]) + samples.compressed(8, b"\x01CHNG" + b"\xff" * 8 + b"\x87")],
                      compress=True), "hvm", {}, REFUSED,
        lambda ours, report: of_type(ours, libxc.PageData)[-1].pages.tobytes() == b"CHNG" + page(10)[4:]),
    "tmem": (
        hvm(chunks=samples.tmem([(1, 1, samples.tmem_page(1))]) + samples.tmem_extra()), "hvm", {}, REFUSED,
        lambda ours, report: ours == converted(hvm())[0] and report.dropped == ("legacy TMEM", "legacy TMEM_EXTRA")),
    "x87 FIP width": (
        hvm(chunks=param(-21, 4)), "hvm", {}, REFUSED,
        lambda ours, report: of_type(ours, libxc.HvmParams)[0].params[-1] == (36, 4)),
    "device model of Remus": (
        hvm(signature=legacy.REMUS_DEVICE_MODEL), "hvm", {"format": "libxl"}, REFUSED,
        lambda ours, report: of_type(ours, libxl.EmulatorContext, "libxl")[0].blob == b"QEMU's"),
    "device model of xend": (
        hvm(signature=legacy.XEND_DEVICE_MODEL), "hvm", {"format": "libxl"}, REFUSED,
        lambda ours, report: of_type(ours, libxl.EmulatorContext, "libxl")[0].blob == b"QEMU's"),
    "physmap without a name": (
        hvm(chunks=toolstack(samples.physmap(8, [(1, 2, 3, b"")]))), "hvm", {"format": "libxl"}, REFUSED,
        lambda ours, report: of_type(ours, libxl.EmulatorXenstoreData, "libxl")[0].pairs == [
            (b"physmap/1/start_addr", b"2"), (b"physmap/1/size", b"3")]),
    "physmap name that isn't UTF-8": (
        hvm(chunks=toolstack(samples.physmap(8, [(1, 2, 3, b"\xff\0")]))), "hvm", {"format": "libxl"}, REFUSED,
        lambda ours, report: of_type(ours, libxl.EmulatorXenstoreData, "libxl")[0].pairs[2] == (
            b"physmap/1/name", b"\xff")),
    "physmap of a PV guest": (
        pv(chunks=samples.vcpu_info(0, 2) + toolstack(samples.physmap(8, [(1, 2, 3, b"n\0")]))), "pv",
        {"format": "libxl"}, OTHERWISE,
        lambda ours, report: ours == converted(pv(), to="libxl")[0] and report.dropped == ("legacy TOOLSTACK",)),
    "xsave areas of several sizes": (
        pv(vcpus=(vcpu(8, mark=7), vcpu(8, 700, mark=9))), "pv", {}, REFUSED,
        lambda ours, report: [len(record.blob) for record in of_type(ours, libxc.VcpuXsave)] == [848, 700]),
    "toolstack chunk twice": (
        hvm(chunks=toolstack(samples.physmap(8, [(4, 5, 6, b"n\0")]))
            + toolstack(samples.physmap(8, [(1, 2, 3, b"n\0")]))), "hvm", {"format": "libxl"}, OTHERWISE,
        lambda ours, report: ours == converted(
            hvm(chunks=toolstack(samples.physmap(8, [(1, 2, 3, b"n\0")]))), to="libxl")[0]),
    "no LAST_CHECKPOINT": (
        hvm().replace(chunk(-9) + chunk(0), chunk(0)), "hvm", {}, OTHERWISE,
        lambda ours, report: isinstance(records(ours)[-1], libxc.Checkpoint) and report.checkpoints == 1),
    "PFNs that the tail unmaps": (
        pv(memory=UNMAPPED, freed=[5, 9]), "pv", {}, OTHERWISE,
        lambda ours, report: populated(ours) == [3, 4] and batches(ours) == [([3, 4], [4, 0])]),
    "verify mode": (
        hvm(memory=BODY + chunk(-1) + BODY), "hvm", {}, OTHERWISE,
        lambda ours, report: len(of_type(ours, libxc.Verify)) == 1),
    "batch without PFNs": (
        hvm(memory=BODY + batch(8, [word(0, XTAB)] * 3)), "hvm", {}, OTHERWISE,
        lambda ours, report: ours == converted(hvm())[0]),
    "entry without a page that has a PFN": (
        hvm(memory=batch(8, [word(0), word(2), word(7, XTAB)], [page(1), page(2)])), "hvm", {}, OTHERWISE,
        lambda ours, report: ours == converted(hvm())[0]),
    "pinned page that is no table": (
        hvm(memory=batch(8, [word(0, 8), word(2)], [page(1), page(2)])), "hvm", {}, OTHERWISE,
        lambda ours, report: ours == converted(hvm())[0]),
    "PFN twice in a batch": (
        hvm(memory=batch(8, [word(1), word(1)], [page(1), page(2)])), "hvm", {}, REFUSED,
        lambda ours, report: batches(ours) == [([1, 1], [0, 0])]),
    "vcpus beyond the highest id": (
        pv(chunks=chunk(-2, struct.pack("<iQ", 0, 5)), vcpus=(vcpu(8, mark=7),)), "pv", {}, REFUSED,
        lambda ours, report: vcpu_ids(ours) == [0]),
    "VCPU_INFO twice": (
        pv(chunks=samples.vcpu_info(0, 1) + samples.vcpu_info(0, 2)), "pv", {}, REFUSED,
        lambda ours, report: vcpu_ids(ours) == [0, 2]),
    "no VCPU_INFO": (
        pv(chunks=b"", vcpus=(vcpu(8, mark=7),)), "pv", {}, OTHERWISE,
        lambda ours, report: vcpu_ids(ours) == [0]),
    "block of an unknown kind": (
        pv(others=b"what" + struct.pack("<I", 3) + b"new"), "pv", {}, REFUSED,
        lambda ours, report: ours == converted(pv())[0]),
    "page type 5 to 7": (hvm(memory=batch(8, [word(0, 5)], [page(1)])), "hvm", {}, OTHERWISE, None),
    "PFN past the guest's size": (hvm(memory=batch(8, [word(16)], [page(1)])), "hvm", {}, OTHERWISE, None),
}


@pytest.mark.parametrize("name", ROWS)
def test_our_result(name):
    stream, _, options, _, holds = ROWS[name]
    to = options.get("format", "libxc")
    if holds is None:
        with pytest.raises(xstream.CorruptStream):
            converted(stream, to=to)
        return
    result, report = converted(stream, to=to)
    assert holds(result, report)
    assert xstream.verify(result, checkpointed=True).checkpoints == (len(of_type(result, libxc.Checkpoint)))


@pytest.mark.parametrize("name", ROWS)
def test_xens_converter(name, xen_tools):
    """It still does what the table says; once it has been improved, the table has to be changed."""
    stream, guest, options, does, holds = ROWS[name]
    theirs, said = tools.convert_legacy_stream(stream, guest, 64, **dict({"format": "libxc"}, **options))
    assert (theirs is None) == (does == REFUSED), said
    if holds is not None:
        assert theirs != converted(stream, to=options.get("format", "libxc"))[0]


@pytest.mark.parametrize("stream, guest", [(hvm(), "hvm"), (pv(), "pv"), (
    hvm(chunks=toolstack(samples.physmap(8, [(1, 2, 3, b"n\0")]))), "hvm"), (hvm(chunks=toolstack(b"")), "hvm"), (
    pv(xsave=None, vcpus=(vcpu(8, None), vcpu(8, None))), "pv"), (
    pv(xsave=16, vcpus=(vcpu(8, 0), vcpu(8, 0))), "pv"), (
    pv(xsave=None, extended=False, vcpus=(vcpu(8, None, False), vcpu(8, None, False))), "pv")])
@pytest.mark.parametrize("to", ["libxc", "libxl"])
def test_streams_in_no_row_give_the_same_bytes(stream, guest, to, xen_tools):
    theirs, said = tools.convert_legacy_stream(stream, guest, 64, to)
    assert converted(stream, to=to)[0] == theirs, said


@pytest.mark.skipif(not DOCS.exists(), reason="not applicable: it comes with a checkout only")
def test_the_table_has_these_rows():
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| [^|]+ \|$", DOCS.read_text(encoding="utf-8").partition("## Where")[2],
                      re.MULTILINE)
    assert [row for row in rows if row != "in the stream" and set(row) != {"-"}] == list(ROWS)


def test_unmapped_pfns_from_a_pipe():
    """Their pages have been written already; a batch of XTAB follows, which takes them out of the map."""
    stream = pv(memory=UNMAPPED, freed=[5, 9])
    result, _ = converted(stream, "pipe")
    assert batches(result) == [([3, 4, 9], [4, 0, 0]), ([9], [15])] and populated(result) == [3, 4]
    assert converted(stream, "buffer")[0] == converted(stream, "descriptor")[0]


KINDS = st.sampled_from([0, 0, 1, 2, 9, 10, samples.BROKEN, samples.XALLOC])
BATCH = st.tuples(st.dictionaries(st.integers(0, 15), KINDS, min_size=1, max_size=6), st.integers(0, 2))
PARAM = st.tuples(st.sampled_from([number for number, _ in PARAMS if number != -21]), st.integers(0, 2 ** 64 - 1))
PHYSMAP = st.lists(st.tuples(st.integers(0, 2 ** 64 - 1), st.integers(0, 2 ** 64 - 1), st.integers(0, 2 ** 64 - 1),
                             st.text("abc.-_/ %s", min_size=1, max_size=9).map(lambda name: name.encode() + b"\0")),
                   max_size=3)


def batch_of(width, pfns, nothings):
    """A batch with ``nothings`` entries of type XTAB."""
    words = [word(pfn, kind) for pfn, kind in pfns.items()]
    pages = [bytes(4096) if kind else page(pfn) for pfn, kind in pfns.items() if kind < samples.BROKEN]
    return batch(width, words + [word(0, XTAB)] * nothings, pages)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), width=st.sampled_from([4, 8]), batches=st.lists(BATCH, max_size=3), to=st.sampled_from(
    ["libxc", "libxl"]), vcpus=st.sets(st.integers(0, 130), max_size=3))
def test_any_good_stream_gives_the_same_bytes(data, width, batches, to, vcpus):
    if tools.folder() is None:
        pytest.skip(tools.ABSENT)
    vcpus.add(0)
    chunks = [batch_of(width, *one) for one in batches] + [samples.tsc_info(), samples.vcpu_info(*vcpus)]
    guest = data.draw(st.sampled_from(["pv", "hvm"]))
    if guest == "hvm":
        chunks += [param(*one) for one in data.draw(st.lists(PARAM, max_size=5))]
        chunks += [toolstack(samples.physmap(width, data.draw(PHYSMAP)))]
        head = samples.ulongs(width, 16)
        tail = samples.hvm_tail(blob=b"Q" + data.draw(st.binary(max_size=40)))
    else:
        guest_width, extended = data.draw(st.sampled_from([4, 8])), data.draw(st.booleans())
        xsave = data.draw(st.one_of(st.none(), st.integers(16, 600)))
        sent = {pfn for pfns, _ in batches for pfn in pfns} | {3, 4}
        chunks.append(batch(width, [word(3, samples.TOP_TABLE[guest_width]), word(4)], [bytes(4096), page(4)]))
        head = samples.pv_head(width, guest_width, xsave=None if xsave is None else xsave + 16, extended=extended)
        tail = samples.pv_tail(width, guest_width, sorted(set(range(16)) - sent), [
            vcpu(guest_width, xsave, extended, mark) for mark in range(len(vcpus))])
    mixed = len(chunks) - (guest == "pv")
    body = data.draw(st.permutations(chunks[:mixed])) + chunks[mixed:]
    stream = head + b"".join(body) + chunk(-9) + chunk(0) + tail
    theirs, said = tools.convert_legacy_stream(stream, guest, 8 * width, to)
    assert converted(stream, to=to)[0] == theirs, said
