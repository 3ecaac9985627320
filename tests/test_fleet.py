"""Scans of stores: what is found, what is said about each image, and that each is accounted for once."""
import csv
import json
import os
import pickle
import random
import signal
import subprocess
import sys
from collections import Counter

import containers
import fleet_works
import legacy_samples
import pytest
import samples
from samples import batch, page, word

import xstream
from xstream import cli, fleet
from xstream.fleet import duplicates, image, places, scanning, workers
from xstream.fleet.places import Place
from xstream.tools.names import DomainName, domain_name

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(xstream.__file__)))
UUID = "5bd7e8e3-6c5a-4e15-9a75-bb0b0f3dd2b6"
JSON = '{{"c_info": {{"type": "hvm", "name": "web 1", "uuid": "{}"}}}}'.format(UUID).encode() + b"\0"
XML = "<domain type='xen'><name>web &amp; 1</name><uuid>{}</uuid><x><name>no</name></x></domain>".format(UUID).encode()
VM = "((id {})(name(web 1)))".format(UUID), "((id {})(name \"web 1\")(ty x))".format(UUID)
TEXT = b"# name = 'no'\nname = \"web 1\"\nuuid='" + UUID.encode() + b"'\nmemory = 4\n"


def sexp(text):
    return '((time 20230101T00:00:00Z)(word_size 64)(vm_str "{}"))'.format(text.replace('"', '\\"')).encode()


def scanned(tmp_path, data, **settings):
    path = tmp_path / "image"
    path.write_bytes(data)
    return fleet.scan_image(Place(str(path), len(data)), fleet.Settings(**settings))


NAMED = {
    "xl": (containers.xl(config=JSON), "web 1"),
    "xl, text": (containers.xl(config=TEXT, mandatory=2), "web 1"),
    "libvirt": (containers.libvirt_header(XML) + containers.libxl(), "web & 1"),
    "xenopsd": (containers.xenopsd(before=containers.xenopsd_record(0xF, sexp(VM[1]))), "web 1"),
    "xenopsd, JSON": (containers.xenopsd(before=containers.xenopsd_record(
        0xF, sexp('{{\\"id\\": \\"{}\\", \\"name\\": \\"web 1\\"}}'.format(UUID).replace('\\', '')))), "web 1"),
}


@pytest.mark.parametrize("name", sorted(NAMED))
def test_names(tmp_path, name):
    data, expected = NAMED[name]
    record = scanned(tmp_path, data)
    assert (record.state, record.name, record.uuid) == ("ok", expected, UUID)


def test_names_of_xend():
    from xstream.wire import xend
    config = "(domain (domid 1) (uuid {}) (vcpus 1) (name web))".format(UUID)
    assert domain_name(xend.SaveHeader(config.encode())) == DomainName("web", UUID)


@pytest.mark.parametrize("data", [
    containers.xl(config=b"[1]\0"), containers.xl(config=b'{"c_info": {"name": 7, "uuid": [1]}}\0'),
    containers.xl(config=b'{"c_info": 7}\0'), containers.xl(config=b"name = web", mandatory=2),
    containers.libvirt(), containers.xenopsd(), containers.xenopsd_libxl(), containers.libxl(), samples.pv(),
    containers.xenopsd(before=containers.xenopsd_record(0xF, sexp(VM[0]))[:-1] + b")"),
    containers.xenopsd(before=containers.xenopsd_record(0xF, sexp("((((")))],
    ids=str)
def test_without_a_name(tmp_path, data):
    record = scanned(tmp_path, data)
    assert record.state == "ok" and record.name is None


def test_a_name_is_bounded(tmp_path):
    config = b'{"c_info": {"name": "' + b"x" * 5000 + b'"}}\0'
    assert scanned(tmp_path, containers.xl(config=config)).name == "x" * 256


