"""Pages into a pipe by reference."""
from typing import Any

def splice_pages(fd: int, memory: Any, pfns: Any) -> int:
    """Put the pages ``pfns`` (uint64) of ``memory`` into the pipe ``fd``, in order, uncopied; how many bytes.

    ``memory``: bytes-like, of any alignment, PFN 0 first. What is written to a page before the pipe's reader has taken
    it is what the reader gets. Waits where the pipe is full, be it in non-blocking mode.

    Raises IndexError for a PFN past the memory, before anything has been sent; OSError (EBADF where ``fd`` is no pipe).
    Source: vmsplice(2).
    """
