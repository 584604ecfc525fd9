"""A real HAProxy with small cells behind it: what the tests of the front door stand on.

A `Cell` is an HTTP server on a unix socket that does what its path says; `opened` starts HAProxy
as the keeper does (listening sockets by number) and ends it with all its processes.
"""

import asyncio
import base64
import hashlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx

from kythera.model.catalog import Catalog, Name
from kythera.model.limits import Limits
from kythera.model.records import Deployment, Domains, Route, Routes, Split, Worker, encode
from kythera.model.traffic import Share, Traffic
from kythera.route.front import Front
from kythera.route.mesh import Peers, Tunnel, Where
from kythera.route.mesh_data import DATA_ENV, DATA_SOCKET
from kythera.route.pages import CANNOT_START
from kythera.route.plan import FrontPlan, plan_front
from kythera.route.render import FrontOptions
from kythera.route.runtime import ask_once
from tests.processes import alive, births, family, wait_until

ACCOUNT = "a" * 32
SMALL = Limits(
    front_hard_stop_s=10, response_wait_s=20, request_head_s=5, keep_alive_s=5, client_idle_s=20
)
TYPED = b"Content-Type: text/plain\r\n"


class Cell:
    """One cell: answers with its own name and what it was sent."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self.connections = 0
        self.requests = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.listening = listening(path)

    async def start(self) -> "Cell":
        """Begin to accept; connections made before this have waited."""
        sock = self.listening.dup()
        self._server = await asyncio.start_unix_server(
            self._serve, sock=sock, limit=1 << 20, backlog=4096
        )
        return self

    async def stop(self) -> None:
        """Stop accepting and cut what is open; the listening socket stays, as the keeper's does."""
        if self._server is not None:
            # Closing a unix server unlinks nothing here: the path belongs to `listening`.
            self._server.close()
            for writer in list(self._open):
                writer.transport.abort()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._one(reader, writer):
                pass
        self._open.discard(writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        self.requests += 1
        line, *rest = head.strip().split("\r\n")
        method, target, _ = line.split(" ")
        rows = [row.split(": ", 1) for row in rest]
        headers = {row[0].lower(): row[1] if len(row) > 1 else "" for row in rows}
        action = ACTIONS.get(target.partition("?")[0], echo)
        return await action(self, Request(method, target, headers, reader, writer))


@dataclass
class Request:
    """What a cell was asked, and where the answer goes."""

    method: str
    target: str
    headers: dict[str, str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the body in pieces."""
        if self.headers.get("transfer-encoding") == "chunked":
            while size := int((await self._line()).split(b";")[0], 16):
                yield (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readline()
            return
        left = int(self.headers.get("content-length", "0"))
        while left:
            piece = await self.reader.read(min(left, 1 << 16))
            if not piece:
                raise ConnectionResetError
            left -= len(piece)
            yield piece

    async def _line(self) -> bytes:
        line = await self.reader.readline()
        if not line:
            raise ConnectionResetError
        return line

    async def answer(self, status: int, body: bytes, *, typed: bool = True) -> bool:
        """Send a whole answer; return whether the connection stays."""
        close = self.headers.get("connection", "").lower() == "close"
        self.writer.write(
            f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n".encode()
            + (TYPED if typed else b"")
            + (b"Connection: close\r\n" if close else b"")
            + b"x-kythera-own: 1\r\n\r\n"
            + (b"" if self.method == "HEAD" else body)
        )
        await self.writer.drain()
        return not close


async def echo(cell: Cell, request: Request) -> bool:
    """Answer with the cell's name, the headers it got, and the size of the body."""
    size = 0
    async for piece in request.body():
        size += len(piece)
    told = {"cell": cell.name, "target": request.target, "headers": request.headers, "size": size}
    return await request.answer(200, json.dumps(told).encode())


async def boom(cell: Cell, request: Request) -> bool:
    """Fail as workerd does for an uncaught exception: 500, these words, and no type."""
    return await request.answer(500, b"Internal Server Error", typed=False)


async def own_500(cell: Cell, request: Request) -> bool:
    """Answer 500 as a worker's own code may."""
    return await request.answer(500, b"mine")


async def alike_500(cell: Cell, request: Request) -> bool:
    """Answer 500 with as many bytes as workerd's own has, and no type."""
    return await request.answer(500, b"my own server error. ", typed=False)


async def cut(cell: Cell, request: Request) -> bool:
    """End without a word, as a killed cell does."""
    return False


async def head_bomb(cell: Cell, request: Request) -> bool:
    """Answer with a head of a megabyte."""
    request.writer.write(b"HTTP/1.1 200 OK\r\nX-Bomb: " + bytes([97]) * (1 << 20))
    request.writer.write(b"\r\nContent-Length: 0\r\n\r\n")
    await request.writer.drain()
    return True


async def lines_bomb(cell: Cell, request: Request) -> bool:
    """Answer with thousands of headers."""
    request.writer.write(b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 4_000)
    request.writer.write(b"Content-Length: 0\r\n\r\n")
    await request.writer.drain()
    return True


async def refused(cell: Cell, request: Request) -> bool:
    """Say what the agent says for a cell that cannot start."""
    request.writer.write(CANNOT_START)
    await request.writer.drain()
    return False


async def once_cut(cell: Cell, request: Request) -> bool:
    """End without a word the first time."""
    return cell.requests > 1 and await echo(cell, request)


async def websocket(cell: Cell, request: Request) -> bool:
    """Switch protocols and send back what comes."""
    key = request.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key.encode(), usedforsecurity=False).digest())
    request.writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n")
    request.writer.write(b"Connection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n")
    while frame := await _frame(request.reader):
        request.writer.write(frame)
        await request.writer.drain()
    return False


