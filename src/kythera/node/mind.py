"""The agent's mind on cells: facts go in, `run.decide` answers with orders, here they are obeyed.

One object owns the deciding state; its doors are synchronous, so facts never interleave. What
takes time (spawning, listening, moving traffic) runs as tasks of the agent's group and comes
back as another fact. Traffic moves in a task of its own, so that a reload of HAProxy never
delays a cold start.
"""

import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any

import anyio
import structlog
from anyio.abc import TaskGroup

from kythera.distribute.blobs import Damaged
from kythera.ground.cgroups import find, mark_of
from kythera.ground.clock import Clock, iso
from kythera.ground.meters import age_s, cpu_seconds
from kythera.ground.readiness import Readiness
from kythera.model.catalog import Catalog
from kythera.model.errors import KytheraError
from kythera.model.records import Version
from kythera.model.traffic import Traffic
from kythera.node.cell_groups import CellGroups
from kythera.node.cell_maker import CellMaker
from kythera.node.incidents import IncidentBook
from kythera.node.keeper_client import Exited, KeeperClient, Ready
from kythera.node.last_words import SAID, tell_watchers
from kythera.node.pulses import Pulses
from kythera.node.secrets_watch import SecretsWatch, uses
from kythera.route.pages import CANNOT_START
from kythera.run.cell import (
    Cell,
    CellName,
    CloseSocket,
    Kill,
    Limited,
    OpenSocket,
    Order,
    Process,
    Refuse,
    Start,
    Terminate,
    Unwatch,
    Watch,
    WorkerKey,
)
from kythera.run.decide import Cells
from kythera.run.refusal import answer_waiting
from kythera.run.sandbox import memory_mib, room_mib
from kythera.run.targets import targets
from kythera.run.turns import cpu_ms_max

SIGTERM, SIGKILL = 15, 9
OPEN_S_MAX, OPEN_POLL_S = 10.0, 0.005
CELL_STOP_ORDER = 1
OUTSIDE_ERRORS = (KytheraError, OSError, ValueError)
"""What may go wrong with the world while an order is carried out; anything else is a bug."""

Reading = dict[str, tuple[int, int]]
"""(current, requests) by HAProxy server name."""


