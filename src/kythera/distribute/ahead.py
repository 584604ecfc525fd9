"""Which versions' blobs a machine shall have before anybody asks for them. Pure.

A version that is deployed comes everywhere, if it is small (`Fetcher.prefetch` looks at the size).
A core machine gets every version whole: the fleet may forget a blob only when no version refers to
it, and whoever lacks one finds it in the core.
"""

from collections.abc import Collection, Iterator

from kythera.model.catalog import Catalog
from kythera.model.records import Version


def deployed_versions(catalog: Catalog) -> Iterator[Version]:
    """Yield the versions that serve, of all workers."""
    for worker in catalog.workers():
        deployment = catalog.deployed(worker.account, worker.name)
        for split in deployment.versions if deployment is not None else ():
            version = catalog.version(worker.account, worker.name, split.version_id)
            if version is not None:
                yield version


def all_versions(catalog: Catalog) -> Iterator[Version]:
    """Yield every version there is a record of."""
    for record in catalog.records.values():
        if isinstance(record, Version):
            yield record


def ahead_of_need(catalog: Catalog, had: Collection[str], *, core: bool) -> list[Version]:
    """Return the versions to fetch now, those that serve first; `had` are the keys of those that
    need no more looking at."""
    wanted = {version.key(): version for version in deployed_versions(catalog)}
    if core:
        wanted = {**wanted, **{version.key(): version for version in all_versions(catalog)}}
    return [version for key, version in wanted.items() if key not in had]
