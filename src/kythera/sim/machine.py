"""The world that the deciding code lives in, simulated: keeper, workerd, HAProxy, clients.

Coarser than the real ones, but with their promises and their races: a socket outlives processes,
a process accepts only when ready and not stopping, HAProxy learns of new traffic late and may
still deliver to the old cell a little after, workerd told to stop finishes what is open.
"""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from kythera.model.traffic import Share
from kythera.run.cell import CellName, WorkerKey


@dataclass
class Request:
    """One visitor's request and what became of it."""

    worker: WorkerKey
    sent_at: float
    lasts_s: float
    waits_since: float = 0.0
    outcome: str = ""


@dataclass
class SimProcess:
    """One workerd."""

    name: str
    cell: CellName
    ready: bool = False
    stopping_since: float | None = None
    serving: list[Request] = field(default_factory=list)

    def accepts(self) -> bool:
        """Whether it takes new connections from the socket."""
        return self.ready and self.stopping_since is None


@dataclass
class SimSocket:
    """One listening socket with its backlog."""

    cell: CellName
    backlog: list[Request] = field(default_factory=list)
    armed: bool = False


class Virtual:
    """Virtual time: a heap of things to do, and one source of chance."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.chance = random.Random(seed)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def after(self, delay_s: float, act: Callable[[], None]) -> None:
        """Do `act` when `delay_s` have passed."""
        self._count += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._count, act))

    def step(self) -> bool:
        """Do the next thing; False when nothing is left."""
        if not self._heap:
            return False
        self.now, _, act = heapq.heappop(self._heap)
        act()
        return True

    def peek(self) -> float:
        """Return when the next thing happens."""
        return self._heap[0][0] if self._heap else float("inf")


class Machine:
    """Keeper, cells and HAProxy: what stays when the agent dies."""

    def __init__(self, time: Virtual, violation: Callable[[str], None]) -> None:
        self.time = time
        self.violation = violation
        self.sockets: dict[str, SimSocket] = {}
        self.processes: dict[str, SimProcess] = {}
        self.table: dict[WorkerKey, tuple[Share, ...]] = {}
        self.by_server: dict[str, CellName] = {}
        self.on_waiting: Callable[[CellName], None] = lambda _: None
        self.on_exit: Callable[[str], None] = lambda _: None
        self.counters: dict[str, int] = {}
        self.served = self.refused = self.lost = 0

    # -- clients -------------------------------------------------------------------------------

    def send(self, worker: WorkerKey, lasts_s: float) -> None:
        """A visitor asks; HAProxy picks a server now, and the connection arrives a bit later."""
        shares = self.table.get(worker, ())
        if not shares:
            return
        share = self.time.chance.choices(shares, [s.percentage or 0.001 for s in shares])[0]
        request = Request(worker, self.time.now, lasts_s)
        cell = self.by_server[share.server]
        late_s = self.time.chance.choice((0.0, 0.001, 0.05))
        self.time.after(late_s, lambda: self.arrive(cell, request))

    def arrive(self, cell: CellName, request: Request) -> None:
        """The connection reaches the cell's socket."""
        socket = self.sockets.get(cell.socket)
        if socket is None:
            if request.worker in self.table:
                self.violation(f"a request reached the closed socket {cell.socket}")
            return
        self.counters[cell.server] = self.counters.get(cell.server, 0) + 1
        request.waits_since = self.time.now
        socket.backlog.append(request)
        self.accept(socket)

    def accept(self, socket: SimSocket) -> None:
        """Let an accepting process take the backlog; else wake whoever armed the socket."""
        takers = [p for p in self.processes.values() if p.cell == socket.cell and p.accepts()]
        if takers:
            for request in socket.backlog:
                self.serve(self.time.chance.choice(takers), request)
            socket.backlog.clear()
        elif socket.armed and socket.backlog:
            socket.armed = False
            self.on_waiting(socket.cell)

    def serve(self, process: SimProcess, request: Request) -> None:
        """A process works on a request until it is done, or the process ends."""
        process.serving.append(request)
        self.time.after(request.lasts_s, lambda: self.finish(process, request))

    def finish(self, process: SimProcess, request: Request) -> None:
        """The answer is sent."""
        if request.outcome:
            return
        request.outcome = "served"
        self.served += 1
        process.serving.remove(request)
        if process.stopping_since is not None and not process.serving:
            self.exit(process.name)

    # -- what the agent can do -------------------------------------------------------------------

    def listen(self, cell: CellName) -> None:
        """The keeper opens the socket (idempotent)."""
        self.sockets.setdefault(cell.socket, SimSocket(cell))
        self.by_server[cell.server] = cell

    def close(self, cell: CellName) -> None:
        """The keeper closes the socket; whoever waits there is cut off."""
        socket = self.sockets.pop(cell.socket, None)
        if socket is not None and socket.backlog:
            self.violation(f"{cell.socket} was closed with {len(socket.backlog)} waiting")
        if any(p.cell == cell for p in self.processes.values()):
            self.violation(f"{cell.socket} was closed under its process")

    def fork(self, cell: CellName, name: str) -> SimProcess | None:
        """The keeper starts a process."""
        if cell.socket not in self.sockets:
            self.violation(f"{name} was started without a socket")
            return None
        process = SimProcess(name, cell)
        self.processes[name] = process
        return process

    def become_ready(self, name: str) -> bool:
        """The process listens."""
        process = self.processes.get(name)
        if process is None:
            return False
        process.ready = True
        socket = self.sockets.get(process.cell.socket)
        if socket is not None:
            self.accept(socket)
        return True

    def terminate(self, name: str) -> None:
        """SIGTERM: nothing new, finish what is open."""
        process = self.processes.get(name)
        if process is None or process.stopping_since is not None:
            return
        process.stopping_since = self.time.now
        if not process.serving:
            self.time.after(0.005, lambda: self.exit(name))

    def kill(self, name: str, drain_s: float) -> None:
        """SIGKILL: fine for what never got ready or did not drain in time."""
        process = self.processes.get(name)
        if process is None:
            return
        since = process.stopping_since
        if process.serving and (since is None or self.time.now - since < drain_s - 0.02):
            self.violation(f"{name} was killed before its time to drain was over")
        self.exit(name)

    def exit(self, name: str) -> None:
        """The process is gone, and with it what it was serving."""
        process = self.processes.pop(name, None)
        if process is None:
            return
        for request in process.serving:
            request.outcome = "lost"
            self.lost += 1
        self.on_exit(name)
        socket = self.sockets.get(process.cell.socket)
        if socket is not None:
            self.accept(socket)

    def refuse(self, cell: CellName) -> None:
        """Answer all who wait with 503."""
        socket = self.sockets.get(cell.socket)
        if socket is not None:
            self.refused += len(socket.backlog)
            socket.backlog.clear()

    def arm(self, cell: CellName) -> None:
        """Say once when somebody waits."""
        socket = self.sockets.get(cell.socket)
        if socket is not None:
            socket.armed = True
            self.accept(socket)

    def disarm(self, cell: CellName) -> None:
        """Be silent."""
        if cell.socket in self.sockets:
            self.sockets[cell.socket].armed = False

    def loads(self) -> dict[str, tuple[int, int]]:
        """HAProxy's counters: (current, requests) by server."""
        current: dict[str, int] = {}
        for process in self.processes.values():
            server = process.cell.server
            current[server] = current.get(server, 0) + len(process.serving)
        return {s: (current.get(s, 0), n) for s, n in self.counters.items()}
