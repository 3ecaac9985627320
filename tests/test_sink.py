"""Sinks: paths, descriptors, sockets, file objects; what is written arrives whole or an error is raised."""
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import samples

import xstream
from xstream.guest.simulated import SimulatedGuest
from xstream.stream.output import replacing
from xstream.stream.sink import ObjectSink, open_sink, opened_sink

DATA = bytes(range(256)) * 1200  # more than a pipe or socket buffer takes at once


def read_slowly(fd, chunks):
    time.sleep(0.1)
    while True:
        chunk = os.read(fd, 1 << 16)
        if not chunk:
            return
        chunks.append(chunk)


def through_pipe(make):
    """What arrives at the other end of a pipe or socket that is full at first."""
    reader, file, close = make()
    chunks = []
    thread = threading.Thread(target=read_slowly, args=(reader, chunks))
    thread.start()
    try:
        sink = ObjectSink(file)
        sink.write([DATA[:7], DATA[7:]])
        assert sink.offset == len(DATA)
    finally:
        close()
        thread.join(30)
        os.close(reader)
    return b"".join(chunks)


def raw_pipe():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    file = io.FileIO(writer, "w")
    return reader, file, file.close


def buffered_pipe():
    reader, file, close = raw_pipe()
    buffered = io.BufferedWriter(file)

    def flush_and_close():
        os.set_blocking(file.fileno(), True)
        buffered.close()
    return reader, buffered, flush_and_close


def socket_file():
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    file = socket.SocketIO(theirs, "w")

    def close():
        file.close()
        theirs.close()
    return ours.detach(), file, close


def duck():
    reader, file, close = raw_pipe()

    class Duck:
        write, fileno = file.write, file.fileno
    return reader, Duck(), close


@pytest.mark.parametrize("make", [raw_pipe, buffered_pipe, socket_file, duck])
def test_nothing_is_lost_in_a_non_blocking_object(make):
    assert through_pipe(make) == DATA


class Returning:
    """A file object whose write() returns one value, whatever it is given."""

    def __init__(self, value, fd=None):
        self.value = value
        self.fd = fd

    def write(self, data):
        return self.value

    def fileno(self):
        if self.fd is None:
            raise OSError("no descriptor")
        return self.fd


@pytest.mark.parametrize("value", [None, 0, -1, 1 << 20, "4", 1.0])
def test_what_write_returns_is_checked(value):
    with pytest.raises(OSError):
        ObjectSink(Returning(value)).write([b"abcd"])


def test_an_object_that_never_takes_anything_is_an_error(tmp_path):
    with open(str(tmp_path / "file"), "wb") as file, pytest.raises(OSError, match="took nothing"):
        ObjectSink(Returning(None, file.fileno())).write([b"abcd"])


def test_every_kind_of_sink(tmp_path):
    path = tmp_path / "file"
    with opened_sink(path) as sink:
        sink.write([b"ab", b"cd"])
        assert os.listdir(str(tmp_path)) == []
    assert path.read_bytes() == b"abcd" and path.stat().st_mode & 0o777 == 0o600
    with open(str(path), "r+b", buffering=0) as file:
        with opened_sink(file.fileno()) as sink:
            sink.write([b"x"])
        with opened_sink(file) as sink:
            sink.write([b"y"])
            assert open_sink(sink) is sink
        assert not file.closed
    assert path.read_bytes() == b"xycd"
    ours, theirs = socket.socketpair()
    with ours, theirs, opened_sink(ours) as sink:
        sink.write([b"z"])
        assert theirs.recv(9) == b"z"
    with pytest.raises(TypeError), opened_sink(object()):
        pass
    with opened_sink("/dev/null") as sink:
        sink.write([b"gone"])
    assert sink.offset == 4


@pytest.fixture(params=["unnamed", "temporary name"])
def way(request, monkeypatch):
    """Files without a name until they are complete, and the fallback."""
    if request.param == "temporary name":
        monkeypatch.setattr(os, "O_TMPFILE", os.O_TMPFILE | os.O_DIRECTORY | os.O_CREAT)  # EINVAL
    return request.param


def test_a_file_replaces_what_was_there(tmp_path, way):
    path = tmp_path / "file"
    for content in (b"first", b"second"):
        with replacing(str(path)) as fd:
            os.write(fd, content)
            os.lseek(fd, 0, os.SEEK_SET)
            assert os.read(fd, 99) == content
        assert path.read_bytes() == content and os.listdir(str(tmp_path)) == ["file"]
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_failure_leaves_what_was_there(tmp_path, way):
    path = tmp_path / "file"
    for before in (False, True):
        if before:
            path.write_bytes(b"precious")
        with pytest.raises(KeyboardInterrupt), replacing(str(path)):
            raise KeyboardInterrupt
        assert os.listdir(str(tmp_path)) == ["file"] * before
    assert path.read_bytes() == b"precious"


def test_a_symbolic_link_is_followed(tmp_path, way):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "link"
    link.symlink_to(os.path.join("elsewhere", "target"))
    for content in (b"dangling", b"again"):
        with replacing(str(link)) as fd:
            os.write(fd, content)
        assert link.is_symlink() and (tmp_path / "elsewhere" / "target").read_bytes() == content
        assert os.listdir(str(tmp_path / "elsewhere")) == ["target"]


def test_errors_name_the_path(tmp_path, way):
    for path in (tmp_path / "absent" / "file", tmp_path / "file" / "file"):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(OSError) as caught, replacing(str(path)):
            pass
        assert caught.value.filename == str(path)
    assert type(caught.value) is NotADirectoryError


def test_a_full_device_is_named():
    with pytest.raises(OSError) as caught, opened_sink("/dev/full") as sink:
        sink.write([DATA])
    assert "/dev/full" in str(caught.value)


