"""This machine's stores, joined: each is a program of its own beside the cells, with a socket.

A store is started through the keeper, which owns its socket: what cells ask waits while it is down.
Cells show it their pass (`ground.passes`), signed with a key that never leaves this machine.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import anyio

from kythera.ground.layout import Layout
from kythera.ground.passes import store_key
from kythera.model.catalog import Catalog
from kythera.node.cache_store import CachePart
from kythera.node.inner_door import InnerDoor
from kythera.node.keeper_client import Exited, KeeperClient
from kythera.node.kv_part import KvPart
from kythera.node.python_store import PythonStore
from kythera.node.queue_store import QueueStore
from kythera.node.r2 import R2
from kythera.node.workerd_store import StoreHost, StoreNeeds, WorkerdStore
from kythera.run.bindings import FLEET, StoreDoors
from kythera.run.bindings_services import SERVICES
from kythera.run.databases import DATABASE, databases_config


class StorePart(Protocol):
    """One store of this machine, as the agent drives it."""

    name: str
    """As in `run.bindings.STORES`, and in the name of its socket."""

    async def run(self) -> None:
        """Keep it alive, for ever."""
        ...

    def note(self, event: Exited) -> None:
        """Take the keeper's word that a process has ended."""
        ...

    def records_changed(self, catalog: Catalog) -> None:
        """Look at the records: what there is to keep, and for whom."""
        ...


def store_doors(layout: Layout, stores: Iterable[str]) -> StoreDoors:
    """Return what cells are given."""
    sockets = {store: layout.store_socket(store) for store in stores}
    return StoreDoors(sockets, store_key(layout.store_key))


class Stores:
    """All of them."""

    def __init__(self, layout: Layout, keeper: KeeperClient, parts: Sequence[StorePart]) -> None:
        self._layout = layout
        self._keeper = keeper
        self._parts = parts

    async def open(self) -> None:
        """Have their sockets; before a cell starts, which is shown those it may use."""
        for part in self._parts:
            path = self._layout.store_socket(part.name)
            await self._keeper.listen(f"store/{part.name}", path)
            # Cells have users of their own; who is not one of ours does not get past the folder.
            await anyio.Path(path).chmod(0o666)

    async def run(self) -> None:
        """Keep them alive, for ever."""
        async with anyio.create_task_group() as tasks:
            for part in self._parts:
                tasks.start_soon(part.run)

    def note(self, event: Exited) -> None:
        """Tell them that a process has ended."""
        for part in self._parts:
            part.note(event)

    def records_changed(self, catalog: Catalog) -> None:
        """Have them look at the records."""
        for part in self._parts:
            part.records_changed(catalog)


def parts_of(host: StoreHost) -> list[StorePart]:
    """Return this machine's stores."""
    layout, keeper, limits = host.layout, host.keeper, host.platform.limits
    ours = [
        CachePart("cache", layout, keeper, limits),
        PythonStore("ratelimit", layout, keeper, limits),
        PythonStore("analytics", layout, keeper, limits),
        PythonStore("hyperdrive", layout, keeper, limits, "kythera.store.hyperdrive"),
    ]
    for part in ours:
        part.started, part.tell = host.started, host.tell
    return [
        *ours,
        InnerDoor(SERVICES),
        InnerDoor(FLEET),
        KvPart(host),
        WorkerdStore(DATABASE, host, databases_config, StoreNeeds(counts=True)),
        QueueStore(host),
        R2(host),
    ]
