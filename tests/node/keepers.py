"""Real keepers for tests, each with an agent and an API of the test's choosing.

Mostly the test itself is the agent: the keeper starts an `idle` program in its place, and the
test connects as an agent does.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from kythera.ground.layout import Layout
from kythera.model.platform import Platform
from tests.processes import alive, births, family, wait_until

IDLE = (sys.executable, "-c", "import signal; signal.pause()")
START = """
import sys, pathlib, msgspec
from kythera.model.errors import KytheraError
from kythera.model.limits import Limits
from kythera.node.keeper import UpOptions, run
given = msgspec.json.decode(sys.argv[1])
limits = msgspec.convert(given.pop("limits"), Limits)
state = pathlib.Path(given.pop("state"))
try:
    sys.exit(run(UpOptions(state=state, limits=limits, **given)))
except KytheraError as error:
    sys.exit(str(error))
"""


@dataclass
class RunningKeeper:
    """A keeper under test."""

    process: subprocess.Popen[str]
    layout: Layout
    log: Path
    seen: dict[int, str] = field(default_factory=dict)
    """Every descendant that `note_family` met: pid -> birth."""

    @property
    def pid(self) -> int:
        """The keeper's pid."""
        return self.process.pid

    @property
    def platform(self) -> Platform:
        """The settings of this start."""
        return self.layout.read_platform()

    def note_family(self) -> dict[int, str]:
        """Remember all that descend from the keeper now."""
        self.seen.update(births(family(self.pid)))
        return self.seen

    def kill(self) -> None:
        """`kill -9` the keeper itself and wait for its end."""
        self.process.kill()
        self.process.wait(10)

    def stop(self, signum: int = signal.SIGTERM, within_s: float = 30) -> int:
        """Tell the keeper to stop; return its exit code."""
        self.process.send_signal(signum)
        return self.process.wait(within_s)

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """Return what the keeper has logged so far, of one name or all."""
        lines = self.log.read_text().splitlines()
        found = [msgspec.json.decode(line) for line in lines if line.startswith('{"ts"')]
        return [event for event in found if not name or event["event"] == name]

    def wait_for_event(self, name: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until the keeper has logged an event so often."""
        wait_until(lambda: len(self.events(name)) >= count, f"{name}: {self.log.read_text()}")
        return self.events(name)


def start(
    state: Path,
    *,
    env: Mapping[str, str] | None = None,
    argv: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
    **options: Any,
) -> RunningKeeper:
    """Start a keeper as a process of its own, without waiting for anything."""
    chosen = {
        "state": str(state),
        "http": "127.0.0.1:0",
        "api": "127.0.0.1:0",
        "agent_argv": IDLE,
        "api_argv": IDLE,
        "limits": {},
        **options,
    }
    starts = len(list(state.parent.glob(f"{state.name}-*.log")))
    log = state.with_name(f"{state.name}-{starts}.log")
    source = Path(__file__).parents[2] / "src"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [*argv, sys.executable, "-c", START, msgspec.json.encode(chosen).decode()],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, "PYTHONPATH": str(source), **(env or {})},
            pass_fds=pass_fds,
        )
    return RunningKeeper(process, Layout(state.absolute()), log)


@contextmanager
def running(state: Path, **options: Any) -> Iterator[RunningKeeper]:
    """Run a keeper for the length of the block; at the end nothing of it is left."""
    keeper = start(state, **options)
    try:
        wait_until(
            lambda: keeper.events("agent_started") or keeper.process.poll() is not None,
            f"a keeper: {keeper.log.read_text()}",
        )
        assert keeper.process.poll() is None, keeper.log.read_text()
        yield keeper
        keeper.note_family()
    finally:
        if keeper.process.poll() is None:
            keeper.kill()
        assert keeper.process.stdout is not None
        keeper.process.stdout.close()
        wait_until(lambda: not alive(keeper.seen), f"nothing left: {alive(keeper.seen)}")
