"""A mesh door in front of a peers application: TLS both ways, and the name in the certificate handed
on, as HAProxy does it; and identities for a test's machines."""

import dataclasses
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import h11
import httpx
import msgspec
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute, TLSListener, TLSStream
from starlette.types import ASGIApp

from kythera.control.peers import PEER_HEADER
from kythera.control.store import Change, put
from kythera.distribute.authority import found, name_in_der
from kythera.ground.clock import SystemClock
from kythera.ground.files import write_private
from kythera.ground.layout import Layout
from kythera.model.records import Machine
from tests.control.fleets import Machines, Member
from tests.distribute.identities import DAY_S, Authority, door_context

SECRETS_KEY = b"c2VhbHNzZWFsc3NlYWxzc2VhbHNzZWFsc3NlYWxzZWE="


@asynccontextmanager
async def open_door(layout: Layout, app: ASGIApp) -> AsyncIterator[str]:
    """Answer for an application on a mesh port; the block gets its address."""

    async def answer(stream: TLSStream) -> None:
        async with stream:
            name = name_in_der(stream.extra(TLSAttribute.peer_certificate_binary) or b"")
            try:
                await _one_request(stream, app, name)
            except (anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError):
                return

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)
    secured = TLSListener(listener, door_context(layout), standard_compatible=False)
    async with secured, anyio.create_task_group() as tasks:
        tasks.start_soon(secured.serve, answer)
        yield f"127.0.0.1:{port}"
        tasks.cancel_scope.cancel()


async def _one_request(stream: TLSStream, app: ASGIApp, name: str) -> None:
    wire = h11.Connection(h11.SERVER)
    head, body = None, b""
    while True:
        event = wire.next_event()
        if event is h11.NEED_DATA:
            wire.receive_data(await stream.receive())
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            break
    assert head is not None
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    url = f"http://control.kythera{head.target.decode()}"
    async with httpx.AsyncClient(transport=transport) as client:
        headers = {PEER_HEADER: name}
        answer = await client.request(head.method.decode(), url, content=body, headers=headers)
    ended = [("content-length", str(len(answer.content))), ("connection", "close")]
    data = wire.send(h11.Response(status_code=answer.status_code, headers=ended)) or b""
    data += wire.send(h11.Data(data=answer.content)) or b""
    await stream.send(data)


def identify(member: Member, layout: Layout) -> None:
    """Give a machine's applications an identity, and a clock that TLS agrees with."""
    write_private(layout.secrets_key, SECRETS_KEY)
    member.clock.time = SystemClock().now()
    fleet = dataclasses.replace(member.services.fleet, layout=layout)
    member.services = dataclasses.replace(member.services, fleet=fleet)
    member.app.state.services = member.peers_app.state.services = member.services


def found_fleet(fleet: Machines, folder: Path) -> None:
    """Give all machines identities: the first one has the authority."""
    first, *others = fleet.all.values()
    layout = Layout(folder / "state-of-the-first")
    found(layout, first.name, SystemClock(), DAY_S)
    identify(first, layout)
    authority = Authority()
    authority.pem, authority.key = layout.ca_certificate.read_bytes(), layout.ca_key.read_bytes()
    for member in others:
        identify(member, authority.certify(folder / f"state-of-{member.name}", member.name))


async def write(member: Member, *changes: Change) -> None:
    """Write records over what the machine sees now."""
    assert member.catalog is not None  # reading is what a guarded write stands on
    await member.services.store.write(changes)


async def say_address(member: Member, address: str) -> None:
    """Write where a machine's door is."""
    before = member.catalog.machine(member.name)
    assert isinstance(before, Machine)
    await write(member, put(msgspec.structs.replace(before, mesh=address)))
