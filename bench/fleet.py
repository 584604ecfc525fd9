"""A whole fleet measured: how fast a deploy is everywhere, and what is lost in deploys, drains,
rejoins, restarts and a death, all under load."""

import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio

from bench.figures import Figure, median, percentile
from bench.fleet_load import FleetLoad, Sent
from bench.fleet_running import Member, RunningFleet, fleet
from bench.running import deploy

MACHINES = 5
SITES = 2
SPREAD_DEPLOYS = 60
ROLLING_DEPLOYS = 10
SPREAD_MS_MAX = 1000.0
SERVED_MS_MAX = 3000.0
ASK_EVERY_S = 0.01
CALM_S = 2.0
DEATH_S = 12.0
RARE_WORKERS = 12
RARE_PAUSE_MS = 250.0
"""Each is asked some three times a minute on each machine."""
HOST = "loaded.localhost"


def source(version: int) -> str:
    """Return a worker that says which version it is."""
    return f"export default {{ fetch() {{ return new Response('version {version} ') }} }};"


def expected(version: int) -> bytes:
    """Return what the answer of a version holds."""
    return b"version %d " % version


async def spread() -> list[Figure]:
    """Deploy to one machine after the other; wait for every machine to serve it."""
    waits: list[float] = []
    async with fleet(MACHINES, SITES) as running:
        for version in range(SPREAD_DEPLOYS):
            member = running.all[version % MACHINES]
            async with member.api() as api:
                await deploy(api, "spread", source(version))
            acknowledged = time.monotonic()
            seen = await _everywhere(running, "spread.localhost", expected(version))
            if version:  # the first one also starts cells that nobody needed before
                waits.append(max(0.0, seen - acknowledged) * 1000)
    return [
        Figure(
            bench="spread",
            name=f"acknowledged → right on all of {MACHINES} machines, p99 of {len(waits)}",
            value=percentile(waits, 0.99),
            unit="ms",
            target=SPREAD_MS_MAX,
            note=f"median {median(waits):.0f}, worst {max(waits):.0f} ms; two sites, three core",
        ),
        Figure(
            bench="spread",
            name=f"`kythera fleet up` of {MACHINES} machines, until ready",
            value=running.started_s,
            unit="s",
        ),
    ]


async def _everywhere(running: RunningFleet, host: str, expect: bytes) -> float:
    """Return when the last machine gave its first right answer (monotonic seconds)."""
    firsts: list[float] = []

    async def until_right(member: Member) -> None:
        while not await member.serves(host, expect):
            await anyio.sleep(ASK_EVERY_S)
        firsts.append(time.monotonic())

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for member in running.all:
                tasks.start_soon(until_right, member)
    return max(firsts)


@asynccontextmanager
async def _loaded(running: RunningFleet, *loads: FleetLoad) -> AsyncIterator[None]:
    async with running.all[0].api() as api:
        await deploy(api, "loaded", source(0))
    await running.served_everywhere(HOST, b"version ")
    async with anyio.create_task_group() as tasks:
        for load in loads:
            tasks.start_soon(load.run)
        await anyio.sleep(CALM_S)
        yield
        await anyio.sleep(CALM_S)
        tasks.cancel_scope.cancel()


async def rolling() -> list[Figure]:
    """Deploys, a drain, a restart of each machine, a machine replaced: all under load."""
    figures: list[Figure] = []
    steps: list[tuple[str, Callable[[RunningFleet, FleetLoad], Awaitable[None]]]] = [
        (f"{ROLLING_DEPLOYS} rolling deploys", _deploys),
        ("a drain and back", _drain_and_back),
        ("a restart of each machine in turn (an upgrade)", _restarts),
        ("a machine removed, emptied, joined again", _rejoin),
    ]
    async with fleet(MACHINES, SITES) as running:
        load = FleetLoad(running, (HOST,), expect=b"version ")
        async with _loaded(running, load):
            for name, step in steps:
                before = len(load.sent)
                await step(running, load)
                await anyio.sleep(CALM_S)
                figures.append(_failed(f"failed requests in {name}", load.sent[before:]))
    return figures


def _failed(name: str, sent: list[Sent]) -> Figure:
    failures = [one for one in sent if one.failed]
    kinds = Counter(one.trouble for one in failures)
    told = "; ".join(f"{count} of {trouble}" for trouble, count in kinds.most_common(3))
    note = f"of {len(sent):,}; {told}".rstrip("; ")
    return Figure(bench="rolling", name=name, value=len(failures), target=0, note=note)


