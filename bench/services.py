"""What a call to another worker costs: a call and a fetch through a service binding, between two cells,
beside a call that stays in the caller's own process.

One platform, one visitor. Requests that make a call, that fetch, that call within the process and
that do nothing of the kind take turns; what they need more than the last is the cost.
"""

import time

from bench.client import Connection
from bench.figures import Figure, median
from bench.running import Running, deploy, platform
from kythera.ground.meters import private_bytes
from kythera.model.limits import MIB

ROUNDS, REQUESTS = 7, 300
CALLEE = """import { WorkerEntrypoint } from 'cloudflare:workers';
export default class extends WorkerEntrypoint {
  add(a, b) { return a + b; }
  fetch() { return new Response('3'); }
}"""
CALLER = """import { WorkerEntrypoint } from 'cloudflare:workers';
export class Own extends WorkerEntrypoint { add(a, b) { return a + b; } }
export default { async fetch(request, env, ctx) {
  const { pathname } = new URL(request.url);
  if (pathname === '/call') { return new Response(String(await env.OTHER.add(1, 2))); }
  if (pathname === '/fetch') { return new Response(await (await env.OTHER.fetch(request)).text()); }
  if (pathname === '/own') { return new Response(String(await ctx.exports.Own.add(1, 2))); }
  return new Response('3');
} };"""
PATHS = ("/", "/own", "/call", "/fetch")


async def _round(connection: Connection, host: str, path: str) -> float:
    """Return the milliseconds of one request, median."""
    took = []
    for _ in range(REQUESTS):
        began = time.perf_counter()
        assert (await connection.ask(host, "GET", path)).body == b"3"
        took.append(time.perf_counter() - began)
    return median(took) * 1000


async def _measured(running: Running) -> dict[str, list[float]]:
    host = running.host("caller")
    found: dict[str, list[float]] = {path: [] for path in PATHS}
    for _ in range(ROUNDS):
        for path in PATHS:
            # A connection of its own: HAProxy gives one up after some thousand requests.
            found[path].append(await _round(await Connection.open(running.front), host, path))
    return found


async def run() -> list[Figure]:
    """Measure all ways in turns."""
    async with platform() as running:
        async with running.api() as api:
            await deploy(api, "callee", CALLEE)
            binding = {"type": "service", "name": "OTHER", "service": "callee"}
            await deploy(api, "caller", CALLER, bindings=[binding])
        await running.served("caller")
        took = {path: median(rounds) for path, rounds in (await _measured(running)).items()}
        memory = {name: await _memory(running, name) for name in ("caller", "callee")}
    bare = took["/"]
    note = f"a request without one takes {bare:.2f} ms"
    return [
        _figure("a call to another worker's cell", took["/call"] - bare, "ms", note),
        _figure("a fetch from another worker's cell", took["/fetch"] - bare, "ms", note),
        _figure("a call within the process", took["/own"] - bare, "ms", note),
        _figure("private memory of a cell with a service binding", memory["caller"], "MiB"),
        _figure("private memory of the cell that it calls", memory["callee"], "MiB"),
    ]


async def _memory(running: Running, worker: str) -> float:
    (cell,) = await running.cells(worker)
    return sum(private_bytes(pid) for pid in cell["pids"]) / MIB


def _figure(name: str, value: float, unit: str, note: str = "") -> Figure:
    return Figure(bench="services", name=name, value=value, unit=unit, note=note)
