"""Which implementation a kernel chooses: with some compilers, the usual builtins report no CPU features at all."""
import platform
import re
from pathlib import Path

from xstream.kernels import checksum, pages

#: Implementations of CRC32C in order of preference, best last, and the CPU flags that each needs.
CRC32C = (("generic", set()), ("sse4.2", {"sse4_2"}), ("pclmul", {"sse4_2", "pclmulqdq"}),
          ("vpclmul-avx2", {"avx2", "vpclmulqdq"}), ("vpclmul-avx512", {"avx2", "avx512f", "vpclmulqdq"}))
PAGES = (("generic", set()), ("avx2", {"avx2"}), ("memcpy", {"avx2"}))


def flags():
    """The flags of this CPU, as Linux sees them. An emulated CPU shows its host's."""
    found = re.search("^flags\\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return set(found.group(1).split()) if found and platform.machine() == "x86_64" else set()


def test_everything_that_the_cpu_has_is_offered_and_the_best_is_used():
    for kernel, every in ((checksum, CRC32C), (pages, PAGES)):
        assert kernel.implementations() == tuple(name for name, needs in every if needs <= flags())
    assert checksum.implementation() == checksum.implementations()[-1]
    vectors = "memcpy" if is_known_to_copy_well() else "avx2"
    assert pages.implementation() == (vectors if "avx2" in flags() else "generic")


def is_known_to_copy_well():
    return "GenuineIntel" in Path("/proc/cpuinfo").read_text() and "fsrm" in flags()


def test_heads_go_together_with_pages_on_cpus_known_to_copy_well_then():
    assert pages.HEADS_APART is not is_known_to_copy_well()
