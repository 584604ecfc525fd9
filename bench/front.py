"""What a request costs through HAProxy and a cell, beside bare workerd in the same run.

Rounds alternate between the two, so that both see the same machine; cost is CPU time by the
processes' own clocks, not speed, for the load generator shares the cores. The first rounds do not
count: V8 compiles and both heaps grow in them, which is a start's cost and no request's. Both are started
anew several times: where its memory comes to lie makes one start of workerd cost up to 7 % more for each
request than another of the same program.
"""

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from bench.bare import Bare, bare_workerd
from bench.client import Address, fetch
from bench.figures import Figure, median
from bench.running import Running, deploy, platform
from bench.wrk import Round, wrk
from kythera.ground.meters import cpu_seconds

STARTS, ROUNDS_WARM, ROUNDS = 5, 2, 4
"""Of both; and the rounds of each."""
ROUND_S = 2.0
CONNECTIONS_PER_PROCESS = 16
RATIO_MAX = 1.5
SCALE_UP_S = 30.0
EAGER = ("saturated_cpu_share=0.2", "saturated_s=1")
"""So that a machine busy with other things comes to two processes too."""
HELLO = """\
export default {
  fetch(request) {
    if (request.url.endsWith("/burn")) for (let left = 3e8; left > 0; left -= 1);
    return new Response("Hello, world!\\n");
  },
};
"""


@dataclass(frozen=True)
class Cost:
    """CPU microseconds a request, by program."""

    workerd: float
    haproxy: float
    rate: float
    failures: int

    @property
    def whole(self) -> float:
        """Everything that ran for the request."""
        return self.workerd + self.haproxy


async def _measured(
    address: Address, host: str, pids: Callable[[], tuple[list[int], list[int]]]
) -> Cost:
    workerd, haproxy = pids()
    before = [sum(map(cpu_seconds, group)) for group in (workerd, haproxy)]
    connections = CONNECTIONS_PER_PROCESS * len(workerd)
    load: Round = await wrk(address, host, seconds=ROUND_S, connections=connections)
    after = [sum(map(cpu_seconds, group)) for group in (workerd, haproxy)]
    spent = [(b - a) * 1e6 / load.requests for a, b in zip(before, after, strict=True)]
    return Cost(spent[0], spent[1], load.requests / load.seconds, load.failures)


async def _scale_to(running: Running, processes: int) -> None:
    """Burn CPU in the worker until the platform has added processes by itself."""
    with anyio.fail_after(SCALE_UP_S):
        while len(await running.pids("hello")) < processes:
            async with anyio.create_task_group() as tasks:
                for _ in range(processes):
                    tasks.start_soon(fetch, running.front, running.host("hello"), "/burn")


async def _rounds(running: Running, bare: Bare) -> tuple[list[Cost], list[Cost]]:
    bare_costs, front_costs = [], []
    for _ in range(ROUNDS_WARM + ROUNDS):
        bare_costs.append(await _measured(bare.address, "hello", lambda: (list(bare.pids), [])))
        cells = await running.pids("hello")
        assert len(cells) == len(bare.pids), f"{len(cells)} processes instead of {len(bare.pids)}"
        haproxy = running.processes("haproxy")
        front_costs.append(
            await _measured(running.front, running.host("hello"), lambda: (cells, haproxy))  # noqa: B023
        )
    return bare_costs[ROUNDS_WARM:], front_costs[ROUNDS_WARM:]


@asynccontextmanager
async def _both(processes: int) -> AsyncIterator[tuple[Running, Bare]]:
    limits = [f"processes_per_cell_max={processes}"]
    if processes > 1:
        limits += EAGER
    with tempfile.TemporaryDirectory(prefix="kythera-bench-") as folder:
        async with (
            platform(*(word for limit in limits for word in ("--limit", limit))) as running,
            bare_workerd(Path(folder) / "bare", HELLO, processes) as bare,
        ):
            async with running.api() as api:
                await deploy(api, "hello", HELLO)
            await running.served("hello")
            if processes > 1:
                await _scale_to(running, processes)
            yield running, bare


async def run() -> list[Figure]:
    """Measure with one process on either side, and with two.

    The ratio is that of the medians: a round of ours beside one of theirs says little about either."""
    figures = []
    for processes in (1, 2):
        bare_costs: list[Cost] = []
        front_costs: list[Cost] = []
        for _ in range(STARTS):
            async with _both(processes) as (running, bare):
                more_bare, more_front = await _rounds(running, bare)
            bare_costs += more_bare
            front_costs += more_front
        figures += _figures(processes, bare_costs, front_costs)
    return figures


def _figures(processes: int, bare: list[Cost], front: list[Cost]) -> list[Figure]:
    ratios = [f.whole / b.whole for f, b in zip(front, bare, strict=True)]
    mine, base = (median(cost.whole for cost in costs) for costs in (front, bare))
    haproxy = median(cost.haproxy for cost in front)
    label = f"{processes} process{'es' if processes > 1 else ''}"
    note = (
        f"bare workerd {base:.0f} µs; haproxy {haproxy:.0f} µs + "
        f"cell {median(cost.workerd for cost in front):.0f} µs = {mine:.0f} µs; "
        f"rounds {min(ratios):.2f} to {max(ratios):.2f}; "
        f"{median(cost.rate for cost in bare):,.0f} and "
        f"{median(cost.rate for cost in front):,.0f} requests/s"
    )
    return [
        Figure(
            bench="front",
            name=f"CPU a request, front + cell over bare workerd, {label}",
            value=mine / base,
            unit="times",
            target=RATIO_MAX,
            note=note,
        ),
        Figure(
            bench="front",
            name=f"failed requests, {label}",
            value=sum(cost.failures for cost in front),
            target=0,
        ),
    ]
