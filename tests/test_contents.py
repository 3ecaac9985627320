"""What info shows of single records, and how policy compares the CPUs of two streams."""
import io
import json
import os
import struct

import containers
import pytest
import samples
from test_cli import run

import xstream
from xstream import StreamError, TruncatedStream
from xstream.cli import main
from xstream.tools.contents import Wanted, brief, contents, contents_of, parse_wanted
from xstream.wire import legacy, libxc, xl
from xstream.wire.policies import Leaf
from xstream.wire.policies import build as build_leaves


def by_type(stream, **options):
    return {row.type: row.contents for row in contents(stream, **options)}


def test_all_records_but_pages_in_order():
    rows = list(contents(containers.xl()))
    assert [(row.layer, row.record, row.type) for row in rows] == [
        ("xl", 0, "SAVE_HEADER"), ("libxl", 0, "LIBXC_CONTEXT"), ("libxc", 0, "X86_CPUID_POLICY"),
        ("libxc", 1, "X86_MSR_POLICY"), ("libxc", 2, "STATIC_DATA_END"), ("libxc", 4, "X86_TSC_INFO"),
        ("libxc", 5, "HVM_CONTEXT"), ("libxc", 6, "HVM_PARAMS"), ("libxc", 7, "END"),
        ("libxl", 1, "EMULATOR_XENSTORE_DATA"), ("libxl", 2, "EMULATOR_CONTEXT"), ("libxl", 3, "END")]
    json.dumps([row._asdict() for row in rows])


def test_what_is_in_them():
    found = by_type(containers.xl())
    assert found["SAVE_HEADER"]["config"] == {"c_info": {"type": "hvm", "name": "guest"}}
    assert found["EMULATOR_XENSTORE_DATA"]["pairs"][1] == {"key": "physmap/f0000000/name", "value": "vga"}
    assert found["EMULATOR_CONTEXT"]["emulator"] == "qemu-upstream"
    assert found["EMULATOR_CONTEXT"]["blob"]["bytes"] == len(containers.QEMU)
    assert found["X86_TSC_INFO"] == {"mode": 1, "khz": 2400000, "nsec": 123456789, "incarnation": 3}
    assert found["HVM_PARAMS"]["params"] == [{"index": 1, "name": "STORE_PFN", "value": 0xFEFFC},
                                             {"index": 5, "name": "IOREQ_PFN", "value": 0xFEFFD}]
    assert [entry["name"] for entry in found["HVM_CONTEXT"]["entries"]] == ["HEADER", "END"]
    assert found["HVM_CONTEXT"]["entries"][0]["fields"]["magic"] == 0x54381286
    assert found["X86_CPUID_POLICY"]["vendor"] == "GenuineIntel"
    assert found["X86_MSR_POLICY"]["msrs"][0]["name"] == "INTEL_PLATFORM_INFO"


def test_a_pv_guests():
    found = by_type(samples.pv())
    assert found["X86_PV_VCPU_BASIC"]["vcpu_id"] == 0
    assert found["X86_PV_VCPU_BASIC"]["ctrlreg"] == [0, 0, 0, 3 << 12, 0, 0, 0, 0]
    assert found["SHARED_INFO"]["arch.max_pfn"] >= 0 and found["X86_PV_VCPU_EXTENDED"]["vcpu_id"] == 0
    assert by_type(samples.pv(width=4))["X86_PV_VCPU_BASIC"]["eip"] == 0


def test_xenopsds():
    rows = [row for row in contents(containers.xenopsd_libxl()) if row.layer == "xenopsd"]
    assert rows[0].contents["vm_str"] == '{"a":1}' and rows[0].contents["xs_subtree"] == [["vm/x", "y"], ["", ""]]
    assert [row.type for row in rows] == ["Xenops", "Libxl", "Varstored", "Swtpm0", "Swtpm", "Qemu_xen", "End_of_image"]
    assert rows[2].contents == {"bytes": 4, "start": b"vars".hex()}


@pytest.mark.parametrize("name", [name for name, _, _ in containers.ALL])
def test_every_container(name):
    json.dumps([row._asdict() for row in contents(containers.STREAMS[name])])


def test_a_blob_that_is_not_what_it_should_be_is_an_error_of_its_own():
    stream = samples.hvm(tail=samples.record(0x09, b"not a context") + samples.hvm_params() + samples.end())
    assert "runs out" in by_type(stream)["HVM_CONTEXT"]["error"]
    assert "HVM_PARAMS" in by_type(stream)
    assert "error" in by_type(containers.xl(config=b"{"))["SAVE_HEADER"]