async def _deploys(running: RunningFleet, _load: FleetLoad) -> None:
    for version in range(1, ROLLING_DEPLOYS + 1):
        async with running.all[version % MACHINES].api() as api:
            await deploy(api, "loaded", source(version))
        await running.served_everywhere(HOST, expected(version))


async def _emptied(running: RunningFleet, load: FleetLoad, name: str) -> None:
    """Drain a machine and wait until nobody asks it any more."""
    await running.kythera("machine", "drain", name, asked=_another(running, name))
    with anyio.fail_after(30):
        while name in load.healthy or load.under_way(name):
            await anyio.sleep(0.02)


def _another(running: RunningFleet, name: str) -> str:
    return next(member.name for member in running.all if member.name != name)


async def _back(running: RunningFleet, name: str) -> None:
    await running.kythera("machine", "undrain", name, asked=_another(running, name))
    await running.until_healthy(name)


async def _drain_and_back(running: RunningFleet, load: FleetLoad) -> None:
    name = running.all[-1].name
    await _emptied(running, load, name)
    await anyio.sleep(CALM_S)
    await _back(running, name)


async def _restarts(running: RunningFleet, load: FleetLoad) -> None:
    for member in running.all:
        await _emptied(running, load, member.name)
        await running.order("stop", member.name)
        await running.order("revive", member.name)
        await _back(running, member.name)


async def _rejoin(running: RunningFleet, load: FleetLoad) -> None:
    shown = await running.order("show")
    name = next(each["name"] for each in shown["machines"] if not each["core"])
    await _emptied(running, load, name)
    await running.kythera("machine", "remove", "--yes", name, asked=_another(running, name))
    await running.order("stop", name)
    shutil.rmtree(running.members[name].state)
    shown = await running.order("revive", name)
    running.moved(shown)
    await running.until_healthy(name)


async def death() -> list[Figure]:
    """End machines under load: kill -9 of a core one and of another, then one that only hangs."""
    figures: list[Figure] = []
    async with fleet(MACHINES, SITES) as running:
        shown = (await running.order("show"))["machines"]
        core = [each["name"] for each in shown if each["core"]][-1]
        other = [each["name"] for each in shown if not each["core"]][-1]
        busy = FleetLoad(running, (HOST,), expect=b"version ")
        rare = await _rare(running)
        async with _loaded(running, busy, rare):
            for order, what, name in (
                ("kill", "a core machine", core),
                ("kill", "another machine", other),
                ("hang", "another machine", other),
            ):
                before, at = (len(busy.sent), len(rare.sent)), time.monotonic()
                await running.order(order, name)
                await anyio.sleep(DEATH_S)
                sent = [*busy.sent[before[0] :], *rare.sent[before[1] :]]
                figures += _death_figures(f"{order} of {what}", name, at, sent)
                await running.order("revive", name)
                await running.until_healthy(name)
    return figures


async def _rare(running: RunningFleet) -> FleetLoad:
    """Deploy workers that few ask for, which are served from a home in each site."""
    names = [f"rare{number}" for number in range(RARE_WORKERS)]
    async with running.all[0].api() as api:
        for name in names:
            await deploy(api, name, source(0))
    hosts = tuple(f"{name}.localhost" for name in names)
    for host in hosts:
        await running.served_everywhere(host, b"version ")
    return FleetLoad(running, hosts, clients=1, pause_ms=RARE_PAUSE_MS, expect=b"version ")


def _death_figures(what: str, name: str, killed: float, sent: list[Sent]) -> list[Figure]:
    failures = [one for one in sent if one.failed]
    outside = [one for one in failures if one.began > killed and one.machine != name]
    inside = len(failures) - len(outside)
    last = max((one.ended for one in outside), default=killed)
    kinds = Counter(one.trouble for one in outside)
    told = "; ".join(f"{count} of {trouble}" for trouble, count in kinds.most_common(3))
    return [
        Figure(
            bench="death",
            name=f"{what} → the others serve everything",
            value=(last - killed) * 1000,
            unit="ms",
            target=SERVED_MS_MAX,
            note=f"{inside} failed inside it, of {len(sent):,} requests",
        ),
        Figure(
            bench="death",
            name=f"requests failed on the others ({what})",
            value=len(outside),
            target=0,
            note=told,
        ),
    ]
