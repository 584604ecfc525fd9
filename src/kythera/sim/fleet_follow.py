"""How a simulated machine follows the log: the loop of `distribute.follower` on virtual time.

Whom it follows, what it accepts, when it takes a snapshot, how it reads a relay or the log: the
real code. What is simulated is the waiting: every connection may be cut, every answer may be late.
"""

import contextlib
from dataclasses import dataclass, field

from kythera.distribute.batch import Stretch
from kythera.distribute.direct import Followed
from kythera.distribute.follower import Patience
from kythera.distribute.log import LogBehind, LogPruned
from kythera.distribute.relay import SourceEnded
from kythera.distribute.sources import LOG, Chooser, Source
from kythera.model.errors import StoreUnavailable
from kythera.model.limits import Limits
from kythera.sim.fleet_checks import CopyChecks
from kythera.sim.fleet_copy import FleetCopy
from kythera.sim.fleet_decisions import Decisions
from kythera.sim.fleet_ground import Fleet
from kythera.sim.fleet_machine import Host
from kythera.sim.fleet_reach import ReachedLog, RelayClient
from kythera.sim.fleet_serve import Servers
from kythera.sim.fleet_task import Task

LOOK_S, RETRY_S, PROBE_S = 1.0, 0.2, 2.5


@dataclass
class Session:
    """One source being followed, from choosing to failure."""

    source: Source
    began: float
    patience: Patience | None
    task: Task | None = None


@dataclass
class Follow:
    """A machine's follower, in one of its lives."""

    chooser: Chooser
    log: ReachedLog
    session: Session | None = None
    source: Source | None = None
    """Who has given something in this session."""
    probing: bool = False
    snapshot: bool = False
    """One is being taken."""
    stalled: set[Source] = field(default_factory=set)


