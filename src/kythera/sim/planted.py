"""Mistakes put in on purpose: a checker that cannot fail proves nothing.

Each is the deciding code with one line gone wrong; the simulation must find every one of them.
"""

from kythera.model.limits import Limits
from kythera.run.cell import Cell, WorkerKey
from kythera.run.decide import Cells, WorkerCells


class StopsBeforeConfirmed(WorkerCells):
    """Retires a cell without waiting for HAProxy to confirm that it sends nothing there."""

    def _retire_or_keep(self, cell: Cell, current: set[str], now: float) -> None:
        self.applied = self.decided
        super()._retire_or_keep(cell, current, now)


class ForgetsTheWatch(WorkerCells):
    """Takes a socket for watched although its last process has just crashed."""

    def _watch(self, cell: Cell) -> None:
        if cell.crashes_all:
            cell.watched = True
        super()._watch(cell)


class MovesTooEarly(WorkerCells):
    """Takes an open socket for a ready process."""

    def _able(self, cell: Cell) -> bool:
        return cell.opened


class _CellsOf(Cells):
    kind: type[WorkerCells] = WorkerCells

    def _worker(self, key: WorkerKey) -> WorkerCells:
        if key not in self.workers:
            self.workers[key] = self.kind(key, self.folder, self.limits, self.cores)
        return self.workers[key]


def planted(kind: type[WorkerCells]) -> type[Cells]:
    """Return deciding code in which every worker makes the mistake `kind`."""

    class Planted(_CellsOf):
        def __init__(self, folder: str, limits: Limits, cores: int) -> None:
            super().__init__(folder, limits, cores)
            self.kind = kind

    return Planted


MISTAKES: tuple[type[WorkerCells], ...] = (StopsBeforeConfirmed, ForgetsTheWatch, MovesTooEarly)
