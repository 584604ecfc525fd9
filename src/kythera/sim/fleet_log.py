"""The fleet's log, simulated: one order for all, compacted, held by the core machines by majority.

It keeps every entry that ever was, so that what a copy holds can be held against the truth. Each
core machine's replica knows a prefix of it. A write needs a leader that reaches a majority; what
was acknowledged is on a majority and the next leader has it. A repeated mark is answered with what
it was written as.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from kythera.distribute.log import Entry
from kythera.model.records import Core
from kythera.sim.fleet_copy import FleetCopy

CORE_KEY = Core(machines=()).key()


class Guarded(Exception):
    """Somebody else wrote the record first."""


class Write(NamedTuple):
    """One try to write a record. `call` is what somebody wanted, `mark` the message's id."""

    key: str
    value: bytes | None
    guard: int | None
    mark: str
    call: str


@dataclass
class Moving:
    """The next stream, while the log is being copied there."""

    cores: tuple[str, ...]
    first_seq: int
    entries: list[Entry] = field(default_factory=list)
    """What was copied, with its old sequence."""

    @property
    def last_seq(self) -> int:
        """Return the next stream's newest sequence."""
        return self.first_seq + len(self.entries) - 1

    @property
    def copied_to(self) -> int:
        """Return the old sequence of the newest record that was copied."""
        return self.entries[-1].seq if self.entries else 0


