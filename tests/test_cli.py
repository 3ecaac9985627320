"""The command line, as its users see it."""
import fcntl
import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest
import samples
from samples import XTAB, batch, page, record, word

import xstream
from xstream import cli
from xstream.errors import printable

FAR_BACK = os.path.dirname(os.path.dirname(os.path.abspath(xstream.__file__)))


def run(*arguments, stdin=b"", **options):
    """(status, stdout, stderr) of a command that runs in a separate process."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([FAR_BACK, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run([sys.executable, "-m", "xstream"] + list(arguments), input=stdin, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env=environment, timeout=120, **options)
    return done.returncode, done.stdout, done.stderr.decode()


@pytest.fixture
def stream(tmp_path):
    path = tmp_path / "stream"
    path.write_bytes(samples.hvm())
    return str(path)


def test_verify(stream):
    status, out, err = run("verify", stream)
    assert (status, err) == (0, "") and out.startswith(b"ok: libxc version 3, x86 HVM, 8 records, 2 pages")
    status, out, err = run("verify", "-", "--strict", "--json", stdin=samples.hvm())
    document = json.loads(out.decode())
    assert status == 0 and document["ok"] is True and document["pages"] == 2 and document["bytes"] == len(samples.hvm())


def test_a_bad_stream(tmp_path):
    bad = bytearray(samples.hvm())
    at = bad.index(batch([word(0), word(1, XTAB), word(2, 0xE), word(3, 0xD), word(4)], [page(1), page(2)])) + 16
    bad[at + 7] = 0x60
    path = tmp_path / "bad"
    path.write_bytes(bytes(bad))
    status, out, err = run("verify", str(path))
    assert status == 1 and out == b""
    for part in ("libxc", "offset {}".format(at), "record 3", "PAGE_DATA", "pfn[0]", "expected", "got 6"):
        assert part in err
    status, out, err = run("verify", str(path), "--json")
    document = json.loads(out.decode())
    assert status == 1 and document["ok"] is False and document["offset"] == at and document["record"] == 3


def test_strict(tmp_path):
    path = tmp_path / "stream"
    path.write_bytes(samples.hvm() + b"x")
    assert run("verify", str(path))[0] == 0
    status, _, err = run("verify", str(path), "--strict")
    assert status == 1 and "trailing bytes" in err


def test_truncation_says_where_and_how_much():
    status, _, err = run("verify", "-", stdin=samples.hvm()[:-3])
    assert status == 1 and "3 bytes short" in err and "offset {}".format(len(samples.hvm()) - 3) in err


def test_checkpointed():
    status, _, err = run("verify", "-", stdin=samples.checkpointed())
    assert status == 1 and "CHECKPOINT" in err and "--checkpointed" in err
    assert run("verify", "-", "--checkpointed", stdin=samples.checkpointed())[0] == 0
    status, out, _ = run("info", "-", stdin=samples.checkpointed())
    assert status == 0 and b"2 checkpoints" in out


def test_info(stream):
    status, out, err = run("info", stream)
    text = out.decode()
    assert (status, err) == (0, "")
    assert text.startswith("libxc stream, version 3, x86 HVM guest, made by Xen 4.17\n")
    for part in ("3 populated PFNs", "2 pages sent", "NOTAB", "XTAB", "PAGE_DATA", "HVM_CONTEXT"):
        assert part in text
    document = json.loads(run("info", stream, "--json")[1].decode())
    assert document["populated"] == 3 and document["types"]["XTAB"] == 1
    assert [row["type"] for row in document["records"]][-1] == "END"


def test_a_thousand_batches_are_one_row(tmp_path):
    path = tmp_path / "stream"
    path.write_bytes(samples.hvm(memory=b"".join(
        batch([word(pfn + 10 * at, XTAB) for pfn in range(10)]) for at in range(1000))))
    status, out, _ = run("info", str(path))
    assert status == 0 and len(out.splitlines()) < 40
    document = json.loads(run("info", str(path), "--json")[1].decode())
    assert [row["records"] for row in document["records"] if row["type"] == "PAGE_DATA"] == [1000]


def test_extract(stream, tmp_path):
    out = tmp_path / "image"
    assert run("extract", stream, str(out)) == (0, b"", "")
    image = samples.memory_of({0: page(1), 4: page(2)}, 5)
    assert out.read_bytes() == image and out.stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(str(tmp_path))) == ["image", "stream"]
    assert run("extract", "-", "-", stdin=samples.hvm()) == (0, image, "")
    assert run("extract", stream, "/dev/null")[0] == 0


def test_a_failed_extract_leaves_what_was_there(tmp_path):
    out = tmp_path / "image"
    out.write_bytes(b"precious")
    status, _, err = run("extract", "-f", "-", str(out), stdin=samples.hvm()[:-100])
    assert status == 1 and out.read_bytes() == b"precious" and os.listdir(str(tmp_path)) == ["image"]


def test_extract_limit(tmp_path):
    far = samples.hvm(memory=batch([word(1024)], [page(1)]))
    status, _, err = run("extract", "-", str(tmp_path / "image"), "--limit", "4M", stdin=far)
    assert status == 4 and "--limit" in err and os.listdir(str(tmp_path)) == []
    assert run("extract", "-", str(tmp_path / "image"), "--limit", "4100KiB", stdin=far)[0] == 0
    assert run("extract", "-", str(tmp_path / "image"), "--limit", "much", stdin=far)[0] == 2


def test_an_existing_file_is_replaced_only_with_force(stream, tmp_path):
    for verb in ("extract", "convert"):
        out = tmp_path / verb
        out.write_bytes(b"precious")
        status, _, err = run(verb, stream, str(out))
        assert status == 2 and "--force" in err and str(out) in err and out.read_bytes() == b"precious"
        assert run(verb, stream, str(out), "-f") == (0, b"", "")
        assert out.read_bytes() != b"precious"
        status, _, err = run(verb, stream, stream, "--force")
        assert status == 2 and "same file" in err
        with open(stream, "rb") as file:
            assert file.read() == samples.hvm()


def test_digest(stream):
    status, out, _ = run("digest", stream, "--json")
    image = samples.memory_of({0: page(1), 4: page(2)}, 5)
    populated = page(1) + bytes(4096) + page(2)
    document = json.loads(out.decode())
    assert document["sha256"] == hashlib.sha256(image).hexdigest()
    assert document["pages_sha256"] == hashlib.sha256(populated).hexdigest()
    assert document["crc32c"] == "{:08x}".format(reference_crc32c(image))
    assert document["pages_crc32c"] == "{:08x}".format(reference_crc32c(populated))
    assert (document["bytes"], document["populated"]) == (5 * 4096, 3)
    text = run("digest", stream)[1].decode()
    assert document["sha256"] in text and document["crc32c"] in text


def test_digest_of_pages(stream):
    pages = {0: page(1), 2: bytes(4096), 4: page(2)}
    sums = {pfn: "{:08x}".format(reference_crc32c(data)) for pfn, data in sorted(pages.items())}
    assert run("digest", stream, "--pages")[1].decode().split("\n")[:-1] == [
        "{:#x} {}".format(pfn, crc) for pfn, crc in sums.items()]
    document = json.loads(run("digest", stream, "--pages", "--json")[1].decode())
    assert document["pages"] == {str(pfn): crc for pfn, crc in sums.items()}
    for jobs in ("0", "2"):
        assert run("digest", stream, "--pages", "--jobs", jobs) == run("digest", stream, "--pages")
        assert run("digest", stream, "--jobs", jobs) == run("digest", stream)
    assert run("digest", stream, "--jobs", "some")[0] == run("digest", stream, "--jobs", "9999")[0] == 2


def test_several_files(stream, tmp_path):
    bad, absent = str(tmp_path / "bad"), str(tmp_path / "absent")
    with open(bad, "wb") as file:
        file.write(samples.hvm()[:-3])
    status, out, err = run("verify", stream, bad, stream)
    lines = out.decode().splitlines()
    assert (status, err, len(lines)) == (1, "", 3)
    assert lines[0] == lines[2] and lines[0].startswith(stream + ": ok: libxc version 3")
    assert lines[1].startswith(bad + ": bad: libxc, offset ")
    assert run("verify", stream, stream)[0] == 0 and run("verify", bad, absent, stream)[0] == 2
    status, out, _ = run("verify", absent, "-", "--json", stdin=samples.hvm())
    document = json.loads(out.decode())
    assert status == 2 and document["ok"] is False
    assert [(one["file"], one["ok"]) for one in document["files"]] == [(absent, False), ("stdin", True)]
    for verb in ("info", "digest"):
        one = run(verb, stream)[1].decode()
        assert run(verb, stream, stream) == (
            0, "{0}:\n{1}\n{0}:\n{1}".format(stream, one).encode(), "")
        status, out, err = run(verb, bad, stream)
        assert status == 1 and out.endswith(one.encode()) and err.startswith("xstream: " + bad)
        document = json.loads(run(verb, stream, bad, "--json")[1].decode())
        assert [one["file"] for one in document["files"]] == [stream, bad]


def test_quiet(stream):
    assert run("verify", "-q", stream, stream) == (0, b"", "")
    assert run("verify", "--quiet", stream) == (0, b"", "")
    status, out, err = run("verify", "-q", "-", stdin=samples.hvm()[:-3])
    assert status == 1 and out == b"" and "bytes short" in err
    status, out, _ = run("verify", "-q", stream, "-", stream, stdin=samples.hvm()[:-3])
    assert status == 1 and len(out.splitlines()) == 1 and out.startswith(b"stdin: bad: ")


@pytest.mark.parametrize("verb", ["info", "verify", "digest", "policy"])
def test_a_limit_is_not_a_bad_stream(verb):
    far = samples.hvm(memory=batch([word(1024)], [page(1)]))
    status, out, err = run(verb, "-", "--limit", "4M", "--json", stdin=far)
    document = json.loads(out.decode())
    assert status == 4 and document["ok"] is False and document["error"] == "LimitExceeded" and "--limit" in err
    assert run(verb, "-", "--limit", "4100K", stdin=far)[0] == 0


def test_the_default_limit_is_16_tib():
    last = samples.hvm(memory=batch([word((1 << 32) - 1, XTAB)]))
    assert run("verify", "-", stdin=last)[0] == 0
    assert run("verify", "-", stdin=samples.hvm(memory=batch([word(1 << 32, XTAB)])))[0] == 4


@pytest.mark.parametrize("arguments, error", [
    (["verify", "/nonexistent"], "FileNotFoundError"), (["convert", "-", "/nonexistent/x"], "FileNotFoundError"),
    (["convert", "-", "out", "--to", "xl"], "MissingPart"), (["info"], "UsageError"),
])
def test_json_has_a_document_for_every_error(arguments, error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(*arguments, "--json", stdin=samples.hvm())
    document = json.loads(out.decode())
    assert status == 2 and document["ok"] is False and document["error"] == error and document["message"]
    assert {"layer", "offset", "record", "record_type", "field", "expected", "got"} < set(document)


def test_errors_name_the_file(tmp_path):
    path = tmp_path / "cut.xs"
    path.write_bytes(samples.hvm()[:-3])
    assert run("verify", str(path))[2].startswith("xstream: {}: libxc, ".format(path))
    assert run("verify", str(tmp_path / "no"))[2] == "xstream: {}: No such file or directory\n".format(tmp_path / "no")
    assert run("extract", str(path), str(tmp_path / "no" / "x"))[2] == (
        "xstream: {}: No such file or directory\n".format(tmp_path / "no" / "x"))


def test_with_the_stream_on_stdout_the_error_document_is_on_stderr():
    status, out, err = run("convert", "-", "-", "--json", stdin=samples.hvm()[:-3])
    assert status == 1 and json.loads(err)["error"] == "TruncatedStream" and b"error" not in out


@pytest.mark.parametrize("closed, status", [(">&-", 0), ("2>&-", 0), (">&- 2>&-", 0), ("<&-", 2)])
def test_closed_descriptors(closed, status, stream):
    environment = dict(os.environ, PYTHONPATH=FAR_BACK)
    file = "-" if closed == "<&-" else stream
    done = subprocess.run(["sh", "-c", "{} -m xstream verify {} {}".format(sys.executable, file, closed)],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, timeout=120)
    assert done.returncode == status and b"Traceback" not in done.stderr
    bad = "{} -m xstream verify /dev/null {}".format(sys.executable, closed)
    assert subprocess.run(["sh", "-c", bad], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
                          timeout=120).returncode == 1


@pytest.mark.parametrize("target", [">&-", ">/dev/full"])
def test_output_that_cannot_be_written_is_an_error(target, stream):
    environment = dict(os.environ, PYTHONPATH=FAR_BACK)
    done = subprocess.run(["sh", "-c", "{} -m xstream extract {} - {}".format(sys.executable, stream, target)],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, timeout=120)
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1
    done = subprocess.run(["sh", "-c", "{} -m xstream verify {} >/dev/full".format(sys.executable, stream)],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, timeout=120)
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("arguments", ["verify --json {0} {0}", "--version", "verify --help", "verify --json",
                                       "digest --pages --json {0} {0}", "info --records --json {0}"])
def test_reports_that_cannot_be_written(arguments, buffered, stream):
    environment = dict(os.environ, PYTHONPATH=FAR_BACK, PYTHONUNBUFFERED="" if buffered else "1")
    command = "{} -m xstream {}".format(sys.executable, arguments.format(stream))
    done = subprocess.run(["sh", "-c", command + " >/dev/full"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env=environment, timeout=120)
    swallowed = not buffered and arguments in ("--version", "verify --help")  # by argparse
    assert done.returncode == (0 if swallowed else 2)
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr
    done = subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    done.stdout.close()  # as head does when it has seen enough
    with done.stderr:
        messages = done.stderr.read()
    assert done.wait(120) == (0 if swallowed else 2) and (b"xstream: " not in messages or b"usage: " in messages)
    assert b"Traceback" not in messages and b"Exception" not in messages


@pytest.mark.parametrize("arguments, status", [("verify {}", 0), ("verify /dev/null", 1), ("verify /none", 2),
                                               ("verify", 2)])
def test_messages_that_cannot_be_written(arguments, status, stream):
    command = "{} -m xstream {} 2>/dev/full".format(sys.executable, arguments.format(stream))
    for unbuffered in ("", "1"):
        environment = dict(os.environ, PYTHONPATH=FAR_BACK, PYTHONUNBUFFERED=unbuffered)
        assert subprocess.run(["sh", "-c", command], stdout=subprocess.DEVNULL, env=environment,
                              timeout=120).returncode == status


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_process(number):
    process = subprocess.Popen([sys.executable, "-m", "xstream", "verify", "-"], stdin=subprocess.PIPE,
                               stderr=subprocess.PIPE, env=dict(os.environ, PYTHONPATH=FAR_BACK),
                               preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))  # a shell's & ignores SIGINT
    process.stdin.write(samples.hvm()[:100])
    process.stdin.flush()
    while struct.unpack("i", fcntl.ioctl(process.stdin, termios.FIONREAD, bytes(4)))[0]:
        time.sleep(0.01)  # until it has read everything
    process.send_signal(number)
    assert process.wait(30) == -number
    with process.stdin, process.stderr:
        assert process.stderr.read() == b""


def reference_crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_wrong_use_and_the_environments_faults(tmp_path):
    assert run()[0] == 2
    assert run("frobnicate")[0] == 2
    status, _, err = run("verify", str(tmp_path / "absent"))
    assert status == 2 and "absent" in err and "Traceback" not in err
    assert run("verify", str(tmp_path))[0] == 2
    assert run("extract", "-", str(tmp_path / "no" / "image"), stdin=samples.hvm())[0] == 2


def test_an_empty_file_and_one_of_another_kind(tmp_path):
    path = tmp_path / "empty"
    path.write_bytes(b"")
    for stdin in (b"", b"hello, world", b"\xff" * 4):
        status, _, err = run("verify", "-", stdin=stdin)
        assert status == 1
    assert run("verify", str(path))[0] == 1


def test_a_fault_of_our_own_says_so(monkeypatch, capsys, stream):
    def broken(*arguments, **options):
        raise IndexError("oops")
    monkeypatch.setattr("xstream.tools.verify.verify", broken)
    assert cli.main(["verify", stream]) == 3
    said = capsys.readouterr().err
    assert "bug in xstream" in said and "IndexError" in said


def test_a_reader_that_goes_away(stream):
    environment = dict(os.environ, PYTHONPATH=FAR_BACK)
    command = "{} -m xstream digest --pages {} | head -n 1".format(sys.executable, stream)
    done = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
                          timeout=120)
    assert done.stdout.count(b"\n") == 1 and done.stderr == b""


def test_nothing_prints_control_characters():
    assert printable("a\x1b[31mb\n\x9b\u202ec\u00e9") == "a\\x1b[31mb\\n\\x9b\\u202ec\u00e9"
    error = xstream.CorruptStream("x", field="f", got=b"\x1b[2J")
    assert "\x1b" not in str(error)


def test_no_progress_in_a_pipe(stream):
    assert run("verify", stream)[2] == ""


def test_version():
    status, out, _ = run("--version")
    assert status == 0 and xstream.__version__ in out.decode()


def test_an_unknown_optional_record_is_shown(tmp_path):
    path = tmp_path / "stream"
    path.write_bytes(samples.hvm(memory=record(0x80000042, b"\x1b[31m")))
    status, out, _ = run("info", str(path))
    assert status == 0 and b"0x80000042" in out and b"\x1b" not in out
