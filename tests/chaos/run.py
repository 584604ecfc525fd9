"""One chaos run: a real fleet, clients who write and read, faults from a seed, then the verdict.

After the last fault everything is healed; the fleet has `CONVERGE_S_MAX` to agree, and only then
is it judged.
"""

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import anyio.to_thread

from kythera.model.errors import KytheraError
from tests.chaos.clients import Clients
from tests.chaos.disks import disks, filled
from tests.chaos.faults import KINDS, PARTS, Fault, draw
from tests.chaos.history import History, Read, Stored, violations
from tests.fleets import FleetMachine, RunningFleet, running_fleet
from tests.processes import command, family

MACHINES = 5
SITES = 2
WRITERS = 4
READERS = 2
CONVERGE_S_MAX = 45.0
CALM_S = 2.0
Say = Callable[[str], None]


@dataclass
class Verdict:
    """What came of a run."""

    seed: int
    faults: list[Fault]
    history: History
    violations: list[str]
    converged_s: float
    troubles: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return it as a person reads it."""
        kinds = Counter(write.outcome for write in self.history.writes)
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        reads = len(self.history.reads)
        lines = [
            f"seed {self.seed}: {len(self.faults)} faults; writes: {told}; {reads} reads",
            f"  converged in {self.converged_s:.1f} s",
            *(f"  fault that could not be: {each}" for each in self.troubles),
            *(f"  VIOLATION: {each}" for each in self.violations),
        ]
        return "\n".join(lines)


async def chaos(seed: int, faults: int, within_s: float, say: Say) -> Verdict:
    """Run a fleet through faults from a seed; return the verdict."""
    with TemporaryDirectory(prefix="kythera-chaos-") as parent:
        folder = Path(parent) / "fleet"
        with disks([folder / f"m{number + 1}" for number in range(MACHINES)]) as own:
            kinds = KINDS if own else tuple(kind for kind in KINDS if kind != "full-disk")
            if not own:
                say("no right to mount: no disk of its own for each machine, no full disk")
            with running_fleet(MACHINES, SITES, folder=folder) as fleet:
                return await trouble(fleet, draw_for(fleet, seed, faults, within_s, kinds), say)


@dataclass(frozen=True)
class Script:
    """What is going to happen."""

    seed: int
    faults: list[Fault]
    core: list[str]


def draw_for(
    fleet: RunningFleet, seed: int, count: int, within_s: float, kinds: Sequence[str]
) -> Script:
    """Draw faults for the machines of a fleet."""
    facts = fleet.order("show")["machines"]
    core = [each["name"] for each in facts if each["core"]]
    names = [each["name"] for each in facts]
    return Script(seed, draw(seed, count, within_s, names, core, kinds), core)


async def trouble(fleet: RunningFleet, script: Script, say: Say) -> Verdict:
    """Give a running fleet faults while clients use it; return the verdict."""
    began = time.monotonic()
    clients = Clients(fleet, lambda: time.monotonic() - began)
    seed = script.seed
    workers = [f"w{number}" for number in range(WRITERS)]
    troubles: list[str] = []
    try:
        for worker in workers:
            await clients.begin(worker)
        async with anyio.create_task_group() as tasks:
            for number, worker in enumerate(workers):
                tasks.start_soon(clients.write, worker, random.Random(f"{seed}w{number}"), 1.0)
            for number in range(READERS):
                tasks.start_soon(clients.read_on, workers, random.Random(f"{seed}r{number}"), 0.1)
            await anyio.sleep(CALM_S)
            await befall(fleet, script, troubles, say)
            tasks.cancel_scope.cancel()
        converged_s = await converge(fleet, clients, workers)
    finally:
        await clients.close()
    return Verdict(
        seed=seed,
        faults=script.faults,
        history=clients.history,
        violations=violations(clients.history),
        converged_s=converged_s,
        troubles=troubles,
    )


async def befall(fleet: RunningFleet, script: Script, troubles: list[str], say: Say) -> None:
    """Let faults begin and end at their times; heal everything at last."""
    began = time.monotonic()
    one_at_a_time = anyio.Lock()

    async def one(fault: Fault) -> None:
        await anyio.sleep(max(0.0, fault.begins_s - (time.monotonic() - began)))
        say(f"{fault.begins_s:6.1f} s  {fault}")
        async with one_at_a_time:
            mend = await anyio.to_thread.run_sync(_begin, fleet, script.core, fault, troubles)
        await anyio.sleep(max(0.0, fault.ends_s - (time.monotonic() - began)))
        async with one_at_a_time:
            await anyio.to_thread.run_sync(_end, mend, fault, troubles)

    async with anyio.create_task_group() as tasks:
        for fault in script.faults:
            tasks.start_soon(one, fault)
    await anyio.to_thread.run_sync(heal_all, fleet)
    say("        everything is healed")


def _begin(
    fleet: RunningFleet, core: list[str], fault: Fault, troubles: list[str]
) -> Callable[[], None]:
    try:
        return begin(fleet, core, fault)
    except KytheraError as error:  # two faults of one machine: it is down already
        troubles.append(f"{fault}: {error}")
        return lambda: None


def _end(mend: Callable[[], None], fault: Fault, troubles: list[str]) -> None:
    try:
        mend()
    except KytheraError as error:
        troubles.append(f"mending {fault}: {error}")


def begin(fleet: RunningFleet, core: list[str], fault: Fault) -> Callable[[], None]:
    """Begin a fault; return what mends it. Raises KytheraError when it cannot be."""
    a, b = fault.a, fault.b
    match fault.kind:
        case "cut" | "isolate":
            fleet.cut(a, b)
        case "cut-silent":
            fleet.cut(a, b, silent=True)
        case "cut-one-way":
            fleet.cut(a, b, one_way=True)
        case "slow":
            fleet.slow(a, b, fault.delay_ms)
        case "kill":
            fleet.kill(a)
            return lambda: fleet.revive(a)
        case "hang":
            fleet.hang(a)
            return lambda: fleet.revive(a)
        case "kill-part":
            kill_part(fleet[a], b)
            return lambda: None
        case "kill-core":
            with contextlib.suppress(KytheraError):  # one of them may be down already
                fleet.kill(",".join(core))
            return lambda: fleet.revive(",".join(core))
        case "full-disk":
            return filled(fleet[a].state)
        case other:
            raise AssertionError(other)
    return lambda: fleet.heal(a, b)


def kill_part(machine: FleetMachine, part: str) -> None:
    """Kill a part of a machine by kill -9."""
    for pid in family(machine.pid):
        if PARTS[part] in command(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def heal_all(fleet: RunningFleet) -> None:
    """Heal every link; wake or start every machine."""
    fleet.heal()
    fleet.revive("all")


async def converge(fleet: RunningFleet, clients: Clients, workers: list[str]) -> float:
    """Read everything everywhere until the verdict is good or the time is over."""
    began = time.monotonic()
    while True:
        await look(fleet, clients, workers)
        took_s = time.monotonic() - began
        if not violations(clients.history) or took_s > CONVERGE_S_MAX:
            return took_s
        await anyio.sleep(0.5)


async def look(fleet: RunningFleet, clients: Clients, workers: list[str]) -> None:
    """Note what every machine serves and stores now, in place of an earlier look."""
    final: list[Read] = []
    stored: list[Stored] = []
    silent: list[str] = []

    async def one(machine: FleetMachine) -> None:
        for worker in workers:
            read = await clients.read(machine, worker)
            if isinstance(read, str):
                silent.append(f"{machine.name} for {worker}: {read}")
                return
            final.append(read)
            listing = await clients.stored(machine, worker)
            if isinstance(listing, str):
                silent.append(f"{machine.name}'s list of {worker}: {listing}")
                return
            stored.append(listing)

    async with anyio.create_task_group() as tasks:
        for machine in fleet.machines:
            tasks.start_soon(one, machine)
    history = clients.history
    history.final, history.stored, history.silent = final, stored, silent
