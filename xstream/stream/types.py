"""The types of sources and sinks, for annotations. The package itself imports this for type checkers only, because
loading ``typing`` would slow the command line's start too much."""
from typing import Union

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    import socket
    from typing import Optional, Protocol

    from xstream.kernels.buffers import BufferLike
    from xstream.stream.reader import AnyReader
    from xstream.stream.sink import Sink
    from xstream.stream.source import Source
    from xstream.wire.frames import Buffer

    class SupportsRead(Protocol):
        """An object with ``read(size)``; its ``readinto(buffer)`` is used if it has one."""

        def read(self, __size: int) -> Optional[Buffer]: ...

    class SupportsWrite(Protocol):
        """An object with ``write(bytes-like)``, which returns how many bytes it took."""

        def write(self, __data: memoryview) -> Optional[int]: ...

#: What functions read from: a path, a descriptor (int), a socket, a buffer, an object with ``read`` or ``readinto``, or
#: a Source. What they open they close; what was given open stays open. See
#: :func:`~xstream.stream.source.open_source`.
SourceLike = Union[str, "os.PathLike[str]", int, "socket.socket", "BufferLike", "SupportsRead", "Source"]

#: What functions that read a whole stream take: a SourceLike, or a reader that nothing has been read from. A reader
#: keeps its own settings, is read to its end, and stays open.
StreamLike = Union[SourceLike, "AnyReader"]

#: What is open for writing already, and stays open; see :func:`~xstream.stream.sink.open_sink`.
OpenSinkLike = Union[int, "socket.socket", "SupportsWrite", "Sink"]

#: What functions write to: a path (the file appears when it is complete, with mode 0600), a descriptor (int), a socket,
#: an object with ``write``, or a Sink. What was given open stays open. See :func:`~xstream.stream.sink.opened_sink`.
SinkLike = Union[str, "os.PathLike[str]", OpenSinkLike]
