"""What D1 costs: a select and an insert through a cell and the database store, beside workerd's own.

Two sides on this machine, no platform around them: the worker and workerd's bundled D1 in one
process; and the worker in a cell, the databases in the store's process, a socket and a pass between
them. Both write to the same disk, and both wait for it. Rounds take turns.
"""

import json
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
import msgspec

from bench.client import Address, Connection
from bench.figures import Figure, median
from kythera.ground.meters import private_bytes
from kythera.ground.passes import PASS_HEADER, Pass, sign
from kythera.ground.processes import child
from kythera.model.catalog import Catalog
from kythera.model.limits import MIB, Limits
from kythera.model.records import Binding, Resource, Version
from kythera.run.bindings import BindingContext, StoreDoors, made
from kythera.run.config import OWN_COMPATIBILITY_DATE, PULSE, encode
from kythera.run.databases import DATABASE, databases_config
from kythera.run.store_config import StoreView
from kythera.run.workerd import find_workerd, workerd_argv

ROUNDS, REQUESTS = 7, 200
READY_S = 20.0
ID = "0f9a1c5e-27c1-4d3e-9d1b-6f3c6f8f2b11"
KEY = "bench"
CODE = """export default { async fetch(request, env) {
  const path = new URL(request.url).pathname;
  if (path === '/insert') {
    await env.DB.prepare('INSERT INTO t (name) VALUES (?)').bind('x').run();
  } else if (path === '/select') {
    await env.DB.prepare('SELECT name FROM t WHERE id = ?').bind(1).first();
  } else if (path === '/make') {
    await env.DB.prepare('CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)').run();
  }
  return new Response('ok');
} };"""
Fields = dict[str, Any]


@dataclass(frozen=True)
class Side:
    """One way to a database: where to ask."""

    name: str
    address: Address


def _app(binding: Fields) -> Fields:
    worker = {
        "modules": [{"name": "w.js", "esModule": CODE}],
        "compatibilityDate": OWN_COMPATIBILITY_DATE,
        "bindings": [binding],
    }
    return {"name": "main", "worker": worker}


def _config(services: list[Fields]) -> bytes:
    sockets = [{"name": "http", "http": {}, "service": {"name": "main"}}]
    return encode({"services": services, "sockets": sockets})


def bundled_config(disk: Path) -> bytes:
    """Return worker and database in one process, as workerd's own wiring has it."""
    props = {"json": json.dumps({"database": ID})}
    fetcher = {"name": "fetcher", "service": {"name": "d1", "props": props}}
    wrapped = {"moduleName": "cloudflare-internal:d1-api", "innerBindings": [fetcher]}
    worker = {
        "modules": [{"name": "d1.js", "bundled": "/workerd/d1.js"}],
        "compatibilityDate": OWN_COMPATIBILITY_DATE,
        "bindings": [{"name": "DATABASE", "durableObjectNamespace": {"className": "D1Database"}}],
        "durableObjectNamespaces": [
            {"className": "D1Database", "uniqueKey": "d1", "enableSql": True}
        ],
        "durableObjectStorage": {"localDisk": "disk"},
    }
    folder = {"name": "disk", "disk": {"path": str(disk), "writable": True}}
    return _config(
        [folder, {"name": "d1", "worker": worker}, _app({"name": "DB", "wrapped": wrapped})]
    )


def cell_config_of(store: Path) -> bytes:
    """Return the worker alone, with a pass to the database behind a socket."""
    version = Version(account="a", worker="w", id="v", number=1, created_on="")
    binding = Binding(name="DB", type="d1", fields={"id": ID})
    doors = StoreDoors({DATABASE: store}, KEY)
    found = made(binding, BindingContext(version, lambda _: b"", lambda _, __: "", doors))
    return _config([*found.services, _app({"name": "DB", **found.value})])


def store_config_of(disk: Path) -> bytes:
    """Return the store, as the agent starts it."""
    catalog = Catalog()
    record = Resource(account="a", type=DATABASE, id=ID, name="bench", created_on="")
    catalog.records[record.key()] = record
    limits: Fields = msgspec.to_builtins(Limits())
    config = databases_config(catalog, StoreView(disk, KEY, limits))
    assert config is not None, "there is a database"
    return config


