"""What a command loads: only what its input needs. Loading is most of what a command on a small stream costs."""
import subprocess
import sys

import containers
import pytest
import samples

#: Modules of Python that take as long to load as many of the package's.
SLOW = {"argparse", "contextlib", "enum", "functools", "inspect", "json", "pathlib", "re", "tempfile", "threading",
        "types", "typing"}
FORMATS = {"bz2", "lzma", "zlib", "xstream.stream.compressed", "xstream.stream.legacy_reader", "xstream.wire.legacy",
           "xstream.wire.sexp"}
CONTAINERS = {"xstream.stream.signs", "xstream.containers.layers", "xstream.wire.colo", "xstream.wire.xl"}
VERIFY = "from xstream.cli import main; assert main(['verify', '-']) == 0"
#: The helper fails where there is no Xen, once all has been loaded; libxl's answers are zeros.
HELPER = "from xstream.xen.save_helper import main; assert main({!r}.split()) == 0"


def loaded(script: str, stream: bytes) -> set:
    """The modules that a program has loaded; its standard input is ``stream``."""
    script = "import sys; sys.path[:0] = {!r}; {}; print(' '.join(sorted(sys.modules)), file=sys.stderr)".format(
        sys.path, script)
    done = subprocess.run([sys.executable, "-S", "-c", script], input=stream, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()
    return set(done.stderr.decode().splitlines()[-1].split())


def test_verifying_a_bare_stream_loads_no_other_format():
    found = loaded(VERIFY, samples.hvm())
    assert not found & (SLOW | FORMATS | CONTAINERS)
    assert len([name for name in found if name.split(".")[0] == "xstream"]) <= 45


def test_verifying_a_pv_stream_loads_no_other_format():
    assert not loaded(VERIFY, samples.pv()) & (SLOW | FORMATS | CONTAINERS)


def test_verifying_a_container_loads_no_codec():
    assert not loaded(VERIFY, containers.libxl()) & (SLOW | FORMATS)


@pytest.mark.parametrize("words, others, most", [
    ("--save-domain 3 -1 5 1 0 0", {"xstream.guest.memory", "xstream.stream.packing", "xstream.stream.reader"}, 40),
    ("--restore-domain 3 -1 5 1 0 1 0 0 0", {"xstream.guest.memory", "xstream.stream.sink", "xstream.wire.hvm_context",
                                            "xstream.wire.vcpu"}, 46)])
def test_the_save_helper_loads_what_its_mode_needs(words, others, most):
    found = loaded(HELPER.format(words), bytes(4096))
    assert not found & (SLOW | FORMATS | CONTAINERS | others | {"array", "select", "xstream.kernels.batches"})
    assert len([name for name in found if name.split(".")[0] == "xstream"]) <= most
