"""Time, as something that is handed in: whoever needs the time takes a `Clock`.

Deciding code takes plain numbers instead; this is for the code that drives it.
"""

import time
from collections.abc import Callable
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


def wait_until(holds: Callable[[], bool], *, within_s: float, every_s: float = 0.01) -> bool:
    """Ask again and again until it holds or the time is over; tell which.

    It blocks: only for programs that have nothing else to do yet, never in a loop."""
    end = time.monotonic() + within_s
    while not holds():
        if time.monotonic() >= end:
            return False
        time.sleep(every_s)
    return True


def iso(now: float) -> str:
    """Return Unix time as RFC 3339 in UTC with microseconds: `2026-11-23T03:07:59.015332Z`."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