async def _frame(reader: asyncio.StreamReader) -> bytes:
    """Read one masked frame; return it as a server sends it, b"" for a close."""
    first, length = await reader.readexactly(2)
    length &= 127
    more = {126: 2, 127: 8}.get(length, 0)
    extended = await reader.readexactly(more)
    size = int.from_bytes(extended, "big") if more else length
    mask = await reader.readexactly(4)
    masked = await reader.readexactly(size)
    plain = bytes(byte ^ mask[n % 4] for n, byte in enumerate(masked))
    return b"" if first & 15 == 8 else bytes([first, length]) + extended + plain


async def events(cell: Cell, request: Request) -> bool:
    """Send one event, and the next only when the connection proves that it arrived."""
    request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
    request.writer.write(b"Connection: close\r\n\r\ndata: first\n\n")
    await request.writer.drain()
    await cell_released[cell.name].wait()
    request.writer.write(b"data: second\n\n")
    await request.writer.drain()
    return False


async def download(cell: Cell, request: Request) -> bool:
    """Send as many MiB as the query says."""
    n_mib = int(request.target.partition("?")[2])
    request.writer.write(b"HTTP/1.1 200 OK\r\n")
    request.writer.write(f"Content-Length: {n_mib << 20}\r\n\r\n".encode())
    for _ in range(n_mib):
        request.writer.write(bytes(1 << 20))
        await request.writer.drain()
    return True


async def slow(cell: Cell, request: Request) -> bool:
    """Answer when the test says so."""
    await cell_released[cell.name].wait()
    return await echo(cell, request)


Action = Callable[[Cell, Request], Awaitable[bool]]
ACTIONS: dict[str, Action] = {
    "/boom": boom,
    "/500": own_500,
    "/500-alike": alike_500,
    "/cut": cut,
    "/head-bomb": head_bomb,
    "/lines-bomb": lines_bomb,
    "/refused": refused,
    "/once-cut": once_cut,
    "/ws": websocket,
    "/events": events,
    "/download": download,
    "/slow": slow,
}


class _Released(dict[str, asyncio.Event]):
    def __missing__(self, name: str) -> asyncio.Event:
        return self.setdefault(name, asyncio.Event())


cell_released = _Released()
"""Cell name to the event that lets its `/slow` and `/events` go on."""


def listening(path: Path) -> socket.socket:
    """Listen on a unix socket, as the keeper does for a cell."""
    sock = socket.socket(socket.AF_UNIX)
    path.unlink(missing_ok=True)
    sock.bind(str(path))
    sock.listen(4096)
    sock.setblocking(False)
    return sock


@dataclass
class World:
    """Records and cells of a test, and the plan that follows from them."""

    catalog: Catalog = field(default_factory=Catalog)
    traffic: dict[Name, Traffic] = field(default_factory=dict)
    failing: dict[Name, str] = field(default_factory=dict)
    domain: str = "localhost"
    peers: Peers | None = None
    where: dict[str, Where] = field(default_factory=dict)
    tunnels: tuple[Tunnel, ...] = ()
    ways: dict[str, str] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)

    def worker(
        self, name: str, shares: dict[Cell | Share, float] | None = None, **fields: Any
    ) -> None:
        """Deploy a worker onto cells with percentages (each cell runs a version of its name)."""
        record = Worker(
            account=ACCOUNT, name=name, tag="t", created_on="", modified_on="", **fields
        )
        self.catalog.apply(record.key(), encode(record))
        parts = [
            cell
            if isinstance(cell, Share)
            else Share(
                server=cell.name, version_id=cell.name, path=str(cell.path), percentage=percentage
            )
            for cell, percentage in (shares or {}).items()
        ]
        self.serve(name, *parts)
        deployment = Deployment(
            account=ACCOUNT,
            worker=name,
            id="d",
            number=1,
            created_on="",
            versions=tuple(Split(version_id=s.version_id, percentage=s.percentage) for s in parts),
        )
        self.catalog.apply(deployment.key(), encode(deployment))

    def serve(self, name: str, *shares: Share) -> None:
        """Set a worker's cells."""
        self.traffic[ACCOUNT, name] = Traffic(account=ACCOUNT, worker=name, shares=shares)

    def routes(self, name: str, *patterns: str) -> None:
        """Set a worker's routes."""
        routes = tuple(Route(id=str(n), pattern=pattern) for n, pattern in enumerate(patterns))
        record = Routes(account=ACCOUNT, worker=name, routes=routes)
        self.catalog.apply(record.key(), encode(record))

    def domains(self, name: str, *hostnames: str) -> None:
        """Set a worker's custom domains."""
        record = Domains(account=ACCOUNT, worker=name, hostnames=hostnames)
        self.catalog.apply(record.key(), encode(record))

    def delete(self, name: str) -> None:
        """End a worker."""
        for key in [*self.catalog.keys_of(ACCOUNT, name)]:
            self.catalog.apply(key, None)
        self.traffic.pop((ACCOUNT, name), None)

    def plan(self, previous: FrontPlan | None) -> FrontPlan:
        """Return what the front door should do now."""
        return plan_front(
            self.catalog,
            self.traffic,
            self.failing,
            domain=self.domain,
            previous=previous,
            peers=self.peers,
            where={(ACCOUNT, name): where for name, where in self.where.items()},
            tunnels=self.tunnels,
            ways=self.ways,
            data=self.data,
        )


