"""What a command loads: only what its input needs."""
import subprocess
import sys

import containers
import samples

SCRIPT = "import sys, xstream; xstream.verify(sys.stdin.buffer.fileno()); print(' '.join(sorted(sys.modules)))"


def loaded(stream: bytes) -> set:
    done = subprocess.run([sys.executable, "-S", "-c", "import sys; sys.path[:0] = {!r}; ".format(sys.path) + SCRIPT],
                          input=stream, stdout=subprocess.PIPE, check=True)
    return set(done.stdout.decode().split())


def test_verifying_a_bare_stream_loads_no_other_format():
    found = loaded(samples.hvm())
    assert not found & {"bz2", "lzma", "zlib", "json", "xstream.stream.compressed", "xstream.stream.legacy_reader",
                        "xstream.stream.signs", "xstream.containers.layers", "xstream.wire.legacy", "xstream.wire.colo"}


def test_verifying_a_container_loads_no_codec():
    assert not loaded(containers.libxl()) & {"bz2", "lzma", "zlib", "xstream.stream.compressed"}
