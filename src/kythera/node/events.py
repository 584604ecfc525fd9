"""Calls workers' `scheduled` and `queue` handlers: which cell, is it awake, what came of it.

A call goes to a process's own socket, the one of its pulses, where events.js stands before the worker
(`run.config`). Promises: the version is chosen as for a visitor, by the deployment's shares; an idle
cell is woken; one that is called is neither idle nor retired before its call has ended, within the
drain's deadlines; what could not be called says so (NotCalled), so that whoever asked may ask again.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus

import anyio

from kythera.ground.chance import Chance
from kythera.model.errors import KytheraError
from kythera.model.traffic import Share
from kythera.node.mind import Mind
from kythera.run.cell import Cell, CellName, Process
from kythera.run.config import takes_events

POLL_S = 0.01
USED_S = 0.5
"""Between two words that a call is still under way."""
END_S = 1.0
"""How long a process that broke off is waited for, to learn why."""
ANSWER_BYTES_MAX = 1024 * 1024
DETAIL_BYTES_MAX = 300
EXCEEDED = {"cpu": "exceededCpu", "memory": "exceededMemory"}
CRASHED, TOO_LONG = "crashed", "exceededWallTime"


class NotCalled(KytheraError):
    """The handler was not reached; it has seen nothing of the call."""


@dataclass(frozen=True)
class Called:
    """What came of a call that reached a process."""

    status: int
    body: bytes

    @classmethod
    def broken(cls, outcome: str, detail: str = "") -> "Called":
        """Return the end of a call that was not answered."""
        told = {"outcome": outcome, "detail": detail}
        return cls(HTTPStatus.BAD_GATEWAY, json.dumps(told).encode())


class Events:
    """Makes such calls, on this machine."""

    def __init__(self, mind: Mind, chance: Chance) -> None:
        self._mind = mind
        self._chance = chance
        self.body_bytes_max = mind.cells.limits.event_body_bytes_max

    async def call(self, account: str, worker: str, handler: str, body: bytes) -> Called:
        """Call a worker's handler and return its answer. Raises NotCalled."""
        limits = self._mind.cells.limits
        cell, process = None, None
        with anyio.move_on_after(limits.event_start_ms / 1000):
            while process is None:
                cell = self._chosen(account, worker)
                process = await self._awake(cell)
        if cell is None or process is None:
            raise NotCalled(f"{worker} did not start within {limits.event_start_ms} ms.")
        async with self._held(cell.name):
            return await self._ask(process, handler, body)

    def _chosen(self, account: str, worker: str) -> Cell:
        """Return the cell that takes this call. Raises NotCalled when there is none."""
        known = self._mind.cells.workers.get((account, worker))
        shares = [] if known is None else [s for s in known.decided if s.server in known.cells]
        if known is None or not shares:
            raise NotCalled(f"no version of {worker} is deployed here.")
        cell = known.cells[self._drawn(shares).server]
        name = cell.name
        version = self._mind.catalog.version(name.account, name.worker, name.version_id)
        if version is not None and not takes_events(version):
            raise NotCalled(f"version {version.id} of {worker} has no such handler.")
        return cell

    def _drawn(self, shares: list[Share]) -> Share:
        point = self._chance.uniform(0, sum(share.percentage for share in shares))
        for share in shares:
            point -= share.percentage
            if point < 0:
                return share
        return shares[-1]

    async def _awake(self, cell: Cell) -> Process | None:
        """Return a process of a cell that can be called; None when none is yet."""
        ready = [p for p in cell.processes.values() if p.state == "ready" and not p.killed]
        able = [p for p in ready if self._mind.pulses.of(p.name) is not None]
        if able:
            return able[min(len(able) - 1, int(self._chance.uniform(0, len(able))))]
        if not cell.live():
            self._mind.wake(cell.name)
        await anyio.sleep(POLL_S)
        return None

    @asynccontextmanager
    async def _held(self, cell: CellName) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._use, cell)
            yield
            tasks.cancel_scope.cancel()

    async def _use(self, cell: CellName) -> None:
        while True:
            self._mind.cells.used(cell, self._mind.clock.monotonic())
            await anyio.sleep(USED_S)

    async def _ask(self, process: Process, handler: str, body: bytes) -> Called:
        path = self._mind.pulses.of(process.name)
        if path is None:
            raise NotCalled(f"{process.name} has gone.")
        head = f"POST /{handler} HTTP/1.1\r\nHost: events\r\nContent-Length: {len(body)}\r\n"
        answer = b""
        with anyio.move_on_after(self._mind.cells.limits.event_wall_ms / 1000) as deadline:
            answer = await _asked(path, head.encode() + b"Connection: close\r\n\r\n" + body)
        if deadline.cancelled_caught:
            return Called.broken(TOO_LONG)
        first, _, rest = answer.partition(b"\r\n\r\n")
        if first.startswith(b"HTTP/1.1 200 "):
            return Called(HTTPStatus.OK, rest)
        if first.startswith(b"HTTP/1.1 "):
            return Called.broken("exception", rest[:DETAIL_BYTES_MAX].decode(errors="replace"))
        return Called.broken(await self._why(process))

    async def _why(self, process: Process) -> str:
        """Return what a process has ended of, which is known a moment after its end."""
        with anyio.move_on_after(END_S):
            while process.name in self._mind.running and process.exceeded is None:
                await anyio.sleep(POLL_S)
        return EXCEEDED[process.exceeded] if process.exceeded is not None else CRASHED


async def _asked(path: str, request: bytes) -> bytes:
    """Send a request and return all that comes back: nothing, when the process ended over it. Raises
    NotCalled when it does not take connections."""
    received = bytearray()
    try:
        connected = await anyio.connect_unix(path)
    except OSError as error:
        raise NotCalled(f"its process takes no connection ({type(error).__name__}).") from None
    try:
        async with connected as stream:
            await stream.send(request)
            async for chunk in stream:
                received += chunk
                if len(received) > ANSWER_BYTES_MAX:
                    return b""
    except (OSError, anyio.BrokenResourceError):
        return b""
    return bytes(received)
