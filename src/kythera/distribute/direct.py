"""The log itself as a source of records, and what every source is to those who follow.

Promises, beyond the log's own: it says at once how far the log goes, and refuses (LogPruned) to go
on where ends of records may have been missed.
"""

import contextlib
from collections.abc import AsyncGenerator
from typing import Protocol

from kythera.distribute.batch import Stretch
from kythera.distribute.horizon import HORIZON_KEY, Sight, horizon_of
from kythera.distribute.log import Entry, LogBehind, LogPruned


class Followed(Protocol):
    """A source, as a follower sees it: `DirectLog`, or `relay.RelayLog`."""

    def stretches(self, after_seq: int) -> AsyncGenerator[Stretch, None]:
        """Yield what comes after `after_seq`, in order and without a gap; the first one at once.

        Never ends but by raising: LogPruned when only a snapshot helps, LogBehind when the log was
        lost, other StoreUnavailable when it is worth trying again. Close it."""
        ...

    def snapshot(self, after_seq: int) -> AsyncGenerator[Stretch, None]:
        """Yield everything after `after_seq` up to what there is now, and end. Raises likewise."""
        ...


class Readable(Protocol):
    """What is asked of the log (`Log` and a way to read one key)."""

    def follow(self, after_seq: int) -> AsyncGenerator[list[Entry], None]:
        """Yield what comes after a sequence."""
        ...

    async def last_seq(self) -> int:
        """Return the newest sequence."""
        ...

    async def newest(self, key: str) -> Entry | None:
        """Return a key's newest entry."""
        ...


class DirectLog:
    """The log, followed without anybody between."""

    def __init__(self, log: Readable) -> None:
        self._log = log

    async def _horizon(self) -> int:
        found = await self._log.newest(HORIZON_KEY)
        return 0 if found is None else horizon_of(found.value)

    async def stretches(self, after_seq: int) -> AsyncGenerator[Stretch, None]:
        """Yield what comes after `after_seq`; see `Followed`."""
        newest = await self._log.last_seq()
        if newest < after_seq:
            raise LogBehind(
                f"The log ends at {newest}, but this machine has already applied {after_seq}.",
                remedy="The log's store was lost or replaced: restore it. This machine serves on"
                " from its copy meanwhile.",
            )
        sight = Sight(after_seq, await self._horizon(), newest)
        seq = after_seq
        yield Stretch([], seq, newest)
        async with contextlib.aclosing(self._log.follow(after_seq)) as batches:
            begun = False
            async for batch in batches:
                if not batch or not begun:  # it may have gone on, or moved, before this was read
                    begun = True
                    before, newest = newest, max(newest, await self._log.last_seq())
                    sight.resumed(await self._horizon(), newest)
                    if newest > before:
                        yield Stretch([], seq, newest)
                    if not batch:
                        continue
                if sight.take(batch):
                    sight.confirm(batch[-1].seq, await self._horizon())
                seq = batch[-1].seq
                newest = max(newest, seq)
                yield Stretch(batch, seq, newest)

    async def snapshot(self, after_seq: int) -> AsyncGenerator[Stretch, None]:
        """Yield all the log holds after `after_seq`, and end: it is compacted, so that is a
        snapshot."""
        horizon = await self._horizon()
        async with contextlib.aclosing(self.stretches(after_seq)) as stretches:
            target = 0
            async for stretch in stretches:
                if not stretch.entries:  # the first, and after a break: the log may have moved
                    target = stretch.newest
                yield stretch
                if stretch.to_seq >= target:
                    break
        if await self._horizon() != horizon:
            raise LogPruned("The log's horizon moved while a snapshot was taken.")
