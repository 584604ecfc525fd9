"""What a quiet worker's visitors notice of a hostile worker beside it: p99 with it over p99 alone.

Windows alternate, alone and with the offender, in one run; each class is the median of its rounds.
The load is open: requests leave when they are due, whether or not earlier ones were answered, and
each is timed from when it was due. It is modest: the machine could do twenty times as much.

Visitors stand for people elsewhere, with computers of their own: they get a core at once (SCHED_RR), and
the offender's clients only one that nobody else wants. So it is the platform's waits that are measured.
"""

import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

import anyio

from bench.client import Address, Broken, Connection
from bench.figures import Figure, median, percentile
from bench.offenders import OFFENDERS
from bench.running import Running, deploy, platform
from kythera.ground.layout import Layout
from kythera.ground.meters import machine_cpu_seconds

ROUNDS = 5
WINDOW_S = 2.0
WARM_S = 1.0
CALM_S = 0.5
REQUESTS_PER_S = 250
SPARE_S_MAX = 20.0
"""A connection that nobody used for this long is closed by us before the door does it."""
RATIO_MAX = 1.5
CPU_MS = 100
LOOK_S = 2.0
QUIET = "export default { fetch() { return new Response('quiet'); } };"
DEPLOYS = "deploys"


@dataclass
class Visitors:
    """Open load on the quiet worker."""

    address: Address
    host: str
    failures: list[str] = field(default_factory=list)
    _spare: list[tuple[float, Connection]] = field(default_factory=list)
    """Connections that wait, the last used last, and since when."""

    async def window(self, seconds: float) -> list[float]:
        """Ask for a while; return how long each answer took, in milliseconds."""
        took_ms: list[float] = []
        with _first():
            began = time.monotonic()
            async with anyio.create_task_group() as tasks:
                for number in range(int(seconds * REQUESTS_PER_S)):
                    due = began + number / REQUESTS_PER_S
                    await anyio.sleep(max(0.0, due - time.monotonic()))
                    tasks.start_soon(self._ask, due, took_ms)
        await self.leave(SPARE_S_MAX)
        return took_ms

    async def _ask(self, due: float, took_ms: list[float]) -> None:
        connection = self._spare.pop()[1] if self._spare else None
        try:
            connection = connection or await Connection.open(self.address)
            answer = await connection.ask(self.host, "GET", "/")
        except Broken as error:
            self.failures.append(str(error))
            if connection is not None:
                await connection.__aexit__(None, None, None)
            return
        took_ms.append((time.monotonic() - due) * 1000)
        if answer.status != 200:
            self.failures.append(f"status {answer.status}")
        if answer.closes:
            await connection.__aexit__(None, None, None)
        else:
            self._spare.append((time.monotonic(), connection))

    async def leave(self, idle_s: float = 0.0) -> None:
        """Close all connections that were not used for a while."""
        oldest = time.monotonic() - idle_s
        while self._spare and self._spare[0][0] <= oldest:
            await self._spare.pop(0)[1].__aexit__(None, None, None)


@contextmanager
def _first() -> Iterator[None]:
    """Let this process have a core whenever it wants one, where that is allowed."""
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@asynccontextmanager
async def _nuisance(running: Running, kind: str) -> AsyncIterator[None]:
    """Have a class of offender busy for the length of a `with` block."""
    async with await anyio.open_process(
        [sys.executable, "-m", *_command(running, kind)]
    ) as process:
        yield
        assert process.stdin is not None
        await process.stdin.aclose()
        with anyio.move_on_after(5):
            await process.wait()
        if process.returncode is None:
            process.kill()


def _command(running: Running, kind: str) -> list[str]:
    if kind == DEPLOYS:
        return ["bench.redeploy", running.scripts, str(Layout(running.state).token)]
    return ["bench.offenders", kind, str(running.front[1]), running.host(_worker(kind))]


def _worker(kind: str) -> str:
    return kind.replace(" ", "-")


@dataclass(frozen=True)
class Pair:
    """One round: p99 in milliseconds."""

    alone: float
    beside: float

    @property
    def ratio(self) -> float:
        """How many times slower."""
        return self.beside / self.alone


async def _rounds(running: Running, visitors: Visitors, kind: str) -> list[Pair]:
    pairs = []
    for _ in range(ROUNDS):
        await anyio.sleep(CALM_S)
        alone = await visitors.window(WINDOW_S)
        async with _nuisance(running, kind):
            await anyio.sleep(WARM_S)
            beside = await visitors.window(WINDOW_S)
        pairs.append(Pair(percentile(alone, 0.99), percentile(beside, 0.99)))
    return pairs


async def run(kinds: tuple[str, ...] = (*OFFENDERS, DEPLOYS)) -> list[Figure]:
    """Let each class of offender run beside the quiet worker."""
    figures = [await _others()]
    async with platform() as running:
        async with running.api() as api:
            await deploy(api, "quiet", QUIET)
            for kind in kinds:
                if kind != DEPLOYS:
                    source, limits = OFFENDERS[kind].source, {"cpu_ms": CPU_MS}
                    await deploy(api, _worker(kind), source, limits=limits)
        await running.served("quiet")
        visitors = Visitors(running.front, running.host("quiet"))
        for kind in kinds:
            failed = len(visitors.failures)
            pairs = await _rounds(running, visitors, kind)
            figures.append(_figure(kind, pairs, visitors.failures[failed:]))
        await visitors.leave()
    failures = visitors.failures
    note = "; ".join(sorted(set(failures))[:3])
    name = "failed requests to the quiet worker"
    figures.append(Figure(bench="neighbour", name=name, value=len(failures), target=0, note=note))
    return figures


async def _others() -> Figure:
    """Say how busy the machine is before anything of ours runs: above some 10 % no p99 is ours."""
    busy, total = machine_cpu_seconds()
    await anyio.sleep(LOOK_S)
    busy_then, total_then = machine_cpu_seconds()
    return Figure(
        bench="neighbour",
        name="cores used by others before it began",
        value=100 * (busy_then - busy) / (total_then - total),
        unit="%",
    )


def _figure(kind: str, pairs: list[Pair], failures: list[str]) -> Figure:
    ratios = [pair.ratio for pair in pairs]
    return Figure(
        bench="neighbour",
        name=f"a quiet worker's p99 beside {kind}, over alone",
        value=median(ratios),
        unit="times",
        target=RATIO_MAX,
        note=(
            f"{median(pair.alone for pair in pairs):.1f} ms alone, "
            f"{median(pair.beside for pair in pairs):.1f} ms beside; "
            f"rounds {min(ratios):.2f} to {max(ratios):.2f}"
            + (f"; {len(failures)} failed" if failures else "")
        ),
    )
