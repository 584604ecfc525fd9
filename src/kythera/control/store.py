"""The records as the API sees them: read from this machine's copy, written to the log.

Promises: reads never need the log; a write returns when this machine's copy shows it (or fails
after a named deadline, saying so); two writers of one record never overwrite each other unseen:
the second is told (`Conflict`) and decides again on what the first one wrote; what somebody asked
for leaves an audit record (`audit`).
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import anyio
import msgspec

from kythera.deploy.refusals import too_big
from kythera.distribute.copy import Changes
from kythera.distribute.log import Log
from kythera.model.catalog import Catalog
from kythera.model.errors import Conflict, StoreUnavailable
from kythera.model.limits import Limits
from kythera.model.records import Deployment, Record, encode

if TYPE_CHECKING:
    from kythera.control.audit import Trail
    from kythera.control.audit_entries import Entry

T = TypeVar("T")
POLL_MS_MIN = 1
POLL_MS_MAX = 20
CONFLICTS_MAX = 8


class Copied(Protocol):
    """This machine's copy of the records (`kythera.distribute.copy.Copy`), to read."""

    def applied_seq(self) -> int:
        """Return the newest sequence that the copy shows."""
        ...

    def is_whole(self) -> bool:
        """Tell whether the copy has once had everything."""
        ...

    def changes_since(self, generation: int, seq: int) -> Changes:
        """Return what was missed: newest value of each key, tombstones included."""
        ...


class Change(NamedTuple):
    """One record to write; None ends it.

    `guard` is the sequence over which it may be written; None means: over what was read last."""

    key: str
    record: Record | None
    guard: int | None = None


class Guarded(NamedTuple):
    """A change as it goes to the log: its value there, and the sequence it is written over."""

    change: Change
    value: bytes | None
    guard: int


def put(record: Record, guard: int | None = None) -> Change:
    """Return the change that writes a record."""
    return Change(record.key(), record, guard)


def end(key: str) -> Change:
    """Return the change that ends a record."""
    return Change(key, None)


@dataclass(eq=False)
class Standing:
    """A change that is under way, and the sequence it read the records at, at least."""

    seq: int
    until: float | None = None
    """Of one that failed, in AnyIO's time: until then it may still come into the log."""


Live = Callable[[Deployment], Awaitable[object]]
"""Waits, but not for ever, until this machine's front door serves a deployment."""


