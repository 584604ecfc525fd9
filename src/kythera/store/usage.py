"""What each worker has asked of a store, since the store's program began.

A store counts what it sees: the pass says whose cell asks. The agent asks for the sums now and then
(`GET /usage` with a pass of no worker and to no resource), and adds up over restarts what it has heard:
what was counted after its last question is lost with the program. What the platform itself asks, through
its API, is no worker's and is not counted. Sums say which process counts (`process`), so that another
one's are never taken for its own.
"""

import msgspec

from kythera.ground.chance import SystemChance
from kythera.ground.passes import Pass

PATH = "/usage"


class Usage:
    """Sums by account and worker."""

    def __init__(self, *names: str) -> None:
        """Begin with nothing; a worker that is seen shows each of these names."""
        self._names = names
        self._process = SystemChance().hex(16)
        self._counts: dict[tuple[str, str], dict[str, int]] = {}

    def add(self, granted: Pass, name: str, amount: int = 1) -> None:
        """Count something for the worker that shows this pass."""
        if not granted.worker:
            return
        key = (granted.account, granted.worker)
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = dict.fromkeys(self._names, 0)
        counts[name] += amount

    def told(self) -> bytes:
        """Return all sums as JSON."""
        workers = [
            {"account": account, "worker": worker, "counts": counts}
            for (account, worker), counts in self._counts.items()
        ]
        return msgspec.json.encode({"process": self._process, "workers": workers})


def is_agents(granted: Pass) -> bool:
    """Tell whether a pass is the agent's, who alone asks for the sums."""
    return not granted.worker and not granted.resource
