"""What workers ask of a store, as the agent hears it: asked at each look, added up over restarts.

Sums live as long as the agent: another one begins with what each store's program has counted so far.
A process says itself which one it is: what the keeper holds may be another by the time it answers.
"""

from collections.abc import Callable

import httpx
import msgspec

from kythera.ground.layout import Layout
from kythera.ground.passes import PASS_HEADER, Pass, sign, store_key
from kythera.run.store_counts import Counted, StoreCounts, WorkerUse, added

Tell = Callable[[str, StoreCounts], None]


def nobody(name: str, counts: StoreCounts) -> None:
    """Nobody wants to know."""


class StoreUse:
    """The counts of one store."""

    def __init__(self, store: str, layout: Layout, within_ms: int, tell: Tell) -> None:
        self._store = store
        self._layout = layout
        self._within_s = within_ms / 1000
        self._tell = tell
        self._pid = 0
        self._past: list[WorkerUse] = []
        self._last = Counted(process="", workers=[])
        self._restarts = 0

    def meet(self, pid: int) -> bool:
        """Note which process it is; tell whether it is another one."""
        if pid == self._pid:
            return False
        self._restarts += self._pid != 0
        self._pid = pid
        return True

    async def hear(self) -> None:
        """Ask what has been counted; what is heard of another process begins anew."""
        counted = await self._counted()
        if counted.process != self._last.process:
            self._past = added(self._past, self._last.workers)
        self._last = counted

    def show(self, state: str) -> None:
        """Tell what is known."""
        workers = added(self._past, self._last.workers)
        self._tell(self._store, StoreCounts(state=state, restarts=self._restarts, workers=workers))

    async def heard(self, pid: int) -> None:
        """Meet a process that answers, ask, and tell: all at once."""
        self.meet(pid)
        await self.hear()
        self.show("up")

    async def _counted(self) -> Counted:
        """Return what the process that answers has counted; what was heard last, if none does."""
        granted = Pass(account="", worker="", store=self._store, resource="")
        headers = {PASS_HEADER: sign(granted, store_key(self._layout.store_key))}
        transport = httpx.AsyncHTTPTransport(uds=str(self._layout.store_socket(self._store)))
        try:
            async with httpx.AsyncClient(transport=transport, timeout=self._within_s) as client:
                answer = await client.get("http://store/usage", headers=headers)
            return msgspec.json.decode(answer.content, type=Counted)
        except (httpx.HTTPError, msgspec.MsgspecError):
            return self._last
