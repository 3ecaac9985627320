"""Which implementation a kernel chooses: a compiler may say of every CPU that it can do nothing."""
import platform
import re
from pathlib import Path

import pytest

from xstream.kernels import checksum, pages


@pytest.mark.parametrize("kernel, chosen, needs", [
    (checksum, "sse4.2", {"sse4_2", "pclmulqdq"}), (pages, "avx2", {"avx2"})], ids=["checksum", "pages"])
def test_what_the_cpu_can_do_is_used(kernel, chosen, needs):
    """As the kernel of the system sees the CPU; an emulated one shows its host's."""
    flags = re.search("^flags\\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    able = platform.machine() == "x86_64" and flags is not None and needs <= set(flags.group(1).split())
    assert kernel.implementation() == (chosen if able else "generic")
    assert kernel.implementations() == (("generic", chosen) if able else ("generic",))
