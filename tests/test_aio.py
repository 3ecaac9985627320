"""Migrations in an event loop."""
import asyncio
import threading

import pytest

from xstream import CorruptStream, SimulatedGuest, TruncatedStream, aio


def run(coroutine):
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(coroutine)
    finally:
        asyncio.set_event_loop(None)
        loop.close()


async def served(protocol):
    """A server on a free port of the loopback interface, for one connection."""
    server = await asyncio.get_event_loop().create_server(lambda: protocol, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def migrate(source, target, behind=b"", cut=None, **options):
    protocol = aio.RestoreProtocol(target)
    server, port = await served(protocol)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        if cut is None:
            saved = await aio.save(source, writer, **options)
            writer.write(behind)
        else:
            saved = None
            writer.write(cut)
        await writer.drain()
        writer.write_eof()
        restored = await protocol.restored
        while len(protocol.rest()) < len(behind):
            await asyncio.sleep(0)
        return saved, restored, protocol.rest()
    finally:
        writer.close()
        protocol.transport.close()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("kind", ["hvm", "pv"])
def test_a_live_migration(kind):
    source, target = SimulatedGuest(kind, seed=5, dirty=0.2, torn=2), SimulatedGuest.empty(kind)
    saved, restored, rest = run(migrate(source, target, b"more", live=True))
    assert rest == b"more"
    assert restored.bytes == saved.bytes
    assert not source.running and target.running
    assert target.digest() == source.digest()


def test_a_connection_cut_short():
    target = SimulatedGuest.empty()
    with pytest.raises(TruncatedStream):
        run(migrate(SimulatedGuest(), target, cut=b"\xff" * 8))
    assert target.abandoned and not target.running


def test_what_is_no_stream():
    with pytest.raises(CorruptStream):
        run(migrate(SimulatedGuest(), SimulatedGuest.empty(), cut=b"GET / HTTP/1.0\r\n"))


def test_a_cancelled_save_leaves_the_guest_running():
    async def cancelled():
        source = SimulatedGuest(pages=100000, used=0.01)
        blocked = aio.RestoreProtocol(SimulatedGuest.empty())
        server, port = await served(blocked)
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        task = asyncio.ensure_future(aio.save(source, writer))
        while not blocked.transport:
            await asyncio.sleep(0)
        blocked.transport.pause_reading()
        while source.running:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        writer.transport.abort()
        blocked.transport.abort()
        await asyncio.sleep(0)
        server.close()
        await server.wait_closed()
        blocked.restored.cancel()
        return source

    assert run(cancelled()).running


class Blocking(SimulatedGuest):
    """A guest whose suspension takes until ``released``."""

    def wait_in(self, hook):
        self.hook, self.entered, self.released = hook, threading.Event(), threading.Event()
        self.threads = set()

    def _enter(self, hook):
        super()._enter(hook)
        if hasattr(self, "hook"):
            self.threads.add(threading.current_thread())
            if hook == self.hook:
                self.entered.set()
                assert self.released.wait(60)


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


@pytest.mark.parametrize("hook", ["suspend", "complete"])
def test_a_blocking_hook_does_not_block_the_event_loop(hook):
    source, target = Blocking(seed=3), Blocking.empty()
    blocked = source if hook == "suspend" else target
    blocked.wait_in(hook)

    async def both():
        task = asyncio.ensure_future(migrate(source, target, live=True))
        # Only a running event loop gets past this.
        await until(blocked.entered.is_set)
        blocked.released.set()
        return await task

    run(both())
    assert target.digest() == source.digest()
    assert len(blocked.threads) == 1 and threading.current_thread() not in blocked.threads


def test_a_task_cancelled_during_a_hook_waits_for_it():
    source = Blocking()
    source.wait_in("suspend")

    async def cancelled():
        protocol = aio.RestoreProtocol(SimulatedGuest.empty())
        server, port = await served(protocol)
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        task = asyncio.ensure_future(aio.save(source, writer))
        await until(source.entered.is_set)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        source.released.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        writer.transport.abort()
        with pytest.raises(TruncatedStream):
            await protocol.restored
        protocol.transport.abort()
        await asyncio.sleep(0)
        server.close()
        await server.wait_closed()

    run(cancelled())
    assert source.running


def test_a_cancelled_restore_abandons_its_guest():
    target = SimulatedGuest.empty()

    async def cancelled():
        protocol = aio.RestoreProtocol(target)
        server, port = await served(protocol)
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\xff" * 4)
        await writer.drain()
        await until(lambda: protocol.transport)
        protocol.restored.cancel()
        writer.transport.abort()
        await until(lambda: target.abandoned)
        protocol.transport.abort()
        await asyncio.sleep(0)
        server.close()
        await server.wait_closed()

    run(cancelled())


def test_a_container_through_an_event_loop():
    source, target = SimulatedGuest(), SimulatedGuest.empty()
    _, restored, rest = run(migrate(source, target, b"more", container="xl", config=b"{}",
                                    device_model=lambda: b"QEMU's record"))
    assert rest == b"more" and restored.device_model == b"QEMU's record" and restored.config == b"{}"
    assert target.digest() == source.digest()
