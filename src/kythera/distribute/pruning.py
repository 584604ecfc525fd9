"""Ends of records (tombstones) leave the log after `tombstones_kept_s`.

One core machine at a time does it, the one that writes the heartbeat; two at once do no harm.
Promises: the horizon is written before anything is removed, so whoever might miss an end learns it
in time and takes a snapshot; only tombstones go, each by its number, so a record that began again
meanwhile stays; ages are told by the log's own clock, not by this machine's.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import anyio
import structlog

from kythera.distribute.copy import Copy
from kythera.distribute.horizon import HORIZON_KEY, horizon_of
from kythera.distribute.log import Entry
from kythera.model.errors import StoreUnavailable
from kythera.model.limits import Limits
from kythera.model.records import Horizon, encode

ROUND_S = 3_600.0
RETRY_S = 60.0

_events = structlog.get_logger()


class PrunedLog(Protocol):
    """What is asked of the log (`JetStreamLog`, `MemoryLog`)."""

    async def append(
        self,
        key: str,
        value: bytes | None,
        *,
        expected_seq: int | None = None,
        message_id: str | None = None,
    ) -> int:
        """Write a record."""
        ...

    async def last_seq(self) -> int:
        """Return the newest sequence."""
        ...

    async def newest(self, key: str) -> Entry | None:
        """Return a key's newest entry."""
        ...

    async def written_at(self, seq: int) -> float | None:
        """Return when an entry was written; None: it is gone."""
        ...

    async def erase(self, seq: int) -> None:
        """Forget one entry."""
        ...


def tombstones(entries: Sequence[Entry]) -> list[int]:
    """Return the numbers of the tombstones among a copy's entries, ascending (pure)."""
    return sorted(entry.seq for entry in entries if entry.value is None)


async def old_among(log: PrunedLog, seqs: Sequence[int], kept_s: float) -> list[int]:
    """Return those of ascending `seqs` that were written more than `kept_s` ago.

    Numbers rise with time, so a few questions are enough."""
    if not seqs:
        return []  # nor is there anything to ask about a log that is empty
    newest_at = await log.written_at(await log.last_seq())
    if newest_at is None:
        return []
    low, high = 0, len(seqs)
    while low < high:
        middle = (low + high) // 2
        at = await log.written_at(seqs[middle])
        if at is None or newest_at - at > kept_s:  # gone already: then long ago
            low = middle + 1
        else:
            high = middle
    return list(seqs[:low])


async def prune_once(log: PrunedLog, copy: Copy, limits: Limits, done: int = 0) -> int:
    """Move the horizon and remove old tombstones above `done`; return up to where it is done.

    What a crash left undone is done the next time: a copy keeps the tombstones below a horizon
    until there is a newer one (`follower`), so they are found in it again."""
    seqs = [seq for seq in tombstones(copy.changes_after(0)) if seq > done]
    old = await old_among(log, seqs, limits.tombstones_kept_s)
    if not old:
        return done
    before = await log.newest(HORIZON_KEY)
    if before is None or horizon_of(before.value) < old[-1]:
        value = encode(Horizon(seq=old[-1]))
        await log.append(HORIZON_KEY, value, expected_seq=0 if before is None else before.seq)
    for seq in old:
        await log.erase(seq)
    _events.info("tombstones_removed", count=len(old), horizon=old[-1])
    return old[-1]


async def keep_pruned(log: PrunedLog, copy: Copy, limits: Limits, mine: Callable[[], bool]) -> None:
    """Prune now and then, for ever, while `mine` says that it is this machine's turn."""
    done = 0
    while True:
        pause_s = min(ROUND_S, limits.tombstones_kept_s)
        if mine():
            try:
                done = await prune_once(log, copy, limits, done)
            except StoreUnavailable as error:  # or another core machine is at it (Conflict)
                _events.warning("tombstones_not_removed", why=str(error))
                pause_s = min(RETRY_S, pause_s)
        await anyio.sleep(pause_s)
