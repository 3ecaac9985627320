"""Move bytes from one descriptor to another, without copying them through this process where Linux can."""

def transfer(source: int, sink: int, size: int) -> int:
    """Move ``size`` bytes from the position of ``source`` to that of ``sink``; returns the number of bytes moved: fewer
    only at the end of input.

    Uses splice if one of them is a pipe, copy_file_range between files, sendfile from a file to anything else, and read
    and write where Linux refuses those. Handles partial moves and EINTR (signal handlers run, and may raise), and waits
    for descriptors in non-blocking mode. Raises OSError, and ValueError for a negative ``size``.
    """

def begin_writing(fd: int, size: int) -> None:
    """Start writing the ``size`` bytes before a file's position to disk, so that a later fsync takes less time. Waits
    only if the disk's queue is full. Never raises."""

def widen_pipe(fd: int) -> int:
    """Enlarge a pipe to what an unprivileged process may ask for, 1 MiB. Returns the pipe's size in bytes, or 0 for a
    descriptor that isn't a pipe. Never raises."""
