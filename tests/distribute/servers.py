"""A real nats-server for tests: started from the wheel, killed and started again on its store."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from kythera.distribute.address import LogAddress
from kythera.distribute.nats_server import prepare
from kythera.ground.layout import Layout
from kythera.ground.processes import Child, child
from kythera.model.limits import Limits


class Server:
    """One state folder's nats-server; `address` follows its last start."""

    def __init__(self, state: Path, limits: Limits, *, lazy: bool = False) -> None:
        self.layout = Layout(state)
        self.address = LogAddress(url="", user="", password="")
        self._limits = limits
        self._lazy = lazy
        """Sync now and then: for tests that need many records and not their durability."""
        self._running = AsyncExitStack()
        self._child: Child | None = None

    async def start(self) -> None:
        """Start it as the agent does. It may not listen yet when this returns."""
        argv, self.address = prepare(self.layout, self._limits)
        if self._lazy:
            config = Path(argv[-1])
            text = config.read_text().replace("sync_interval: always", 'sync_interval: "1m"')
            config.write_text(text)
        self._child = await self._running.enter_async_context(child(argv))

    async def kill(self) -> None:
        """End it as a loss of power would end the process: no goodbye."""
        if self._child is not None:
            os.kill(self._child.pid, signal.SIGKILL)
            await self._child.wait()
            await self._running.aclose()
            self._child = None

    def freeze(self, still: bool) -> None:
        """Stop it without closing anything, or let it go on."""
        assert self._child is not None
        os.kill(self._child.pid, signal.SIGSTOP if still else signal.SIGCONT)


@asynccontextmanager
async def serving(state: Path, limits: Limits, *, lazy: bool = False) -> AsyncIterator[Server]:
    """Run a nats-server for the length of the block."""
    server = Server(state, limits, lazy=lazy)
    try:
        await server.start()
        yield server
    finally:
        await server.kill()
