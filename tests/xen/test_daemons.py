"""Requests to xenstored and QEMU, against servers that answer as they do."""
import json
import os
import socket
import struct
import threading

import pytest

from xstream.xen import qmp, xenstore
from xstream.xen.errors import QmpError, XenstoreError


@pytest.fixture
def serve(tmp_path):
    """Serve one connection with a function; returns the socket's path."""
    threads = []

    def start(answer):
        path = str(tmp_path / "socket")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1)

        def run():
            connection, _ = listener.accept()
            with listener, connection:
                answer(connection)

        thread = threading.Thread(target=run)
        thread.start()
        threads.append(thread)
        return path

    yield start
    for thread in threads:
        thread.join()


def xenstored(values, requests):
    def answer(connection):
        while True:
            head = connection.recv(16)
            if not head:
                return
            kind, number, transaction, size = struct.unpack("<4I", head)
            path, _, value = connection.recv(size).partition(b"\0")
            requests.append((kind, path, value))
            connection.sendall(struct.pack("<4I", 15, 0, 0, 5) + b"path\0")  # a watch event between
            if kind == 2 and path not in values:
                connection.sendall(struct.pack("<4I", 16, number, 0, 7) + b"ENOENT\0")
            elif kind == 11 and path == b"/forbidden":
                connection.sendall(struct.pack("<4I", 16, number, 0, 7) + b"EACCES\0")
            else:
                body = values.get(path, b"OK\0")
                connection.sendall(struct.pack("<4I", kind, number, 0, len(body)) + body)
    return answer


def test_xenstore(serve, monkeypatch):
    requests = []
    path = serve(xenstored({b"/local/domain/3/name": b"guest"}, requests))
    monkeypatch.setattr(xenstore, "_SOCKETS", (path + "-absent", path))
    store = xenstore.Xenstore()
    assert store.read("/local/domain/3/name") == "guest"
    assert store.read("/nothing") is None
    store.write("/local/domain/3/control/shutdown", "suspend")
    with pytest.raises(XenstoreError, match="EACCES.*/forbidden"):
        store.write("/forbidden", "x")
    store.resume(3)
    store.close()
    assert requests[2] == (11, b"/local/domain/3/control/shutdown", b"suspend") and requests[-1] == (18, b"3", b"")


def test_xenstored_that_is_gone(serve, monkeypatch):
    monkeypatch.setattr(xenstore, "_SOCKETS", (serve(lambda connection: connection.recv(16)),))
    store = xenstore.Xenstore()
    with pytest.raises(XenstoreError, match="closed"):
        store.read("/x")
    store.close()


def test_no_xenstored(monkeypatch, tmp_path):
    monkeypatch.setattr(xenstore, "_SOCKETS", (str(tmp_path / "none"),))
    monkeypatch.setattr(xenstore, "_DEVICES", (str(tmp_path / "none"),))
    with pytest.raises(XenstoreError, match="can't be reached"):
        xenstore.Xenstore()


def qemu(commands):
    def answer(connection):
        with connection.makefile("rwb") as lines:
            lines.write(b'{"QMP": {"version": {}}}\r\n')
            lines.flush()
            decoder = json.JSONDecoder()
            while True:
                data = connection.recv(4096).decode()
                if not data:
                    return
                request, _ = decoder.raw_decode(data)
                commands.append((request["execute"], request.get("arguments", {})))
                lines.write(b'{"event": "STOP", "timestamp": {}}\r\n')
                if request["execute"] == "xen-save-devices-state":
                    with open(request["arguments"]["filename"], "wb") as file:
                        file.write(b"QEVM")
                if request["execute"] == "no-such":
                    lines.write(b'{"error": {"class": "CommandNotFound", "desc": "has not been found"}}\r\n')
                else:
                    lines.write(b'{"return": {}}\r\n')
                lines.flush()
    return answer


def test_qmp(serve, monkeypatch, tmp_path):
    commands = []
    monkeypatch.setattr(qmp, "_RECORD_FOLDER", str(tmp_path))
    monitor = qmp.Qmp(serve(qemu(commands)))
    assert monitor.device_model_record() == b"QEVM"
    monitor.command("xen-set-global-dirty-log", enable=True)
    with pytest.raises(QmpError, match="no-such: has not been found"):
        monitor.command("no-such")
    monitor.close()
    assert [name for name, _ in commands] == ["qmp_capabilities", "xen-save-devices-state", "xen-set-global-dirty-log",
                                              "no-such"]
    assert commands[2][1] == {"enable": True} and os.listdir(str(tmp_path)) == ["socket"]


def test_a_domain_without_qemu(monkeypatch, tmp_path):
    monkeypatch.setattr(qmp, "_FOLDER", str(tmp_path))
    assert qmp.connect(7) is None


@pytest.mark.parametrize("line, message", [(b"nonsense\n", "not an answer"), (b"[1]\n", "not an answer"),
                                           (b'{"QMP": ', "closed the connection")])
def test_not_qemu(serve, line, message):
    with pytest.raises(QmpError, match=message):
        qmp.Qmp(serve(lambda connection: connection.sendall(line)))
