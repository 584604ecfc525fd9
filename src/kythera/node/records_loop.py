"""The agent's following of the records: from whatever source is best, into the copy, into the
catalogue, to the mind.

Promises: what the copy shows is acted upon; a machine whose copy was whole once serves from it
whatever becomes of the log; one whose copy is still being made says how far it is.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import structlog

from kythera.distribute.address import address_at
from kythera.distribute.copy import Copy
from kythera.distribute.core_finder import CoreFinder, mesh_secure
from kythera.distribute.fold import Fold
from kythera.distribute.follower import Follower
from kythera.distribute.heart import KEY as HEARTBEAT_KEY
from kythera.distribute.heart import Heart, Turn
from kythera.distribute.jetstream import JetStreamLog, open_log
from kythera.distribute.mesh import MeshClient
from kythera.distribute.nats_server import verify
from kythera.distribute.pruning import keep_pruned
from kythera.ground.clock import Clock
from kythera.ground.layout import Layout
from kythera.model.catalog import Catalog
from kythera.model.errors import KytheraError
from kythera.model.platform import Platform
from kythera.node.fleet import Fleet
from kythera.node.status import MachineFacts

LOOK_S = 0.05
SAY_S = 1.0
CATCH_UP_S_MAX = 5.0
"""How long readiness waits for the log before the machine serves from its copy alone."""
VERIFY_S = 30.0
BAR_CELLS = 20


class RecordsLoop:
    """Keeps copy and catalogue up to date, and tells of it."""

    def __init__(
        self,
        layout: Layout,
        platform: Platform,
        *,
        copy: Copy,
        catalog: Catalog,
        clock: Clock,
        fleet: Fleet,
        facts: MachineFacts,
    ) -> None:
        self.changed: Callable[[], None] = lambda: None
        """Told when the catalogue has changed."""
        self.follower: Follower | None = None
        self.log: JetStreamLog | None = None
        self._layout = layout
        self._platform = platform
        self._copy = copy
        self._catalog = catalog
        self._fold = Fold(copy, catalog)
        self._clock = clock
        self._fleet = fleet
        self._facts = facts
        self._journal = structlog.get_logger("records")

    def take_changes(self, _: int = 0) -> None:
        """Fold what is new in the copy into the catalogue, and let others look at it."""
        missed = self._fold.take()
        self._facts.applied_seq = self._fold.applied_seq
        self._facts.unknown_records = dict(self._catalog.unknown)
        self._fleet.heard()
        # A heartbeat each second changes nothing that anybody decides by.
        if missed.anew or any(entry.key != HEARTBEAT_KEY for entry in missed.entries):
            self.changed()

    @asynccontextmanager
    async def opened(self, client: MeshClient) -> AsyncIterator[JetStreamLog]:
        """Connect to the log, wherever it is, as long as the block lasts; nothing waits for it."""
        finder = CoreFinder(self._layout, self._fleet.me, lambda: self._catalog)
        secure = mesh_secure(self._layout)
        limits = self._platform.limits
        async with AsyncExitStack() as stack:
            opening = open_log(finder, limits, within_ms=0, secure=secure)
            self.log = await stack.enter_async_context(opening)
            opener = self._fleet.opener(self.log, client, self._platform)
            self.follower = Follower(self._copy, self._fleet.facts, opener, limits, self._clock)
            yield self.log

    async def run(self, client: MeshClient) -> None:
        """Follow for ever."""
        async with self.opened(client) as log:
            assert self.follower is not None
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._show)
                tasks.start_soon(self._verify)
                tasks.start_soon(
                    keep_pruned, log, self._copy, self._platform.limits, self._is_first
                )
                heart = Heart(log, self._copy, self._fleet.me, self._platform.limits, self._clock)
                tasks.start_soon(heart.beat, self._turn)
                await self.follower.run(self.take_changes)

    def _turn(self) -> Turn:
        """Return who may write the heartbeat, and whether it tells anybody anything."""
        return Turn(tuple(self._fleet.core_names()), others=len(self._fleet.machines()) > 1)

    def _is_first(self) -> bool:
        """Tell whether this machine does what one core machine at a time has to do."""
        if not self._fleet.is_core():
            return False
        beat = self._catalog.heartbeat()
        alone = self._fleet.core_names() == {self._fleet.me}
        return alone or (beat is not None and beat.machine == self._fleet.me)

    # -- how it stands -------------------------------------------------------------------------

    async def caught_up(self) -> None:
        """Wait until this machine may serve: its copy is whole, and up to date if that can be had
        within `CATCH_UP_S_MAX`. A copy that is still being made tells how far it is."""
        with anyio.move_on_after(CATCH_UP_S_MAX):
            while not self._is_current():
                await anyio.sleep(LOOK_S)
        said = anyio.current_time()
        while not self._copy.is_whole():
            await anyio.sleep(LOOK_S)
            if anyio.current_time() - said >= SAY_S:
                said = anyio.current_time()
                self._say_progress()

    def _is_current(self) -> bool:
        state = self.follower.state if self.follower is not None else None
        return state is not None and state.source is not None and state.applied >= state.newest

    def _say_progress(self) -> None:
        state = self.follower.state if self.follower is not None else None
        if state is None or state.source is None:
            self._journal.warning("records_awaited", why=state.trouble if state else "no log yet")
            return
        full = round(state.share * BAR_CELLS)
        bar = "#" * full + "." * (BAR_CELLS - full)
        self._journal.info(
            "records_filling", sentence=f"[{bar}] {state.share:.0%}", source=str(state.source)
        )

    async def _show(self) -> None:
        while True:
            self.show_now()
            await anyio.sleep(LOOK_S * 4)

    def show_now(self) -> None:
        """Write down for status how the following stands."""
        state = self.follower.state if self.follower is not None else None
        if state is None:
            return
        facts = self._facts
        facts.source = (state.source.relay if state.source is not None else "") or "core"
        facts.filling = None if state.whole else (state.applied, state.newest)
        if state.behind:
            facts.log = f"lost: {state.trouble}"
        elif state.trouble:
            facts.log = f"down: {state.trouble}"
        elif state.source is not None and not facts.log.startswith("connected"):
            facts.log = "connected"

    async def _verify(self) -> None:
        """Ask our own server how it writes, now and then: acknowledged must mean on the disk."""
        while True:
            address = address_at(self._layout.log_address)
            if self._fleet.is_core() and address is not None:
                try:
                    await verify(address)
                except KytheraError as error:
                    self._journal.error("log_not_durable", error=str(error))
                    self._facts.log = f"connected, but {error.message}"
                else:
                    if self._facts.log.startswith("connected"):
                        self._facts.log = "connected"
            await anyio.sleep(VERIFY_S)
