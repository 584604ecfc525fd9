"""Which cells run: facts in, orders out.

Pure: no clock (time is an argument, monotonic seconds), no chance, no socket, no file. The agent
feeds facts (`want`, `connection_waiting`, `process_ready` …) and carries out the orders that each
returns; `traffic` says which cells shall take requests, and `traffic_applied` tells when HAProxy
does as it says.

Promises, checked by the simulation after every step:
- a cell that takes traffic, or might still be sent some, has an open socket that is watched or
  served; no waiting connection is forgotten;
- a new version takes traffic from a running one only when its own process is ready, and a version
  that fails to start takes none: the last good one serves on;
- nothing is told to stop before HAProxy has confirmed that it sends nothing more there;
- a process told to stop is killed when `drain_ms` have passed; one that is not ready within
  `start_ms` is killed and counts as failed;
- starts that fail back off; after `starts_failed_max` in a row, waiting requests are refused
  until the back-off ends.
"""

from collections.abc import Callable, Iterable, Mapping

from kythera.model.limits import Limits
from kythera.model.traffic import Share, Traffic
from kythera.run.cell import (
    PROCESS_MARK,
    WORKERD_MARK,
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
    Want,
    Watch,
    WorkerKey,
)
from kythera.run.renewal import Stale, next_due
from kythera.run.scale import note_load, note_shares

RENEW_LOOK_S = 0.5
RENEW_AGAIN_S = 600.0
"""After a cell could not be replaced it is left alone for this long."""
Targets = Mapping[WorkerKey, Mapping[str, Want]]


