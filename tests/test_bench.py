"""The bench runs, reports what it did, and does the work that it names. The figures aren't checked."""
import contextlib
import copy
import datetime
import json
import os
import shutil
import subprocess
from html.parser import HTMLParser

import numpy
import pytest
import samples

from xstream import printing
from xstream.bench import __main__ as command
from xstream.bench import (
    claim,
    engines,
    guests,
    kernels,
    machine,
    page,
    partner,
    runs,
    suite,
    sweeps,
    text,
    timing,
    verbs,
)
from xstream.guest.memory import GuestMemory
from xstream.tools.verify import verify

PAGES = 1100  # a full batch and another
ONCE = timing.Effort(1, 1, 0)
TINY = suite.Extent(256 << 12, [("hvm", 1 << 20), ("pv", 1 << 20)], 1 << 20, True, True, ONCE, ONCE)


@pytest.fixture(scope="module")
def other_end():
    with contextlib.closing(partner.Partner()) as made:
        yield made


@pytest.fixture(scope="module")
def guest():
    return guests.seeded_guest(PAGES)


@pytest.fixture(scope="module")
def of_verbs(guest, other_end):
    with contextlib.closing(verbs.Verbs(guest, other_end)) as made:
        yield made


@pytest.fixture(scope="module")
def of_engines(other_end):
    with contextlib.closing(engines.Engines(PAGES, other_end)) as made:
        yield made


@pytest.fixture(scope="module")
def of_kernels(guest):
    return kernels.Kernels(guest)


@pytest.fixture(scope="module")
def run(other_end):
    return suite.Suite(TINY, None, other_end).run()


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(machine, "others_at_work", lambda: 0.0)
    monkeypatch.setattr(machine, "stolen_since", lambda start: 0.0)
    for name in ("FULL", "QUICK"):
        monkeypatch.setattr(command, name, TINY)


# --- guests

def test_the_guest_is_seeded_and_of_its_mix():
    first, second = guests.seeded_guest(3000, seed=5).memory, guests.seeded_guest(3000, seed=5).memory
    assert first.pages.tobytes() == second.pages.tobytes()
    assert first.pages.tobytes() != guests.seeded_guest(3000, seed=6).memory.pages.tobytes()
    words = first.pages.view(numpy.uint64)
    zero = int((~first.pages.any(axis=1)).sum())
    repeated = int((words == words[:, :1]).all(axis=1).sum()) - zero
    assert 0.25 < zero / 3000 < 0.35 and 0.15 < repeated / 3000 < 0.25
    assert first.populated_count == 3000


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_zero_pages(share):
    pages = guests.seeded_guest(2000, zero=share).memory.pages
    assert abs((~pages.any(axis=1)).mean() - share) < 0.05


@pytest.mark.parametrize("kind", ["hvm", "pv"])
def test_streams_hold_the_guest(tmp_path, kind):
    guest = guests.seeded_guest(PAGES, kind)
    ways = [(guests.write_stream, 2), (guests.write_single, PAGES)]
    if kind == "hvm":  # a PV guest's p2m has no room for what isn't there
        ways.append((lambda guest, fd: guests.write_in_batches(guest, fd, 100, 0.5), 11))
    for write, batches in ways:
        path = tmp_path / str(batches)
        with path.open("wb", buffering=0) as file:
            write(guest, file.fileno())
        memory = GuestMemory(PAGES)
        guests.load(str(path), memory)
        assert memory.pages[:PAGES].tobytes() == guest.memory.pages.tobytes()
        report = verify(str(path))
        assert (report.batches, report.pages) == (batches, PAGES)


# --- workloads

@pytest.mark.parametrize("name", suite.NAMES)
def test_workloads_run(of_verbs, of_engines, of_kernels, name):
    made = of_verbs if name in verbs.NAMES else of_engines if name in engines.NAMES else of_kernels
    workload = made.workload(name)
    assert workload.name == name and 0 < workload.bytes <= PAGES * 4096
    assert len({side.name for side in workload.sides}) == len(workload.sides)
    assert workload.sides[0].kind == "xstream" and all(side.what for side in workload.sides)
    for side in workload.sides:
        side.run()


@pytest.mark.parametrize("name", ["decode", "decode from a pipe"])
def test_decoding_decodes(of_verbs, name):
    of_verbs.ready.pages[:] = 1
    of_verbs.workload(name).sides[0].run()
    assert of_verbs.ready.pages.tobytes() == of_verbs.guest.memory.pages.tobytes()


