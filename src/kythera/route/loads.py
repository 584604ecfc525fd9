"""How busy each cell is, summed over HAProxy's processes.

Pure. After a reload old processes go on serving their clients and then end, and their counters
with them; `Tally` keeps what was seen last, so that a cell's total never falls.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kythera.model.catalog import Name
from kythera.route.plan import FrontPlan
from kythera.route.runtime import ServerRow


@dataclass(frozen=True)
class Load:
    """Requests inside a cell now (WebSockets count), and all that were ever given to it."""

    current: int
    requests: int


class Tally:
    """Counters of processes that come and go, as totals of cells that only grow."""

    def __init__(self) -> None:
        self._last: dict[tuple[int, str], int] = {}
        self._ended: dict[str, int] = {}
        """What processes that ended, or forgot a cell, had counted."""

    def count(self, rows_by_process: Mapping[int, Iterable[ServerRow]]) -> dict[str, Load]:
        """Take the statistics of all processes that live now; return the cells' loads."""
        current: dict[str, int] = {}
        now: dict[tuple[int, str], int] = {}
        for pid, rows in rows_by_process.items():
            for row in rows:
                now[pid, row.server] = row.total
                current[row.server] = current.get(row.server, 0) + row.current
        for (pid, server), last in self._last.items():
            if now.get((pid, server), -1) < last:
                self._ended[server] = self._ended.get(server, 0) + last
        self._last = now
        self._ended = {name: total for name, total in self._ended.items() if name in current}
        totals = dict(self._ended)
        for (_, server), total in now.items():
            totals[server] = totals.get(server, 0) + total
        return {server: Load(current[server], totals[server]) for server in sorted(current)}


def totals_by_worker(plan: FrontPlan, loads: Mapping[str, Load]) -> dict[Name, int]:
    """Return how many requests each worker's present cells were ever given."""
    found: dict[Name, int] = {}
    for slot, servers in plan.servers.items():
        account, _, worker = plan.owners.get(slot, "").partition("/")
        found[account, worker] = sum(
            loads[server.name].requests for server in servers if server.name in loads
        )
    return found
