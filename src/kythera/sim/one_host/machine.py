"""One machine of a fleet on one computer: its keeper's process, started, ended, stopped, gone on.

Promises: `start` returns once the machine says that it is ready, or raises SetupError with the end
of its log; `hang` stops every process of the machine, `wake` lets them go on; when the task group
that it lives in is cancelled, nothing of the machine is left.
"""

import contextlib
import json
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import anyio.abc

from kythera.ground.journal import Journal
from kythera.ground.processes import Child, child, family, read_some
from kythera.model.errors import KytheraError, SetupError
from kythera.sim.one_host.plan import DOWN, HUNG, STARTING, UP, MachineFact, MachinePlan

READY_S_MAX = 90.0
"""Many machines start at once on few cores; one alone is ready in two seconds."""
STOP_S_MAX = 25.0
READY_BYTES_MAX = 64 * 1024
LOG_TAIL_BYTES = 3_000
HANG_ROUNDS_MAX = 10

Argv = Callable[[MachinePlan, str], Sequence[str]]


class HostedMachine:
    """One machine: `life` tells how it is, `ready` what it said when it was ready."""

    def __init__(self, plan: MachinePlan, argv: Argv, journal: Journal) -> None:
        self.plan = plan
        self.life = DOWN
        self.ready: dict[str, Any] = {}
        self._argv = argv
        self._journal = journal
        self._child: Child | None = None
        self._gone = anyio.Event()

    @property
    def pid(self) -> int:
        """Return the keeper's process, 0 when there is none."""
        return self._child.pid if self._child is not None else 0

    def fact(self) -> MachineFact:
        """Return the machine as it is."""
        return MachineFact(
            name=self.plan.name,
            site=self.plan.site,
            core=self.plan.core,
            folder=str(self.plan.folder),
            life=self.life,
            pid=self.pid,
            http=self.ready.get("http", ""),
            api=self.ready.get("api", ""),
        )

    def mesh(self) -> str:
        """Return where its mesh door is now; empty before its first start."""
        try:
            platform = self.plan.layout.read_platform()
        except SetupError:
            return ""
        return platform.mesh_advertised

    async def start(self, tasks: anyio.abc.TaskGroup, token: str = "") -> None:
        """Start it in `tasks` and wait until it is ready. Raises SetupError."""
        assert self.life == DOWN, self.life
        self._gone = anyio.Event()
        await tasks.start(self._live, token)

    async def _live(self, token: str, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        self.life = STARTING
        command = self._argv(self.plan, token)
        try:
            with self.plan.log.open("ab") as log:
                async with child(command, log=log.fileno()) as process:
                    self._child = process
                    self.ready = await self._first_line(process)
                    self.life = UP
                    task_status.started()
                    status = await process.wait()
                    self._journal.say("machine_ended", machine=self.plan.name, status=status)
        finally:
            self.life, self._child = DOWN, None
            self._gone.set()

    async def _first_line(self, process: Child) -> dict[str, Any]:
        line = b""
        assert process.stdout is not None
        with anyio.move_on_after(READY_S_MAX):
            while not line.endswith(b"\n") and len(line) < READY_BYTES_MAX:
                if not (chunk := await read_some(process.stdout)):
                    break
                line += chunk
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict) and found.get("event") == "ready":
                return found
        raise SetupError(
            f"machine {self.plan.name} did not start:\n{self.log_tail()}",
            remedy=f"Its whole log is {self.plan.log}.",
        )

    def log_tail(self) -> str:
        """Return the end of its log."""
        try:
            return self.plan.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
        except OSError:
            return "(it logged nothing)"

    async def stop(self) -> None:
        """End it in order, as Ctrl-C would; after STOP_S_MAX by force."""
        if self._child is None:
            return
        if self.life == HUNG:
            self.wake()
        self._child.signal(signal.SIGTERM)
        with anyio.move_on_after(STOP_S_MAX):
            await self._gone.wait()
            return
        self._journal.warn("machine_killed", machine=self.plan.name, after_s=STOP_S_MAX)
        await self.kill()

    async def kill(self) -> None:
        """End its keeper as no program can prevent; all else goes with it."""
        self._living("kill").signal(signal.SIGKILL)
        await self._gone.wait()

    def hang(self) -> None:
        """Stop every process of it where it is."""
        keeper = self._living("hang")
        keeper.signal(signal.SIGSTOP)
        stopped: set[int] = set()
        for _ in range(HANG_ROUNDS_MAX):  # a process that was just starting another one
            fresh = set(family(keeper.pid)) - stopped
            if not fresh:
                break
            _signal_all(fresh, signal.SIGSTOP)
            stopped |= fresh
        self.life = HUNG

    def wake(self) -> None:
        """Let every process of it go on."""
        keeper = self._living("revive")
        _signal_all(set(family(keeper.pid)), signal.SIGCONT)
        keeper.signal(signal.SIGCONT)
        self.life = UP

    def _living(self, what: str) -> Child:
        if self._child is None or self.life == STARTING:
            raise KytheraError(
                f"cannot {what} {self.plan.name}: it is {self.life}.",
                remedy=f"Start it again: kythera fleet revive {self.plan.name}.",
            )
        return self._child


def _signal_all(pids: set[int], signum: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)
