"""The final state of a stream as a plain stream, and parts of a container as files."""
import io
import struct

import containers
import pytest
import samples
from containers import JSON_CONFIG, QEMU, XENOPS
from superpages import superpages
from test_cli import run

import xstream
from xstream import LimitExceeded, Limits, MissingPart

REMUS = containers.xl_header() + containers.libxl_checkpointed(3)
COLO = containers.xl_header() + containers.libxl_checkpointed(2, colo=True)


def squashed(stream, to, **options):
    out = io.BytesIO()
    xstream.convert(stream, out, to=to, squash=True, **options)
    return out.getvalue()


def part(stream, what, **options):
    out = io.BytesIO()
    assert xstream.convert(stream, out, to=what, **options).bytes_written == len(out.getvalue())
    return out.getvalue()


def types(stream):
    with xstream.open(stream, strict=True) as reader:
        return [type(record).__name__ for record in reader]


def memory(stream, **options):
    return xstream.digest(stream, **options).pages_sha256


@pytest.mark.parametrize("stream", [REMUS, COLO], ids=["remus", "colo"])
@pytest.mark.parametrize("to, config", [("libxc", None), ("libxl", None), ("xl", None), ("libvirt", b"<domain/>"),
                                        ("xenopsd", XENOPS)])
def test_the_last_complete_checkpoint_becomes_a_plain_stream(stream, to, config):
    made = squashed(stream, to, config=config)
    xstream.verify(made, strict=True)
    assert memory(made) == memory(stream, checkpointed=True)
    assert types(made).count("PageData") == 1 and "Checkpoint" not in types(made)


def test_whatever_follows_the_last_complete_checkpoint_is_void():
    for cut in (1, 30, 8 + 24 + 120):
        made = squashed(REMUS[:-cut], "xl")
        assert memory(made) == memory(REMUS[:-cut], checkpointed=True) != memory(REMUS, checkpointed=True)
    # In a libxl stream CHECKPOINT alone doesn't complete a checkpoint, so "libxc" doesn't write it yet.
    out = io.BytesIO()
    xstream.convert(REMUS[:-1], out, to="libxc", checkpointed=True)
    assert memory(out.getvalue(), checkpointed=True) == memory(REMUS[:-1], checkpointed=True)
    assert xstream.verify(out.getvalue(), checkpointed=True).checkpoints == 2


def test_records_come_in_the_order_of_a_plain_stream():
    assert types(squashed(REMUS, "xl")) == [
        "SaveHeader", "LibxcContext", "CpuidPolicy", "MsrPolicy", "StaticDataEnd", "PageData", "TscInfo", "HvmContext",
        "HvmParams", "End", "EmulatorXenstoreData", "EmulatorContext", "End"]


def test_state_of_earlier_checkpoints_is_kept_as_a_restore_keeps_it():
    """libxl writes xenstore data when it comes, so keys of an earlier checkpoint stay; QEMU's record is replaced."""
    def tail(number, qemu):
        return (samples.tsc_info() + samples.hvm_context() + samples.hvm_params() + samples.record(0x0E)
                + (containers.xenstore(b"only", b"first") if number == 0 else b"") + containers.emulator(qemu)
                + containers.checkpoint_end())
    stream = (containers.libxl_header() + containers.context() + samples.headers() + samples.policies()
              + samples.static_data_end() + samples.batch([samples.word(0)], [samples.page(1)]) + tail(0, b"one")
              + samples.batch([samples.word(1)], [samples.page(2)]) + tail(1, b"two"))
    made = squashed(stream, "libxl")
    with xstream.open(made) as reader:
        data = [record.pairs for record in reader if type(record).__name__ == "EmulatorXenstoreData"]
    assert data == [[(b"only", b"first")]]
    assert part(made, "device-model") == b"two" == part(stream, "device-model")


@pytest.mark.parametrize("name", ["libxc", "libxl-pv", "xl", "xenopsd", "xenopsd-libxl"])
@pytest.mark.parametrize("way", ["mapped", "pipe"])
def test_plain_streams_keep_everything_but_repetitions(name, way):
    from ways import WAYS
    stream = containers.STREAMS[name]
    with WAYS[way](stream) as source:
        made = squashed(source, "xenopsd" if "xenopsd" in name else name.replace("-pv", ""))
    assert memory(made) == memory(stream)
    kept = [kind for kind in types(stream) if kind not in ("PageData", "Verify", "Unknown")]
    assert [kind for kind in types(made) if kind not in ("PageData", "Unknown")] == kept


