"""Homes on a Zipf trace: how many requests find a warm cell, and what warm cells weigh.

Computed, not run: a trace of an hour would take an hour. What decides is the real thing
(`route/elsewhere.py`, once for each of five machines, asked each five seconds as the agent would);
arrivals are a seeded Poisson stream over workers whose popularity is Zipf's, each at a machine
taken at random; a cell stays warm for `idle_stop_s` after its last request; homes are taken from a
ring with bounded load, as HAProxy's `hash-balance-factor` does it. Memory is warm cells times what
`bench cold` measured for one.
"""

import hashlib
import heapq
import math
import random
from bisect import bisect
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from bench.figures import Figure
from kythera.model.catalog import Name
from kythera.model.limits import Limits
from kythera.route.elsewhere import Elsewhere, Situation
from kythera.route.mesh import Where

SEED = 20_261_123
POINTS = 160
"""Of each machine on the ring."""
DECIDE_S = 5.0
CELL_MIB = 8.1
WARM_S, COLD_S = 0.005, 0.035
"""How long a request occupies a cell, and one that must wait for its start."""


@dataclass(frozen=True)
class Trace:
    """What visitors ask: `rate` requests a second over all machines, counted after `settle_s`."""

    machines: int = 5
    workers: int = 1_000
    exponent: float = 1.0
    rate: float = 50.0
    seconds: float = 3_600.0
    settle_s: float = 600.0

    def arrivals(self, dice: random.Random) -> Iterator[tuple[float, int, Name]]:
        """Yield time, machine and worker of each request."""
        weights = [1 / (rank + 1) ** self.exponent for rank in range(self.workers)]
        names = [("a" * 32, f"worker-{rank}") for rank in range(self.workers)]
        ladder, total = [], 0.0
        for weight in weights:
            total += weight
            ladder.append(total)
        now = 0.0
        while (now := now + dice.expovariate(self.rate)) < self.settle_s + self.seconds:
            yield now, dice.randrange(self.machines), names[bisect(ladder, dice.random() * total)]


class Ring:
    """Machines on a circle; a worker's home is the next one that is not too busy."""

    def __init__(self, machines: int, factor: int) -> None:
        self._machines = machines
        self._factor = factor
        self._points = sorted(
            (_point(f"{machine}/{point}"), machine)
            for machine in range(machines)
            for point in range(POINTS)
        )

    def home(self, name: Name, inside: list[int]) -> int:
        """Return who serves a worker while so many requests are inside each machine."""
        room = math.ceil((sum(inside) + 1) * self._factor / 100 / self._machines)
        start = bisect(self._points, (_point("/".join(name)), 0))
        for step in range(len(self._points)):
            machine = self._points[(start + step) % len(self._points)][1]
            if inside[machine] < max(1, room):
                return machine
        raise AssertionError("somebody always has room")


