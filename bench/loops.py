"""10,000 requests through a worker that loops for ever on one in a hundred of them.

Every request is sent once, by clients that hold their connections: what a client had to send again
is a failure here. A request that loops has to fail, all others have to be answered.
"""

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from bench.client import Address, Broken, Connection
from bench.figures import Figure, percentile
from bench.running import Running, deploy, descendants, platform

REQUESTS = 10_000
CLIENTS = 8
LOOP_EVERY = 100
CPU_MS = 50
WAIT_S = 30.0
SOURCE = """\
export default {
  fetch(request) {
    if (request.url.endsWith("/loop")) for (;;);
    return new Response("done");
  },
};
"""


@dataclass
class Story:
    """What became of each request."""

    served_ms: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    loops: Counter[str] = field(default_factory=Counter)
    """What those who asked for a loop were told."""


class Callers:
    """Clients that share one number of requests to make."""

    def __init__(self, address: Address, host: str, requests: int, method: str = "GET") -> None:
        self._address = address
        self._host = host
        self._numbers = iter(range(1, requests + 1))
        self._method = method
        self.story = Story()

    async def run(self, clients: int) -> Story:
        """Ask until all requests have been made."""
        async with anyio.create_task_group() as tasks:
            for _ in range(clients):
                tasks.start_soon(self._client)
        return self.story

    async def _client(self) -> None:
        connection: Connection | None = None
        for number in self._numbers:
            connection = await self._turn(connection, loops=number % LOOP_EVERY == 0)
        if connection is not None:
            await connection.__aexit__(None, None, None)

    async def _turn(self, connection: Connection | None, *, loops: bool) -> Connection | None:
        began = time.monotonic()
        said, closes = "", True
        try:
            connection = connection or await Connection.open(self._address)
            path = "/loop" if loops else "/"
            answer = await connection.ask(self._host, self._method, path)
            said, closes = f"status {answer.status}", answer.closes
        except Broken as error:
            said = str(error)
        self._note(said, (time.monotonic() - began) * 1000, loops=loops)
        if connection is not None and closes:
            await connection.__aexit__(None, None, None)
            return None
        return connection

    def _note(self, said: str, took_ms: float, *, loops: bool) -> None:
        if loops:
            self.story.loops[said] += 1
        elif said == "status 200":
            self.story.served_ms.append(took_ms)
        else:
            self.story.failed[said] += 1


async def left_behind(running: Running) -> tuple[int, int]:
    """Return zombies below the keeper, and cells' processes that status does not know."""
    known = {pid for cell in await running.cells() for pid in cell["pids"]}
    assert running.process is not None
    zombies = 0
    for pid in descendants(running.process.pid):
        zombies += is_zombie(pid)
    return zombies, len(set(running.processes("workerd")) - known)


def is_zombie(pid: int) -> bool:
    """Tell whether a process has ended and nobody has asked how."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] == b"Z"


async def run() -> list[Figure]:
    """Make all requests; look at what is left behind."""
    async with platform() as running:
        async with running.api() as api:
            await deploy(api, "loops", SOURCE, limits={"cpu_ms": CPU_MS})
        await running.served("loops")
        began = time.monotonic()
        story = await Callers(running.front, running.host("loops"), REQUESTS).run(CLIENTS)
        seconds = time.monotonic() - began
        zombies, strays = await left_behind(running)
        ended = sum(cell["exceeded_cpu"] for cell in await running.cells("loops"))
    return _figures(story, seconds, zombies, strays, ended)


def _told(kinds: Counter[str]) -> str:
    return "; ".join(f"{count} of {what}" for what, count in kinds.most_common(3))


def _figures(story: Story, seconds: float, zombies: int, strays: int, ended: int) -> list[Figure]:
    failed = sum(story.failed.values())
    innocent = len(story.served_ms) + failed
    return [
        Figure(
            bench="loops",
            name="requests that failed though they did not loop",
            value=failed,
            target=0,
            note=f"of {innocent:,}, in {seconds:.0f} s, {CLIENTS} clients; {_told(story.failed)}".rstrip(
                "; "
            ),
        ),
        Figure(
            bench="loops",
            name="loops that were answered as if they had ended",
            value=story.loops["status 200"],
            target=0,
            note=f"processes ended: {ended}; " + _told(story.loops),
        ),
        Figure(
            bench="loops",
            name="the others' answers, p99",
            value=percentile(story.served_ms, 0.99) if story.served_ms else None,
            unit="ms",
        ),
        Figure(
            bench="loops", name="zombies, and cells nobody knows", value=zombies + strays, target=0
        ),
    ]