def test_a_bad_body_is_reported_and_the_rest_shown(tmp_path, capsys):
    path = tmp_path / "bad.xs"
    path.write_bytes(samples.hvm(tail=samples.record(0x09, b"not a context") + samples.hvm_params() + samples.end()))
    assert main(["info", "--records", "--json", str(path)]) == 1
    rows = json.loads(capsys.readouterr().out)["contents"]
    assert [(row["type"], row["fault"]) for row in rows][-3:] == [
        ("HVM_CONTEXT", "CorruptStream"), ("HVM_PARAMS", None), ("END", None)]
    assert main(["info", "--records", str(path)]) == 1
    assert "HVM_PARAMS" in capsys.readouterr().out


def test_a_bad_entry_of_a_context_is_a_fault_too():
    bad = struct.pack("<HHIIIQII", 1, 0, 24, 0x54381286, 1, 0, 0, 0) + struct.pack("<HHI", 13, 0, 1) + b"x"
    stream = samples.hvm(tail=samples.record(0x09, bad + bytes(8)) + samples.hvm_params() + samples.end())
    row = next(row for row in contents(stream) if row.type == "HVM_CONTEXT")
    assert row.fault == "CorruptStream" and "PMTIMER" in row.contents["entries"][1]["error"]


def test_every_legacy_record_is_plain_values(capsys, tmp_path):
    """Blocks of an unknown kind, compressed pages from a pipe, signatures: all are JSON and readable text."""
    start, vcpu = struct.pack("<QQ", 16, 2 ** 64 - 1), b"vcpu" + struct.pack("<I", 0x1430) + bytes(0x1430)
    other = b"what" + struct.pack("<I", 3) + b"abc"
    stream = start + struct.pack("<I", len(vcpu + other)) + vcpu + other + struct.pack("<Q", 1)
    rows = []
    with pytest.raises(TruncatedStream):
        for row in contents(io.BytesIO(stream)):
            rows.append(row)
    assert rows[1].contents["others"] == [{"id": "what", "data": {"bytes": 3, "start": b"abc".hex()}}]
    json.dumps([row._asdict() for row in rows])
    path = tmp_path / "cut"
    path.write_bytes(stream)
    assert main(["info", "--records", str(path)]) == 1
    out = capsys.readouterr().out
    assert "<memory" not in out and "what" in out
    json.dumps(contents_of(legacy.CompressedPages(memoryview(b"xyz"))))
    assert contents_of(legacy.DeviceModel(b"DeviceModelRecord0002", b"QEVM"))["signature"] == "DeviceModelRecord0002"


def test_what_is_shown_of_a_record_is_bounded():
    config = b"\1" * (8 << 20)
    shown = contents_of(xl.SaveHeader(0, config))["config"]
    assert len(shown) < 1 << 17 and shown.endswith("... 8388608 bytes in all")
    many = libxc.HvmParams(bytes(16 * 70000))
    shown = contents_of(many)
    assert len(shown["params"]) == 65536 and shown["params_left_out"] == 70000 - 65536
    msrs = struct.pack("<HHI", 20, 0, 8 + 16 * 65536) + struct.pack("<II", 65536, 0) + bytes(16 * 65536)
    context = struct.pack("<HHIIIQII", 1, 0, 24, 0x54381286, 1, 0, 0, 0) + 3 * msrs + bytes(8)
    entries = contents_of(libxc.HvmContext(context))["entries"]
    assert ["fields" in entry for entry in entries] == [True, True, False, False, False]


def test_the_one_wanted():
    stream = containers.xl()
    assert [row.type for row in contents(stream, Wanted(None, 3))] == ["PAGE_DATA"]
    assert [row.type for row in contents(stream, Wanted("libxl", 3))] == ["END"]
    assert [row.type for row in contents(containers.xenopsd(), parse_wanted("xenopsd:0"))] == ["Xenops"]
    assert [row.type for row in contents(containers.legacy_hvm(), parse_wanted("0"))] == ["START"]
    assert list(contents(stream, Wanted("libxl", 4))) == []
    page_data = next(contents(stream, Wanted(None, 3))).contents
    assert page_data["pfns"][1] == {"pfn": 1, "type": "XTAB"} and page_data["data"] == {"bytes": 8192}
    with pytest.raises(ValueError):
        parse_wanted("libxl:x")


def test_brief_leaves_out_what_fills_pages():
    found = by_type(samples.pv())["X86_PV_VCPU_BASIC"]
    assert "trap_ctxt" in found and "trap_ctxt" not in brief(found) and "rip" in brief(found)
    assert not [name for name in brief(found) if name.startswith("fpu.")]


def policies(leaves, msr=0):
    return (samples.headers() + samples.record(0x11, build_leaves(leaves))
            + samples.record(0x12, struct.pack("<IIQ", 0xCE, 0, msr)) + samples.static_data_end() + samples.hvm_params()
            + samples.end())


