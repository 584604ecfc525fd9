"""The loop that brings another workerd into service: tried, proved by one cell, then rolled.

Promises: what does not run as a program, or does not start a hello cell as shut in as all cells, changes
nothing; the newest is distrusted until one cell has served with it for `PROVED_S`, the one with the
fewest requests; then the rest follow one at a time, as `run/renewal.py` decides, while visitors are
served. When a cell does not become ready with it, or the first one crashes, all go back to the
one before, and status, log and `kythera workerd use` say so.
"""

from dataclasses import dataclass, field
from pathlib import Path

import anyio
import structlog

from kythera.ground.clock import Clock
from kythera.ground.files import Stamp, stamp_of
from kythera.ground.layout import Layout
from kythera.model.errors import KytheraError
from kythera.model.platform import Platform
from kythera.node.object_files import newest_writer
from kythera.node.status import MachineFacts
from kythera.run.cell import Cell, WorkerKey
from kythera.run.decide import Cells
from kythera.run.pinned import (
    Used,
    chosen,
    forget_others,
    keep,
    last_used,
    mark_of,
    remember,
)
from kythera.run.trial import TrialSettings, try_hello
from kythera.run.workerd import workerd_version

LOOK_S = 1.0
PROVED_S = 3.0
PROOF_S_MAX = 60.0


