"""Containers: what is in them, in which order it must be, what a restore ignores, and where errors say they are."""
import io
import struct

import containers
import pytest
import samples
from containers import (
    checkpoint_end,
    checkpoint_state,
    context,
    emulator,
    end,
    libvirt,
    libxl,
    libxl_header,
    record,
    xenopsd,
    xenopsd_record,
    xenstore,
    xl,
    xl_header,
)
from test_opening import read
from ways import WAYS

import xstream
from xstream import CorruptStream, LimitExceeded, OrderError, StrictViolation, TruncatedStream, UnsupportedStream
from xstream.wire import libvirt as libvirt_wire
from xstream.wire import libxl as libxl_wire
from xstream.wire import xenopsd as xenopsd_wire
from xstream.wire import xl as xl_wire

HEAD = libxl_header() + context()
GOOD = [name for name, _, _ in containers.ALL]


def refuse(stream, kind, **fields):
    options = fields.pop("options", {})
    with pytest.raises(kind) as caught:
        read(stream, **options)
    assert type(caught.value) is kind
    for name, value in fields.items():
        assert getattr(caught.value, name) == value, (name, str(caught.value))
    return caught.value


def accept(stream, **options):
    """Accepted as by a restore; with ``strict``, a StrictViolation."""
    got = read(stream, **options)
    refuse(stream, StrictViolation, options=dict(options, strict=True))
    return [kept for _, _, _, kept in got[0]]


@pytest.mark.parametrize("name", GOOD)
def test_good_streams_are_good_strictly(name):
    assert read(containers.STREAMS[name], strict=True) == read(containers.STREAMS[name])


@pytest.mark.parametrize("name", GOOD)
def test_trailing_bytes_are_tolerated_unless_strict(name):
    """As after the stream in a capture of xl migrate."""
    trailing = b"domain is yours, you are cleared to unpause\0"
    assert len(trailing) == 44
    assert read(containers.STREAMS[name] + trailing) == read(containers.STREAMS[name])
    refuse(containers.STREAMS[name] + trailing, StrictViolation, options={"strict": True})


def test_records_come_in_order_with_their_places():
    stream = xl()
    records, _ = read(stream)
    assert [(layer, index) for layer, index, _, _ in records] == (
        [("xl", 0), ("libxl", 0)] + [("libxc", number) for number in range(8)]
        + [("libxl", number) for number in (1, 2, 3)])
    start = len(xl_header())
    assert records[1][2] == start + 16 and records[2][2] == start + 16 + 8 + 40
    for _, _, offset, kept in records[-3:]:
        kind = {libxl_wire.EmulatorXenstoreData: 2, libxl_wire.EmulatorContext: 3, libxl_wire.End: 0}[type(kept)]
        assert stream[offset:offset + 4] == struct.pack("<I", kind)


def test_layers():
    with xstream.open(xl()) as reader:
        assert reader.identity == ("xl", 3, "x86 HVM", "Xen 4.17")
        assert reader.domain.type == samples.HVM and reader.image.version == 3
        list(reader)
        xl_layer, libxl_layer, libxc_layer = reader.layers
    start = len(xl_header())
    assert (xl_layer.depth, libxl_layer.depth, libxc_layer.depth) == (0, 1, 2)
    assert (xl_layer.offset, libxl_layer.offset, libxc_layer.offset) == (0, start, start + 24)
    assert (xl_layer.records, libxl_layer.records, libxc_layer.records) == (1, 4, 8)
    assert xl_layer.about["config"] == "JSON, 45 bytes" and libxc_layer.about["guest"] == "x86 HVM"


def test_identity_costs_no_record():
    with xstream.open(xl()) as reader:
        first = reader.next_record()
        assert (reader.layer, reader.index) == ("xl", 0) and isinstance(first, xl_wire.SaveHeader)
        assert reader.identity.guest == "x86 HVM"
        assert reader.index == 0
        assert [type(record).__name__ for record in reader][0] == "LibxcContext"


