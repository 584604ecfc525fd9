"""Who serves each worker's visitors that come to this machine: decided here.

Pure; time is an argument. Promises: with nobody else able, everything is served here (fail
static); a draining machine serves nothing that another can; a worker that does not start here, or
whose code cannot be had, is served by others; an overloaded machine sheds its workers by quarters
and takes them back as slowly; a rarely asked one is served from its home, where the whole site's
requests keep it warm. Each has two thresholds or a rest, so that no decision swings.
"""

from collections import deque
from collections.abc import Mapping
from zlib import crc32

from msgspec import Struct, field

from kythera.model.catalog import Name
from kythera.model.limits import Limits
from kythera.route.mesh import Where

SHARES = 4
"""Into how many parts a machine's workers are divided when it must shed some."""
SAMPLES = 10
"""How many times in `rare_window_s` a worker's total is noted."""
MINUTE_S = 60.0


class Situation(Struct, frozen=True, kw_only=True):
    """What this machine knows now. Names that are not in `workers` are ignored."""

    workers: frozenset[Name] = frozenset()
    draining: bool = False
    cpu_share: float = 0.0
    """The busy part (0 to 1) of all cores since the last decision."""
    site_peers: int = 0
    """How many other machines of this site are able to serve now."""
    peers: int = 0
    """How many anywhere are, those of this site too."""
    failing: frozenset[Name] = frozenset()
    """Workers whose cell does not start here."""
    missing: frozenset[Name] = frozenset()
    """Workers whose code is not here and could not be fetched."""
    served: Mapping[Name, int] = field(default_factory=dict)
    """Requests ever given to a worker's cells here: totals."""
    homed: Mapping[Name, int] = field(default_factory=dict)
    """Visitors' requests of the last `rare_window_s` that were sent to the worker's home."""


class Elsewhere:
    """The decisions of one machine, with what they must remember."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._shedding = _Shedding(limits)
        self._away_until: dict[Name, float] = {}
        self._counts: dict[Name, _Count] = {}

    @property
    def overloaded(self) -> bool:
        """Tell whether this machine sheds workers: then it must not be given those of others."""
        return self._shedding.level > 0

    def decide(self, facts: Situation, now: float) -> dict[Name, Where]:
        """Return who serves each worker; `now` in seconds of a clock that never goes back."""
        self._shedding.note(facts.cpu_share, now)
        self._note_failures(facts, now)
        rare = self._rare(facts, now)
        return {name: self._where(name, facts, name in rare) for name in sorted(facts.workers)}

    def _where(self, name: Name, facts: Situation, rare: bool) -> Where:
        if facts.peers == 0:
            return "local"
        if facts.draining or name in self._away_until or name in facts.missing:
            return "away"
        if self._shedding.sheds(name):
            return "away"
        return "home" if rare and facts.site_peers > 0 and not self.overloaded else "local"

    def _note_failures(self, facts: Situation, now: float) -> None:
        until = now + self._limits.failing_away_s
        self._away_until = {
            name: rest
            for name, rest in self._away_until.items()
            if now < rest and name in facts.workers
        } | dict.fromkeys(facts.failing & facts.workers, until)

    def _rare(self, facts: Situation, now: float) -> set[Name]:
        self._counts = {
            name: self._counts.get(name) or _Count(self._limits) for name in facts.workers
        }
        return {
            name
            for name, count in self._counts.items()
            if count.note(facts.served.get(name, 0), facts.homed.get(name, 0), now)
        }


class _Shedding:
    """How many quarters of the workers an overloaded machine hands to others."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.level = 0
        self._step = 0
        self._since = 0.0

    def note(self, share: float, now: float) -> None:
        limits = self._limits
        step = (share >= limits.overloaded_cpu_share) - (share < limits.relieved_cpu_share)
        if step != self._step:
            self._step, self._since = step, now
        patience_s = limits.overloaded_s if step > 0 else limits.relieved_s
        if step and now - self._since >= patience_s:
            self.level = min(SHARES, max(0, self.level + step))
            self._since = now

    def sheds(self, name: Name) -> bool:
        return crc32("/".join(name).encode()) % SHARES < self.level


class _Count:
    """One worker's requests here, as far as it takes to call it rare or not."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._rare = False
        self._samples: deque[tuple[float, int]] = deque()

    def note(self, served: int, homed: int, now: float) -> bool:
        """Tell whether the worker is rare. It is not until a whole window was watched."""
        if self._rare:
            self._rare = self._per_minute(homed) <= self._limits.frequent_requests_per_minute_min
            return self._rare
        self._sample(served, now)
        begun, before = self._samples[0]
        if now - begun >= self._limits.rare_window_s:
            self._rare = (
                self._per_minute(served - before) <= self._limits.rare_requests_per_minute_max
            )
        if self._rare:
            self._samples.clear()  # When it comes back it is watched anew.
        return self._rare

    def _sample(self, served: int, now: float) -> None:
        window_s = self._limits.rare_window_s
        if self._samples and served < self._samples[-1][1]:
            self._samples.clear()  # The counters began anew.
        if not self._samples or now - self._samples[-1][0] >= window_s / SAMPLES:
            self._samples.append((now, served))
        while len(self._samples) > 1 and now - self._samples[1][0] >= window_s:
            self._samples.popleft()

    def _per_minute(self, requests: int) -> float:
        return requests * MINUTE_S / self._limits.rare_window_s
