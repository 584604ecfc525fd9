"""Who runs a simulated fleet: machines are drained, removed, made core, on facts that may be old.

The order of a move of the log is the real one (`distribute.moving`): each driver looks, thinks for
a moment, and does one step, which by then may have been done by another.
"""

import contextlib
from dataclasses import dataclass

import msgspec

from kythera.distribute import moving
from kythera.distribute.cores import core_of
from kythera.distribute.stream import StreamState
from kythera.model.errors import StoreUnavailable
from kythera.model.records import Core, decode, encode
from kythera.sim.fleet_decisions import Decisions
from kythera.sim.fleet_faults import Mix
from kythera.sim.fleet_ground import Fleet
from kythera.sim.fleet_machine import Host
from kythera.sim.fleet_task import Task, pause
from kythera.sim.fleet_writers import Writers

MOVE_S, THINK_S = 0.4, 0.1
COPIED_AT_ONCE = 20
MACHINES_LEFT_MIN = 4
REMOVED_MAX = 1


@dataclass
class Operators:
    """People at a keyboard, and the machines that move the log for them."""

    fleet: Fleet
    decisions: Decisions
    writers: Writers
    mix: Mix
    removed: int = 0

    def act(self) -> None:
        """Somebody decides something, maybe."""
        fleet, mix = self.fleet, self.mix
        for host in fleet.hosts.values():
            newest = fleet.log.newest(f"machine.{host.name}")
            host.removed = newest is not None and newest.value is None
        live = fleet.live()
        if not live:
            return
        at, about = fleet.time.chance.choice(live), fleet.time.chance.choice(live)
        if fleet.rarely(mix.drain):
            self._begin(at, self._drain(at, about.name))
        if fleet.rarely(mix.remove):
            self._begin(at, self._remove(at, about))
        if fleet.rarely(mix.move):
            self._begin(at, self._wish(at))

    def _begin(self, host: Host, work: object) -> None:
        Task(host, work, failed=self._given_up).start()  # type: ignore[arg-type]

    def _given_up(self, error: Exception) -> None:
        if not isinstance(error, StoreUnavailable | moving.CannotMove):
            raise error

    # -- machines ----------------------------------------------------------------------------------

    async def _drain(self, at: Host, name: str) -> None:
        """Let a machine hand its visitors to others, or take them back."""
        machine = at.catalog().machine(name)
        if machine is None:
            return
        state = "active" if machine.state == "draining" else "draining"
        self.fleet.tell(f"{at.name}: {name} shall be {state}")
        changed = msgspec.structs.replace(machine, state=state)
        guard = self.writers.guard(at, machine.key())
        call = f"drain{self.fleet.next_number()}"
        await self.writers.write(at, machine.key(), encode(changed), call, guard)

    async def _remove(self, at: Host, host: Host) -> None:
        """Put a machine out of the fleet for good, if as far as is known here it holds no log."""
        core = at.catalog().core()
        holders = {*core.machines, *core.wanted} if core else set(self.fleet.log.cores)
        few = len(self.fleet.live()) < MACHINES_LEFT_MIN or self.removed >= REMOVED_MAX
        if few or host is at or host.name in holders or host.name in self.fleet.log.cores:
            return
        self.removed += 1
        self.fleet.tell(f"{at.name}: {host.name} is removed")
        key = f"machine.{host.name}"
        call = f"remove{self.fleet.next_number()}"
        await self.writers.write(at, key, None, call, self.writers.guard(at, key))

    # -- the log -----------------------------------------------------------------------------------

    async def _wish(self, at: Host) -> None:
        """Wish that other machines hold the log."""
        core = at.catalog().core()
        names = [m.name for m in at.catalog().machines() if not self.fleet.hosts[m.name].removed]
        chance = self.fleet.time.chance
        count = chance.choice((1, 3))
        if core is None or len(names) < count or self.fleet.log.moving is not None:
            return
        keep = chance.choice(sorted(set(core.machines) & set(names)) or names)
        others = chance.sample([name for name in names if name != keep], count - 1)
        wished = moving.wished(core, [keep, *others])
        self.fleet.tell(f"{at.name}: the log shall be with {wished.wanted}")
        guard = self.writers.guard(at, core.key())
        call = f"wish{self.fleet.next_number()}"
        await self.writers.write(at, core.key(), encode(wished), call, guard)

    def begin(self, host: Host) -> None:
        """A machine starts; it brings moves on when it is its turn."""
        Task(host, self._drive(host), failed=self._given_up).start()

    async def _drive(self, host: Host) -> None:
        heard: tuple[int, float] = (0, 0.0)
        while True:
            await pause(host, MOVE_S)
            core = core_of(host.catalog(), host.membership, host.name)
            if core is None:
                continue
            if not core.wanted and host.name in core.machines:
                await self._do(host, self._look(host, core))
            if heard[0] != core.wanted_epoch:
                heard = (core.wanted_epoch, self.fleet.time.now)
            waited_ms = (self.fleet.time.now - heard[1]) * 1000
            if self.decisions.drives(core, host.name, waited_ms):
                facts = self._look(host, core)
                await pause(host, THINK_S)
                await self._do(host, facts)

    def _look(self, host: Host, known: Core) -> moving.Facts:
        """Gather what this machine sees of both logs."""
        fleet, log = self.fleet, self.fleet.log
        held = log.held(known.key())
        seen = decode(Core, held.value) if held is not None and held.value else known
        core = seen if log.reachable(host.name) else known
        near = frozenset(name for name in core.wanted if fleet.talks(host.name, name))
        led = len(near) * 2 > len(core.wanted)
        old = StreamState(
            not log.frozen, log.frozen and log.whole(), 1, log.last_seq, 0, len(log.cores)
        )
        new = None
        if log.cores == core.wanted:
            new = StreamState(True, False, 1, log.last_seq, 0, len(core.wanted))
        elif log.moving is not None and led:
            ahead = log.moving
            new = StreamState(False, False, ahead.first_seq, ahead.last_seq, 0, len(ahead.cores))
        return moving.Facts(
            core=core,
            old=old if log.reachable(host.name) else None,
            new=new,
            answering=near,
            led=led,
            copied_to=log.moving.copied_to if log.moving else 0,
            left=log.moving is None or bool(log.left()),
        )

    async def _do(self, host: Host, facts: moving.Facts) -> None:
        """Do one step; all of them are harmless when somebody else was first."""
        log, step = self.fleet.log, self.decisions.next_step(facts)
        if not isinstance(step, moving.Nothing | moving.Wait):
            self.fleet.tell(f"{host.name}: {step}")
        match step:
            case moving.Freeze() if log.reachable(host.name):
                log.frozen = True
            case moving.Thaw() if log.reachable(host.name):
                log.frozen = False
            case moving.Create(first_seq):
                log.create(facts.core.wanted, first_seq)
            case moving.CopyOn(after_seq) if facts.new is not None:
                log.copy_on(after_seq, facts.new.last_seq, COPIED_AT_ONCE)
            case moving.Open():
                self._open(facts.core)
            case moving.Announce(core):
                call = f"announce{core.epoch}-{self.fleet.next_number()}"
                held = log.held(core.key())
                if held is not None and held.value and decode(Core, held.value).epoch >= core.epoch:
                    return
                with contextlib.suppress(StoreUnavailable):
                    await self.writers.write(
                        host, core.key(), encode(core), call, held.seq if held else 0
                    )

    def _open(self, core: Core) -> None:
        lost = self.fleet.log.switch(encode(moving.settled(core)))
        if lost:
            self.fleet.violation(f"the log moved without {lost}")
