"""Machines with identities for tests: folders with certificates of one fleet or of several, and a
door that asks for them as HAProxy's mesh door does."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSListener, TLSStream

from kythera.distribute.authority import issue, make_authority, make_key, make_request
from kythera.ground.clock import SystemClock
from kythera.ground.files import write_atomically, write_private
from kythera.ground.layout import Layout

DAY_S = 86_400.0


class Authority:
    """One fleet's authority, in memory."""

    def __init__(self, mark: str = "test", now: float | None = None) -> None:
        self.now = SystemClock().now() if now is None else now
        self.pem, self.key = make_authority(self.now, mark)

    def certify(
        self, folder: Path, name: str, *, life_s: float = DAY_S, age_s: float = 0
    ) -> Layout:
        """Return the state folder of a machine with a certificate, made `age_s` ago."""
        layout = Layout(folder)
        layout.fleet.mkdir(parents=True, mode=0o700, exist_ok=True)
        key = make_key()
        request = make_request(key, name)
        certificate = issue(self.pem, self.key, name, request, self.now - age_s, life_s)
        write_atomically(layout.ca_certificate, self.pem)
        write_private(layout.machine_certificate, certificate + key)
        return layout


@dataclass
class Door:
    """What answered at an address, and whom."""

    address: str
    heard: list[bytes]


def door_context(layout: Layout) -> ssl.SSLContext:
    """Return the TLS settings of a mesh door: a certificate of the fleet or nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(layout.machine_certificate)
    context.load_verify_locations(layout.ca_certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@asynccontextmanager
async def door(layout: Layout) -> AsyncIterator[Door]:
    """Answer `200 ok` to whoever has a certificate of the machine's fleet."""
    heard: list[bytes] = []

    async def answer(stream: TLSStream) -> None:
        async with stream:
            try:
                heard.append(await stream.receive())
                await stream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError):
                return

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)
    secured = TLSListener(listener, door_context(layout), standard_compatible=False)
    async with secured, anyio.create_task_group() as tasks:
        tasks.start_soon(secured.serve, answer)
        yield Door(f"127.0.0.1:{port}", heard)
        tasks.cancel_scope.cancel()
