"""Output files that appear only once they are complete."""
import errno
import os
import stat

from xstream.contexts import contextmanager, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, Optional, Tuple

#: What open() says where a filesystem or kernel has no O_TMPFILE.
_NO_UNNAMED_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)


def written_in_place(path: str) -> bool:
    """Whether ``path`` exists and is not a regular file: a pipe or device, written from front to back."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


@contextmanager
def replacing(path: str) -> "Iterator[int]":
    """Create a file, yield its descriptor (reading and writing), and give it the name ``path`` when the block succeeds.

    The file has mode 0600. Until the block ends it has no name (O_TMPFILE), so that nothing is left of it even if the
    process is killed; on filesystems without unnamed files it has a temporary name in the same directory, which is
    removed if the block fails. It is synced, then atomically replaces what was at ``path``. If ``path`` is a symbolic
    link, the file that it refers to is replaced, not the link. Raises OSError naming ``path``.
    """
    folder, name = os.path.split(os.path.realpath(path))
    with _naming(path):
        folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _naming(path):
            fd, temporary = _create(folder, name)
        try:
            try:
                yield fd
                with _naming(path):
                    os.fsync(fd)
                    if temporary is None:
                        temporary = _link(fd, folder, folder_fd, name)
            finally:
                os.close(fd)
            if temporary is not None:
                with _naming(path):
                    os.rename(temporary, os.path.join(folder, name))
        except BaseException:
            if temporary is not None:
                os.unlink(temporary)
            raise
        os.fsync(folder_fd)
    finally:
        os.close(folder_fd)


def _create(folder: str, name: str) -> "Tuple[int, Optional[str]]":
    """A new file's descriptor; its temporary path, or None if it has no name."""
    try:
        fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in _NO_UNNAMED_FILES:
            raise
    else:
        if os.path.exists(_proc_path(fd)):
            return fd, None
        os.close(fd)  # without /proc it could not be linked later
    import tempfile
    return tempfile.mkstemp(prefix="." + name + ".", dir=folder)


def _link(fd: int, folder: str, folder_fd: int, name: str) -> "Optional[str]":
    """Name an unnamed file: ``name`` if that is free, else a temporary name, whose path is returned.

    linkat() doesn't replace files, and there is no other way to name an unnamed file.
    """
    try:
        _linkat(fd, folder_fd, name)
        return None
    except FileExistsError:
        pass
    while True:
        temporary = ".{}.{}".format(name, os.urandom(6).hex())
        with suppress(FileExistsError):
            _linkat(fd, folder_fd, temporary)
            return os.path.join(folder, temporary)


def _linkat(fd: int, folder_fd: int, name: str) -> None:
    # With dst_dir_fd Python calls linkat(), with AT_SYMLINK_FOLLOW; without, link(), which would link the symlink.
    os.link(_proc_path(fd), name, dst_dir_fd=folder_fd)


def _proc_path(fd: int) -> str:
    return "/proc/self/fd/{}".format(fd)


@contextmanager
def _naming(path: str) -> "Iterator[None]":
    """Make an OSError name ``path`` instead of a directory or temporary file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), path) from None
