"""The keeper's own two programs, agent and API: started, watched, started again.

A program that ends is started again after a pause that doubles from `child_backoff_ms_min` to
`child_backoff_ms_max`, and begins anew once it has lived `LIVED_S`.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from kythera.ground import families
from kythera.ground.forking import Command, base_environment
from kythera.ground.journal import Journal
from kythera.model.errors import SetupError
from kythera.model.limits import Limits
from kythera.node.keeper_children import Children, HeldChild
from kythera.node.keeper_loop import Loop, Timer
from kythera.node.keeper_sockets import HeldSockets
from kythera.node.systemd import FIRST_DESCRIPTOR
from kythera.node.up_options import UpOptions

LIVED_S = 10.0
GIVE_UP_STATUS = 78
"""sysexits' EX_CONFIG: a program that ends so before the platform was ever ready will not do
better next time; it has said why on stderr, and the platform ends."""


def next_pause_ms(previous_ms: int, lived_s: float, limits: Limits) -> int:
    """Return how long to wait before the next start. Pure."""
    if previous_ms == 0 or lived_s >= LIVED_S:
        return limits.child_backoff_ms_min
    return min(previous_ms * 2, limits.child_backoff_ms_max)


class Program:
    """One program that is to run for as long as the platform does."""

    def __init__(
        self,
        name: str,
        command: Command,
        stop_order: int,
        limits: Limits,
        on_end: Callable[[str, int], None],
        *,
        loop: Loop,
        children: Children,
        journal: Journal,
    ) -> None:
        self.name = name
        self.started_at = 0.0
        self._command = command
        self._stop_order = stop_order
        self._limits = limits
        self._on_end = on_end
        self._loop = loop
        self._children = children
        self._journal = journal
        self._pause_ms = 0
        self._timer: Timer | None = None
        self._over = False

    @property
    def child(self) -> HeldChild | None:
        """The running process, or None between two."""
        return self._children.get(self.name)

    def start(self) -> None:
        """Start it. Raises SetupError when there is no such program."""
        self._timer = None
        self.started_at = self._loop.now()
        child = self._children.start_program(
            self.name, self._command, self._stop_order, self._ended
        )
        self._journal.say(f"{self.name}_started", pid=child.pid)

    def _ended(self, status: int) -> None:
        lived_s = self._loop.now() - self.started_at
        self._on_end(self.name, status)
        if self._over:
            return
        self._pause_ms = next_pause_ms(self._pause_ms, lived_s, self._limits)
        self._journal.warn(
            f"{self.name}_ended", status=status, lived_s=round(lived_s, 1), again_ms=self._pause_ms
        )
        self._timer = self._loop.after(self._pause_ms / 1000, self._start_again)

    def _start_again(self) -> None:
        try:
            self.start()
        except (SetupError, OSError) as error:
            self._journal.warn(f"{self.name}_not_started", error=str(error))
            self._pause_ms = self._limits.child_backoff_ms_max
            self._timer = self._loop.after(self._pause_ms / 1000, self._start_again)

    def let_end(self) -> None:
        """Do not start it again."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()


def agent_command(options: UpOptions) -> Command:
    """Return how the agent is started."""
    argv = options.agent_argv or _module("kythera.node.agent", options.state.absolute())
    return Command(argv, {**base_environment(), **family_of("agent")})


def api_command(options: UpOptions, sockets: HeldSockets) -> Command:
    """Return how the API is started: with its sockets, as systemd would pass them."""
    names = ("api", "tail", "peers")
    argv = options.api_argv or _module("kythera.control.server", options.state.absolute())
    passed = {"LISTEN_FDS": str(len(names)), "LISTEN_FDNAMES": ":".join(names)}
    return Command(
        argv,
        {**base_environment(), **family_of("api"), **passed},
        {FIRST_DESCRIPTOR + n: sockets.descriptor(name) for n, name in enumerate(names)},
        pid_variable="LISTEN_PID",
    )


def family_of(program: str) -> dict[str, str]:
    """Return the mark of a program's own family, which is below the keeper's."""
    return {mark: f"{family}/{program}" for mark, family in families.inherited().items()}


def _module(name: str, state: Path) -> tuple[str, ...]:
    return (sys.executable, "-m", name, "--state", str(state))