class WorkerCells:
    """All cells of one worker on this machine, and the orders that follow from facts."""

    def __init__(self, key: WorkerKey, folder: str, limits: Limits, cores: int) -> None:
        self.key = key
        self.folder = folder
        self.limits = limits
        self.processes_max = limits.processes_per_cell_max or cores
        self.idle_stop_s = limits.idle_stop_s
        self.target: dict[str, Want] = {}
        self.cells: dict[str, Cell] = {}
        """By HAProxy server name."""
        self.decided: tuple[Share, ...] = ()
        self.applied: tuple[Share, ...] = ()
        self.confirmed = False
        """Whether HAProxy's view is known at all (not so after the agent was restarted)."""
        self.shown: tuple[tuple[Share, ...], str] = ((), "")
        """What the front door was last asked to do with this worker: shares, or why to refuse."""
        self.workerd = ""
        """The mark of the workerd that new processes run."""
        self._orders: list[Order] = []

    # -- facts ---------------------------------------------------------------------------------

    def adopt(self, name: CellName) -> Cell:
        """Take over a socket that the keeper holds already."""
        cell = self._make(name)
        cell.opened = True
        return cell

    def connection_waiting(self, cell: Cell, now: float) -> None:
        """A client's connection waits on the cell's socket (the watch is used up by this)."""
        cell.watched = False
        cell.waiting = True
        cell.last_used = now

    def process_ready(self, cell: Cell, process: Process, now: float) -> None:
        """A process accepts connections."""
        if process.state == "starting":
            process.state = "ready"
            process.ready_at = now
            cell.starts_failed = 0
            cell.last_used = now

    def process_exited(self, cell: Cell, process: Process, now: float) -> None:
        """A process has ended, as ordered or not."""
        del cell.processes[process.name]
        cell.cpu_past += process.cpu_seconds
        if process.state == "starting":
            self._start_failed(cell, now)
        elif process.exceeded is not None:
            cell.exceeded[process.exceeded] += 1
        elif process.state == "ready":
            cell.crashes_all += 1
            lived = now - process.ready_at
            cell.crashes = cell.crashes + 1 if lived < self.limits.crash_forget_s else 0
            if cell.crashes and not cell.live():
                cell.retry_at = now + self._backoff_s(cell.crashes)

    def _start_failed(self, cell: Cell, now: float) -> None:
        cell.starts_failed += 1
        cell.last_used = now  # Whoever it was started for may still be waiting.
        cell.retry_at = now + self._backoff_s(cell.starts_failed)

    def _backoff_s(self, times: int) -> float:
        lowest, highest = self.limits.crash_backoff_ms_min, self.limits.crash_backoff_ms_max
        doubled: int = lowest << min(times - 1, 20)
        return min(doubled, highest) / 1000

    # -- decisions -----------------------------------------------------------------------------

    def reconcile(self, now: float) -> list[Order]:
        """Compare what is with what shall be, and return what to do."""
        candidates = {v: self._candidate(v, want, now) for v, want in self.target.items()}
        self._warm_up(candidates, now)
        self._decide_traffic(candidates, now)
        current = {cell.name.server for cell in candidates.values()}
        for cell in list(self.cells.values()):
            self._retire_or_keep(cell, current, now)
            self._stop_when_idle(cell, now)
            self._meet_demand(cell, now)
            self._enforce_deadlines(cell, now)
            self._watch(cell)
        orders, self._orders = self._orders, []
        return orders

    def _candidate(self, version_id: str, want: Want, now: float) -> Cell:
        """Return the generation that shall serve a version, opening a new one when none fits."""
        mine = [cell for cell in self.cells.values() if cell.name.version_id == version_id]
        # An older one may be on its way out: the agent that told it to stop may not be this one.
        last = max((cell.name.generation for cell in mine if cell.replaced), default=0)
        fit = [
            cell
            for cell in mine
            if cell.name.observed == want.observed
            and cell.name.generation > last
            and not cell.given_up
            and not cell.closing
        ]
        if fit:
            return max(fit, key=lambda cell: cell.name.generation)
        newest = max((cell.name.generation for cell in mine), default=0)
        name = CellName(*self.key, version_id, newest + 1, want.observed)
        cell = self._make(name)
        cell.last_used = now
        cell.requests_past = max((old.requests_past + old.requests for old in mine), default=0)
        cell.cpu_past = max((old.cpu_past for old in mine), default=0.0)
        cell.processes_wanted = max(
            (len(old.live()) - old.outgrown for old in mine if old.replaced), default=1
        )
        self._orders.append(OpenSocket(name, cell.path))
        return cell

    def _make(self, name: CellName) -> Cell:
        cell = Cell(name=name, path=f"{self.folder}/{name.server}.sock")
        self.cells[name.server] = cell
        return cell

    def _is_warm(self) -> bool:
        """Whether requests are being served now: then a swap must not make any of them wait."""
        serving = (self.cells.get(share.server) for share in self.decided)
        return any(cell is not None and cell.live() for cell in serving)

    def _warm_up(self, candidates: Mapping[str, Cell], now: float) -> None:
        if not self._is_warm():
            return
        serving = {share.server for share in self.decided}
        for cell in candidates.values():
            if cell.name.server not in serving and cell.opened:
                for _ in range(max(1, cell.processes_wanted) - len(cell.live())):
                    self._start(cell, now)

    def _able(self, cell: Cell) -> bool:
        if not cell.opened or (cell.starts_failed and not cell.ready()):
            return False
        return not self._is_warm() or cell.ready() >= max(1, cell.processes_wanted)

    def _decide_traffic(self, candidates: Mapping[str, Cell], now: float) -> None:
        desired = tuple(
            Share(
                server=cell.name.server,
                version_id=version_id,
                path=cell.path,
                percentage=self.target[version_id].percentage,
            )
            for version_id, cell in candidates.items()
        )
        serving = {share.server for share in self.decided}
        able = all(self._able(self.cells[s.server]) for s in desired if s.server not in serving)
        lost = any(share.server not in self.cells for share in self.decided)
        if able or lost or not self.decided:
            opened = (s for s in desired if self.cells[s.server].opened)
            self.decided = tuple(opened)

    def _retire_or_keep(self, cell: Cell, current: set[str], now: float) -> None:
        """Stop a cell that takes no traffic any more, once HAProxy has said so and it is quiet."""
        server = cell.name.server
        used = {share.server for share in (*self.decided, *self.applied)}
        if server in current or server in used or not self.confirmed:
            cell.retired_at = None
            return
        if cell.retired_at is None:
            cell.retired_at = now
        quiet = now - max(cell.retired_at, cell.last_used) >= self.limits.settle_ms / 1000
        overdue = now - cell.retired_at >= self.limits.drain_ms / 1000
        starting = any(process.state == "starting" for process in cell.processes.values())
        if cell.waiting or cell.refusing or starting or not (quiet or overdue):
            return
        for process in cell.live():
            self._terminate(process, now)
        if quiet and not cell.processes and cell.opened and not cell.closing:
            cell.closing = True
            self._orders.append(CloseSocket(cell.name))

    def _stop_when_idle(self, cell: Cell, now: float) -> None:
        live = cell.live()
        idle = now - cell.last_used >= self.idle_stop_s and not cell.current
        if live and idle and not cell.waiting and all(p.state == "ready" for p in live):
            for process in live:
                self._terminate(process, now)

    def _meet_demand(self, cell: Cell, now: float) -> None:
        if not cell.waiting:
            return
        if cell.live():
            cell.waiting = False
        elif now >= cell.retry_at:
            cell.waiting = False
            self._start(cell, now)
        elif cell.starts_failed >= self.limits.starts_failed_max:
            cell.waiting, cell.refusing = False, True
            self._orders.append(Refuse(cell.name))

    def _start(self, cell: Cell, now: float) -> None:
        if not cell.opened or cell.closing or now < cell.retry_at:
            return
        cell.processes_made += 1
        name = f"{cell.name.socket}{PROCESS_MARK}{cell.processes_made}"
        name += f"{WORKERD_MARK}{self.workerd}" if self.workerd else ""
        cell.processes[name] = Process(name=name, started_at=now, workerd=self.workerd)
        self._orders.append(Start(cell.name, name))

    def _terminate(self, process: Process, now: float) -> None:
        process.state = "stopping"
        process.stop_at = now
        self._orders.append(Terminate(process.name))

    def _enforce_deadlines(self, cell: Cell, now: float) -> None:
        for process in cell.processes.values():
            late_start = (
                process.state == "starting"
                and now - process.started_at >= self.limits.start_ms / 1000
            )
            late_stop = (
                process.state == "stopping" and now - process.stop_at >= self.limits.drain_ms / 1000
            )
            if (late_start or late_stop) and not process.killed:
                process.killed = True
                self._orders.append(Kill(process.name))

    def _watch(self, cell: Cell) -> None:
        wanted = cell.opened and not cell.closing and not cell.live()
        wanted = wanted and not cell.waiting and not cell.refusing
        if wanted and not cell.watched:
            cell.watched = True
            self._orders.append(Watch(cell.name))
        elif not wanted and cell.watched:
            cell.watched = False
            self._orders.append(Unwatch(cell.name))

    def scale(self, cell: Cell, now: float) -> None:
        """Add a process to a saturated cell; let a quiet one be replaced by a smaller one."""
        verdict = note_shares(cell, self.limits, self.processes_max, now)
        if verdict == "grow":
            self._start(cell, now)
        elif verdict == "shrink":
            cell.outgrown = True

    def give_up_renewal(self, now: float) -> Stale:
        """Keep what runs when what shall replace it does not start; say what for it was tried."""
        for old in self.cells.values():
            fresh = [
                cell
                for cell in self.cells.values()
                if cell.name.generation > old.name.generation
                and cell.name.version_id == old.name.version_id
            ]
            failed = any(cell.starts_failed >= self.limits.starts_failed_max for cell in fresh)
            if old.stale and old.ready() and failed and not any(cell.ready() for cell in fresh):
                for cell in fresh:
                    cell.given_up = True
                why, old.stale = old.stale, ""
                old.renew_after = now + RENEW_AGAIN_S
                return why
        return ""

    def restless(self) -> bool:
        """Whether time alone can change something here."""
        cells = self.cells.values()
        return (
            self.decided != self.applied
            or not self.confirmed
            or any(
                cell.processes or cell.waiting or cell.retired_at is not None or cell.starts_failed
                for cell in cells
            )
        )

    def served(self) -> int:
        """Return how many requests this worker's cells here were ever given."""
        totals: dict[str, int] = {}
        for cell in self.cells.values():
            version = cell.name.version_id
            totals[version] = max(totals.get(version, 0), cell.requests_past + cell.requests)
        return sum(totals.values())

    def failing(self, now: float) -> str:
        """Say why requests had better be refused at the door, or nothing."""
        cells = [self.cells[share.server] for share in self.decided if share.server in self.cells]
        broken = [
            cell
            for cell in cells
            if cell.starts_failed >= self.limits.starts_failed_max
            and now < cell.retry_at
            and not cell.live()
        ]
        return "the worker's process does not start" if cells and broken == cells else ""