@dataclass
class Followers:
    """All followers of the fleet."""

    fleet: Fleet
    decisions: Decisions
    servers: Servers
    checks: CopyChecks
    limits: Limits
    of: dict[str, Follow] = field(default_factory=dict)

    def begin(self, host: Host) -> None:
        """A machine's agent starts."""
        log = ReachedLog(self.fleet, self.decisions, self.servers, host)
        self.of[host.name] = Follow(Chooser(self.limits), log)
        self._choose(host)
        host.after(LOOK_S, lambda: self._look(host))

    # -- choosing ----------------------------------------------------------------------------------

    def _choose(self, host: Host) -> None:
        follow, now = self.of[host.name], self.fleet.time.now
        source = self.decisions.choose(follow.chooser, self.decisions.facts(host), now)
        patience = Patience(self.limits, host) if source != LOG else None
        session = Session(source, now, patience)
        follow.session = session
        session.task = Task(
            host,
            self._follow(host, session),
            failed=lambda error: self._failed(host, session, error),
        )
        session.task.start()

    def _failed(self, host: Host, session: Session, error: Exception) -> None:
        if not isinstance(error, StoreUnavailable):
            raise error
        follow, now = self.of[host.name], self.fleet.time.now
        if follow.session is not session:
            return
        self.fleet.tell(f"{host.name} leaves {session.source}: {error}")
        follow.session, follow.source = None, None
        follow.chooser.failed(session.source, now, held_s=now - session.began)
        host.after(RETRY_S, lambda: self._choose(host))

    def _look(self, host: Host) -> None:
        """Each second: is the source silent, is there a better one?"""
        host.after(LOOK_S, lambda: self._look(host))
        follow = self.of[host.name]
        session = follow.session
        if session is None:
            return
        if session.patience is not None and session.patience.left_s() <= 0:
            self._drop(session)
            follow.stalled.add(session.source)
            self._failed(host, session, SourceEnded("nothing new for too long."))
            return
        facts = self.decisions.facts(host)
        now = self.fleet.time.now
        found = self.decisions.better(follow.chooser, facts, session.source, now)
        if found is not None:
            self._probe(host, session, found)
        elif session.source not in self.decisions.candidates(facts):
            self._leave(host, session)

    def _drop(self, session: Session) -> None:
        if session.task is not None:
            session.task.stop()

    def _leave(self, host: Host, session: Session) -> None:
        if self.of[host.name].session is session:
            self._drop(session)
            self._choose(host)

    def _probe(self, host: Host, session: Session, found: Source) -> None:
        """Leave the session only for one that answers."""
        follow, seq = self.of[host.name], host.copy.applied_seq()
        wanted = seq + (1 if found in follow.stalled else 0)
        if follow.probing:
            return
        follow.probing = True
        settled: list[bool] = []

        def settle(*, good: bool) -> None:
            if settled:
                return
            settled.append(good)
            follow.probing = False
            if good:
                follow.chooser.answered(found)
                follow.stalled.discard(found)
                self._leave(host, session)
            elif not follow.snapshot:
                follow.chooser.failed(found, self.fleet.time.now)

        async def ask() -> None:
            async with contextlib.aclosing(self._open(host, found).stretches(seq)) as stretches:
                async for stretch in stretches:
                    if stretch.newest >= wanted:
                        settle(good=True)
                        return

        def refused(error: Exception) -> None:
            if not isinstance(error, StoreUnavailable):
                raise error
            settle(good=False)

        task = Task(host, ask(), failed=refused).start()

        def too_late() -> None:
            task.stop()
            settle(good=False)

        host.after(PROBE_S, too_late)

    def _open(self, host: Host, source: Source) -> Followed:
        if source == LOG:
            return self.decisions.direct(self.of[host.name].log)
        silent_s = self.limits.source_silent_ms_max / 1000
        client = RelayClient(self.fleet, self.servers, host, silent_s)
        return self.decisions.relayed(client, source.relay, self.limits)

    # -- taking ------------------------------------------------------------------------------------

    async def _follow(self, host: Host, session: Session) -> None:
        opened = self._open(host, session.source)
        try:
            await self._take_all(host, session, opened)
        except LogPruned as error:
            self.fleet.tell(f"{host.name} takes a snapshot from {session.source}: {error}")
            session.patience = None
            follow = self.of[host.name]
            follow.snapshot = True
            try:
                await self._snapshot(host, opened)
            finally:
                follow.snapshot = False
            host.after(RETRY_S, lambda: self._leave(host, session))

    async def _take_all(self, host: Host, session: Session, opened: Followed) -> None:
        follow, copy = self.of[host.name], host.copy
        async with contextlib.aclosing(opened.stretches(copy.applied_seq())) as stretches:
            async for stretch in stretches:
                if session.patience is not None:
                    session.patience.note(stretch.newest, copy.applied_seq())
                follow.source = session.source
                self._take(host, stretch)
                if copy.applied_seq() >= stretch.newest and not copy.is_whole():
                    copy.mark_whole()
        raise SourceEnded("its stream ended.")

    def _take(self, host: Host, stretch: Stretch) -> None:
        if stretch.to_seq > host.copy.applied_seq():
            self.decisions.apply(host.copy, stretch)
            self.checks.applied(host, stretch.entries)

    async def _snapshot(self, host: Host, opened: Followed) -> None:
        """Build a copy beside this one and swap it in, as `distribute.snapshot` does."""
        try:
            await self._fill(host, opened)
        except (LogPruned, LogBehind):
            host.begun = FleetCopy()
            await self._fill(host, opened)
        begun, host.begun = host.begun, FleetCopy()
        if begun.applied_seq() < host.copy.applied_seq():
            raise StoreUnavailable("the snapshot ends before what is applied.")
        host.copy.replace(begun.rows.values(), begun.applied_seq())
        host.unfold()
        self.checks.replaced(host)

    async def _fill(self, host: Host, opened: Followed) -> None:
        begun = host.begun
        async with contextlib.aclosing(opened.snapshot(begun.applied_seq())) as stretches:
            async for stretch in stretches:
                if stretch.to_seq > begun.applied_seq():
                    begun.apply(stretch.entries, stretch.to_seq)
