"""A store that is a program of ours: started by the first cell that asks it, and watched.

Promises: a machine where nobody uses it has no process of it; its socket is the keeper's, so that what
is asked while it starts, or is started again, waits. A process of a crashed agent is adopted; one
that does not answer for `store_silent_ms_max` is killed and replaced.
"""

import os
import sys
from collections.abc import Callable

import anyio
import structlog

from kythera.ground.layout import Layout
from kythera.model.catalog import Catalog
from kythera.model.errors import KytheraError
from kythera.model.limits import Limits
from kythera.node.engines import Engine, EngineOrder
from kythera.node.keeper_client import Exited, KeeperClient
from kythera.node.store_use import StoreUse, Tell, nobody

SIGKILL = 9
STOP_ORDER = 2
"""After the cells, which may still have something to keep."""
ASK = b"GET / HTTP/1.1\r\nHost: store\r\nConnection: close\r\n\r\n"
"""Without a pass: it is refused, by whoever lives."""
KEPT = ("PATH", "LANG", "TMPDIR", "PYTHONPATH")


def _nobody(name: str) -> None:
    """Nobody reads what it prints."""


class PythonStore:
    """Keeps one store's process alive while it is of use."""

    def __init__(
        self,
        name: str,
        layout: Layout,
        keeper: KeeperClient,
        limits: Limits,
        module: str = "kythera.store.program",
    ) -> None:
        self.name = name
        self._module = module
        self.started: Callable[[str], None] = _nobody
        """Told the process's name when it was started (its output wants reading)."""
        self.tell: Tell = nobody
        """Told what it has counted, at each look."""
        self._process = f"store/{name}"
        self._layout = layout
        self._keeper = keeper
        self._limits = limits
        self._engine = Engine(self._process, keeper, self._prepare, self._tell)
        self._journal = structlog.get_logger("stores")

    def _tell(self, name: str) -> None:
        self.started(name)

    def note(self, event: Exited) -> None:
        """Take the keeper's word that a process has ended."""
        self._engine.note(event)

    def records_changed(self, catalog: Catalog) -> None:
        """Look at the records; this one has nothing to learn from them."""

    async def run(self) -> None:
        """Start it when somebody asks, and keep it alive, for ever."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._engine.run)
            tasks.start_soon(self._watch)

    async def _prepare(self) -> EngineOrder:
        await anyio.wait_readable(self._keeper.sockets[self._process])
        argv = [sys.executable, "-m", self._module, self.name]
        argv += ["--state", str(self._layout.state.absolute())]
        argv += ["--listen-fd", f"{{socket:{self._process}}}"]
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        return EngineOrder(argv, {**environment, "TZ": "UTC"}, stop_order=STOP_ORDER)

    async def _watch(self) -> None:
        """Hear what one has counted; replace one that does not answer. For ever."""
        look_ms = self._limits.store_look_ms
        use = StoreUse(self.name, self._layout, look_ms, self.tell)
        while True:
            await anyio.sleep(look_ms / 1000)
            held = self._keeper.processes.get(self._process)
            if held is None:
                use.show("down")
                continue
            if await self._answers():
                await use.heard(held.pid)
                continue
            use.show("silent")
            self._journal.error("store_hangs", store=self.name)
            try:
                await self._keeper.signal(self._process, SIGKILL)
            except KytheraError as error:
                self._journal.warning("store_not_replaced", store=self.name, error=str(error))

    async def _answers(self) -> bool:
        with anyio.move_on_after(self._limits.store_silent_ms_max / 1000):
            try:
                path = self._layout.store_socket(self.name)
                async with await anyio.connect_unix(path) as stream:
                    await stream.send(ASK)
                    return (await stream.receive()).startswith(b"HTTP/1.1 ")
            except (OSError, anyio.EndOfStream, anyio.BrokenResourceError):
                return True  # it ended meanwhile: the keeper says so
        return False
