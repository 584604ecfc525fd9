"""Hyperdrive's way to a database: tickets, limits, and who is refused."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest
from anyio.abc import SocketStream

from kythera.ground.passes import PASS_HEADER, Pass, sign
from kythera.ground.sockets import listen_unix
from kythera.model.limits import Limits
from kythera.store.hyperdrive import SSL_REQUEST, STORE, Origin, Way

pytestmark = pytest.mark.anyio
KEY = "the machine's key"
QUICK = Limits(hyperdrive_connect_ms=500, hyperdrive_idle_ms=300)
Speaks = Callable[[SocketStream], Awaitable[None]]


async def echo(stream: SocketStream) -> None:
    """A database without TLS that says what it is told."""
    assert await stream.receive(8) == SSL_REQUEST
    await stream.send(b"N")
    async for chunk in stream:
        await stream.send(chunk)


async def silent(stream: SocketStream) -> None:
    """A server that says nothing."""
    await anyio.sleep(5)


async def other(stream: SocketStream) -> None:
    """A server that is no database."""
    await stream.send(b"220 mail\r\n")
    await anyio.sleep(5)


@asynccontextmanager
async def way(folder: Path, speaks: Speaks) -> AsyncIterator[tuple[Path, int]]:
    """Run a way and a server; yield the store's socket and the server's port."""
    path = folder / "way.sock"

    async def one(stream: SocketStream) -> None:
        async with stream:
            try:
                await speaks(stream)
            except (anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError):
                return

    with listen_unix(path) as listener:
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as server,
            anyio.create_task_group() as tasks,
        ):
            port = server.extra(anyio.abc.SocketAttribute.local_port)
            tasks.start_soon(server.serve, one)
            tasks.start_soon(Way(KEY, QUICK).serve, listener)
            yield path, port
            tasks.cancel_scope.cancel()


def header(port: int, connections: int = 2, sslmode: str = "", key: str = KEY) -> str:
    """Return the pass that workerd adds."""
    origin = Origin("c1", "127.0.0.1", port, sslmode, connections)
    resource = msgspec.json.encode(origin).decode()
    granted = Pass(account="a", worker="w", store=STORE, resource=resource)
    return f"{PASS_HEADER}: {sign(granted, key)}\r\n"


async def ask(path: Path, headers: str, method: str = "POST", target: str = "/") -> tuple[int, str]:
    """Ask for a ticket; return status and text."""
    async with await anyio.connect_unix(path) as cell:
        await cell.send(f"{method} http://x{target} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
        answer = (await cell.receive()).decode()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), body


@asynccontextmanager
async def joined(path: Path, ticket: str) -> AsyncIterator[anyio.abc.UNIXSocketStream]:
    """Come with a ticket."""
    async with await anyio.connect_unix(path) as cell:
        await cell.send(f"CONNECT {ticket}:1 HTTP/1.1\r\n\r\nfirst".encode())
        yield cell


async def read(cell: anyio.abc.UNIXSocketStream, size: int) -> bytes:
    """Read so many bytes."""
    found = b""
    with anyio.fail_after(5):
        while len(found) < size:
            found += await cell.receive()
    return found


async def test_connections_and_bytes_are_counted(tmp_path: Path) -> None:
    """Goal: both ways, for the worker of the pass; the agent asks for the sums."""
    async with way(tmp_path, echo) as (path, port):
        _, ticket = await ask(path, header(port))
        async with joined(path, ticket) as cell:
            assert await read(cell, 24) == b"HTTP/1.1 200 OK\r\n\r\nfirst"
        granted = Pass(account="", worker="", store=STORE, resource="")
        _, told = await ask(path, f"{PASS_HEADER}: {sign(granted, KEY)}\r\n", "GET", "/usage")
    (use,) = msgspec.json.decode(told)["workers"]
    sums = {"connections": 1, "failed": 0, "bytes_in": 5, "bytes_out": 5}
    assert use == {"account": "a", "worker": "w", "counts": sums}


async def test_a_ticket_is_good_once_and_bytes_pass_both_ways(tmp_path: Path) -> None:
    """Goal: what comes with the CONNECT is not lost; a second use of the ticket opens nothing."""
    async with way(tmp_path, echo) as (path, port):
        status, ticket = await ask(path, header(port))
        assert status == 200
        async with joined(path, ticket) as cell:
            assert await read(cell, 24) == b"HTTP/1.1 200 OK\r\n\r\nfirst"
            await cell.send(b"second")
            assert await read(cell, 6) == b"second"
            async with joined(path, ticket) as thief:
                assert b"403" in await thief.receive()
            with pytest.raises(anyio.EndOfStream):  # nothing moves: it is closed
                await cell.receive()


async def test_a_config_has_so_many_connections_and_gets_them_back(tmp_path: Path) -> None:
    """Goal: the third of two is refused; when one ended there is room again."""
    async with way(tmp_path, echo) as (path, port):
        tickets = [(await ask(path, header(port)))[1] for _ in range(2)]
        status, why = await ask(path, header(port))
        assert (status, "all 2 connections" in why) == (502, True)
        async with joined(path, tickets[0]) as cell:
            await read(cell, 19)
        with anyio.fail_after(5):
            while (await ask(path, header(port)))[0] != 200:
                await anyio.sleep(0.02)


@pytest.mark.parametrize(
    ("speaks", "sslmode", "says"),
    [
        (silent, "", "did not answer within 500 ms"),
        (other, "", "no PostgreSQL"),
        (echo, "require", "has no TLS"),
    ],
)
async def test_what_cannot_be_reached_is_told_why(
    tmp_path: Path, speaks: Speaks, sslmode: str, says: str
) -> None:
    """Goal: a sentence for the worker's console, in time."""
    async with way(tmp_path, speaks) as (path, port):
        status, why = await ask(path, header(port, sslmode=sslmode))
    assert status == 502
    assert f"127.0.0.1:{port}" in why
    assert says in why


async def test_a_port_where_nobody_listens_is_told(tmp_path: Path) -> None:
    """Goal: refused, at once."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        async with way(tmp_path, echo) as (path, _):
            assert (await ask(path, header(port)))[0] == 502


async def test_without_a_pass_nothing_is_reached(tmp_path: Path) -> None:
    """Goal: no pass, another machine's, or no ticket: refused; nonsense is hung up on."""
    async with way(tmp_path, echo) as (path, port):
        assert (await ask(path, ""))[0] == 403
        assert (await ask(path, header(port, key="another")))[0] == 403
        async with joined(path, "127.0.0.1") as cell:
            assert b"403" in await cell.receive()
        async with await anyio.connect_unix(path) as cell:
            await cell.send(b"nonsense\r\n\r\n")
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await cell.receive()
