#!/usr/bin/env python3
"""Migrate a running guest over TCP with asyncio. Start the receiver first:

    python migrate.py receive 127.0.0.1:7712
    python migrate.py send 127.0.0.1:7712

The guest is simulated. For real ones, put a class that derives from xstream.Guest in its place.
"""
import argparse
import asyncio
import sys

import xstream
from xstream import aio

RESTORED = b"restored\n"


async def send(host: str, port: int) -> None:
    """Save the guest to the connection while it runs. It is destroyed only after the receiver has it."""
    guest = xstream.SimulatedGuest("hvm", pages=20000, seed=1)
    reader, writer = await asyncio.open_connection(host, port)
    saved = await aio.save(guest, writer, live=True, policy=xstream.downtime_policy(20))
    writer.write_eof()
    for number, done in enumerate(saved.rounds):
        print("round {}: {} pages".format(number, done.pages))
    # A failed save resumes the guest by itself. From here on that is up to us.
    if await reader.read() != RESTORED:
        guest.resume()
        sys.exit("the receiver failed; the guest runs on here")
    print("sent: contents {:08x}".format(guest.digest()))
    writer.close()


async def receive(host: str, port: int) -> None:
    """Restore one guest, and tell the sender."""
    loop = asyncio.get_event_loop()
    guest = xstream.SimulatedGuest.empty("hvm")
    connected = loop.create_future()

    def protocol() -> aio.RestoreProtocol:
        made = aio.RestoreProtocol(guest)
        connected.set_result(made)
        return made

    server = await loop.create_server(protocol, host, port)
    print("listening on port {}".format(server.sockets[0].getsockname()[1]), flush=True)
    migration = await connected
    server.close()
    restored = await migration.restored
    print("restored {} pages: contents {:08x}".format(restored.pages, guest.digest()))
    migration.transport.write(RESTORED)
    migration.transport.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Migrate a simulated guest over TCP.")
    parser.add_argument("end", choices=["send", "receive"])
    parser.add_argument("address", metavar="HOST:PORT")
    options = parser.parse_args()
    host, _, port = options.address.rpartition(":")
    end = send if options.end == "send" else receive
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(end(host, int(port)))
    loop.close()


if __name__ == "__main__":
    main()
