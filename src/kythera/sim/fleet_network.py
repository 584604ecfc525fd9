"""The links between a simulated fleet's machines: late, lossy, out of order, cut one way or both.

Coarser than TCP, and nastier: each message takes its own time, may come twice or not at all. What
survives this survives a real connection, which at worst ends. Sites may be far apart.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from kythera.sim.machine import Virtual

NEAR_S = 0.001
FAR_S = (0.005, 0.02, 0.15)
LATE_S_MAX = 0.8
"""What a message that is overtaken by others waits."""
AGAIN_S = 0.05


@dataclass
class Weather:
    """How bad all links are: shares of messages."""

    loss: float = 0.0
    twice: float = 0.0
    late: float = 0.0


@dataclass
class Network:
    """All links; a link is a pair (from, to), since one direction may be cut alone."""

    time: Virtual
    sites: dict[str, str]
    """Machine → site."""
    weather: Weather
    _far_s: dict[frozenset[str], float] = field(default_factory=dict)
    _cut: set[tuple[str, str]] = field(default_factory=set)

    def delay_s(self, source: str, target: str) -> float:
        """Return how long a message travels; the same for each pair of sites, in this world."""
        pair = frozenset((self.sites[source], self.sites[target]))
        if len(pair) == 1:
            return NEAR_S
        if pair not in self._far_s:
            self._far_s[pair] = self.time.chance.choice(FAR_S)
        return self._far_s[pair]

    def open(self, source: str, target: str) -> bool:
        """Tell whether messages get from one machine to the other at all."""
        return (source, target) not in self._cut

    def both_ways(self, one: str, other: str) -> bool:
        """Tell whether a connection between the two could live."""
        return self.open(one, other) and self.open(other, one)

    def send(self, source: str, target: str, deliver: Callable[[], None]) -> None:
        """Carry one message, maybe; `deliver` runs where it arrives."""
        if source == target:
            self.time.after(0.0, deliver)
            return
        chance, weather = self.time.chance, self.weather
        if (source, target) in self._cut or (weather.loss and chance.random() < weather.loss):
            return
        delay_s = self.delay_s(source, target)
        if weather.late and chance.random() < weather.late:
            delay_s += chance.uniform(0.0, LATE_S_MAX)
        self.time.after(delay_s, lambda: self._arrive(source, target, deliver))
        if weather.twice and chance.random() < weather.twice:
            late_s = delay_s + chance.uniform(0.0, AGAIN_S)
            self.time.after(late_s, lambda: self._arrive(source, target, deliver))

    def _arrive(self, source: str, target: str, deliver: Callable[[], None]) -> None:
        if (source, target) not in self._cut:
            deliver()

    def cut(self, sources: Iterable[str], targets: Iterable[str], *, one_way: bool) -> None:
        """Let nothing pass from `sources` to `targets` (nor back, unless one way)."""
        targets = list(targets)
        for source in sources:
            for target in targets:
                if source != target:
                    self._cut.add((source, target))
                    if not one_way:
                        self._cut.add((target, source))

    def heal(self) -> None:
        """Open every link."""
        self._cut.clear()

    def clear_up(self) -> None:
        """Open every link and end the bad weather."""
        self.heal()
        self.weather.loss = self.weather.twice = self.weather.late = 0.0