@dataclass
class Workerds:
    """The binaries of this machine: which one runs, and what becomes of another."""

    layout: Layout
    platform: Platform
    cells: Cells
    facts: MachineFacts
    clock: Clock
    programs: dict[str, Path] = field(default_factory=dict)
    """Where the file of each mark is; whoever starts a process looks here."""
    used: Used | None = None
    before: Used | None = None
    """While cells are rolled: the one to go back to."""
    refused: set[str] = field(default_factory=set)
    chosen_at: Stamp | None = None

    def __post_init__(self) -> None:
        """Open the journal."""
        self._journal = structlog.get_logger("workerd")

    async def begin(self) -> Used:
        """Find the workerd to begin with. Raises SetupError when there is none that says what it is."""
        used = last_used(self.layout)
        if used is None:
            path = chosen(self.layout)
            version = await workerd_version(path)
            used = keep(self.layout, Used(path=str(path), mark=mark_of(path), version=version))
            remember(self.layout, used)
        self._take(used)
        self.chosen_at = stamp_of(self.layout.workerd_choice)
        return used

    def _take(self, used: Used) -> None:
        self.used = used
        self._know(used)
        self.facts.workerd, self.facts.workerd_mark = used.version, used.mark
        self.cells.use_workerd(used.mark)

    def _know(self, used: Used) -> None:
        self.programs[used.mark] = Path(used.path)
        self.facts.workerds[used.mark] = used.version

    async def run(self) -> None:
        """Look at what is chosen, for ever."""
        while True:
            await anyio.sleep(LOOK_S)
            try:
                await self._look()
            except (KytheraError, OSError) as error:
                self._say(f"not usable: {error}")

    async def _look(self) -> None:
        assert self.used is not None, "begun before"
        stamp = stamp_of(self.layout.workerd_choice)
        if stamp != self.chosen_at:
            # Said again: what was refused may be tried again.
            self.refused, self.chosen_at = set(), stamp
        path = chosen(self.layout)
        mark = mark_of(path)
        if mark in self.refused:
            return
        self.facts.workerd_wanted = mark
        if mark != self.used.mark:
            await self._introduce(path, mark)
        elif self.before is not None:
            self._watch_roll()
        else:
            self._say("")

    def _say(self, what: str) -> None:
        """Show in the status how a change goes; what is new is logged."""
        if what and what != self.facts.workerd_change:
            self._journal.warning("workerd_change", sentence=f"workerd: {what}")
        self.facts.workerd_change = what

    # -- tried ---------------------------------------------------------------------------------

    async def _introduce(self, path: Path, mark: str) -> None:
        assert self.used is not None, "begun before"
        self._say(f"tries {path}")
        try:
            version = await workerd_version(path)
            if not version:
                raise KytheraError("it does not say its version.")
            if version < (newest := newest_writer(self.layout)):
                raise KytheraError(
                    f"workerd {newest} has written Durable Objects; {version}, which is older,"
                    " would damage them."
                )
            settings = TrialSettings(path, self.platform.limits, self.platform.isolation)
            await try_hello(settings)
        except (KytheraError, OSError) as error:
            self._refuse(mark, f"{path} does not run: {error}")
            return
        new = keep(self.layout, Used(path=str(path), mark=mark, version=version))
        self._know(new)
        failure = await self._prove(new)
        if failure:
            self.cells.use_workerd(self.used.mark)
            self._refuse(mark, f"{version} ({path}): {failure}")
            return
        self._accept(new)

    def _refuse(self, mark: str, why: str) -> None:
        assert self.used is not None, "begun before"
        self.refused.add(mark)
        self._say(f"refused {why} {self.used.version} stays.")

    # -- proved --------------------------------------------------------------------------------

    async def _prove(self, new: Used) -> str:
        """Have one cell swapped for one that runs it; return what went wrong, or nothing."""
        assert self.used is not None, "begun before"
        self._say(f"{new.version} proves itself with one cell")
        worker = self._quietest()
        older = {cell.name for each in self.cells.workers.values() for cell in each.cells.values()}
        self.cells.use_workerd(self.used.mark, (new.mark, worker) if worker else None)
        with anyio.move_on_after(PROOF_S_MAX):
            while worker is not None:
                await anyio.sleep(LOOK_S / 4)
                cells = self._cells_of(worker)
                if self.cells.proof_failed:
                    return "a cell did not become ready with it."
                if any(cell.crashes_all for cell in cells if cell.name not in older):
                    return "the first cell crashed with it."
                if any(self._proved(cell, new.mark) for cell in cells):
                    return ""
                if not any(cell.live() for cell in cells):
                    worker = self._quietest()  # it has stopped, idle
                    self.cells.use_workerd(self.used.mark, (new.mark, worker) if worker else None)
            return ""  # nothing runs: the trial has to do
        return f"no cell could be swapped within {PROOF_S_MAX:.0f} s."

    def _quietest(self) -> WorkerKey | None:
        """Return the worker with a cell that runs and the fewest requests."""
        running = [
            (cell.requests, cell.name.worker_key)
            for worker in self.cells.workers.values()
            for cell in worker.cells.values()
            if cell.ready() and cell.retired_at is None
        ]
        return min(running)[1] if running else None

    def _cells_of(self, worker: WorkerKey) -> list[Cell]:
        found = self.cells.workers.get(worker)
        return list(found.cells.values()) if found is not None else []

    def _proved(self, cell: Cell, mark: str) -> bool:
        now = self.clock.monotonic()
        return any(
            process.workerd == mark
            and process.state == "ready"
            and now - process.ready_at >= PROVED_S
            for process in cell.processes.values()
        )

    # -- rolled --------------------------------------------------------------------------------

    def _accept(self, new: Used) -> None:
        self.before = self.used
        remember(self.layout, new)
        self._take(new)
        self._journal.info("workerd_accepted", version=new.version, mark=new.mark, path=new.path)
        self._watch_roll()

    def _watch_roll(self) -> None:
        """Go back when a cell does not start; forget the one before when nothing runs it."""
        assert self.used is not None, "begun before"
        assert self.before is not None, "asked before"
        left = self._left()
        if self.cells.proof_failed:
            back, bad = self.before, self.used
            self.before = None
            remember(self.layout, back)
            self._take(back)
            self._refuse(bad.mark, f"{bad.version}: a cell did not become ready with it.")
        elif left:
            self._say(f"rolls {self.used.version}: cells to go: {left}")
        else:
            self._say("")
            self.before = None
            for mark in set(self.programs) - {self.used.mark}:
                del self.programs[mark]
            forget_others(self.layout, {self.used.mark})
            self._journal.info("workerd_rolled", version=self.used.version)

    def _left(self) -> int:
        """Return how many cells run another workerd than the one in use."""
        assert self.used is not None, "begun before"
        return sum(
            any(process.workerd != self.used.mark for process in cell.processes.values())
            for worker in self.cells.workers.values()
            for cell in worker.cells.values()
        )
