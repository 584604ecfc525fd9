"""Which processes are busy, and so may wait a moment: CPU clocks in, changes of pace out. Pure.

A process that burns most of a core is patient: it answers several requests each time it wakes, and
that costs less for each of them. Any other is quick: so a quiet worker, and a front door that has
little to do, do not wait until a busy one has used up its time. Both get the same share of a core
that is full. How it is told to the kernel is in `ground/scheduling.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

BUSY_SHARE = 0.5
QUIET_SHARE = 0.25


@dataclass(slots=True)
class _Pace:
    cpu_s: float
    at: float
    busy: bool = True
    """Who is new is busy starting, and has to prove that it is not."""


class Paces:
    """The pace of each process, by a key of its own. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._paces: dict[int, _Pace] = {}

    def look(self, cpu_s: Mapping[int, float], now: float) -> dict[int, bool]:
        """Take all CPU clocks; return those whose pace changes: True means busy. Who is new is busy."""
        changed = {}
        for key, burnt in cpu_s.items():
            pace = self._paces.get(key)
            if pace is None:
                pace = self._paces[key] = _Pace(burnt, now)
                changed[key] = True
            if now <= pace.at:
                continue
            share = (burnt - pace.cpu_s) / (now - pace.at)
            pace.cpu_s, pace.at = burnt, now
            busy = share >= (QUIET_SHARE if pace.busy else BUSY_SHARE)
            if busy != pace.busy:
                pace.busy = changed[key] = busy
        for gone in self._paces.keys() - cpu_s.keys():
            del self._paces[gone]
        return changed

    def busy(self) -> set[int]:
        """Return those that are busy now."""
        return {key for key, pace in self._paces.items() if pace.busy}
