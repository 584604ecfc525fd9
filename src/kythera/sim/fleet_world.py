"""One seeded history of a fleet: deploys, tails, deletions; cuts, losses, crashes, hangs, clocks.

First a phase with faults, in which safety is checked at every step; then everything heals, and
within a bounded time the fleet must be one again. A violation carries the seed that replays it:
`python -m kythera.sim --fleet --seed N`.
"""

from dataclasses import dataclass, field

from kythera.distribute.sources import LOG, Source
from kythera.model.limits import Limits
from kythera.model.records import Account, Core, Machine, encode
from kythera.sim.fleet_blobs import FleetBlobs
from kythera.sim.fleet_checks import CopyChecks, WriteChecks
from kythera.sim.fleet_core import Cores
from kythera.sim.fleet_decisions import Decisions
from kythera.sim.fleet_doors import Doors
from kythera.sim.fleet_faults import Faults, Mix
from kythera.sim.fleet_follow import Followers
from kythera.sim.fleet_ground import Fleet
from kythera.sim.fleet_log import Write
from kythera.sim.fleet_machine import Host
from kythera.sim.fleet_operators import Operators
from kythera.sim.fleet_serve import Servers
from kythera.sim.fleet_writers import ACCOUNT, Writers
from kythera.sim.machine import Virtual

LIMITS = Limits(
    source_silent_ms_max=2_500,
    source_stalled_ms_max=3_500,
    source_rest_ms_min=300,
    source_rest_ms_max=3_000,
    batch_bytes_max=1_500,
    tombstones_kept_s=6.0,
    rare_window_s=4.0,
    overloaded_s=1.0,
    relieved_s=2.0,
    failing_away_s=3.0,
    blob_bytes_max=150,
    blob_grace_s=17.0,
)
FAULTS_S, HEAL_S = 18.0, 15.0
LAG_S_MAX = 3.0
JOINED_SHARE = 0.8
"""So many machines know the fleet at the beginning; the others have just joined it."""


@dataclass
class FleetWorld:
    """A fleet, what goes wrong in it, and what must hold."""

    seed: int
    decisions: Decisions = field(default_factory=lambda: Decisions(LIMITS))

    def __post_init__(self) -> None:
        """Draw the world from its seed."""
        time = Virtual(self.seed)
        machines, cores = draw_fleet(time)
        self.fleet = fleet = Fleet.of(time, self.seed, machines, cores)
        self.copies, self.writes = CopyChecks(fleet), WriteChecks(fleet)
        self.servers = Servers(fleet, self.decisions, LIMITS)
        self.followers = Followers(fleet, self.decisions, self.servers, self.copies, LIMITS)
        self.cores = Cores(fleet, self.decisions, self.servers, LIMITS)
        self.blobs = FleetBlobs(fleet, self.decisions, LIMITS)
        self.doors = Doors(fleet, self.decisions, self.blobs, LIMITS)
        self.writers = Writers(
            fleet, self.decisions, self.servers, self.writes, self.blobs.replicate
        )
        fleet.admits = self.decisions.admits
        mix = Mix.swarm(time.chance.random)
        self.faults = Faults(fleet, mix, self._started, self._set_back)
        self.operators = Operators(fleet, self.decisions, self.writers, mix)
        self._found(machines, cores)

    def _found(self, machines: list[Machine], cores: list[str]) -> None:
        """Write what a fleet begins with."""
        log = self.fleet.log
        log.elect()
        account = Account(id=ACCOUNT, name="a", subdomain="a")
        for record in (account, *machines, Core(machines=tuple(cores))):
            mark = f"found/{record.key()}"
            log.append(Write(record.key(), encode(record), None, mark, mark))
        for host in self.fleet.hosts.values():
            if host.name in cores or self.fleet.time.chance.random() < JOINED_SHARE:
                host.copy.apply(log.history)
                host.copy.mark_whole()
                self.copies.applied(host, log.history)

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
        fleet.repeat(0.5, self.operators.act)
        fleet.repeat(0.25, self.doors.visit)
        self.faults.begin()
        self._until(FAULTS_S)
        self.faults.end()
        self._until(FAULTS_S + HEAL_S - LAG_S_MAX)
        self.doors.due = True
        self._until(FAULTS_S + HEAL_S)
        self._at_rest()

    def _until(self, end: float) -> None:
        time = self.fleet.time
        while time.peek() < end:
            time.step()

    def _started(self, host: Host) -> None:
        self.followers.begin(host)
        self.cores.begin(host)
        self.blobs.begin(host)
        self.doors.begin(host)
        self.operators.begin(host)

    def _set_back(self, host: Host) -> None:
        self.copies.replaced(host, set_back=True)

    def _at_rest(self) -> None:
        """After healing the fleet is one again."""
        fleet = self.fleet
        recent = fleet.time.now - LAG_S_MAX
        due = sum(1 for at in fleet.log.given_at if at < recent)
        for host in fleet.live():
            if self._never_heard(host):
                continue
            self.copies.whole(host)
            if host.copy.applied_seq() < due:
                fleet.violation(f"{host.name} is at {host.copy.applied_seq()}, not yet at {due}")
        self._check_sources()
        self.writes.once()
        self.writes.newest_serve()

    def _never_heard(self, host: Host) -> bool:
        """Tell whether a machine has no record yet, and nobody whom it was told of when it joined
        holds the log any more: it knows nobody else."""
        told = {peer.name for peer in host.membership.peers}
        return host.copy.applied_seq() == 0 and not told & set(self.fleet.log.cores)

    def _check_sources(self) -> None:
        """In a site without a core machine one machine follows the log, the others follow it."""
        fleet = self.fleet
        heard = [host for host in fleet.live() if not self._never_heard(host)]
        active = [host for host in heard if self.decisions.me(host).state == "active"]
        cores = {fleet.hosts[name].site for name in fleet.log.cores}
        for site in {host.site for host in active} - cores:
            here = {host.name: self.followers.of[host.name].source for host in active}
            sources = {name: here[name] for name in here if fleet.hosts[name].site == site}
            relays = [name for name, source in sources.items() if source == LOG]
            if len(relays) != 1:
                fleet.violation(f"{site} has the relays {relays}: {sources}")
            others = {source for source in sources.values() if source != LOG}
            if others - {Source(relays[0])}:
                fleet.violation(f"not all of {site} follow {relays[0]}: {sources}")


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
