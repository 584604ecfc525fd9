"""`kythera fleet up`: a fleet from its first machine to the ordered stop.

Promises: the first line on stdout is the event `ready` (or the banner, for a person); Ctrl-C and
SIGTERM stop all in order, a second Ctrl-C at once; nothing is left either way. Refuses a folder
on which a fleet, or a platform, already runs.
"""

import contextlib
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio

from kythera.ground.journal import Journal
from kythera.ground.layout import Layout
from kythera.ground.sockets import format_address, listen_tcp
from kythera.model.errors import KytheraError, SetupError
from kythera.node.keeper_banner import json_line, our_command
from kythera.node.up_options import LOCK_NAME, StateLock, prepare_folders, remove_moved_run
from kythera.sim.one_host.banner import banner
from kythera.sim.one_host.control import Control, socket_path
from kythera.sim.one_host.fleet import HostedFleet, Note, hosted
from kythera.sim.one_host.plan import MachinePlan, plan, up_command

STOPPED = 0
KILLED_BY_HAND = 130


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What `kythera fleet up` was asked for; ports 0 are free ones."""

    machines: int
    sites: int
    cores: int | None
    http: int
    api: int
    more: tuple[str, ...]
    json: bool
    program: str


def loopback_hosts(count: int) -> list[str]:
    """Return an address for each machine: 127.0.0.1 … where they can be bound, else one for all."""
    hosts = [f"127.0.0.{number + 1}" for number in range(count)]
    try:
        for host in hosts:
            listen_tcp(format_address(host, 0)).close()
    except SetupError:
        return ["127.0.0.1"] * count
    return hosts


def free_port(hosts: Sequence[str], wanted: int) -> int:
    """Return the wanted port if every machine can have it, else 0: free ones."""
    if wanted == 0 or len(set(hosts)) < len(hosts):
        return 0
    try:
        for host in hosts:
            listen_tcp(format_address(host, wanted)).close()
    except SetupError:
        return 0
    return wanted


def machines_of(folder: Path, wanted: Wanted) -> tuple[MachinePlan, ...]:
    """Return the machines with the addresses that they can have. Raises SetupError."""
    hosts = loopback_hosts(wanted.machines)
    return plan(
        folder,
        machines=wanted.machines,
        sites=wanted.sites,
        cores=wanted.cores,
        hosts=hosts,
        http_port=free_port(hosts, wanted.http),
        api_port=free_port(hosts, wanted.api),
    )


def run(layout: Layout, wanted: Wanted) -> int:
    """Run a fleet until told to stop; return the exit code. Raises KytheraError."""
    plans = machines_of(layout.state, wanted)
    prepare_folders(layout)
    with contextlib.ExitStack() as stack:
        stack.enter_context(StateLock(layout.state / LOCK_NAME))
        stack.callback(remove_moved_run, layout)
        try:
            return anyio.run(_run, layout, plans, wanted)
        except BaseExceptionGroup as group:
            raise _only(group) from group


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the expected error in a group of them, else the group."""
    expected, others = group.split(KytheraError)
    if others is not None or expected is None:
        return group
    found: BaseException = expected
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


async def _run(layout: Layout, plans: Sequence[MachinePlan], wanted: Wanted) -> int:
    def note(text: str) -> None:
        print(text, file=sys.stderr if wanted.json else sys.stdout, flush=True)

    journal = Journal("fleet", json_lines=not sys.stderr.isatty())
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with hosted(
            layout.state,
            plans,
            argv=lambda machine, token: up_command(machine, token, wanted.more),
            command=ask_command,
            journal=journal,
        ) as fleet:
            stopped = anyio.Event()
            code = KILLED_BY_HAND
            async with anyio.create_task_group() as tasks:

                async def live() -> None:
                    nonlocal code
                    await _live(layout, fleet, wanted, note, stopped)
                    code = STOPPED
                    tasks.cancel_scope.cancel()

                tasks.start_soon(live)
                async for number in signals:
                    if stopped.is_set() and number == signal.SIGINT:
                        tasks.cancel_scope.cancel()
                    stopped.set()
            return code


async def _live(
    layout: Layout, fleet: HostedFleet, wanted: Wanted, note: Note, stopped: anyio.Event
) -> None:
    """Start, serve orders, wait for the word, stop."""
    async with anyio.create_task_group() as tasks:
        starting = anyio.CancelScope()

        async def give_up() -> None:
            await stopped.wait()
            starting.cancel()

        tasks.start_soon(give_up)
        with starting:
            await fleet.start(note)
            await tasks.start(Control(fleet).serve, socket_path(layout.state))
            print(_ready(layout, fleet, wanted), flush=True)  # noqa: T201 (what was asked for)
            await stopped.wait()
        await fleet.stop(note)
        tasks.cancel_scope.cancel()


def _ready(layout: Layout, fleet: HostedFleet, wanted: Wanted) -> str:
    if wanted.json:
        return json_line(fleet.file().ready_event())
    return banner(fleet.file(), layout.state, our_command(wanted.program))


def ask_command(machine: MachinePlan, words: Sequence[str]) -> list[str]:
    """Return the command line that asks one machine."""
    return [sys.executable, "-m", "kythera.cli", *words, "--state", str(machine.folder)]
