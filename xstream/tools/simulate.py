"""A migration of a simulated guest between two processes: one end each."""
import contextlib
import os
import socket
from typing import Any, Callable, Iterator, NamedTuple, Tuple

from xstream.guest.restore import Restored, restore
from xstream.guest.save import Saved, save
from xstream.guest.simulated import SimulatedGuest


class Sent(NamedTuple):
    """What the source did, and the CRC32C of its contents at suspension, by which both ends can be compared."""

    saved: Saved
    contents: int


class Received(NamedTuple):
    """What the destination did, the CRC32C of its contents, and how many pages it has."""

    restored: Restored
    contents: int
    populated: int


def send(guest: SimulatedGuest, address: str, **options: Any) -> Sent:
    """Save a guest to ``HOST:PORT``, where another process must be listening, or to ``-``, stdout. ``options`` are
    save()'s.

    Raises what save() raises, ValueError for what is no address.
    """
    with _connection(address) as sink:
        saved = save(guest, sink, **options)
    return Sent(saved, guest.digest())


def receive(guest: SimulatedGuest, address: str, *, listening: Callable[[str], object] = lambda address: None,
            **options: Any) -> Received:
    """Restore a guest from the first sender that connects to ``HOST:PORT`` (port 0: any), or from stdin for ``-``.
    ``options`` are those of restore(). ``listening`` is called with the address once the port is open.

    Raises what restore() raises, ValueError for what is no address.
    """
    with _accepted(address, listening) as source:
        restored = restore(source, guest, **options)
    return Received(restored, guest.digest(), guest.memory.populated_count)


@contextlib.contextmanager
def _connection(address: str) -> Iterator[int]:
    if address == "-":
        yield 1
        return
    with socket.create_connection(_parsed(address)) as connection:
        yield connection.fileno()


@contextlib.contextmanager
def _accepted(address: str, listening: Callable[[str], object]) -> Iterator[int]:
    if address == "-":
        # A copy, so that what stdin buffers stays out of it.
        fd = os.dup(0)
        try:
            yield fd
        finally:
            os.close(fd)
        return
    host, port = _parsed(address)
    family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(place)
        server.listen(1)
        listening("{}:{}".format(host, server.getsockname()[1]))
        connection, _ = server.accept()
    with connection:
        yield connection.fileno()


def _parsed(address: str) -> Tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError("not HOST:PORT: {!r}".format(address))
    return host, int(port)
