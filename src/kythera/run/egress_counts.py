"""What the egress cell has counted, over its restarts: sums go on, gauges are of now.

Pure. The cell counts from its own start; the agent that follows it keeps what earlier ones had.
"""

from collections.abc import Iterable

from msgspec import Struct, field


class WorkerCounts(Struct, kw_only=True):
    """Of one worker's cells on this machine."""

    account: str
    worker: str
    requests: int = 0
    open: int = 0
    """Connections now."""
    waiting: int = 0
    """Requests that wait for one of them to end."""
    bytes_in: int = 0
    """Of bodies, messages and TCP, as they came from the outside."""
    bytes_out: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    """What was not allowed, by reason."""
    failed: dict[str, int] = field(default_factory=dict)
    """What was allowed and did not work, by reason."""


class Counts(Struct, kw_only=True):
    """Of all workers of this machine."""

    state: str = "down"
    """`up`, `down` or `silent` (it runs and does not answer)."""
    open: int = 0
    forged: int = 0
    """Requests that did not come from a cell of this machine."""
    restarts: int = 0
    workers: list[WorkerCounts] = field(default_factory=list)


def added(past: Counts, now: Counts) -> Counts:
    """Return the sums of what was counted before and since; gauges are those of `now`."""
    found = {(c.account, c.worker): _copied(c, open_=0, waiting=0) for c in past.workers}
    for counts in now.workers:
        key = (counts.account, counts.worker)
        before = found.get(key)
        found[key] = counts if before is None else _sum(before, counts)
    return Counts(
        state=now.state,
        open=now.open,
        forged=past.forged + now.forged,
        restarts=now.restarts,
        workers=list(found.values()),
    )


def _copied(counts: WorkerCounts, *, open_: int, waiting: int) -> WorkerCounts:
    return WorkerCounts(
        account=counts.account,
        worker=counts.worker,
        requests=counts.requests,
        open=open_,
        waiting=waiting,
        bytes_in=counts.bytes_in,
        bytes_out=counts.bytes_out,
        refused=counts.refused,
        failed=counts.failed,
    )


def _sum(before: WorkerCounts, now: WorkerCounts) -> WorkerCounts:
    return WorkerCounts(
        account=now.account,
        worker=now.worker,
        requests=before.requests + now.requests,
        open=now.open,
        waiting=now.waiting,
        bytes_in=before.bytes_in + now.bytes_in,
        bytes_out=before.bytes_out + now.bytes_out,
        refused=_reasons(before.refused, now.refused),
        failed=_reasons(before.failed, now.failed),
    )


def _reasons(before: dict[str, int], now: dict[str, int]) -> dict[str, int]:
    keys: Iterable[str] = dict.fromkeys((*before, *now))
    return {key: before.get(key, 0) + now.get(key, 0) for key in keys}
