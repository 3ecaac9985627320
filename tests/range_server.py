"""A web server on loopback that sends ranges of one folder's files, and counts what it sends."""
import contextlib
import email.utils
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any, Dict, Iterator


class Server(ThreadingMixIn, HTTPServer):
    """``sent``: the bytes of all bodies; ``requests``: the ranges asked for; ``ranges``: whether they are understood;
    ``fail_from``: the offset from which on every range is refused; ``answers``: statuses for paths, instead of what
    is there."""

    daemon_threads = True

    def __init__(self, folder: Path, *, ranges: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.ranges = folder, ranges
        self.sent, self.requests = 0, []
        self.fail_from = 1 << 62
        self.answers: Dict[str, int] = {}
        self.lock = threading.Lock()

    def url(self, name: str) -> str:
        return "http://127.0.0.1:{}/{}".format(self.server_address[1], name)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may close a connection early."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    disable_nagle_algorithm = True
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.server.folder / self.path.lstrip("/")
        if self.path in self.server.answers:
            self._send(self.server.answers[self.path], {}, 0)
            return
        if path.is_dir():
            names = sorted(entry.name + "/" * entry.is_dir() for entry in os.scandir(str(path)))
            page = "".join('<a href="{0}">{0}</a>\n'.format(name) for name in names).encode()
            self._send(200, {"Content-Type": "text/html"}, len(page))
            if body:
                self.wfile.write(page)
            return
        if not path.is_file():
            self._send(404, {}, 0)
            return
        about = path.stat()
        headers = {"ETag": '"{}-{}"'.format(about.st_size, about.st_mtime_ns),
                   "Last-Modified": email.utils.formatdate(about.st_mtime, usegmt=True)}
        asked = re.match(r"bytes=(\d+)-(\d+)$", self.headers.get("Range", "")) if self.server.ranges else None
        start, end = 0, about.st_size
        if asked and body:
            start, end = int(asked.group(1)), min(int(asked.group(2)) + 1, about.st_size)
            headers["Content-Range"] = "bytes {}-{}/{}".format(start, end - 1, about.st_size)
            with self.server.lock:
                self.server.requests.append((start, end))
        if start >= self.server.fail_from:
            self._send(503, {}, 0)
            return
        self._send(206 if asked and body else 200, headers, end - start)
        with path.open("rb") as file:
            file.seek(start)
            while body and start < end:
                piece = file.read(min(end - start, 1 << 20))
                self.wfile.write(piece)
                start += len(piece)
                with self.server.lock:
                    self.server.sent += len(piece)

    def _send(self, status: int, headers: Any, length: int) -> None:
        self.send_response(status)
        for name, value in dict(headers, **{"Content-Length": str(length)}).items():
            self.send_header(name, value)
        self.end_headers()


@contextlib.contextmanager
def serving(folder: Path, *, ranges: bool = True) -> Iterator[Server]:
    server = Server(folder, ranges=ranges)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
