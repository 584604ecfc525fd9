"""Reads that show what was acknowledged on another machine.

Promises: in a fleet a call waits until this machine's copy has what the log had when the call came,
for `read_your_writes_ms` at most; one question to the log for each call of the API, none for visitors.
When the log is away or the copy does not follow, calls are answered from the copy, with a note that
says how old it is; and as long as that lasts they do not wait long for it (AWAY_MS), but for one
every RETRY_S.
"""

from typing import TYPE_CHECKING

import anyio

from kythera.ground.clock import iso
from kythera.model.errors import StoreUnavailable

if TYPE_CHECKING:
    from kythera.control.store import Store
    from kythera.ground.clock import Clock
    from kythera.model.limits import Limits

AWAY_MS = 250
RETRY_S = 10.0


class Freshness:
    """Waits for the copy; remembers whether waiting has been of any use."""

    def __init__(self) -> None:
        self._tried_at: float | None = None
        """When somebody last began to wait in vain, or is still waiting; None while all is well."""

    async def wait(self, store: "Store", limits: "Limits", clock: "Clock") -> str:
        """Wait until the copy is as new as the log is now. Returns "", or what to tell the reader."""
        within_ms = self._patience_ms(limits, clock.monotonic())
        newest: int | None = None
        with anyio.move_on_after(within_ms / 1000):
            try:
                newest = await store.newest()
                await store.shows(newest)
            except StoreUnavailable:
                pass
            else:
                self._tried_at = None
                return ""
        if self._tried_at is None:
            self._tried_at = clock.monotonic()
        return stale(store, newest)

    def _patience_ms(self, limits: "Limits", now: float) -> int:
        if self._tried_at is None:
            return limits.read_your_writes_ms
        if now - self._tried_at < RETRY_S:
            return min(AWAY_MS, limits.read_your_writes_ms)
        self._tried_at = now
        return limits.read_your_writes_ms


def stale(store: "Store", newest: int | None) -> str:
    """Return in words how old the copy is."""
    heartbeat = store.catalog().heartbeat()
    as_of = f"as of {iso(heartbeat.at_ms / 1000)}" if heartbeat is not None else "of unknown age"
    if newest is None:
        return f"The log cannot be reached: this is this machine's copy of the records, {as_of}."
    behind = max(0, newest - store.applied_seq())
    return f"This machine's copy of the records is {behind} records behind the log, {as_of}."