def _point(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


@dataclass
class Fleet:
    """Five machines' cells and decisions, with homes or without."""

    trace: Trace
    homes: bool
    limits: Limits = field(default_factory=Limits)
    requests: int = 0
    warm: int = 0
    forwarded: int = 0
    cell_seconds: float = 0.0

    def __post_init__(self) -> None:
        count = self.trace.machines
        self._ring = Ring(count, self.limits.home_load_factor)
        self._minds = [Elsewhere(self.limits) for _ in range(count)]
        self._where: list[dict[Name, Where]] = [{} for _ in range(count)]
        self._served: list[Counter[Name]] = [Counter() for _ in range(count)]
        self._homed: list[Counter[Name]] = [Counter() for _ in range(count)]
        self._homed_before: list[Counter[Name]] = [Counter() for _ in range(count)]
        self._last: list[dict[Name, float]] = [{} for _ in range(count)]
        # For each door the ends of what it has sent home, by machine: HAProxy knows its own only.
        self._ends: list[list[list[float]]] = [[[] for _ in range(count)] for _ in range(count)]
        self._decided = self._window = 0.0
        names = frozenset(("a" * 32, f"worker-{rank}") for rank in range(self.trace.workers))
        self._workers = names

    def run(self, seed: int = SEED) -> "Fleet":
        """Let the whole trace pass."""
        for now, machine, name in self.trace.arrivals(random.Random(seed)):
            while now - self._decided >= DECIDE_S:
                self._decided += DECIDE_S
                self._decide(self._decided)
            self._arrive(now, machine, name)
        return self

    @property
    def warm_share(self) -> float:
        """The part of requests that found a running cell, in percent."""
        return 100 * self.warm / max(1, self.requests)

    @property
    def cells(self) -> float:
        """How many cells were warm at a time, over all machines, in the mean."""
        return self.cell_seconds / self.trace.seconds

    def _home(self, now: float, first: int, name: Name) -> int:
        """Return where a machine sends a rare worker's request."""
        for ends in self._ends[first]:
            while ends and ends[0] <= now:
                heapq.heappop(ends)
        self._homed[first][name] += 1
        return self._ring.home(name, [len(ends) for ends in self._ends[first]])

    def _arrive(self, now: float, first: int, name: Name) -> None:
        homed = self._where[first].get(name) == "home"
        machine = self._home(now, first, name) if homed else first
        before = self._last[machine].get(name, -math.inf)
        warm = now - before < self.limits.idle_stop_s
        self._last[machine][name] = now
        self._served[machine][name] += 1
        if homed:
            heapq.heappush(self._ends[first][machine], now + (WARM_S if warm else COLD_S))
        if now >= self.trace.settle_s:
            self.requests += 1
            self.warm += warm
            self.forwarded += machine != first
            # Each request keeps its cell warm from the one before, or for as long as it may idle.
            self.cell_seconds += min(now - before, self.limits.idle_stop_s)

    def _decide(self, now: float) -> None:
        if not self.homes:
            return
        if now - self._window >= self.limits.rare_window_s:
            self._homed_before = self._homed
            self._homed = [Counter() for _ in self._minds]
            self._window = now
        share = 1 - (now - self._window) / self.limits.rare_window_s
        for machine, mind in enumerate(self._minds):
            # As HAProxy counts a rate: this window, and what is left of the one before.
            homed = {
                name: self._homed[machine][name] + int(self._homed_before[machine][name] * share)
                for name in self._homed[machine].keys() | self._homed_before[machine].keys()
            }
            others = self.trace.machines - 1
            facts = Situation(
                workers=self._workers,
                peers=others,
                site_peers=others,
                served=self._served[machine],
                homed=homed,
            )
            self._where[machine] = mind.decide(facts, now)


async def run() -> list[Figure]:
    """Let the same trace pass over both fleets."""
    return figures(Trace())


def figures(trace: Trace) -> list[Figure]:
    """Return warm rate and memory, without homes and with them."""
    found = []
    note = (
        f"computed: {trace.workers} workers, Zipf {trace.exponent:g}, {trace.rate:g} requests/s "
        f"over {trace.machines} machines, {trace.seconds / 60:.0f} min"
    )
    for homes in (False, True):
        fleet = Fleet(trace, homes).run()
        label = "with homes" if homes else "without homes"
        sent = 100 * fleet.forwarded / max(1, fleet.requests)
        found += [
            Figure(
                bench="zipf",
                name=f"requests that find a warm cell, {label}",
                value=fleet.warm_share,
                unit="%",
                note=f"{note}; {fleet.requests:,} requests, {sent:.0f} % sent to another machine",
            ),
            Figure(
                bench="zipf",
                name=f"memory of warm cells, all machines, {label}",
                value=fleet.cells * CELL_MIB,
                unit="MiB",
                note=f"{fleet.cells:.0f} cells of {CELL_MIB:g} MiB at a time",
            ),
        ]
    return found
