"""Steady requests to a fleet, as a load balancer or a careful DNS would spread them.

Who is asked is chosen among the machines whose /.kythera/health is 200, looked at every
`LOOK_MS`. A connection that is refused was no request: another machine is asked. Whatever else
goes wrong, an answer that takes longer than `ANSWER_S_MAX` too, is one failure, with its machine and
its moment; no request is ever repeated.
"""

import random
import time
from dataclasses import dataclass, field

import anyio

from bench.client import Asked, Broken, Connection
from bench.fleet_running import Member, RunningFleet

LOOK_MS = 100.0
LOOK_S_MAX = 0.5
ANSWER_S_MAX = 2.0


@dataclass(frozen=True)
class Sent(Asked):
    """One request, and the machine it was sent to."""

    machine: str = ""


@dataclass
class FleetLoad:
    """Some clients that ask some hosts of whichever machine is healthy."""

    fleet: RunningFleet
    hosts: tuple[str, ...]
    clients: int = 8
    pause_ms: float = 20.0
    expect: bytes = b""
    sent: list[Sent] = field(default_factory=list)
    healthy: set[str] = field(default_factory=set)
    refused: int = 0
    _under_way: dict[int, tuple[str, float]] = field(default_factory=dict)

    async def run(self) -> None:
        """Look and ask until cancelled."""
        self.healthy = {member.name for member in self.fleet.all}
        async with anyio.create_task_group() as tasks:
            for member in self.fleet.all:
                tasks.start_soon(self._look, member)
            for number in range(self.clients):
                tasks.start_soon(self._client, number)

    def failures(self) -> list[Sent]:
        """Return what failed so far."""
        return [one for one in self.sent if one.failed]

    def under_way(self, machine: str) -> int:
        """Return how many requests to a machine are not answered yet."""
        return sum(name == machine for name, _ in self._under_way.values())

    async def _look(self, member: Member) -> None:
        while True:
            well = False
            with anyio.move_on_after(LOOK_S_MAX):
                well = await member.healthy()
            (self.healthy.add if well else self.healthy.discard)(member.name)
            await anyio.sleep(LOOK_MS / 1000)

    async def _client(self, number: int) -> None:
        dice = random.Random(number)
        kept: dict[str, Connection] = {}
        try:
            while True:
                await self._turn(number, dice, kept)
                await anyio.sleep(self.pause_ms / 1000)
        finally:
            for connection in kept.values():
                await connection.__aexit__(None, None, None)

    async def _turn(self, number: int, dice: random.Random, kept: dict[str, Connection]) -> None:
        chosen = await self._connected(dice, kept)
        if chosen is None:
            now = time.monotonic()
            self.sent.append(Sent(now, now, 0, "no machine is healthy"))
            return
        name, connection = chosen
        began = time.monotonic()
        self._under_way[number] = (name, began)
        status, trouble, closes = 0, "", True
        try:
            with anyio.fail_after(ANSWER_S_MAX):
                answer = await connection.ask(dice.choice(self.hosts), "GET", "/")
            status, closes = answer.status, answer.closes
            if status != 200 or self.expect not in answer.body:
                trouble = f"{name}: {status} {answer.body[:120]!r}"
        except Broken as error:
            trouble = f"{name}: {error}"
        except TimeoutError:
            trouble = f"{name}: no answer within {ANSWER_S_MAX} s"
        del self._under_way[number]
        self.sent.append(Sent(began, time.monotonic(), status, trouble, name))
        if closes:
            kept.pop(name, None)
            await connection.__aexit__(None, None, None)

    async def _connected(
        self, dice: random.Random, kept: dict[str, Connection]
    ) -> tuple[str, Connection] | None:
        """Return a connection to a healthy machine, kept or new; None when none takes us."""
        for gone in set(kept) - self.healthy:  # a balancer lets go of who wants no more
            await kept.pop(gone).__aexit__(None, None, None)
        for name in dice.sample(sorted(self.healthy), len(self.healthy)):
            if name in kept:
                return name, kept[name]
            try:
                kept[name] = await Connection.open(self.fleet.members[name].front)
                return name, kept[name]
            except Broken:
                self.refused += 1
        return None