def test_pages_stay_lazy():
    for way, lazy in (("pipe", True), ("object", True), ("mapped", False), ("fed", False)):
        with WAYS[way](xl(config=b"x")) as source, xstream.open(source) as reader:
            batches = [record for record in reader if isinstance(record, xstream.PageData)]
            assert hasattr(batches[0].data, "read_into") is lazy


@pytest.mark.parametrize("name", [name for name, _, _ in containers.ALL])
def test_memory_is_what_is_in_it(name):
    memory = xstream.GuestMemory()
    xstream.load(containers.STREAMS[name], memory)
    first = {"libxl-pv": (4, 4)}.get(name, (1, 1) if "legacy" in containers.ALL[GOOD_INDEX[name]][2] else (0, 1))
    assert memory.pages[first[0]].tobytes() == samples.page(first[1])


GOOD_INDEX = {name: at for at, (name, _, _) in enumerate(containers.ALL)}


# libxl


def test_libxl_records():
    kept = [record for layer, _, _, record in read(libxl(tail=xenstore(b"a/b-c_d@e", b"v \xff", b"k", b"")
                                                         + emulator(b"blob", 1, 7)))[0]
            if layer == "libxl"]
    data, blob = kept[1:3]
    assert data.pairs == [(b"a/b-c_d@e", b"v \xff"), (b"k", b"")] and (data.emulator_id, data.emulator_index) == (2, 0)
    assert (blob.emulator_id, blob.emulator_index, bytes(blob.blob)) == (1, 7, b"blob")
    assert libxl_wire.EmulatorXenstoreData.of(data.pairs) == libxl_wire.EmulatorXenstoreData(2, 0, bytes(data.data))


@pytest.mark.parametrize("stream, kind, offset, field", [
    (libxl_header(ident=b"LibxlFmu"), CorruptStream, 0, "ident"),
    (libxl_header(1), UnsupportedStream, 8, "version"),
    (libxl_header(3), UnsupportedStream, 8, "version"),
    (libxl_header(options=1), UnsupportedStream, 12, "options"),
])
def test_libxl_headers_insisted_on(stream, kind, offset, field):
    refuse(stream + context() + samples.hvm() + end(), kind, offset=offset, field=field, layer="libxl",
           options={"format": "libxl"})


AFTER = len(HEAD) + len(samples.hvm())


@pytest.mark.parametrize("tail, kind, offset", [
    (xenstore(b"key"), CorruptStream, 16),
    (xenstore(b"key", b"value", tail=b"x"), CorruptStream, 26),
    (xenstore(b"", b"value"), CorruptStream, 16),
    (xenstore(b"/abs", b"value"), CorruptStream, 16),
    (xenstore(b"a", b"b", b"k y", b"value"), CorruptStream, 20),
    (xenstore(b"key\n", b"value"), CorruptStream, 16),
    (record(2, b"1234567"), CorruptStream, 4),
    (record(3), CorruptStream, 4),
    (record(5, b"123"), OrderError, 0),
    (record(6), UnsupportedStream, 0),
    (record(0x80000005, b"optional records too"), UnsupportedStream, 0),
    (context(), OrderError, 0),
    (checkpoint_end(), OrderError, 0),
    (checkpoint_state(), OrderError, 0),
])
def test_libxl_records_refused(tail, kind, offset):
    error = refuse(libxl(tail=tail), kind, layer="libxl", record=1)
    assert error.offset == AFTER + offset, str(error)


def test_unknown_emulators_are_accepted_as_libxl_does():
    """libxl doesn't look at the id of an emulator."""
    for tail in (xenstore(b"a", b"b", emulator=3) + emulator(), emulator(emulator=9)):
        accept(libxl(tail=tail))


def test_libxl_without_a_domain():
    refuse(libxl_header() + end(), OrderError, layer="libxl", record=0, offset=16)
    refuse(libxl_header() + emulator() + end(), OrderError, record=1)


