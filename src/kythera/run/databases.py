"""D1's process: workerd's own databases (SQLite objects on the disk) behind a door of ours.

Pure. One configuration for all databases: the door (`js/databases.js`) reads from a cell's pass which
one is meant, so that a new one needs no restart. The process is there once an account has any.
"""

import json

from kythera.model.catalog import Catalog
from kythera.model.records import Resource
from kythera.run.store_config import (
    DISK,
    StoreView,
    bundled,
    own_modules,
    store_config,
    store_worker,
)

DATABASE = "d1"
"""The store's name, the type of its resources, and the name of its folder on the disk: data are
lost to a process that is given another."""


def databases_config(catalog: Catalog, view: StoreView) -> bytes | None:
    """Return the configuration; None while there is no database."""
    there = any(isinstance(r, Resource) and r.type == DATABASE for r in catalog.records.values())
    if not there:
        return None
    limits = {name: value for name, value in view.limits.items() if name.startswith("d1_")}
    modules = [*own_modules("databases.js"), {**bundled("d1.js"), "name": "bundled-d1.js"}]
    worker = store_worker(
        modules,
        [
            {"name": "DATABASE", "durableObjectNamespace": {"className": "Database"}},
            {"name": "KEY", "text": view.key},
            {"name": "LIMITS", "json": json.dumps(limits)},
        ],
        durableObjectNamespaces=[
            {"className": "Database", "uniqueKey": DATABASE, "enableSql": True}
        ],
        durableObjectStorage={"localDisk": DISK},
    )
    return store_config([{"name": "databases", "worker": worker}], {"name": "databases"}, view)
