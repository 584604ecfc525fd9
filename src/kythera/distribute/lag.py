"""How far behind this machine's copy is, told from the heartbeats in it.

Pure; times in milliseconds, monotonic ones from this machine's clock that never goes back. The lag
is how long ago the newest applied heartbeat was written. Writer and reader have clocks that may be
hours apart, so the writer's is not compared with ours: between heartbeats both run equally fast,
and the one that came soonest after it was written shows how the writer's clock stands to our
monotonic one. What is left above that is lag. Where the clocks agree as far as anybody can see, the
way of the fastest heartbeat counts as lag too.
"""

from collections import deque
from typing import NamedTuple

from kythera.model.records import Heartbeat

BEATS_KEPT_MAX = 60
AGREE_MS = 1_000.0
"""Clocks not farther apart than this are taken to be equal: then the difference is the way."""
LIVE_MS = 2_500.0
"""A heartbeat applied this soon after another one of its writer shows how the clocks stand. One
that was read from the disk, or after a cut, does not."""


class Lag(NamedTuple):
    """How it stands. None: not known yet.

    `clock_offset_ms`: how far this machine's clock is ahead of the writer's.
    `heartbeat_age_ms`: since the newest heartbeat was applied, by our clock alone."""

    lag_ms: float | None = None
    clock_offset_ms: float | None = None
    heartbeat_age_ms: float | None = None
    writer: str = ""
    number: int = 0


class Beat(NamedTuple):
    """A heartbeat as it was applied; `skew_ms` is our monotonic clock less the writer's."""

    heartbeat: Heartbeat
    applied_ms: float
    skew_ms: float


class LagMeter:
    """Takes heartbeats as they are applied; tells the lag at any time."""

    def __init__(self) -> None:
        self._newest: Beat | None = None
        self._live: deque[Beat] = deque(maxlen=BEATS_KEPT_MAX)

    def beat(self, heartbeat: Heartbeat, *, monotonic_ms: float) -> None:
        """Take a heartbeat that was applied now. The one that was taken last is no news."""
        before = self._newest
        if before is not None and before.heartbeat == heartbeat:
            return
        beat = Beat(heartbeat, monotonic_ms, monotonic_ms - heartbeat.at_ms)
        if before is not None and not _same_clock(before, beat):
            self._live.clear()
        elif before is not None and monotonic_ms - before.applied_ms <= LIVE_MS:
            self._live.append(beat)
        self._newest = beat

    def at(self, *, monotonic_ms: float, wall_ms: float) -> Lag:
        """Return the lag as of now; `wall_ms` is Unix time by this machine's clock."""
        newest = self._newest
        if newest is None:
            return Lag()
        about = (newest.heartbeat.machine, newest.heartbeat.number)
        age_ms = monotonic_ms - newest.applied_ms
        if not self._live:
            # Nothing shows how the clocks stand: believe them, where that makes sense.
            lag_ms = wall_ms - newest.heartbeat.at_ms
            return Lag(max(lag_ms, age_ms) if lag_ms >= 0 else None, None, age_ms, *about)
        skew_ms = min(beat.skew_ms for beat in self._live)
        offset_ms = (wall_ms - monotonic_ms) + skew_ms
        way_ms = offset_ms if 0 <= offset_ms <= AGREE_MS else 0.0
        lag_ms = monotonic_ms - newest.heartbeat.at_ms - skew_ms + way_ms
        return Lag(max(lag_ms, 0.0), offset_ms - way_ms, age_ms, *about)


def _same_clock(before: Beat, beat: Beat) -> bool:
    """Tell whether two heartbeats were written by one clock that nobody has set between them."""
    return (
        before.heartbeat.machine == beat.heartbeat.machine
        and beat.heartbeat.at_ms > before.heartbeat.at_ms
        and beat.heartbeat.number > before.heartbeat.number
    )
