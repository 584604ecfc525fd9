"""The deciding code that a simulated fleet drives, in one place, so that a mistake can be planted.

Each method is what the programs of a machine do with the pure code: gather the facts, ask, obey.
Nothing here decides by itself.
"""

import hashlib
from collections.abc import Mapping
from typing import cast

from kythera.distribute import evict, follower, moving
from kythera.distribute.batch import Stretch
from kythera.distribute.copy import Copy
from kythera.distribute.core_finder import FORGET_S
from kythera.distribute.cores import log_candidates, next_address, strangers
from kythera.distribute.direct import DirectLog, Followed, Readable
from kythera.distribute.heart import Heart
from kythera.distribute.nearness import likely_holders
from kythera.distribute.relay import Caller, Relay, RelayLog
from kythera.distribute.sources import Chooser, Facts, Source, candidates
from kythera.model.catalog import Name
from kythera.model.limits import Limits
from kythera.model.records import Core, Machine
from kythera.route.elsewhere import Situation
from kythera.route.mesh import Where
from kythera.sim.fleet_copy import FleetCopy
from kythera.sim.fleet_machine import Host
from kythera.sim.fleet_place import Place


class Decisions:
    """The real ones."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._places: dict[str, Place] = {}

    # -- whom to follow, and what to take from it --------------------------------------------------

    def place(self, host: Host) -> Place:
        """Return a machine's place among the others, as its records say now."""
        place = self._places.get(host.name)
        if place is None or place.life != host.life:
            place = self._places[host.name] = Place(host, self._limits)
        return place.look()

    def me(self, host: Host) -> Machine:
        """Return what a machine believes of itself."""
        return self.place(host).here()

    def facts(self, host: Host) -> Facts:
        """Return what a machine believes when it chooses whom to follow."""
        return self.place(host).facts()

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

    def core_to_ask(self, host: Host, failed_at: Mapping[str, float], tries: int) -> str:
        """Return whom to ask for the log now, as `core_finder.CoreFinder` does."""
        now = host.monotonic()
        known = log_candidates(host.catalog(), host.membership, host.name)
        failed = {name: at for name, at in failed_at.items() if now - at < FORGET_S}
        found = next_address(known, failed)
        if tries % 2 and (found is None or found.name in failed):
            found = next_address(strangers(host.catalog(), known, host.name), failed_at) or found
        return host.name if found is None else found.name

    def beats(self, heart: Heart, cores: tuple[str, ...]) -> bool:
        """Tell whether a machine is to write a heartbeat now."""
        return heart.is_due(cores)

    def beat_guard(self, heart: Heart) -> int | None:
        """Return over which heartbeat the next one is written."""
        return heart._seq

    def drives(self, core: Core, me: str, waited_ms: float) -> bool:
        """Tell whether a machine is to bring a move of the log on."""
        return moving.drives(core, me, waited_ms)

    def next_step(self, facts: moving.Facts) -> moving.Step:
        """Return what comes next in a move of the log."""
        return moving.next_step(facts)

    # -- the door for other machines ---------------------------------------------------------------

    def admits(self, host: Host, name: str) -> bool:
        """Tell whether a machine's mesh door lets another in."""
        return name in self.place(host).members()

    # -- visitors ----------------------------------------------------------------------------------

    def where(self, place: Place, situation: Situation, now: float) -> dict[Name, Where]:
        """Return who serves each worker's visitors that come to a machine."""
        return place.elsewhere.decide(situation, now)

    def sends_on(self, place: Place, name: Name) -> bool:
        """Tell whether a request that was forwarded is forwarded again: the door for other
        machines' requests knows no way to another machine."""
        return False

    # -- code --------------------------------------------------------------------------------------

    def genuine(self, digest: str, data: bytes) -> bool:
        """Tell whether bytes are what their name says."""
        return hashlib.sha256(data).hexdigest() == digest

    def holders(self, host: Host, digest: str) -> list[Machine]:
        """Return whom to ask for a blob, the likeliest first."""
        place = self.place(host)
        return likely_holders(place.machines(), place.here(), digest, place.core_names())

    def evict(self, facts: evict.Facts, seen: Mapping[str, evict.Seen]) -> evict.Decision:
        """Return which blobs a machine lets go of."""
        return evict.decide(facts, seen)