MORE = policies([Leaf(1, None, 0x800F12, 0, 0x201, 0), Leaf(7, 0, 0, 1 << 5, 0, 0)], 1 << 31)
LESS = policies([Leaf(1, None, 0x800F12, 0, 0x001, 0)], 1 << 31)


def test_policies_compared():
    first, second = xstream.policy(MORE), xstream.policy(containers.xl(containers.libxl(LESS)))
    report = xstream.compare_policies(first, second)
    assert report.lost == ("SSSE3", "AVX2") and report.msr == []
    assert [(row.leaf, row.register, row.lost) for row in report.cpuid] == [(1, "c", ("SSSE3",)), (7, "b", ("AVX2",))]
    assert xstream.compare_policies(second, first).lost == ()
    assert xstream.compare_policies(second, first).compatible and report.compatible is False
    assert xstream.compare_policies(first, first)[2:] == ([], [], ())


def test_special_and_accumulated_bits_are_notes():
    special = Leaf(7, 0, 0, 0, 0, 1 << 10)  # MD_CLEAR
    for first, second, notes in (([special], [], ("-MD_CLEAR",)), ([], [special], ("+MD_CLEAR",))):
        base = [Leaf(1, None, 0x800F12, 0, 1, 0)]
        report = xstream.compare_policies(*(xstream.policy(policies(base + leaves, 1 << 31))
                                            for leaves in (first, second)))
        assert (report.lost, report.notes, report.compatible) == ((), notes, True)


#: A version 3 stream that a toolstack wrote without policies.
WITHOUT = samples.headers() + samples.static_data_end() + samples.hvm_params() + samples.end()


def test_nothing_can_be_said_without_two_policies():
    first, none = xstream.policy(MORE), xstream.policy(WITHOUT)
    for pair in ((first, none), (none, first), (none, none)):
        report = xstream.compare_policies(*pair)
        assert report.compatible is None and report.reasons == ()


def test_policies_of_a_truncated_stream():
    found = xstream.policy(MORE[:-20])
    assert len(found.leaves) == 2 and isinstance(found.error, xstream.TruncatedStream)


def test_policies_that_are_not_there_or_bad():
    assert xstream.policy(samples.hvm(2)) == ((), (), 2, None)
    assert xstream.policy(containers.legacy_hvm())[:2] == ((), ())
    late = samples.headers() + samples.static_data_end() + MORE[40:MORE.index(samples.static_data_end())]
    assert len(xstream.policy(late + samples.hvm_params() + samples.end()).leaves) == 2
    with pytest.raises(StreamError):
        xstream.policy(MORE[:60])


# On the command line


@pytest.fixture
def xl_file(tmp_path):
    path = tmp_path / "guest.xl"
    path.write_bytes(containers.xl())
    return str(path)


def test_info_and_verify_show_a_tree(xl_file):
    for command in ("info", "verify"):
        status, out, err = run(command, xl_file)
        lines = out.decode().split("\n")
        assert (status, err) == (0, "") and "xl > libxl > libxc" in lines[0]
        tree = [line for line in lines if line.lstrip().split(" ")[0] in ("xl", "libxl", "libxc")][:4]
        assert any(line.startswith("  libxl ") for line in tree) and any(line.startswith("    libxc ") for line in tree)
        document = json.loads(run(command, xl_file, "--json")[1].decode())
        assert [(layer["format"], layer["depth"]) for layer in document["layers"]] == [
            ("xl", 0), ("libxl", 1), ("libxc", 2)]
        assert document["format"] == "xl" and document["guest"] == "x86 HVM"


def test_info_records(xl_file):
    status, out, err = run("info", "--records", xl_file)
    text = out.decode()
    assert (status, err) == (0, "")
    for part in ("libxl record 2 at offset", "EMULATOR_CONTEXT", "physmap/f0000000/name", "STORE_PFN", "name: guest"):
        assert part in text
    document = json.loads(run("info", "--records", "--json", xl_file)[1].decode())
    assert document["ok"] is True and len(document["contents"]) == 12
    status, out, _ = run("info", "--record", "libxl:2", xl_file)
    assert status == 0 and b"qemu-upstream" in out and b"HVM" not in out
    assert run("info", "--record", "99", xl_file)[0] == 2
    assert run("info", "--record", "x:y", xl_file)[0] == 2
    status, out, err = run("info", "--records", "--json", "-", stdin=containers.xl()[:-3])
    document = json.loads(out.decode())
    assert status == 1 and document["ok"] is False and document["missing"] == 3 and "short" in err


def test_contents_are_printed_without_control_characters(tmp_path):
    path = tmp_path / "guest.xl"
    path.write_bytes(containers.xl(config=b"name='\x1b[31m\n'", mandatory=2))
    out = run("info", "--records", str(path))[1]
    assert b"\x1b" not in out and b"\\x1b[31m" in out


