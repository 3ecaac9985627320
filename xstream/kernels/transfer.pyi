"""Bytes from one descriptor to another, by whatever way the kernel has for the two."""

def transfer(source: int, sink: int, size: int) -> int:
    """Move ``size`` bytes from where ``source`` stands to where ``sink`` stands; how many: fewer only at the end of the
    input.

    By splice where one is a pipe, copy_file_range between files, sendfile from a file to anything else, and read and
    write where the kernel refuses those. Survives partial moves and EINTR (signal handlers run, and may raise), and
    waits where a descriptor doesn't block. Raises OSError, ValueError for a negative ``size``.
    """

def begin_writing(fd: int, size: int) -> None:
    """Have the ``size`` bytes before a file's position begin their way to the disk, so that a sync later finds little
    left to do. Waits only where the disk has too much to do already. Never raises."""

def widen_pipe(fd: int) -> int:
    """Have a pipe hold as much as an unprivileged process may ask for, 1 MiB; how much it holds, 0 for what is no pipe.
    Never raises."""