@dataclass
class FleetLog:
    """The truth, and each core machine's part of it."""

    talks: Callable[[str, str], bool]
    """Whether two machines are alive and hear each other."""
    cores: tuple[str, ...]
    clock: Callable[[str], float]
    """What a machine's calendar shows."""
    now: Callable[[], float]
    history: list[Entry] = field(default_factory=list)
    replicas: dict[str, FleetCopy] = field(default_factory=dict)
    leader: str | None = None
    by_mark: dict[str, int] = field(default_factory=dict)
    calls: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """What somebody wanted written once → the sequences under which it was."""
    written: list[float] = field(default_factory=list)
    """When each entry was written, by the clock of whoever led."""
    given_at: list[float] = field(default_factory=list)
    """The same, truly."""
    epoch: int = 1
    """Counts its servers: a connection to older ones ends with them."""
    frozen: bool = False
    """It takes no more writes: it is moving."""
    moving: "Moving | None" = None
    _marks_of: dict[int, list[str]] = field(default_factory=dict)
    _erased: dict[int, int] = field(default_factory=dict)
    """Entry that was deleted → the newest sequence at that time."""
    _seqs: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        """Give each core machine an empty replica."""
        self.replicas = {name: FleetCopy() for name in self.cores}

    @property
    def last_seq(self) -> int:
        """Return the newest sequence that was ever given."""
        return len(self.history)

    # -- who leads ---------------------------------------------------------------------------------

    def can_lead(self, name: str) -> bool:
        """Tell whether a machine reaches a majority and has all that was acknowledged."""
        return self.replicas[name].applied_seq() == self.last_seq and self._majority(name)

    def _majority(self, name: str) -> bool:
        heard = sum(1 for other in self.cores if self.talks(name, other))
        return heard * 2 > len(self.cores)

    def step_down(self) -> bool:
        """Drop a leader that lost its majority; tell whether there is none now."""
        if self.leader is not None and not self._majority(self.leader):
            self.leader = None
        return self.leader is None

    def elect(self) -> None:
        """Choose a leader if one is possible. Replicas catch up from those they hear first."""
        self.spread()
        if self.leader is None:
            self.leader = next((name for name in self.cores if self.can_lead(name)), None)

    def spread(self) -> None:
        """Let each replica catch up from the most advanced one it hears."""
        for name, replica in self.replicas.items():
            if replica.applied_seq() == self.last_seq:
                continue
            heard = (self.replicas[o].applied_seq() for o in self.cores if self.talks(name, o))
            self._advance(replica, max(heard, default=0))

    def _advance(self, replica: FleetCopy, to_seq: int) -> None:
        done = replica.applied_seq()
        if to_seq > done:
            replica.apply(self.history[done:to_seq])
            self._forget(replica)

    # -- writing and reading -----------------------------------------------------------------------

    def append(self, write: Write) -> int | None:
        """Write through the leader; None when there is none. Raises Guarded.

        A repeat of a mark returns the first one's sequence."""
        if self.step_down() or self.frozen:
            return None
        known = self.by_mark.get(write.mark)
        if known is not None:
            return known
        if write.guard is not None and not self._holds(write.key, write.guard):
            raise Guarded(write.key)
        return self._write(write)

    def _write(self, write: Write) -> int:
        assert self.leader is not None
        before = self.last_seq
        entry = Entry(before + 1, write.key, write.value)
        self.history.append(entry)
        self._seqs[entry.key].append(entry.seq)
        self._note_time(self.leader)
        self.by_mark[write.mark] = entry.seq
        self._marks_of[entry.seq] = [write.mark]
        self.calls[write.call].append(entry.seq)
        for name in self.cores:
            replica = self.replicas[name]
            if replica.applied_seq() == before and self.talks(self.leader, name):
                replica.apply([entry])
        return entry.seq

    def _note_time(self, leader: str) -> None:
        self.written.append(self.clock(leader))
        self.given_at.append(self.now())

    def _holds(self, key: str, guard: int) -> bool:
        newest = self.newest(key)
        if guard == 0:
            return newest is None or newest.value is None
        return newest is not None and newest.seq == guard

    def newest(self, key: str) -> Entry | None:
        """Return the key's newest entry ever."""
        seqs = self._seqs.get(key)
        return self.history[seqs[-1] - 1] if seqs else None

    def held(self, key: str) -> Entry | None:
        """Return the key's newest entry, unless it was erased."""
        newest = self.newest(key)
        return None if newest is None or newest.seq in self._erased else newest

    def written_at(self, seq: int) -> float | None:
        """Return when an entry was written; None when it was erased or something newer came."""
        entry = self.history[seq - 1]
        return self.written[seq - 1] if self.held(entry.key) == entry else None

    def erase(self, seq: int) -> bool:
        """Take one entry out."""
        self._erased.setdefault(seq, self.last_seq)
        for replica in self.replicas.values():
            self._forget(replica)
        return True

    def serves(self, name: str) -> bool:
        """Tell whether a machine's server takes new readers: a replica that has slept through a
        removal is being caught up, and is not given any."""
        replica = self.replicas.get(name)
        return replica is not None and replica.applied_seq() >= max(
            self._erased.values(), default=0
        )

    def _forget(self, replica: FleetCopy) -> None:
        done = replica.applied_seq()
        for seq, since in self._erased.items():
            if since <= done:
                replica.forget(seq)

    # -- moving to other machines ------------------------------------------------------------------

    def reachable(self, name: str) -> bool:
        """Tell whether a machine that holds the log reaches its leader."""
        if name not in self.cores or self.step_down():
            return False
        assert self.leader is not None
        return self.talks(name, self.leader)

    def whole(self) -> bool:
        """Tell whether the leader has everything; so it does, or it would not lead."""
        return self.leader is not None

    def create(self, cores: tuple[str, ...], first_seq: int) -> None:
        """Make the next stream, unless there is one; of a frozen log alone."""
        if self.moving is None and self.frozen and cores != self.cores:
            self.moving = Moving(cores, first_seq)

    def left(self) -> list[Entry]:
        """Return what has not been copied yet, in order."""
        if self.moving is None or self.leader is None:
            return []
        return self.replicas[self.leader].changes_after(self.moving.copied_to)

    def copy_on(self, after_seq: int, last_seq: int, count: int) -> None:
        """Copy some records, if the next stream still ends where whoever copies has seen it."""
        if self.moving is None or self.moving.last_seq != last_seq or self.leader is None:
            return
        self.moving.entries += self.replicas[self.leader].changes_after(after_seq)[:count]

    def switch(self, settled: bytes) -> list[str]:
        """Make the next stream the log; return what it lacks.

        `settled` is the Core record in place of the wish that is fulfilled."""
        if self.moving is None:
            return []
        ahead, self.moving = self.moving, None
        has = {entry.key: entry for entry in ahead.entries}
        held = (self.held(key) for key in self._seqs)
        lost = [e.key for e in held if e is not None and has.get(e.key) != e]
        assert ahead.first_seq == self.last_seq + 1, "numbers go on"
        self.cores, self.leader, self.frozen = ahead.cores, None, False
        self.replicas = {name: FleetCopy(self.last_seq) for name in ahead.cores}
        self.epoch += 1
        for entry in ahead.entries:
            is_core = entry.key == CORE_KEY
            self._copy_over(entry._replace(value=settled) if is_core else entry)
        self.elect()
        return lost

    def _copy_over(self, entry: Entry) -> None:
        again = Entry(self.last_seq + 1, entry.key, entry.value)
        self.history.append(again)
        self._seqs[entry.key].append(again.seq)
        self._note_time(self.cores[0])
        for mark in self._marks_of.get(entry.seq, ()):
            self.by_mark[mark] = again.seq
        self._marks_of[again.seq] = self._marks_of.get(entry.seq, [])
        for replica in self.replicas.values():
            replica.apply([again])

    # -- the truth ---------------------------------------------------------------------------------

    def newest_at(self, key: str, seq: int) -> tuple[Entry | None, bool]:
        """Return the key's newest entry at or below `seq`, and whether a newer one exists."""
        seqs = self._seqs.get(key, [])
        place = bisect_right(seqs, seq)
        entry = self.history[seqs[place - 1] - 1] if place else None
        return entry, place < len(seqs)

    def first_seq(self, key: str) -> int:
        """Return the sequence under which a key was first written."""
        return self._seqs[key][0]

    def every_key(self) -> Iterable[str]:
        """Return every key that was ever written."""
        return self._seqs
