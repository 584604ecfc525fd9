"""Hyperdrive's way to a database, as a process: `python -m kythera.store.hyperdrive NAME --state DIR
--listen-fd N`.

A cell asks (`run/js/hyperdrive.js`) with its pass, in which the address is that it may reach, and no
other; the connection is opened, to TLS if the server has it, and waits for the cell under a ticket that
is good once and for a moment. Bytes are passed on and not looked at. Refuses who has no pass, more
connections than the configuration allows, and a server that does not answer.
"""

import argparse
import socket
import ssl
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import msgspec
import structlog
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from anyio.streams.tls import TLSStream
from msgspec import Struct

from kythera.ground.chance import SystemChance
from kythera.ground.journal import configure
from kythera.ground.layout import Layout
from kythera.ground.passes import PASS_HEADER, NotAPass, Pass, check
from kythera.model.limits import Limits
from kythera.store.usage import PATH, Usage, is_agents

STORE = "hyperdrive"
HEAD_BYTES_MAX = 16 * 1024
HEAD_S_MAX = 10.0
TICKET_S = 10.0
CHUNK_BYTES = 64 * 1024
SSL_REQUEST = bytes.fromhex("0000000804d2162f")
"""What a client of PostgreSQL begins with to ask for TLS; `S` or `N` is the answer."""
STREAM_ERRORS = (OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


class Origin(Struct, frozen=True):
    """What a pass leads to: the text of its resource is this as JSON."""

    id: str
    host: str
    port: int
    sslmode: str
    connections: int


class Refused(Exception):
    """There is no connection; `str` says why, to the worker's author."""


@dataclass
class Waiting:
    """A connection that is open and waits for its cell."""

    stream: ByteStream
    origin: Origin
    granted: Pass
    scope: anyio.CancelScope


class Cell:
    """A cell's connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock

    async def receive(self, max_bytes: int = CHUNK_BYTES) -> bytes:
        """Return what comes next. Raises EndOfStream."""
        while True:
            try:
                if chunk := self._sock.recv(max_bytes):
                    return chunk
                raise anyio.EndOfStream
            except BlockingIOError:
                await anyio.wait_readable(self._sock)

    async def send(self, item: bytes) -> None:
        """Send all of it."""
        rest = memoryview(item)
        while rest:
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                await anyio.wait_writable(self._sock)

    def close(self) -> None:
        """Hang up."""
        self._sock.close()


class Way:
    """All connections of a machine."""

    def __init__(self, key: str, limits: Limits) -> None:
        self.usage = Usage("connections", "failed", "bytes_in", "bytes_out")
        self._key = key
        self._limits = limits
        self._waiting: dict[str, Waiting] = {}
        self._open: Counter[str] = Counter()
        self._journal = structlog.get_logger("store/hyperdrive")

    async def handle(self, cell: Cell) -> None:
        """Answer one connection of a cell: requests for tickets, or one CONNECT."""
        with closing(cell):
            try:
                rest = b""
                while True:
                    head, rest = await _head(cell, rest)
                    method, target, headers = _parsed(head)
                    if method == "CONNECT":
                        await self._join(cell, target.rpartition(":")[0], rest)
                        return
                    rest = rest[int(headers.get("content-length", "0") or 0) :]
                    await self._answer(cell, target, headers)
            except (*STREAM_ERRORS, ValueError, TimeoutError):
                return

    async def _answer(self, cell: Cell, target: str, headers: dict[str, str]) -> None:
        try:
            granted = check(headers.get(PASS_HEADER.lower(), ""), self._key, STORE)
        except NotAPass:
            await _say(cell, "403 Forbidden", "This store answers this machine's cells alone.")
            return
        if target.endswith(PATH) and is_agents(granted):
            await _say(cell, "200 OK", self.usage.told().decode())
            return
        origin = msgspec.json.decode(granted.resource, type=Origin)
        self.usage.add(granted, "connections")
        try:
            if self._open[origin.id] >= origin.connections:
                raise Refused(f"all {origin.connections} connections to it are in use")
            ticket = await self._ticket(origin, granted)
        except Refused as error:
            self.usage.add(granted, "failed")
            where = f"{origin.host}:{origin.port}"
            self._journal.warning("not_connected", worker=granted.worker, to=where, why=str(error))
            await _say(cell, "502 Bad Gateway", f"Hyperdrive cannot reach {where}: {error}.")
            return
        await _say(cell, "200 OK", ticket)

    async def _ticket(self, origin: Origin, granted: Pass) -> str:
        self._open[origin.id] += 1
        try:
            stream = await _opened(origin, self._limits.hyperdrive_connect_ms)
        except BaseException:
            self._closed(origin)
            raise
        ticket = SystemChance().hex(32)
        self._waiting[ticket] = Waiting(stream, origin, granted, anyio.CancelScope())
        self._tasks.start_soon(self._forget, ticket)
        return ticket

    def _closed(self, origin: Origin) -> None:
        self._open[origin.id] -= 1
        if not self._open[origin.id]:
            del self._open[origin.id]

    async def _forget(self, ticket: str) -> None:
        """Close a connection whose cell has not come."""
        try:
            with self._waiting[ticket].scope:
                await anyio.sleep(TICKET_S)
        finally:
            waiting = self._waiting.pop(ticket, None)
            if waiting is not None:
                await self._end(waiting)

    async def _end(self, waiting: Waiting) -> None:
        self._closed(waiting.origin)
        with anyio.CancelScope(shield=True):
            await anyio.aclose_forcefully(waiting.stream)

    async def _join(self, cell: Cell, ticket: str, rest: bytes) -> None:
        waiting = self._waiting.pop(ticket, None)
        if waiting is None:
            await _say(cell, "403 Forbidden", "There is no such ticket.")
            return
        waiting.scope.cancel()
        try:
            await cell.send(b"HTTP/1.1 200 OK\r\n\r\n")
            if rest:
                await waiting.stream.send(rest)
                self.usage.add(waiting.granted, "bytes_out", len(rest))
            await self._pipe(cell, waiting)
        finally:
            await self._end(waiting)

    async def _pipe(self, cell: Cell, waiting: Waiting) -> None:
        """Pass bytes on, both ways, until either side ends or nothing moves any more."""
        idle_s = self._limits.hyperdrive_idle_ms / 1_000
        moved = [anyio.current_time()]
        database, granted = waiting.stream, waiting.granted

        async def copy(source: Cell | ByteStream, sink: Cell | ByteStream, way: str) -> None:
            try:
                while True:
                    chunk = await source.receive(CHUNK_BYTES)
                    moved[0] = anyio.current_time()
                    self.usage.add(granted, way, len(chunk))
                    await sink.send(chunk)
            except STREAM_ERRORS:
                tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(copy, cell, database, "bytes_out")
            tasks.start_soon(copy, database, cell, "bytes_in")
            while (left_s := moved[0] + idle_s - anyio.current_time()) > 0:
                await anyio.sleep(left_s)
            tasks.cancel_scope.cancel()

    async def serve(self, listener: socket.socket) -> None:
        """Serve for ever."""
        async with anyio.create_task_group() as self._tasks:
            while True:
                try:
                    sock, _ = listener.accept()
                except BlockingIOError:
                    await anyio.wait_readable(listener)
                    continue
                self._tasks.start_soon(self.handle, Cell(sock))


async def _opened(origin: Origin, within_ms: int) -> ByteStream:
    """Connect, and begin TLS if the server has it. Raises Refused."""
    plain: SocketStream | None = None
    try:
        with anyio.fail_after(within_ms / 1_000):
            plain = await anyio.connect_tcp(origin.host, origin.port)
            sock = plain.extra(SocketAttribute.raw_socket)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await plain.send(SSL_REQUEST)
            word = await plain.receive(1)
            if word == b"S":
                return await TLSStream.wrap(
                    plain,
                    hostname=origin.host,
                    ssl_context=_unverified(),
                    standard_compatible=False,
                )
            if word != b"N":
                raise Refused("what answers there is no PostgreSQL")
            if origin.sslmode == "require":
                raise Refused("the server has no TLS, and sslmode is require")
            return plain
    except BaseException as error:
        if plain is not None:
            await anyio.aclose_forcefully(plain)
        match error:
            case TimeoutError():
                raise Refused(f"it did not answer within {within_ms:,} ms") from None
            case anyio.EndOfStream():
                raise Refused("it hung up") from None
            case OSError() | anyio.BrokenResourceError():
                raise Refused(getattr(error, "strerror", None) or "connection failed") from None
        raise


def _unverified() -> ssl.SSLContext:
    """Return what `sslmode=require` means to PostgreSQL: TLS, whoever it is."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _head(cell: Cell, rest: bytes) -> tuple[str, bytes]:
    raw = bytearray(rest)
    with anyio.move_on_after(None if not rest else HEAD_S_MAX):
        while b"\r\n\r\n" not in raw:
            if len(raw) > HEAD_BYTES_MAX:
                raise ValueError
            raw += await cell.receive()
    head, _, after = bytes(raw).partition(b"\r\n\r\n")
    return head.decode("latin-1"), after


def _parsed(head: str) -> tuple[str, str, dict[str, str]]:
    """Return method, target and headers. Raises ValueError."""
    first, *lines = head.split("\r\n")
    method, target, _ = first.split(" ")
    fields = (line.partition(":") for line in lines)
    return method, target, {name.lower(): value.strip() for name, _, value in fields}


async def _say(cell: Cell, status: str, text: str) -> None:
    body = text.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n"
    await cell.send(head.encode() + body)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until killed; connections end with it."""
    parser = argparse.ArgumentParser(prog="kythera.store.hyperdrive")
    parser.add_argument("store", choices=[STORE])
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--listen-fd", type=int, required=True)
    options = parser.parse_args(arguments)
    configure("store/hyperdrive")
    layout = Layout(options.state)
    listener = socket.socket(fileno=options.listen_fd)
    listener.set_inheritable(False)
    listener.setblocking(False)
    limits = layout.read_platform().limits
    way = Way(layout.store_key.read_text(encoding="ascii"), limits)
    anyio.run(partial(way.serve, listener))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