def test_genuine_streams(v3_stream):
    checkpointed = "remus" in v3_stream.path.name
    made = squashed(str(v3_stream.path), "libxc")
    xstream.verify(made, strict=True)
    assert memory(made) == memory(str(v3_stream.path), checkpointed=checkpointed)


@pytest.mark.parametrize("later", [samples.XTAB, 0xE, 0xD])
def test_pages_keep_what_a_restore_keeps(later):
    stream = samples.hvm(memory=(
        samples.batch([samples.word(0), samples.word(3)], [samples.page(1), samples.page(2)])
        + samples.batch([samples.word(0, later), samples.word(5, 0xE), samples.word(6, 0xD)])))
    made = squashed(stream, "libxc")
    assert memory(made) == memory(stream)
    assert xstream.info(made).types == {"NOTAB": 2, "XALLOC": 1, "BROKEN": 1}


def test_the_size_of_all_records_is_limited():
    stream = containers.libxl(samples.hvm(tail=b"".join(samples.record(0x80000000 + number) for number in range(70000))
                                          + samples.hvm_context() + samples.hvm_params() + samples.end()))
    with pytest.raises(LimitExceeded):
        squashed(stream, "libxl")
    blobs = containers.libxl(tail=b"".join(containers.emulator(bytes(3000), index=number) for number in range(40)))
    with pytest.raises(LimitExceeded):
        squashed(blobs, "libxl", limits=Limits(state_length=100000))


@pytest.mark.parametrize("name, config, qemu", [
    ("xl", JSON_CONFIG[:-1], QEMU), ("libvirt", b"<domain type='xen'/>", QEMU), ("xenopsd", XENOPS, QEMU),
    ("xenopsd-libxl", XENOPS, QEMU), ("xl-text", b"name = 'x'\n", b"QEVM"), ("xend", b"(domain (name guest))", b"QEVM"),
    ("xenopsd-unstructured", None, QEMU), ("libxl", None, QEMU), ("libxl-pv", None, None), ("libxc", None, None),
    ("xl-bare", None, QEMU)])
def test_parts(name, config, qemu):
    for what, expected in (("config", config), ("device-model", qemu)):
        if expected is None:
            with pytest.raises(MissingPart):
                part(containers.STREAMS[name], what)
        else:
            assert part(containers.STREAMS[name], what) == expected
    with pytest.raises(ValueError):
        part(containers.STREAMS[name], "memory")


def test_parts_put_together_again_on_the_command_line(tmp_path):
    whole, memory_path, config, qemu, again = (str(tmp_path / name) for name in ("xl", "xs", "config", "qemu", "again"))
    with open(whole, "wb") as file:
        file.write(containers.xl(containers.libxl(tail=containers.emulator())))
    for to, out in (("libxc", memory_path), ("config", config), ("device-model", qemu)):
        assert run("convert", whole, out, "--to", to)[0] == 0
    status, _, err = run("convert", memory_path, again, "--to", "xl", "--config", config, "--device-model", qemu)
    assert status == 0, err
    with open(whole, "rb") as one, open(again, "rb") as other:
        assert one.read() == other.read()
    assert run("convert", memory_path, again, "--to", "config")[0] == 2


def test_the_last_checkpoint_on_the_command_line(tmp_path):
    (tmp_path / "remus").write_bytes(REMUS)
    status, _, err = run("convert", str(tmp_path / "remus"), str(tmp_path / "plain"), "--to", "xl", "--last-checkpoint")
    assert status == 0 and not err
    assert run("verify", "--strict", str(tmp_path / "plain"))[0] == 0


def test_xens_verifier_accepts_the_result(xen_tools, xl_stream):
    accepted, said = xen_tools.verify_stream_v2(squashed(str(xl_stream.path), "xl"), "xl")
    assert accepted, said


