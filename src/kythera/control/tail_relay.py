"""Trace events on their way to watchers that are connected to another machine.

Promises: what waits for a machine is bounded (WAITING_BYTES_MAX), each machine has a queue of its
own and a task of its own, so that a dead one delays nobody else; what is lost is counted by reason
(`lost`). Events go one hop: who receives them shows them and passes nothing on.
Order is kept for each machine; a tail is something to look at, so nothing is sent twice.
"""

from collections import Counter, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

import anyio

from kythera.model.errors import KytheraError
from kythera.model.limits import MIB
from kythera.model.records import Machine

if TYPE_CHECKING:
    from kythera.control.fleet import Mesh
    from kythera.ground.journal import Journal
    from kythera.model.limits import Limits

WAITING_BYTES_MAX = 4 * MIB
ANSWER_BYTES_MAX = 64 * 1024
RETRY_S = 1.0
FLOODS = 2
"""So many times a tail's own rate leaves a machine: the watcher's machine sees that there is more
and says so."""


class About(NamedTuple):
    """Whose events they are."""

    account: str
    worker: str
    version: str

    @property
    def path(self) -> str:
        """Where another machine takes them."""
        return "/events/" + "/".join(quote(part, safe="") for part in self)


class Queue:
    """What waits for one machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.sending = False
        self._waiting: deque[tuple[About, bytes]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, about: About, event: bytes) -> bool:
        """Add an event; False when there is no room."""
        if self._bytes + len(event) > WAITING_BYTES_MAX:
            return False
        self._waiting.append((about, event))
        self._bytes += len(event)
        return True

    def take(self, bytes_max: int) -> tuple[About, list[bytes]]:
        """Remove the oldest events that travel together: at least one, else up to `bytes_max`."""
        about = self._waiting[0][0]
        taken: list[bytes] = []
        size = 0
        while self._waiting and self._waiting[0][0] == about:
            size += len(self._waiting[0][1])
            if taken and size > bytes_max:
                break
            taken.append(self._waiting.popleft()[1])
        self._bytes -= sum(map(len, taken))
        return about, taken

    def clear(self) -> int:
        """Remove everything; return how many events that were."""
        count = len(self._waiting)
        self._waiting.clear()
        self._bytes = 0
        return count


class TailRelay:
    """All queues of this process."""

    def __init__(self) -> None:
        self.lost: Counter[str] = Counter()
        self._queues: dict[str, Queue] = {}
        self._news = anyio.Event()
        self._second = 0
        self._sent: Counter[tuple[str, str, str]] = Counter()

    def offer(
        self, machine: Machine, about: About, events: Sequence[bytes], limits: "Limits", now: float
    ) -> None:
        """Queue events for a machine, or lose them. `now` is monotonic seconds."""
        if int(now) != self._second:
            self._second = int(now)
            self._sent.clear()
        queue = self._queues.setdefault(machine.name, Queue(machine))
        queue.machine = machine
        stream = (machine.name, about.account, about.worker)
        for event in events:
            if self._sent[stream] >= FLOODS * limits.tail_events_per_s_max:
                self.lost["flood"] += 1
            elif queue.put(about, event):
                self._sent[stream] += 1
            else:
                self.lost["queue_full"] += 1
        self._news.set()

    async def run(self, mesh: "Mesh", limits: "Limits", journal: "Journal") -> None:
        """Send what is offered, for ever."""
        async with anyio.create_task_group() as tasks:
            while True:
                self._news = anyio.Event()
                for queue in list(self._queues.values()):
                    if len(queue) and not queue.sending:
                        queue.sending = True
                        tasks.start_soon(self._drain, queue, mesh, limits, journal)
                await self._news.wait()

    async def _drain(
        self, queue: Queue, mesh: "Mesh", limits: "Limits", journal: "Journal"
    ) -> None:
        try:
            while len(queue):
                about, events = queue.take(limits.batch_bytes_max)
                why = await _send(mesh, queue.machine, about, events, limits)
                if why:
                    reason, sentence = why
                    count = len(events) + queue.clear()
                    self.lost[reason] += count
                    journal.say(
                        "tail_events_lost", machine=queue.machine.name, count=count, why=sentence
                    )
                    await anyio.sleep(RETRY_S)
        finally:
            queue.sending = False
            if not len(queue):
                self._queues.pop(queue.machine.name, None)


async def _send(
    mesh: "Mesh", machine: Machine, about: About, events: Sequence[bytes], limits: "Limits"
) -> tuple[str, str] | None:
    """Send one batch; return why it is lost, or None."""
    body = b"[" + b",".join(events) + b"]"
    headers = {"content-type": "application/json", "accept-encoding": "identity"}
    status = 0
    try:
        with anyio.move_on_after(limits.peer_answer_ms / 1000):
            async with mesh.stream(
                machine.name, machine.mesh, "POST", about.path, content=body, headers=headers
            ) as response:
                size = 0
                async for chunk in response.aiter_raw():
                    size += len(chunk)
                    if size > ANSWER_BYTES_MAX:
                        break
                status = response.status_code
    except KytheraError as error:
        return "unreachable", error.message
    if status == 0:
        return "unreachable", f"no answer within {limits.peer_answer_ms} ms"
    if status == 404:
        return "nobody_watches", "nobody watches there any more"
    return None if status < 300 else ("refused", f"HTTP {status}")
