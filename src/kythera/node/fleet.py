"""The fleet as this machine's agent sees it: records in, what each part needs out.

Promises: a machine that knows nothing of others, or has lost its records, behaves as a fleet of
one; everything here is derived from the catalogue, the membership file and the links file, so an
agent that starts anew comes to the same. It reaches nobody itself.
"""

from collections.abc import Callable
from functools import partial

import anyio

from kythera.distribute import cores, membership
from kythera.distribute.direct import DirectLog, Followed, Readable
from kythera.distribute.lag import Lag, LagMeter
from kythera.distribute.mesh import Directory, MeshClient, PeerUnreachable
from kythera.distribute.nearness import near
from kythera.distribute.relay import RelayLog
from kythera.distribute.remembered import remembered_core
from kythera.distribute.sources import Facts, Source, candidates, core_names
from kythera.ground.clock import Clock
from kythera.ground.layout import Layout
from kythera.model.catalog import Catalog
from kythera.model.errors import SetupError
from kythera.model.membership import Membership
from kythera.model.platform import Platform
from kythera.model.records import Core, Machine
from kythera.node.status import MachineFacts
from kythera.route.mesh import PeerDoor, Peers, Tunnel

SHOW_S = 0.5
FRESH_MS = 10_000.0
ALONE = Membership(founder=True)


class Fleet:
    """Answers questions about this machine's place among the others."""

    def __init__(self, layout: Layout, platform: Platform, catalog: Catalog, clock: Clock) -> None:
        self.me = platform.machine
        self.lag = LagMeter()
        self.tunnels: tuple[cores.Tunnel, ...] = ()
        """What the servers of the log on this machine need (`log_servers`)."""
        self.overloaded = False
        self._layout = layout
        self._platform = platform
        self.catalog = catalog
        self._clock = clock
        self._directory = Directory(layout)
        self._member: Membership | None = None

    # -- who is there --------------------------------------------------------------------------

    def membership(self) -> Membership:
        """Return how this machine came here; it never changes back to nothing."""
        if self._member is None:
            self._member = membership.read(self._layout)
        return self._member or ALONE

    def here(self) -> Machine:
        """Return this machine as recorded, or as it was started while it is not."""
        recorded = self.catalog.machine(self.me)
        return recorded or Machine(
            name=self.me,
            site=self._platform.site,
            region=self._platform.region,
            world=self._platform.world,
        )

    def machines(self) -> list[Machine]:
        """Return all machines of the fleet, this one too once it is recorded."""
        return self.catalog.machines()

    def core(self) -> Core | None:
        """Return who holds the log, as far as this machine knows."""
        remembered = remembered_core(self._layout)
        return cores.core_of(self.catalog, self.membership(), self.me, remembered)

    def core_names(self) -> frozenset[str]:
        """Return the names of those who hold the log."""
        core = self.core()
        return frozenset(core.machines) if core is not None else frozenset()

    def is_core(self) -> bool:
        """Tell whether this machine holds the log."""
        return self.me in self.core_names()

    def is_removed(self) -> bool:
        """Tell whether the fleet has gone on without this machine: others are there, and it is
        not."""
        names = [machine.name for machine in self.machines()]
        return bool(names) and self.me not in names

    def is_draining(self) -> bool:
        """Tell whether this machine hands its visitors to others."""
        return self.here().state == "draining"

    # -- for the front door --------------------------------------------------------------------

    def peers(self) -> Peers:
        """Return the others as the front door needs them."""
        here = self.here()
        doors = [] if self.is_removed() else self._others()
        return Peers(
            me=self.me,
            # Who was removed serves on as well as it can, and wants nobody new.
            draining=self.is_draining() or self.is_removed(),
            overloaded=self.overloaded,
            machines=tuple(
                PeerDoor(
                    name=machine.name,
                    address=self._dialled(machine.name, machine.mesh),
                    site=machine.site,
                    near=int(near(machine, here)),
                )
                for machine in doors
            ),
        )

    def _others(self) -> list[Machine]:
        """Return the other machines; while this one has no records, the core machines it was told.

        Core machines that all lost their copies must let each other in: the log they hold together
        is what makes new ones."""
        told = [Machine(name=p.name, mesh=p.mesh, site="") for p in self.membership().peers]
        return [machine for machine in self.machines() or told if machine.name != self.me]

    def _dialled(self, name: str, recorded: str) -> str:
        try:
            return self._directory.address(name, recorded)
        except (PeerUnreachable, SetupError):
            return ""

    def front_tunnels(self) -> tuple[Tunnel, ...]:
        """Return the tunnels of the log's servers as the front door makes them."""
        return tuple(
            Tunnel(
                name=tunnel.name,
                listen=tunnel.listen,
                peer=tunnel.peer,
                address=self._dialled(tunnel.peer, tunnel.address),
                service=tunnel.service,
            )
            for tunnel in self.tunnels
        )

    # -- for the follower ----------------------------------------------------------------------

    def facts(self, silent: frozenset[str] = frozenset()) -> Facts:
        """Return what decides whom to follow."""
        return Facts(
            me=self.here(),
            machines=tuple(self.machines()),
            core=core_names(self.machines(), self.core()),
            silent=silent,
        )

    def is_relay(self) -> bool:
        """Tell whether others of this site would follow this machine: it is not core, it follows
        the log itself, and it is not alone in its site."""
        facts = self.facts()
        if self.me in facts.core or candidates(facts) != (Source(),):
            return False
        others = [m for m in facts.machines if m.site == facts.me.site and m.name != self.me]
        return bool(others) and not any(m.name in facts.core for m in others)

    def opener(
        self, log: Readable, client: MeshClient, platform: Platform
    ) -> Callable[[Source], Followed]:
        """Return what opens a source for the follower."""
        return partial(self._open, log, client, platform)

    def _open(
        self, log: Readable, client: MeshClient, platform: Platform, source: Source
    ) -> Followed:
        if not source.relay:
            return DirectLog(log)
        machine = self.catalog.machine(source.relay)
        recorded = machine.mesh if machine is not None else ""
        return RelayLog(client, source.relay, recorded, platform.limits)

    # -- for status ----------------------------------------------------------------------------

    def is_fresh(self) -> bool:
        """Tell whether the records here are about as new as the log: a lone machine's are."""
        if len(self.machines()) < 2:
            return True
        lag = self._lag_now()
        return lag.heartbeat_age_ms is not None and lag.heartbeat_age_ms < FRESH_MS

    def _lag_now(self) -> Lag:
        return self.lag.at(
            monotonic_ms=self._clock.monotonic() * 1000, wall_ms=self._clock.now() * 1000
        )

    def heard(self) -> None:
        """Look whether a heartbeat was applied."""
        beat = self.catalog.heartbeat()
        if beat is not None:
            self.lag.beat(beat, monotonic_ms=self._clock.monotonic() * 1000)

    async def show(self, facts: MachineFacts) -> None:
        """Keep what an operator sees current, for ever."""
        while True:
            self.show_now(facts)
            await anyio.sleep(SHOW_S)

    def show_now(self, facts: MachineFacts) -> None:
        """Write down how it stands."""
        lag = self._lag_now()
        facts.core = self.is_core()
        facts.state = "removed" if self.is_removed() else self.here().state
        facts.relay = self.is_relay()
        alone = len(self.machines()) < 2
        facts.lag_ms = None if alone or lag.lag_ms is None else round(lag.lag_ms)
        facts.clock_offset_ms = None if lag.clock_offset_ms is None else round(lag.clock_offset_ms)
