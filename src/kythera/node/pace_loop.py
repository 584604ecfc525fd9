"""Tells the kernel which processes are busy, and holds a connection to busy cells: `run.paces`
decides, this looks and does it.

Reads the CPU clock of each process that the keeper holds, and of HAProxy's workers, every LOOK_S, a
third of a microsecond each. A kernel or container that forbids it costs nothing but the gain.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress

import anyio

from kythera.ground.meters import cpu_seconds
from kythera.ground.processes import family
from kythera.ground.scheduling import set_patient, set_quick
from kythera.node.held_connections import HeldConnections
from kythera.node.keeper_client import HeldProcess
from kythera.node.pulses import Pulses
from kythera.run.paces import Paces

LOOK_S = 0.2
WITH_WORKERS = "haproxy"
"""An engine whose work is done by its children."""


class PaceLoop:
    """Looks at all processes of this machine."""

    def __init__(self, processes: Mapping[str, HeldProcess], pulses: Pulses) -> None:
        self._processes = processes
        self._pulses = pulses
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
        running = dict(self._running())
        clocks = {pid: cpu_seconds(pid) for pid in running}
        for pid, busy in self._paces.look(clocks, now).items():
            with suppress(OSError):  # it has ended, or nobody may
                (set_patient if busy else set_quick)(pid)
        paths = {pid: self._pulses.of(running[pid]) for pid in self._paces.busy()}
        self._held.hold({pid: path for pid, path in paths.items() if path is not None}, now)

    def _running(self) -> Iterator[tuple[int, str]]:
        for name, process in self._processes.items():
            if process.ready:
                yield process.pid, name
            if name == WITH_WORKERS:
                yield from ((pid, name) for pid in family(process.pid))
