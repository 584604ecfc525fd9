"""Tells the kernel which cells are busy: `run.paces` decides, this looks and tells.

Reads the CPU clock of each cell every LOOK_S, a third of a microsecond each. A kernel or container
that forbids it costs nothing but the gain.
"""

from contextlib import suppress

import anyio

from kythera.ground.meters import cpu_seconds
from kythera.ground.processes import set_batch
from kythera.node.mind import Mind
from kythera.run.paces import Paces

LOOK_S = 0.2


class PaceLoop:
    """Looks at all cells' processes."""

    def __init__(self, mind: Mind) -> None:
        self._mind = mind
        self._paces = Paces()

    async def run(self) -> None:
        """Look for ever."""
        while True:
            running = [process for _, process in self._mind.running.values()]
            clocks = {p.pid: cpu_seconds(p.pid) for p in running if p.pid and p.state == "ready"}
            for pid, busy in self._paces.look(clocks, anyio.current_time()).items():
                with suppress(OSError):  # it has ended, or nobody may
                    set_batch(pid, busy)
            await anyio.sleep(LOOK_S)
