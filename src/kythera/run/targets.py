"""What the records ask of this machine's cells. Pure."""

from kythera.model.catalog import Catalog
from kythera.run.cell import Want, WorkerKey


def targets(catalog: Catalog, now_iso: str, machine: str = "") -> dict[WorkerKey, dict[str, Want]]:
    """Return the versions of each worker that shall serve, with their shares of its traffic.

    A version is wanted observed while a tail watches its worker. Expiries of tails are believed
    on the machine (`machine`) that wrote them alone, as clocks may be hours apart: a tail of another
    machine counts as long as its record is there. A deployment that
    names a version whose record has not arrived yet is passed over for that version alone.
    `now_iso` is compared as text, as all timestamps in records are written alike."""
    found: dict[WorkerKey, dict[str, Want]] = {}
    for worker in catalog.workers():
        deployment = catalog.deployed(worker.account, worker.name)
        if deployment is None:
            continue
        observed = is_watched(catalog, worker.account, worker.name, now_iso, machine)
        found[(worker.account, worker.name)] = {
            split.version_id: Want(split.percentage, observed)
            for split in deployment.versions
            if catalog.version(worker.account, worker.name, split.version_id) is not None
        }
    return found


def is_watched(catalog: Catalog, account: str, worker: str, now_iso: str, machine: str) -> bool:
    """Tell whether a tail watches a worker, as far as this machine can believe."""
    return any(
        tail.machine not in ("", machine) or tail.expires_on > now_iso
        for tail in catalog.tails(account, worker)
    )
