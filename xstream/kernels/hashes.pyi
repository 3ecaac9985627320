"""XXH64 of pages: the 64-bit hash of the xxHash specification, with seed 0, to find equal pages. Not cryptographic."""
from xstream.kernels.buffers import BufferLike

def xxh64_pages(pages: BufferLike, out: BufferLike) -> None:
    """Write the hash of each page of 4096 bytes to ``out`` (uint64, one element a page).

    ``pages``: contiguous bytes. Raises ValueError unless both have the same number of pages. Releases the GIL.
    """
