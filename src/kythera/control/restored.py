"""At the first start after a restore: what was saved goes into the log again.

Promises: each record is written once, over nothing; a start that is cut short goes on at the next;
until all are written nothing else of the platform is made anew.
"""

import anyio

from kythera.control.services import Services
from kythera.distribute.archive import pending, written
from kythera.ground.layout import Layout
from kythera.model.errors import Conflict, StoreUnavailable

RETRY_MS = 200


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
        written(layout)
        services.journal.say("restored", records=len(rows))
