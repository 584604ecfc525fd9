"""The engines beside the cells: nats-server and HAProxy, kept alive through the keeper.

An engine that the keeper still holds is adopted; one that ends is started again with back-off.
Neither's end stops the other, nor any cell: each keeps the last good state.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import anyio
import structlog

from kythera.model.errors import KytheraError
from kythera.node.keeper_client import Exited, KeeperClient

BACKOFF_S_MIN, BACKOFF_S_MAX = 0.1, 5.0
CALM_S = 10.0
"""An engine that ran this long is started again at once when it ends."""


@dataclass(frozen=True)
class EngineOrder:
    """How to start an engine."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    stop_signal: int = 15
    stop_order: int = 0
    batch: bool = False
    stdin: bytes | None = None
    control: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    """What the next agent shall know of it."""
    uid: int | None = None
    stage: Mapping[str, str] = field(default_factory=dict)
    rlimits: Mapping[str, int] = field(default_factory=dict)


class Engine:
    """One engine's life: adopt or start, notice its end, start again."""

    def __init__(
        self,
        name: str,
        keeper: KeeperClient,
        prepare: Callable[[], Awaitable[EngineOrder]],
        started: Callable[[str], None],
    ) -> None:
        self.name = name
        self.replacing = False
        """Its end was ordered, to start another: no fault, and no reason to wait."""
        self._keeper = keeper
        self._prepare = prepare
        self._started = started
        self._ended = anyio.Event()
        self._journal = structlog.get_logger("engines")

    def note(self, event: Exited) -> None:
        """Take the keeper's word that a process has ended."""
        if event.name == self.name:
            if self._keeper.stopping.is_set():
                return  # As ordered; nothing is started any more.
            if not self.replacing:
                self._journal.error("engine_exited", engine=self.name, status=event.status)
            self._ended.set()

    async def run(self) -> None:
        """Keep the engine alive, for ever."""
        backoff_s = BACKOFF_S_MIN
        while True:
            begun = anyio.current_time()
            if await self._ensure():
                await self._ended.wait()
            if self.replacing or anyio.current_time() - begun >= CALM_S:
                backoff_s = BACKOFF_S_MIN
            self.replacing = False
            await anyio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, BACKOFF_S_MAX)

    async def _ensure(self) -> bool:
        """Adopt or start; tell whether it runs now."""
        self._ended = anyio.Event()
        if self.name not in self._keeper.processes:
            try:
                order = await self._prepare()
                await self._keeper.spawn(
                    self.name,
                    order.argv,
                    env=order.env,
                    stop_signal=order.stop_signal,
                    stop_order=order.stop_order,
                    batch=order.batch,
                    stdin=order.stdin,
                    control=order.control,
                    tags=order.tags,
                    uid=order.uid,
                    stage=order.stage,
                    rlimits=order.rlimits,
                )
            except (KytheraError, OSError) as error:
                self._journal.error("engine_not_started", engine=self.name, error=str(error))
                return False
        self._started(self.name)
        return True