def test_2_mib_pages_stay_whole():
    """Batches that start anywhere, and PFNs in any order: squashed, each 2 MiB page comes in one record."""
    sent = [range(7, 700), range(2048, 2560), range(700, 2048), range(2600, 3600), range(10240, 10752)]
    stream = samples.hvm(memory=b"".join(
        samples.batch([samples.word(pfn) for pfn in part], [samples.page(1)] * len(part)) for part in sent))
    made = squashed(stream, "libxc")
    assert superpages(made) == superpages(made, one_record=True) == 6
    with xstream.open(made) as reader:
        batches = [record.pfns.tolist() for record in reader if isinstance(record, xstream.PageData)]
    assert sum(batches, []) == sorted(pfn for part in sent for pfn in part)
    assert all(len({pfn // 1024 for pfn in batch}) == 1 for batch in batches)


def test_2_mib_pages_of_sparse_memory_stay_whole():
    """Also where a look-up of 1024 populated PFNs ends within one."""
    pfns = [*range(0, 40 * 1024, 64), *range(40 * 1024 + 100, 41 * 1024), *range(50 * 1024, 52 * 1024)]
    parts = [pfns[at:at + 1000] for at in range(0, len(pfns), 1000)]
    stream = samples.hvm(memory=b"".join(
        samples.batch([samples.word(pfn) for pfn in part], [samples.page(1)] * len(part)) for part in parts))
    made = squashed(stream, "libxc")
    assert superpages(made) == superpages(made, one_record=True) == 5
    assert memory(made) == memory(stream)


def test_hvm_params_add_up():
    """Each parameter is set as its record arrives; the last value of each counts. So it is in the squashed stream, once
    from the parameters of one record, once from those of both."""
    def params(*pairs):
        return samples.record(0x0A, struct.pack("<II", len(pairs), 0) + b"".join(struct.pack("<QQ", *p) for p in pairs))
    stream = (samples.headers() + samples.policies() + samples.static_data_end()
              + samples.batch([samples.word(0)], [samples.page(1)]) + params((12, 1), (15, 2), (17, 3))
              + samples.tsc_info() + params((5, 4), (6, 5), (1, 6), (15, 7)) + samples.hvm_context() + samples.end())
    for options in ({"squash": True}, {"last_checkpoint": True}):
        out = io.BytesIO()
        assert xstream.convert(stream, out, to="libxc", **options).dropped == ()
        with xstream.open(out.getvalue()) as reader:
            found = [pair for record in reader if isinstance(record, xstream.HvmParams) for pair in record.params]
        assert dict(found) == {12: 1, 15: 7, 17: 3, 5: 4, 6: 5, 1: 6} and len(found) == 6


def test_xenstore_data_and_optional_records_add_up():
    stream = containers.libxl(samples.hvm(tail=samples.record(0x80000001, b"x") + samples.record(0x80000001, b"y")
                                          + samples.tsc_info() + samples.hvm_context() + samples.hvm_params()
                                          + samples.end()),
                              containers.xenstore(b"a", b"1", b"b", b"2") + containers.emulator()
                              + containers.xenstore(b"b", b"3", b"c", b"4"))
    with xstream.open(squashed(stream, "libxl")) as reader:
        records = list(reader)
    pairs = [pair for record in records if type(record).__name__ == "EmulatorXenstoreData" for pair in record.pairs]
    assert dict(pairs) == {b"a": b"1", b"b": b"3", b"c": b"4"} and len(pairs) == 3
    assert [bytes(record.body) for record in records if type(record).__name__ == "Unknown"] == [b"x", b"y"]


def test_a_legacy_streams_parameters_stay_complete():
    """A converted stream has two HVM_PARAMS records; squashed, none of its parameters is lost."""
    import legacy_samples
    for options in ({}, {"squash": True}, {"last_checkpoint": True}):
        out = io.BytesIO()
        xstream.convert(legacy_samples.hvm(), out, **options)
        once, twice = io.BytesIO(), out.getvalue()
        xstream.convert(twice, once, squash=True)
        for made in (twice, once.getvalue()):
            with xstream.open(made) as reader:
                found = [pair for record in reader if isinstance(record, xstream.HvmParams) for pair in record.params]
            assert len(dict(found)) == len(found) == len(legacy_samples.PARAMS) + 3
