"""A simulated machine's place among the others: `node.fleet` itself, without its files.

What it knows of the fleet, whom its mesh door lets in and whom it believes able comes from here.
"""

from pathlib import Path

from kythera.distribute.nearness import Near, near
from kythera.ground.layout import Layout
from kythera.model.catalog import Name
from kythera.model.limits import Limits
from kythera.model.membership import Membership
from kythera.model.platform import Platform
from kythera.node.fleet import Fleet as Knowledge
from kythera.route.elsewhere import Elsewhere, Situation
from kythera.route.mesh import Where
from kythera.route.plan import _member_rows
from kythera.sim.fleet_machine import Host

CHECKS_FAILED_MAX = 2


class Place(Knowledge):
    """One life of one machine."""

    def __init__(self, host: Host, limits: Limits) -> None:
        platform = Platform(account_id="a", machine=host.name, site=host.site, region="r")
        super().__init__(Layout(Path("nowhere")), platform, host.catalog(), host)
        self.host = host
        self.life = host.life
        self.elsewhere = Elsewhere(limits)
        self.where: dict[Name, Where] = {}
        self.failed_checks: dict[str, int] = {}
        self.leaving: set[str] = set()
        """Peers that have asked for nothing new."""
        self.served: dict[Name, int] = {}
        self.homed: dict[Name, list[float]] = {}
        """When visitors of a worker were sent to its home."""
        self._members: tuple[int, frozenset[str]] = (-1, frozenset())

    def membership(self) -> Membership:
        """Return how this machine came here."""
        return self.host.membership

    def _dialled(self, name: str, recorded: str) -> str:
        return recorded

    def look(self) -> "Place":
        """Read the records anew."""
        self.catalog = self.host.catalog()
        return self

    def members(self) -> frozenset[str]:
        """Return the names that the mesh door lets in."""
        applied = self.host.copy.applied_seq()
        if self._members[0] != applied:
            self._members = (applied, frozenset(_member_rows(self.look().peers())))
        return self._members[1]

    def able(self) -> list[str]:
        """Return the peers that answer and have asked for nothing else."""
        return [
            name
            for name, failed in self.failed_checks.items()
            if failed < CHECKS_FAILED_MAX and name not in self.leaving
        ]

    def situation(self, workers: frozenset[Name], failing: frozenset[Name]) -> Situation:
        """Return what decides who serves each worker, as the traffic loop gathers it."""
        here, able = self.here(), set(self.able())
        peers = [machine for machine in self.machines() if machine.name in able]
        return Situation(
            workers=workers,
            draining=self.is_draining(),
            cpu_share=0.99 if self.host.busy else 0.2,
            site_peers=sum(near(machine, here) is Near.SITE for machine in peers),
            peers=len(peers),
            failing=failing,
            served=dict(self.served),
            homed={name: len(times) for name, times in self.homed.items()},
        )
