"""A fleet on one computer: starts its machines in order, links them through the relay, obeys
orders for faults, and stops them in order.

Promises: `fleet.json` in its folder is current after every change; every machine knows the others'
relay addresses before it starts; a machine that ends by itself stays down until it is revived.
"""

import json
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import msgspec

from kythera.ground.files import write_atomically
from kythera.ground.journal import Journal
from kythera.ground.processes import child
from kythera.ground.relay_links import Relay
from kythera.model.errors import KytheraError, SetupError
from kythera.sim.one_host import orders
from kythera.sim.one_host.machine import Argv, HostedMachine
from kythera.sim.one_host.orders import Order
from kythera.sim.one_host.plan import DOWN, FLEET_FILE, HUNG, UP, FleetFile, MachinePlan

COMMAND_S_MAX = 60.0
PROMOTE_TRIES = 3
Note = Callable[[str], None]
Command = Callable[[MachinePlan, Sequence[str]], Sequence[str]]
"""Machine and words -> the command line that asks the machine."""


@asynccontextmanager
async def hosted(
    folder: Path,
    plans: Sequence[MachinePlan],
    *,
    argv: Argv,
    command: Command,
    journal: Journal,
) -> AsyncIterator["HostedFleet"]:
    """Open the links of a fleet for the length of the block; whatever then runs is killed.

    `argv` is the command line that starts a machine."""
    machines = [HostedMachine(plan, argv, journal) for plan in plans]
    addresses = {one.plan.name: one.mesh for one in machines}
    async with Relay(addresses) as relay, anyio.create_task_group() as tasks:
        fleet = HostedFleet(folder, machines, command, relay=relay, tasks=tasks)
        try:
            yield fleet
        finally:
            tasks.cancel_scope.cancel()