IMAGES = dict(samples.SMALL, libxl=containers.libxl(), xl=containers.xl(), libvirt=containers.libvirt(),
              xenopsd=containers.xenopsd(), legacy=legacy_samples.hvm(), unstructured=containers.xenopsd_unstructured(),
              zeros=samples.hvm(memory=batch([word(0), word(1), word(9)], [bytes(4096), page(1), bytes(4096)])))


@pytest.mark.parametrize("name", sorted(IMAGES))
def test_a_record_says_what_the_tools_say(tmp_path, name):
    record = scanned(tmp_path, IMAGES[name], duplicates=True, digest=True)
    info, digest = xstream.info(IMAGES[name]), xstream.digest(IMAGES[name])
    assert record == image.ImageRecord(
        path=str(tmp_path / "image"), format=info.format, version=info.version, guest=info.guest, xen=info.made_by,
        name=record.name, bytes=len(IMAGES[name]), memory=info.populated * 4096, populated=info.populated,
        sent=info.sent, zero=info.zero, crc32c="{:08x}".format(digest.crc32c), sha256=digest.sha256,
        sample=record.sample)
    assert record.sample.pages == info.sent
    assert pickle.loads(pickle.dumps(record)) == record
    quick = scanned(tmp_path, IMAGES[name])
    assert quick == record._replace(zero=None, crc32c=None, sha256=None, sample=None)


def test_genuine(v3_stream):
    record = fleet.scan_image(Place(str(v3_stream.path)), fleet.Settings(checkpointed=True))
    info = xstream.info(str(v3_stream.path))
    assert (record.state, record.populated, record.sent) == ("ok", info.populated, info.sent)


@pytest.mark.parametrize("name", sorted(IMAGES))
def test_a_fault_is_that_of_verify(tmp_path, name):
    """Wherever an image is cut or damaged."""
    data = IMAGES[name]
    chosen = random.Random(name)
    cases = [data[:chosen.randrange(len(data))] for _ in range(20)] + [b"", data + b"more"]
    for _ in range(40):
        bad = bytearray(data)
        bad[chosen.randrange(len(bad))] ^= 1 << chosen.randrange(8)
        cases.append(bytes(bad))
    for case in cases:
        record = scanned(tmp_path, case, duplicates=True)
        try:
            xstream.verify(case)
        except xstream.StreamError as error:
            assert (record.state, record.error) == (str(error), type(error).__name__)
            assert record.status == (4 if isinstance(error, xstream.LimitExceeded) else 1)
            assert (record.layer, record.offset, record.record, record.record_type, record.field) == (
                error.layer, error.offset, error.record, error.record_type, error.field)
        else:
            assert (record.state, record.status) == ("ok", 0)


def test_the_first_fault_counts(tmp_path):
    """That of the configuration, although what follows it can't be read either. What is known of the image is kept."""
    data = containers.xl(config=b"{no JSON\0")
    for bad in (data, data[:200], data.replace(b"LibxlFmt" + bytes(4), b"LibxlFmt" + b"\0\0\1\0")):
        record = scanned(tmp_path, bad, duplicates=True)
        assert "config isn't JSON" in record.state and (record.layer, record.format) == ("xl", "xl")
    record = scanned(tmp_path, samples.hvm()[:-8])
    assert (record.status, record.format, record.guest, record.version) == (1, "libxc", "x86 HVM", 3)


def test_limits_hold(tmp_path):
    record = scanned(tmp_path, samples.hvm(), limits=xstream.Limits(guest_pfns=2))
    assert (record.status, record.error) == (4, "LimitExceeded")


def test_checkpoints(tmp_path):
    assert scanned(tmp_path, samples.checkpointed()).error == "OrderError"
    assert scanned(tmp_path, samples.checkpointed(), checkpointed=True).populated == 1


def test_strict(tmp_path):
    assert scanned(tmp_path, samples.hvm() + b"more").state == "ok"
    assert scanned(tmp_path, samples.hvm() + b"more", strict=True).error == "StrictViolation"


