"""What goes wrong in a simulated fleet, and how it all ends: seeded, each kind often exactly zero.

Cuts in one or both directions, whole sites apart, bad weather on all links, machines that crash,
hang, come back with an older disk, clocks that step by hours, blobs whose bytes are changed.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kythera.sim.fleet_ground import Fleet
from kythera.sim.fleet_machine import Condition, Host
from kythera.sim.fleet_network import Weather
from kythera.sim.fleet_writers import ACCOUNT, WORKERS

HOURS_S = 3_600.0
CHANGED = b"tampered "


@dataclass
class Mix:
    """How nasty a world is: chances for each half second, or shares."""

    loss: float = 0.0
    twice: float = 0.0
    late: float = 0.0
    cut: float = 0.0
    apart: float = 0.0
    heal: float = 0.0
    crash: float = 0.0
    hang: float = 0.0
    old_disk: float = 0.0
    clock_steps: float = 0.0
    tamper: float = 0.0
    busy: float = 0.0
    cells_fail: float = 0.0
    drain: float = 0.0
    remove: float = 0.0
    move: float = 0.0

    @classmethod
    def swarm(cls, chance: Callable[[], float]) -> "Mix":
        """Draw a mix."""
        highest = cls(
            *(0.1, 0.1, 0.2, 0.15, 0.05, 0.2, 0.08, 0.08, 0.5, 0.05),
            *(0.1, 0.1, 0.1, 0.1, 0.03, 0.1),
        )
        drawn = (
            getattr(highest, name) * chance() if chance() < 0.5 else 0.0
            for name in cls.__dataclass_fields__
        )
        return cls(*drawn)


@dataclass
class Faults:
    """Throws them. `started` is told when a machine's processes begin anew."""

    fleet: Fleet
    mix: Mix
    started: Callable[[Host], None]
    set_back: Callable[[Host], None]
    """Told when a machine's disk is older than it was."""

    def begin(self) -> None:
        """Set the weather."""
        mix = self.mix
        self.fleet.network.weather = Weather(mix.loss, mix.twice, mix.late)

    def strike(self) -> None:
        """Let something go wrong, or get better, maybe."""
        fleet, mix, chance = self.fleet, self.mix, self.fleet.time.chance
        hosts = list(fleet.hosts.values())
        if fleet.rarely(mix.cut):
            self._cut(chance.choice(hosts), chance.choice(hosts), one_way=chance.random() < 0.5)
        if fleet.rarely(mix.apart):
            self._part()
        if fleet.rarely(mix.heal):
            fleet.tell("all links are open")
            fleet.network.heal()
        if fleet.rarely(mix.crash):
            self._crash(chance.choice(hosts))
        if fleet.rarely(mix.hang):
            self._hang(chance.choice(hosts))
        if fleet.rarely(mix.clock_steps):
            self._step_clock(chance.choice(hosts))
        if fleet.rarely(mix.tamper):
            self._tamper(chance.choice(hosts))
        if fleet.rarely(mix.busy):
            self._busy(chance.choice(hosts))
        if fleet.rarely(mix.cells_fail):
            self._break(chance.choice(hosts))

    def _cut(self, one: Host, other: Host, *, one_way: bool) -> None:
        self.fleet.tell(f"cut {one.name} {'->' if one_way else '-'} {other.name}")
        self.fleet.network.cut([one.name], [other.name], one_way=one_way)

    def _part(self) -> None:
        hosts = self.fleet.hosts.values()
        site = self.fleet.time.chance.choice(sorted({host.site for host in hosts}))
        inside = [host.name for host in hosts if host.site == site]
        outside = [host.name for host in hosts if host.site != site]
        one_way = self.fleet.time.chance.random() < 0.3
        self.fleet.tell(f"site {site} is cut off{' one way' if one_way else ''}")
        self.fleet.network.cut(inside, outside, one_way=one_way)

    def _crash(self, host: Host) -> None:
        if host.condition is Condition.DOWN:
            return
        chance = self.fleet.time.chance
        self.fleet.tell(f"{host.name} crashes")
        host.crash()
        away_s = chance.choice((0.3, 2.0, 8.0))
        self.fleet.time.after(away_s, lambda: self._start(host))

    def _start(self, host: Host) -> None:
        if host.condition is Condition.DOWN:
            if host.backup is not None and self.fleet.rarely(self.mix.old_disk):
                self.fleet.tell(f"{host.name} starts with a disk of {host.backup.applied_seq()}")
                host.copy = host.backup.twin()
                self.set_back(host)
            else:
                self.fleet.tell(f"{host.name} starts")
            host.start()
            self.started(host)

    def _hang(self, host: Host) -> None:
        if host.condition is Condition.UP:
            self.fleet.tell(f"{host.name} hangs")
            host.hang()
            for_s = self.fleet.time.chance.choice((0.5, 4.0, 5.0))
            self.fleet.time.after(for_s, host.go_on)

    def _step_clock(self, host: Host) -> None:
        host.clock_off_s += self.fleet.time.chance.choice((-5, -1, 1, 5, 50)) * HOURS_S
        self.fleet.tell(f"{host.name}'s clock is {host.clock_off_s:.0f} s off")

    def _tamper(self, host: Host) -> None:
        """Change a blob, never the last good one of those that core machines keep."""
        digests = sorted(host.blobs)
        if not digests:
            return
        digest = self.fleet.time.chance.choice(digests)
        others = (self.fleet.hosts[name] for name in self.fleet.log.cores if name != host.name)
        if any(not other.blobs.get(digest, CHANGED).startswith(CHANGED) for other in others):
            self.fleet.tell(f"somebody changes {digest[:8]} on {host.name}")
            host.blobs[digest] = CHANGED + host.blobs[digest]

    def _busy(self, host: Host) -> None:
        self.fleet.tell(f"{host.name} is busy")
        host.busy = True
        self.fleet.time.after(5.0, lambda: setattr(host, "busy", False))

    def _break(self, host: Host) -> None:
        name = (ACCOUNT, self.fleet.time.chance.choice(WORKERS))
        self.fleet.tell(f"{name[1]} does not start on {host.name}")
        host.broken.add(name)
        self.fleet.time.after(4.0, lambda: host.broken.discard(name))

    def back_up(self) -> None:
        """Keep what one machine's disk holds: it may come back with it."""
        host = self.fleet.time.chance.choice(list(self.fleet.hosts.values()))
        host.backup = host.copy.twin()

    def end(self) -> None:
        """Everything is well again: links, weather, machines, clocks."""
        self.fleet.tell("healed")
        self.fleet.healed = True
        self.fleet.network.clear_up()
        for host in self.fleet.hosts.values():
            host.clock_off_s, host.busy = 0.0, False
            host.broken.clear()
            host.go_on()
            self._start(host)
