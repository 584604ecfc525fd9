"""What befalls cells on this machine: counted by reason, the last of it kept in full.

Promises a bounded memory: of each worker the last INCIDENTS_KEPT, of workers as many as have cells
here. The control process writes what it finds here to the log (`control/incidents.py`); an agent
that starts again begins to count anew, and says since when.
"""

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import msgspec

from kythera.ground.clock import iso
from kythera.model.records import Incident, Incidents

INCIDENTS_KEPT = 20
RAYS_KEPT = 20
RAYS_S = 3.0
"""A request that fails so soon after something befell its worker has failed of that."""


@dataclass
class _Worker:
    counts: Counter[str] = field(default_factory=Counter)
    last: deque[Incident] = field(default_factory=lambda: deque(maxlen=INCIDENTS_KEPT))
    last_at: float = 0.0


class IncidentBook:
    """The incidents of one machine. Times are Unix seconds."""

    def __init__(self, machine: str, now: float) -> None:
        self._machine = machine
        self._since = iso(now)
        self._workers: dict[tuple[str, str], _Worker] = {}
        self._failed: dict[tuple[str, str], deque[tuple[float, str]]] = {}

    def note(
        self, account: str, worker: str, version: str, reason: str, now: float, *, detail: str = ""
    ) -> None:
        """Something befell a cell."""
        of = self._workers.setdefault((account, worker), _Worker())
        early = self._failed.pop((account, worker), deque())
        rays = tuple(ray for at, ray in early if now - at <= RAYS_S)
        of.counts[reason] += 1
        of.last.append(
            Incident(reason=reason, version=version, at=iso(now), detail=detail, rays=rays)
        )
        of.last_at = now

    def add(self, account: str, worker: str, reason: str, count: int) -> None:
        """Count what comes too often to be told one by one."""
        self._workers.setdefault((account, worker), _Worker()).counts[reason] += count

    def failed(self, account: str, worker: str, ray: str, now: float) -> None:
        """A request got an error page: if something befell its worker just now, or is told of in a
        moment, it was that."""
        of = self._workers.get((account, worker))
        if of is None or not of.last or now - of.last_at > RAYS_S:
            waiting = self._failed.setdefault((account, worker), deque(maxlen=RAYS_KEPT))
            waiting.append((now, ray))
            return
        latest = of.last[-1]
        if len(latest.rays) < RAYS_KEPT and ray not in latest.rays:
            of.last[-1] = msgspec.structs.replace(latest, rays=(*latest.rays, ray))

    def keep(self, workers: set[tuple[str, str]]) -> None:
        """Forget workers that are gone."""
        for known in (self._workers, self._failed):
            for gone in known.keys() - workers:
                del known[gone]

    def document(self) -> list[dict[str, Any]]:
        """Return all of it, as status shows it and the log takes it."""
        return [
            msgspec.to_builtins(
                Incidents(
                    account=account,
                    worker=worker,
                    machine=self._machine,
                    since=self._since,
                    counts=dict(sorted(of.counts.items())),
                    last=tuple(of.last),
                )
            )
            for (account, worker), of in sorted(self._workers.items())
        ]
