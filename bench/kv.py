"""A KV get and a KV put beside workerd's bundled KV service, in the same run.

The same worker runs in a cell of the platform and in a bare workerd with `/workerd/kv.js`; rounds
alternate. What one call takes is the difference between requests that make many of them and requests
that make none, so that doors and HTTP around it do not count; p99 is of whole requests with one get.
"""

import socket
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from bench.bare import answers
from bench.client import Address, Connection
from bench.figures import Figure, median, percentile
from bench.running import Running, deploy, platform
from kythera.ground.processes import child
from kythera.run.workerd import find_workerd

ROUNDS = 5
REQUESTS = 100
CALLS = 20
SINGLE_REQUESTS = 1_000
PAUSE_S = 0.002
"""Between single requests: idle is not full load."""
RATIO_MAX, P99_MS_MAX = 2.0, 3.0
CODE = """\
export default {
  async fetch(request, env) {
    const [, does, times] = new URL(request.url).pathname.split("/");
    for (let left = Number(times); left > 0; left -= 1) {
      if (does === "get" && (await env.KV.get("key")) === null) throw new Error("lost");
      if (does === "put") await env.KV.put("key", "a value of some length, as a session has");
    }
    return new Response("done");
  },
};
"""
CONFIG = """\
using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "main", worker = .main), (name = "kv", worker = .kv),
    (name = "objects", disk = (path = "FOLDER/objects", writable = true)),
    (name = "blobs", disk = (path = "FOLDER/blobs", writable = true)) ],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "main")] );
const main :Workerd.Worker = (
  modules = [(name = "index.js", esModule = embed "index.js")],
  bindings = [(name = "KV", kvNamespace = (
    name = "kv", props = (json = "{\\"namespace\\":\\"n1\\"}")))],
  compatibilityDate = "2026-04-01" );
const kv :Workerd.Worker = (
  modules = [(name = "kv.js", bundled = "/workerd/kv.js")],
  durableObjectNamespaces = [(className = "KVNamespace", uniqueKey = "kv", enableSql = true)],
  durableObjectStorage = (localDisk = "objects"),
  bindings = [
    (name = "SHARD", durableObjectNamespace = "KVNamespace"), (name = "BLOBS", service = "blobs")],
  compatibilityDate = "2026-04-01" );
"""


@asynccontextmanager
async def _bundled(folder: Path) -> AsyncIterator[Address]:
    """Serve the worker with workerd's own KV, on disk."""
    for name in ("objects", "blobs"):
        (folder / name).mkdir(parents=True)
    (folder / "index.js").write_text(CODE)
    (folder / "config.capnp").write_text(CONFIG.replace("FOLDER", str(folder)))
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listening:
        number = listening.fileno()
        command = [
            *(str(find_workerd()), "serve", "--experimental", str(folder / "config.capnp")),
            *("--socket-fd", f"http={number}"),
        ]
        async with child(command, pass_fds=(number,), capture=False):
            address: Address = listening.getsockname()
            await answers(address)
            yield address


async def _asked(connection: Connection, host: str, path: str) -> float:
    began = time.perf_counter()
    answer = await connection.ask(host, "GET", path)
    assert answer.status == 200, answer
    return time.perf_counter() - began


async def _per_call_us(address: Address, host: str, does: str) -> float:
    """Return what one call takes inside a request."""
    connection = await Connection.open(address)
    async with connection:
        with_calls, without = [], []
        for _ in range(REQUESTS):
            with_calls.append(await _asked(connection, host, f"/{does}/{CALLS}"))
            without.append(await _asked(connection, host, f"/{does}/0"))
    return (median(with_calls) - median(without)) / CALLS * 1e6


async def _singles_ms(address: Address, host: str) -> list[float]:
    """Return what whole requests with one get take, one after the other with pauses between."""
    connection = await Connection.open(address)
    found = []
    async with connection:
        for _ in range(SINGLE_REQUESTS):
            found.append(await _asked(connection, host, "/get/1") * 1000)
            await anyio.sleep(PAUSE_S)
    return found


async def _deployed(running: Running) -> None:
    async with running.api() as api:
        where = str(api.base_url).removesuffix("workers/scripts/")
        made = await api.post(f"{where}storage/kv/namespaces", json={"title": "bench"})
        namespace = made.raise_for_status().json()["result"]["id"]
        binding = {"type": "kv_namespace", "name": "KV", "namespace_id": namespace}
        await deploy(api, "kv", CODE, bindings=[binding])
    await running.served("kv")


async def run() -> list[Figure]:
    """Measure gets and puts on either side, and the tail of gets here."""
    found: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="kythera-bench-") as folder:
        async with platform() as running, _bundled(Path(folder) / "bundled") as bundled:
            await _deployed(running)
            sides = {"ours": (running.front, running.host("kv")), "bundled": (bundled, "kv")}
            for address, host in sides.values():
                await _per_call_us(address, host, "put")
            for _ in range(ROUNDS):
                for does in ("get", "put"):
                    for side, (address, host) in sides.items():
                        cost = await _per_call_us(address, host, does)
                        found.setdefault((does, side), []).append(cost)
            singles = await _singles_ms(*sides["ours"])
    return [*_ratios(found), _tail(singles)]


def _ratios(found: dict[tuple[str, str], list[float]]) -> list[Figure]:
    figures = []
    for does, target in (("get", RATIO_MAX), ("put", None)):
        ours, bundled = found[does, "ours"], found[does, "bundled"]
        ratios = [mine / theirs for mine, theirs in zip(ours, bundled, strict=True)]
        note = (
            f"{median(ours):.0f} µs and {median(bundled):.0f} µs a call;"
            f" rounds {min(ratios):.2f} to {max(ratios):.2f}"
        )
        figures.append(
            Figure(
                bench="kv",
                name=f"a KV {does}, ours over workerd's bundled KV",
                value=median(ratios),
                unit="times",
                target=target,
                note=note,
            )
        )
    return figures


def _tail(singles: list[float]) -> Figure:
    return Figure(
        bench="kv",
        name="a request with one KV get through the front door, idle, p99",
        value=percentile(singles, 0.99),
        unit="ms",
        target=P99_MS_MAX,
        note=f"median {median(singles):.2f} ms, worst of {len(singles)}: {max(singles):.1f} ms",
    )
