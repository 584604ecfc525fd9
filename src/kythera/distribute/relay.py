"""The records from one copy to another: a machine serves what it has, another follows that.

`Relay` serves: all changes after a sequence in order, then what comes, as frames (`batch`), with a
sign of life whenever nothing else was said for `heartbeat_ms`. `RelayLog` follows such a stream over
the mesh.
Promises: frames are made once for all who stand at the same place; who reads slowly is waited for
and costs nothing else; nothing is given out twice or left out, and the receiver checks that.
Refuses: to serve a copy that has never been whole (NotWhole), and to serve who has missed the ends
of records that nobody remembers (LogPruned): he takes a snapshot, which is everything up to now.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import anyio
import httpx
from anyio import to_thread

from kythera.distribute.batch import Frames, Reading, Stretch, frame
from kythera.distribute.horizon import HORIZON_KEY, horizon_of
from kythera.distribute.log import Entry, LogPruned
from kythera.model.errors import StoreUnavailable
from kythera.model.limits import MIB, Limits

PATH = "/records"
FRAMES_KEPT_MAX = 16
MANY_ENTRIES = 2_000
"""From this many on a batch is read in a thread, so that the loop goes on."""
PRUNED_STATUS = 410
GROWTH_BYTES = MIB
"""Room for a batch's last entry and its frame."""


class NotWhole(StoreUnavailable):
    """This machine's own copy is still being filled; others must not rely on it."""


class SourceEnded(StoreUnavailable):
    """A source stopped giving records, or would not begin."""


class Relayed(Protocol):
    """A copy, to serve from (`kythera.distribute.copy.Copy`)."""

    def applied_seq(self) -> int:
        """Return the newest sequence that was applied."""
        ...

    def get(self, key: str) -> tuple[int, bytes | None] | None:
        """Return a record's sequence and value."""
        ...

    def batch_after(self, seq: int, bytes_max: int) -> Stretch:
        """Return what follows a sequence."""
        ...

    def generation(self) -> int:
        """Return how often the records were replaced as a whole."""
        ...

    def is_whole(self) -> bool:
        """Tell whether the copy was ever whole."""
        ...


class Relay:
    """Serves one copy to any number of followers. Reads only."""

    def __init__(self, copy: Relayed, limits: Limits) -> None:
        self.followers = 0
        self._closed = False
        self._copy = copy
        self._limits = limits
        self._newest = 0
        self._watched = False
        self._rested_at = 0.0
        """When the copy is looked at again, at the earliest."""
        self._grown = anyio.Event()
        self._frames: dict[tuple[int, int, int], tuple[int, bytes]] = {}
        """(generation, newest, from) → to, frame. One that was made when the copy had less is not
        used: it may hold records whose ends are forgotten by now."""

    def close(self) -> None:
        """End all streams, soon: whoever follows goes elsewhere."""
        self._closed = True
        self._grown.set()

    def refuse(self, after_seq: int) -> None:
        """Raise NotWhole or LogPruned when a follower at this place cannot be served."""
        if not self._copy.is_whole():
            raise NotWhole("This machine's own copy of the records is not whole yet.")
        horizon = self.horizon()
        if 0 < after_seq < horizon:
            raise LogPruned(
                f"Ends of records up to {horizon} are no longer kept; after {after_seq} some would"
                " be missed.",
                remedy="Take a snapshot.",
            )

    def remembered(self, generation: int, after_seq: int) -> bool:
        """Tell whether what was just read after `after_seq` is all that happened: the copy is
        still of that generation, and has forgotten nothing that came later."""
        return self._copy.generation() == generation and self.horizon() <= after_seq

    def horizon(self) -> int:
        """Return up to where this copy may have forgotten the ends of records."""
        found = self._copy.get(HORIZON_KEY)
        return 0 if found is None else horizon_of(found[1])

    async def serve(self, after_seq: int, *, snapshot: bool = False) -> AsyncIterator[bytes]:
        """Yield frames from `after_seq` on, for ever; a snapshot ends where the copy stood.

        It ends early where it cannot go on without the risk of a gap. Raises as `refuse` does."""
        self.refuse(after_seq)
        generation = self._copy.generation()
        excused = self.horizon() if after_seq == 0 else 0
        target = self._copy.applied_seq()
        self._newest = max(self._newest, target)
        seq = after_seq
        self.followers += 1
        try:
            yield frame(target, target, [])
            while not (snapshot and seq >= target):
                more = await self._more(seq)
                if self._closed:
                    return
                if not more:
                    newest = self._copy.applied_seq()
                    yield frame(newest, newest, [])
                    continue
                before = seq
                seq, made = await self._frame_after(generation, before)
                if not self.remembered(generation, max(before, excused)):
                    return
                yield made
            if snapshot:
                yield frame(seq, seq, [])
        finally:
            self.followers -= 1

    async def _frame_after(self, generation: int, seq: int) -> tuple[int, bytes]:
        place = (generation, self._newest, seq)
        if place not in self._frames:
            made = await self._made(seq)
            while len(self._frames) >= FRAMES_KEPT_MAX:
                del self._frames[next(iter(self._frames))]
            self._frames[place] = made
        return self._frames[place]

    async def _made(self, seq: int) -> tuple[int, bytes]:
        if self._newest - seq > MANY_ENTRIES:
            return await to_thread.run_sync(self.make, seq)
        return self.make(seq)

    def make(self, seq: int) -> tuple[int, bytes]:
        """Return how far the next stretch after `seq` goes, and its frame."""
        stretch = self._copy.batch_after(seq, self._limits.batch_bytes_max)
        return stretch.to_seq, frame(seq, stretch.to_seq, stretch.entries)

    async def _more(self, seq: int) -> bool:
        """Wait until the copy has more than `seq`; False when it was quiet for `heartbeat_ms`.

        One of those who wait looks at the copy, for all."""
        with anyio.move_on_after(self._limits.heartbeat_ms / 1000):
            while self._newest <= seq and not self._closed:
                if self._watched:
                    await self._grown.wait()
                else:
                    await self._watch()
            return True
        return False

    async def _watch(self) -> None:
        self._watched = True
        try:
            await anyio.sleep(max(0.0, self._rested_at - anyio.current_time()))
            newest = self._copy.applied_seq()
            while newest <= self._newest and not self._closed:
                await anyio.sleep(self._limits.records_poll_ms / 1000)
                newest = self._copy.applied_seq()
            self._newest = max(newest, self._newest)
            self._rested_at = anyio.current_time() + self._limits.records_pace_ms / 1000
        finally:
            self._watched = False
            self._grown.set()
            self._grown = anyio.Event()


