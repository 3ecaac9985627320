"""Images on an SFTP server, through fsspec and paramiko."""
import containers
import pytest
import samples
from test_fleet_remote import write_image

from xstream import fleet

pytest.importorskip("fsspec")
pytest.importorskip("paramiko")
import sftp_server  # noqa: E402


@pytest.fixture
def server(tmp_path):
    (tmp_path / "store" / "below").mkdir(parents=True)
    with sftp_server.serving(tmp_path) as served:
        yield served
    from fsspec.implementations.sftp import SFTPFileSystem
    for filesystem in SFTPFileSystem._cache.values():
        filesystem.client.close()
    SFTPFileSystem.clear_instance_cache()


def test_page_data_isnt_fetched(server, tmp_path):
    write_image(tmp_path / "store" / "image.xs", 16 << 10)
    place, = fleet.find_all(server.url("store/image.xs"))
    record = fleet.scan_image(place)
    assert (record.state, record.populated) == ("ok", 16 << 10)
    assert record.bytes == (tmp_path / "store" / "image.xs").stat().st_size
    assert 0 < server.sent < record.bytes / 50


def test_a_folder(server, tmp_path):
    """Each image by its own URL, which can be opened; the password is one that the caller wrote."""
    (tmp_path / "store" / "a.xl").write_bytes(containers.xl())
    (tmp_path / "store" / "below" / "cut.xs").write_bytes(samples.hvm()[:-9])
    found = {place.path: place for place in fleet.find_all(server.url("store"))}
    assert sorted(found) == [server.url("store/a.xl"), server.url("store/below/cut.xs")]
    assert [fleet.scan_image(place).status for _, place in sorted(found.items())] == [0, 1]
    assert all(place.stamp for place in found.values())


def test_pages_are_fetched_when_they_are_needed(server, tmp_path):
    data = samples.hvm()
    (tmp_path / "store" / "a").write_bytes(data)
    place, = fleet.find_all(server.url("store/a"))
    local = fleet.scan_image(place._replace(path=str(tmp_path / "store" / "a")), fleet.Settings(digest=True))
    assert fleet.scan_image(place, fleet.Settings(digest=True))._replace(path=local.path) == local


@pytest.mark.parametrize("name", ["nothing", "nothing/*.xl"])
def test_what_isnt_there(server, name):
    place, = fleet.find_all(server.url(name))
    assert place.error and fleet.scan_image(place).status == 2


@pytest.mark.parametrize("name", ["store", "store/**", "store/*/*.xs", "store/**/*.xs"])
def test_a_folder_that_is_not_listed(server, tmp_path, name):
    """The images beside it are found."""
    (tmp_path / "store" / "open").mkdir()
    (tmp_path / "store" / "open" / "a.xs").write_bytes(samples.hvm())
    server.refused.add(str(tmp_path / "store" / "below"))
    found = {place.path: place.error for place in fleet.find_all(server.url(name))}
    assert sorted(found) == [server.url("store/below"), server.url("store/open/a.xs")]
    assert "denied" in found[server.url("store/below")] and found[server.url("store/open/a.xs")] is None
    assert sorted(record.status for record in fleet.scan(server.url(name))) == [0, 2]


def test_patterns(server, tmp_path):
    for name in ("a.xs", "below/b.xs", "below/c.xl", "below/deeper/d.xs"):
        (tmp_path / "store" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "store" / name).write_bytes(samples.hvm())
    for pattern, names in (("*", "a.xs"), ("*.x[ls]", "a.xs"), ("*/*", "below/b.xs below/c.xl"),
                           ("b*/[bd].xs", "below/b.xs"), ("**/*.xs", "a.xs below/b.xs below/deeper/d.xs"),
                           ("*/**/*.xs", "below/b.xs below/deeper/d.xs"), ("**/deeper/**", "below/deeper/d.xs"),
                           ("**", "a.xs below/b.xs below/c.xl below/deeper/d.xs")):
        found = [place.path for place in fleet.find_all(server.url("store/" + pattern))]
        assert found == [server.url("store/" + name) for name in names.split()], pattern
