"""When a cell gets another process, and when it loses one: a simple rule on CPU shares.

Pure. A cell all of whose processes were busier than `saturated_cpu_share` for `saturated_s` gets
one more on the same socket, up to the machine's cores. A cell of several whose processes together
would keep one fewer below `quiet_cpu_share` for `quiet_s` is replaced by a smaller one.
"""

from collections.abc import Mapping
from typing import Literal

from kythera.model.limits import Limits
from kythera.run.cell import Cell

Verdict = Literal["grow", "shrink", "stay"]


def note_load(
    cell: Cell, load: tuple[int, int] | None, cpu: Mapping[str, float], now: float
) -> None:
    """Keep a reading: (current, requests) from HAProxy, CPU seconds of each process."""
    current, requests = load or (0, cell.requests)
    if current or requests != cell.requests:
        cell.last_used = now
    cell.current, cell.requests = current, max(requests, cell.requests)
    for process in cell.processes.values():
        seconds = cpu.get(process.name)
        if seconds is None:
            continue
        if process.measured_at is not None and now > process.measured_at:
            spent = max(0.0, seconds - process.cpu_seconds)
            process.cpu_share = spent / (now - process.measured_at)
        process.cpu_seconds, process.measured_at = seconds, now


def note_shares(cell: Cell, limits: Limits, processes_max: int, now: float) -> Verdict:
    """Tell whether the cell's processes have been too busy, or too idle, for long enough."""
    live = cell.live()
    settled = all(p.state == "ready" and p.measured_at is not None for p in live)
    if not settled or not live or cell.retired_at is not None or cell.outgrown:
        cell.saturated_since = cell.quiet_since = None
        return "stay"
    shares = [process.cpu_share for process in live]
    saturated = min(shares) > limits.saturated_cpu_share
    quiet = len(live) > 1 and sum(shares) / (len(live) - 1) < limits.quiet_cpu_share
    cell.saturated_since = _since(cell.saturated_since, saturated, now)
    cell.quiet_since = _since(cell.quiet_since, quiet, now)
    if _lasted(cell.saturated_since, limits.saturated_s, now) and len(live) < processes_max:
        cell.saturated_since = None
        return "grow"
    if _lasted(cell.quiet_since, limits.quiet_s, now):
        return "shrink"
    return "stay"


def _since(since: float | None, holds: bool, now: float) -> float | None:
    if not holds:
        return None
    return now if since is None else since


def _lasted(since: float | None, seconds: float, now: float) -> bool:
    return since is not None and now - since >= seconds