def test_device_model_before_the_domain_is_tolerated():
    read(libxl_header() + emulator() + context() + samples.hvm() + end())


def test_device_model_of_a_pv_guest():
    refuse(libxl_header() + context() + samples.pv() + emulator() + end(), OrderError, record_type="EMULATOR_CONTEXT")


def test_libxc_is_wanted_within():
    refuse(HEAD + libxl() + end(), CorruptStream, layer="libxc", offset=24, field="marker")
    refuse(xl(b"nothing that is known"), CorruptStream, layer="libxl", offset=len(xl_header()), field="ident")
    refuse(xl(xl()), CorruptStream, layer="libxl", field="ident")


def test_what_libxl_ignores():
    accept(libxl(tail=record(3, struct.pack("<II", 2, 0) + b"odd", padding=7)))
    accept(libxl_header() + record(1, b"body") + samples.hvm() + end())
    accept(libxl_header(options=4) + context() + samples.hvm() + end())
    accept(HEAD + samples.hvm() + record(0, b"12345678"))


# Checkpoints


@pytest.mark.parametrize("colo", [False, True])
@pytest.mark.parametrize("rounds", [1, 2, 3])
@pytest.mark.parametrize("wrap", [lambda stream: stream, xl])
def test_checkpointed(rounds, colo, wrap):
    stream = wrap(containers.libxl_checkpointed(rounds, colo))
    memory = xstream.GuestMemory()
    loaded = xstream.load(stream, memory, checkpointed=True)
    assert loaded.checkpoints == rounds
    assert memory.pages[0].tobytes() == samples.page(9 + rounds)
    assert xstream.verify(stream, checkpointed=True, strict=True).checkpoints == rounds
    error = refuse(stream, OrderError, layer="libxc", record_type="CHECKPOINT")
    assert error.record == 7


def test_a_checkpoint_counts_when_libxl_says_so():
    """After a CHECKPOINT_END, a checkpoint that is cut off is ignored; before the first, a cut is an error."""
    stream = containers.libxl_checkpointed(2)
    first = stream.index(checkpoint_end() + samples.batch([samples.word(0)], [samples.page(11)])) + 8
    assert first < len(stream) - 8
    for length in list(range(24, len(stream), 97)) + [first - 1, first, first + 1, len(stream) - 1]:
        memory = xstream.GuestMemory()
        if length < first:
            with pytest.raises(TruncatedStream) as caught:
                xstream.load(stream[:length], memory, checkpointed=True)
            assert caught.value.offset == length
        else:
            for way in ("buffer", "pipe"):
                memory = xstream.GuestMemory()
                with WAYS[way](stream[:length]) as source:
                    assert xstream.load(source, memory, checkpointed=True).checkpoints == 1
                assert memory.pages[0].tobytes() == samples.page(10)


@pytest.mark.parametrize("way", ["buffer", "pipe", "object", "fed"])
@pytest.mark.parametrize("stream", [containers.libxl_checkpointed(2), samples.checkpointed(2)])
def test_every_tool_takes_a_checkpoint_cut_off_in_its_pages(stream, way):
    cut = stream[:stream.rindex(samples.page(11)) + 100]
    for work in (xstream.info, xstream.verify, xstream.policy, lambda source, **_: list(xstream.contents(source))):
        with WAYS[way](cut) as source:
            work(source, checkpointed=True)


def test_checkpoint_end_can_end_a_stream():
    stream = containers.libxl_checkpointed(2) + samples.end() + emulator() + end()
    assert xstream.verify(stream, checkpointed=True, strict=True).checkpoints == 2


def test_states_of_the_back_channel():
    stream = containers.libxl_checkpointed(1) + b"".join(checkpoint_state(state) for state in (2, 3, 0, 1))
    kept = accept(stream, checkpointed=True)
    assert [record.control_id for record in kept[-4:]] == [2, 3, 0, 1]
    refuse(containers.libxl_checkpointed(1) + checkpoint_state(4), UnsupportedStream, field="control_id",
           options={"checkpointed": True})