class Cells:
    """All workers' cells. One door for each kind of fact; each returns orders."""

    def __init__(self, folder: str, limits: Limits, cores: int) -> None:
        self.folder = folder
        self.limits = limits
        self.cores = cores
        self.idle_stop_s = limits.idle_stop_s
        """Shorter while the machine is being drained."""
        self.workers: dict[WorkerKey, WorkerCells] = {}
        self.revision = 0
        """Grows whenever `traffic` or `failing` would answer something else."""
        self.workerd = ""
        """The mark of the workerd that cells shall run."""
        self.proving: tuple[str, WorkerKey] | None = None
        """Another one, and the worker that runs it before all others do."""
        self.proof_failed = False
        self._look_at = 0.0

    def _worker(self, key: WorkerKey) -> WorkerCells:
        if key not in self.workers:
            self.workers[key] = WorkerCells(key, self.folder, self.limits, self.cores)
            self.workers[key].workerd = self._workerd_of(key)
        return self.workers[key]

    def find(self, name: CellName) -> Cell | None:
        """Return a cell by name, if it is still known."""
        worker = self.workers.get(name.worker_key)
        return worker.cells.get(name.server) if worker else None

    def adopt(
        self, sockets: Iterable[str], processes: Iterable[tuple[str, int, bool]], now: float
    ) -> None:
        """Take over what the keeper holds: socket names, and (process name, pid, ready)."""
        for socket in sockets:
            name = CellName.parse(socket)
            if name is not None:
                cell = self._worker(name.worker_key).adopt(name)
                cell.last_used = now
        for process_name, pid, ready in processes:
            self._adopt_process(process_name, pid, ready, now)

    def _adopt_process(self, process_name: str, pid: int, ready: bool, now: float) -> None:
        _, _, rest = process_name.partition(PROCESS_MARK)
        number, _, workerd = rest.partition(WORKERD_MARK)
        name = CellName.parse(process_name)
        cell = self.find(name) if name is not None else None
        if cell is None:
            return
        process = Process(process_name, now, pid, "ready" if ready else "starting", now)
        process.workerd = workerd
        cell.processes[process_name] = process
        cell.processes_made = max(cell.processes_made, int(number))

    def want(self, targets: Targets, now: float) -> list[Order]:
        """The records ask for these versions of these workers (and no others)."""
        orders: list[Order] = []
        for key in [*targets, *(key for key in self.workers if key not in targets)]:
            worker = self._worker(key)
            target = dict(targets.get(key, {}))
            if worker.target != target or not worker.cells:
                worker.target = target
                orders += self._settle(worker, now)
        return orders

    def socket_opened(self, name: CellName, now: float) -> list[Order]:
        """The keeper listens for this cell."""
        cell = self.find(name)
        if cell is None:
            return []
        cell.opened = True
        return self._settle(self._worker(name.worker_key), now)

    def socket_closed(self, name: CellName, now: float) -> list[Order]:
        """The keeper has let go of the cell's socket: the cell is no more."""
        worker = self._worker(name.worker_key)
        worker.cells.pop(name.server, None)
        return self._settle(worker, now)

    def connection_waiting(self, name: CellName, now: float) -> list[Order]:
        """Somebody waits on an idle cell's socket."""
        cell = self.find(name)
        if cell is None:
            return []
        worker = self._worker(name.worker_key)
        worker.connection_waiting(cell, now)
        return self._settle(worker, now)

    def wake(self, name: CellName, now: float) -> list[Order]:
        """The platform itself wants to call a cell's worker: start a process if there is none."""
        cell = self.find(name)
        if cell is None:
            return []
        cell.last_used = now
        cell.waiting |= not cell.live() and not cell.refusing
        return self._settle(self._worker(name.worker_key), now)

    def used(self, name: CellName, now: float) -> None:
        """A call of the platform's is under way in a cell: it is not idle."""
        cell = self.find(name)
        if cell is not None:
            cell.last_used = now

    def refused(self, name: CellName, now: float) -> list[Order]:
        """Those who waited have been answered."""
        cell = self.find(name)
        if cell is None:
            return []
        cell.refusing = False
        return self._settle(self._worker(name.worker_key), now)

    def is_awaited(self, process_name: str) -> bool:
        """Tell whether a process that was ordered is still to be started."""
        _, process = self.process(process_name)
        return process is not None and process.state == "starting" and not process.killed

    def process_started(self, process_name: str, pid: int) -> None:
        """The keeper has forked."""
        cell, process = self.process(process_name)
        if cell is not None and process is not None:
            process.pid = pid

    def process_ready(self, process_name: str, now: float) -> list[Order]:
        """The process said on its control descriptor that it listens."""
        cell, process = self.process(process_name)
        if cell is None or process is None:
            return []
        worker = self._worker(cell.name.worker_key)
        worker.process_ready(cell, process, now)
        return self._settle(worker, now)

    def process_exited(self, process_name: str, now: float) -> list[Order]:
        """The process has ended, or could not be started at all."""
        cell, process = self.process(process_name)
        if cell is None or process is None:
            return []
        worker = self._worker(cell.name.worker_key)
        worker.process_exited(cell, process, now)
        return self._settle(worker, now)

    def exceeded(self, process_name: str, what: Limited, now: float) -> list[Order]:
        """A process uses too much: it is killed, and who waits gets another."""
        cell, process = self.process(process_name)
        if cell is None or process is None or process.killed:
            return []
        process.exceeded, process.killed = what, True
        return [Kill(process_name), *self._settle(self._worker(cell.name.worker_key), now)]

    def process(self, process_name: str) -> tuple[Cell | None, Process | None]:
        """Return a process and its cell by name, as far as they are known."""
        name = CellName.parse(process_name)
        cell = self.find(name) if name is not None else None
        return cell, cell.processes.get(process_name) if cell else None

    def measured(
        self, loads: Mapping[str, tuple[int, int]], cpu: Mapping[str, float], now: float
    ) -> list[Order]:
        """Take a reading: (current, requests) by server, CPU seconds by process name."""
        orders: list[Order] = []
        for worker in self.workers.values():
            for cell in worker.cells.values():
                note_load(cell, loads.get(cell.name.server), cpu, now)
                if cell.live():
                    worker.scale(cell, now)
            if worker.restless() or worker._orders:
                orders += self._settle(worker, now)
        return orders

    def traffic_applied(self, traffic: Iterable[Traffic], now: float) -> list[Order]:
        """HAProxy sends requests as these say, and nowhere else."""
        orders: list[Order] = []
        for item in traffic:
            worker = self._worker((item.account, item.worker))
            worker.applied, worker.confirmed = item.shares, True
            orders += self._settle(worker, now)
        return orders

    def tick(self, now: float) -> list[Order]:
        """Time has passed."""
        orders: list[Order] = []
        for worker in list(self.workers.values()):
            worker.idle_stop_s = self.idle_stop_s
            if worker.restless():
                orders += self._settle(worker, now)
        return orders + self._renew(now)

    def _workerd_of(self, key: WorkerKey) -> str:
        mark, worker = self.proving or ("", None)
        return mark if key == worker else self.workerd

    def use_workerd(self, mark: str, proving: tuple[str, WorkerKey] | None = None) -> None:
        """Let new processes run this workerd, and those of one worker another, on trial. What runs
        already is swapped for it, one cell at a time."""
        self.workerd, self.proving, self.proof_failed = mark, proving, False
        for key, worker in self.workers.items():
            worker.workerd = self._workerd_of(key)

    def outdate(self, is_outdated: Callable[[CellName], bool]) -> None:
        """What cells were given when they started has changed: replace them, one at a time."""
        for worker in self.workers.values():
            for cell in worker.cells.values():
                cell.outdated |= bool(cell.processes) and is_outdated(cell.name)
        self._look_at = 0.0

    def _renew(self, now: float) -> list[Order]:
        """Replace the cell that has been due longest, unless another one is being replaced."""
        if now < self._look_at:
            return []
        self._look_at = now + RENEW_LOOK_S
        for worker in self.workers.values():
            if worker.give_up_renewal(now) == "workerd":
                self.proof_failed = True
        cells = [
            (cell, worker.workerd)
            for worker in self.workers.values()
            for cell in worker.cells.values()
            if any(share.server == cell.name.server for share in worker.decided)
        ]
        under_way = any(
            cell.stale for worker in self.workers.values() for cell in worker.cells.values()
        )
        found = None if under_way else next_due(cells, self.limits.restart_s, now)
        if found is None:
            return []
        cell, why = found
        cell.stale = why
        return self._settle(self._worker(cell.name.worker_key), now)

    def _settle(self, worker: WorkerCells, now: float) -> list[Order]:
        orders = worker.reconcile(now)
        shown = (worker.decided, worker.failing(now))
        if shown != worker.shown:
            worker.shown = shown
            self.revision += 1
        if not worker.cells and not worker.target and not worker.decided and not worker.applied:
            self.workers.pop(worker.key, None)
        return orders

    def traffic(self) -> dict[WorkerKey, Traffic]:
        """Return where each worker's requests shall go (nowhere: no shares)."""
        return {
            key: Traffic(account=key[0], worker=key[1], shares=worker.decided)
            for key, worker in self.workers.items()
        }

    def failing(self, now: float) -> dict[WorkerKey, str]:
        """Return the workers that had better be refused at the door, and why."""
        reasons = ((key, worker.failing(now)) for key, worker in self.workers.items())
        return {key: reason for key, reason in reasons if reason}
