"""The loop that drives a copy: follow the log, apply each batch, say so.

Whatever fails, the copy keeps its last good state and the loop tries again from there; only being
cancelled ends it.
"""

import contextlib
from collections.abc import AsyncGenerator, Callable

import anyio
import structlog
from anyio import to_thread

from kythera.distribute.copy import Copy
from kythera.distribute.log import Log
from kythera.model.errors import StoreUnavailable

RETRY_MS_MIN = 100
RETRY_MS_MAX = 5_000

_events = structlog.get_logger()


async def follow_into(log: Log, copy: Copy, on_applied: Callable[[int], None]) -> None:
    """Bring `copy` up to the log and keep it there, for ever.

    After each batch is durable in the copy, `on_applied` gets the sequence number the copy now
    has; what changed is read from the copy (`changes_after`). If it raises, so does this.
    """
    async with contextlib.aclosing(_applied(log, copy)) as sequences:
        async for seq in sequences:
            on_applied(seq)


async def _applied(log: Log, copy: Copy) -> AsyncGenerator[int, None]:
    retry_ms = RETRY_MS_MIN
    while True:
        try:
            async with contextlib.aclosing(log.follow(copy.applied_seq())) as batches:
                async for batch in batches:
                    # Off the event loop: syncing a slow disk must not hold up a cold start.
                    fresh = await to_thread.run_sync(copy.apply, batch)
                    retry_ms = RETRY_MS_MIN
                    if fresh:
                        yield fresh[-1].seq
        except StoreUnavailable as error:
            _events.error("records_not_applied", why=str(error), retry_ms=retry_ms)
        await anyio.sleep(retry_ms / 1000)
        retry_ms = min(retry_ms * 2, RETRY_MS_MAX)
