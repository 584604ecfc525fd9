"""The loops that drive a copy: follow a source, apply each batch, say so.

`follow_into` follows one log. `Follower` follows whatever `sources` says is best now: it leaves a
source that fails, stands still or is silent, looks for a better one while it follows, and has no
gap over any change, because each source is asked for what comes after what the copy has. When its
source no longer remembers enough, it builds a snapshot beside the copy and swaps it in whole.
Whatever fails, the copy keeps its last good state and the loop tries again from there; only being
cancelled ends it.
"""

import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

import anyio
import structlog
from anyio import to_thread

from kythera.distribute.batch import Stretch, entry_bytes
from kythera.distribute.copy import Copy
from kythera.distribute.direct import Followed
from kythera.distribute.horizon import HORIZON_KEY, horizon_of
from kythera.distribute.log import Log, LogBehind, LogPruned
from kythera.distribute.relay import SourceEnded
from kythera.distribute.snapshot import take_snapshot
from kythera.distribute.sources import LOG, Chooser, Facts, Source, candidates
from kythera.ground.clock import Clock
from kythera.model.errors import StoreUnavailable
from kythera.model.limits import Limits

RETRY_MS_MIN = 100
RETRY_MS_MAX = 5_000
LOOK_MS = 1_000
"""Between two looks whether a better source is to be had."""

_events = structlog.get_logger()


async def follow_into(log: Log, copy: Copy, on_applied: Callable[[int], None]) -> None:
    """Bring `copy` up to the log and keep it there, for ever.

    After each batch is durable in the copy, `on_applied` gets the sequence number the copy now
    has; what changed is read from the copy (`changes_after`). If it raises, so does this.
    """
    async with contextlib.aclosing(_applied(log, copy)) as sequences:
        async for seq in sequences:
            on_applied(seq)


async def _applied(log: Log, copy: Copy) -> AsyncGenerator[int, None]:
    retry_ms = RETRY_MS_MIN
    while True:
        try:
            async with contextlib.aclosing(log.follow(copy.applied_seq())) as batches:
                async for batch in batches:
                    # Off the event loop: syncing a slow disk must not hold up a cold start.
                    fresh = await to_thread.run_sync(copy.apply, batch)
                    retry_ms = RETRY_MS_MIN
                    if fresh:
                        yield fresh[-1].seq
        except StoreUnavailable as error:
            _events.error("records_not_applied", why=str(error), retry_ms=retry_ms)
        await anyio.sleep(retry_ms / 1000)
        retry_ms = min(retry_ms * 2, RETRY_MS_MAX)


@dataclass
class Following:
    """What is known of a follower, for status: from whom, how far, what is wrong."""

    source: Source | None = None
    """None: nobody has given anything yet."""
    applied: int = 0
    newest: int = 0
    """The newest sequence the source is known to have."""
    whole: bool = False
    """Whether the copy has once had everything its source had."""
    snapshot: float | None = None
    """Which part (0..1) of a snapshot is there, while one is being taken."""
    trouble: str = ""
    """Why nothing new comes; empty while all is well."""
    behind: bool = False
    """The log ends before what this machine has: its store was lost. The copy serves on."""

    @property
    def share(self) -> float:
        """Return how much of what the source has is here, from 0 to 1."""
        if self.snapshot is not None:
            return self.snapshot
        if self.source is None and not self.whole:
            return 0.0
        return 1.0 if self.newest <= self.applied else self.applied / self.newest


Open = Callable[[Source], Followed]
"""Returns a source, ready to be followed; may raise StoreUnavailable."""


