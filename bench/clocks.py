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
from bench.client import Address
from bench.figures import Figure, percentile
from bench.wrk import wrk
from kythera.ground.meters import cpu_seconds
from kythera.ground.processes import child
from kythera.model.records import Confinement, Module, Version
from kythera.run.config import PULSE, CellSettings, cell_config
from kythera.run.workerd import find_workerd, workerd_argv

ROUNDS = 16
ROUND_S = 1.0
CONNECTIONS = 16
QUIET_SHARE = 0.25
"""Of the rounds: the quieter ones are compared, for whoever else runs only adds."""
RATIO_MAX = 1.03
PATHS = {"/none": "no clock", "/one": "one clock", "/twenty": "clocks twenty times"}
WORKER = """\
const READINGS = { "/none": 0, "/one": 1, "/twenty": 20 };
export default {
  fetch({ url }) {
    for (let left = READINGS[url.slice(url.lastIndexOf("/"))]; left > 0; left -= 1) Date.now();
    return new Response("Hello, world!\\n");
  },
};
"""
KINDS = ("frozen", "running")
Costs = dict[tuple[str, str], float]


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
        settings=CellSettings(egress_allow=()),
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


async def _microseconds(cell: Cell, path: str) -> float:
    before = cpu_seconds(cell.pid)
    load = await wrk(cell.address, "hello", seconds=ROUND_S, connections=CONNECTIONS, path=path)
    assert load.failures == 0
    return (cpu_seconds(cell.pid) - before) * 1e6 / load.requests


async def _measured() -> Costs:
    costs: dict[tuple[str, str], list[float]] = {}
    async with AsyncExitStack() as stack:
        cells = {kind: await stack.enter_async_context(_cell(_config(kind))) for kind in KINDS}
        for number in range(ROUNDS + 1):
            for kind in KINDS[:: 1 if number % 2 else -1]:
                for path in PATHS:
                    cost = await _microseconds(cells[kind], path)
                    if number > 0:  # once for nothing: the machine code has to be made
                        costs.setdefault((kind, path), []).append(cost)
    return {key: percentile(rounds, QUIET_SHARE) for key, rounds in costs.items()}


async def run() -> list[Figure]:
    """Measure requests that read no clock, one, and clocks twenty times."""
    costs = await _measured()
    idle = costs["frozen", "/none"] / costs["running", "/none"]
    figures = []
    for path, words in PATHS.items():
        frozen, running = costs["frozen", path], costs["running", path]
        # Two processes of one program differ by some per cent; that much is not the clocks'.
        ratio = idle if path == "/none" else frozen / running / idle
        figures.append(
            Figure(
                bench="clocks",
                name=f"CPU a request that reads {words}, clocks frozen over running",
                value=ratio,
                unit="times",
                target=RATIO_MAX,
                note=f"frozen {frozen:.1f} µs, running {running:.1f} µs",
            )
        )
    return figures
