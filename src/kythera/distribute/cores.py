"""Who holds the log, whom to ask for it, who writes the heartbeat: decided here, from records.

Pure. The log lies with *epochs* of servers: each epoch has its own machines, stores and number, and
an epoch's machines never change. To hold the log elsewhere, the next epoch's servers start beside
the old ones and the records are copied (`moving`). One machine alone runs a server that stands
alone; three or five run a cluster, whose servers reach each other through `Tunnel`s.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kythera.distribute.nearness import nearest
from kythera.model.catalog import Catalog
from kythera.model.membership import Membership, Peer
from kythera.model.records import Core, Machine

FIRST_EPOCH = 1
SIZES = (1, 3, 5)
"""How many machines may hold the log: an even number survives no more losses than one less."""
ROUTE_SERVICES = ("route", "route-odd")
"""Where servers of even and odd epochs meet: two epochs may live side by side on one machine."""
TAKE_OVER_BEATS = 2
"""Heartbeats that must be missed before the next machine writes them, for each place in line."""


@dataclass(frozen=True)
class Tunnel:
    """A door on this machine's loopback that leads to a service of another machine.

    HAProxy listens at `listen` (`127.0.0.1:port`) and speaks mutual TLS to the machine `peer`,
    recorded at `address` (`host:port`, or "" where links or membership say it), with the server
    name of `service`. `name` is unique on this machine and plain (`[a-z0-9-]`)."""

    name: str
    listen: str
    peer: str
    address: str
    service: str


@dataclass(frozen=True)
class ServerPlan:
    """One server of the log that this machine is to run."""

    epoch: int
    machines: tuple[str, ...]
    """All machines of the epoch, this one among them."""

    @property
    def clustered(self) -> bool:
        """Tell whether it has others beside it."""
        return len(self.machines) > 1

    @property
    def name(self) -> str:
        """Return the name of its process on this machine."""
        return "nats" if self.epoch == FIRST_EPOCH else f"nats-{self.epoch}"

    @staticmethod
    def epoch_of(name: str) -> int:
        """Return the epoch of a process of that name; 0 when it is not a server of the log."""
        kind, _, number = name.partition("-")
        if kind != "nats" or not (number.isdigit() or name == kind):
            return 0
        return int(number or FIRST_EPOCH)

    @property
    def service(self) -> str:
        """Return where the epoch's servers reach each other on the mesh."""
        return ROUTE_SERVICES[self.epoch % 2]


def core_of(
    catalog: Catalog, membership: Membership | None, me: str, remembered: Core | None = None
) -> Core | None:
    """Return who holds the log, as far as this machine knows; None: not this one, and no more.

    What was `remembered` counts while the records do not say, or say something older (a copy that
    is being made anew). While nobody ever said so, the founder does: by the machines' records, or
    by its own memory of how it came here."""
    recorded = catalog.core()
    said = [core for core in (recorded, remembered) if core is not None]
    if said:
        return max(said, key=lambda core: (core.epoch, core.wanted_epoch))
    founders = [machine.name for machine in catalog.machines() if machine.core]
    if len(founders) == 1:
        return Core(machines=(founders[0],), epoch=FIRST_EPOCH)
    founder = membership is None or membership.founder
    return Core(machines=(me,), epoch=FIRST_EPOCH) if founder else None


def is_core(
    catalog: Catalog, membership: Membership | None, me: str, remembered: Core | None = None
) -> bool:
    """Tell whether this machine holds the log now."""
    core = core_of(catalog, membership, me, remembered)
    return core is not None and me in core.machines


def servers_wanted(core: Core | None, me: str) -> tuple[ServerPlan, ...]:
    """Return the servers this machine is to run, the newest epoch first.

    While the log moves there may be two; at all other times one, or none."""
    if core is None:
        return ()
    plans = []
    if core.wanted and me in core.wanted:
        plans.append(ServerPlan(core.wanted_epoch, core.wanted))
    if me in core.machines:
        plans.append(ServerPlan(core.epoch, core.machines))
    return tuple(plans)


def tunnels(
    plan: ServerPlan, me: str, ports: Mapping[str, int], catalog: Catalog
) -> tuple[Tunnel, ...]:
    """Return the doors through which this server reaches the others; `ports` by machine."""
    return tuple(
        Tunnel(
            name=f"log-{plan.epoch}-{peer}",
            listen=f"127.0.0.1:{ports[peer]}",
            peer=peer,
            address=_recorded(catalog, peer),
            service=plan.service,
        )
        for peer in sorted(plan.machines)
        if peer != me
    )


def _recorded(catalog: Catalog, name: str) -> str:
    machine = catalog.machine(name)
    return machine.mesh if machine is not None else ""


def log_candidates(
    catalog: Catalog, membership: Membership | None, me: str, remembered: Core | None = None
) -> tuple[Peer, ...]:
    """Return whom to ask for the log, the best first: this machine if it holds it, then the nearest.

    Those to whom it is moving come last: they hold it before anybody can have read so. `mesh` may
    be "" where nothing is recorded."""
    core = core_of(catalog, membership, me, remembered)
    if core is None:
        known = membership.peers if membership is not None else ()
        return tuple(peer for peer in known if peer.name != me)
    soon = [name for name in core.wanted if name not in core.machines]
    ordered = [*_by_nearness(core.machines, catalog, me), *_by_nearness(soon, catalog, me)]
    holders = {*core.machines, *core.wanted}
    own = [me] if me in holders else []
    recorded = [Peer(name=name, mesh=_recorded(catalog, name)) for name in (*own, *ordered)]
    told = membership.peers if membership is not None else ()
    forgotten = [peer for peer in told if peer.name not in holders and peer.name != me]
    return (*recorded, *forgotten)


def strangers(catalog: Catalog, candidates: Iterable[Peer], me: str) -> tuple[Peer, ...]:
    """Return the other machines of the fleet, the nearest first: one of them may hold the log since
    this machine last heard who does."""
    asked = {me, *(peer.name for peer in candidates)}
    names = [machine.name for machine in catalog.machines() if machine.name not in asked]
    ordered = _by_nearness(names, catalog, me)
    return tuple(Peer(name=name, mesh=_recorded(catalog, name)) for name in ordered)


def _by_nearness(names: Iterable[str], catalog: Catalog, me: str) -> list[str]:
    others = [name for name in names if name != me]
    here = catalog.machine(me) or Machine(name=me)
    machines = [catalog.machine(name) or Machine(name=name) for name in others]
    return [machine.name for machine in nearest(machines, here)]


def next_address(candidates: Sequence[Peer], failed_at: Mapping[str, float]) -> Peer | None:
    """Return whom to try now: the best of those that never failed, else who failed longest ago.

    `failed_at` has the moment of each one's last failure, by name; a success is forgotten there."""
    if not candidates:
        return None
    return min(candidates, key=lambda peer: failed_at.get(peer.name, float("-inf")))


def heartbeat_writer(
    machines: Sequence[str], writer: str, silent_ms: float, me: str, heartbeat_ms: int
) -> bool:
    """Tell whether `me` is to write a heartbeat now.

    `machines` hold the log, `writer` wrote the newest heartbeat (or ""), which reached this machine
    `silent_ms` ago by its own steady clock: nobody's calendar matters. The writer goes on; when
    it is silent the next in line (round the names in order) begins, then the one after it."""
    if me not in machines:
        return False
    line = sorted(machines)
    if writer in line:
        first = line.index(writer)
        line = line[first:] + line[:first]
    place = line.index(me)
    return silent_ms >= heartbeat_ms * (1 + TAKE_OVER_BEATS * place)
