"""What clocks that stand still cost a request, beside the same worker with running ones.

Cells by their true configuration, without a platform around them. Rounds alternate between the
two, so that both see the same machine; cost is CPU time by the processes' own clocks.
"""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.bare import answers
from bench.client import Address
from bench.figures import Figure, percentile
from bench.wrk import wrk
from kythera.ground.meters import cpu_seconds
from kythera.ground.processes import child
from kythera.model.records import Confinement, Module, Version
from kythera.run.config import PULSE, CellSettings, cell_config
from kythera.run.workerd import find_workerd, workerd_argv

ROUNDS = 15
ROUND_S = 1.0
QUIET_SHARE = 0.25
"""Of the rounds: the quieter ones are compared, for whoever else runs only adds."""
CONNECTIONS = 16
RATIO_MAX = 1.03
READS = {
    "reads no clock": "",
    "reads one clock": "Date.now();",
    "reads twenty": "for (let i = 0; i < 20; i += 1) Date.now();",
}
WORKER = "export default {{ fetch() {{ {reads} return new Response('Hello, world!\\n'); }} }};"
KINDS = ("frozen", "running")


@dataclass(frozen=True)
class Cell:
    """Where it listens, and its process."""

    address: Address
    pid: int


def _config(reads: str, clocks: str) -> bytes:
    code = WORKER.format(reads=reads).encode()
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
        settings=CellSettings(egress_allow=()),
    )


@asynccontextmanager
async def _cell(config: bytes) -> AsyncIterator[Cell]:
    async with AsyncExitStack() as stack:
        sockets = {
            name: stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4096))
            for name in ("http", PULSE)
        }
        silent = stack.enter_context(Path(os.devnull).open("wb"))
        numbers = {name: str(each.fileno()) for name, each in sockets.items()}
        argv = workerd_argv(find_workerd(), numbers, str(silent.fileno()))
        descriptors = (*(each.fileno() for each in sockets.values()), silent.fileno())
        one = await stack.enter_async_context(
            child(argv, pass_fds=descriptors, stdin=config, capture=False)
        )
        address: Address = sockets["http"].getsockname()
        await answers(address)
        yield Cell(address, one.pid)


async def _microseconds(cell: Cell) -> float:
    before = cpu_seconds(cell.pid)
    load = await wrk(cell.address, "hello", seconds=ROUND_S, connections=CONNECTIONS)
    assert load.failures == 0
    return (cpu_seconds(cell.pid) - before) * 1e6 / load.requests


async def _measure(name: str, reads: str) -> Figure:
    costs: dict[str, list[float]] = {kind: [] for kind in KINDS}
    async with AsyncExitStack() as stack:
        cells = {
            kind: await stack.enter_async_context(_cell(_config(reads, kind))) for kind in KINDS
        }
        for cell in cells.values():  # once for nothing: the machine code has to be made
            await _microseconds(cell)
        for number in range(ROUNDS):
            for kind in KINDS[:: 1 if number % 2 else -1]:
                costs[kind].append(await _microseconds(cells[kind]))
    frozen, running = (percentile(costs[kind], QUIET_SHARE) for kind in KINDS)
    note = (
        f"frozen {frozen:.1f} µs ({min(costs['frozen']):.1f} to {max(costs['frozen']):.1f}), "
        f"running {running:.1f} µs ({min(costs['running']):.1f} to {max(costs['running']):.1f})"
    )
    return Figure(
        bench="clocks",
        name=f"CPU a request, clocks frozen over running, a worker that {name}",
        value=frozen / running,
        unit="times",
        target=RATIO_MAX,
        note=note,
    )


async def run() -> list[Figure]:
    """Measure workers that read no clock, one, and many."""
    return [await _measure(name, reads) for name, reads in READS.items()]