class Store:
    """Reads and writes records. One per process."""

    def __init__(
        self,
        log: Log,
        copy: Copied,
        limits: Limits,
        live: Live | None = None,
        trail: "Trail | None" = None,
    ) -> None:
        self._log = log
        self._live = live
        self.trail = trail
        self._copy = copy
        self._limits = limits
        self._catalog = Catalog()
        self._seqs: dict[str, int] = {}
        self._generation = 0
        self._seen = 0
        self._locks: dict[str, anyio.Lock] = {}
        self._standing: list[Standing] = []

    def catalog(self) -> Catalog:
        """Return all records, as of now. Raises StoreUnavailable while there is no copy yet."""
        missed = self._copy.changes_since(self._generation, self._seen)
        if missed.anew:
            # Records were replaced as a whole: what we folded belongs to another history.
            self._catalog, self._seqs = Catalog(), {}
        for entry in (*missed.kept, *missed.entries):
            self._catalog.apply(entry.key, entry.value)
            self._seqs[entry.key] = 0 if entry.value is None else entry.seq
        self._generation, self._seen = missed.generation, missed.applied_seq
        return self._catalog

    def guard_of(self, key: str) -> int:
        """Return the sequence at which `catalog` last showed a record; 0 when there is none."""
        return self._seqs.get(key, 0)

    async def usable(self) -> None:
        """Raise StoreUnavailable unless both the log and the copy can be used now."""
        self._copy.applied_seq()
        await self._log.last_seq()

    async def write(self, changes: Iterable[Change]) -> None:
        """Write records in order, each over the value that `catalog` last showed of it.

        Returns when this machine's copy shows them and, for a deployment, when the front door
        serves it (or does not within `served_ms`: the last good one serves on meanwhile).
        The first is the guard: put the record there that a concurrent writer would write too.
        All are checked against the size limit before the first is written. When all of them are
        there already nothing is written."""
        wanted = [Guarded(change, self._encoded(change), self._guard(change)) for change in changes]
        if not await self._are_there(wanted):
            await self.caught_up(await self._append(wanted))
        for change, _, _ in wanted:
            if self._live is not None and isinstance(change.record, Deployment):
                await self._live(change.record)

    async def _append(self, wanted: list[Guarded]) -> int:
        """Append changes in order, and who asked for them after the first; return the last seq."""
        first, *rest = wanted
        entry = self._entry(wanted)
        try:
            seq = await self._append_one(first)
        except Conflict:
            raise  # nothing was written
        except BaseException:
            if entry is not None and self.trail is not None:
                self.trail.late(entry, in_doubt=True)
            raise
        if entry is not None and self.trail is not None:
            seq = await self.trail.write(entry, self)
        for each in rest:
            seq = await self._append_one(each)
        return seq

    async def _append_one(self, wanted: Guarded) -> int:
        return await self._log.append(wanted.change.key, wanted.value, expected_seq=wanted.guard)

    def _entry(self, wanted: list[Guarded]) -> "Entry | None":
        if self.trail is None:
            return None
        return self.trail.entry([(w.change.key, w.change.record) for w in wanted], self._catalog)

    def _guard(self, change: Change) -> int:
        return self.guard_of(change.key) if change.guard is None else change.guard

    async def _are_there(self, wanted: list[Guarded]) -> bool:
        """Tell whether the log holds all this already.

        The copy alone cannot tell: it may not show yet that somebody else wrote something other."""
        if not all(self._shows(each) for each in wanted):
            return False
        newest = await self._log.last_seq()
        with anyio.move_on_after(self._limits.read_your_writes_ms / 1000):
            await self.shows(newest)
            self.catalog()
            return all(self._shows(each) for each in wanted)
        return False

    def _shows(self, wanted: Guarded) -> bool:
        key = wanted.change.key
        if key in self._catalog.unknown or self.guard_of(key) != wanted.guard:
            return False
        record = self._catalog.records.get(key)
        return wanted.value == (None if record is None else encode(record))

    async def write_first(self, key: str, value: bytes) -> None:
        """Write an encoded record where there is none. Raises Conflict where there is one."""
        await self._log.append(key, value, expected_seq=0)

    def _encoded(self, change: Change) -> bytes | None:
        if change.record is None:
            return None
        value = encode(change.record)
        if len(value) > self._limits.record_bytes_max:
            raise too_big(
                f"The {change.record.kind}'s settings take {len(value):,} bytes;"
                f" {self._limits.record_bytes_max:,} are allowed.",
                remedy="Move large texts from variables into modules or assets.",
            )
        return value

    def check_size(self, record: Record) -> None:
        """Refuse a record that is too large to be written."""
        self._encoded(put(record))

    def applied_seq(self) -> int:
        """Return the newest sequence that this machine's copy shows."""
        return self._copy.applied_seq()

    def is_whole(self) -> bool:
        """Tell whether this machine's copy has once had everything: what it lacks is not there."""
        return self._copy.is_whole()

    async def newest(self) -> int:
        """Return the newest sequence of the log. Raises StoreUnavailable when it is away."""
        return await self._log.last_seq()

    async def shows(self, seq: int) -> None:
        """Wait until this machine's copy shows everything up to `seq`; the caller sets a deadline."""
        pause_ms = float(POLL_MS_MIN)
        while self._copy.applied_seq() < seq:
            await anyio.sleep(pause_ms / 1000)
            pause_ms = min(pause_ms * 1.5, POLL_MS_MAX)

    async def caught_up(self, seq: int) -> None:
        """Wait until this machine's copy shows what was written as `seq`."""
        with anyio.move_on_after(self._limits.read_your_writes_ms / 1000):
            await self.shows(seq)
            return
        raise StoreUnavailable(
            f"It was written (record {seq}), but this machine's copy did not show it within"
            f" {self._limits.read_your_writes_ms} ms; it takes effect as soon as it does."
        )

    async def read_anew(self) -> None:
        """Wait until this machine's copy shows what somebody else wrote before us."""
        newest = await self._log.last_seq()
        with anyio.move_on_after(self._limits.read_your_writes_ms / 1000):
            await self.shows(newest)
            return
        behind = newest - self._copy.applied_seq()
        raise StoreUnavailable(
            "It was not written: somebody else wrote first, and this machine's copy is"
            f" {behind} records behind, so that it cannot see what.",
            remedy="Ask `kythera status`, or send it to another machine.",
        )

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        """Note from which records on a change decides, for `settled_seq`."""
        try:
            standing = Standing(self._copy.applied_seq())
        except StoreUnavailable:
            yield  # there is nothing to read, so nothing will be written
            return
        self._standing.append(standing)
        try:
            yield
        except Conflict:
            raise  # it was not written, and never will be
        except (StoreUnavailable, anyio.get_cancelled_exc_class()):
            # It may still be on its way into the log.
            standing.until = anyio.current_time() + 2 * self._limits.append_ms / 1000
            raise
        finally:
            if standing.until is None:
                self._standing.remove(standing)

    def settled_seq(self) -> int:
        """Return the sequence that all writes from now on stand on, at least: whoever decides by the
        records sees those up to there."""
        now = anyio.current_time()
        self._standing = [s for s in self._standing if s.until is None or s.until > now]
        return min([self.applied_seq(), *(standing.seq for standing in self._standing)])

    def read_seq(self) -> int:
        """Return the sequence up to which `catalog` showed everything, when it was last asked."""
        return self._seen

    def shown(self, key: str) -> Record | None:
        """Return a record as `catalog` last showed it. May be called in any thread."""
        return self._catalog.records.get(key)

    @asynccontextmanager
    async def exclusive(self, scope: str) -> AsyncIterator[None]:
        """Hold the turn of changing one thing; others of this process wait."""
        lock = self._locks.setdefault(scope, anyio.Lock())
        try:
            async with lock:
                yield
        finally:
            if lock.statistics().tasks_waiting == 0 and not lock.locked():
                self._locks.pop(scope, None)

    async def settled(self, scope: str, change: Callable[[], Awaitable[T]]) -> T:
        """Run a read-decide-write to its end; when another process wrote first, run it again."""
        async with self.exclusive(scope):
            for _ in range(CONFLICTS_MAX):
                try:
                    with self._under_way():
                        return await change()
                except Conflict:
                    await self.read_anew()
        raise Conflict(f"{scope} is being changed by others all the time.")


def replaced(record: Record, **fields: object) -> Change:
    """Return the change that rewrites some fields of a record."""
    return put(msgspec.structs.replace(record, **fields))