# xl


@pytest.mark.parametrize("header, kind, offset, field", [
    (xl_header(byte_order=0x04030201), UnsupportedStream, 32, "byteorder"),
    (xl_header(byte_order=0), CorruptStream, 32, "byteorder"),
    (xl_header(mandatory=7), UnsupportedStream, 36, "mandatory_flags"),
    (xl_header(b"", length=3)[:51], CorruptStream, 44, "optional_data_len"),
    (xl_header(config_length=1000), CorruptStream, 48, "config length"),
    (xl_header(length=0xFFFFFFFF), LimitExceeded, 44, "optional_data_len"),
])
def test_xl_headers_refused(header, kind, offset, field):
    refuse(header + libxl(), kind, layer="xl", offset=offset, field=field, record=0)


def test_xl_says_that_the_byte_order_is_another():
    refuse(xl(byte_order=0x04030201), UnsupportedStream).message.index("byte order")


def test_xl_configs():
    header = read(xl())[0][0][3]
    assert header.config_object == {"c_info": {"type": "hvm", "name": "guest"}} and header.config_text[0] == "{"
    text = read(containers.STREAMS["xl-text"])[0][0][3]
    assert text.config_object is None and text.config_text == "name = 'x'\n"
    assert read(containers.STREAMS["xl-bare"])[0][0][3].has_config is False
    for bad in (b"{", b"1" * 100000, b"\xff\xfe"):
        with pytest.raises(CorruptStream) as caught:
            read(xl(config=bad + b"\0"))[0][0][3].config_object  # noqa: B018
        assert caught.value.field == "config"


def test_xl_optional_data_behind_the_config():
    header = accept(xl(rest=b"more"))[0]
    assert bytes(header.rest) == b"more" and bytes(header.config) == containers.JSON_CONFIG
    assert read(xl(optional=5), strict=True)[0][0][3].optional_flags == 5


# libvirt


@pytest.mark.parametrize("header, kind, offset, field", [
    (containers.libvirt_header(version=3), UnsupportedStream, 16, "version"),
    (containers.libvirt_header(version=2 << 24), UnsupportedStream, 16, "version"),
    (containers.libvirt_header(b""), CorruptStream, 20, "xmlLen"),
    (containers.libvirt_header()[:20] + b"\xff\xff\xff\xff" + bytes(40), LimitExceeded, 20, "xmlLen"),
])
def test_libvirt_headers_refused(header, kind, offset, field):
    refuse(header + libxl(), kind, layer="libvirt", offset=offset, field=field)


def test_libvirt():
    header = read(containers.libvirt())[0][0][3]
    assert isinstance(header, libvirt_wire.SaveHeader) and header.xml_text == "<domain type='xen'/>"
    accept(containers.libvirt(unused=b"\1" + bytes(39)))


# xenopsd


def test_xenopsd():
    records, layers = read(containers.xenopsd_libxl())
    own = [record for layer, _, _, record in records if layer == "xenopsd"]
    assert own[0].fields == {"time": "20230101T00:00:00Z", "word_size": "64", "vm_str": '{"a":1}',
                             "xs_subtree": (("vm/x", "y"), ("", ""))}
    assert own[1] == xenopsd_wire.MemoryImage(xenopsd_wire.LIBXL, 0)
    assert [(blob.type, bytes(blob.data)) for blob in own[2:-1]] == [
        (0xF11, b"vars"), (0xF12, b"t0"), (0xF13, b"t1"), (0xF01, containers.QEMU)]
    assert own[-1] == xenopsd_wire.EndOfImage()


def test_a_memory_images_length_means_nothing():
    for length in (0, 5, 2 ** 62):
        read(xenopsd(length=length), strict=True)


XENOPSD_TAIL = 15 + 16 + len(containers.XENOPS) + 16 + len(samples.hvm())


