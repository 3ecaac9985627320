"""What kind of data is in a page: zeros, text, random bytes or something else."""
from xstream.kernels.buffers import BufferLike

#: Kinds of contents: neither of the following; all zero; mostly text; random bytes, as compressed or encrypted data is.
OTHER: int
ZERO: int
TEXT: int
RANDOM: int

def classify(pages: BufferLike, kinds: BufferLike) -> None:
    """Write the kind of each page to ``kinds`` (writable uint8, one element a page).

    TEXT: at least an eighth of the page is printable ASCII or whitespace, and so are seven eighths of the bytes that
    aren't zero. RANDOM: the page's bytes are spread over the 256 values as evenly as 128 equally frequent ones or more.

    ``pages``: k x 4096 bytes of any alignment; they may change during the call, and then have either kind. Raises
    TypeError or ValueError for buffers of the wrong kind or size. Releases the GIL.
    """
