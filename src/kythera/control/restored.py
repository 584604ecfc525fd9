"""At the first start after a restore: what was saved goes into the log again.

Promises: each record is written once, over nothing; a start that is cut short goes on at the next;
until all are written, and shown by this machine's copy, nothing else of the platform is made anew, and
the platform does not say that it is ready.
"""

from contextlib import suppress

import anyio

from kythera.control.services import Services
from kythera.distribute.archive import pending, written
from kythera.ground.layout import Layout
from kythera.model.errors import Conflict, StoreUnavailable

RETRY_MS = 200
SHOWN_MS_MAX = 10_000


async def take_back(layout: Layout, services: Services) -> None:
    """Write what a restore left to be written, however long the log takes to be there."""
    rows = await anyio.to_thread.run_sync(pending, layout)
    for key, value in rows:
        while True:
            try:
                await services.store.write_first(key, value)
            except Conflict:
                break  # An earlier start has written it.
            except StoreUnavailable:
                await anyio.sleep(RETRY_MS / 1000)
            else:
                break
    if rows:
        with anyio.move_on_after(SHOWN_MS_MAX / 1000), suppress(StoreUnavailable):
            await services.store.shows(await services.store.newest())
        written(layout)
        services.journal.say("restored", records=len(rows))
