"""What all parts of a simulated fleet stand on: time, links, machines, the log, and the story.

A question to another machine goes over the links both ways and is answered by who lets us in, or
not at all; the one who asks has a deadline.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar

from kythera.model.membership import Membership, Peer
from kythera.model.records import Machine
from kythera.sim.fleet_log import FleetLog
from kythera.sim.fleet_machine import Condition, Host
from kythera.sim.fleet_network import Network, Weather
from kythera.sim.machine import Virtual
from kythera.sim.world import Violation

T = TypeVar("T")
STORY_LINES = 30


@dataclass
class Fleet:
    """The world without its decisions. `admits` is set by whoever knows the members."""

    seed: int
    time: Virtual
    hosts: dict[str, Host]
    network: Network
    log: FleetLog = field(init=False)
    story: list[str] = field(default_factory=list)
    healed: bool = False
    admits: Callable[[Host, str], bool] = field(default=lambda _host, _name: True)
    _numbers: int = 0

    @classmethod
    def of(cls, time: Virtual, seed: int, machines: list[Machine], cores: list[str]) -> "Fleet":
        """Return a fleet of these machines, all up and connected."""
        peers = tuple(Peer(name=name, mesh="") for name in cores)
        hosts = {
            machine.name: Host(machine, time, Membership(founder=False, peers=peers))
            for machine in machines
        }
        sites = {machine.name: machine.site for machine in machines}
        fleet = cls(seed, time, hosts, Network(time, sites, Weather()))
        fleet.log = FleetLog(
            fleet.talks, tuple(cores), lambda name: hosts[name].now(), lambda: time.now
        )
        return fleet

    def violation(self, what: str) -> NoReturn:
        """Stop the world."""
        tail = "\n  ".join(self.story[-STORY_LINES:])
        raise Violation(
            f"{what}, at {self.time.now:.3f} s of fleet seed {self.seed}\n  {tail}\n"
            f"replay: python -m kythera.sim --fleet --seed {self.seed}"
        )

    def tell(self, what: str) -> None:
        """Add a line to the story."""
        self.story.append(f"{self.time.now:.3f} {what}")

    def next_number(self) -> int:
        """Return a number that nobody else gets."""
        self._numbers += 1
        return self._numbers

    def talks(self, one: str, other: str) -> bool:
        """Tell whether two machines are up and hear each other."""
        here, there = self.hosts[one], self.hosts[other]
        return here.up and there.up and (one == other or self.network.both_ways(one, other))

    def live(self) -> list[Host]:
        """Return the members whose processes run."""
        return [host for host in self.hosts.values() if host.up and not host.removed]

    def rarely(self, probability: float) -> bool:
        """Throw a die; never after healing."""
        return not self.healed and self.time.chance.random() < probability

    def repeat(self, every_s: float, act: Callable[[], None]) -> None:
        """Do `act` again and again."""

        def again() -> None:
            act()
            self.time.after(every_s, again)

        self.time.after(every_s * self.time.chance.random(), again)

    def ask(
        self,
        me: Host,
        peer: str,
        question: Callable[[Host], T | None],
        answered: Callable[[T | None], None],
        within_s: float,
    ) -> None:
        """Let `question` happen at `peer`; `answered` gets its answer once, None for none.

        A machine that is down refuses at once; one that hangs or is cut off says nothing."""
        life, open_ = me.life, [True]

        def settle(answer: T | None) -> None:
            if open_[0] and me.life == life:
                open_[0] = False
                answered(answer)

        def arrive() -> None:
            host = self.hosts[peer]
            if host.condition is Condition.DOWN:
                self.network.send(peer, me.name, lambda: me.run(lambda: settle(None)))
            else:
                host.run(reply)

        def reply() -> None:
            answer = question(self.hosts[peer]) if self._lets_in(peer, me.name) else None
            self.network.send(peer, me.name, lambda: me.run(lambda: settle(answer)))

        self.network.send(me.name, peer, arrive)
        me.after(within_s, lambda: settle(None))

    def _lets_in(self, peer: str, name: str) -> bool:
        return peer == name or self.admits(self.hosts[peer], name)
