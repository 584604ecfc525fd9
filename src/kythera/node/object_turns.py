"""Ends object cells whose event loop is stuck in one turn, as `node.turn_watch` does with others.

What HAProxy counts says nothing of them: a process whose pulse stays unanswered for as long as one
turn may burn is ended.
"""

from collections.abc import Callable

import anyio
import structlog
from anyio.abc import TaskGroup

from kythera.ground.meters import cpu_seconds
from kythera.node.keeper_client import KeeperClient
from kythera.node.pulses import Pulses
from kythera.node.turn_watch import PULSE
from kythera.run.object_cells import key_of
from kythera.run.turns import Turns

LOOK_S = 0.1
SIGKILL = 9


class ObjectTurns:
    """Looks at all object cells."""

    def __init__(
        self, keeper: KeeperClient, pulses: Pulses, cpu_ms_max: Callable[[str], int]
    ) -> None:
        self._keeper = keeper
        self._pulses = pulses
        self._cpu_ms_max = cpu_ms_max
        self._turns = Turns()
        self.ended: set[str] = set()
        """Names of those that were ended for it."""
        self._journal = structlog.get_logger("objects")

    async def run(self) -> None:
        """Look for ever."""
        async with anyio.create_task_group() as tasks:
            while True:
                await anyio.sleep(LOOK_S)
                await self._look(tasks)

    async def _look(self, tasks: TaskGroup) -> None:
        names = [n for n, held in self._keeper.processes.items() if held.ready and key_of(n)]
        self._turns.keep(names)
        for name in names:
            most = self._cpu_ms_max(name)
            match self._turns.look(name, self._cpu_ms(name), most):
                case "pulse":
                    tasks.start_soon(self._pulse, name)
                case "doubt" | "over":
                    self._journal.warning("object_cell_exceeded", cell=name, cpu_ms_max=most)
                    self.ended.add(name)
                    await self._keeper.signal(name, SIGKILL)

    def _cpu_ms(self, name: str) -> float:
        held = self._keeper.processes.get(name)
        return 0.0 if held is None else cpu_seconds(held.pid) * 1000

    async def _pulse(self, name: str) -> None:
        path, answer = self._pulses.of(name), b""
        try:
            if path is not None:
                async with await anyio.connect_unix(path) as stream:
                    await stream.send(PULSE)
                    answer = await stream.receive(64)
        except (OSError, anyio.EndOfStream, anyio.BrokenResourceError):
            pass
        if answer:
            self._turns.answered(name, self._cpu_ms(name))
        else:
            self._turns.lost(name)
