"""Migrations in an asyncio event loop, without threads: a save that awaits its writer, a restore that is a protocol.

A module of its own, to be imported by name (``from xstream import aio``): it brings asyncio with it. The guest's hooks
and the caller's functions are called in the event loop, and hold it up for as long as they take.
"""
import asyncio
from typing import Any, List, Optional, Sequence, Type

from xstream.guest.guest import Guest
from xstream.guest.restore import Restored, Restorer
from xstream.guest.save import Saved, Saver
from xstream.kernels import pages as page_kernel
from xstream.stream.sink import Sink
from xstream.stream.source import FedSource, NeedMoreData
from xstream.wire.frames import Buffer
from xstream.wire.libxc import PAGE_SIZE


class _Gathered(Sink):
    """Keeps copies of what is written until it is taken: a guest that runs may write to its pages meanwhile."""

    def __init__(self) -> None:
        self._pieces: List[Buffer] = []

    def write(self, pieces: Sequence[Buffer]) -> None:
        for piece in pieces:
            self._keep(bytes(piece))

    def write_pages(self, head: Sequence[Buffer], memory: Buffer, pfns: Buffer) -> None:
        self.write(head)
        pages = bytearray(len(pfns) * PAGE_SIZE)
        page_kernel.gather(memory, pfns, pages)
        self._keep(pages)

    def _keep(self, piece: Buffer) -> None:
        self._pieces.append(piece)
        self.offset += len(piece)

    def taken(self) -> List[Buffer]:
        """What has been written since the last call."""
        pieces, self._pieces = self._pieces, []
        return pieces


async def save(guest: Guest, writer: asyncio.StreamWriter, **options: Any) -> Saved:
    """As :func:`xstream.save`, to a StreamWriter, which is drained after each batch.

    A batch is copied, so that the guest may run while it is sent. Where the task is cancelled, or the connection lost,
    the guest is as :func:`xstream.save` says. ``checkpoint`` and ``back_channel`` must not wait.
    """
    sink = _Gathered()
    saver = Saver(guest, sink, **options)
    steps = saver.steps()
    try:
        for _ in steps:
            await _send(sink, writer)
        await _send(sink, writer)
    finally:
        steps.close()  # type: ignore[attr-defined]
    assert saver.saved is not None
    return saver.saved


async def _send(sink: _Gathered, writer: asyncio.StreamWriter) -> None:
    for piece in sink.taken():
        writer.write(piece)
    await writer.drain()


# Python 3.6 has no BufferedProtocol; there bytes are copied once more.
_Protocol: Type[Any] = getattr(asyncio, "BufferedProtocol", asyncio.Protocol)


class RestoreProtocol(_Protocol):  # type: ignore[misc]
    """Restores a guest from what a transport receives.

    ``options`` are :func:`xstream.restore`'s. ``restored`` is a future: awaiting it gives the Restored, or raises what
    restore() would. What is left of the connection is the caller's; ``rest()`` gives what came behind the stream.

    It keeps at most a record in memory beyond what the guest has taken.
    """

    def __init__(self, guest: Guest, **options: Any) -> None:
        self._source = FedSource(stable=False)
        self._restorer = Restorer(self._source, guest, **options)
        self.restored: asyncio.Future[Restored] = asyncio.get_event_loop().create_future()
        self.transport: Optional[asyncio.BaseTransport] = None

    def rest(self) -> bytes:
        """Bytes that were received behind the end of the stream."""
        return bytes(self._source.buffered())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport."""
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        """Called by the transport: where it may receive to."""
        return self._source.room()

    def buffer_updated(self, nbytes: int) -> None:
        """Called by the transport: so much has been received."""
        self._source.filled(nbytes)
        self._advance()

    def data_received(self, data: bytes) -> None:
        """Called by the transport of Python 3.6."""
        self._source.feed(data)
        self._advance()

    def eof_received(self) -> None:
        """Called by the transport."""
        self._source.finish()
        self._advance()

    def connection_lost(self, exc: Optional[Exception]) -> None:
        """Called by the transport."""
        self.eof_received()

    def _advance(self) -> None:
        if self.restored.done():
            return
        try:
            while self._restorer.step():
                pass
        except NeedMoreData:
            return
        except Exception as error:
            self.restored.set_exception(error)
            return
        assert self._restorer.restored is not None
        self.restored.set_result(self._restorer.restored)