SCRIPT = """
import os, sys, time
from xstream.stream.output import replacing
with replacing(sys.argv[1]) as fd:
    os.write(fd, b"guest memory")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="not applicable: no unnamed files")
def test_a_killed_process_leaves_nothing(tmp_path):
    with replacing(str(tmp_path / "probe")):
        if os.listdir(str(tmp_path)):
            pytest.skip("not applicable: no unnamed files on this filesystem")
    os.unlink(str(tmp_path / "probe"))
    root = os.path.dirname(os.path.dirname(os.path.abspath(xstream.__file__)))
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "out")], stdout=subprocess.PIPE,
                               env=dict(os.environ, PYTHONPATH=root))
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert os.listdir(str(tmp_path)) == []


def test_source_and_sink_must_differ(tmp_path):
    path = tmp_path / "stream"
    path.write_bytes(samples.hvm())
    (tmp_path / "link").symlink_to(path)
    os.link(str(path), str(tmp_path / "hard"))
    for out in ("stream", "link", "hard"):
        with pytest.raises(shutil.SameFileError):
            xstream.extract(path, tmp_path / out)
    assert path.read_bytes() == samples.hvm()


@pytest.mark.parametrize("kind", ["path", "descriptor", "object", "socket"])
def test_extract_to_every_sink(tmp_path, kind):
    image = samples.memory_of({0: samples.page(1), 4: samples.page(2)}, 5)
    path = tmp_path / "image"
    if kind == "path":
        xstream.extract(samples.hvm(), path)
    elif kind == "socket":
        ours, theirs = socket.socketpair()
        with ours, theirs:
            xstream.extract(samples.hvm(), ours)
            path.write_bytes(theirs.recv(1 << 20, socket.MSG_WAITALL | socket.MSG_DONTWAIT))
    else:
        with open(str(path), "wb") as file:
            xstream.extract(samples.hvm(), file.fileno() if kind == "descriptor" else file)
    assert path.read_bytes() == image


def disk_usage(path):
    return os.stat(str(path)).st_blocks * 512


@pytest.mark.parametrize("kind", ["path", "descriptor"])
def test_files_get_holes(kind, tmp_path):
    data, pages = samples_with_zeros()
    sizes = {}
    for sparse in (True, False):
        path = tmp_path / str(sparse)
        if kind == "path":
            xstream.convert(data, path, sparse=sparse)
        else:
            with open(str(path), "wb") as file:
                xstream.convert(data, file.fileno(), sparse=sparse)
        assert path.read_bytes() == data
        sizes[sparse] = disk_usage(path)
    assert sizes[False] - sizes[True] >= (pages - 2) * 4096


def samples_with_zeros():
    """A stream with many pages of zeros, and their number."""
    zeros = 600
    pages = [bytes(4096)] * zeros + [samples.page(pfn) for pfn in range(400)]
    return samples.hvm(memory=samples.batch([samples.word(pfn) for pfn in range(1000)], pages)), zeros


def test_only_the_end_of_a_file_gets_holes(tmp_path):
    """Anywhere else, a block that is left out would keep its old bytes."""
    data, _ = samples_with_zeros()
    path = tmp_path / "file"
    path.write_bytes(b"x" * (len(data) + 10))
    with open(str(path), "r+b") as file:
        xstream.convert(data, file.fileno())
    assert path.read_bytes() == data + b"x" * 10
    path.write_bytes(b"x" * 10)
    with open(str(path), "ab") as file:
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        xstream.convert(data, file.fileno())
    assert path.read_bytes() == b"x" * 10 + data


def test_a_file_that_ends_in_a_hole_has_the_right_size(tmp_path):
    path = tmp_path / "file"
    with opened_sink(path) as sink:
        sink.write([b"x" * 5000, bytes(1 << 20)])
    assert path.read_bytes() == b"x" * 5000 + bytes(1 << 20)
    with opened_sink(path) as sink:
        sink.write_zeros(1 << 20)
        sink.write([b"x"])
        sink.write_zeros(1 << 20)
    assert path.read_bytes() == bytes(1 << 20) + b"x" + bytes(1 << 20)
    assert disk_usage(path) <= 16384
    with opened_sink(path, sparse=False) as sink:
        sink.write_zeros(1 << 20)
    assert path.read_bytes() == bytes(1 << 20) and disk_usage(path) >= 1 << 20


@pytest.mark.parametrize("to", ["raw", "elf", "lime"])
def test_images_get_holes(to, tmp_path):
    data, pages = samples_with_zeros()
    for sparse in (True, False):
        path = tmp_path / str(sparse)
        if to == "raw":
            xstream.extract(data, path, sparse=sparse)
        else:
            xstream.export(data, path, to=to, sparse=sparse)
    assert (tmp_path / "True").read_bytes() == (tmp_path / "False").read_bytes()
    assert disk_usage(tmp_path / "False") - disk_usage(tmp_path / "True") >= (pages - 2) * 4096


def test_saves_get_holes(tmp_path):
    for sparse in (True, False):
        xstream.save(SimulatedGuest("hvm", 2048, 1), tmp_path / str(sparse), sparse=sparse)
    assert (tmp_path / "True").read_bytes() == (tmp_path / "False").read_bytes()
    assert disk_usage(tmp_path / "False") >= disk_usage(tmp_path / "True")


def test_zeros_over_an_earlier_copy_are_written(tmp_path):
    """A page that is sent again as zeros must not keep its earlier contents."""
    first = samples.batch([samples.word(pfn) for pfn in range(4)], [b"x" * 4096] * 4)
    data = samples.hvm(memory=first + samples.batch([samples.word(1), samples.word(2)], [bytes(4096)] * 2))
    xstream.extract(data, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"x" * 4096 + bytes(2 * 4096) + b"x" * 4096
