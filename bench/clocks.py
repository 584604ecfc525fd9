"""What clocks that stand still cost a request, beside the same worker with running ones.

Cells by their true configuration, without a platform around them. Rounds alternate between the
two, so that both see the same machine; cost is CPU time by the processes' own clocks.
"""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from bench.bare import answers
from bench.client import Address, fetch
from bench.figures import Figure, percentile
from bench.wrk import wrk
from kythera.ground.meters import cpu_seconds
from kythera.ground.processes import child
from kythera.model.records import Confinement, Module, Version
from kythera.run.config import PULSE, CellSettings, cell_config
from kythera.run.workerd import find_workerd, workerd_argv

ROUNDS = 12
ROUND_S = 1.0
CONNECTIONS = 16
QUIET_SHARE = 0.25
"""Of the rounds: the quieter ones are compared, for whoever else runs only adds."""
RATIO_MAX = 1.03
TURNS = 100_000
TURN_ROUNDS = 6
READING_US_MAX = 2.0
WORKER = f"""\
export default {{
  async fetch({{ url }}) {{
    const reads = url.endsWith("/reads");
    for (let left = reads || url.endsWith("/turns") ? {TURNS} : 0; left > 0; left -= 1) {{
      await scheduler.wait(0);
      if (reads) Date.now();
    }}
    return new Response("Hello, world!\\n");
  }},
}};
"""
KINDS = ("frozen", "running")


@dataclass(frozen=True)
class Cell:
    """Where it listens, and its process."""

    address: Address
    pid: int


def _config(clocks: str) -> bytes:
    code = WORKER.encode()
    version = Version(
        account="0" * 32,
        worker="hello",
        id="01234567-89ab-4def-8123-456789abcdef",
        number=1,
        created_on="2026-01-01T00:00:00.000000Z",
        modules=(Module(name="index.js", type="esm", digest="code", size=len(code)),),
        main_module="index.js",
        handlers=("fetch",),
        confinement=Confinement(clocks="frozen" if clocks == "frozen" else "running"),
    )
    return cell_config(
        version,
        read_blob={"code": code}.__getitem__,
        open_secret=lambda _, sealed: sealed,
        settings=CellSettings(),
    )


@asynccontextmanager
async def _cell(config: bytes) -> AsyncIterator[Cell]:
    async with AsyncExitStack() as stack:
        sockets = {
            name: stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4096))
            for name in ("http", PULSE)
        }
        control = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, control)
        numbers = {name: str(each.fileno()) for name, each in sockets.items()}
        argv = [str(find_workerd()), *workerd_argv(numbers, str(control))]
        descriptors = (*(each.fileno() for each in sockets.values()), control)
        one = await stack.enter_async_context(
            child(argv, pass_fds=descriptors, stdin=config, capture=False)
        )
        address: Address = sockets["http"].getsockname()
        await answers(address)
        yield Cell(address, one.pid)


async def _of_a_request(cell: Cell) -> float:
    before = cpu_seconds(cell.pid)
    load = await wrk(cell.address, "hello", seconds=ROUND_S, connections=CONNECTIONS)
    assert load.failures == 0
    return (cpu_seconds(cell.pid) - before) * 1e6 / load.requests


async def _of_a_turn(cell: Cell, path: str) -> float:
    before = cpu_seconds(cell.pid)
    await fetch(cell.address, "hello", path)
    return (cpu_seconds(cell.pid) - before) * 1e6 / TURNS


async def _requests(cells: dict[str, Cell]) -> Figure:
    costs: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(ROUNDS):
        for kind in KINDS[:: 1 if number % 2 else -1]:
            costs[kind].append(await _of_a_request(cells[kind]))
    frozen, running = (percentile(costs[kind], QUIET_SHARE) for kind in KINDS)
    return Figure(
        bench="clocks",
        name="CPU a request, clocks frozen over running",
        value=frozen / running,
        unit="times",
        target=RATIO_MAX,
        note=f"frozen {frozen:.1f} µs, running {running:.1f} µs",
    )


async def _readings(cells: dict[str, Cell]) -> Figure:
    costs: dict[tuple[str, str], list[float]] = {}
    for _ in range(TURN_ROUNDS):
        for kind in KINDS:
            for path in ("/turns", "/reads"):
                costs.setdefault((kind, path), []).append(await _of_a_turn(cells[kind], path))
    least = {key: min(rounds) for key, rounds in costs.items()}
    frozen, running = (least[kind, "/reads"] - least[kind, "/turns"] for kind in KINDS)
    return Figure(
        bench="clocks",
        name="CPU that a turn's first reading of a clock adds",
        value=frozen,
        unit="µs",
        target=READING_US_MAX,
        note=f"with running clocks {running:.1f} µs; a turn without, {least['frozen', '/turns']:.1f} µs",
    )


async def run() -> list[Figure]:
    """Measure requests that read no clock, and turns that do."""
    async with AsyncExitStack() as stack:
        cells = {kind: await stack.enter_async_context(_cell(_config(kind))) for kind in KINDS}
        for cell in cells.values():  # once for nothing: the machine code has to be made
            await _of_a_request(cell)
        return [await _requests(cells), await _readings(cells)]
