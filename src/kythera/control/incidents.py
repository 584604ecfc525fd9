"""What befalls cells, from this machine's agent into the log: so that it outlives the agent, and every
machine can tell of it.

Gathers the agent's own count, writes what has changed, and ends what belongs to workers that are
gone; at most once in INCIDENTS_S, so that a worker that is killed a thousand times a minute costs a
few records. While the log is away nothing is lost but the pace: the agent's count goes on.
"""

import anyio

from kythera.control.peers_status import own_status
from kythera.control.services import Services
from kythera.control.store import Change, end, put
from kythera.model.catalog import Catalog
from kythera.model.errors import Conflict, KytheraError
from kythera.model.records import Incidents

INCIDENTS_S = 5.0


async def keep_telling(services: Services) -> None:
    """Write what has changed, now and then, for ever."""
    while True:
        await anyio.sleep(INCIDENTS_S)
        await tell(services)


async def tell(services: Services) -> None:
    """Write what has changed since it was last written."""
    try:
        told = (await own_status(services)).incidents
        catalog = services.store.catalog()
        for change in changes(catalog, told, services.me):
            await services.store.write([change])
    except (KytheraError, Conflict) as error:
        services.journal.say("incidents_postponed", reason=str(error))


def changes(catalog: Catalog, told: list[Incidents], machine: str) -> list[Change]:
    """Return the records to write: the agent's, where they differ from what is known. Pure."""
    known = {record.key(): record for record in catalog.incidents()}
    there = {(worker.account, worker.name) for worker in catalog.workers()}
    fresh = [
        put(incidents)
        for incidents in told
        if (incidents.account, incidents.worker) in there
        and known.get(incidents.key()) != incidents
    ]
    gone = [
        end(record.key())
        for record in known.values()
        if record.machine == machine and (record.account, record.worker) not in there
    ]
    return [*fresh, *gone]
