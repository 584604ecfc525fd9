"""A log in this process's memory: the fake that passes the same contract suite as the real one.

For simulations and tests. `pause` makes it unreachable (appends wait, followers stall), `resume`
brings it back; `lose_acknowledgements` applies the next writes but hides that it did, as a cut
between the server's disk and the client does.
"""

from collections.abc import AsyncGenerator

import anyio

from kythera.distribute.log import Entry, LogBehind, refuse_bad_record
from kythera.ground.chance import Chance, SystemChance
from kythera.ground.clock import Clock, SystemClock
from kythera.model.errors import Conflict, StoreUnavailable
from kythera.model.limits import Limits

BATCH_ENTRIES_MAX = 1_000


class MemoryLog:
    """The log's promises without its durability. Compacted: the newest entry of each key."""

    def __init__(
        self,
        limits: Limits | None = None,
        chance: Chance | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self._chance = chance or SystemChance()
        self._clock = clock or SystemClock()
        self._written: dict[int, float] = {}
        self._newest: dict[str, Entry] = {}
        self._order: dict[int, str] = {}
        """Sequence → key, of the newest entries, ascending because dicts keep insertion order."""
        self._seen: dict[tuple[str, str], int] = {}
        self._last = 0
        self._paused = False
        self._acknowledgements_to_lose = 0
        self._changed = anyio.Event()

    async def append(
        self,
        key: str,
        value: bytes | None,
        *,
        expected_seq: int | None = None,
        message_id: str | None = None,
    ) -> int:
        """Write a record and return its sequence number."""
        refuse_bad_record(key, value, self._limits.record_bytes_max)
        mark = (key, message_id or self._chance.uuid())
        with anyio.move_on_after(self._limits.append_ms / 1000):
            while True:
                await self._reachable()
                seq = self._write(mark, key, value, expected_seq)
                if self._acknowledgements_to_lose == 0:
                    return seq
                self._acknowledgements_to_lose -= 1
                await anyio.lowlevel.checkpoint()
        raise StoreUnavailable(
            f"The log did not acknowledge {key} within {self._limits.append_ms} ms."
        )

    def _write(
        self, mark: tuple[str, str], key: str, value: bytes | None, expected_seq: int | None
    ) -> int:
        if mark in self._seen:
            return self._seen[mark]
        if expected_seq is not None and not self._holds(key, expected_seq):
            raise Conflict(f"{key} was changed by somebody else.", remedy="Read it and retry.")
        self._last += 1
        older = self._newest.get(key)
        if older is not None:
            del self._order[older.seq]
        self._newest[key] = Entry(self._last, key, value)
        self._order[self._last] = key
        self._written[self._last] = self._clock.now()
        self._seen[mark] = self._last
        self._wake()
        return self._last

    def _holds(self, key: str, expected_seq: int) -> bool:
        entry = self._newest.get(key)
        if expected_seq == 0:
            return entry is None or entry.value is None
        return entry is not None and entry.seq == expected_seq

    async def follow(self, after_seq: int) -> AsyncGenerator[list[Entry], None]:
        """Yield what comes after `after_seq`, in order, in batches; never ends."""
        seq = after_seq
        while True:
            broken = self._paused
            await self._reachable()
            if self._last < seq:
                raise LogBehind(f"The log ends at {self._last}, this copy has applied {seq}.")
            changed = self._changed
            if broken:
                yield []
            batch = self._after(seq)
            if batch:
                seq = batch[-1].seq
                yield batch
            else:
                await changed.wait()

    def _after(self, seq: int) -> list[Entry]:
        newer: list[Entry] = []
        for number in reversed(self._order):
            if number <= seq:
                break
            newer.append(self._newest[self._order[number]])
        newer.reverse()
        return newer[:BATCH_ENTRIES_MAX]

    async def last_seq(self) -> int:
        """Return the newest sequence number, 0 for an empty log."""
        with anyio.move_on_after(self._limits.append_ms / 1000):
            await self._reachable()
            return self._last
        raise StoreUnavailable(f"The log did not answer within {self._limits.append_ms} ms.")

    async def newest(self, key: str) -> Entry | None:
        """Return a key's newest entry; None when it never was, or its end is forgotten."""
        await self._reachable()
        return self._newest.get(key)

    async def written_at(self, seq: int) -> float | None:
        """Return when an entry was written (Unix seconds); None: gone."""
        await self._reachable()
        return self._written[seq] if seq in self._order else None

    async def erase(self, seq: int) -> None:
        """Forget one entry for good. No harm when it is gone already."""
        key = self._order.pop(seq, None)
        if key is not None:
            del self._newest[key]

    def pause(self) -> None:
        """Make the log unreachable."""
        self._paused = True

    def resume(self) -> None:
        """Make the log reachable again."""
        self._paused = False
        self._wake()

    def lose_acknowledgements(self, count: int) -> None:
        """Apply the next `count` writes without saying so, so that each is tried again."""
        self._acknowledgements_to_lose = count

    async def _reachable(self) -> None:
        while self._paused:
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
