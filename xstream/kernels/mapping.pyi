"""Addresses of buffers, for system calls that take structures with pointers in them."""
from xstream.kernels.buffers import BufferLike

def address(buffer: BufferLike) -> int:
    """The address of a contiguous buffer's first byte. It stays valid while the buffer's owner neither moves nor frees
    the memory; keep a reference to the owner for as long as the address is in use.

    Raises TypeError for an object without a buffer, BufferError for one that isn't contiguous.
    """