@pytest.mark.parametrize("name", ["restore", "restore from a pipe"])
def test_restoring_restores(of_engines, name):
    of_engines.target.memory.pages[:] = 1
    of_engines.workload(name).sides[0].run()
    assert of_engines.target.digest() == of_engines.guest.digest()


def test_converting_converts(of_verbs):
    ours, *others = of_verbs.workload("convert a file").sides
    ours.run()
    target = os.path.join(of_verbs.folder, "converted")
    with open(target, "rb") as file:
        converted = file.read()
    memory = GuestMemory(PAGES)
    guests.load(target, memory)
    assert memory.pages.tobytes() == of_verbs.guest.memory.pages.tobytes()
    for side in others:
        if side.kind == "peer":
            side.run()
            with open(target, "rb") as file:
                assert file.read() == converted


@pytest.mark.parametrize("name", ["verify", "verify, one page a record"])
def test_verifying_verifies(of_verbs, name):
    assert of_verbs.workload(name).sides[0].run().pages == PAGES


def test_reading_from_a_pipe_reads_it_all(of_verbs):
    of_verbs.copy[:] = 1
    of_verbs.workload("decode from a pipe").sides[1].run()
    with open(of_verbs.files.full, "rb") as file:
        content = file.read()
    # What doesn't fit is read over what was there.
    beyond = len(content) - of_verbs.size
    assert of_verbs.copy.tobytes() == content[-beyond:] + content[beyond:-beyond]


def test_peers_do_the_same(of_kernels):
    """The workloads whose result can be seen."""
    checksums = [side.run() for side in of_kernels.workload("CRC32C").sides if side.kind != "machine"]
    assert len(set(checksums)) == 1
    for name, found in (("zero scan", PAGES), ("compare", 0)):
        assert of_kernels.workload(name).sides[0].run() == found
    assert len(of_kernels.workload("zero scan").sides[2].run()) == PAGES
    ours, numpys = of_kernels.workload("bitmap to PFNs").sides
    assert ours.run() == len(numpys.run())


# --- the claim

@pytest.mark.parametrize("kind", ["hvm", "pv"])
def test_every_form_writes_a_stream_of_the_guest(tmp_path, kind):
    guest = guests.seeded_guest(PAGES, kind)
    for form in claim.FORMS:
        if form.name != claim.SPLICED:
            path = tmp_path / form.name
            with path.open("wb", buffering=0) as file:
                form.write(guest, file.fileno())
            memory = GuestMemory(PAGES)
            guests.load(str(path), memory)
            assert memory.pages.tobytes() == guest.memory.pages.tobytes(), form.name


def test_cases_of_the_claim(other_end):
    with contextlib.closing(claim.Claim("hvm", 1 << 20, other_end)) as made:
        names = []
        for case in made.cases():
            names.append(case.workload.name)
            assert len(case.sizes) == len(case.workload.sides) and min(case.sizes) > 1 << 20
            for side in case.workload.sides:
                side.run()
        assert names == list(claim.case_names("hvm", 1 << 20))


def test_large_guests_have_fewer_cases():
    assert set(claim.case_names("hvm", claim.LARGE)).isdisjoint(claim.case_names("hvm", 1 << 20))
    assert len(claim.case_names("hvm", claim.LARGE)) < len(claim.case_names("hvm", 1 << 20))


# --- timing

def test_all_sides_are_measured_in_turn():
    calls = []
    figures = timing.measure([lambda: calls.append("a"), lambda: calls.append("b")], timing.Effort(2, 3, 60))
    assert "".join(calls) == "ab" "ab" "ba" "ab"
    for one in figures:
        assert one.seconds.least <= one.seconds.median <= one.seconds.most
    assert figures[0].ratio == (1, 1, 1)


def test_the_least_rounds_are_run_whatever_time_they_take():
    calls = []
    sides = [lambda: calls.append("a"), lambda: calls.append("b")]
    timing.measure(sides, timing.Effort(2, 50, 0))
    assert "".join(calls) == "ab" + "ab" + "ba"
    calls.clear()
    timing.measure(sides, timing.Effort(2, 50, 0, warm=False))
    assert "".join(calls) == "a" + "ab" + "ba"