class HostedFleet:
    """All machines of one folder: `start`, then `obey` orders, then `stop`."""

    def __init__(
        self,
        folder: Path,
        machines: Sequence[HostedMachine],
        command: Command,
        *,
        relay: Relay,
        tasks: anyio.abc.TaskGroup,
    ) -> None:
        self.machines = {one.plan.name: one for one in machines}
        self._folder = folder
        self._command = command
        self._relay = relay
        self._tasks = tasks
        self._account = ""

    @property
    def founder(self) -> HostedMachine:
        """Return the machine that founds the fleet."""
        return next(iter(self.machines.values()))

    @property
    def _sites(self) -> dict[str, str]:
        return {name: one.plan.site for name, one in self.machines.items()}

    def file(self) -> FleetFile:
        """Return what `fleet.json` tells."""
        facts = tuple(one.fact() for one in self.machines.values())
        return FleetFile(account_id=self._account, pid=os.getpid(), machines=facts)

    def _write(self) -> None:
        text = msgspec.json.format(msgspec.json.encode(self.file()))
        write_atomically(self._folder / FLEET_FILE, text, 0o600)

    # -- start and stop ------------------------------------------------------------------------

    async def start(self, note: Note) -> None:
        """Found the fleet, let the others join, make the core. Raises SetupError."""
        for name, one in self.machines.items():
            self._link(name, one.plan)
        founder = self.founder
        await founder.start(self._tasks)
        self._account = founder.ready["account_id"]
        self._write()
        note(f"{founder.plan.name} founded the fleet ({founder.plan.site}).")
        async with anyio.create_task_group() as joining:
            for one in list(self.machines.values())[1:]:
                joining.start_soon(self._join, one, note)
        await self._make_core(note)
        self._write()

    def _link(self, name: str, plan: MachinePlan) -> None:
        plan.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        plan.layout.fleet.mkdir(mode=0o700, exist_ok=True)
        write_atomically(plan.layout.links, json.dumps(self._relay.addresses(name)).encode())

    async def _join(self, one: HostedMachine, note: Note) -> None:
        """Start a machine; one that is of no fleet yet, or lost its folder, joins with a token."""
        token = ""
        if not one.plan.layout.membership.exists():
            self._link(one.plan.name, one.plan)
            made = await self._ask(self._living_beside(one).plan, ["token", "create", "--json"])
            token = made["token"]
        await one.start(self._tasks, token)
        self._write()
        note(f"{one.plan.name} joined ({one.plan.site}).")

    def _living_beside(self, one: HostedMachine) -> HostedMachine:
        for other in self.machines.values():
            if other is not one and other.life == UP:
                return other
        raise KytheraError(
            f"{one.plan.name} cannot join: no other machine is up.",
            remedy="Revive another machine first.",
        )

    async def _make_core(self, note: Note) -> None:
        names = [one.plan.name for one in self.machines.values() if one.plan.core]
        if len(names) == 1:
            return
        for tries_left in reversed(range(PROMOTE_TRIES)):
            try:
                await self._ask(self.founder.plan, ["machine", "promote", "--json", *names[1:]])
                break
            except KytheraError:
                if not tries_left:
                    raise
        note(f"{', '.join(names)} hold the log.")

    async def _ask(self, machine: MachinePlan, words: Sequence[str]) -> Any:
        """Run a command against a machine and return its JSON. Raises SetupError."""
        with anyio.move_on_after(COMMAND_S_MAX):
            async with child(self._command(machine, words)) as process:
                output = await process.read_output()
                if await process.wait() == 0:
                    return json.loads(output.stdout or b"null")
                said = (output.stderr or output.stdout).decode(errors="replace").strip()
                raise SetupError(f"`kythera {' '.join(words)}` failed on {machine.name}: {said}")
        raise SetupError(f"`kythera {' '.join(words)}` did not end in {COMMAND_S_MAX:.0f} s.")

    async def stop(self, note: Note) -> None:
        """End the machines in order: those without the log first, the founder last."""
        everyone = list(self.machines.values())
        groups = (
            [one for one in everyone if not one.plan.core],
            [one for one in everyone if one.plan.core and one is not self.founder],
            [self.founder],
        )
        for group in groups:
            async with anyio.create_task_group() as stopping:
                for one in group:
                    stopping.start_soon(one.stop)
            self._write()
            if group:
                note(f"Stopped {', '.join(one.plan.name for one in group)}.")

    # -- faults --------------------------------------------------------------------------------

    async def obey(self, order: Order) -> dict[str, Any]:
        """Do what was ordered; return how the fleet is then. Raises KytheraError."""
        if order.do in orders.LINKS:
            for a, b in orders.pairs(order, self._sites):
                after = orders.condition_after(order, self._relay.condition(a, b))
                self._relay.become(a, b, after)
        elif order.do in orders.MACHINES:
            await self._all_at_once(order.do, orders.named(order.a, self._sites))
        elif order.do != "show":
            raise KytheraError(f"a fleet knows no order {order.do!r}.", remedy="See --help.")
        self._write()
        return self.shown()

    async def _all_at_once(self, what: str, names: Sequence[str]) -> None:
        """Do it to several machines; the first that refuses is told when all have had their turn.

        Together, because machines that hold the log wait for one another when they start."""
        refused: list[KytheraError] = []

        async def one(name: str) -> None:
            try:
                await self._deal_with(what, self.machines[name])
            except KytheraError as error:
                refused.append(error)

        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(one, name)
        if refused:
            self._write()
            raise refused[0]

    async def _deal_with(self, what: str, one: HostedMachine) -> None:
        if what == "kill":
            await one.kill()
        elif what == "hang":
            one.hang()
        elif what == "stop":
            await one.stop()
        elif one.life == HUNG:
            one.wake()
        elif one.life == DOWN:
            await self._join(one, lambda _text: None)

    def shown(self) -> dict[str, Any]:
        """Return machines and links as they are."""
        links = [
            {"from": a, "to": b, "is": orders.condition_text(condition)}
            for (a, b), condition in self._relay.conditions().items()
        ]
        return {"machines": msgspec.to_builtins(self.file().machines), "links": links}


def shown_text(shown: Mapping[str, Any]) -> str:
    """Return machines and links as a person reads them."""
    lives = ", ".join(f"{one['name']} {one['life']}" for one in shown["machines"])
    return f"Machines: {lives}.\n{orders.links_text(shown['links'])}"
