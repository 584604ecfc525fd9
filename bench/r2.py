"""R2 beside miniflare's: 1 KB and 10 MB put and got through the same Worker, in turns, in one run.

Kythera: the front door, a cell, the store, SeaweedFS, and the disk: a put is answered when it is synced.
miniflare: workerd alone with its simulator, which syncs nothing.
"""

import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec

from bench.client import Address, Connection
from bench.figures import Figure, median, percentile
from bench.running import Running, deploy, platform
from kythera.store.r2_hot import QUIET_S

ROOT = Path(__file__).resolve().parent.parent
MINIFLARE = ROOT / "tests" / "wrangler" / "4.86.0" / "node_modules" / "miniflare"
READY_S = 60.0
SIZES = {"1 KB": (1_000, 100), "10 MB": (10_000_000, 8)}
"""Name → bytes, and how many of each kind of request a side gets."""
TURNS = 4
WORKER = """export default { async fetch(request, env) {
  const key = new URL(request.url).pathname;
  if (request.method === 'PUT') return new Response((await env.BUCKET.put(key, request.body)).etag);
  return new Response((await env.BUCKET.get(key)).body);
} };"""
START = """
const { Miniflare } = require(process.argv[1]);
const [, , script, persist] = process.argv;
const one = new Miniflare({ modules: true, script, compatibilityDate: '2026-04-01',
  host: '127.0.0.1', port: 0, r2Buckets: ['BUCKET'], r2Persist: persist });
one.ready.then((url) => console.log(url.port));
process.on('SIGTERM', () => one.dispose().then(() => process.exit(0)));
"""
Ask = Callable[[str, str, bytes], Awaitable[float]]
"""Method, path, body → milliseconds until the whole answer was there."""


@asynccontextmanager
async def _miniflare() -> AsyncIterator[Address]:
    with tempfile.TemporaryDirectory(prefix="kythera-bench-") as folder:
        command = ["node", "-e", START, str(MINIFLARE), WORKER, folder]
        async with await anyio.open_process(command, stderr=None) as process:
            try:
                assert process.stdout is not None
                with anyio.fail_after(READY_S):
                    port = int(await process.stdout.receive())
                yield "127.0.0.1", port
            finally:
                process.terminate()


@asynccontextmanager
async def _kythera() -> AsyncIterator[Running]:
    async with platform() as running:
        async with running.api() as api:
            account = str(api.base_url).partition("/workers/")[0]
            made = await api.post(
                f"{account}/r2/buckets", content=msgspec.json.encode({"name": "bench"})
            )
            assert made.is_success, made.text
            bucket = {"type": "r2_bucket", "name": "BUCKET", "bucket_name": "bench"}
            await deploy(api, "r2", WORKER, bindings=[bucket])
        yield running


async def _asking(address: Address, host: str) -> Ask:
    connection = await Connection.open(address)

    async def ask(method: str, path: str, body: bytes) -> float:
        began = time.perf_counter()
        answer = await connection.ask(host, method, path, body)
        assert answer.status == 200, answer.body[:200]
        return (time.perf_counter() - began) * 1000

    return ask


async def run() -> list[Figure]:
    """Measure both."""
    async with _kythera() as running, _miniflare() as other:
        first = await _asking(running.front, running.host("r2"))
        first_ms = await first("PUT", "/first", b"1")
        await anyio.sleep(QUIET_S)  # until then the store keeps nothing in its memory
        ours = await _asking(running.front, running.host("r2"))
        theirs = await _asking(other, "localhost")
        await theirs("PUT", "/first", b"1")
        figures = [
            Figure(bench="r2", name="first request of a platform", value=first_ms, unit="ms")
        ]
        for name, (size, count) in SIZES.items():
            for method in ("PUT", "GET"):
                figures += await _measured(
                    f"{method} {name}", method, os.urandom(size), count, ours, theirs
                )
        return figures


async def _measured(
    name: str, method: str, body: bytes, count: int, ours: Ask, theirs: Ask
) -> list[Figure]:
    """Ask both in turns; the target is miniflare's median."""
    took: dict[str, list[float]] = {"ours": [], "theirs": []}
    for turn in range(TURNS):
        for side, ask in (("ours", ours), ("theirs", theirs)):
            for n in range(count // TURNS):
                path = f"/{len(body)}-{turn}-{n}"
                took[side].append(await ask(method, path, body if method == "PUT" else b""))
    theirs_ms = median(took["theirs"])
    note = f"miniflare {theirs_ms:.1f} ms; p99 {percentile(took['ours'], 0.99):.1f} ms"
    value = median(took["ours"])
    return [Figure(bench="r2", name=name, value=value, unit="ms", target=theirs_ms, note=note)]
