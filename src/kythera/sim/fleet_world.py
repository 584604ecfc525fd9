"""One seeded history of a fleet: deploys, tails, deletions; cuts, losses, crashes, hangs, clocks.

First a phase with faults, in which safety is checked at every step; then everything heals, and
within a bounded time the fleet must be one again. A violation carries the seed that replays it:
`python -m kythera.sim --fleet --seed N`.
"""

from dataclasses import dataclass, field

from kythera.model.limits import Limits
from kythera.model.records import Account, Core, Machine, encode
from kythera.sim.fleet_checks import CopyChecks, WriteChecks
from kythera.sim.fleet_core import Cores
from kythera.sim.fleet_decisions import Decisions
from kythera.sim.fleet_faults import Faults, Mix
from kythera.sim.fleet_follow import Followers
from kythera.sim.fleet_ground import Fleet
from kythera.sim.fleet_log import Write
from kythera.sim.fleet_machine import Host
from kythera.sim.fleet_serve import Servers
from kythera.sim.fleet_writers import ACCOUNT, Writers
from kythera.sim.machine import Virtual

LIMITS = Limits(
    source_silent_ms_max=2_500,
    source_stalled_ms_max=5_000,
    source_rest_ms_min=300,
    source_rest_ms_max=2_000,
    batch_bytes_max=1_500,
    tombstones_kept_s=5.0,
)
FAULTS_S, HEAL_S = 20.0, 14.0
LAG_S_MAX = 3.0


@dataclass
class FleetWorld:
    """A fleet, what goes wrong in it, and what must hold."""

    seed: int
    decisions: Decisions = field(default_factory=Decisions)

    def __post_init__(self) -> None:
        """Draw the world from its seed."""
        time = Virtual(self.seed)
        machines, cores = draw_fleet(time)
        self.fleet = fleet = Fleet.of(time, self.seed, machines, cores)
        self.copies, self.writes = CopyChecks(fleet), WriteChecks(fleet)
        self.servers = Servers(fleet, self.decisions, LIMITS)
        self.followers = Followers(fleet, self.decisions, self.servers, self.copies, LIMITS)
        self.cores = Cores(fleet, self.decisions, self.servers, LIMITS)
        self.writers = Writers(fleet, self.decisions, self.servers, self.writes, self._replicate)
        mix = Mix.swarm(time.chance.random)
        self.faults = Faults(fleet, mix, self._started, self._set_back)
        self._found(machines, cores)

    async def _replicate(self, host: Host, blobs: dict[str, bytes]) -> None:
        host.blobs.update(blobs)

    def _found(self, machines: list[Machine], cores: list[str]) -> None:
        """Write what a fleet begins with."""
        log = self.fleet.log
        log.elect()
        account = Account(id=ACCOUNT, name="a", subdomain="a")
        for record in (account, *machines, Core(machines=tuple(cores))):
            mark = f"found/{record.key()}"
            log.append(Write(record.key(), encode(record), None, mark, mark))

    def run(self) -> None:
        """Live through both phases."""
        try:
            self._live()
        finally:
            for host in self.fleet.hosts.values():
                host.end_tasks()

    def _live(self) -> None:
        fleet = self.fleet
        for host in fleet.hosts.values():
            self._started(host)
        fleet.repeat(0.5, self.faults.strike)
        fleet.repeat(3.0, self.faults.back_up)
        fleet.repeat(0.5, self.cores.lead)
        fleet.repeat(0.5, self.writers.operate)
        self.faults.begin()
        self._until(FAULTS_S)
        self.faults.end()
        self._until(FAULTS_S + HEAL_S)
        self._at_rest()

    def _until(self, end: float) -> None:
        time = self.fleet.time
        while time.peek() < end:
            time.step()

    def _started(self, host: Host) -> None:
        self.followers.begin(host)
        self.cores.begin(host)

    def _set_back(self, host: Host) -> None:
        self.copies.replaced(host, set_back=True)

    def _at_rest(self) -> None:
        """After healing the fleet is one again."""
        fleet = self.fleet
        recent = fleet.time.now - LAG_S_MAX
        due = sum(1 for at in fleet.log.given_at if at < recent)
        for host in fleet.live():
            self.copies.whole(host)
            if host.copy.applied_seq() < due:
                fleet.violation(f"{host.name} is at {host.copy.applied_seq()}, not yet at {due}")
        self.writes.once()


def draw_fleet(time: Virtual) -> tuple[list[Machine], list[str]]:
    """Return a fleet's machines and who of them holds the log."""
    chance = time.chance
    sites = [f"s{n}" for n in range(chance.choice((1, 2, 2, 3)))]
    names = [f"m{n}" for n in range(chance.randint(3, 7))]
    machines = [
        Machine(name=name, site=sites[n % len(sites)], region="r", mesh=f"{name}:1")
        for n, name in enumerate(names)
    ]
    count = chance.choice((1, 3)) if len(names) > 3 else 1
    near = sorted(machines, key=lambda machine: machine.site)
    return machines, [machine.name for machine in near[:count]]
