"""What the tests share: Xen's tools, genuine streams, which tests are slow, and how hypothesis runs."""
import os
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Iterator, List

import analysis_tools
import genuine_streams
import hypothesis
import pytest
import xen_tools as tools

import xstream

# No deadlines: the machines that run the tests are shared. In CI every run has the same examples.
hypothesis.settings.register_profile(
    "xstream", deadline=None, derandomize="CI" in os.environ, print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("xstream")

#: What ``scripts/test --quick`` leaves out, by the beginning of a test's id. Others have the marker themselves.
SLOW = ("tests/kernels/", "tests/test_analysis_tools.py",
        "tests/test_bench.py", "tests/test_docs.py", "tests/test_engines.py::test_a_failover",
        "tests/test_engines.py::test_a_hook_of_the_source_fails", "tests/test_engines.py::test_the_stream_is_cut",
        "tests/test_fleet_cluster.py", "tests/test_fleet_remote.py", "tests/test_fleet_sftp.py",
        "tests/test_hostile.py", "tests/test_hostile_containers.py", "tests/test_legacy_hostile.py")

#: Where CI has installed every tool, a skipped test is a failed one, unless its reason begins with "not applicable".
REQUIRE_ALL = os.environ.get("XSTREAM_REQUIRE_ALL") == "1"

GROUPS = {"v3_stream": "v3", "xl_stream": "xl", "legacy_stream": "legacy"}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2]
        if not reason.startswith("Skipped: not applicable"):
            report.outcome, report.longrepr = "failed", "XSTREAM_REQUIRE_ALL is set, but: " + reason


def pytest_report_header(config: Any) -> List[str]:
    return ["xstream: {}".format(Path(xstream.__file__).parent),
            "Xen tools: {}".format(tools.folder() or "absent"),
            "genuine streams: {}".format(genuine_streams.folder() or "absent"),
            "analysis tools: {}".format("all" if not analysis_tools.missing()
                                        else "without " + ", ".join(analysis_tools.missing()))]


def pytest_collection_modifyitems(items: List[Any]) -> None:
    """Mark as slow what SLOW lists, and whatever decompresses genuine streams."""
    for item in items:
        if item.nodeid.startswith(SLOW) or "genuine_stream" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


def pytest_generate_tests(metafunc: Any) -> None:
    """Run a test that takes the stream of a group once for each stream of the group."""
    for fixture, group in GROUPS.items():
        if fixture in metafunc.fixturenames:
            here = genuine_streams.names(group) if genuine_streams.folder() else ["absent"]
            metafunc.parametrize(fixture, [(group, name) for name in here], indirect=True, ids=here)


@pytest.fixture(scope="session")
def genuine_stream() -> Iterator[Callable[[str, str], genuine_streams.GenuineStream]]:
    """A function from group and file name to the stream, decompressed. The files are shared: don't write to them."""
    with tempfile.TemporaryDirectory(prefix="xstream-streams-") as into:
        def unpacked(group: str, name: str) -> genuine_streams.GenuineStream:
            try:
                return genuine_streams.unpack(group, name, Path(into))
            except FileNotFoundError as error:
                pytest.skip(str(error))
        yield unpacked


@pytest.fixture
def v3_stream(request: Any, genuine_stream: Callable[..., Any]) -> genuine_streams.GenuineStream:
    """Each genuine libxc stream of version 3."""
    return genuine_stream(*request.param)


@pytest.fixture
def xl_stream(request: Any, genuine_stream: Callable[..., Any]) -> genuine_streams.GenuineStream:
    """Each genuine xl save file."""
    return genuine_stream(*request.param)


@pytest.fixture
def legacy_stream(request: Any, genuine_stream: Callable[..., Any]) -> genuine_streams.GenuineStream:
    """Each genuine legacy stream."""
    return genuine_stream(*request.param)


@pytest.fixture(scope="session")
def xen_tools() -> ModuleType:
    """The module of Xen's own tools."""
    if tools.folder() is None:
        pytest.skip(tools.ABSENT)
    return tools
