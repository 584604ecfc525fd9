"""What the way out costs: subrequests through the egress cell beside subrequests on a direct network.

Three cells of workerd's own kind on this machine, no platform around them: an origin, a worker that
reaches it directly, and the same worker behind an egress cell. Rounds take turns.
"""

import socket
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from bench.client import Address, Connection
from bench.figures import Figure, median
from kythera.ground.meters import cpu_seconds, private_bytes
from kythera.ground.processes import child
from kythera.model.limits import MIB, Limits
from kythera.model.records import Version
from kythera.run.config import OWN_COMPATIBILITY_DATE, encode
from kythera.run.egress import COUNTERS, EgressSettings, egress_config
from kythera.run.outbound import NOTHING, OUTBOUND, EgressDoor, nothing, outbound_services
from kythera.run.workerd import find_workerd, workerd_argv

ROUNDS, REQUESTS = 7, 400
BODY_BYTES = 200 * MIB
READY_S = 10.0
ORIGIN = """export default { fetch(request) {
  const n = Number(new URL(request.url).searchParams.get('n'));
  if (!n) { return new Response('hello'); }
  let left = n;
  return new Response(new ReadableStream({ type: 'bytes', pull(c) {
    c.enqueue(new Uint8Array(Math.min(left, 65536))); left -= 65536; if (left <= 0) { c.close(); } } }));
} };"""
CALLER = """export default { async fetch(request) {
  const { search } = new URL(request.url);
  const answer = await fetch('http://%s/' + search);
  if (search === '') { return answer; }
  let n = 0; for await (const chunk of answer.body) { n += chunk.byteLength; }
  return new Response(String(n));
} };"""


@dataclass(frozen=True)
class Side:
    """One way to the origin: where to ask, and the processes that work for it."""

    name: str
    address: Address
    pids: tuple[int, ...]


def _worker(name: str, code: str, out: str) -> dict[str, Any]:
    return {
        "name": name,
        "worker": {
            "modules": [{"name": "w.js", "esModule": code}],
            "compatibilityDate": OWN_COMPATIBILITY_DATE,
            "globalOutbound": {"name": out},
        },
    }


def _config(services: list[dict[str, Any]]) -> bytes:
    socket_ = {"name": "http", "http": {}, "service": {"name": "main"}}
    return encode({"services": services, "sockets": [socket_]})


@asynccontextmanager
async def _workerd(config: bytes, **sockets: socket.socket) -> AsyncIterator[int]:
    numbers = {name: str(sock.fileno()) for name, sock in sockets.items()}
    argv = [str(find_workerd()), *workerd_argv(numbers, "2")]
    passed = [sock.fileno() for sock in sockets.values()]
    async with child(argv, pass_fds=passed, stdin=config, capture=False) as process:
        yield process.pid


async def _ready(address: Address) -> Connection:
    """Connect and be answered once: the socket listens before its process does."""
    connection = await Connection.open(address)
    with anyio.fail_after(READY_S):
        assert (await connection.ask("caller", "GET", "/")).status == 200
    return connection


@asynccontextmanager
async def _sides(folder: Path) -> AsyncIterator[tuple[Side, Side]]:
    async with AsyncExitStack() as stack:

        def tcp() -> socket.socket:
            return stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))

        def unix(name: str) -> socket.socket:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.bind(str(folder / name))
            sock.listen(1024)
            return sock

        origin, direct, through = tcp(), tcp(), tcp()
        code = CALLER % f"127.0.0.1:{origin.getsockname()[1]}"
        door = EgressDoor(folder / "egress.sock", "bench", Limits())
        allow = ("public", "127.0.0.0/8")
        made = EgressSettings(key=door.key, allow=allow, ca_available=False)
        version = Version(account="a", worker="w", id="v", number=1, created_on="")
        open_network = {"name": NOTHING, "network": {"allow": list(allow)}}
        shut = [nothing(), *outbound_services(version, door), _worker("main", code, OUTBOUND)]
        configs = (
            (_config([nothing(), _worker("main", ORIGIN, NOTHING)]), {"http": origin}),
            (_config([open_network, _worker("main", code, NOTHING)]), {"http": direct}),
            (egress_config(made), {"http": unix("egress.sock"), COUNTERS: unix("counters.sock")}),
            (_config(shut), {"http": through}),
        )
        pids = [
            await stack.enter_async_context(_workerd(config, **sockets))
            for config, sockets in configs
        ]
        yield (
            Side("direct", direct.getsockname(), (pids[1],)),
            Side("through", through.getsockname(), (pids[3], pids[2])),
        )