@pytest.mark.parametrize("after, kind, offset, field", [
    (struct.pack("<qq", 0xF00, -1), CorruptStream, 8, "length"),
    (struct.pack("<qq", 0xF00, -2 ** 63), CorruptStream, 8, "length"),
    (xenopsd_record(0xF02), UnsupportedStream, 0, "type"),
    (xenopsd_record(-1), UnsupportedStream, 0, "type"),
    (struct.pack("<qq", 0xF0, 0), OrderError, 0, "type"),
    (xenopsd_record(0x0F, b"(time"), CorruptStream, 16 + 5, None),
    (xenopsd_record(0x0F, b"((time 1))"), CorruptStream, 16, None),
    (xenopsd_record(0x0F, b"(" * 101 + b")" * 101), LimitExceeded, 16 + 100, None),
    (xenopsd_record(0x0F, b"(" + b"a " * (1 << 20) + b")"), LimitExceeded, 16, None),
    (xenopsd_record(0x0F, b"(" + b"a " * 70000 + b")"), LimitExceeded, None, None),
])
def test_xenopsd_records_refused(after, kind, offset, field):
    error = refuse(xenopsd(after=after), kind, layer="xenopsd", record=2)
    assert offset is None or error.offset == XENOPSD_TAIL + offset, str(error)
    assert field is None or error.field == field


def test_xenopsd_lengths_beyond_the_input():
    for way in ("buffer", "pipe", "fed"):
        with WAYS[way](xenopsd(after=struct.pack("<qq", 0xF00, 2 ** 62) + b"short")) as source, \
                pytest.raises(TruncatedStream):
            read(source)


def test_a_vgpus_record_that_is_empty_or_says_its_length():
    read(xenopsd(after=xenopsd_record(0xF10) + xenopsd_record(0xF00, b"q")))
    read(xenopsd(after=xenopsd_record(0xF10, b"vgpu")))


VGPU = struct.pack("<qq", 0xF10, 0) + b"what only the vGPU's emulator knows"


@pytest.mark.parametrize("before, length", [
    (b"", 0),  # the first record after the memory
    (xenopsd_record(0xF01, b"QEVM"), 0),  # after QEMU's
    (xenopsd_record(0xF10, b"a vGPU's with its length") + xenopsd_record(0xF10), 0),  # the third vGPU's
    (b"", 20), (b"", 17), (b"", 1),  # cut anywhere
])
def test_memory_before_a_vgpus_record_of_unknown_length_is_read(before, length):
    tail = before + (VGPU[:16 + length] if length else VGPU + xenopsd_record(0xFFFF) * (not before))
    image = xenopsd(after=tail)[:-16]
    for way in ("buffer", "mapped", "pipe", "object", "trickle"):
        with WAYS[way](image) as source, xstream.open(source) as reader:
            last = list(reader)[-1]
            assert last == xenopsd_wire.Unread(xenopsd_wire.DEMU)
            assert reader.unread.startswith("from offset {} on".format(len(xenopsd()) - 16 - 16 - len(containers.QEMU)
                                                                       + len(before) + 16))
    assert xstream.digest(image)._replace(unread=None) == xstream.digest(samples.hvm())
    assert xstream.digest(image).unread == xstream.verify(image).unread == xstream.info(image).unread
    assert xstream.info(image).unread
    out = io.BytesIO()
    xstream.convert(image, out, to="libxc")
    assert xstream.digest(out.getvalue()) == xstream.digest(samples.hvm())
    with pytest.raises(UnsupportedStream):
        xstream.convert(image, io.BytesIO(), to="xenopsd", squash=True)
    refuse(image, UnsupportedStream, layer="xenopsd", field="length", options={"strict": True})


def test_a_vgpus_record_of_unknown_length_before_the_memory_is_named():
    image = xenopsd(before=xenopsd_record(0x0F, containers.XENOPS) + VGPU)
    error = refuse(image, UnsupportedStream, layer="xenopsd", record=1, field="length")
    assert "without its vGPU" in str(error)


