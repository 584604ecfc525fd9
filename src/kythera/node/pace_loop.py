"""Tells the kernel which cells are busy, and holds a connection to those: `run.paces` decides, this
looks and does it.

Reads the CPU clock of each cell every LOOK_S, a third of a microsecond each. A kernel or container
that forbids it costs nothing but the gain.
"""

from contextlib import suppress

import anyio

from kythera.ground.meters import cpu_seconds
from kythera.ground.processes import set_batch
from kythera.node.held_connections import HeldConnections
from kythera.node.mind import Mind
from kythera.run.paces import Paces

LOOK_S = 0.2


class PaceLoop:
    """Looks at all cells' processes."""

    def __init__(self, mind: Mind) -> None:
        self._mind = mind
        self._paces = Paces()
        self._held = HeldConnections()

    async def run(self) -> None:
        """Look for ever."""
        try:
            while True:
                self._look(anyio.current_time())
                await anyio.sleep(LOOK_S)
        finally:
            self._held.close()

    def _look(self, now: float) -> None:
        running = [process for _, process in self._mind.running.values()]
        ready = {p.pid: p.name for p in running if p.pid and p.state == "ready"}
        for pid, busy in self._paces.look({pid: cpu_seconds(pid) for pid in ready}, now).items():
            with suppress(OSError):  # it has ended, or nobody may
                set_batch(pid, busy)
        paths = {pid: self._mind.pulses.of(ready[pid]) for pid in self._paces.busy()}
        self._held.hold({pid: path for pid, path in paths.items() if path is not None}, now)
