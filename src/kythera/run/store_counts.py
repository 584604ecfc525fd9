"""What a store has counted of each worker, over its restarts.

Pure. A store counts from its own start (`calls`, `failed`, rows …: each names its own sums); the agent
that follows it keeps what earlier processes had.
"""

from msgspec import Struct, field


class WorkerUse(Struct, kw_only=True):
    """What one worker's cells asked of one store."""

    account: str
    worker: str
    counts: dict[str, int] = field(default_factory=dict)


class Counted(Struct, kw_only=True):
    """What a store's process answers when it is asked for its sums."""

    process: str
    """Which process counts: random, and its own."""
    workers: list[WorkerUse]


class StoreCounts(Struct, kw_only=True):
    """Of all workers of this machine."""

    state: str = "down"
    """`up`, `down` (nothing is kept yet, or it is about to start) or `silent`."""
    restarts: int = 0
    workers: list[WorkerUse] = field(default_factory=list)


def added(past: list[WorkerUse], now: list[WorkerUse]) -> list[WorkerUse]:
    """Return the sums of what was counted before and since, by account and worker."""
    sums: dict[tuple[str, str], dict[str, int]] = {}
    for use in (*past, *now):
        found = sums.setdefault((use.account, use.worker), {})
        for name, count in use.counts.items():
            found[name] = found.get(name, 0) + count
    return [
        WorkerUse(account=account, worker=worker, counts=counts)
        for (account, worker), counts in sorted(sums.items())
    ]


class UsesByProcess:
    """Sums of what each worker's own process counts from its start, over its restarts."""

    def __init__(self) -> None:
        self._past: list[WorkerUse] = []
        self._now: dict[tuple[str, str], tuple[str, WorkerUse]] = {}

    def __bool__(self) -> bool:
        return bool(self._past or self._now)

    def hear(self, use: WorkerUse, process: str) -> None:
        """Take what a worker's process has counted so far."""
        key = (use.account, use.worker)
        before = self._now.get(key)
        if before is not None and before[0] != process:
            self._past = added(self._past, [before[1]])
        self._now[key] = (process, use)

    def told(self) -> list[WorkerUse]:
        """Return the sums, by account and worker."""
        return added(self._past, [use for _, use in self._now.values()])
