"""The configuration of a store that is a workerd of its own, beside the cells.

Pure. Promises two sockets, `http` for what cells and the API ask and `pulse` on which the agent sees
that the process answers; a service `disk`, the one folder that it can write; and no way out, but
what a store's own services add.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kythera.run.config import OWN_COMPATIBILITY_DATE, PULSE, encode
from kythera.run.outbound import NOTHING, nothing
from kythera.run.prelude import source

DISK = "disk"
"""The service, for a worker's `durableObjectStorage`."""
DATA_FOLDER = Path("/data")
"""Where a store in a sandbox finds it."""

Fields = dict[str, Any]


@dataclass(frozen=True)
class StoreView:
    """What the machine adds to the records to make a store's configuration."""

    disk: Path
    """The folder that it can write, as the process sees it."""
    key: str
    """What passes are signed with."""
    limits: dict[str, int]
    """Names of `model.limits`, for a script that holds them."""


def store_config(services: Sequence[Fields], door: Fields, view: StoreView) -> bytes:
    """Return a whole configuration: `door` names the service (and entrypoint) behind `http`."""
    disk = {"name": DISK, "disk": {"path": str(view.disk), "writable": True}}
    sockets = [
        {"name": "http", "http": {}, "service": door},
        {"name": PULSE, "http": {}, "service": {"name": NOTHING}},
    ]
    return encode({"services": [nothing(), disk, *services], "sockets": sockets})


def own_modules(*names: str) -> list[Fields]:
    """Return scripts of ours (`run/js`) as modules; the first one is the worker's main module."""
    return [{"name": name, "esModule": source(name)} for name in names]


def bundled(name: str) -> Fields:
    """Return a script that is in workerd's binary as a module, such as `d1.js`."""
    return {"name": name, "bundled": f"/workerd/{name}"}


def store_worker(modules: Sequence[Fields], bindings: Sequence[Fields], **more: Any) -> Fields:
    """Return a worker of ours that reaches nothing but what its bindings lead to. `more`: fields
    of workerd's Worker, such as `durableObjectNamespaces`."""
    return {
        "modules": list(modules),
        "compatibilityDate": OWN_COMPATIBILITY_DATE,
        "bindings": list(bindings),
        "globalOutbound": {"name": NOTHING},
        **more,
    }