@asynccontextmanager
async def _workerd(config: bytes, **sockets: socket.socket) -> AsyncIterator[int]:
    numbers = {name: str(sock.fileno()) for name, sock in sockets.items()}
    argv = [str(find_workerd()), *workerd_argv(numbers, "2")]
    passed = [sock.fileno() for sock in sockets.values()]
    async with child(argv, pass_fds=passed, stdin=config, capture=False) as process:
        yield process.pid


async def _make(store: Path) -> None:
    """Make the database, as the API does."""
    shown = sign(Pass(account="a", worker="", store=DATABASE, resource=ID), KEY)
    transport = httpx.AsyncHTTPTransport(uds=str(store))
    async with httpx.AsyncClient(transport=transport, timeout=READY_S) as client:
        answer = await client.post("http://d1/create", headers={PASS_HEADER: shown})
        assert answer.status_code == 200, answer.text


@asynccontextmanager
async def _sides(folder: Path) -> AsyncIterator[tuple[tuple[Side, Side], int]]:
    """Start both; yield them, and the store's pid."""
    async with AsyncExitStack() as stack:

        def tcp() -> socket.socket:
            return stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))

        def unix(name: str) -> socket.socket:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.bind(str(folder / name))
            sock.listen(1024)
            return sock

        disks = [folder / name for name in ("bundled", "store")]
        for disk in disks:
            disk.mkdir()
        bundled, cell, door = tcp(), tcp(), folder / "store.sock"
        store = _workerd(store_config_of(disks[1]), http=unix(door.name), **{PULSE: unix("pulse")})
        pid = await stack.enter_async_context(store)
        await stack.enter_async_context(_workerd(bundled_config(disks[0]), http=bundled))
        await stack.enter_async_context(_workerd(cell_config_of(door), http=cell))
        await _make(door)
        yield (
            (Side("bundled", bundled.getsockname()), Side("store", cell.getsockname())),
            pid,
        )


async def _ready(side: Side) -> Connection:
    connection = await Connection.open(side.address)
    with anyio.fail_after(READY_S):
        for path in ("/make", "/insert"):
            assert (await connection.ask("app", "GET", path)).status == 200, side.name
    return connection


async def _round(connection: Connection, path: str) -> list[float]:
    took = []
    for _ in range(REQUESTS):
        began = time.perf_counter()
        assert (await connection.ask("app", "GET", path)).body == b"ok"
        took.append((time.perf_counter() - began) * 1000)
    return took


async def run() -> list[Figure]:
    """Measure both sides in turns."""
    with tempfile.TemporaryDirectory(prefix="kythera-bench-") as name:
        async with _sides(Path(name)) as (sides, pid):
            connections = [await _ready(side) for side in sides]
            took: dict[tuple[str, str], list[float]] = {}
            for _ in range(ROUNDS):
                for what in ("select", "insert"):
                    for side, connection in zip(sides, connections, strict=True):
                        found = await _round(connection, f"/{what}")
                        took.setdefault((what, side.name), []).extend(found)
            memory = private_bytes(pid) / MIB
            return [*(_figure(what, took) for what in ("select", "insert")), _memory(memory)]


def _figure(what: str, took: dict[tuple[str, str], list[float]]) -> Figure:
    here, there = sorted(took[what, "store"]), sorted(took[what, "bundled"])
    p99 = here[len(here) * 99 // 100]
    return Figure(
        bench="d1",
        name=f"D1 {what} of one row, in a store over bundled, median",
        value=median(here) / median(there),
        unit="times",
        note=f"{median(there):.2f} ms bundled, {median(here):.2f} ms here (p99 {p99:.2f} ms)",
    )


def _memory(found: float) -> Figure:
    return Figure(
        bench="d1",
        name="private memory of the database store",
        value=found,
        unit="MiB",
        note=f"after {2 * ROUNDS * REQUESTS:,} statements",
    )
