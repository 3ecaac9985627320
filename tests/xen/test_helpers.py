"""The helpers as libxl runs them: against a libxl that answers, over a Xen that answers from simulated domains."""
import os
import signal
import struct
import subprocess
import sys
import threading

import legacy_samples
import pytest
import samples
from fake_xen import PAGE, FakeXen

import xstream
from xstream.xen import convert_helper, interface, libxl, save_helper

SAVE_CALLBACKS = 1 << libxl.SUSPEND | 1 << libxl.SWITCH_QEMU_LOGDIRTY | 1 << libxl.POSTCOPY | 1 << libxl.CHECKPOINT
RESTORE_CALLBACKS = 1 << libxl.STATIC_DATA_DONE | 1 << 9 | 1 << libxl.CHECKPOINT


class FakeLibxl:
    """The other end of a helper's stdin and stdout: records the messages, and answers them."""

    def __init__(self, monkeypatch, xen, domid, answers=None):
        self.xen, self.domid = xen, domid
        self.messages, self.log = [], []
        self._answers = dict(answers or {})
        self._replies, self._reply = os.pipe()
        self._read, self._write = os.pipe()
        real = libxl.Libxl
        monkeypatch.setattr(save_helper, "Libxl", lambda callbacks, old: real(
            callbacks, old=old, read_fd=self._replies, write_fd=self._write))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while True:
            head = os.read(self._read, 2)
            if len(head) < 2:
                return
            size, = struct.unpack("<H", head)
            body = b""
            while len(body) < size:
                body += os.read(self._read, size - len(body))
            number, = struct.unpack_from("<H", body)
            if number == libxl.LOG:
                self.log.append((struct.unpack_from("<I", body, 2)[0], body[10:].decode("latin-1")))
            elif number != libxl.REPORT_PROGRESS:
                self.messages.append((number, body[2:]))
                self._answer(number)

    def _answer(self, number):
        if number == libxl.SUSPEND:
            self.xen.domains[self.domid]["flags"] |= interface.DOMAIN_SHUTDOWN | 2 << interface.SHUTDOWN_REASON_SHIFT
        default = {libxl.SWITCH_QEMU_LOGDIRTY: 0, libxl.STATIC_DATA_DONE: 0}.get(number, 1)
        queue = self._answers.get(number)
        if number != 9:
            os.write(self._reply, struct.pack("<i", queue.pop(0) if queue else default))

    def finish(self):
        os.close(self._write)
        self._thread.join()
        for fd in (self._read, self._replies, self._reply):
            os.close(fd)
        return [number for number, _ in self.messages]


@pytest.fixture
def xen(monkeypatch):
    fake = FakeXen(monkeypatch)
    fake.add(3, {pfn: bytes([pfn % 251]) * PAGE for pfn in range(1500)}, params={1: 5, 17: 6},
             context=samples.hvm_context()[8:])
    # Signals belong to pytest here.
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    return fake


def save(xen, monkeypatch, path, flags=0, stream_type=0, **options):
    parent = FakeLibxl(monkeypatch, xen, 3, **options)
    with open(str(path), "wb") as out:
        status = save_helper.main(["--save-domain", str(out.fileno()), "-1", "3", str(flags), str(SAVE_CALLBACKS),
                                   str(stream_type)])
    return status, parent


def test_save_and_restore(xen, monkeypatch, tmp_path):
    status, parent = save(xen, monkeypatch, tmp_path / "stream")
    assert (status, parent.finish()) == (0, [libxl.SUSPEND, 10])
    assert parent.messages[-1][1] == struct.pack("<ii", 0, 0)
    assert any("round 0 (final): 1500 pages" in text for _, text in parent.log)
    xstream.verify(str(tmp_path / "stream"))
    with open(str(tmp_path / "stream"), "ab") as file:
        file.write(b"libxl's own record")
    xen.add(9, {})
    parent = FakeLibxl(monkeypatch, xen, 9)
    with open(str(tmp_path / "stream"), "rb", buffering=0) as stream:
        assert save_helper.main(["--restore-domain", str(stream.fileno()), "-1", "9", "21", "0", "22", "0",
                                 str(RESTORE_CALLBACKS), "0"]) == 0
        assert stream.read() == b"libxl's own record"
    assert parent.finish() == [libxl.STATIC_DATA_DONE, 9, 10]
    assert parent.messages[1][1] == struct.pack("<QQ", 5, 6)
    assert xen.domains[9]["params"][2] == 21 and len(xen.domains[9]["pages"]) == 1500


def test_the_crc_of_the_memory_is_logged_at_both_ends(xen, monkeypatch, tmp_path):
    monkeypatch.setenv("XSTREAM_MEMORY_CRC", "1")
    _, sender = save(xen, monkeypatch, tmp_path / "stream")
    sender.finish()
    xen.add(9, {})
    receiver = FakeLibxl(monkeypatch, xen, 9)
    with open(str(tmp_path / "stream"), "rb", buffering=0) as stream:
        save_helper.main(["--restore-domain", str(stream.fileno()), "-1", "9", "21", "0", "22", "0",
                          str(RESTORE_CALLBACKS), "0"])
    receiver.finish()
    logged = [[text for _, text in parent.log if "memory CRC32C" in text] for parent in (sender, receiver)]
    assert logged[0] == logged[1] and len(logged[0]) == 1
    assert "{:08x}".format(xstream.digest(str(tmp_path / "stream")).crc32c) in logged[0][0]