def test_a_bug_is_a_record_too(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise KeyError("bug")
    monkeypatch.setattr(image, "open_stream", fail)
    record = scanned(tmp_path, samples.hvm())
    assert record.status == 3 and "bug in xstream" in record.state and record.error == "KeyError"


def host(tmp_path, data):
    path = tmp_path / "host.xs"
    path.write_bytes(data)
    return fleet.read_policy(str(path))


def with_policy(features):
    import struct
    leaves = struct.pack("<6I", 0, 0xFFFFFFFF, 13, 0x756E6547, 0x6C65746E, 0x49656E69) \
        + struct.pack("<6I", 1, 0xFFFFFFFF, 0x306F2, 0, features, 0)
    tail = samples.tsc_info() + samples.hvm_context() + samples.hvm_params() + samples.end()
    return (samples.headers() + samples.record(0x11, leaves) + samples.record(0x12, struct.pack("<IIQ", 0xCE, 0, 0))
            + samples.static_data_end() + batch([word(0)], [page(0)]) + tail)


def test_against(tmp_path):
    smaller = host(tmp_path, with_policy(1))
    assert scanned(tmp_path, with_policy(1), against=smaller).compatible is True
    record = scanned(tmp_path, with_policy(3), against=smaller)
    assert (record.state, record.status, record.compatible) == ("ok", 1, False)
    assert record.incompatibility == "lacks PCLMULQDQ"
    record = scanned(tmp_path, samples.hvm(2), against=smaller)
    assert (record.state, record.status, record.compatible) == ("ok", 2, None)
    assert record.incompatibility == "the image has no CPUID policy"


def test_a_policy_file(tmp_path, capsys):
    path = tmp_path / "image"
    path.write_bytes(with_policy(3))
    assert cli.main(["policy", "--json", str(path)]) == 0
    written = tmp_path / "host.json"
    written.write_text(capsys.readouterr().out)
    assert fleet.read_policy(str(written)) == fleet.read_policy(str(path))


def xen_cpuid(**policies):
    """What xen-cpuid -p prints."""
    lines = ["Xen reports there are maximum 114 leaves and 2 MSRs"]
    for name, found in policies.items():
        name = name.replace("_", " ")
        if found is None:
            lines.append("{} policy not supported by Xen".format(name))
            continue
        lines += ["{} policy: {} leaves, {} MSRs".format(name, len(found.leaves), len(found.msrs)), " CPUID:",
                  "  leaf     subleaf  -> eax      ebx      ecx      edx     "]
        lines += ["  {:08x}:{:08x} -> {:08x}:{:08x}:{:08x}:{:08x}".format(
            leaf.leaf, 0xFFFFFFFF if leaf.subleaf is None else leaf.subleaf, *leaf[2:]) for leaf in found.leaves
            if any(leaf[2:])]
        lines += [" MSRs:", "  index    -> value           "]
        lines += ["  {:08x} -> {:016x}".format(msr.number, msr.value) for msr in found.msrs]
    return "\n".join(lines) + "\n"


def against_text(tmp_path, text, data):
    path = tmp_path / "host.txt"
    path.write_text(text)
    return scanned(tmp_path, data, against=fleet.read_policy(str(path)))


def test_what_xen_cpuid_prints(tmp_path):
    """Each guest is compared with the maximum for its kind; Raw, Host and the defaults don't count."""
    smaller, larger = host(tmp_path, with_policy(1)), host(tmp_path, with_policy(3))
    text = xen_cpuid(Raw=larger, Host=larger, PV_Max=larger, HVM_Max=smaller, PV_Default=smaller, HVM_Default=smaller)
    assert against_text(tmp_path, text, with_policy(1)).compatible is True
    record = against_text(tmp_path, text, with_policy(3))
    assert (record.status, record.incompatibility) == (1, "lacks PCLMULQDQ")
    text = xen_cpuid(PV_Max=smaller, HVM_Max=larger)
    assert against_text(tmp_path, text, with_policy(3)).compatible is True
    assert fleet.read_policy(str(tmp_path / "host.txt")) == fleet.HostPolicies(smaller, larger), "nothing is lost"
    assert against_text(tmp_path, xen_cpuid(Domain_7=smaller), with_policy(3)).compatible is False
    record = against_text(tmp_path, xen_cpuid(Host=larger, PV_Max=larger, HVM_Max=None), with_policy(1))
    assert (record.status, record.incompatibility) == (1, "the host runs no x86 HVM guests")


@pytest.mark.parametrize("text", [
    "Host policy: 3 leaves, 1 MSRs\n", "HVM Max policy: 3 leaves, 1 MSRs\n CPUID:\n",
    "Domain 1 policy: 3 leaves, 1 MSRs\n" * 2])
def test_what_xen_cpuid_doesnt_print(tmp_path, text):
    path = tmp_path / "host.txt"
    path.write_text(text)
    with pytest.raises(xstream.CorruptStream, match="polic"):
        fleet.read_policy(str(path))


@pytest.mark.parametrize("text", [
    "{", "{}", '{"cpuid": {"leaves": []}, "msrs": []}', '{"cpuid": {"leaves": 7}, "msrs": []}', '{"cpuid": []}',
    '{"cpuid": {"leaves": [{"leaf": 0, "subleaf": null, "a": -1, "b": 0, "c": 0, "d": 0}]}, "msrs": []}',
    '{"cpuid": {"leaves": [{"leaf": "0", "subleaf": null, "a": 1, "b": 0, "c": 0, "d": 0}]}, "msrs": []}',
    '{"a":' * 100000, "{\xff"])
def test_a_bad_policy_file(tmp_path, text):
    path = tmp_path / "host.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(xstream.StreamError, match="policy"):
        fleet.read_policy(str(path))


def test_a_host_without_a_policy(tmp_path):
    with pytest.raises(xstream.CorruptStream, match="no CPUID policy"):
        host(tmp_path, samples.hvm(2))


@pytest.fixture
def store(tmp_path):
    """A store with everything that one finds: good and damaged images, folders, links, other files."""
    root = tmp_path / "store"
    (root / "b" / "deep").mkdir(parents=True)
    (root / "a.xl").write_bytes(containers.xl(config=JSON))
    (root / "b" / "cut.xs").write_bytes(samples.hvm()[:-100])
    (root / "b" / "deep" / "new\nline\x1b[31m.xs").write_bytes(samples.pv())
    (root / "b" / "empty").write_bytes(b"")
    os.mkfifo(str(root / "b" / "fifo"))
    (root / "b" / "loop").symlink_to(root)
    (root / "broken").symlink_to(root / "nothing")
    (root / "z").symlink_to(root / "a.xl")
    return root


def names(found, root):
    return [os.path.relpath(place.path, str(root)) for place in found]


def test_a_folder(store):
    found = fleet.find_all(store)
    assert names(found, store) == ["a.xl", "broken", "z", "b/cut.xs", "b/empty", "b/deep/new\nline\x1b[31m.xs"]
    assert [place.path for place in found if place.error] == [str(store / "broken")]
    assert all(place.bytes == os.stat(place.path).st_size and place.stamp for place in found if not place.error)


def test_patterns(store):
    assert names(fleet.find_all(str(store / "*.xl")), store) == ["a.xl"]
    both = ["b/cut.xs", "b/deep/new\nline\x1b[31m.xs"]
    assert names(fleet.find_all(str(store / "b" / "**" / "*.xs")), store) == both
    assert names(fleet.find_all(str(store / "?" / "**" / "*.xs")), store) == both
    assert names(fleet.find_all(str(store / "**" / "deep" / "*")), store) == ["broken", both[1]]
    assert len(fleet.find_all(str(store / "**"))) == len(fleet.find_all(store))
    assert [place.error for place in fleet.find_all(str(store / "*.none"))] == ["no file matches"]
    (store / "[odd].xs").write_bytes(samples.hvm())
    assert names(fleet.find_all(str(store / "[odd].xs")), store) == ["[odd].xs"], "a name, not a pattern"


def test_each_place_once(store, monkeypatch):
    monkeypatch.chdir(store)
    assert len(fleet.find_all([store, "a.xl", "*.xl", "./a.xl", str(store)])) == 6


@pytest.mark.parametrize("path", ["nothing", "b/fifo", "a.xl/below", "a\0b"])
def test_what_isnt_there(store, path):
    place, = fleet.find_all(str(store) + "/" + path)
    record = fleet.scan_image(place)
    assert place.error and (record.status, record.state) == (2, place.error)


def test_a_url_without_fsspec(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    place, = fleet.find_all("s3://bucket/key")
    assert "install xen-xstream[fleet]" in place.error


@pytest.mark.parametrize("jobs", [1, 2])
def test_scan(store, jobs):
    records = {os.path.relpath(record.path, str(store)): record for record in fleet.scan(store, jobs=jobs)}
    assert {name: record.status for name, record in records.items()} == {
        "a.xl": 0, "z": 0, "broken": 2, "b/cut.xs": 1, "b/empty": 1, "b/deep/new\nline\x1b[31m.xs": 0}
    assert records["a.xl"] == fleet.scan_image(Place(str(store / "a.xl"), (store / "a.xl").stat().st_size))


def test_nothing_to_scan(tmp_path):
    assert list(fleet.scan(tmp_path)) == [] == list(fleet.scan([]))


def test_processes():
    assert sorted(workers.in_processes(fleet_works.double, range(20), 2)) == [(n, 2 * n) for n in range(20)]


@pytest.mark.skipif(sys.version_info < (3, 7), reason="not applicable: Python 3.6 forks its processes")
def test_a_scan_can_be_left():
    found = workers.in_processes(fleet_works.slow, range(1000), 2)
    assert next(found)
    found.close()


def test_a_killed_process(tmp_path):
    """Its image is scanned again; nothing is lost or done twice."""
    items = [(number, str(tmp_path / "seen")) for number in range(10)]
    done = list(workers.in_processes(fleet_works.kill_once, items, 2))
    assert sorted(done) == [(item, 2 * item[0]) for item in items]


def test_killers():
    """What ends its process again gets no result; the others get theirs."""
    done = list(workers.in_processes(fleet_works.kill_odd, range(8), 2))
    assert Counter(number for number, _ in done) == Counter(range(8))
    assert dict(done) == {number: None if number % 2 else 2 * number for number in range(8)}


@pytest.mark.skipif(sys.version_info < (3, 7), reason="not applicable: Python 3.6 forks its processes")
@pytest.mark.parametrize("guarded", [False, True])
def test_a_program_that_no_process_can_load(store, tmp_path, guarded):
    """From stdin, and without a guard: an error, not images that failed."""
    program = "from xstream import fleet\nprint(len(list(fleet.scan({!r}))))".format(str(store))
    (tmp_path / "program.py").write_text(program)
    ran = subprocess.run([sys.executable] + ([] if guarded else [str(tmp_path / "program.py")]), input=program.encode(),
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ, PYTHONPATH=ROOT))
    assert ran.stdout in ((b"6\n", b"") if guarded else (b"",))
    assert ran.stdout or b"no process can be started here" in ran.stderr


def test_the_installed_program_starts_processes(store):
    """They load the program again, which must not run the command in each."""
    script = os.path.join(ROOT, "bin", "xstream")
    if not os.path.exists(script):  # the tests run away from the checkout
        script = os.path.join(os.path.dirname(sys.executable), "xstream")
    ran = subprocess.run([sys.executable, script, "scan", "--json", "-j2", str(store)], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, env=dict(os.environ, PYTHONPATH=ROOT))
    assert ran.stderr == b"" and len(ran.stdout.splitlines()) == 6


@pytest.mark.skipif(sys.version_info < (3, 7), reason="not applicable: Python 3.6 forks its processes")
def test_sigint_ends_it_at_once(tmp_path):
    """Also the processes, without a traceback."""
    for number in range(4):
        (tmp_path / "{}.xs".format(number)).write_bytes(samples.hvm())
    code = ("import sys; from xstream.cli import main; import fleet_works, xstream.fleet.scanning as s\n"
            "if __name__ == '__main__':\n    s.scan_image = fleet_works.endless\n    sys.exit(main())")
    (tmp_path / "program.py").write_text(code)
    ran = subprocess.Popen([sys.executable, str(tmp_path / "program.py"), "scan", "-j2", str(tmp_path / "*.xs")],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                           env=dict(os.environ, PYTHONPATH=os.pathsep.join([ROOT, os.path.dirname(__file__)])))
    assert ran.stderr.readline() == b"scanning\n"
    os.killpg(ran.pid, signal.SIGINT)
    assert ran.communicate()[1].replace(b"scanning\n", b"") == b"" and ran.returncode == -signal.SIGINT


def test_an_image_that_ends_its_process(store, monkeypatch, tmp_path):
    def killed(work, items, jobs):
        return ((item, None if item.path.endswith("a.xl") else work(item)) for item in items)
    monkeypatch.setattr(scanning, "in_processes", killed)
    records = list(fleet.scan(store, cache=str(tmp_path / "cache")))
    assert Counter(record.path for record in records) == Counter(place.path for place in fleet.find_all(store))
    record, = [record for record in records if record.status == 3]
    assert record.path.endswith("a.xl") and "ended the process" in record.state
    monkeypatch.undo()
    assert 3 not in [record.status for record in fleet.scan(store, cache=str(tmp_path / "cache"))], "not remembered"


def overwrite(path, data, keep=True):
    before = path.stat()
    path.write_bytes(data)
    if keep:
        os.utime(str(path), ns=(before.st_atime_ns, before.st_mtime_ns))


def test_the_cache(store, tmp_path):
    cache = str(tmp_path / "cache")
    first = sorted(fleet.scan(store, cache=cache, duplicates=True))
    assert sorted(fleet.scan(store, cache=cache, duplicates=True)) == first
    path = store / "a.xl"
    overwrite(path, bytes(path.stat().st_size))
    assert sorted(fleet.scan(store, cache=cache, duplicates=True)) == first, "not read"
    states = {record.path: record.status for record in fleet.scan(store, cache=cache)}
    assert states[str(path)] == 1, "other settings"
    overwrite(path, bytes(path.stat().st_size), keep=False)
    states = {record.path: record.status for record in fleet.scan(store, cache=cache, duplicates=True)}
    assert states[str(path)] == 1 and states[str(store / "broken")] == 2


def test_an_interrupted_scan_goes_on(store, tmp_path):
    cache = tmp_path / "cache"
    found = fleet.scan(store, cache=str(cache), jobs=1)
    known = next(found)
    while known.status == 2:  # failures to read are tried again
        known = next(found)
    found.close()
    cache.write_bytes(cache.read_bytes() + b'["cut off, "')
    assert Counter(record.path for record in fleet.scan(store, cache=str(cache))) \
        == Counter(place.path for place in fleet.find_all(store))
    lines = cache.read_bytes().decode("ascii").splitlines()
    assert sum(str(known.path) in json.loads(json.loads(line)[0]) for line in lines if line.endswith("]")) == 1


@pytest.mark.parametrize("line", ["", "7", "[]", "[1, 2]", '["", {}]', '["a", {"sample": 7}]', "[" * 100000, "\xff",
                                  '["a", {"sample": null, "other": 1}]', '["a", {"sample": [1, 2, "x"]}]'])
def test_a_bad_cache(store, tmp_path, line):
    cache = tmp_path / "cache"
    cache.write_bytes(line.encode("latin-1"))
    assert len(list(fleet.scan(store, cache=str(cache)))) == 6


def test_a_cache_that_cant_be_written(store, tmp_path):
    with pytest.raises(IsADirectoryError):
        list(fleet.scan(store, cache=str(tmp_path)))


def sampler_of(pages):
    sampler = duplicates.Sampler()
    for start in range(0, len(pages), 100):
        sampler.add(b"".join(pages[start:start + 100]))
    return sampler.sample()


def report_of(*images_pages):
    found = duplicates.Duplicates()
    for pages in images_pages:
        found.add(sampler_of(pages))
    return found.report()


def test_duplicates():
    zero = bytes(4096)
    report = report_of([zero, zero, page(1), page(2), page(2)], [zero, page(2), page(3)], [], [page(4)])
    assert report == (4, 9, 5, 2, 2, 1.0, 0)


def test_estimated_duplicates(monkeypatch):
    """Beyond the bounds: within five standard errors, and in bounded memory."""
    monkeypatch.setattr(duplicates, "IMAGE_HASHES", 300)
    monkeypatch.setattr(duplicates, "ALL_HASHES", 500)
    first = [page(number) for number in range(2000)] + [bytes(4096)] * 1000
    second = [page(number) for number in range(1000, 4000)]
    third = [page(number) for number in range(50)]
    assert len(sampler_of(first).hashes) == 8 * 300
    found = duplicates.Duplicates()
    for pages in (third, first, second):
        found.add(sampler_of(pages))
        assert len(found._kept) <= 500
    report = found.report()
    assert (report.images, report.pages) == (3, 6050) and 0 < report.sampled < 0.2
    assert abs(report.distinct - 4001) < 5 * report.standard_error < 4001
    assert report.within + report.between + report.distinct == 6050
    assert abs(report.within - 999) < 1000 and abs(report.between - 1050) < 700


def test_the_sample_doesnt_depend_on_the_pieces(monkeypatch):
    monkeypatch.setattr(duplicates, "IMAGE_HASHES", 10)
    pages = [page(number % 60) for number in range(200)]
    one = duplicates.Sampler()
    one.add(b"".join(pages))
    assert one.sample() == sampler_of(pages)


def test_command_line(store, capsys):
    assert cli.main(["scan", str(store)]) == 2
    out = capsys.readouterr().out
    lines, table = out.split("\n\n", 1)
    assert len(lines.splitlines()) == 6 and "\x1b" not in out
    assert "a.xl: ok; xl, x86 HVM, web 1, {}, Xen 4.17, 12.0 KiB, 3 pages populated\n".format(UUID) in lines + "\n"
    assert "{}: error: No such file or directory".format(store / "broken") in lines
    assert "cut.xs: bad: libxc, offset" in lines and "new\\nline\\x1b[31m.xs: ok" in lines
    assert table.splitlines()[0].split() == ["path", "format", "guest", "name", "uuid", "Xen", "memory", "populated",
                                             "state"]
    assert "6 images: 2 bad, 1 error" in table


def test_the_table_says_in_a_word_what_suits(tmp_path, capsys):
    for name, data in (("a", with_policy(1)), ("b", with_policy(3)), ("c", samples.hvm(2)), ("d", with_policy(3)[:-9])):
        (tmp_path / name).write_bytes(data)
    assert cli.main(["scan", "--against", str(tmp_path / "a"), str(tmp_path)]) == 2
    lines, table = capsys.readouterr().out.split("\n\n", 1)
    assert "incompatible: lacks PCLMULQDQ" in lines and "unknown policy: the image has no CPUID policy" in lines
    assert [line.split()[-2:] for line in table.splitlines()[1:5]] == [
        ["compatible", "ok"], ["incompatible", "ok"], ["policy", "ok"], ["incompatible", "bad"]]
    assert table.splitlines()[-1] == "4 images: 2 incompatible, 1 unknown policy, 1 bad"


def test_quiet(store, capsys):
    assert cli.main(["scan", "-q", str(store / "a.xl"), str(store / "b")]) == 1
    assert [line.split(":")[1] for line in capsys.readouterr().out.splitlines()] == [" bad", " bad"]


def test_json_lines(store, capsys):
    assert cli.main(["scan", "--json", "--duplicates", str(store)]) == 2
    *records, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert Counter(record["path"] for record in records) == Counter(place.path for place in fleet.find_all(store))
    assert all(record["ok"] == (record["status"] == 0) and "sample" not in record for record in records)
    assert last["duplicates"]["pages"] == 8 and last["duplicates"]["sampled"] == 1


def test_an_error_is_a_line_of_json(store, capsys, tmp_path):
    assert cli.main(["scan", "--json", "--cache", str(tmp_path), str(store)]) == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["error"] == "IsADirectoryError"
    assert cli.main(["scan", "--json", "--against", str(store / "b" / "cut.xs"), str(store)]) in (0, 1, 2)


def test_duplicates_are_printed(store, capsys):
    assert cli.main(["scan", "--duplicates", str(store / "a.xl"), str(store / "z")]) == 0
    assert "deduplication would save 2 pages, 8.0 KiB (50.0%): 0 repeat within an image, 2 between images" \
        in capsys.readouterr().out


def test_csv(store, tmp_path, capsys):
    out = store / "table.csv"
    assert cli.main(["scan", "--csv", str(out), "--cache", str(store / "cache"), str(store)]) == 2
    with open(str(out), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(image.ImageRecord._fields[:-1])
    by_name = {os.path.basename(row["path"]): row for row in rows}
    assert by_name["a.xl"]["name"] == "web 1" and by_name["a.xl"]["populated"] == "3" and by_name["a.xl"]["zero"] == ""
    assert "new\\nline\\x1b[31m.xs" in by_name
    assert cli.main(["scan", "--csv", str(out), str(store)]) == 2
    assert "--force" in capsys.readouterr().err
    assert cli.main(["scan", "--csv", str(out), "--cache", str(store / "cache"), "--force", str(store / "*")]) == 2
    assert "table.csv" not in out.read_text(encoding="utf-8"), "its own files aren't images"


def test_parquet(store, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "table.parquet"
    assert cli.main(["scan", "--parquet", str(out), str(store)]) == 2
    rows = parquet.read_table(str(out)).to_pylist()
    row, = [row for row in rows if row["path"].endswith("a.xl")]
    assert (row["name"], row["populated"], row["zero"], row["compatible"]) == ("web 1", 3, None, None)


def test_parquet_without_pyarrow(store, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert cli.main(["scan", "--parquet", str(tmp_path / "out"), str(store)]) == 2
    assert "install xen-xstream[parquet]" in capsys.readouterr().err


def test_dask_without_distributed(store, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert cli.main(["scan", "--dask", "tcp://127.0.0.1:1", str(store)]) == 2
    assert "install xen-xstream[fleet]" in capsys.readouterr().err


def test_no_images(tmp_path, capsys):
    assert cli.main(["scan", str(tmp_path)]) == 2
    assert "no images found" in capsys.readouterr().err


def test_against_on_the_command_line(tmp_path, capsys):
    (tmp_path / "big.xs").write_bytes(with_policy(3))
    (tmp_path / "small.xs").write_bytes(with_policy(1))
    assert cli.main(["scan", "--against", str(tmp_path / "small.xs"), str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "small.xs: ok; libxc, x86 HVM, Xen 4.17, 4.0 KiB, 1 pages populated, compatible" in out
    assert "big.xs: ok" in out and "incompatible: lacks PCLMULQDQ" in out


def test_surrogates_in_names(tmp_path, capsys):
    path = os.fsencode(str(tmp_path)) + b"/\xff.xs"
    with open(path, "wb") as file:
        file.write(samples.hvm())
    assert cli.main(["scan", "--csv", str(tmp_path / "out.csv"), os.fsdecode(path)]) == 0
    assert "\\udcff.xs: ok" in capsys.readouterr().out and "\\udcff.xs" in (tmp_path / "out.csv").read_text()


def test_places_are_plain(tmp_path):
    assert places.is_url("s3://bucket/key") and not places.is_url("/tmp/a:b")