def test_a_vgpus_record_at_the_end_of_the_input():
    """The record's length isn't known, so that an image that ends here counts as cut."""
    image = xenopsd(after=VGPU[:16])[:-16]
    refuse(image, TruncatedStream)


# Headers that announce another stream


WRONG_HEADERS = {
    "libvirt-1": (libvirt(version=1), "libvirt", 16, ["libvirt", "libxl", "libxc"]),
    "libvirt-2": (libvirt(containers.legacy_hvm()), "libvirt", 16, ["libvirt", "legacy"]),
    "libvirt-libxc": (libvirt(samples.hvm()), "libvirt", 16, ["libvirt", "libxc"]),
    "xl-0": (xl(mandatory=0), "xl", 36, ["xl", "libxl", "libxc"]),
    "xl-json": (xl(mandatory=1), "xl", 36, ["xl", "libxl", "libxc"]),
    "xl-libxl": (xl(containers.legacy_hvm()), "xl", 36, ["xl", "legacy"]),
    "xl-libxc": (xl(samples.hvm(), mandatory=1), "xl", 36, ["xl", "libxc"]),
    "xend-libxl": (b"LinuxGuestRecord" + struct.pack(">i", 3) + b"(a)" + libxl(), "xend", 0,
                   ["xend", "libxl", "libxc"]),
    "xenopsd-libxc": (xenopsd(libxl()), "xenopsd", None, ["xenopsd", "libxl", "libxc"]),
    "xenopsd-libxl": (xenopsd(samples.hvm(), 0xF1), "xenopsd", None, ["xenopsd", "libxc"]),
    "xenopsd-legacy": (xenopsd(samples.hvm(), 0xF2), "xenopsd", None, ["xenopsd", "libxc"]),
    "xenopsd-not-legacy": (xenopsd(containers.legacy_hvm()), "xenopsd", None, ["xenopsd", "legacy"]),
}


@pytest.mark.parametrize("name", WRONG_HEADERS)
def test_the_stream_decides_and_not_the_header_that_announces_it(name):
    stream, layer, offset, layers = WRONG_HEADERS[name]
    for way in ("buffer", "pipe", "trickle", "fed"):
        with WAYS[way](stream) as source:
            assert read(source)[1] == layers
    report = xstream.info(stream)
    notes = [layer.about.get("note", "") for layer in report.layers]
    assert "announces" in notes[0] and layers[1] in notes[0] and not any(notes[1:])
    error = refuse(stream, StrictViolation, options={"strict": True}, layer=layer)
    assert offset is None or error.offset == offset


@pytest.mark.parametrize("config, records", [
    (b'{"c_info": {"type": "pvh"}}\0', False), (b'{"c_info": {"type": "hvm"}, "b_info": {"type.pvh": {}}}\0', False),
    (b'{"c_info": {"type": "pv"}, "b_info": {"type.hvm": {}}}\0', True), (b'{"c_info": {"type": "hvm"}}\0', True),
    (b'{"c_info": 1, "b_info": [2]}\0', True), (b'[]\0', True), (b'{\0', True),
])
def test_a_device_models_record_needs_a_guest_that_has_one_by_its_config(config, records):
    """libxl goes by the config; without one nothing says that the guest has no device model."""
    if records:
        read(xl(config=config))
    else:
        refuse(xl(config=config), OrderError, layer="libxl")


def with_params(*params):
    """An HVM stream that sets these parameters."""
    body = struct.pack("<II", len(params), 0) + b"".join(struct.pack("<QQ", *param) for param in params)
    return samples.hvm(tail=samples.tsc_info() + samples.hvm_context() + record(0x0A, body) + samples.end())


IOREQ_SERVER = with_params((1, 0xFEFFC), (32, 0xFEFF0), (33, 8))
NO_IOREQ_SERVER = with_params((1, 0xFEFFC), (33, 0))
XENSTORE = xenstore(b"a", b"b")


