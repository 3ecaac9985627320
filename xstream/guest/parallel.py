"""Threads that share the work on one batch of pages.

The kernels release the GIL while they copy and compute, so threads are enough. One thread reads the stream and decides
what to do; only work on pages that don't depend on each other is shared. The order of records, and which error is
raised, are therefore the same with any number of jobs.
"""
from xstream.kernels import pfns as pfn_kernel
from xstream.stream.threads import thread_pool
from xstream.tuples import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor
    from types import TracebackType
    from typing import Callable, Iterator, List, Optional, Sequence, Tuple, Type

#: Pages that are worth a task of their own. Starting one costs about as much as copying ten pages.
TASK_PAGES = 256
#: Unfinished tasks per thread that Workers.begin leaves behind.
_WAITING = 2


class Applied(NamedTuple):
    """What a batch did: the number of pages in it, of those the first of their PFN, and repetitions."""

    data: int
    new: int
    resent: int


def task(function: "Callable[..., object]", *values: object) -> "Callable[[], object]":
    """A task for ``Workers.run``: a call of a function."""
    return lambda: function(*values)


class Workers:
    """A pool of ``jobs`` threads, for use in a with statement. With one job, tasks run in the calling thread.

    Raises ValueError unless ``jobs`` is positive.
    """

    def __init__(self, jobs: int = 1) -> None:
        if jobs < 1:
            raise ValueError("jobs must be at least 1, not {}".format(jobs))
        self.jobs = jobs
        self._pool: Optional[ThreadPoolExecutor] = None
        self._begun: List[Tuple[Future[object], Tuple[int, int]]] = []

    def begin(self, tasks: "Sequence[Callable[[], object]]", span: "Tuple[int, int]") -> None:
        """Start tasks that don't depend on each other; :meth:`wait` returns when they have ended. Returns at once,
        unless there are twice as many unfinished tasks as threads.

        ``span``: the lowest and highest PFN that they write. Unfinished tasks of an overlapping span are waited for
        first.

        Raises the error of the first task that failed, in the order in which they were begun. Later tasks may have run.
        """
        if any(span[0] <= high and low <= span[1] for _, (low, high) in self._begun):
            self.wait()
        for task in tasks:
            while len(self._begun) >= _WAITING * self.jobs:
                self._finish_first()
            self._begun.append((self._need_pool().submit(task), span))

    def start(self, tasks: "Sequence[Callable[[], object]]") -> "List[Future[object]]":
        """Start tasks that don't depend on each other, for the caller to wait for."""
        return [self._need_pool().submit(task) for task in tasks]

    def wait(self) -> None:
        """Return when all tasks that were begun have ended. Raises the error of the first one that failed."""
        while self._begun:
            self._finish_first()

    def _finish_first(self) -> None:
        task, _ = self._begun.pop(0)
        task.result()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: "Optional[Type[BaseException]]", error: "Optional[BaseException]",
                 traceback: "Optional[TracebackType]") -> None:
        self.close()

    def close(self) -> None:
        """End the threads. Tasks that were begun and not waited for may or may not run."""
        while self._begun:
            self._begun.pop(0)[0].cancel()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def run(self, tasks: "Sequence[Callable[[], object]]") -> None:
        """Run all tasks; returns when they have ended. They must not depend on each other.

        Raises the error of the first task, in the given order, that failed. Later tasks may have run.
        """
        if self.jobs == 1 or len(tasks) < 2:
            for task in tasks:
                task()
            return
        begun = [self._need_pool().submit(task) for task in tasks]
        errors = [future.exception() for future in begun]
        for error in errors:
            if error is not None:
                raise error

    def _need_pool(self) -> "ThreadPoolExecutor":
        if self._pool is None:
            self._pool = thread_pool(self.jobs)
        return self._pool


ONE_THREAD = Workers()


def jobs_for(pfns: memoryview, applied: Applied, workers: Workers) -> int:
    """How many threads may copy pages to these PFNs at once: one if a PFN may occur twice, because its last page
    must win."""
    return 1 if applied.resent and not pfn_kernel.ascending(pfns) else workers.jobs


def shares(pages: int, jobs: int) -> "Iterator[Tuple[int, int]]":
    """Ranges of a batch's pages of about equal size, at most one for each job and none smaller than a task is worth."""
    count = max(1, min(jobs, pages // TASK_PAGES))
    return ((pages * share // count, pages * (share + 1) // count) for share in range(count))


def run_shares(extents: memoryview, jobs: int) -> "Iterator[Tuple[int, int, memoryview]]":
    """The extents of a PageRun, in pieces that are worth a task (with one job, in one piece), each with the range of
    pages in it."""
    first = end = begin = 0
    for at in range(0, len(extents), 2):
        end += extents[at + 1]
        if at + 2 == len(extents) or (jobs > 1 and end - first >= TASK_PAGES):
            yield first, end, extents[begin:at + 2]
            first, begin = end, at + 2
