"""This machine's KV store, as the agent drives it: started through the keeper, watched, replaced when
it does not answer. A process of a crashed agent is adopted. While there is no namespace there is no
process either: its socket is enough."""

import sys

import anyio
import structlog

from kythera.ground.forking import base_environment
from kythera.model.catalog import Catalog
from kythera.model.errors import KytheraError
from kythera.node.engines import Engine, EngineOrder
from kythera.node.keeper_client import Exited
from kythera.node.store_use import StoreUse
from kythera.node.workerd_store import StoreHost

STORE = "kv"
TYPE = "kv_namespace"
PROCESS = "store-kv"
SIGTERM, SIGKILL = 15, 9
STOP_ORDER = 7
"""After cells and API, which may still have something to write; before the log."""
ASK = b"GET /healthz HTTP/1.1\r\nHost: kv\r\n\r\n"
ANSWER_BYTES = 4_096


class KvPart:
    """Keeps the store alive (`node.stores.StorePart`)."""

    name = STORE

    def __init__(self, host: StoreHost) -> None:
        self._layout = host.layout
        self._limits = host.platform.limits
        self._keeper = host.keeper
        self._tell = host.tell
        self._engine = Engine(PROCESS, host.keeper, self._prepare, host.started)
        self._needed = anyio.Event()
        self._journal = structlog.get_logger("stores")

    def note(self, event: Exited) -> None:
        """Take the keeper's word that a process has ended."""
        self._engine.note(event)

    def records_changed(self, catalog: Catalog) -> None:
        """Start it with the first namespace; what has ended the store learns from its own log."""
        if any(catalog.resources(account.id, TYPE) for account in catalog.accounts()):
            self._needed.set()

    async def run(self) -> None:
        """Keep it alive, for ever, from the first namespace on."""
        if PROCESS not in self._keeper.processes:
            await self._needed.wait()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._engine.run)
            tasks.start_soon(self._watch)

    async def _prepare(self) -> EngineOrder:
        argv = [
            *(sys.executable, "-m", "kythera.node.kv_server"),
            *("--state", str(self._layout.state.absolute())),
            *("--socket", f"{{socket:store/{STORE}}}"),
        ]
        return EngineOrder(argv, base_environment(), SIGTERM, STOP_ORDER)

    async def _watch(self) -> None:
        """Replace it when it does not answer, for ever."""
        pid, heard_at = 0, anyio.current_time()
        use = StoreUse(STORE, self._layout, self._limits.kv_look_ms, self._tell)
        while True:
            await anyio.sleep(self._limits.kv_look_ms / 1000)
            held = self._keeper.processes.get(PROCESS)
            if held is None or held.pid != pid or await self._answers():
                if held is None:
                    use.show("down")
                elif held.pid == pid:
                    await use.heard(pid)
                pid = 0 if held is None else held.pid
                heard_at = anyio.current_time()
                continue
            use.show("silent")
            silent_s = anyio.current_time() - heard_at
            if silent_s * 1000 > self._limits.kv_silent_ms_max:
                self._journal.error("kv_hangs", silent_s=round(silent_s, 1))
                try:
                    await self._keeper.signal(PROCESS, SIGKILL)
                except KytheraError as error:
                    self._journal.warning("kv_not_replaced", error=str(error))

    async def _answers(self) -> bool:
        try:
            with anyio.fail_after(self._limits.kv_silent_ms_max / 2000):
                path = self._layout.store_socket(STORE)
                async with await anyio.connect_unix(path) as stream:
                    await stream.send(ASK)
                    return b" 200 " in (await stream.receive(ANSWER_BYTES))[:20]
        except (OSError, TimeoutError, anyio.EndOfStream, anyio.BrokenResourceError):
            return False
