"""The trail: each change that came through the API leaves a record of who made it.

Promises: `Store.write` tells the trail, so no endpoint can forget it. The record is written right
after the first of a change's records, which decides whether it holds, and before those that take
effect (a deployment is the last of its records). When the log takes the change and then not the
record, or does not say whether it took the change, the record goes to the journal at once, with
all it says, waits in memory, and is written as soon as the log is back; the caller is told 503. Both
are counted in `kythera status`.

Each machine numbers its own records and uses its own places in turn, so that machines never wait
for each other here (decisions/0009).
"""

from collections import Counter, deque
from collections.abc import Sequence

import anyio
import msgspec

from kythera.control.audit_entries import Entry, Written, entry_of
from kythera.control.caller import calling
from kythera.control.store import Store, end
from kythera.distribute.log import Log
from kythera.ground.clock import Clock, iso
from kythera.ground.journal import Journal
from kythera.model.catalog import Catalog
from kythera.model.errors import Conflict, KytheraError, StoreUnavailable
from kythera.model.limits import Limits
from kythera.model.records import Audit, encode

TRIES_MAX = 8
RETRY_S = 1.0
DOUBT = "the log did not say whether it was written"


class Trail:
    """One machine's part of the audit. `counts`: records that were `late`, and those `lost`."""

    def __init__(self, me: str, log: Log, limits: Limits, clock: Clock, journal: Journal) -> None:
        self.counts: Counter[str] = Counter()
        self._me = me
        self._log = log
        self._limits = limits
        self._clock = clock
        self._journal = journal
        self._number = 0
        self._late: deque[Entry] = deque()

    def entry(self, changes: Sequence[Written], catalog: Catalog) -> Entry | None:
        """Return what is to be recorded of changes; None: nobody asked for them."""
        caller = calling.get()
        if caller is None:
            return None
        at = iso(self._clock.now())
        return entry_of(caller, changes, catalog, at, self._limits.audit_bytes_max)

    async def write(self, entry: Entry, store: Store) -> int:
        """Write a record and return its sequence; raise when the log does not take it."""
        try:
            return await self._write(entry, store)
        except BaseException as error:
            self.late(entry)
            if isinstance(error, StoreUnavailable):
                raise StoreUnavailable(
                    "A part of this was written, and its audit record was not yet: it is kept"
                    f" and written when the log takes it. {error.message}"
                ) from None
            raise

    async def _write(self, entry: Entry, store: Store) -> int:
        for _ in range(TRIES_MAX):
            record = self._numbered(entry, store)
            try:
                guard = store.guard_of(record.key())
                return await self._log.append(record.key(), encode(record), expected_seq=guard)
            except Conflict:
                await store.read_anew()
        raise StoreUnavailable("Somebody else writes this machine's audit records.")

    def _numbered(self, entry: Entry, store: Store) -> Audit:
        """Give the next number; what an earlier process of this machine gave is not used again."""
        if self._number == 0 or self._is_passed(store):
            own = (r for r in store.catalog().records.values() if isinstance(r, Audit))
            self._number = max((r.number for r in own if r.machine == self._me), default=0)
        self._number += 1
        return entry.numbered(self._me, self._number, self._limits.audit_kept_max)

    def _is_passed(self, store: Store) -> bool:
        place = (self._number + 1) % self._limits.audit_kept_max
        there = store.catalog().records.get(f"audit.{self._me}-{place}")
        return isinstance(there, Audit) and there.number > self._number

    def late(self, entry: Entry, *, in_doubt: bool = False) -> None:
        """Keep a record that could not be written; it is in the journal from now on."""
        noted = msgspec.structs.replace(entry, note=DOUBT) if in_doubt else entry
        self.counts["late"] += 1
        told = msgspec.to_builtins(noted.numbered(self._me, 0, 1))
        self._journal.warn("audit_record_late", record=told)
        if len(self._late) >= self._limits.audit_late_max:
            self._late.popleft()
            self.counts["lost"] += 1
            self._journal.say("audit_record_lost", level="error", why="too many are late")
        self._late.append(noted)

    async def catch_up(self, store: Store) -> None:
        """Write what is late, oldest first. Raises StoreUnavailable while the log is away."""
        while self._late:
            entry = self._late[0]
            await self._write(entry, store)
            self.counts["written_late"] += 1
            if self._late and self._late[0] is entry:
                self._late.popleft()

    async def keep(self, store: Store) -> None:
        """Catch up now and then, for ever; first let go of places beyond `audit_kept_max`."""
        tidied = False
        while True:
            try:
                if not tidied:
                    await store.write([end(key) for key in self._beyond(store.catalog())])
                    tidied = True
                await self.catch_up(store)
            except KytheraError as error:
                if self._late:
                    self._journal.warn("audit_still_late", n=len(self._late), reason=str(error))
            await anyio.sleep(RETRY_S)

    def _beyond(self, catalog: Catalog) -> list[str]:
        return [
            record.key()
            for record in catalog.records.values()
            if isinstance(record, Audit)
            and record.machine == self._me
            and record.place >= self._limits.audit_kept_max
        ]
