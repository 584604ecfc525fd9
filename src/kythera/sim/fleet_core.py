"""What core machines do in a simulated fleet: elect a leader, write the heartbeat, prune the log.

The election is nats-server's and only sketched; who writes the heartbeat and what is pruned is
decided by the real code, each machine for itself, on what its own copy shows.
"""

import contextlib
import itertools
from dataclasses import dataclass, field
from typing import cast

from kythera.distribute.copy import Copy
from kythera.distribute.heart import Heart
from kythera.distribute.pruning import prune_once
from kythera.model.errors import Conflict, StoreUnavailable
from kythera.model.limits import Limits
from kythera.model.records import Heartbeat, encode
from kythera.sim.fleet_decisions import Decisions
from kythera.sim.fleet_ground import Fleet
from kythera.sim.fleet_machine import Host
from kythera.sim.fleet_reach import ReachedLog
from kythera.sim.fleet_serve import Servers
from kythera.sim.fleet_task import Task, pause

ELECTION_S = 1.5
BEAT_LOOK_S = 0.3
IDLE_S = 1.0
BEATS_SEEN_S = 6.0
TURNS_MAX = 4
"""Within BEATS_SEEN_S. One writer that falls silent makes one turn."""
PRUNE_S = 6.0


@dataclass
class Cores:
    """The core machines' own loops."""

    fleet: Fleet
    decisions: Decisions
    servers: Servers
    limits: Limits
    vacant_since: float | None = None
    beats: list[tuple[float, str]] = field(default_factory=list)
    """When a heartbeat was written, and by whom."""

    def lead(self) -> None:
        """Notice that the leader is gone; after a while there is another."""
        log, now = self.fleet.log, self.fleet.time.now
        log.spread()
        if not log.step_down():
            self.vacant_since = None
        elif self.vacant_since is None:
            self.vacant_since = now
        elif now - self.vacant_since >= ELECTION_S:
            log.elect()

    def begin(self, host: Host) -> None:
        """A machine's loops start; they do nothing while it holds no log."""
        log = ReachedLog(self.fleet, self.decisions, self.servers, host)
        heart = Heart(log, cast("Copy", host.copy), host.name, self.limits, host)
        Task(host, self._beat(host, heart, log)).start()
        Task(host, self._prune(host, log)).start()

    async def _beat(self, host: Host, heart: Heart, log: ReachedLog) -> None:
        """Write whenever it is this machine's turn, as `Heart.beat` does."""
        while True:
            core = host.catalog().core()
            cores = core.machines if core else ()
            await pause(host, BEAT_LOOK_S if host.name in cores else IDLE_S)
            if not self.decisions.beats(heart, cores):
                continue
            beat = Heartbeat(
                machine=host.name,
                number=heart._newest.number + 1,
                at_ms=int(host.now() * 1000),
            )
            begun = host.monotonic()
            try:
                guard = self.decisions.beat_guard(heart)
                heart._seq = await log.append(beat.key(), encode(beat), expected_seq=guard)
            except Conflict:
                await self._read_anew(heart)
            except StoreUnavailable:
                continue
            else:
                heart._newest, heart._seen_at = beat, begun
                self._note_beat(host.name)

    async def _read_anew(self, heart: Heart) -> None:
        with contextlib.suppress(StoreUnavailable):
            await heart._read_anew()

    def _note_beat(self, name: str) -> None:
        """No two machines write heartbeats side by side for long."""
        now = self.fleet.time.now
        self.beats = [beat for beat in self.beats if now - beat[0] < BEATS_SEEN_S]
        self.beats.append((now, name))
        writers = [writer for _, writer in self.beats]
        turns = sum(a != b for a, b in itertools.pairwise(writers))
        if turns >= TURNS_MAX:
            self.fleet.violation(f"several machines write heartbeats: {writers}")

    async def _prune(self, host: Host, log: ReachedLog) -> None:
        done = 0
        while True:
            await pause(host, PRUNE_S)
            if self.fleet.healed:
                return  # hourly in truth: nobody's snapshot takes so long
            beat = host.catalog().heartbeat()
            if beat is not None and beat.machine == host.name:
                try:
                    done = await prune_once(log, cast("Copy", host.copy), self.limits, done)
                except StoreUnavailable:
                    continue