async def _round(side: Side, connection: Connection) -> tuple[float, float]:
    """Return (milliseconds, CPU milliseconds) of one request with one subrequest."""
    before, took = [cpu_seconds(pid) for pid in side.pids], []
    for _ in range(REQUESTS):
        began = time.perf_counter()
        assert (await connection.ask("caller", "GET", "/")).body == b"hello"
        took.append(time.perf_counter() - began)
    after = [cpu_seconds(pid) for pid in side.pids]
    return median(took) * 1000, (sum(after) - sum(before)) / REQUESTS * 1000


async def _body(side: Side, connection: Connection) -> float:
    """Return the MiB/s of one large body."""
    began = time.perf_counter()
    answer = await connection.ask("caller", "GET", f"/?n={BODY_BYTES}")
    assert answer.body == str(BODY_BYTES).encode(), (side.name, answer)
    return BODY_BYTES / MIB / (time.perf_counter() - began)


async def run() -> list[Figure]:
    """Measure both sides in turns."""
    with tempfile.TemporaryDirectory(prefix="kythera-bench-") as name:
        async with _sides(Path(name)) as sides:
            connections = [await _ready(side.address) for side in sides]
            idle = private_bytes(sides[1].pids[1]) / MIB
            rounds: dict[str, list[tuple[float, float]]] = {side.name: [] for side in sides}
            bodies: dict[str, list[float]] = {side.name: [] for side in sides}
            for _ in range(ROUNDS):
                for side, connection in zip(sides, connections, strict=True):
                    rounds[side.name].append(await _round(side, connection))
            for _ in range(3):
                for side, connection in zip(sides, connections, strict=True):
                    bodies[side.name].append(await _body(side, connection))
            memory = private_bytes(sides[1].pids[1]) / MIB
            return [*_figures(rounds, bodies), _memory(idle, memory)]


def _figures(
    rounds: dict[str, list[tuple[float, float]]], bodies: dict[str, list[float]]
) -> list[Figure]:
    ms = {name: median(took for took, _ in found) for name, found in rounds.items()}
    cpu = {name: median(burnt for _, burnt in found) for name, found in rounds.items()}
    speed = {name: median(found) for name, found in bodies.items()}
    return [
        Figure(
            bench="egress",
            name="request with one subrequest, through egress over direct, median",
            value=ms["through"] / ms["direct"],
            unit="times",
            note=f"{ms['direct']:.2f} ms direct, {ms['through']:.2f} ms through egress",
        ),
        Figure(
            bench="egress",
            name="CPU of one subrequest more than direct",
            value=(cpu["through"] - cpu["direct"]) * 1000,
            unit="µs",
            note=f"{cpu['direct'] * 1000:.0f} µs direct, {cpu['through'] * 1000:.0f} µs in cell and egress",
        ),
        Figure(
            bench="egress",
            name="a large body, direct over through egress",
            value=speed["direct"] / speed["through"],
            unit="times",
            note=f"{speed['direct']:.0f} MiB/s direct, {speed['through']:.0f} MiB/s through egress",
        ),
    ]


def _memory(idle: float, after: float) -> Figure:
    return Figure(
        bench="egress",
        name="private memory of the egress cell, idle",
        value=idle,
        unit="MiB",
        note=f"{after:.0f} MiB after {ROUNDS * REQUESTS:,} requests and 600 MiB of bodies",
    )
