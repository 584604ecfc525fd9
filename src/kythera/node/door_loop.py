"""The loops that watch the front door: what it refuses is counted, who is slow is hung up on.

Fail static: what HAProxy does not tell is asked for again; its own limits hold meanwhile.
"""

import anyio
import structlog

from kythera.model.errors import KytheraError
from kythera.model.limits import Limits
from kythera.node.status import MachineFacts
from kythera.route.door_watch import DoorWatch
from kythera.route.front import Front
from kythera.route.refusals import HEAD_NOT_SENT

COUNT_S = 1.0
QUIET = (HEAD_NOT_SENT,)
"""Reasons that are no news: a client that connects and leaves is among them."""


class DoorLoop:
    """Watches one machine's front door."""

    def __init__(self, front: Front, limits: Limits, facts: MachineFacts) -> None:
        self._front = front
        self._limits = limits
        self._facts = facts
        self._watch = DoorWatch(limits)
        self._journal = structlog.get_logger("door")

    async def count(self) -> None:
        """Keep what status tells of refusals current, for ever; log what is new."""
        while True:
            await anyio.sleep(COUNT_S)
            refusals = self._watch.refusals
            queues = dict(refusals.queues)
            try:
                await self._watch.count(await self._front.asks(), self._front.owner)
            except (KytheraError, OSError):
                continue  # HAProxy is starting or down; its loop says so.
            before, self._facts.refused = self._facts.refused, refusals.totals()
            new = {
                reason: count - before.get(reason, 0)
                for reason, count in self._facts.refused.items()
                if count > before.get(reason, 0) and reason not in QUIET
            }
            if new:
                full = {
                    "/".join(name): count - queues.get(name, 0)
                    for name, count in refusals.queues.items()
                    if count > queues.get(name, 0)
                }
                self._journal.warning("door_refused", **new, **({"queues": full} if full else {}))

    async def end_slow(self) -> None:
        """Hang up on who is slow, for ever."""
        while True:
            await anyio.sleep(self._limits.slow_look_s)
            try:
                await self._watch.end_slow(await self._front.asks(), anyio.current_time())
            except (KytheraError, OSError):
                continue