def test_a_live_save_tells_qemu(xen, monkeypatch, tmp_path):
    xen.dirty = bytearray(188)
    _, parent = save(xen, monkeypatch, tmp_path / "stream", flags=1)
    assert parent.finish() == [libxl.SWITCH_QEMU_LOGDIRTY, libxl.SUSPEND, libxl.SWITCH_QEMU_LOGDIRTY, 10]
    assert parent.messages[0][1] == struct.pack("<II", 3, 1) and parent.messages[2][1] == struct.pack("<II", 3, 0)


def test_remus(xen, monkeypatch, tmp_path):
    xen.dirty = bytearray(188)
    _, parent = save(xen, monkeypatch, tmp_path / "stream", flags=1, stream_type=1,
                     answers={libxl.CHECKPOINT: [1, 0]})
    numbers = parent.finish()
    assert numbers.count(libxl.CHECKPOINT) == 2 and numbers.count(libxl.POSTCOPY) == 2 and numbers[-1] == 10
    assert xstream.verify(str(tmp_path / "stream"), checkpointed=True).checkpoints == 2


def test_errors_reach_the_log(xen, monkeypatch, tmp_path):
    xen.add(9, {})
    (tmp_path / "stream").write_bytes(samples.hvm()[:5000])
    parent = FakeLibxl(monkeypatch, xen, 9)
    with open(str(tmp_path / "stream"), "rb") as stream:
        save_helper.main(["--restore-domain", str(stream.fileno()), "-1", "9", "21", "0", "22", "0",
                          str(RESTORE_CALLBACKS), "0"])
    assert parent.finish()[-1] == 10
    assert any(level == libxl.ERROR and "TruncatedStream: libxc, offset 5000" in text for level, text in parent.log)
    result, number = struct.unpack("<ii", parent.messages[-1][1])
    assert result == -1 and number > 0


def test_a_guest_that_libxl_cannot_suspend(xen, monkeypatch, tmp_path):
    _, parent = save(xen, monkeypatch, tmp_path / "stream", answers={libxl.SUSPEND: [0]})
    assert parent.finish()[-1] == 10 and any("couldn't suspend the guest" in text for _, text in parent.log)


def test_colo_is_refused_by_name(xen, monkeypatch, tmp_path):
    _, parent = save(xen, monkeypatch, tmp_path / "stream", stream_type=2)
    assert parent.finish() == [10] and any("doesn't support COLO" in text for _, text in parent.log)


def convert(stream, **options):
    """Run the convert helper over pipes; its exit status, what it wrote, and what it left in its input."""
    reading, writing = os.pipe()
    out_reading, out_writing = os.pipe()
    os.set_inheritable(reading, True)
    os.set_inheritable(out_writing, True)
    process = subprocess.Popen(
        [sys.executable, "-m", "xstream.xen.convert_helper", "--in", str(reading), "--out", str(out_writing), "--width",
         "64", "--guest", options.get("guest", "hvm"), "--format", "libxl"],
        pass_fds=[reading, out_writing], stderr=subprocess.PIPE)
    os.close(out_writing)
    os.write(writing, stream)
    os.close(writing)
    with os.fdopen(out_reading, "rb") as out:
        result = out.read()
    error = process.communicate()[1]
    with os.fdopen(reading, "rb") as rest:
        return process.returncode, result, rest.read(), error.decode()


@pytest.mark.parametrize("width", [4, 8])
def test_convert_whatever_the_width(width):
    stream = legacy_samples.hvm(width)
    status, result, rest, error = convert(stream + b"domain is yours")
    assert (status, error, rest) == (0, "", b"domain is yours")
    assert xstream.verify(result).guest == "x86 HVM"
    assert xstream.digest(result).pages_sha256 == xstream.digest(stream).pages_sha256


def test_convert_remus_to_a_plain_stream():
    status, result, _, _ = convert(legacy_samples.remus(8, [legacy_samples.batch(8, [legacy_samples.word(0)],
                                                                                 [samples.page(44)])]))
    memory = xstream.GuestMemory()
    assert status == 0 and xstream.load(result, memory).checkpoints == 0
    assert memory.pages[0].tobytes() == samples.page(44)


def test_convert_errors_go_to_stderr():
    status, _, _, error = convert(legacy_samples.hvm()[:5000])
    assert status == 1 and error.startswith("xstream-convert-helper: legacy, offset") and "Traceback" not in error


def test_convert_ends_on_sigterm_without_a_trace():
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "xstream.xen.convert_helper", "--in", str(reading), "--out", "1", "--format", "libxl"],
        pass_fds=[reading], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    os.write(writing, legacy_samples.hvm()[:4000])
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[1] == b"" and process.returncode == -signal.SIGTERM
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("words", [[], ["--in", "0"], ["--in", "0", "--out", "1", "--format", "xl"],
                                   ["--in", "x", "--out", "1", "--format", "libxl"]])
def test_convert_wrong_use(words, capsys):
    assert convert_helper.main(words) == 2
    assert "LIBXL_CONVERT_HELPER" in capsys.readouterr().err
