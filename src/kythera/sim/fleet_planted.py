"""Mistakes put into a fleet on purpose: a checker that cannot fail proves nothing.

Each is the deciding code with one thing gone wrong; the simulation must find every one of them.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import msgspec

from kythera.distribute import evict
from kythera.distribute.batch import Batch, Frames, Stretch, frame
from kythera.distribute.direct import DirectLog, Followed, Readable
from kythera.distribute.heart import Heart
from kythera.distribute.log import Entry
from kythera.distribute.nearness import Near, near
from kythera.distribute.relay import PATH, Caller, Relay, RelayLog
from kythera.distribute.sources import LOG, Chooser, Facts, Source
from kythera.model.catalog import Name
from kythera.model.limits import MIB, Limits
from kythera.route.elsewhere import Situation
from kythera.route.mesh import Where
from kythera.sim.fleet_decisions import Decisions
from kythera.sim.fleet_machine import Host
from kythera.sim.fleet_place import Place


class RelaySkips(Decisions):
    """A relay that leaves out the first record of each long batch."""

    def serve(self, relay: Relay, seq: int) -> tuple[int, bytes]:
        """Say that the batch is whole all the same."""
        stretch = relay._copy.batch_after(seq, MIB)
        entries = stretch.entries[1:] if len(stretch.entries) > 2 else stretch.entries
        return stretch.to_seq, frame(seq, stretch.to_seq, entries)


class AppliesAnyBatch(Decisions):
    """A follower that takes a relay's batches as they come."""

    def relayed(self, client: Caller, peer: str, limits: Limits) -> Followed:
        """Read a stream without looking where each batch begins."""
        return _Careless(client, peer, "", limits)


class _Careless(RelayLog):
    async def stretches(
        self, after_seq: int, *, snapshot: bool = False
    ) -> AsyncGenerator[Stretch, None]:
        """Yield whatever comes."""
        frames = Frames(MIB)
        path = f"{PATH}?after={after_seq}{'&snapshot=1' if snapshot else ''}"
        async with self._client.stream(self._peer, "", "GET", path) as answer:
            if answer.status_code != 200:
                await self._refused(answer)
            async for piece in answer.aiter_raw():
                for body in frames.feed(piece):
                    batch = msgspec.msgpack.decode(body, type=Batch)
                    entries = msgspec.msgpack.decode(batch.records, type=list[Entry])
                    yield Stretch(entries, batch.to_seq, batch.to_seq)


class IgnoresTheHorizon(Decisions):
    """A follower that goes on after any absence."""

    def direct(self, log: Readable) -> Followed:
        """Read the log as if it remembered everything."""
        return _Blind(log)


class _Blind(DirectLog):
    async def stretches(self, after_seq: int) -> AsyncGenerator[Stretch, None]:
        """Yield what the log still has."""
        yield Stretch([], after_seq, await self._log.last_seq())
        async with aclosing(self._log.follow(after_seq)) as batches:
            async for batch in batches:
                if batch:
                    yield Stretch(batch, batch[-1].seq, batch[-1].seq)


class RelayForgets(Decisions):
    """A relay that serves anybody, whatever it has forgotten."""

    def refuse(self, relay: Relay, after_seq: int) -> None:
        """Refuse nobody."""

    def remembered(self, relay: Relay, generation: int, after_seq: int) -> bool:
        """Believe that it remembers."""
        return True


class RetriesAnew(Decisions):
    """A writer whose retry is a new message."""

    def mark(self, call: str, tries: int) -> str:
        """Return another id each time."""
        return f"{call}~{tries}"


class FollowsInCircles(Decisions):
    """A machine follows any other of its site."""

    def choose(self, chooser: Chooser, facts: Facts, now: float) -> Source:
        """Return the first neighbour that answers."""
        return next(iter(self.candidates(facts)))

    def better(self, chooser: Chooser, facts: Facts, current: Source, now: float) -> Source | None:
        """Be content."""
        return None

    def candidates(self, facts: Facts) -> tuple[Source, ...]:
        """Return all neighbours, whatever their standing."""
        if facts.me.name in facts.core:
            return (LOG,)
        site = (m.name for m in facts.machines if near(m, facts.me) is Near.SITE)
        others = (name for name in site if name != facts.me.name and name not in facts.silent)
        return (*(Source(name) for name in others), LOG)


class AllBeat(Decisions):
    """Every core machine writes the heartbeat, over whatever is there."""

    def beats(self, heart: Heart, cores: tuple[str, ...]) -> bool:
        """Take every moment for its own."""
        heart.is_due(cores)
        return heart._me in cores

    def beat_guard(self, heart: Heart) -> int | None:
        """Guard nothing."""
        return None


class ForwardsAgain(Decisions):
    """A front door that treats other machines' requests like its own visitors'."""

    def sends_on(self, place: Place, name: Name) -> bool:
        """Send on what is served elsewhere."""
        return place.where.get(name, "local") != "local"


class KeepsVisitors(Decisions):
    """A machine that serves its visitors itself, draining or not."""

    def where(self, place: Place, situation: Situation, now: float) -> dict[Name, Where]:
        """Return the same for all."""
        return dict.fromkeys(situation.workers, "local")


class AdmitsAnybody(Decisions):
    """A mesh door that any machine may enter that was ever let in."""

    def admits(self, host: Host, name: str) -> bool:
        """Let in whoever has a certificate."""
        return True


class RunsAnything(Decisions):
    """A machine that believes that bytes are what their name says."""

    def genuine(self, digest: str, data: bytes) -> bool:
        """Look at nothing."""
        return True


class CoreLetsGo(Decisions):
    """A core machine that makes room like any other."""

    def evict(self, facts: evict.Facts, seen: Mapping[str, evict.Seen]) -> evict.Decision:
        """Forget that it is core."""
        return super().evict(facts._replace(core=False), seen)


MISTAKES: tuple[type[Decisions], ...] = (
    RelaySkips,
    AppliesAnyBatch,
    IgnoresTheHorizon,
    RelayForgets,
    RetriesAnew,
    FollowsInCircles,
    AllBeat,
    ForwardsAgain,
    KeepsVisitors,
    AdmitsAnybody,
    RunsAnything,
    CoreLetsGo,
)
