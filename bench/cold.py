"""A first request to a version that is idle, and the memory of a cell that has answered it."""

import json
import sys
import tempfile
import time
from pathlib import Path

import anyio

from bench.bare import bare_workerd
from bench.client import fetch
from bench.figures import Figure, median, percentile
from bench.running import Running, deploy_many, platform

STARTS = 50
BARE_STARTS = 20
AT_ONCE = 4
IDLE_S = 30.0
PAUSE_S = 0.1
SETTLE_S = 2.0
COLD_MS_MAX = 60.0
CELL_MIB_MAX = 15.0


def hello(name: str) -> str:
    """Return a worker that says its name."""
    return f'export default {{ fetch() {{ return new Response("Hello from {name}!\\n"); }} }};\n'


async def run() -> list[Figure]:
    """Fifty idle workers, each asked once; then what they cost while they wait for more."""
    names = [f"cold-{number:02}" for number in range(STARTS)]
    async with platform() as running:
        await deploy_many(running, [(name, hello(name)) for name in names], at_once=AT_ONCE)
        await running.until_idle(within_s=IDLE_S)
        cold_ms = await first_requests(running, names)
        await anyio.sleep(SETTLE_S)
        mib = await _cell_mib(running)
    return [*cold_figures("cold", cold_ms), await _workerd_alone(), memory_figure(mib)]


async def first_requests(running: Running, names: list[str]) -> list[float]:
    """Ask each worker once, connection and all; return the milliseconds."""
    found = []
    for name in names:
        began = time.monotonic()
        answer = await fetch(running.front, running.host(name))
        found.append((time.monotonic() - began) * 1000)
        assert answer.status == 200, f"{name}: {answer.status} {answer.body!r}"
        await anyio.sleep(PAUSE_S)
    return found


async def _workerd_alone() -> Figure:
    """Start bare workerd and ask it once: what no platform can be quicker than."""
    found = []
    with tempfile.TemporaryDirectory(prefix="kythera-bench-") as folder:
        for number in range(BARE_STARTS):
            began = time.monotonic()
            async with bare_workerd(Path(folder) / str(number), hello("bare"), 1):
                found.append((time.monotonic() - began) * 1000)
    return Figure(
        bench="cold",
        name="bare workerd, from its start to its first answer, median",
        value=median(found),
        unit="ms",
        note=f"of {len(found)}, right after",
    )


def cold_figures(bench: str, cold_ms: list[float]) -> list[Figure]:
    """Return median and p95; only the median is promised."""
    return [
        Figure(
            bench=bench,
            name="first request to an idle version, median",
            value=median(cold_ms),
            unit="ms",
            target=COLD_MS_MAX,
            note=f"of {len(cold_ms)}, {min(cold_ms):.0f} to {max(cold_ms):.0f} ms",
        ),
        Figure(
            bench=bench,
            name="first request to an idle version, p95",
            value=percentile(cold_ms, 0.95),
            unit="ms",
        ),
    ]


def memory_figure(mib: list[float]) -> Figure:
    """Judge the private memory of cells that have answered one request."""
    return Figure(
        bench="memory",
        name="private memory of an idle hello cell, median",
        value=median(mib),
        unit="MiB",
        target=CELL_MIB_MAX,
        note=f"of {len(mib)} cells, {min(mib):.1f} to {max(mib):.1f} MiB",
    )


async def _cell_mib(running: Running) -> list[float]:
    """Ask as a person would: `kythera status --json`."""
    command = [sys.executable, "-m", "kythera.cli", "status", "--json"]
    done = await anyio.run_process([*command, "--state", str(running.state)])
    cells = json.loads(done.stdout)["cells"]
    return [cell["private_bytes"] / 2**20 for cell in cells if cell["state"] == "ready"]
