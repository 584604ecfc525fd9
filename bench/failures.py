"""Requests lost: in deploys, in the death of a cell, in the death of the agent. All under load."""

import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from bench.client import Answer, Asked, Load, fetch
from bench.figures import Figure, median
from bench.running import Running, deploy, platform

DEPLOYS = 20
KILLS = 5
CALM_S = 1.5
RECOVERY_S = 30.0
NEXT_SERVED_MS_MAX = 200.0
SLOW_MS = 60

Death = tuple[float, float]
"""When processes were told to die, and when the last of them was gone (monotonic seconds)."""


def source(version: int) -> str:
    """Return a worker that reads the body, thinks a little when asked at /slow, and says which
    version it is and how much it read."""
    return f"""\
export default {{
  async fetch(request) {{
    const body = await request.text();
    if (request.url.endsWith("/slow")) await scheduler.wait({SLOW_MS});
    return new Response("version {version} read " + body.length);
  }},
}};
"""


def whole(answer: Answer, body: bytes) -> bool:
    """Tell whether the worker read all that was sent."""
    return answer.body.endswith(b"read %d" % len(body))


def _load(running: Running, path: str = "/") -> Load:
    return Load(running.front, running.host("loaded"), path=path, check=whole)


def _told(failures: list[Asked]) -> str:
    kinds = Counter(asked.trouble for asked in failures)
    return "; ".join(f"{count} of {trouble}" for trouble, count in kinds.most_common(3))


@asynccontextmanager
async def _loaded(running: Running, *loads: Load) -> AsyncIterator[None]:
    async with running.api() as api:
        await deploy(api, "loaded", source(0))
    await running.served("loaded")
    async with anyio.create_task_group() as tasks:
        for load in loads:
            tasks.start_soon(load.run)
        await anyio.sleep(CALM_S)
        yield
        await anyio.sleep(CALM_S)
        tasks.cancel_scope.cancel()


async def deploys() -> list[Figure]:
    """Twenty deploys of the loaded worker; each must be served before the next."""
    waits = []
    async with platform() as running:
        load = _load(running)
        slow = _load(running, "/slow")
        async with _loaded(running, load, slow), running.api() as api:
            for version in range(1, DEPLOYS + 1):
                await deploy(api, "loaded", source(version))
                acknowledged = time.monotonic()
                await running.served("loaded", expect=b"version %d " % version)
                waits.append((time.monotonic() - acknowledged) * 1000)
    failures = load.failures() + slow.failures()
    requests = len(load.asked) + len(slow.asked)
    return [
        Figure(
            bench="deploys",
            name=f"failed requests in {DEPLOYS} deploys under load",
            value=len(failures),
            target=0,
            note=f"of {requests:,}; {_told(failures)}".rstrip("; "),
        ),
        Figure(
            bench="deploys",
            name="from acknowledged to served under load, median",
            value=median(waits),
            unit="ms",
            note=f"{min(waits):.0f} to {max(waits):.0f} ms",
        ),
    ]


async def kills() -> list[Figure]:
    """Kill the loaded cell, then the agent, five times each."""
    async with platform() as running:
        return [*await _cell_kills(running), *await _agent_kills(running)]


async def _cell_kills(running: Running) -> list[Figure]:
    loads = [_load(running), _load(running, "/slow")]
    inside, deaths = 0, []
    async with _loaded(running, *loads):
        for _ in range(KILLS):
            inside += sum(load.under_way() for load in loads)
            deaths.append(await _kill(await running.pids("loaded")))
            await running.served("loaded", within_s=RECOVERY_S)
            await anyio.sleep(CALM_S)
    asked = [one for load in loads for one in load.asked]
    failures = [one for one in asked if one.failed]
    outside = [one for one in failures if not _spans(one, deaths)]
    next_ms = [_next_served_ms(asked, gone) for _, gone in deaths]
    return [
        Figure(
            bench="kills",
            name=f"failed requests outside the cell in {KILLS} kills of it",
            value=len(outside),
            target=0,
            note=f"of {len(asked):,}; {_told(outside)}".rstrip("; "),
        ),
        Figure(
            bench="kills",
            name="failed requests inside the cell",
            value=len(failures) - len(outside),
            note=f"{inside} were under way; {_told(failures)}".rstrip("; "),
        ),
        Figure(
            bench="kills",
            name="from a cell's death to the next answer, worst",
            value=max(next_ms),
            unit="ms",
            target=NEXT_SERVED_MS_MAX,
            note=", ".join(f"{ms:.0f}" for ms in next_ms) + " ms",
        ),
    ]


def _spans(asked: Asked, deaths: list[Death]) -> bool:
    """Tell whether a request was under way when a cell died."""
    return any(asked.began <= gone and asked.ended >= killed for killed, gone in deaths)


def _next_served_ms(asked: list[Asked], moment: float) -> float:
    """Return when the first request sent after a death was answered."""
    answers = (one.ended for one in asked if one.began > moment and not one.failed)
    return (min(answers) - moment) * 1000


async def _kill(pids: list[int]) -> Death:
    """Kill processes; return when they were told, and when the last of them was gone."""
    assert pids, "there is nothing to kill"
    killed = time.monotonic()
    watched = [os.pidfd_open(pid) for pid in pids]
    for number in watched:
        signal.pidfd_send_signal(number, signal.SIGKILL)
    for number in watched:
        await anyio.wait_readable(number)
        os.close(number)
    return killed, time.monotonic()


async def _agent_kills(running: Running) -> list[Figure]:
    load = _load(running)
    idle_ms = []
    async with running.api() as api:
        for number in range(KILLS):
            await deploy(api, f"idle-{number}", source(0))
            await _known(running, f"idle-{number}")
    async with _loaded(running, load):
        for number in range(KILLS):
            before = running.processes("agent")
            _, gone = await _kill(before)
            answer = await fetch(running.front, running.host(f"idle-{number}"))
            assert answer.status == 200, f"an idle worker answered {answer.status}"
            idle_ms.append((time.monotonic() - gone) * 1000)
            await _agent_back(running, before)
            await anyio.sleep(CALM_S)
    failures = load.failures()
    return [
        Figure(
            bench="kills",
            name=f"failed requests in {KILLS} kills of the agent",
            value=len(failures),
            target=0,
            note=f"of {len(load.asked):,}; {_told(failures)}".rstrip("; "),
        ),
        Figure(
            bench="kills",
            name="request to an idle worker while the agent is away, median",
            value=median(idle_ms),
            unit="ms",
            note=", ".join(f"{ms:.0f}" for ms in idle_ms) + " ms",
        ),
    ]


async def _known(running: Running, worker: str) -> None:
    """Wait until the front knows the worker, without a request that would start it."""
    with anyio.fail_after(RECOVERY_S):
        while True:
            if await running.cells(worker):
                return
            await anyio.sleep(0.05)


async def _agent_back(running: Running, before: list[int]) -> None:
    """Wait until another agent tells the status."""
    with anyio.fail_after(RECOVERY_S):
        while True:
            try:
                if set(running.processes("agent")) - set(before) and await running.cells():
                    return
            except OSError:
                pass
            await anyio.sleep(0.05)
