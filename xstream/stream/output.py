"""Output files that are either whole or not there."""
import contextlib
import os
import stat
import tempfile
from typing import Iterator


def is_stream(path: str) -> bool:
    """Whether ``path`` is something that is written in place, front to back: "-", a pipe, a device."""
    if path == "-":
        return True
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def replacing(path: str) -> Iterator[int]:
    """A descriptor, for reading and writing, of a new file that takes ``path``'s place when the block ends well.

    Until then it has a temporary name in the same folder and mode 0600; then it is synced and renamed. Where the block
    fails nothing is left behind, and what was at ``path`` is untouched. Raises OSError.
    """
    folder, name = os.path.split(os.path.abspath(path))
    fd, temporary = tempfile.mkstemp(prefix="." + name + ".", dir=folder)
    try:
        try:
            yield fd
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    _sync_folder(folder)


@contextlib.contextmanager
def output(path: str) -> Iterator[int]:
    """A descriptor for ``path``: stdout for "-", a pipe or device as it is, else a file as :func:`replacing` has it.
    Raises OSError."""
    if not is_stream(path):
        with replacing(path) as fd:
            yield fd
        return
    fd = os.dup(1) if path == "-" else os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _sync_folder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
