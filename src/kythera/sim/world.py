"""One seeded history of a machine: deploys, splits, tails, deletions, crashes, agent restarts.

First a phase with faults, in which safety is checked at every step; then everything heals, and
the world must come to rest where the records ask. A violation carries the seed that replays it:
`python -m kythera.sim --seed N`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from kythera.model.limits import Limits
from kythera.model.traffic import Traffic
from kythera.run.cell import (
    CellName,
    CloseSocket,
    Kill,
    OpenSocket,
    Order,
    Refuse,
    Start,
    Terminate,
    Unwatch,
    Want,
    Watch,
    WorkerKey,
)
from kythera.run.decide import Cells
from kythera.sim.machine import Machine, SimSocket, Virtual

LIMITS = Limits(
    restart_s=8.0,
    idle_stop_s=4.0,
    start_ms=1_500,
    drain_ms=3_000,
    settle_ms=400,
    crash_backoff_ms_min=50,
    crash_backoff_ms_max=1_000,
    starts_failed_max=3,
    saturated_s=1.0,
    quiet_s=2.0,
)
CORES = 2
FAULTS_S, HEAL_S = 25.0, 30.0
WAIT_S_MAX = 4.0
"""A live agent leaves nobody waiting longer: a hung start, a back-off, and a start."""


class Violation(AssertionError):
    """The deciding code broke a promise; the message names the seed."""


@dataclass
class Faults:
    """How nasty this world is; each kind is often exactly zero, since a mean mix hides bugs."""

    crash: float = 0.0
    start_fails: float = 0.0
    start_hangs: float = 0.0
    agent_dies: float = 0.0
    bad_version: float = 0.0
    long_request: float = 0.0
    busy: float = 0.0

    @classmethod
    def swarm(cls, chance: Callable[[], float]) -> "Faults":
        """Draw a mix."""
        highest = cls(0.03, 0.3, 0.1, 0.02, 0.3, 0.05, 0.5)
        drawn = (
            getattr(highest, name) * chance() if chance() < 0.5 else 0.0
            for name in cls.__dataclass_fields__
        )
        return cls(*drawn)


@dataclass
class World:
    """A machine, an agent that may die, and somebody who deploys."""

    seed: int
    make_cells: Callable[[str, Limits, int], Cells] = Cells
    time: Virtual = field(init=False)
    machine: Machine = field(init=False)
    faults: Faults = field(init=False)
    targets: dict[WorkerKey, dict[str, Want]] = field(default_factory=dict)
    bad: set[str] = field(default_factory=set)
    story: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Draw the world from its seed."""
        self.time = Virtual(self.seed)
        self.machine = Machine(self.time, self.violation)
        self.faults = Faults.swarm(self.time.chance.random)
        self.healed = False
        self.versions_made = 0
        self.workerd = "w0"
        self.life = 0
        """Counts agents; what an earlier one had under way is void."""
        self.applying = False
        self.cells = self.make_cells("/cells", LIMITS, CORES)
        self.machine.on_waiting = self._waiting
        self.machine.on_exit = self._exited

    def violation(self, what: str) -> None:
        """Stop the world."""
        tail = "\n  ".join(self.story[-25:])
        raise Violation(
            f"{what}, at {self.time.now:.3f} s of seed {self.seed}\n  {tail}\n"
            f"replay: python -m kythera.sim --seed {self.seed}"
        )

    def run(self) -> None:
        """Live through both phases."""
        self.born()
        self._repeat(0.1, self._tick)
        self._repeat(0.5, self._measure)
        self._repeat(0.05, self._clients)
        self._repeat(0.4, self._operator)
        self._repeat(5.0, self._pin)
        self._until(FAULTS_S)
        self.healed = True
        self.story.append("healed")
        self._until(FAULTS_S + HEAL_S)
        self._check_rest()

    def _until(self, end: float) -> None:
        while self.time.peek() < end:
            self.time.step()
            self._check_now()

    def _repeat(self, every_s: float, act: Callable[[], None]) -> None:
        def again() -> None:
            act()
            self.time.after(every_s, again)

        self.time.after(every_s, again)

    def _rarely(self, probability: float) -> bool:
        return not self.healed and self.time.chance.random() < probability

    # -- the agent -------------------------------------------------------------------------------

    def born(self) -> None:
        """An agent starts: it adopts what the keeper holds, then reads the records."""
        self.life += 1
        self.applying = False
        self.alive = True
        self.decided: dict[WorkerKey, set[str]] = {}
        self.cells = self.make_cells("/cells", LIMITS, CORES)
        for socket in self.machine.sockets.values():
            socket.armed = False
        held = [(p.name, 1, p.ready) for p in self.machine.processes.values()]
        self.cells.adopt(list(self.machine.sockets), held, self.time.now)
        self.cells.use_workerd(self.workerd)
        self.obey(self.cells.want(self.targets, self.time.now))
        self._move_traffic()

    def die(self) -> None:
        """The agent is killed; the next one comes a little later."""
        self.story.append(f"{self.time.now:.3f} the agent dies")
        self.alive = False
        self.life += 1
        self.time.after(self.time.chance.uniform(0.1, 1.0), self.born)

    def fact(self, tell: Callable[[], list[Order]]) -> None:
        """Give the agent a fact, if there is one to hear it."""
        if self.alive:
            self.obey(tell())

    def _later(self, delay_s: float, act: Callable[[], None]) -> None:
        life = self.life

        def unless_dead() -> None:
            if self.life == life:
                act()

        self.time.after(delay_s, unless_dead)

    def obey(self, orders: list[Order]) -> None:
        """Carry out orders as the agent would, each taking a little time."""
        for order in orders:
            self.story.append(f"{self.time.now:.3f} {order}")
            self._carry_out(order)
        self._move_traffic()

    def _carry_out(self, order: Order) -> None:
        machine, brief_s = self.machine, self.time.chance.uniform(0.0005, 0.01)
        match order:
            case OpenSocket(cell, _):
                self._later(brief_s, lambda: self._open(cell))
            case CloseSocket(cell):
                self._later(brief_s, lambda: self._close(cell))
            case Start(cell, process):
                self._later(brief_s, lambda: self._start(cell, process))
            case Watch(cell):
                self._later(0, lambda: machine.arm(cell))
            case Unwatch(cell):
                machine.disarm(cell)
            case Terminate(process):
                self._later(brief_s, lambda: machine.terminate(process))
            case Kill(process):
                self._later(brief_s, lambda: machine.kill(process, LIMITS.drain_ms / 1000))
            case Refuse(cell):
                self._later(brief_s, lambda: self._refuse(cell))

    def _open(self, cell: CellName) -> None:
        self.machine.listen(cell)
        self.fact(lambda: self.cells.socket_opened(cell, self.time.now))

    def _close(self, cell: CellName) -> None:
        self.machine.close(cell)
        self.fact(lambda: self.cells.socket_closed(cell, self.time.now))

    def _refuse(self, cell: CellName) -> None:
        self.machine.refuse(cell)
        self.fact(lambda: self.cells.refused(cell, self.time.now))

    def _start(self, cell: CellName, process: str) -> None:
        if self.machine.fork(cell, process) is None:
            return
        self.cells.process_started(process, 1)
        chance = self.time.chance
        if cell.version_id in self.bad or self._rarely(self.faults.start_fails):
            self.time.after(chance.uniform(0.01, 0.3), lambda: self.machine.exit(process))
        elif not self._rarely(self.faults.start_hangs):
            self.time.after(chance.uniform(0.02, 0.08), lambda: self._ready(process))

    def _ready(self, process: str) -> None:
        if self.machine.become_ready(process):
            self.fact(lambda: self.cells.process_ready(process, self.time.now))

    def _exited(self, process: str) -> None:
        self.story.append(f"{self.time.now:.3f} {process} exited")
        self.fact(lambda: self.cells.process_exited(process, self.time.now))

    def _waiting(self, cell: CellName) -> None:
        self.story.append(f"{self.time.now:.3f} somebody waits on {cell.socket}")
        self.fact(lambda: self.cells.connection_waiting(cell, self.time.now))

    def _move_traffic(self) -> None:
        """HAProxy takes a moment to do as it is told; one change at a time."""
        self._check_decisions()
        wanted = self.cells.traffic()
        news = {k: t for k, t in wanted.items() if t.shares != self.machine.table.get(k, ())}
        unsure = any(not worker.confirmed for worker in self.cells.workers.values())
        if self.applying or not self.alive or not (news or unsure):
            return
        self.applying = True
        delay_s = self.time.chance.choice((0.002, 0.02, 0.2))
        self._later(delay_s, lambda: self._applied(wanted))

    def _applied(self, wanted: dict[WorkerKey, Traffic]) -> None:
        self.applying = False
        for key, traffic in wanted.items():
            if traffic.shares:
                self.machine.table[key] = traffic.shares
            else:
                self.machine.table.pop(key, None)
        self.fact(lambda: self.cells.traffic_applied(list(wanted.values()), self.time.now))
        self._move_traffic()

    # -- what happens to it ------------------------------------------------------------------------

    def _tick(self) -> None:
        if self.alive and self._rarely(self.faults.agent_dies):
            self.die()
        self.fact(lambda: self.cells.tick(self.time.now))
        for name, process in list(self.machine.processes.items()):
            if process.ready and self._rarely(self.faults.crash):
                self.story.append(f"{self.time.now:.3f} {name} crashes")
                self.machine.exit(name)

    def _measure(self) -> None:
        busy = self._rarely(self.faults.busy)
        cpu = dict.fromkeys(self.machine.processes, self.time.now * (0.99 if busy else 0.01))
        loads = self.machine.loads()
        self.fact(lambda: self.cells.measured(loads, cpu, self.time.now))

    def _clients(self) -> None:
        chance = self.time.chance
        if self.healed and self.time.now > FAULTS_S + 5.0:
            return
        if chance.random() < 0.7:
            for key in sorted(self.machine.table):
                if chance.random() < 0.4:
                    long = self._rarely(self.faults.long_request)
                    self.machine.send(key, chance.uniform(5, 20) if long else chance.random() / 5)

    def _operator(self) -> None:
        chance = self.time.chance
        if self.healed or chance.random() < 0.5:
            return
        key = ("a", f"w{chance.randrange(3)}")
        target = dict(self.targets.get(key, {}))
        action = chance.choice(("deploy", "deploy", "split", "tail", "delete"))
        if action == "deploy" or not target:
            target = {self._new_version(bool(target)): Want(100.0)}
        elif action == "split":
            old = next(iter(target))
            target = {old: Want(90.0), self._new_version(bool(target)): Want(10.0)}
        elif action == "tail":
            target = {v: Want(w.percentage, not w.observed) for v, w in target.items()}
        elif chance.random() < 0.2:
            target = {}
        self.story.append(f"{self.time.now:.3f} {action} {key[1]}: {target}")
        self.targets = {**self.targets, key: target}
        if not target:
            del self.targets[key]
        self.fact(lambda: self.cells.want(self.targets, self.time.now))

    def _pin(self) -> None:
        """Now and then another workerd."""
        if self.time.chance.random() < 0.3:
            self.workerd = f"w{self.time.chance.randrange(9)}"
            self.story.append(f"{self.time.now:.3f} workerd {self.workerd}")
            self.cells.use_workerd(self.workerd)

    def _new_version(self, replaces: bool) -> str:
        self.versions_made += 1
        version = f"v{self.versions_made}"
        if replaces and self._rarely(self.faults.bad_version):
            self.bad.add(version)
        return version

    # -- promises ----------------------------------------------------------------------------------

    def _check_decisions(self) -> None:
        """A swap under load moves requests only to cells that accept them."""
        for key, worker in self.cells.workers.items():
            before = self.decided.get(key, set())
            after = {share.server for share in worker.decided}
            self.decided[key] = after
            if worker.confirmed and self._accepting(before):
                for server in after - before:
                    if not self._accepting({server}):
                        self.violation(f"{key[1]} was moved from a warm cell to a cold one")

    def _accepting(self, servers: set[str]) -> bool:
        processes = self.machine.processes.values()
        return any(p.accepts() and p.cell.server in servers for p in processes)

    def _check_now(self) -> None:
        for socket in self.machine.sockets.values():
            alive = [
                p
                for p in self.machine.processes.values()
                if p.cell == socket.cell and p.stopping_since is None
            ]
            if len(alive) > CORES:
                self.violation(f"{socket.cell.socket} has {len(alive)} processes")
        if self.healed and self.time.now > FAULTS_S + WAIT_S_MAX + 2.0:
            for socket in self.machine.sockets.values():
                oldest = min((r.waits_since for r in socket.backlog), default=self.time.now)
                if self.time.now - oldest > WAIT_S_MAX:
                    self.violation(f"a visitor of {socket.cell.socket} was forgotten")

    def _check_rest(self) -> None:
        """Everything is as the records ask, and nothing runs that nobody uses."""
        for key, target in self.targets.items():
            if any(version in self.bad for version in target):
                continue
            shown = {s.version_id: s.percentage for s in self.machine.table.get(key, ())}
            if shown != {v: w.percentage for v, w in target.items()}:
                self.violation(f"{key[1]} serves {shown} instead of {target}")
            modes = {(s.cell.version_id, s.cell.observed) for s in self._sockets(key)}
            if modes != {(v, w.observed) for v, w in target.items()}:
                self.violation(f"{key[1]} has sockets {modes} for {target}")
        gone = {s.cell.worker_key for s in self.machine.sockets.values()} - set(self.targets)
        if gone:
            self.violation(f"sockets of deleted workers are left: {gone}")
        left = [p.name for p in self.machine.processes.values() if not p.serving]
        left = [
            name for name in left if self.machine.processes[name].cell.version_id not in self.bad
        ]
        if left:
            self.violation(f"idle processes are left: {left}")

    def _sockets(self, key: WorkerKey) -> list[SimSocket]:
        return [s for s in self.machine.sockets.values() if s.cell.worker_key == key]