@pytest.mark.parametrize("stream, missing", [
    (xl(libxl(tail=XENSTORE)), ("EMULATOR_CONTEXT",)),
    (xl(libxl(tail=emulator(b""))), ("EMULATOR_CONTEXT",)),
    (xl(libxl(tail=emulator())), ()),
    (xl(libxl_header() + context() + samples.hvm() + end()), ("EMULATOR_CONTEXT",)),
    (xl(libxl_header() + context() + IOREQ_SERVER + end(), config=b'{"b_info": {"type.pvh": {}}}\0'), ()),
    (libvirt(libxl_header() + context() + samples.hvm() + end(), xml=b"<domain><os><type>hvm</type></os></domain>\0"),
     ("EMULATOR_CONTEXT",)),
    (libvirt(libxl_header() + context() + IOREQ_SERVER + end(), xml=b"<d><os >\n<type arch='x'>xenpvh</type></os></d>"),
     ()),
    (libxl_header() + context() + samples.hvm() + end(), ()),
    (libxl_header() + context() + NO_IOREQ_SERVER + end(), ()),
    (libxl_header() + context() + IOREQ_SERVER + end(), ("EMULATOR_CONTEXT",)),
    (libxl_header() + context() + samples.hvm() + XENSTORE + end(), ("EMULATOR_CONTEXT",)),
    (libxl_header() + emulator() + context() + IOREQ_SERVER + end(), ()),
    (containers.libxl_pv(), ()),
    (xenopsd(IOREQ_SERVER), ()),
    (xenopsd(IOREQ_SERVER, after=xenopsd_record(0xF11, b"v")), ("Qemu_xen",)),
    (xenopsd(samples.hvm(), after=xenopsd_record(0xF11, b"v")), ()),
    (xenopsd(IOREQ_SERVER, after=VGPU)[:-16], ()),
    (IOREQ_SERVER, ()),
])
def test_a_guest_with_a_device_model_needs_its_record(stream, missing):
    for way in ("buffer", "pipe"):
        with WAYS[way](stream) as source:
            report = xstream.info(source)
            assert report.error is None and report.missing == missing
        with WAYS[way](stream) as source:
            if missing:
                with pytest.raises(xstream.IncompleteStream) as caught:
                    xstream.verify(source)
                assert caught.value.missing == missing
            else:
                xstream.verify(source)


def test_xenopsd_without_memory():
    refuse(b"XenSavedDomv2-\n" + xenopsd_record(0x0F, containers.XENOPS) + xenopsd_record(0xFFFF), OrderError,
           layer="xenopsd", record=1)


def test_what_xenopsd_ignores():
    accept(xenopsd()[:-8] + struct.pack("<q", 1))
    accept(xenopsd(before=xenopsd_record(0xF11, b"x")))


def test_an_unstructured_image():
    stream = containers.xenopsd_unstructured()
    records, layers = read(stream, strict=True)
    assert layers == ["xenopsd", "legacy"] and records[0][0] == "legacy" and records[0][2] == 15
    assert records[-1][3] == xenopsd_wire.Blob(xenopsd_wire.QEMU_RECORD, containers.QEMU)
    at = stream.index(b"QemuDeviceModelRecord")
    refuse(stream[:at] + stream[at:].replace(b"Qemu", b"qemu"), CorruptStream, layer="xenopsd", offset=at,
           field="signature")
    refuse(stream[:at + 22] + b"\xff" + stream[at + 23:], CorruptStream, offset=at + 22, field="length")


def test_progress_and_partial_reading():
    """A reader may be left anywhere, and what it opened is closed."""
    for name, stream, _ in containers.ALL:
        total = len(read(stream)[0])
        for count in range(total):
            with xstream.open(io.BytesIO(stream)) as reader:
                for _ in range(count):
                    assert reader.next_record() is not None, name
