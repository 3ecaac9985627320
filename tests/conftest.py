"""What the tests share: Xen's tools, genuine streams, and how hypothesis runs."""
import os
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Iterator, List

import genuine_streams
import hypothesis
import pytest
import xen_tools as tools

import xstream

# Examples are timed by no one: the machines that run the tests are shared. In CI they are the same in every run.
hypothesis.settings.register_profile(
    "xstream", deadline=None, derandomize="CI" in os.environ, print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("xstream")

GROUPS = {"v3_stream": "v3", "xl_stream": "xl", "legacy_stream": "legacy"}


def pytest_configure(config: Any) -> None:
    """Where a tool or the streams must be there, their absence is an error and not a skip."""
    if os.environ.get("XSTREAM_REQUIRE_XEN_TOOLS") == "1" and tools.folder() is None:
        raise pytest.UsageError(tools.ABSENT)
    if os.environ.get("XSTREAM_REQUIRE_STREAMS") == "1" and genuine_streams.folder() is None:
        raise pytest.UsageError(genuine_streams.ABSENT)


def pytest_report_header(config: Any) -> List[str]:
    return ["xstream: {}".format(Path(xstream.__file__).parent),
            "Xen tools: {}".format(tools.folder() or "absent"),
            "genuine streams: {}".format(genuine_streams.folder() or "absent")]


def pytest_generate_tests(metafunc: Any) -> None:
    """Run a test that takes the stream of a group once for each stream of the group."""
    for fixture, group in GROUPS.items():
        if fixture in metafunc.fixturenames:
            here = genuine_streams.names(group) if genuine_streams.folder() else ["absent"]
            metafunc.parametrize(fixture, [(group, name) for name in here], indirect=True, ids=here)


@pytest.fixture(scope="session")
def genuine_stream() -> Iterator[Callable[[str, str], genuine_streams.GenuineStream]]:
    """A function from group and file name to the stream, unpacked; unpacked files are shared: don't write to them."""
    if genuine_streams.folder() is None:
        pytest.skip(genuine_streams.ABSENT)
    with tempfile.TemporaryDirectory(prefix="xstream-streams-") as into:
        yield lambda group, name: genuine_streams.unpack(group, name, Path(into))


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