class Caller(Protocol):
    """Who asks other machines (`kythera.distribute.mesh.MeshClient`)."""

    def stream(
        self, peer: str, recorded: str, method: str, path: str, **more: Any
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """Ask a machine and hand over its answer as it comes."""
        ...


class RelayLog:
    """The log as another machine serves it: to follow, not to write."""

    def __init__(self, client: Caller, peer: str, recorded: str, limits: Limits) -> None:
        self._client = client
        self._peer = peer
        self._recorded = recorded
        self._limits = limits

    async def stretches(
        self, after_seq: int, *, snapshot: bool = False
    ) -> AsyncGenerator[Stretch, None]:
        """Yield what comes after `after_seq`, signs of life too; a snapshot ends when it is whole.

        Raises LogPruned when a snapshot is needed, BadBatch, SourceEnded, PeerUnreachable."""
        reading = Reading(after_seq)
        frames = Frames(self._limits.batch_bytes_max + self._limits.record_bytes_max + GROWTH_BYTES)
        path = f"{PATH}?after={after_seq}{'&snapshot=1' if snapshot else ''}"
        target: int | None = None
        async with self._client.stream(self._peer, self._recorded, "GET", path) as answer:
            if answer.status_code != httpx.codes.OK:
                await self._refused(answer)
            async for piece in answer.aiter_raw():
                for body in frames.feed(piece):
                    stretch = reading.take(body)
                    target = reading.newest if target is None else target
                    yield stretch
        if not snapshot or target is None or reading.seq < target:
            raise SourceEnded(f"The machine {self._peer!r} ended its stream of records.")

    async def _refused(self, answer: httpx.Response) -> None:
        text = (await answer.aread()).decode(errors="replace").strip()[:500]
        if answer.status_code == PRUNED_STATUS:
            raise LogPruned(text)
        raise SourceEnded(
            f"The machine {self._peer!r} does not serve records ({answer.status_code}): {text}"
        )

    def snapshot(self, after_seq: int) -> AsyncGenerator[Stretch, None]:
        """Yield everything after `after_seq` up to what the machine has now, and end."""
        return self.stretches(after_seq, snapshot=True)

    async def follow(self, after_seq: int) -> AsyncGenerator[list[Entry], None]:
        """Yield the entries after `after_seq` in order; it ends by raising, as `stretches` does."""
        async for stretch in self.stretches(after_seq):
            if stretch.entries:
                yield stretch.entries
