"""Who watches which worker, and what they get to see: events in, frames out.

Promises: a slow watcher costs bounded memory and nobody else's frames; events of a worker that
nobody watches are not even read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import msgspec
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from kythera.ground.chance import Chance
from kythera.ground.clock import Clock
from kythera.model.limits import MIB, Limits
from kythera.model.records import Tail
from kythera.observe.tail import Filter, Flood, frame, notice, stored_filters, wants

FRAMES_WAITING_MAX = 256
BYTES_WAITING_MAX = 4 * MIB


@dataclass(eq=False)
class Watch:
    """One connected watcher."""

    tail: Tail
    filters: tuple[Filter, ...]
    flood: Flood
    send: MemoryObjectSendStream[bytes]
    frames: MemoryObjectReceiveStream[bytes]
    waiting_bytes: int = 0
    lost: int = field(default=0)
    """Frames that the watcher was too slow for."""

    def offer(self, data: bytes) -> None:
        """Queue a frame, or lose it."""
        if self.waiting_bytes + len(data) > BYTES_WAITING_MAX:
            self.lost += 1
            return
        try:
            self.send.send_nowait(data)
        except (anyio.WouldBlock, anyio.BrokenResourceError, anyio.ClosedResourceError):
            self.lost += 1
        else:
            self.waiting_bytes += len(data)

    async def next_frame(self) -> bytes:
        """Wait for the next frame."""
        data = await self.frames.receive()
        self.waiting_bytes -= len(data)
        return data

    def close(self) -> None:
        """Let go of the queue."""
        self.send.close()
        self.frames.close()


class TailHub:
    """All watchers of this process."""

    def __init__(self, limits: Limits, clock: Clock, chance: Chance) -> None:
        self._limits = limits
        self._clock = clock
        self._chance = chance
        self._watches: dict[tuple[str, str], list[Watch]] = {}

    def watch(self, tail: Tail) -> Watch:
        """Begin to watch; call `forget` in the end."""
        send, frames = anyio.create_memory_object_stream[bytes](FRAMES_WAITING_MAX)
        flood = Flood(self._limits.tail_events_per_s_max)
        watch = Watch(tail, stored_filters(tail.filters), flood, send, frames)
        self._watches.setdefault((tail.account, tail.worker), []).append(watch)
        return watch

    def forget(self, watch: Watch) -> None:
        """Watch no more."""
        name = (watch.tail.account, watch.tail.worker)
        self._watches[name].remove(watch)
        if not self._watches[name]:
            del self._watches[name]
        watch.close()

    def is_watched(self, account: str, worker: str) -> bool:
        """Tell whether somebody is connected to see this worker's events."""
        return (account, worker) in self._watches

    def is_connected(self, tail_id: str) -> bool:
        """Tell whether somebody is connected to this tail."""
        return any(w.tail.id == tail_id for watches in self._watches.values() for w in watches)

    def publish(self, account: str, worker: str, events: Sequence[Any]) -> None:
        """Show events of a worker to those who watch it."""
        for watch in self._watches.get((account, worker), ()):
            for event in events:
                if isinstance(event, dict):
                    self._show(watch, event)

    def _show(self, watch: Watch, event: dict[str, Any]) -> None:
        if not wants(watch.filters, event, self._chance.uniform(0, 1)):
            return
        now = self._clock.now()
        admitted, told = watch.flood.admit(now)
        if told is not None:
            watch.offer(msgspec.json.encode(notice(told, watch.tail.worker, now)))
        if admitted:
            watch.offer(frame(event, self._limits.tail_event_bytes_max))
