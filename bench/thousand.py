"""A thousand idle versions on one machine: what they cost, and whether the platform stays quick."""

import time

from bench.client import fetch
from bench.cold import cold_figures, first_requests, hello
from bench.figures import Figure
from bench.running import Running, deploy, deploy_many, platform

WORKERS = 1_000
AT_ONCE = 4
IDLE_S = 90.0
SERVED_S_MAX = 2.0
RESTART_S_MAX = 15.0
COLD_SAMPLE = 50


async def run() -> list[Figure]:
    """Deploy them, look, deploy one more, restart, ask the first and the last."""
    names = [f"w{number:04}" for number in range(1, WORKERS + 1)]
    async with platform() as running:
        rate = await deploy_many(running, [(name, hello(name)) for name in names], at_once=AT_ONCE)
        await running.served(names[-1])
        figures = [
            Figure(
                bench="thousand",
                name="deploys over the API",
                value=rate,
                unit="/s",
                note=f"{AT_ONCE} at a time, each tried in a workerd of its own first",
            ),
            *_memory(running, "before the restart"),
            await _one_more(running),
            *await _restart(running, names),
            *_memory(running, "after the restart"),
        ]
        sample = names[50 :: WORKERS // COLD_SAMPLE]
        return figures + cold_figures("thousand", await first_requests(running, sample))


def _memory(running: Running, when: str) -> list[Figure]:
    return [
        Figure(
            bench="thousand",
            name=f"private memory of {role}, {when}",
            value=running.memory_mib(role),
            unit="MiB",
        )
        for role in ("agent", "haproxy", "api", "nats")
    ]


async def _one_more(running: Running) -> Figure:
    began = time.monotonic()
    async with running.api() as api:
        await deploy(api, "one-more", hello("one-more"))
    acknowledged_s = time.monotonic() - began
    await running.served("one-more")
    return Figure(
        bench="thousand",
        name="the 1,001st deploy, from upload to served",
        value=time.monotonic() - began,
        unit="s",
        target=SERVED_S_MAX,
        note=f"acknowledged after {acknowledged_s:.2f} s",
    )


async def _restart(running: Running, names: list[str]) -> list[Figure]:
    stop_s = await running.stop()
    began = time.monotonic()
    await running.start()
    for name in (names[0], names[-1]):
        await running.served(name)
    served_s = time.monotonic() - began
    answer = await fetch(running.front, running.host(names[WORKERS // 2]))
    assert answer.status == 200, "the worker in the middle was lost"
    note = f"stop {stop_s:.1f} s, start until ready {running.started_s:.1f} s"
    return [
        Figure(
            bench="thousand",
            name="restart, until the first and the last worker answer",
            value=stop_s + served_s,
            unit="s",
            target=RESTART_S_MAX,
            note=note,
        )
    ]
