"""Migrations in an asyncio event loop: a save that awaits its writer, a restore that is a protocol.

Import it by name (``from xstream import aio``); it loads asyncio. The event loop is never blocked: each save or restore
runs in its own worker thread, which calls the guest's hooks and the functions that the caller passes in, one at a
time. All network I/O happens in the event loop.
"""
import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, List, Optional, Sequence, TypeVar

from xstream.guest.guest import Guest
from xstream.guest.restore import Restored, Restorer
from xstream.guest.rounds import Round
from xstream.guest.save import Saved, Saver
from xstream.kernels import pages as page_kernel
from xstream.limits import Limits
from xstream.stream.sink import Sink
from xstream.stream.source import FedSource, NeedMoreData
from xstream.wire.libxc import PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xstream.guest.enclosure import DeviceModel, XenstoreData
    from xstream.guest.policies import Policy
    from xstream.stream.types import SinkLike, SourceLike
    from xstream.wire.frames import Buffer

T = TypeVar("T")
#: Room for bytes that a transport delivers although it was asked to pause.
_SPARE = 64 << 10


class _Gathered(Sink):
    """Keeps copies of what is written until it is taken, because a running guest may change its pages meanwhile."""

    def __init__(self) -> None:
        self._pieces: List[Buffer] = []

    def write(self, pieces: "Sequence[Buffer]") -> None:
        for piece in pieces:
            self._keep(bytes(piece))

    def write_pages(self, head: "Sequence[Buffer]", memory: "Buffer", pfns: "Buffer") -> None:
        self.write(head)
        pages = bytearray(len(pfns) * PAGE_SIZE)
        page_kernel.gather(memory, pfns, pages)
        self._keep(pages)

    def _keep(self, piece: "Buffer") -> None:
        self._pieces.append(piece)
        self.offset += len(piece)

    def taken(self) -> "List[Buffer]":
        """What has been written since the last call."""
        pieces, self._pieces = self._pieces, []
        return pieces