def test_calls_and_memory_are_counted():
    if timing.once(lambda: None).calls is None:
        pytest.skip("not applicable: this kernel doesn't count them")
    fd = os.open(os.devnull, os.O_WRONLY)
    none, ten = timing.once(lambda: None), timing.once(lambda: [os.write(fd, b"x") for _ in range(10)])
    os.close(fd)
    assert ten.calls - none.calls == 10
    # More than malloc ever takes from memory that it kept.
    assert timing.once(lambda: bytearray(b"x") * (64 << 20)).peak > 63 << 20


def test_the_partner_says_when_it_is_gone():
    gone = partner.Partner()
    gone._taker._process.kill()
    gone._taker._process.wait()
    with pytest.raises(OSError):
        gone.take(partner.pipe(), lambda fd: None)
    gone.close()


def test_scratch_goes():
    with machine.scratch(1 << 20) as folder:
        assert os.path.isdir(folder)
    assert not os.path.exists(folder)
    with machine.scratch(1 << 60) as folder:
        assert not folder.startswith("/dev/shm")


# --- sweeps

def test_slopes():
    sweep = sweeps.Sweep("a", "b", "c", [sweeps.Point(x, str(x), 1 + x * 3e-9) for x in (0, 5, 10)])
    assert sweep.slope == pytest.approx(3, rel=1e-3)


def test_sweeps_keep_both_ends(run):
    for sweep in run["sweeps"]:
        assert len(sweep["points"]) >= 2 and all(point["seconds"] > 0 for point in sweep["points"])
    labels = {sweep["name"]: [point["label"] for point in sweep["points"]] for sweep in run["sweeps"]}
    assert labels["verify by pages in a batch"][0] == "1024" and labels["verify by pages in a batch"][-1] == "1"


# --- documents

def test_a_run_is_kept_and_compared(run, tmp_path):
    path = str(tmp_path / "run")
    runs.save(run, path)
    kept = runs.load(path)
    assert kept == json.loads(json.dumps(run))
    assert {change.verdict for change in runs.changes(kept, run)} == {"level"}
    assert not runs.fallen(kept, run)


@pytest.mark.parametrize("content", ["", "[]", "{}", "no JSON", '{"format": "another"}'])
def test_what_is_no_run_is_said_to_be_none(tmp_path, content):
    path = tmp_path / "bad"
    path.write_text(content)
    with pytest.raises(runs.UsageError):
        runs.load(str(path))


def ratio(median, spread=0.0, tolerance=0.2):
    return {"median": median, "least": median - spread, "most": median + spread, "tolerance": tolerance,
            "workload": "decode", "kind": "machine"}


@pytest.mark.parametrize("before, now, verdict", [
    (ratio(1.0), ratio(1.02), "level"), (ratio(1.0), ratio(1.2), "better"), (ratio(1.0), ratio(0.8), "worse"),
    (ratio(1.0, 0.3), ratio(0.8), "level"), (ratio(1.0), ratio(0.8, 0.3), "level"), (ratio(1.0), None, "gone"),
])
def test_what_counts_as_a_change(before, now, verdict):
    changes = runs.changes({"ratios": {"a": before}}, {"ratios": {"a": now} if now else {}})
    assert [change.verdict for change in changes] == [verdict]


@pytest.mark.parametrize("now, falls", [(0.81, False), (0.79, True), (1.5, False)])
def test_what_counts_as_fallen(now, falls):
    lost = runs.fallen({"ratios": {"a": ratio(1.0)}}, {"ratios": {"a": ratio(now)}})
    assert lost == ({"a": "decode"} if falls else {})


def test_the_claim_names_its_exceptions(run):
    claimed = copy.deepcopy(run)
    claimed["claim"] = claimed["claim"][:3]
    for row, one in zip(claimed["claim"], (ratio(1.5), ratio(0.9), ratio(0.9, 0.2))):
        row["sides"] = [row["sides"][0], dict(row["sides"][0], name="legacy64 write", ratio=one)]
    _, second, third = (row["name"] for row in claimed["claim"])
    assert runs.standings(claimed) == [("legacy64 write", 1, [third], [second])]
    line, = text.verdict(claimed)
    assert "ahead in 1; level in 1: {}; behind in 1: {}.".format(third, second) in line


# --- the command

def test_table(tiny, capsys):
    assert command.main(["--quick"]) == 0
    out = capsys.readouterr().out
    for name in (*suite.NAMES, "slope", "HVM 1 MiB to pipe", "PV 1 MiB from file", guests.MIX):
        assert name in out