def test_errors_in_the_document_of_records(xl_file, tmp_path):
    """It is one document, says what the exit status says, and has the error's fields."""
    absent = str(tmp_path / "absent")
    for arguments, status, error in (([absent], 2, "FileNotFoundError"), ([str(tmp_path)], 2, "IsADirectoryError"),
                                     ([os.devnull], 1, "CorruptStream"), ([xl_file], 0, None)):
        done = run("info", "--records", "--json", *arguments)
        document = json.loads(done[1].decode())
        assert (done[0], document["ok"], document.get("error")) == (status, status == 0, error)
    done = run("info", "--record", "99", "--json", xl_file)
    document = json.loads(done[1].decode())
    assert done[0] == 2 and document["ok"] is False and document["error"] == "UsageError" and not document["contents"]
    (tmp_path / "short").write_bytes(samples.hvm(tail=samples.record(0x0A, bytes(12)) + samples.end()))
    done = run("info", "--records", "--json", str(tmp_path / "short"))
    assert done[0] == 1 and json.loads(done[1].decode())["ok"] is False
    done = run("info", "--records", "--json", xl_file, str(tmp_path / "short"), absent)
    document = json.loads(done[1].decode())
    assert done[0] == 2 and [file["ok"] for file in document["files"]] == [True, False, False]
    assert document["files"][0]["contents"] and document["ok"] is False
    done = run("extract", "--salvage", "--to", "elf", "--json", xl_file, str(tmp_path / "image"))
    assert done[0] == 2 and json.loads(done[1].decode())["error"] == "UsageError"


def test_policy(tmp_path):
    for name, stream in (("more", MORE), ("less", LESS)):
        (tmp_path / name).write_bytes(stream)
    more, less = str(tmp_path / "more"), str(tmp_path / "less")
    status, out, _ = run("policy", more, less)
    assert status == 1 and b"lacks: SSSE3 AVX2" in out
    status, out, _ = run("policy", less, more, "--json")
    assert status == 0 and json.loads(out.decode())["lost"] == []
    status, out, _ = run("policy", more)
    assert status == 0 and b"SSSE3" in out and b"INTEL_PLATFORM_INFO" in out
    assert json.loads(run("policy", more, "--json")[1].decode())["cpuid"]["family"] == 23
    (tmp_path / "old").write_bytes(samples.hvm(2))
    status, out, _ = run("policy", str(tmp_path / "old"), more)
    assert status == 2 and b"no CPU policies: it is version 2" in out
    (tmp_path / "without").write_bytes(WITHOUT)
    for alone in ("old", "without"):
        assert run("policy", str(tmp_path / alone))[0] == 2
    status, out, _ = run("policy", more, str(tmp_path / "without"))
    assert status == 2 and b"version 3, but was written without" in out
    assert run("policy", more, str(tmp_path / "absent"))[0] == 2
    (tmp_path / "cut").write_bytes(MORE[:60])
    status, _, err = run("policy", more, str(tmp_path / "cut"))
    assert status == 2 and "cut: libxc" in err


def test_convert(xl_file, tmp_path):
    memory = tmp_path / "memory"
    status, _, err = run("convert", xl_file, str(memory), "--to", "libxc")
    assert status == 0 and memory.read_bytes() == samples.hvm() and "EMULATOR_CONTEXT" in err
    assert run("convert", "-", "-", "--to", "xl", stdin=containers.xl()) == (0, containers.xl(), "")
    status, out, err = run("convert", str(memory), str(tmp_path / "out"), "--to", "xl")
    assert status == 2 and "device model" in err and not (tmp_path / "out").exists()
    config = tmp_path / "config"
    config.write_bytes(containers.JSON_CONFIG)
    (tmp_path / "qemu").write_bytes(containers.QEMU)
    status, out, err = run("convert", str(memory), str(tmp_path / "out"), "--to", "xl", "--config", str(config),
                           "--device-model", str(tmp_path / "qemu"), "--json")
    assert (status, err) == (0, "") and json.loads(out.decode())["source"] == ["libxc"]
    assert (tmp_path / "out").read_bytes() == containers.xl(containers.libxl(tail=containers.emulator()))
    assert run("convert", str(memory), "-", "--to", "libxl", "--no-device-model")[0] == 0


def test_format(xl_file):
    assert run("verify", xl_file, "--format", "xl")[0] == 0
    status, _, err = run("verify", xl_file, "--format", "libxc")
    assert status == 1 and "not a libxc stream" in err
    status, _, err = run("info", "-", stdin=b"QEVM" + bytes(100))
    assert status == 1 and "QEMU" in err