class _Worker:
    """A thread that runs functions for a coroutine, one at a time."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1)

    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        """The function's result. If the task is cancelled, waits for the function to return first: it can't be
        interrupted, and nothing else may touch what it uses."""
        future = asyncio.get_event_loop().run_in_executor(self._executor, function, *arguments)
        cancelled = False
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            future.exception()
            raise asyncio.CancelledError
        return future.result()

    def close(self) -> None:
        self._executor.shutdown(wait=False)


async def save(guest: Guest, writer: asyncio.StreamWriter, *, live: bool = False, policy: "Optional[Policy]" = None,
               verify: bool = False, container: Optional[str] = None, config: Optional[bytes] = None,
               device_model: "Optional[DeviceModel]" = None, xenstore_data: "Optional[XenstoreData]" = None,
               checkpoint: Optional[Callable[[int], bool]] = None, back_channel: "Optional[SourceLike]" = None,
               on_round: Callable[[Round], object] = lambda last: None,
               progress: Callable[[int, int], object] = lambda done, total: None,
               cancelled: Callable[[], bool] = lambda: False, limits: Limits = Limits()) -> Saved:
    """As :func:`xstream.save`, to a StreamWriter, which is drained after each batch.

    A batch is copied, so that the guest may run while it is sent. If the task is cancelled or the connection is lost,
    the guest is as :func:`xstream.save` says; a cancelled task ends once the hook that is running has returned. The
    guest's hooks and the functions passed in are called in a worker thread, and may block.
    """
    sink = _Gathered()
    saver = Saver(guest, sink, live=live, policy=policy, verify=verify, container=container, config=config,
                  device_model=device_model, xenstore_data=xenstore_data, checkpoint=checkpoint,
                  back_channel=back_channel, on_round=on_round, progress=progress, cancelled=cancelled, limits=limits)
    steps = saver.steps()
    done = object()
    worker = _Worker()
    try:
        while await worker.call(next, steps, done) is not done:
            await _send(sink, writer)
        await _send(sink, writer)
    finally:
        await worker.call(steps.close)
        worker.close()
    assert saver.saved is not None
    return saver.saved


async def _send(sink: _Gathered, writer: asyncio.StreamWriter) -> None:
    for piece in sink.taken():
        writer.write(piece)
    await writer.drain()


# Python 3.6 has no BufferedProtocol; there bytes are copied once more.
_Protocol: type = getattr(asyncio, "BufferedProtocol", asyncio.Protocol)


class RestoreProtocol(_Protocol):  # type: ignore[misc]
    """Restores a guest from what a transport receives.

    The arguments are :func:`xstream.restore`'s. ``restored`` is a future: awaiting it returns the Restored, or raises
    what restore() would; cancelling it abandons the guest. The connection stays open: ``rest()`` returns what has been
    received after the stream.

    The guest's hooks and the functions passed in are called in a worker thread, and may block; meanwhile the transport
    is paused. At most one record is kept in memory beyond what the guest has received.
    """

    def __init__(self, guest: Guest, *, format: Optional[str] = None, limits: Limits = Limits(), strict: bool = False,
                 checkpointed: bool = False, checkpoint: Callable[[int], bool] = lambda number: True,
                 back_channel: "Optional[SinkLike]" = None, progress: Callable[[int], object] = lambda offset: None,
                 cancelled: Callable[[], bool] = lambda: False) -> None:
        self._source = FedSource(stable=False)
        self._loop = asyncio.get_event_loop()
        self.restored: asyncio.Future[Restored] = self._loop.create_future()
        self._restorer = Restorer(
            self._source, guest, format=format, limits=limits, strict=strict, checkpointed=checkpointed,
            checkpoint=checkpoint, back_channel=back_channel, progress=progress,
            cancelled=lambda: self.restored.cancelled() or cancelled())
        self.transport: Optional[asyncio.BaseTransport] = None
        self._executor = ThreadPoolExecutor(max_workers=1)
        self._busy = self._ended = self._over = False
        self._spare = bytearray()           # where the transport receives while the worker thread uses the source
        self._waiting: List[bytes] = []     # what it has received there

    def rest(self) -> bytes:
        """Bytes that were received after the end of the stream."""
        return bytes(self._source.buffered()) + b"".join(self._waiting)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport."""
        self.transport = transport

    def get_buffer(self, sizehint: int) -> "Buffer":
        """Called by the transport: the buffer to receive into."""
        if not self._busy:
            return self._source.room()
        self._spare = bytearray(_SPARE)
        return self._spare

    def buffer_updated(self, nbytes: int) -> None:
        """Called by the transport: ``nbytes`` bytes have been received into the buffer."""
        if self._spare:
            self._waiting.append(bytes(self._spare[:nbytes]))
            self._spare = bytearray()
        else:
            self._source.filled(nbytes)
        self._advance()

    def data_received(self, data: bytes) -> None:
        """Called by the transport of Python 3.6."""
        self._waiting.append(data)
        self._advance()

    def eof_received(self) -> None:
        """Called by the transport."""
        self._ended = True
        self._advance()

    def connection_lost(self, exc: Optional[Exception]) -> None:
        """Called by the transport."""
        self.eof_received()

    def _advance(self) -> None:
        """Let the worker thread handle what has been received, with the transport paused."""
        if self._busy:
            return
        for data in self._waiting:
            self._source.feed(data)
        self._waiting = []
        if self._ended:
            self._source.finish()
        if self._over:
            return
        self._busy = True
        # A transport that is closing, or can't pause, raises an error; what it still delivers waits.
        with contextlib.suppress(RuntimeError, NotImplementedError, AttributeError):
            self.transport.pause_reading()  # type: ignore[union-attr]
        self._loop.run_in_executor(self._executor, self._run).add_done_callback(self._advanced)

    def _run(self) -> bool:
        """In the worker thread: restore as far as there is data; whether the guest is complete."""
        try:
            while self._restorer.step():
                pass
        except NeedMoreData:
            return False
        return True

    def _advanced(self, future: "asyncio.Future[bool]") -> None:
        """In the event loop: the worker thread has returned."""
        self._busy = False
        error = future.exception()
        self._over = error is not None or future.result()
        if self._over:
            self._executor.shutdown(wait=False)
            if not self.restored.done():
                self._report(error)
        with contextlib.suppress(RuntimeError, NotImplementedError, AttributeError):
            self.transport.resume_reading()  # type: ignore[union-attr]
        if self._waiting or (self._ended and not self._over):
            self._advance()

    def _report(self, error: Optional[BaseException]) -> None:
        if error is not None:
            self.restored.set_exception(error)
            return
        assert self._restorer.restored is not None
        self.restored.set_result(self._restorer.restored)
