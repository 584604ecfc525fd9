"""The deciding code that a simulated fleet drives, in one place, so that a mistake can be planted.

Each method is what the programs of a machine do with the pure code: gather the facts, ask, obey.
Nothing here decides by itself.
"""

from collections.abc import Mapping
from typing import cast

from kythera.distribute import follower
from kythera.distribute.batch import Stretch
from kythera.distribute.copy import Copy
from kythera.distribute.core_finder import FORGET_S
from kythera.distribute.cores import log_candidates, next_address
from kythera.distribute.direct import DirectLog, Followed, Readable
from kythera.distribute.heart import Heart
from kythera.distribute.relay import Caller, Relay, RelayLog
from kythera.distribute.sources import Chooser, Facts, Source, candidates, core_names
from kythera.model.limits import Limits
from kythera.model.records import Machine
from kythera.sim.fleet_copy import FleetCopy
from kythera.sim.fleet_machine import Host


class Decisions:
    """The real ones."""

    # -- whom to follow, and what to take from it --------------------------------------------------

    def facts(self, host: Host) -> Facts:
        """Return what a machine believes when it chooses whom to follow."""
        catalog = host.catalog()
        machines = tuple(catalog.machines())
        return Facts(
            me=self.me(host),
            machines=machines,
            core=core_names(machines, catalog.core()),
            silent=frozenset(host.silent),
        )

    def me(self, host: Host) -> Machine:
        """Return what a machine believes of itself."""
        return host.catalog().machine(host.name) or host.record

    def choose(self, chooser: Chooser, facts: Facts, now: float) -> Source:
        """Return whom to follow now."""
        return chooser.choose(facts, now)

    def better(self, chooser: Chooser, facts: Facts, current: Source, now: float) -> Source | None:
        """Return whom to follow instead of the present source, if there is somebody better."""
        return chooser.better(facts, current, now)

    def candidates(self, facts: Facts) -> tuple[Source, ...]:
        """Return the sources a machine may follow, best first."""
        return candidates(facts)

    def direct(self, log: Readable) -> Followed:
        """Return the log as a source."""
        return DirectLog(log)

    def relayed(self, client: Caller, peer: str, limits: Limits) -> Followed:
        """Return another machine's copy as a source."""
        return RelayLog(client, peer, "", limits)

    def apply(self, copy: FleetCopy, stretch: Stretch) -> None:
        """Take a stretch into the copy."""
        follower._apply(cast("Copy", copy), stretch)

    # -- serving others ----------------------------------------------------------------------------

    def refuse(self, relay: Relay, after_seq: int) -> None:
        """Raise NotWhole or LogPruned when a follower cannot be served from this copy."""
        relay.refuse(after_seq)

    def serve(self, relay: Relay, seq: int) -> tuple[int, bytes]:
        """Return the next frame after `seq`, and how far it goes."""
        return relay.make(seq)

    def remembered(self, relay: Relay, generation: int, after_seq: int) -> bool:
        """Tell whether what was just read from a copy has no gap."""
        return relay.remembered(generation, after_seq)

    # -- the log -----------------------------------------------------------------------------------

    def mark(self, call: str, tries: int) -> str:
        """Return the message id of a write: the same however often it is tried."""
        return call

    def core_to_ask(self, host: Host, failed_at: Mapping[str, float]) -> str:
        """Return whom to ask for the log now (`core_finder.CoreFinder`)."""
        now = host.monotonic()
        known = log_candidates(host.catalog(), host.membership, host.name)
        failed = {name: at for name, at in failed_at.items() if now - at < FORGET_S}
        found = next_address(known, failed)
        return host.name if found is None else found.name

    def beats(self, heart: Heart, cores: tuple[str, ...]) -> bool:
        """Tell whether a machine is to write a heartbeat now."""
        return heart.is_due(cores)

    def beat_guard(self, heart: Heart) -> int | None:
        """Return over which heartbeat the next one is written."""
        return heart._seq