def test_json(tiny, capsys):
    assert command.main(["--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in document["parts"]}
    assert rows["decode"]["bytes"] == 1 << 20 and document["ratios"]["decode: memcpy"]["median"] > 0
    assert document["guest"]["pages"] == 256 and document["machine"]["cores"] >= 1


def test_a_stream_of_ones_own(tiny, tmp_path, capsys):
    path = tmp_path / "stream"
    path.write_bytes(samples.hvm())
    assert command.main([str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["guest"] == {"bytes": 5 * 4096, "pages": 5, "source": str(path)}
    assert document["parts"] and not document["claim"]


def test_bad_arguments(tiny, tmp_path, capsys):
    path = tmp_path / "bad"
    path.write_bytes(b"no stream")
    assert command.main([str(path)]) == 1
    assert command.main([str(tmp_path / "absent")]) == 2
    assert command.main(["--compare", str(path)]) == 2
    assert command.main(["--profile", "nothing"]) == 2
    error = capsys.readouterr().err
    assert "not a stream" in error and "there are: decode," in error


def test_check(tiny, tmp_path, monkeypatch, capsys):
    baseline = tmp_path / (machine.cpu_family() + ".json")
    monkeypatch.setattr(runs, "BASELINES", tmp_path)
    assert command.main(["--save", str(baseline)]) == 0
    kept = runs.load(str(baseline))
    for one in kept["ratios"].values():
        one["median"] /= 1000  # nothing falls so far
    runs.save(kept, str(baseline))
    assert command.main(["--check"]) == 0
    kept["ratios"]["decode: memcpy"]["median"] = 1e9
    kept["ratios"]["of another time: memcpy"] = ratio(1)
    runs.save(kept, str(baseline))
    assert command.main(["--check"]) == 1
    error = capsys.readouterr().err
    assert "fallen: decode: memcpy" in error and error.count("fallen") == 1
    assert "1 of its ratios weren't measured" in error
    assert command.main(["--check", "--size", "2M"]) == 2


@pytest.mark.parametrize("others, stolen", [(0.5, 0.0), (0.0, 0.2)])
def test_no_verdict_on_a_busy_machine(tiny, tmp_path, monkeypatch, capsys, others, stolen):
    baseline = tmp_path / (machine.cpu_family() + ".json")
    monkeypatch.setattr(runs, "BASELINES", tmp_path)
    assert command.main(["--save", str(baseline)]) == 0
    assert "busy" not in capsys.readouterr().err
    kept = runs.load(str(baseline))
    kept["ratios"]["decode: memcpy"]["median"] = 1e9
    runs.save(kept, str(baseline))
    monkeypatch.setattr(machine, "others_at_work", lambda: others)
    monkeypatch.setattr(machine, "stolen_since", lambda start: stolen)
    assert command.main(["--check"]) == 0
    error = capsys.readouterr().err
    assert "WARNING: the machine is busy" in error and "fallen: decode" in error and "no verdict" in error


def test_how_busy_the_machine_is():
    start = machine.cpu_times()
    assert 0 <= machine.others_at_work() <= 1 and 0 <= machine.stolen_since(start) <= 1
    assert machine.stolen_since(None) == 0
    assert machine.Busy(0.2, 0) and machine.Busy(0, 0.2) and not machine.Busy(0.05, 0.05)


@pytest.mark.parametrize("columns", [72, 80, 100, 0])
def test_text_fits_the_terminal(run, monkeypatch, capsys, columns):
    for module in (text, printing):
        monkeypatch.setattr(module, "terminal_width", lambda: columns or None)
    text.print_run(run)
    lines = capsys.readouterr().out.splitlines()
    widest = max(map(len, lines))
    assert widest <= columns if columns else widest > 120
    words = " ".join(lines)
    for head in ("CPU ns/page", "spread", "peak KiB", "legacy64 write", "slope"):
        assert head in words


def test_check_on_a_cpu_without_a_baseline(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs, "BASELINES", tmp_path)
    monkeypatch.setattr(machine, "cpu_family", lambda: "AuthenticAMD-25-17")
    runs.save(dict(runs.document({}, {"bytes": 1}), ratios={}), str(tmp_path / "GenuineIntel-6-143.json"))
    assert command.main(["--check"]) == 0
    assert "no baseline for CPU family AuthenticAMD-25-17" in capsys.readouterr().err


def test_the_baselines_are_runs():
    if not runs.BASELINES.exists():
        pytest.skip("they come with a checkout only")
    paths = sorted(runs.BASELINES.glob("*.json"))
    assert paths
    for path in paths:
        baseline = runs.load(str(path))
        assert baseline["machine"]["family"] == path.stem
        assert baseline["guest"]["bytes"] == suite.FULL.size == suite.QUICK.size
        assert all(0 < one["tolerance"] < 1 for one in baseline["ratios"].values())


def test_compare(tiny, tmp_path, capsys):
    path = str(tmp_path / "run")
    assert command.main(["--save", path]) == 0
    assert command.main(["--compare", path, "--compare", path]) == 0
    assert "since " + path in capsys.readouterr().out


def test_profile(tiny, monkeypatch, capsys):
    monkeypatch.setattr(command, "_PROFILE_SECONDS", 0.01)
    for name in ("decode", "save PV 1 MiB to pipe"):
        assert command.main(["--profile", name]) == 0
        assert name in capsys.readouterr().err


# --- what there is to look at

class Tags(HTMLParser):
    """Checks that what is opened is closed, and counts."""

    VOID = ("meta",)

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.links = [], [], []

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(content):
    tags = Tags()
    tags.feed(content)
    assert not tags.open
    return tags


def older(run):
    earlier = copy.deepcopy(run)
    earlier["when"] = datetime.datetime(2020, 1, 1).isoformat()
    return earlier


def test_page_is_whole_and_needs_nothing_else(run):
    content = page.page(run, [older(run)])
    tags = parsed(content)
    assert not tags.links and "script" not in tags.seen and "url(" not in content and "@import" not in content
    assert tags.seen.count("figure") > 20 and tags.seen.count("table") > 5
    for heading in ("against the legacy format", "machine's limits", "History", "How cost grows", "All figures"):
        assert heading in content


def test_bars_over_the_scale_are_marked(run):
    assert "arrow" not in page._bar(1.2) and "arrow" in page._bar(1.3) and "arrow" in page._bar(30)


def test_a_chart_with_one_point_is_drawn_as_bars(run):
    """As in a run with --quick."""
    single = dict(run, claim=[row for row in run["claim"] if row["size"] == run["claim"][0]["size"]], sweeps=[])
    assert "polyline" not in page.page(single, [])


def test_axis_labels_are_inside_the_picture():
    for label in ("64 M", "1024 pages", "one page a record"):
        for place in range(page._LEFT, page._WIDTH - page._RIGHT + 1):
            size = len(label) * page._CHARACTER
            left = {"start": place, "middle": place - size / 2, "end": place - size}[page._anchor(place, label)]
            assert left >= 0 and left + size <= page._WIDTH + 1


def test_page_escapes_what_it_is_told(run):
    hostile = copy.deepcopy(run)
    hostile["guest"]["source"] = "<script>alert(1)</script>"
    hostile["parts"][0]["name"] = "<b>&"
    tags = parsed(page.page(hostile, []))
    assert "script" not in tags.seen and "b" not in tags.seen


def test_page_of_a_stream_has_what_there_is(run):
    less = dict(run, claim=[], sweeps=[])
    assert "How cost grows" not in page.page(less, []) and "History" not in page.page(less, [])


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(not CHROMIUM, reason="no chromium here: apt-get install chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_page_in_a_browser(run, tmp_path, width):
    """The page needs no script and no network, and nothing is wider than the window."""
    source = tmp_path / "page.html"
    content = page.page(run, [older(run)])
    probe = ("<script>document.title = [document.documentElement.scrollWidth <= innerWidth, "
             "[...document.querySelectorAll('figure svg')].filter(one => one.clientHeight > 60).length, "
             "getComputedStyle(document.body).backgroundColor].join('|')</script></body>")
    source.write_text(content.replace("</body>", probe), encoding="utf-8")
    shown = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir=" + str(tmp_path / "profile"),
         "--window-size={},900".format(width), "--host-resolver-rules=MAP * 127.0.0.1:1", "--dump-dom",
         source.as_uri()],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=120).stdout.decode("utf-8")
    title = shown.split("<title>")[1].split("</title>")[0].split("|")
    assert title[0] == "true" and int(title[1]) == content.count(page.CHART) and title[2].startswith("rgb")
