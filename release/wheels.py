"""Build, check and try a release: the part of scripts/wheels after its tools are installed."""
import argparse
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict, List

import trials
from builds import HERE, TARGETS, Tools, build_bundle, build_sdist, build_wheel, digest, files, folder, run
from checks import check_metadata, check_wheel

CHECKOUT = HERE.parent
#: Hosts that aren't a Python of this machine; a script makes them on demand.
MADE = {"musl": "musl-python", "aarch64": "arm-python"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/wheels", description="Build, check and try out a release.")
    parser.add_argument("hosts", nargs="*", metavar="HOST",
                        help='try it on: a version of Python ("3": the newest), musl or aarch64; default: all')
    parser.add_argument("--kernels", action="store_const", const="tests/kernels", default="tests", dest="tests",
                        help="run only the kernels' tests; everything else is the same in all wheels and the sdist")
    options = parser.parse_args()
    hosts = options.hosts or at_hand() + list(MADE)
    tools = Tools(CHECKOUT / ".venv-wheels", int(run(["git", "-C", CHECKOUT, "log", "-1", "--format=%ct"])))
    if run(["git", "-C", CHECKOUT, "status", "--porcelain"]):
        say("Uncommitted changes aren't built.")
    dist = CHECKOUT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="xstream-wheels-") as scratch:
        wheels = build_all(tools, Path(scratch), dist)
        for host in hosts:
            try_host(tools, host, wheels, dist, options.tests, Path(scratch) / ("host-" + host))
    say("Done")


def at_hand() -> List[str]:
    return [version for version in ("3.{}".format(minor) for minor in range(6, 20)) if trials.find_python(version)]


def build_all(tools: Tools, scratch: Path, dist: Path) -> Dict[str, Path]:
    """Build everything twice, compare the builds and check them; returns the wheel of each target."""
    with ThreadPoolExecutor(2) as pool:
        folders = [folder(dist), folder(scratch / "again")]
        sdists = list(pool.map(lambda to: build_sdist(tools, CHECKOUT, scratch / ("sdist-" + to.name), to), folders))
        builds = [(target, sdist) for target in TARGETS for sdist in sdists]
        made = list(pool.map(lambda build: build_wheel(
            tools, build[0], build[1], scratch / "{}-{}".format(build[0].name, build[1].parent.name), build[1].parent),
            builds))
    wheels = {target.name: made[2 * index] for index, target in enumerate(TARGETS)}
    for to in folders:
        build_bundle(tools, to / wheels["cp36"].name, scratch / ("bundle-" + to.name), to)
    bytes_of = [{path.name: digest(path) for path in files(to)} for to in folders]
    if bytes_of[0] != bytes_of[1]:
        raise SystemExit("two builds differ: {}".format(sorted(
            name for name in bytes_of[0] if bytes_of[0][name] != bytes_of[1].get(name))))
    say("Built twice, identical:")
    for path in files(dist):
        say("{:>10}  {}  {}".format(path.stat().st_size, digest(path), path.name))
    for target in TARGETS:
        check_wheel(tools, target, wheels[target.name])
    check_metadata(tools, sdists[0])
    say("Checked: contents, metadata, symbols, libraries, ABI")
    return wheels


def try_host(tools: Tools, host: str, wheels: Dict[str, Path], dist: Path, tests: str, scratch: Path) -> None:
    sdist, bundle = next(dist.glob("xen_xstream-*.tar.gz")), next(dist.glob("xstream-*.tar.gz"))
    if host in MADE:
        run([CHECKOUT / "scripts" / MADE[host], tools.folder / host])
    if host == "aarch64":
        emulated = tools.folder / host / "python3"
        report("aarch64", trials.try_aarch64(emulated, wheels["abi3-aarch64"], folder(scratch)))
        return
    python = trials.describe(tools.folder / host / "bin" / "python3") if host == "musl" else trials.find_python(host)
    if python is None:
        raise SystemExit("Python {} isn't installed".format(host))
    name = "Python {}{}".format(python.version, " on musl" if python.musl else "")
    report("{}, {}".format(name, python.target() or "no wheel; the sdist"),
           trials.try_python(python, wheels, sdist, tests, folder(scratch)))
    if python.target() == "cp36":
        other = trials.describe(tools.python())
        report(name + ", the bundle", trials.try_bundle(python, other, bundle, folder(scratch / "bundle")))


def report(host: str, found: List[str]) -> None:
    say(host)
    for line in found:
        say("    " + line)


def say(line: str) -> None:
    print("[{:4.0f} s] {}".format(time.monotonic() - STARTED, line), flush=True)


STARTED = time.monotonic()
if __name__ == "__main__":
    sys.exit(main())
