"""5 GB through a Worker into R2 and out again, in one piece: how fast, and what stays flat meanwhile.

Resident memory of the front door, the Worker's cell, R2's store and its engine, before, and at the most while
the object passes (looked at four times a second). What comes back is compared by its MD5, which R2 shows
as the etag. Needs twice the size on the disk for a moment; takes some minutes, so it is run by its name alone.
"""

import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import httpx
import msgspec

from bench.figures import Figure
from bench.r2 import WORKER
from bench.running import Running, deploy, descendants, platform

BYTES = int(os.environ.get("KYTHERA_BENCH_R2_BYTES", "5000000000"))
PIECE_BYTES = 1_000_000
LOOK_S = 0.25
ANSWER_S = 600.0
MIB = 2**20
PARTS = {
    "front door": b"haproxy",
    "store": b"kythera.store.r2_server",
    "engine": b"weed",
    "cell": b"workerd",
}
"""Who the bytes pass, and a word of each one's command line."""
GROWS_MIB_MAX = {"front door": 32.0, "store": 64.0, "engine": 1_200.0, "cell": 64.0}
"""5 GB that were held anywhere would be far above. The engine reads a gigabyte ahead, whatever the size
(`store.r2_engine.READ_AHEAD_MIB`)."""


def resident_mib(running: Running) -> dict[str, float]:
    """Return the resident memory of each part, all its processes together."""
    assert running.process is not None
    sums = dict.fromkeys(PARTS, 0.0)
    for pid in descendants(running.process.pid):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            continue
        for part, word in PARTS.items():
            if word in words or words[0].rpartition(b"/")[2] == word:
                sums[part] += pages * os.sysconf("SC_PAGE_SIZE") / MIB
    return sums


class Peaks:
    """The most that each part had."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self.before = resident_mib(running)
        self.most = dict(self.before)

    async def look(self) -> None:
        """Look for ever."""
        while True:
            for part, mib in resident_mib(self._running).items():
                self.most[part] = max(self.most[part], mib)
            await anyio.sleep(LOOK_S)


class Body:
    """A body that is no two pieces the same, and its digest."""

    def __init__(self) -> None:
        self.md5 = hashlib.md5(usedforsecurity=False)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield it."""
        filling = os.urandom(PIECE_BYTES - 8)
        for number in range(BYTES // PIECE_BYTES):
            piece = number.to_bytes(8, "big") + filling
            self.md5.update(piece)
            yield piece


async def _put(client: httpx.AsyncClient) -> str:
    body = Body()
    size = BYTES // PIECE_BYTES * PIECE_BYTES
    headers = {"Content-Length": str(size)}
    answer = await client.put("/large", content=body.pieces(), headers=headers)
    assert answer.is_success, answer.text[:300]
    assert answer.text == body.md5.hexdigest(), "R2 has what was sent"
    return answer.text


async def _get(client: httpx.AsyncClient) -> str:
    md5 = hashlib.md5(usedforsecurity=False)
    async with client.stream("GET", "/large") as answer:
        assert answer.is_success
        async for piece in answer.aiter_raw():
            md5.update(piece)
    return md5.hexdigest()


async def run() -> list[Figure]:
    """Measure."""
    async with platform() as running:
        async with running.api() as api:
            account = str(api.base_url).partition("/workers/")[0]
            made = await api.post(
                f"{account}/r2/buckets", content=msgspec.json.encode({"name": "bench"})
            )
            assert made.is_success, made.text
            bucket = {"type": "r2_bucket", "name": "BUCKET", "bucket_name": "bench"}
            await deploy(api, "r2", WORKER, bindings=[bucket])
        host, port = running.front
        base = f"http://{host}:{port}"
        async with httpx.AsyncClient(
            base_url=base, headers={"Host": running.host("r2")}, timeout=ANSWER_S, trust_env=False
        ) as client:
            assert (await client.put("/first", content=b"1")).is_success
            peaks = Peaks(running)
            figures = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(peaks.look)
                began = time.monotonic()
                etag = await _put(client)
                figures.append(_pace("put", time.monotonic() - began))
                began = time.monotonic()
                assert await _get(client) == etag, "what comes back is what was sent"
                figures.append(_pace("get", time.monotonic() - began))
                tasks.cancel_scope.cancel()
            return [*figures, *_grown(peaks, lambda: resident_mib(running))]


def _pace(name: str, took_s: float) -> Figure:
    note = f"{BYTES / took_s / 1e6:.0f} MB/s"
    return Figure(
        bench="r2-large", name=f"{name} of {BYTES / 1e9:g} GB", value=took_s, unit="s", note=note
    )


def _grown(peaks: Peaks, now: Callable[[], dict[str, float]]) -> list[Figure]:
    after = now()
    return [
        Figure(
            bench="r2-large",
            name=f"{part}: memory it grew by, at the most",
            value=peaks.most[part] - peaks.before[part],
            unit="MiB",
            target=GROWS_MIB_MAX[part],
            note=f"{peaks.before[part]:.0f} before, {peaks.most[part]:.0f} at the most, "
            f"{after[part]:.0f} after",
        )
        for part in PARTS
    ]
