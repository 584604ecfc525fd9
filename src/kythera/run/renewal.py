"""When a cell that runs is replaced by a new one of the same version: because its time has come,
because it runs another workerd than it should, or because a secret it was given has changed.

Pure. Each process is given a life of its own between half and one and a half times `restart_s`, drawn
from its name and the moment it was started, so that a thousand cells started together do not end
together, and nothing needs to be remembered. One cell of a machine is replaced at a time, by a swap
as at a deploy: the new one is ready before the old one loses its traffic.
"""

import hashlib
from collections.abc import Iterable
from typing import Literal

from kythera.run.cell import Cell, Process

Stale = Literal["", "age", "workerd", "secret"]
"""Why a cell is to be replaced."""


def lifetime_s(process: Process, restart_s: float) -> float:
    """Return how long a process lives: half to one and a half times `restart_s`, all alike likely."""
    seed = f"{process.name} {process.started_at:.3f}".encode()
    drawn = int.from_bytes(hashlib.sha256(seed).digest()[:8]) / 2**64
    return restart_s * (0.5 + drawn)


def ends_at(process: Process, restart_s: float) -> float:
    """Return the moment at which a process is due, by the monotonic clock."""
    return process.started_at + lifetime_s(process, restart_s)


def due_since(cell: Cell, restart_s: float, workerd: str) -> tuple[float, Stale] | None:
    """Return since when a cell that serves is to be replaced, and why; None: it is not.

    An idle one has no process, and the next visitor starts a new one anyway."""
    live = cell.live()
    if not live or cell.replaced or cell.retired_at is not None or cell.closing:
        return None
    if any(process.state != "ready" for process in live):
        return None
    if any(process.workerd != workerd for process in live):
        since = min(process.started_at for process in live)
        return max(since, cell.renew_after), "workerd"
    if cell.outdated:
        return max(min(process.started_at for process in live), cell.renew_after), "secret"
    if restart_s <= 0:
        return None
    return max(min(ends_at(process, restart_s) for process in live), cell.renew_after), "age"


def next_due(
    cells: Iterable[tuple[Cell, str]], restart_s: float, now: float
) -> tuple[Cell, Stale] | None:
    """Return the cell that has been due longest; `cells` come with the workerd each should run."""
    due = [
        (since, why, cell)
        for cell, workerd in cells
        if (found := due_since(cell, restart_s, workerd)) is not None
        for since, why in (found,)
        if since <= now
    ]
    if not due:
        return None
    _, why, cell = min(
        due, key=lambda each: (each[1] == "age", each[1] != "workerd", each[0], each[2].name.socket)
    )
    return cell, why
