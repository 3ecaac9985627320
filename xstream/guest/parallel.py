"""Threads that share the work on one batch of pages.

The kernels release the GIL while they copy and compute, so threads are enough. One thread reads the stream and decides
what to do; only work on pages that don't depend on each other is shared. The order of records, and which error is
raised, are therefore the same with any number of jobs.
"""
from collections import deque

from xstream.stream.threads import thread_pool
from xstream.stream.threads import usable_cpus as usable_cpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor
    from types import TracebackType
    from typing import Callable, Deque, List, Optional, Sequence, Tuple, Type

#: Pages that are worth a task of their own. Starting one costs about as much as copying ten pages.
TASK_PAGES = 256
#: Unfinished tasks per thread that Workers.begin leaves behind.
_WAITING = 2


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
        self._begun: Deque[Tuple[Future[object], Tuple[int, int]]] = deque()

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
        task, _ = self._begun.popleft()
        task.result()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: "Optional[Type[BaseException]]", error: "Optional[BaseException]",
                 traceback: "Optional[TracebackType]") -> None:
        self.close()

    def close(self) -> None:
        """End the threads. Tasks that were begun and not waited for may or may not run."""
        while self._begun:
            self._begun.popleft()[0].cancel()
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
