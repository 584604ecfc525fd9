"""The queues of this machine: their process, and a word to it after each start.

The engine's shards sleep until their alarms ring, which are set for the consumers of the time before: so
each process that is started is told to look at the queues that have one now.
"""

import anyio
import httpx
import structlog

from kythera.ground.passes import PASS_HEADER, Pass, sign, store_key
from kythera.model.catalog import Catalog
from kythera.node.keeper_client import Exited
from kythera.node.workerd_store import StoreHost, StoreNeeds, WorkerdStore
from kythera.run.queues import EVENTS_INSIDE, QUEUE, consumed, queues_config
from kythera.run.store_config import StoreView

LOOK_S = 0.5
WAKE_S_MAX = 30.0


class QueueStore:
    """Keeps it alive: a `node.stores.StorePart`."""

    def __init__(self, host: StoreHost) -> None:
        self.name = QUEUE
        self._host = host
        sandboxed = host.platform.isolation.bubblewrap
        outside = host.layout.events_socket.absolute()
        self._events = EVENTS_INSIDE if sandboxed else outside
        needs = StoreNeeds({EVENTS_INSIDE: outside} if sandboxed else {}, counts=True)
        self._store = WorkerdStore(QUEUE, host, self._build, needs)
        self._woken = 0
        """The process that was told to look."""
        self._queues: list[str] = []
        self._journal = structlog.get_logger("queues")

    def _build(self, catalog: Catalog, view: StoreView) -> bytes | None:
        return queues_config(catalog, view, self._events)

    def note(self, event: Exited) -> None:
        """Take the keeper's word that a process has ended."""
        self._store.note(event)

    def records_changed(self, catalog: Catalog) -> None:
        """Look at the records: which queues there are, and who consumes them."""
        self._queues = sorted(consumed(catalog))
        self._store.records_changed(catalog)

    async def run(self) -> None:
        """Keep it alive, for ever."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._store.run)
            tasks.start_soon(self._keep_waking)

    async def _keep_waking(self) -> None:
        while True:
            held = self._host.keeper.processes.get(f"store/{QUEUE}")
            if held is not None and held.ready and held.pid != self._woken:
                await self._wake(held.pid)
            await anyio.sleep(LOOK_S)

    async def _wake(self, pid: int) -> None:
        layout = self._host.layout
        granted = Pass(account="", worker="", store=QUEUE, resource="")
        headers = {PASS_HEADER: sign(granted, store_key(layout.store_key))}
        transport = httpx.AsyncHTTPTransport(uds=str(layout.store_socket(QUEUE)), verify=False)
        try:
            async with httpx.AsyncClient(transport=transport, timeout=WAKE_S_MAX) as client:
                asked = {"queues": self._queues}
                answer = await client.post("http://store/ask/wake", json=asked, headers=headers)
                answer.raise_for_status()
                self._woken = pid
        except httpx.HTTPError as error:
            self._journal.warning("queues_not_woken", error=str(error) or type(error).__name__)
