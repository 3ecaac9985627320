"""``python -m xstream.bench``: arguments, and what is run."""
import argparse
import json
import os
import sys
import time
from typing import Iterable, List, Optional

try:
    import numpy  # noqa: F401
except ImportError:
    print("xstream.bench: this needs numpy, which isn't installed here", file=sys.stderr)
    sys.exit(2)

from xstream.arguments import parse_size
from xstream.bench import machine, runs, text
from xstream.bench.claim import room_for, size_name
from xstream.bench.page import page
from xstream.bench.partner import Partner
from xstream.bench.suite import FULL, QUICK, Extent, Suite
from xstream.errors import StreamError

#: Seconds that a profiled workload runs: enough for some thousands of samples.
_PROFILE_SECONDS = 10


def main(arguments: Optional[List[str]] = None) -> int:
    """Measure and print. Returns the exit status: 0; 1 for a bad stream, or a ratio that has fallen on a machine that
    isn't busy; 2 for a usage error or an operating-system error."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except StreamError as error:
        print("xstream.bench: {}".format(error), file=sys.stderr)
        return 1
    except (OSError, runs.UsageError) as error:
        print("xstream.bench: {}".format(error), file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m xstream.bench", description="Measure how fast streams are read and written, compared with the "
        "limits of the machine, with other programs, and version 3 with the legacy format. All sides of a comparison "
        "are measured in one run.")
    parser.add_argument("stream", nargs="?", help="measure the parts only, on the final memory of this libxc stream; "
                                                  "default: a seeded guest, sweeps and the claim")
    parser.add_argument("--quick", action="store_true",
                        help="a small guest for the claim, no other programs, and few rounds: under 15 seconds on a "
                             "quiet machine")
    parser.add_argument("--size", type=parse_size,
                        help="size of the guest for the parts (K, M, G; default {})".format(size_name(FULL.size)))
    parser.add_argument("--sizes", type=_sizes,
                        help="sizes of the guests for the claim, HVM and PV (default 64M,256M, and HVM only 1G,4G, as "
                             "far as memory allows; with --quick 64M)")
    parser.add_argument("--rounds", type=int, help="rounds for each row (default {0.least} to {0.most}, with --quick "
                        "{1.least} to {1.most}, as time allows)".format(FULL.effort, QUICK.effort))
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--save", metavar="FILE", help="save the run")
    parser.add_argument("--compare", metavar="FILE", action="append", default=[],
                        help="show what has changed since a saved run; if repeated, since the last one, and --html "
                             "shows all of them as its history")
    parser.add_argument("--check", action="store_true",
                        help="fail if a ratio is below the baseline's by more than its tolerance, unless the machine "
                             "is busy; bench_data/ has a baseline for each CPU family measured")
    parser.add_argument("--html", metavar="FILE", help="write the run as an HTML page")
    parser.add_argument("--profile", metavar="NAME", help="run one workload for ten seconds, for perf or py-spy")
    return parser


def _sizes(argument: str) -> List[int]:
    return [parse_size(size) for size in argument.split(",")]


def _run(options: argparse.Namespace) -> int:
    before = [runs.load(path) for path in options.compare]
    extent = _extent(options)
    family = machine.cpu_family()
    baseline = runs.load_baseline(family) if options.check else None
    if options.check and baseline is None:
        print("xstream.bench: no baseline for CPU family {}: nothing is compared. --save bench_data/{}.json makes "
              "one.".format(family, family), file=sys.stderr)
    if baseline and (options.stream or baseline["guest"]["bytes"] != extent.size):
        raise runs.UsageError("the baseline was measured with the seeded guest of {}".format(
            size_name(baseline["guest"]["bytes"])))
    others, start = machine.others_at_work(), machine.cpu_times()
    partner = Partner()  # before any memory is allocated
    try:
        suite = Suite(extent, options.stream, partner)
        if options.profile:
            return _profile(suite, options.profile)
        run = suite.run()
        lost = runs.fallen(baseline, run) if baseline else {}
        if baseline and lost:
            # Measure again, with more rounds, before anything is reported.
            suite.run_again(run, set(lost.values()))
            lost = runs.fallen(baseline, run)
    finally:
        partner.close()
    busy = machine.Busy(max(others, machine.others_at_work()), machine.stolen_since(start))
    run["machine"]["busy"] = busy._asdict()
    _report(options, run, before)
    if busy:
        print("xstream.bench: WARNING: the machine is busy: other work took {:.0%} of all CPU time while the bench "
              "waited, the hypervisor {:.0%} during the run. Ratios can be wrong by a factor of two.".format(*busy),
              file=sys.stderr)
    if baseline:
        _report_check(baseline, run, lost)
        if busy and lost:
            print("no verdict: the machine is busy", file=sys.stderr)
    return 1 if lost and not busy else 0


def _extent(options: argparse.Namespace) -> Extent:
    extent = QUICK if options.quick else FULL
    claims = extent.claims
    if options.sizes:
        claims = [(kind, size) for size in options.sizes for kind in ("hvm", "pv")]
    else:
        claims = [(kind, size) for kind, size in claims if room_for(size) < machine.memory_available()]
    extent = extent._replace(size=options.size or extent.size, claims=claims)
    if options.rounds:
        effort = extent.effort._replace(least=options.rounds, most=options.rounds)
        extent = extent._replace(effort=effort, large=effort)
    return extent


def _report_check(baseline: runs.Document, run: runs.Document, lost: Iterable[str]) -> None:
    for name in lost:
        was, now = baseline["ratios"][name], run["ratios"][name]
        print("fallen: {}: {:.3f} ({}); the baseline has {:.3f}, with a tolerance of {:.0%}".format(
            name, now["median"], text.spread(now), was["median"], was["tolerance"]), file=sys.stderr)
    common = set(run["ratios"]) & set(baseline["ratios"])
    print("checked {} ratios against {}; {} of its ratios weren't measured".format(
        len(common), baseline["machine"]["family"] + ".json", len(baseline["ratios"]) - len(common)), file=sys.stderr)


def _report(options: argparse.Namespace, run: runs.Document, before: List[runs.Document]) -> None:
    if options.json:
        json.dump(run, sys.stdout, indent=1)
        print()
    else:
        text.print_run(run)
        if before:
            text.print_changes(options.compare[-1], runs.changes(before[-1], run))
    if options.save:
        runs.save(run, options.save)
    if options.html:
        with open(options.html, "w", encoding="utf-8") as file:
            file.write(page(run, before))


def _profile(suite: Suite, name: str) -> int:
    """Run our side of one workload for some seconds."""
    workload = suite.workload(name)
    print("{}: process {}, for {} seconds".format(name, os.getpid(), _PROFILE_SECONDS), file=sys.stderr)
    end, times = time.monotonic() + _PROFILE_SECONDS, 0
    while time.monotonic() < end:
        workload.sides[0].run()
        times += 1
    print("{} times".format(times), file=sys.stderr)
    suite.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
