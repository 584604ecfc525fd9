"""Which processes are busy, and so may wait a moment: CPU clocks in, changes of pace out. Pure.

A process that burns most of a core answers several requests each time it wakes (SCHED_BATCH): that
costs less for each of them. Any other comes first when it wakes (SCHED_OTHER): so a quiet worker
does not wait until a busy one has used up its time. Both get the same share of a core that is full.
Source: sched(7): a waking SCHED_BATCH process never takes a core from one that runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

BUSY_SHARE = 0.5
QUIET_SHARE = 0.25


@dataclass(slots=True)
class _Pace:
    cpu_s: float
    at: float
    busy: bool = False


class Paces:
    """The pace of each process, by a key of its own. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._paces: dict[int, _Pace] = {}

    def look(self, cpu_s: Mapping[int, float], now: float) -> dict[int, bool]:
        """Take all CPU clocks; return those whose pace changes: True means busy."""
        changed = {}
        for key, burnt in cpu_s.items():
            pace = self._paces.setdefault(key, _Pace(burnt, now))
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
