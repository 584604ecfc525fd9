"""Ends cells whose event loop is stuck in one turn: `run.turns` decides, this looks and kills.

Every LOOK_S the CPU clock of each ready process is read, which costs a third of a microsecond. A
pulse is bytes that are no HTTP on a socket of the process's own: workerd answers 400 by itself, no
JavaScript runs, nothing is logged. What HAProxy counts is asked only of a process in doubt.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import anyio
import structlog
from anyio.abc import TaskGroup

from kythera.ground.meters import cpu_seconds
from kythera.model.errors import KytheraError
from kythera.node.mind import Mind, Reading
from kythera.run.cell import Cell, Process
from kythera.run.solo import ALL, ONE, Solo
from kythera.run.turns import Turns

LOOK_S = 0.025
PULSE = b"?\r\n\r\n"
_events = structlog.get_logger("cells")


class TurnWatch:
    """Looks at all processes of all cells."""

    def __init__(
        self,
        mind: Mind,
        loads: Callable[[], Awaitable[Reading]],
        at_once: Callable[[str, int], Awaitable[None]],
    ) -> None:
        self._mind = mind
        self._loads = loads
        self._at_once = at_once
        self._turns = Turns()
        self._solo = Solo()

    async def run(self) -> None:
        """Look for ever."""
        async with anyio.create_task_group() as tasks:
            while True:
                await anyio.sleep(LOOK_S)
                await self.look(tasks)
                for server in self._solo.over(self._mind.clock.monotonic()):
                    await self._tell(server, ALL)

    async def look(self, tasks: TaskGroup) -> None:
        """Look once at each process that has a pulse."""
        watched = list(self._watched())
        self._turns.keep([process.name for _, process in watched])
        doubted: list[tuple[Cell, Process]] = []
        for cell, process in watched:
            match self._turns.look(process.name, _cpu_ms(process), self._mind.cpu_ms_max(cell)):
                case "pulse":
                    tasks.start_soon(self._pulse, process)
                case "doubt":
                    doubted.append((cell, process))
                case "over":
                    await self._end(cell, process)
        if doubted:
            await self._ask(doubted)

    def _watched(self) -> Iterator[tuple[Cell, Process]]:
        for cell, process in self._mind.running.values():
            serving = process.state != "starting" and not process.killed
            if serving and self._mind.pulses.of(process.name) is not None:
                yield cell, process

    async def _pulse(self, process: Process) -> None:
        """Wait for the answer as long as the process lives: its end, whoever orders it, resets the
        connection. A deadline in wall-clock time would forgive a loop that is given little CPU."""
        path = self._mind.pulses.of(process.name)
        if path is None:
            return
        answer = b""
        try:
            async with await anyio.connect_unix(path) as stream:
                await stream.send(PULSE)
                answer = await stream.receive(64)
        except (OSError, anyio.EndOfStream, anyio.BrokenResourceError):
            pass
        if answer:
            self._turns.answered(process.name, _cpu_ms(process))
        else:
            self._turns.lost(process.name)

    async def _ask(self, doubted: list[tuple[Cell, Process]]) -> None:
        try:
            loads = await self._loads()
        except (KytheraError, OSError):
            return  # HAProxy is away, and so is everybody who might be answered.
        for cell, process in doubted:
            current, requests = loads.get(cell.name.server, (0, 0))
            stuck = self._turns.is_stuck(
                process.name,
                _cpu_ms(process),
                self._mind.cpu_ms_max(cell),
                answers=requests - current,
                current=current,
            )
            if stuck and not process.killed:
                await self._end(cell, process)

    async def _end(self, cell: Cell, process: Process) -> None:
        """End a process, and have who was inside it ask again one at a time."""
        if self._solo.begin(cell.name.server, self._mind.clock.monotonic()):
            await self._tell(cell.name.server, ONE)
        self._mind.exceeded(cell, process, "cpu")

    async def _tell(self, server: str, requests: int) -> None:
        with suppress(KytheraError, OSError):  # HAProxy is away, and begins anew with all.
            await self._at_once(server, requests)


def _cpu_ms(process: Process) -> float:
    return cpu_seconds(process.pid) * 1000