class Mind:
    """Feeds the deciding code and carries out what it orders."""

    def __init__(
        self,
        keeper: KeeperClient,
        catalog: Catalog,
        cells: Cells,
        maker: CellMaker,
        clock: Clock,
        tasks: TaskGroup,
    ) -> None:
        self.keeper = keeper
        self.catalog = catalog
        self.cells = cells
        self.maker = maker
        self.clock = clock
        self.tasks = tasks
        self.groups = CellGroups(find(mark_of(maker.layout.state)))
        self.incidents = IncidentBook(maker.platform.machine, clock.now())
        self.readiness = Readiness()
        self.pulses = Pulses(keeper, cells.folder)
        self.traffic_changed = anyio.Event()
        self.prepare: Callable[[Version], Awaitable[None]] = _all_here
        """Waits, but not for ever, until what a version is made of is on this machine."""
        self.heal: Callable[[str], Coroutine[Any, Any, None]] = _leave_it
        """Replaces a blob that was found damaged."""
        self.started: Callable[[str], None] = lambda _: None
        """Told the name of each process that was started (its output wants reading)."""
        self.ran_out_of_memory: Callable[[str], bool] = lambda _: False
        """Whether a process that has ended wanted memory when it did."""
        self.running: dict[str, tuple[Cell, Process]] = {}
        """The cells' processes by name, as the keeper holds them."""
        self._secrets = SecretsWatch(catalog)
        self._opening = 0
        self._revision = 0
        self._servers: dict[str, WorkerKey] = {}
        """Whose cell it is, by HAProxy's name of it, as of `_servers_at`."""
        self._servers_at = -1
        self._journal = structlog.get_logger("cells")

    # -- facts ---------------------------------------------------------------------------------

    def adopt(self) -> None:
        """Begin with what the keeper holds; before the first `records_changed`, or warm cells
        would be forgotten and their traffic with them."""
        held = [(p.name, p.pid, p.ready) for p in self.keeper.processes.values()]
        self.cells.adopt(self.keeper.sockets, held, self.clock.monotonic())
        for each in self.keeper.processes.values():
            _, known = self.cells.process(each.name)
            if known is not None:
                # Otherwise an agent that is replaced daily would let nothing grow old.
                known.started_at -= age_s(each.pid)
        for name in self.keeper.processes:
            self._note_running(name)
        for process in self.pulses.orphans():
            self.tasks.start_soon(self.pulses.close, process)

    async def sockets_open(self) -> None:
        """Wait, but not for ever, until every socket that was ordered is open.

        HAProxy then starts with all of them in its files, instead of being told one by one."""
        with anyio.move_on_after(OPEN_S_MAX):
            while self._opening:
                await anyio.sleep(OPEN_POLL_S)

    def records_changed(self) -> None:
        """The catalogue, or the time that tails expire by, has moved."""
        self.incidents.keep({(w.account, w.name) for w in self.catalog.workers()})
        wanted = targets(self.catalog, iso(self.clock.now()), self.maker.platform.machine)
        self._obey(self.cells.want(wanted, self.clock.monotonic()))
        if changed := self._secrets.changed():
            self.cells.outdate(lambda cell: uses(self._version(cell), changed))
        self.traffic_changed.set()

    def _version(self, cell: CellName) -> Version | None:
        return self.catalog.version(cell.account, cell.worker, cell.version_id)

    def keeper_says(self, event: Ready | Exited) -> None:
        """A process listens, or has ended."""
        now = self.clock.monotonic()
        if isinstance(event, Ready):
            self.cells.process_started(event.name, event.pid)  # in a sandbox it is another one
            self._obey(self.cells.process_ready(event.name, now))
            return
        if event.name.startswith("cell/"):
            self._journal.info("cell_process_exited", cell=event.name, status=event.status)
            self.tasks.start_soon(self.pulses.close, event.name)
            self._note_end(event)
        self._obey(self.cells.process_exited(event.name, now))

    async def watch_sockets(self) -> None:
        """Tell of visitors on idle cells' sockets, for ever."""
        async for name in self.readiness.names():
            cell = CellName.parse(name)
            if cell is not None:
                self._obey(self.cells.connection_waiting(cell, self.clock.monotonic()))

    async def keep_time(self, every_s: float = 0.1) -> None:
        """Let deadlines and back-offs pass, for ever."""
        while True:
            await anyio.sleep(every_s)
            self._obey(self.cells.tick(self.clock.monotonic()))

    def measured(self, loads: Reading) -> None:
        """Take HAProxy's counters, and the processes' CPU clocks."""
        cpu = {
            process.name: cpu_seconds(process.pid)
            for worker in self.cells.workers.values()
            for cell in worker.cells.values()
            for process in cell.processes.values()
            if process.pid
        }
        self._obey(self.cells.measured(loads, cpu, self.clock.monotonic()))

    def cpu_ms_max(self, cell: Cell) -> int:
        """Return what one turn of a cell's code may burn."""
        name = cell.name
        version = self.catalog.version(name.account, name.worker, name.version_id)
        return cpu_ms_max(version, self.cells.limits)

    def memory_mib(self, cell: Cell) -> int:
        """Return what a cell's heap may hold, and as much again what lies beside it."""
        name = cell.name
        return self._memory_mib(self.catalog.version(name.account, name.worker, name.version_id))

    def _memory_mib(self, version: Version | None) -> int:
        return memory_mib(version, self.cells.limits)

    def exceeded(self, cell: Cell, process: Process, what: Limited) -> None:
        """A process uses too much of something: end it."""
        self._obey(self.cells.exceeded(process.name, what, self.clock.monotonic()))
        self._tell_exceeded(cell, process, cpu_ms_max=self.cpu_ms_max(cell))

    def _tell_exceeded(self, cell: Cell, process: Process, **limit: int) -> None:
        what = process.exceeded
        assert what is not None, "told of what exceeded a limit"
        self._journal.warning(
            "cell_exceeded",
            what=what,
            cell=process.name,
            worker=cell.name.worker,
            version=cell.name.version_id,
            **limit,
        )
        self._note_incident(cell, SAID[what][0], ", ".join(f"{k} {v}" for k, v in limit.items()))
        if cell.name.observed:
            at, to = self.clock.now(), self.maker.layout.tail_socket
            self.tasks.start_soon(tell_watchers, to, cell.name, what, at)

    def _note_incident(self, cell: Cell, reason: str, detail: str) -> None:
        name, now = cell.name, self.clock.now()
        self.incidents.note(name.account, name.worker, name.version_id, reason, now, detail=detail)

    def _note_end(self, event: Exited) -> None:
        cell, process = self.running.pop(event.name, (None, None))
        wanted_memory = self.ran_out_of_memory(event.name)
        if (name := CellName.parse(event.name)) is not None:
            wanted_memory |= self.groups.close(name, event.name)
        if cell is None or process is None or process.killed or event.status in (0, -SIGTERM):
            return
        if wanted_memory:
            process.exceeded = "memory"
            self._tell_exceeded(cell, process, memory_mib=self.memory_mib(cell))
        else:
            reason = "startFailed" if process.state == "starting" else "crashed"
            self._note_incident(cell, reason, f"ended with {event.status}")

    def request_failed(self, server: str, ray: str) -> None:
        """HAProxy gave up on a request that it had sent to one of our cells."""
        if self._servers_at != self.cells.revision:
            # Each name is a digest: worked out once, for failures may come in floods.
            self._servers_at = self.cells.revision
            self._servers = {
                cell.name.server: cell.name.worker_key
                for worker in self.cells.workers.values()
                for cell in worker.cells.values()
            }
        if (key := self._servers.get(server)) is not None:
            self.incidents.failed(*key, ray, self.clock.now())

    def wake(self, cell: CellName) -> None:
        """Have a process of a cell started, if it has none."""
        self._obey(self.cells.wake(cell, self.clock.monotonic()))

    def traffic(self) -> tuple[dict[WorkerKey, Traffic], dict[WorkerKey, str]]:
        """Return where requests shall go now, and which workers to refuse at the door."""
        return self.cells.traffic(), self.cells.failing(self.clock.monotonic())

    def traffic_due(self) -> None:
        """Have the front door look at the plan again."""
        self.traffic_changed.set()

    def hurry(self, draining: bool) -> None:
        """While the machine drains, cells stop as soon as nobody asks for them."""
        limits = self.cells.limits
        self.cells.idle_stop_s = limits.settle_ms / 1000 if draining else limits.idle_stop_s

    def is_watched(self) -> bool:
        """Tell whether any worker has an observed cell, which time alone may end."""
        workers = self.cells.workers.values()
        return any(want.observed for worker in workers for want in worker.target.values())

    def traffic_applied(self, traffic: Iterable[Traffic]) -> None:
        """HAProxy does as was asked."""
        self._obey(self.cells.traffic_applied(traffic, self.clock.monotonic()))

    # -- orders --------------------------------------------------------------------------------

    def _obey(self, orders: list[Order]) -> None:
        for order in orders:
            match order:
                case Watch(cell):
                    self.readiness.arm(cell.socket, self.keeper.sockets[cell.socket])
                case Unwatch(cell):
                    self.readiness.disarm(self.keeper.sockets[cell.socket])
                case OpenSocket(cell, path):
                    self._opening += 1
                    self.tasks.start_soon(self._open, cell, path)
                case CloseSocket(cell):
                    self.tasks.start_soon(self._close, cell)
                case Start(cell, process):
                    self.tasks.start_soon(self._start, cell, process)
                case Terminate(process):
                    self.tasks.start_soon(self.keeper.signal, process, SIGTERM)
                case Kill(process):
                    self.tasks.start_soon(self.keeper.signal, process, SIGKILL)
                case Refuse(cell):
                    self.tasks.start_soon(self._refuse, cell)
        if self._revision != self.cells.revision:
            self._revision = self.cells.revision
            self.traffic_changed.set()

    async def _open(self, cell: CellName, path: str) -> None:
        try:
            await self.keeper.listen(cell.socket, path)
        finally:
            self._opening -= 1
        self._obey(self.cells.socket_opened(cell, self.clock.monotonic()))

    async def _close(self, cell: CellName) -> None:
        descriptor = self.keeper.sockets.get(cell.socket)
        if descriptor is not None:
            self.readiness.disarm(descriptor)
        await self.keeper.close(cell.socket)
        self._obey(self.cells.socket_closed(cell, self.clock.monotonic()))

    async def _start(self, cell: CellName, process: str) -> None:
        version = self.catalog.version(cell.account, cell.worker, cell.version_id)
        try:
            if version is None:
                raise KytheraError(f"version {cell.version_id} of {cell.worker} has no record.")
            await self.prepare(version)
            if not self.cells.is_awaited(process):
                self._obey(self.cells.process_exited(process, self.clock.monotonic()))
                return
            shut_in = self.maker.confined(cell, version, await self.pulses.open(process))
            held = await self.keeper.spawn(
                process,
                shut_in.argv,
                env=self.maker.environment(),
                stdin=self.maker.config(cell, version),
                control=True,
                rlimits=shut_in.rlimits,
                batch=True,  # until the pace loop has seen that it is quiet
                uid=shut_in.uid,
                stage=shut_in.stage,
                cgroups=self.groups.open(cell, process, room_mib(version, self.cells.limits)),
                stop_order=CELL_STOP_ORDER,
            )
        except OUTSIDE_ERRORS as error:
            self._journal.error("cell_start_failed", cell=process, error=str(error))
            if isinstance(error, Damaged):
                self.tasks.start_soon(self.heal, error.digest)
            self.tasks.start_soon(self.pulses.close, process)
            self._obey(self.cells.process_exited(process, self.clock.monotonic()))
            return
        self.cells.process_started(process, held.pid)
        self._note_running(process)
        self.started(process)

    def _note_running(self, name: str) -> None:
        cell, process = self.cells.process(name)
        if cell is not None and process is not None and name in self.keeper.processes:
            self.running[name] = (cell, process)

    async def _refuse(self, cell: CellName) -> None:
        with suppress(KeyError, OSError):
            listener = socket.socket(fileno=socket.dup(self.keeper.sockets[cell.socket]))
            refused = await answer_waiting(listener, CANNOT_START)
            self._journal.error("requests_refused", cell=cell.socket, count=refused)
        self._obey(self.cells.refused(cell, self.clock.monotonic()))


async def _all_here(version: Version) -> None:
    """Of a machine without others: what is not here is nowhere."""


async def _leave_it(digest: str) -> None:
    """Nobody else has it."""
