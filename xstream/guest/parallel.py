"""Threads that share the work on one batch of pages.

The kernels release the GIL while they copy and compute, so threads are enough. One thread reads the stream and decides
what to do; only work on pages that don't depend on each other is shared. The order of records, and which error is
raised, are therefore the same with any number of jobs.
"""
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor
    from types import TracebackType
    from typing import Callable, Optional, Sequence, Type

#: Pages that are worth a task of their own. Starting one costs about as much as copying ten pages.
TASK_PAGES = 256


def usable_cpus() -> int:
    """The number of CPUs that this process may run on."""
    return len(os.sched_getaffinity(0))


class Workers:
    """A pool of ``jobs`` threads, for use in a with statement. With one job, tasks run in the calling thread.

    Raises ValueError unless ``jobs`` is positive.
    """

    def __init__(self, jobs: int = 1) -> None:
        if jobs < 1:
            raise ValueError("jobs must be at least 1, not {}".format(jobs))
        self.jobs = jobs
        self._pool: Optional[ThreadPoolExecutor] = None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: "Optional[Type[BaseException]]", error: "Optional[BaseException]",
                 traceback: "Optional[TracebackType]") -> None:
        self.close()

    def close(self) -> None:
        """End the threads."""
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
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor
            self._pool = ThreadPoolExecutor(self.jobs)
        begun = [self._pool.submit(task) for task in tasks]
        errors = [future.exception() for future in begun]
        for error in errors:
            if error is not None:
                raise error


ONE_THREAD = Workers()