class ListenerFailed(Exception):
    """Whoever is told of what was applied raised `error`; no source is to blame."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Follower:
    """Keeps one copy up to date from sources that may change. `state` tells how it is."""

    def __init__(
        self,
        copy: Copy,
        facts: Callable[[], Facts],
        open_source: Open,
        limits: Limits,
        clock: Clock,
    ) -> None:
        self.state = Following(applied=copy.applied_seq(), whole=copy.is_whole())
        self._copy = copy
        self._facts = facts
        self._open = open_source
        self._limits = limits
        self._clock = clock
        self._chooser = Chooser(limits)
        self._stalled: set[Source] = set()
        """Sources that were left because nothing new came from them."""
        self._on_applied: Callable[[int], None] = lambda _: None

    async def run(self, on_applied: Callable[[int], None]) -> None:
        """Follow for ever. After each batch that is durable `on_applied` gets the sequence the copy
        now has; what changed is read from the copy (`changes_since`). If it raises, so does this.
        """
        self._on_applied = on_applied
        retry_ms = RETRY_MS_MIN
        source = self._chooser.choose(self._facts(), self._clock.monotonic())
        while True:
            began, before = self._clock.monotonic(), self.state.applied
            try:
                await self._follow_while_best(source)
            except StoreUnavailable as error:
                now = self._clock.monotonic()
                self._chooser.failed(source, now, held_s=now - began)
                if self.state.applied > before:
                    retry_ms = RETRY_MS_MIN
                self._note(source, error, retry_ms)
                # The next one at once, before the rest of this one is over.
                source = self._chooser.choose(self._facts(), now)
                if self._chooser.rests(source, now):
                    await anyio.sleep(retry_ms / 1000)
                    retry_ms = min(retry_ms * 2, RETRY_MS_MAX)
            except ListenerFailed as failed:
                raise failed.error from None
            else:
                source = self._chooser.choose(self._facts(), self._clock.monotonic())

    def _note(self, source: Source, error: StoreUnavailable, retry_ms: int) -> None:
        self.state.trouble = f"{source}: {error}"
        if isinstance(error, LogBehind):
            self.state.behind = True
            _events.error("log_was_lost", why=str(error), applied_seq=self.state.applied)
            return
        _events.error("records_not_applied", source=str(source), why=str(error), retry_ms=retry_ms)

    async def _follow_while_best(self, source: Source) -> None:
        """Follow until the source fails (raises), or a better one answers (returns)."""
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._look_for_better, source, tasks.cancel_scope)
            try:
                await self._follow(source)
            except Exception as error:  # noqa: BLE001 (raised again below, outside the group)
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _follow(self, source: Source) -> None:
        opened = self._open(source)
        try:
            await self._take_all(source, opened)
        except LogPruned as error:
            _events.warning("records_snapshot_begins", source=str(source), why=str(error))
            try:
                await take_snapshot(opened, self._copy, self._show_snapshot)
            finally:
                self.state.snapshot = None
            _events.warning("records_snapshot_taken", source=str(source))
            self._applied(self._copy.applied_seq())

    def _show_snapshot(self, share: float) -> None:
        self.state.snapshot = share

    async def _take_all(self, source: Source, opened: Followed) -> None:
        patience = Patience(self._limits, self._clock) if source != LOG else None
        basket = Basket(self._limits.batch_bytes_max)
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read, opened, basket, patience)
            try:
                await self._empty(source, basket, patience)
            except Exception as error:  # noqa: BLE001 (raised again below, outside the group)
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _read(self, opened: Followed, basket: "Basket", patience: "Patience | None") -> None:
        """Fill the basket while what was in it is being applied."""
        failure: StoreUnavailable = SourceEnded("The source ended.")
        try:
            async with contextlib.aclosing(opened.stretches(self._copy.applied_seq())) as stretches:
                async for stretch in stretches:
                    if patience is not None:
                        patience.note(stretch.newest, self._copy.applied_seq())
                    await basket.put(stretch)
        except StoreUnavailable as error:
            failure = error
        basket.end(failure)

    async def _empty(self, source: Source, basket: "Basket", patience: "Patience | None") -> None:
        while True:
            stretch: Stretch | None = None
            with anyio.move_on_after(None if patience is None else patience.left_s()):
                stretch = await basket.take()
            if stretch is None:
                self._stalled.add(source)
                raise SourceEnded(f"The source {source} has had nothing new for too long.")
            await self._take(source, stretch)
            await self._whole(stretch.newest)

    async def _take(self, source: Source, stretch: Stretch) -> None:
        state = self.state
        state.source, state.trouble, state.behind = source, "", False
        state.newest = stretch.newest
        if stretch.to_seq <= self._copy.applied_seq():
            return
        # Off the event loop: syncing a slow disk must not hold up a cold start.
        await to_thread.run_sync(_apply, self._copy, stretch)
        self._applied(stretch.to_seq)

    def _applied(self, seq: int) -> None:
        self.state.applied = seq
        self.state.newest = max(seq, self.state.newest)
        self._tell(seq)

    def _tell(self, seq: int) -> None:
        try:
            self._on_applied(seq)
        except Exception as error:
            raise ListenerFailed(error) from error

    async def _whole(self, target: int) -> None:
        if not self.state.whole and self._copy.applied_seq() >= target:
            await to_thread.run_sync(self._copy.mark_whole)
            self.state.whole = True
            self._tell(self.state.applied)

    async def _look_for_better(self, current: Source, scope: anyio.CancelScope) -> None:
        """End `scope` when another source shall be followed, and only when that one answers."""
        while True:
            await anyio.sleep(LOOK_MS / 1000)
            facts = self._facts()
            found = self._chooser.better(facts, current, self._clock.monotonic())
            if found is not None:
                if await self._answers(found):
                    self._chooser.answered(found)
                    self._stalled.discard(found)
                    scope.cancel()
                    return
                if self.state.snapshot is None:  # else it refuses because we are so far behind
                    self._chooser.failed(found, self._clock.monotonic())
            elif current not in candidates(facts):
                scope.cancel()
                return

    async def _answers(self, source: Source) -> bool:
        """Tell whether a source has what this machine has, and says so in time.

        One that was left because it stood still must get more than that: standing where this
        machine stands it may be cut off from the log as before. A heartbeat comes each second."""
        seq = self._copy.applied_seq() + (1 if source in self._stalled else 0)
        with anyio.move_on_after(self._limits.source_silent_ms_max / 1000):
            try:
                opened = self._open(source).stretches(self._copy.applied_seq())
                async with contextlib.aclosing(opened) as stretches:
                    async for stretch in stretches:
                        if stretch.newest >= seq:
                            return True
            except StoreUnavailable as error:
                _events.info("records_source_refused", source=str(source), why=str(error))
        return False


def _apply(copy: Copy, stretch: Stretch) -> None:
    """Apply a stretch. A new horizon lets the tombstones below the earlier one go: those below the
    new one are kept until whoever removes them from the log is sure to have done so."""
    earlier = None
    if any(entry.key == HORIZON_KEY for entry in stretch.entries):
        earlier = copy.get(HORIZON_KEY)
    copy.apply(stretch.entries, stretch.to_seq)
    if earlier is not None:
        copy.prune(horizon_of(earlier[1]))


class Basket:
    """What has come and is not applied yet, as one stretch: a slow disk syncs once for all of it.

    Holds about `bytes_max`; whoever brings more waits."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held: Stretch | None = None
        self._bytes = 0
        self._failure: StoreUnavailable | None = None
        self._changed = anyio.Event()

    async def put(self, stretch: Stretch) -> None:
        """Add what comes next, waiting for room."""
        while self._held is not None and self._bytes > self._bytes_max:
            await self._changed.wait()
        held = self._held
        entries = [*held.entries, *stretch.entries] if held is not None else stretch.entries
        self._held = Stretch(entries, stretch.to_seq, stretch.newest)
        self._bytes += sum(map(entry_bytes, stretch.entries))
        self._wake()

    def end(self, failure: StoreUnavailable) -> None:
        """Nothing more comes; what is held is still given out."""
        self._failure = failure
        self._wake()

    async def take(self) -> Stretch:
        """Wait for something and return all there is. Raises what the end was given."""
        while self._held is None:
            if self._failure is not None:
                raise self._failure
            await self._changed.wait()
        found, self._held, self._bytes = self._held, None, 0
        self._wake()
        return found

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


class Patience:
    """How long a relay is still waited for: it must speak, and what it has must grow."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._silent_s = limits.source_silent_ms_max / 1000
        self._stalled_s = limits.source_stalled_ms_max / 1000
        self._clock = clock
        self._spoke = self._grew = clock.monotonic()
        self._newest = -1

    def note(self, newest: int, applied: int) -> None:
        """Take a sign of life; one from a source that has less than we do does not count."""
        if newest < applied:
            return
        self._spoke = self._clock.monotonic()
        if newest > self._newest:
            self._newest, self._grew = newest, self._spoke

    def left_s(self) -> float:
        """Return for how many seconds more it is waited for."""
        ends = min(self._spoke + self._silent_s, self._grew + self._stalled_s)
        return max(0.0, ends - self._clock.monotonic())
