"""The queues of this machine: their process, and a word to it of who consumes them.

A process is told after its start and at each change, and goes on with what it delivers. One whose engine
cannot be told is replaced.
"""

from http import HTTPStatus

import anyio
import httpx
import structlog

from kythera.ground.passes import PASS_HEADER, Pass, sign, store_key
from kythera.model.catalog import Catalog
from kythera.node.keeper_client import Exited
from kythera.node.workerd_store import StoreHost, StoreNeeds, WorkerdStore
from kythera.run.queues import (
    EVENTS_INSIDE,
    NO_TABLES,
    QUEUE,
    Fields,
    queue_tables,
    queues_config,
)
from kythera.run.store_config import StoreView

LOOK_S = 0.5
TOLD_S_MAX = 30.0


class QueueStore:
    """Keeps it alive: a `node.stores.StorePart`."""

    def __init__(self, host: StoreHost) -> None:
        self.name = QUEUE
        self._host = host
        sandboxed = host.platform.isolation.bubblewrap
        outside = host.layout.events_socket.absolute()
        self._events = EVENTS_INSIDE if sandboxed else outside
        sees = {EVENTS_INSIDE: outside} if sandboxed else {}
        needs = StoreNeeds(sees, lasts=self._lasting, counts=True)
        self._store = WorkerdStore(QUEUE, host, self._build, needs)
        self._tables = NO_TABLES
        self._changed = anyio.Event()
        self._told: tuple[int, Fields] | None = None
        """Which process knows what."""
        self._journal = structlog.get_logger("queues")

    def _build(self, catalog: Catalog, view: StoreView) -> bytes | None:
        return queues_config(catalog, view, self._events)

    def _lasting(self, catalog: Catalog, view: StoreView) -> bytes | None:
        return queues_config(catalog, view, self._events, tables=NO_TABLES)

    def note(self, event: Exited) -> None:
        """Take the keeper's word that a process has ended."""
        self._store.note(event)

    def records_changed(self, catalog: Catalog) -> None:
        """Look at the records: which queues there are, and who consumes them."""
        tables = queue_tables(catalog)
        if tables != self._tables:
            self._tables = tables
            changed, self._changed = self._changed, anyio.Event()
            changed.set()
        self._store.records_changed(catalog)

    async def run(self) -> None:
        """Keep it alive, for ever."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._store.run)
            tasks.start_soon(self._keep_telling)

    async def _keep_telling(self) -> None:
        while True:
            changed, tables = self._changed, self._tables
            held = self._host.keeper.processes.get(f"store/{QUEUE}")
            if held is not None and held.ready and self._told != (held.pid, tables):
                await self._tell(held.pid, tables)
            with anyio.move_on_after(LOOK_S):
                await changed.wait()

    async def _tell(self, pid: int, tables: Fields) -> None:
        layout = self._host.layout
        granted = Pass(account="", worker="", store=QUEUE, resource="")
        headers = {PASS_HEADER: sign(granted, store_key(layout.store_key))}
        transport = httpx.AsyncHTTPTransport(uds=str(layout.store_socket(QUEUE)), verify=False)
        try:
            async with httpx.AsyncClient(transport=transport, timeout=TOLD_S_MAX) as client:
                url = "http://store/ask/consumers"
                answer = await client.post(url, json=tables, headers=headers)
                if answer.status_code == HTTPStatus.NOT_IMPLEMENTED:
                    self._store.replace(pid)
                else:
                    answer.raise_for_status()
                self._told = pid, tables
        except httpx.HTTPError as error:
            self._journal.warning("queues_not_told", error=str(error) or type(error).__name__)
