"""Images on servers: what is fetched of them, and what goes wrong."""
import gzip
import io
import json
import re
import struct
import subprocess
import sys

import containers
import pytest
import samples
from samples import batch, page, word

import xstream
from xstream import cli, fleet
from xstream.fleet.places import Place
from xstream.stream.ranges import RangeSource

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")
import range_server  # noqa: E402

GIB = 1 << 30


def write_image(path, pages, zero=False):
    """An HVM stream of full batches, as Xen writes them; the pages are a hole in the file."""
    with open(str(path), "wb") as file:
        file.write(samples.headers() + samples.policies() + samples.static_data_end())
        for start in range(0, pages, 1024):
            words = struct.pack("<1024Q", *range(start, start + 1024))
            file.write(struct.pack("<IIII", 1, 8 + len(words) + 1024 * 4096, 1024, 0) + words)
            file.seek(1024 * 4096, 1)
        file.write(samples.tsc_info() + samples.hvm_context() + samples.hvm_params() + samples.end())


def server_with(folder, **files):
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return range_server.serving(folder)


def scanned(url, **settings):
    place, = fleet.find_all(url)
    return fleet.scan_image(place, fleet.Settings(**settings))


def test_verify_fetches_little(tmp_path):
    """Under 2 % of a GiB: the heads of its batches, each by one request."""
    write_image(tmp_path / "big.xs", GIB // 4096)
    size = (tmp_path / "big.xs").stat().st_size
    assert size > GIB
    with range_server.serving(tmp_path) as server:
        record = scanned(server.url("big.xs"))
        assert (record.state, record.populated, record.bytes) == ("ok", GIB // 4096, size)
        assert server.sent < size / 200, server.sent
        assert len(server.requests) <= 256 + 4
        server.sent = 0
        with fleet.open_place(server.url("big.xs"), {}) as source:
            assert xstream.verify(source).pages == GIB // 4096
        assert server.sent < size / 200


def test_everything_is_fetched_once(tmp_path):
    write_image(tmp_path / "image.xs", 16 << 10)
    size = (tmp_path / "image.xs").stat().st_size
    with range_server.serving(tmp_path) as server:
        record = scanned(server.url("image.xs"), duplicates=True)
        assert (record.state, record.zero) == ("ok", 16 << 10)
        assert server.sent == size + 1, "and a probe"
        assert len(server.requests) < 40


def test_compressed_images(tmp_path):
    data = samples.hvm(memory=b"".join(batch([word(pfn)], [page(pfn)]) for pfn in range(2000)))
    with server_with(tmp_path, image=gzip.compress(data)) as server:
        record = scanned(server.url("image"))
        assert (record.state, record.populated) == ("ok", 2000)
        assert server.sent == (tmp_path / "image").stat().st_size + 1 and len(server.requests) < 12


@pytest.mark.parametrize("data", [containers.xl(), containers.libvirt()[:-700], b"", b"not an image", samples.pv()],
                         ids=["xl", "cut", "empty", "none", "pv"])
def test_the_same_as_from_a_file(tmp_path, data):
    with server_with(tmp_path, image=data) as server:
        remote = scanned(server.url("image"), duplicates=True)
    local = fleet.scan_image(Place(str(tmp_path / "image"), len(data)), fleet.Settings(duplicates=True))
    assert remote._replace(path=local.path) == local


def test_a_server_without_ranges(tmp_path):
    """Read from front to back."""
    write_image(tmp_path / "image.xs", 4 << 10)
    with range_server.serving(tmp_path, ranges=False) as server:
        record = scanned(server.url("image.xs"), duplicates=True)
    assert (record.state, record.zero) == ("ok", 4 << 10)


def test_failures_are_errors_of_the_image(tmp_path):
    write_image(tmp_path / "image.xs", 4 << 10)
    with range_server.serving(tmp_path) as server:
        missing = scanned(server.url("nothing.xs"))
        assert (missing.status, missing.error) == (2, "OSError")
        server.fail_from = 8 << 20
        record = scanned(server.url("image.xs"))
        assert (record.status, record.error, record.populated) == (2, "OSError", 2048), record
        place, = fleet.find_all(server.url("image.xs"))
    record = fleet.scan_image(place)
    assert record.status == 2, "the server is gone"


def test_a_folder_of_a_web_server(tmp_path):
    with server_with(tmp_path, a=samples.hvm(), b=samples.pv()[:-9]) as server:
        found = fleet.find_all(server.url(""))
        assert [place.path for place in found] == [server.url("a"), server.url("b")]
        assert sorted(record.status for record in fleet.scan(server.url(""))) == [0, 1]
        assert [place.path for place in fleet.find_all(server.url("*"))] == [server.url("a"), server.url("b")]


@pytest.mark.parametrize("pattern", ["", "**", "*/*", "**/a"])
def test_a_folder_of_a_web_server_that_is_not_listed(tmp_path, capsys, pattern):
    """The images beside it are found."""
    for name in ("bad", "good"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_bytes(samples.hvm())
    with range_server.serving(tmp_path) as server:
        for status, said in ((503, "503"), (403, "403"), (404, "No such file or directory")):
            server.answers = {"/bad/": status, "/bad": status}
            bad, good = fleet.find_all(server.url(pattern))
            assert (bad.path, good.path, good.error) == (server.url("bad/"), server.url("good/a"), None)
            assert said in bad.error
        assert cli.main(["scan", server.url(pattern)]) == 2
        assert server.url("bad/") in capsys.readouterr().out


@pytest.mark.parametrize("name", ["", "*", "**", "a/*.xs", "**/*.xs"])
def test_a_web_server_that_lists_nothing(tmp_path, name):
    with range_server.serving(tmp_path) as server:
        server.answers = dict.fromkeys(("/", "/a/", "/a"), 500)
        place, = fleet.find_all(server.url(name))
        assert "500" in place.error and fleet.scan_image(place).status == 2
    with range_server.serving(tmp_path) as server:
        gone = server.url(name)
    place, = fleet.find_all(gone)
    assert "onnect" in place.error and fleet.scan_image(place).status == 2


def test_the_cache_knows_etags(tmp_path):
    (tmp_path / "files").mkdir()
    cache = str(tmp_path / "cache")
    with server_with(tmp_path / "files", a=samples.hvm()) as server:
        first = list(fleet.scan(server.url("a"), cache=cache))
        before = server.sent
        assert before and list(fleet.scan(server.url("a"), cache=cache)) == first and server.sent == before
        (tmp_path / "files" / "a").write_bytes(samples.hvm()[:-8])
        assert [record.status for record in fleet.scan(server.url("a"), cache=cache)] == [1]


def test_against_a_url(tmp_path, capsys):
    with server_with(tmp_path, a=samples.hvm()) as server:
        assert cli.main(["scan", "--against", server.url("a"), server.url("a")]) == 0
        assert ", compatible" in capsys.readouterr().out
        assert cli.main(["scan", "--json", "--against", server.url("none"), server.url("a")]) == 2
        assert json.loads(capsys.readouterr().out)["ok"] is False


def test_a_path_with_other_names(tmp_path):
    (tmp_path / "s3:").mkdir()
    (tmp_path / "s3:" / "a").write_bytes(samples.hvm())
    assert fleet.scan_image(Place(str(tmp_path) + "/s3://a")).state == "ok"


@pytest.fixture
def in_memory():
    import fsspec
    files = fsspec.filesystem("memory")
    files.pipe({"/store/a.xl": containers.xl(), "/store/b/c.xs": samples.pv(), "/store/b/d": b""})
    yield
    files.rm("/store", recursive=True)


@pytest.mark.parametrize("url, found", [
    ("memory://store", ["a.xl", "b/c.xs", "b/d"]), ("memory://store/", ["a.xl", "b/c.xs", "b/d"]),
    ("memory://store/*", ["a.xl"]), ("memory://store/**", ["a.xl", "b/c.xs", "b/d"]),
    ("memory://store/a.xl", ["a.xl"]), ("memory://store/**/*.xs", ["b/c.xs"])])
def test_urls(in_memory, url, found):
    places = fleet.find_all(url)
    assert [place.path for place in places] == ["memory://store/" + name for name in found]
    for place in places:
        assert fleet.scan_image(place).status == (0 if place.bytes else 1)


@pytest.mark.parametrize("url", ["memory://none", "memory://none/*", "nosuch://bucket/key", "memory://store/none.xs"])
def test_urls_of_nothing(in_memory, url):
    place, = fleet.find_all(url)
    assert place.error and fleet.scan_image(place).status == 2


class Counting(io.BytesIO):
    def __init__(self, data):
        super().__init__(data)
        self.reads = []

    def readinto(self, into):
        self.reads.append((self.tell(), len(into)))
        return super().readinto(into)


def test_reads_grow_until_the_next_seek():
    data = bytes(range(256)) * (16 << 10)
    file = Counting(data)
    with RangeSource(file) as source:
        for at in range(0, 400 << 10, 1000):
            assert bytes(source.need(1000)) == data[at:at + 1000]
            source.advance(1000)
        grown = [size for _, size in file.reads]
        assert grown == [16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10]
        assert len(source.page_data(0, 1 << 20)) == 1 << 20
        here = source.offset
        assert bytes(source.need(8)) == data[here + (1 << 20):][:8], "skipped by the next call"
        assert file.reads[-1][1] == 16 << 10
    assert file.closed


def test_a_skip_past_the_end():
    with RangeSource(io.BytesIO(bytes(1 << 20))) as source:
        source.page_data(0, 2 << 20)
        with pytest.raises(xstream.TruncatedStream) as caught:
            source.peek(1)
        assert (caught.value.missing, caught.value.offset) == (1 << 20, 1 << 20)


@pytest.fixture(scope="module")
def s3():
    """moto's S3, in a process of its own."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    server = subprocess.Popen([sys.executable, "-c", S3], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        yield "http://127.0.0.1:{}".format(int(server.stdout.readline()))
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


#: A server that counts the bytes of the bodies that it sends, and tells them at /sent.
S3 = """
import threading
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
moto, sent = DomainDispatcherApplication(create_backend_app), [0]

def counting(environ, start_response):
    if environ["PATH_INFO"].startswith("/closed"):
        start_response("403 Forbidden", [("Content-Type", "application/xml")])
        return [b"<Error><Code>AccessDenied</Code><Message>no listing for you</Message></Error>"]
    if environ["PATH_INFO"] == "/sent":
        start_response("200 OK", [])
        return [str(sent[0]).encode()]
    body = b"".join(moto(environ, start_response))
    sent[0] += len(body)
    return [body]

server = make_server("127.0.0.1", 0, counting, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


def sent_by(endpoint):
    from urllib.request import urlopen
    with urlopen(endpoint + "/sent") as answer:
        return int(answer.read())


def test_s3(s3, tmp_path, monkeypatch, capsys):
    """What isn't needed isn't fetched; the ETag is the cache's stamp; by processes of their own."""
    import s3fs
    for name, value in (("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_ENDPOINT_URL", s3),
                        ("AWS_DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(name, value)
    write_image(tmp_path / "image.xs", 16 << 10)
    size = (tmp_path / "image.xs").stat().st_size
    files = s3fs.S3FileSystem()
    files.mkdir("store")
    files.put_file(str(tmp_path / "image.xs"), "store/below/image.xs")
    files.pipe("store/a.xl", containers.xl()[:-50])
    files.pipe("store/README", b"no image")
    before = sent_by(s3)
    arguments = ["scan", "--json", "--cache", str(tmp_path / "cache"), "s3://store"]
    assert cli.main(arguments) == 1
    records = {record["path"]: record for record in map(json.loads, capsys.readouterr().out.splitlines())}
    assert {path: record["status"] for path, record in records.items()} == {
        "s3://store/README": 1, "s3://store/a.xl": 1, "s3://store/below/image.xs": 0}
    assert records["s3://store/below/image.xs"]["populated"] == 16 << 10
    assert sent_by(s3) - before < size / 50
    before = sent_by(s3)
    assert cli.main(arguments) == 1
    assert {record["path"]: record for record in map(json.loads, capsys.readouterr().out.splitlines())} == records
    assert sent_by(s3) - before < 10000, "only listed"
    assert [place.path for place in fleet.find_all("s3://store/**/*.xs")] == ["s3://store/below/image.xs"]
    for name in ("", "/", "/*", "/*/*.xl", "/**", "/**/*.xl"):
        for bucket, said in (("closed", "no listing for you|Forbidden"), ("other", "No such file or directory: ")):
            place, = fleet.find_all("s3://" + bucket + name)
            assert re.search(said, place.error), place
            assert fleet.scan_image(place).status == 2
