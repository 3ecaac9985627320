"""Send pages into a pipe by reference."""
from xstream.kernels.buffers import BufferLike

def splice_pages(fd: int, memory: BufferLike, pfns: BufferLike) -> int:
    """Put the pages ``pfns`` (uint64) of ``memory`` into the pipe ``fd``, in order, uncopied; returns the number of
    bytes.

    ``memory``: bytes-like, of any alignment, PFN 0 first. The pipe's reader gets what the pages hold when it reads, so
    they must not change before that. Waits while the pipe is full, also in non-blocking mode.

    Raises IndexError for a PFN past the memory, before anything has been sent; OSError (EBADF if ``fd`` isn't a pipe).
    Source: vmsplice(2).
    """
