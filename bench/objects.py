"""A call to a Durable Object through a stateless cell, beside the same worker in bare workerd.

Bare workerd has its objects in the worker's own process; here they are in another one. Rounds
alternate between the two; time is that of one visitor who asks again and again.
"""

import tempfile
from pathlib import Path

from bench.bare import bare_workerd
from bench.client import Address
from bench.figures import Figure, median
from bench.running import deploy, platform
from bench.wrk import wrk

ROUNDS = 5
ROUND_S = 2.0
CONNECTIONS = 8
RATIO_MAX = 5.0
COUNTER = """\
import { DurableObject } from 'cloudflare:workers';
export class Counter extends DurableObject {
  count = 0;
  look() { return this.count; }
  async add() { this.count += 1; await this.ctx.storage.put('count', this.count); return this.count; }
}
export default {
  async fetch(request, env) {
    const stub = env.NS.getByName('one');
    const adds = request.headers.get('host')?.startsWith('adds');
    return new Response(String(await (adds ? stub.add() : stub.look())));
  },
};
"""
BARE = """\
using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = .main), (name = "disk", disk = (path = "%s", writable = true))],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "main")] );
const main :Workerd.Worker = (
  modules = [(name = "index.js", esModule = embed "index.js")],
  bindings = [(name = "NS", durableObjectNamespace = "Counter")],
  durableObjectNamespaces = [(className = "Counter", uniqueKey = "bench", enableSql = true)],
  durableObjectStorage = (localDisk = "disk"),
  compatibilityDate = "2026-04-01" );
"""
METADATA = {
    "bindings": [{"type": "durable_object_namespace", "name": "NS", "class_name": "Counter"}],
    "migrations": {"new_tag": "v1", "steps": [{"new_sqlite_classes": ["Counter"]}]},
}
CALLS = {"adds": "that writes", "looks": "that does not write"}


async def run() -> list[Figure]:
    """Measure calls that write and calls that do not."""
    with tempfile.TemporaryDirectory(prefix="kythera-bench-") as folder:
        disk = Path(folder) / "disk"
        disk.mkdir()
        async with (
            platform() as running,
            bare_workerd(Path(folder) / "bare", COUNTER, 1, config=BARE % disk) as bare,
        ):
            async with running.api() as api:
                for name in CALLS:
                    await deploy(api, name, COUNTER, **METADATA)
            figures = []
            for name, called in CALLS.items():
                host = running.host(name)
                await running.served(name)
                figures.append(await _compared(running.front, bare.address, host, called))
            return figures


async def _compared(front: Address, bare: Address, host: str, called: str) -> Figure:
    mine, base = [], []
    for _ in range(ROUNDS):
        base.append(await _call_us(bare, host))
        mine.append(await _call_us(front, host))
    return Figure(
        bench="objects",
        name=f"a call {called}, over one within bare workerd",
        value=median(m / b for m, b in zip(mine, base, strict=True)),
        unit="times",
        target=RATIO_MAX,
        note=f"{median(mine):.0f} µs and {median(base):.0f} µs, {CONNECTIONS} visitors at once",
    )


async def _call_us(address: Address, host: str) -> float:
    load = await wrk(address, host, seconds=ROUND_S, connections=CONNECTIONS)
    assert not load.failures, f"{load.failures} calls failed"
    return load.seconds / load.requests * 1e6
