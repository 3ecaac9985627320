"""Threads, for what releases the GIL: copying, checksums, compression and decompression."""
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor


def usable_cpus() -> int:
    """The number of CPUs that this process may run on."""
    return len(os.sched_getaffinity(0))


def thread_pool(threads: int) -> "ThreadPoolExecutor":
    """A pool of threads."""
    from concurrent.futures import ThreadPoolExecutor  # loaded when threads are needed
    return ThreadPoolExecutor(threads)
