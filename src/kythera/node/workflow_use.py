"""What workers ask of their Workflows, for status: each object cell counts, and this adds up.

Promises that what a process had counted when it was last looked at stays when another takes its place.
"""

from collections.abc import Awaitable, Callable

import anyio

from kythera.node.keeper_client import KeeperClient
from kythera.run.cell import WorkerKey
from kythera.run.object_cells import name_of
from kythera.run.store_counts import StoreCounts, WorkerUse, added

NAME = "workflows"
"""In status, beside the stores."""
LOOK_S = 2.0


class WorkflowUse:
    """Keeps it current."""

    def __init__(
        self,
        keeper: KeeperClient,
        has_workflows: Callable[[], list[WorkerKey]],
        ask: Callable[[WorkerKey], Awaitable[dict[str, int] | None]],
        tell: Callable[[str, StoreCounts], None],
    ) -> None:
        self._keeper = keeper
        self._has_workflows = has_workflows
        self._ask = ask
        self._tell = tell
        self._past: list[WorkerUse] = []
        """Of processes that have ended."""
        self._last: dict[WorkerKey, tuple[int, WorkerUse]] = {}
        """Pid of the process that was looked at, and what it said."""
        self._restarts = 0

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            await anyio.sleep(LOOK_S)
            keys = self._has_workflows()
            if keys or self._last:
                await self._look(keys)

    async def _look(self, keys: list[WorkerKey]) -> None:
        silent, up = 0, 0
        for key in keys:
            held = self._keeper.processes.get(name_of(key))
            counts = None if held is None else await self._ask(key)
            if held is None or counts is None:
                silent += 1
                continue
            up += 1
            self._take(key, held.pid, counts)
        state = "silent" if silent else "up" if up else "down"
        workers = added(self._past, [use for _, use in self._last.values()])
        self._tell(NAME, StoreCounts(state=state, restarts=self._restarts, workers=workers))

    def _take(self, key: WorkerKey, pid: int, counts: dict[str, int]) -> None:
        before = self._last.get(key)
        if before is not None and before[0] != pid:
            self._past = added(self._past, [before[1]])
            self._restarts += 1
        self._last[key] = (pid, WorkerUse(account=key[0], worker=key[1], counts=counts))
