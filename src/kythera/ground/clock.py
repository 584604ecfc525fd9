"""Time, as something that is handed in: whoever needs the time takes a `Clock`.

Deciding code takes plain numbers instead; this is for the code that drives it.
"""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Two clocks: `now` is what a calendar shows, `monotonic` never goes back."""

    def now(self) -> float:
        """Return Unix time in seconds."""
        ...

    def monotonic(self) -> float:
        """Return seconds since some fixed moment; only differences mean anything."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> float:
        """Return Unix time in seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Return the machine's monotonic clock in seconds."""
        return time.monotonic()


def iso(now: float) -> str:
    """Return Unix time as RFC 3339 in UTC with microseconds: `2026-11-23T03:07:59.015332Z`."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
