"""Short objects that were just written or read, kept in the store's memory.

Promises: nobody is shown what an acknowledged write has replaced. Each write to a key is told before
the engine hears of it, and after; what was read meanwhile is not kept, and of two writes at once
neither. Nothing is kept while the engine may still do what was asked and not waited for: by a write
that broke off, or by a store before this one. It holds only where every write passes this one
process, so not at an endpoint that others write to. When `bytes_max` is reached what was not asked
for the longest goes.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from kythera.ground.clock import Clock
from kythera.store.r2_objects import Found

OVERHEAD_BYTES = 1_024
"""What an object takes beside its bytes and its metadata."""
QUIET_S = 5.0
"""So long after a start nothing is kept, nor after a write that broke off: the engine may do it yet."""
STAMPS = 4_096
"""Keys share so many; a write to one costs another that it is read once more."""
Name = tuple[str, str]
"""Bucket and key."""


@dataclass
class Writing:
    """A write under way."""

    kept: dict[Name, tuple[Found, bytes]] = field(default_factory=dict)
    """What is there when it has succeeded; to be filled by whoever writes."""


class Hot:
    """Objects by bucket and key."""

    def __init__(self, bytes_max: int, clock: Clock) -> None:
        self._bytes_max = bytes_max
        self._clock = clock
        self._bytes = 0
        self._objects: OrderedDict[Name, tuple[Found, bytes]] = OrderedDict()
        self._stamps = [0] * STAMPS
        """How many writes have begun or ended, by slot."""
        self._writers = [0] * STAMPS
        """How many are under way."""
        self._quiet_until = [clock.monotonic() + QUIET_S] * STAMPS

    def get(self, name: Name) -> tuple[Found, bytes] | None:
        """Return an object and its bytes, if it is kept."""
        held = self._objects.get(name)
        if held is not None:
            self._objects.move_to_end(name)
        return held

    def stamp(self, name: Name) -> int:
        """Return what `keep` wants to know: which writes there had been when a read began."""
        return self._stamps[_slot(name)]

    def keep(self, name: Name, stamp: int, found: Found, body: bytes) -> None:
        """Keep what was read, unless something was written since `stamp`, or is being written."""
        slot = _slot(name)
        if self._clock.monotonic() < self._quiet_until[slot] or self._writers[slot]:
            return
        if self._stamps[slot] == stamp:
            self._put(name, found, body)

    @contextmanager
    def writing(self, names: Iterable[Name]) -> Iterator[Writing]:
        """Forget these objects, now and at the end of the block; then keep what it has written."""
        told = list(names)
        self._told(told, 1)
        began = {name: self.stamp(name) for name in told}
        write = Writing()
        try:
            yield write
        except BaseException:
            write.kept.clear()
            for name in told:
                self._quiet_until[_slot(name)] = self._clock.monotonic() + QUIET_S
            raise
        finally:
            alone = {name for name in told if self.stamp(name) == began[name]}
            self._told(told, -1)
            for name, (found, body) in write.kept.items():
                if name in alone:
                    self.keep(name, self.stamp(name), found, body)

    def _told(self, names: Iterable[Name], writers: int) -> None:
        for name in names:
            self._stamps[_slot(name)] += 1
            self._writers[_slot(name)] += writers
            if (held := self._objects.pop(name, None)) is not None:
                self._bytes -= _size(*held)

    def _put(self, name: Name, found: Found, body: bytes) -> None:
        size = _size(found, body)
        if size > self._bytes_max:
            return
        if (held := self._objects.pop(name, None)) is not None:
            self._bytes -= _size(*held)
        self._objects[name] = found, body
        self._bytes += size
        while self._bytes > self._bytes_max:
            _, gone = self._objects.popitem(last=False)
            self._bytes -= _size(*gone)


def _slot(name: Name) -> int:
    return hash(name) % STAMPS


def _size(found: Found, body: bytes) -> int:
    custom = sum(len(f.k) + len(f.v) for f in found.kept.custom)
    return OVERHEAD_BYTES + len(found.key) + custom + len(body)