class Door:
    """A running HAProxy, its driver, its address, and the world behind it."""

    def __init__(self, folder: Path, options: FrontOptions) -> None:
        self.folder = folder
        self.options = options
        self.world = World()
        self.front = self.new_front()
        self.sockets = {name: _tcp() for name in ("http", "https", "mesh")}
        self.process: subprocess.Popen[bytes] | None = None
        self.cells: list[Cell] = []
        ports = [sock.getsockname()[1] for sock in self.sockets.values()]
        self.port, self.tls_port, self.mesh_port = ports
        self.data_door = folder / "data.sock"
        self.sockets[DATA_SOCKET] = listening(self.data_door)
        self.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=15)

    def new_front(self) -> Front:
        """Return a driver that knows nothing but the files: a new agent's."""
        self.front = Front(
            self.folder / "haproxy", self.folder / "run.sock", self.folder / "m.sock", self.options
        )
        return self.front

    async def cell(self, name: str, *, started: bool = True) -> Cell:
        """Add a cell."""
        cell = Cell(self.folder / f"{name}.sock", name)
        self.cells.append(cell)
        return await cell.start() if started else cell

    def start(self) -> None:
        """Start HAProxy on the files, as the keeper does."""
        numbers = {f"{{socket:{name}}}": sock.fileno() for name, sock in self.sockets.items()}
        env = {key: str(numbers[value]) for key, value in self.front.env().items()}
        # A reload may bring this door; the master has its environment once.
        env[DATA_ENV] = str(self.sockets[DATA_SOCKET].fileno())
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.front.argv(),
                env=env,
                pass_fds=[sock.fileno() for sock in self.sockets.values()],
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def kill(self) -> None:
        """End HAProxy with all its processes."""
        if self.process is not None:
            processes = births({self.process.pid, *family(self.process.pid)})
            for pid in processes:
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)
            self.process.wait()
            wait_until(lambda: not alive(processes), "HAProxy is gone")
            self.process = None

    async def apply(self) -> str:
        """Apply the world; return the sentence."""
        applied = await self.front.apply(self.world.plan(self.front.saved_plan()))
        return ("reload: " if applied.reloaded else "socket: ") + applied.sentence

    async def reload(self) -> None:
        """Have HAProxy reload, by the doubt that a lost mark is."""
        (self.folder / "haproxy" / "applied.json").unlink()
        assert (await self.apply()).startswith("reload")

    async def get(self, host: str, path: str = "/", **headers: str) -> httpx.Response:
        """Ask with a Host header."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.get(path, headers={"Host": host, **names})

    async def cell_of(self, host: str, path: str = "/", **headers: str) -> str:
        """Return the name of the cell that answers, or the status."""
        answer = await self.get(host, path, **headers)
        return str(answer.json()["cell"]) if answer.status_code == 200 else str(answer.status_code)

    async def ask(self, command: str) -> str:
        """Ask HAProxy itself."""
        return await ask_once(self.folder / "run.sock", command)

    async def close(self) -> None:
        """End everything."""
        await self.client.aclose()
        self.kill()
        for cell in self.cells:
            cell_released[cell.name].set()
            await cell.stop()
            cell.listening.close()
            cell_released.pop(cell.name)
        for sock in self.sockets.values():
            sock.close()


def _tcp() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(1024)
    return sock


@asynccontextmanager
async def opened(options: FrontOptions | None = None) -> AsyncIterator[Door]:
    """Run a front door for the length of the block."""
    folder = Path(tempfile.mkdtemp(prefix="door of x "))
    door = Door(folder, options or FrontOptions(limits=SMALL))
    try:
        door.front.prepare(door.world.plan(None))
        door.start()
        await door.front.ready()
        with anyio.fail_after(120):
            yield door
    finally:
        await door.close()
        shutil.rmtree(folder)
