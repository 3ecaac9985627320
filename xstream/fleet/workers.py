"""Runs a function on many items, in processes of this machine or on a Dask cluster. An item that ends the process which
works on it doesn't take others with it: each item is accounted for once."""
import multiprocessing
import signal
import sys
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any, Callable, Dict, Generator, Iterable, Iterator, List, Optional, Tuple, TypeVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")
R = TypeVar("R")

#: (item, its result; None if it ended its process, twice)
Done = Tuple[T, Optional[R]]
#: Items handed out for each process, so that none waits for the next.
_AHEAD = 2


def in_processes(work: Callable[[T], R], items: Iterable[T], jobs: int) -> Iterator[Done[T, R]]:
    """Yields each item with its result, in the order in which they are done. ``jobs``: the number of processes.

    If a process ends, the items that were handed out are tried again, one at a time, in a process of their own. The
    function and the items must be picklable. What the function raises ends the iteration. Raises RuntimeError if no
    process can be started.
    """
    waiting = iter(items)
    while True:
        lost = yield from _in_one_pool(work, waiting, jobs)
        if not lost:
            return
        _check_start()
        for item in lost:
            if (yield from _in_one_pool(work, iter([item]), 1)):
                yield item, None


def _in_one_pool(work: Callable[[T], R], waiting: Iterator[T], jobs: int
                 ) -> Generator[Done[T, R], None, List[T]]:
    """Yields until all items are done, or a process has ended; returns the items that were lost then."""
    pool = _pool(jobs)
    running: Dict[Future[R], T] = {}
    lost: List[T] = []
    try:
        while True:
            while not lost and len(running) < _AHEAD * jobs:
                item = next(waiting, _NOTHING)
                if item is _NOTHING:
                    break
                try:
                    running[_submit(pool, work, item)] = item
                except BrokenProcessPool:
                    lost.append(item)  # type: ignore[arg-type]
            if not running:
                return lost
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                item = running.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    lost.append(item)
                else:
                    yield item, result
    finally:
        if running:  # the caller has had enough
            for future in running:
                future.cancel()
            # Python 3.6 would wait forever for a lock that a terminated process has held; there, their items end first.
            if sys.version_info >= (3, 7):  # noqa: UP036
                for process in list((pool._processes or {}).values()):  # terminate_workers() is new in Python 3.14
                    process.terminate()
        pool.shutdown()


_NOTHING: Any = object()


def _pool(jobs: int) -> ProcessPoolExecutor:
    # Forking would copy the state of this process's other threads, such as fsspec's, at a bad moment.
    options: Dict[str, Any] = {"mp_context": multiprocessing.get_context("spawn")}
    return ProcessPoolExecutor(jobs, **(options if sys.version_info >= (3, 7) else {}))  # noqa: UP036 - for Python 3.6


def _check_start() -> None:
    """Raises RuntimeError unless a process starts. It loads the main module of this one, which may have no file."""
    try:
        with _pool(1) as pool:
            pool.submit(int).result()
    except BrokenProcessPool:
        raise RuntimeError('no process can be started here: the program has to be in a file, and to call this under '
                           'if __name__ == "__main__"')


def _submit(pool: ProcessPoolExecutor, work: Callable[[T], R], item: T) -> "Future[R]":
    """Hand out an item. A process that this starts inherits that SIGINT is blocked: while it starts, it would print a
    traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        return pool.submit(partial(_interruptible, work), item)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _interruptible(work: Callable[[T], R], item: T) -> R:
    """Run in the process: SIGINT ends it without a traceback. The main process says what there is to say."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    return work(item)


def on_cluster(work: Callable[[T], R], items: Iterable[T], client: "Client") -> Iterator[Done[T, R]]:
    """The same on a Dask cluster. An item that has ended as many workers as Dask allows (``allowed-failures``) is tried
    once more while nothing else runs: another item may have ended them."""
    lost: List[T] = []
    for item, result in _all_on_cluster(work, list(items), client):
        if result is None:
            lost.append(item)
        else:
            yield item, result
    for item in lost:
        yield from _all_on_cluster(work, [item], client)


def _all_on_cluster(work: Callable[[T], R], items: List[T], client: "Client") -> Iterator[Done[T, R]]:
    from distributed import KilledWorker, as_completed
    futures = client.map(work, items, pure=False)
    by_key = {future.key: item for future, item in zip(futures, items)}
    finished = as_completed(futures)
    del futures  # so that a result is released once it has been yielded
    for future in finished:
        item = by_key.pop(future.key)
        try:
            result = future.result()
        except KilledWorker:
            result = None
        yield item, result
