"""How a simulated machine gives its records to others: a relay's stream, a core machine's feed.

The relay's rules are the real ones (`distribute.relay`). A feed is what nats-server does: it
numbers its deliveries, so that a lost one shows, and knows nothing of who reads.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kythera.distribute.batch import frame
from kythera.distribute.log import LogPruned
from kythera.distribute.relay import PRUNED_STATUS, NotWhole, Relay
from kythera.model.limits import Limits
from kythera.sim.fleet_decisions import Decisions
from kythera.sim.fleet_ground import Fleet
from kythera.sim.fleet_machine import Host

PUMP_S = 0.2
FEED_ENTRIES_MAX = 24
FEED_LIFE_S = 1.0
HUNG_S_MAX = 3.0
OK_STATUS, REFUSED_STATUS = 200, 503


@dataclass
class Reader:
    """Who reads a stream, and whether anybody still listens."""

    name: str
    put: Callable[[Any], None]
    """Gets a relay's frames (b"" ends them), or a feed's deliveries: how many there were before,
    and their entries."""
    listens: Callable[[], bool]


@dataclass
class Stream:
    """One follower's place in what a machine gives out."""

    reader: Reader
    seq: int
    quiet_since: float
    generation: int = 0
    excused: int = 0
    target: int = 0
    snapshot: bool = False
    deliveries: int = 0
    epoch: int = 0
    """Of the log's servers."""


@dataclass
class Servers:
    """All streams of all machines. A machine that starts anew has none."""

    fleet: Fleet
    decisions: Decisions
    limits: Limits
    relays: dict[str, tuple[int, Relay]] = field(default_factory=dict)

    def relay(self, host: Host) -> Relay:
        """Return the relay of a machine's present life."""
        life, relay = self.relays.get(host.name, (-1, None))
        if relay is None or life != host.life:
            relay = Relay(host.copy, self.limits)
            self.relays[host.name] = (host.life, relay)
        return relay

    def _send(self, host: Host, stream: Stream, item: object) -> None:
        stream.quiet_since = self.fleet.time.now
        follower = self.fleet.hosts[stream.reader.name]
        self.fleet.network.send(
            host.name, follower.name, lambda: follower.run(lambda: stream.reader.put(item))
        )

    def _admits(self, host: Host, stream: Stream) -> bool:
        """Tell whether the tunnel still stands."""
        name = stream.reader.name
        return host.name == name or self.fleet.admits(host, name)

    # -- from a copy -------------------------------------------------------------------------------

    def open(self, host: Host, reader: Reader, after_seq: int, *, snapshot: bool) -> int:
        """Begin to serve a follower; return the HTTP status."""
        relay = self.relay(host)
        try:
            self.decisions.refuse(relay, after_seq)
        except LogPruned:
            return PRUNED_STATUS
        except NotWhole:
            return REFUSED_STATUS
        stream = Stream(
            reader,
            after_seq,
            self.fleet.time.now,
            generation=host.copy.generation(),
            excused=relay.horizon() if after_seq == 0 else 0,
            target=host.copy.applied_seq(),
            snapshot=snapshot,
        )
        self._send(host, stream, frame(stream.target, stream.target, []))
        host.after(PUMP_S, lambda: self._pump(host, stream))
        return OK_STATUS

    def _pump(self, host: Host, stream: Stream) -> None:
        """Give out what there is, as `Relay.serve` does."""
        if not stream.reader.listens():
            return
        relay, newest = self.relay(host), host.copy.applied_seq()
        if newest > stream.seq:
            if not self._admits(host, stream):
                return
            before = stream.seq
            stream.seq, framed = self.decisions.serve(relay, before)
            floor = max(before, stream.excused)
            if not self.decisions.remembered(relay, stream.generation, floor):
                self._send(host, stream, b"")
                return
            self._send(host, stream, framed)
        elif self.fleet.time.now - stream.quiet_since >= self.limits.heartbeat_ms / 1000:
            self._send(host, stream, frame(newest, newest, []))
        if stream.snapshot and stream.seq >= stream.target:
            self._send(host, stream, frame(stream.seq, stream.seq, []))
            self._send(host, stream, b"")
            return
        host.after(PUMP_S, lambda: self._pump(host, stream))

    # -- from the log ------------------------------------------------------------------------------

    def consume(self, host: Host, reader: Reader, after_seq: int) -> bool:
        """Create a consumer on a core machine's server; False when it cannot be."""
        if not self.fleet.log.serves(host.name):
            return False
        stream = Stream(reader, after_seq, self.fleet.time.now, epoch=self.fleet.log.epoch)
        host.after(PUMP_S, lambda: self._deliver(host, stream))
        return True

    def _deliver(self, host: Host, stream: Stream) -> None:
        log = self.fleet.log
        follower = self.fleet.hosts[stream.reader.name]
        if stream.epoch != log.epoch or not stream.reader.listens():
            return
        if follower.hung_s() > HUNG_S_MAX:
            return  # the server closes the connection of who reads nothing
        entries = log.replicas[host.name].changes_after(stream.seq)[:FEED_ENTRIES_MAX]
        if entries or self.fleet.time.now - stream.quiet_since >= FEED_LIFE_S:
            if not self._admits(host, stream):
                return
            before = stream.deliveries
            stream.deliveries += len(entries)
            stream.seq = entries[-1].seq if entries else stream.seq
            self._send(host, stream, (before, entries))
        host.after(PUMP_S, lambda: self._deliver(host, stream))
