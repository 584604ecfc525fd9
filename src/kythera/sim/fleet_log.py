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
from kythera.sim.fleet_copy import FleetCopy


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
        if self.step_down():
            return None
        assert self.leader is not None
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

    def move(self, cores: tuple[str, ...]) -> None:
        """Copy every record to other servers, in order, with numbers that go on."""
        source = self.replicas[self.leader] if self.leader else None
        assert source is not None, "only a log with a leader can be copied"
        entries = source.changes_after(0)
        self.cores = cores
        self.by_mark.clear()
        self.replicas = {name: FleetCopy(self.last_seq) for name in cores}
        self.leader = None
        for entry in entries:
            if entry.value is not None:
                self._copy_over(entry)
        self.elect()

    def _copy_over(self, entry: Entry) -> None:
        again = Entry(self.last_seq + 1, entry.key, entry.value)
        self.history.append(again)
        self._seqs[entry.key].append(again.seq)
        self._note_time(self.cores[0])
        for replica in self.replicas.values():
            replica.apply([again])

    # -- the truth ---------------------------------------------------------------------------------

    def newest_at(self, key: str, seq: int) -> tuple[Entry | None, bool]:
        """Return the key's newest entry at or below `seq`, and whether a newer one exists."""
        seqs = self._seqs.get(key, [])
        place = bisect_right(seqs, seq)
        entry = self.history[seqs[place - 1] - 1] if place else None
        return entry, place < len(seqs)

    def every_key(self) -> Iterable[str]:
        """Return every key that was ever written."""
        return self._seqs
