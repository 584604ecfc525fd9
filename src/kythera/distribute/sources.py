"""From whom this machine takes the records: from the log itself, or from its site's relay.

Pure. Core machines, and machines in a site that has one, follow the log. In every other site one
machine does, the relay, and serves the others from its copy. Who that is needs no agreement: a hash
puts all machines in one order for ever, and each follows only machines that stand before itself.
So whatever each believes of the others there is no circle, and those who see the same facts see
the same relay. The log is always the last resort.

A source that failed rests, longer each time, and is tried again when a better one is looked for.
"""

from collections.abc import Iterable
from typing import NamedTuple

from msgspec import Struct

from kythera.distribute.nearness import Near, near, rank
from kythera.model.limits import Limits
from kythera.model.records import Core, Machine

ORDER = "records"
"""What the rendezvous hash is asked about."""


class Source(NamedTuple):
    """Where records come from: the copy of the machine `relay`, or the log itself when empty."""

    relay: str = ""

    def __str__(self) -> str:
        """Return it as status and events show it."""
        return self.relay or "log"


LOG = Source()


class Facts(Struct, frozen=True, kw_only=True):
    """What a machine believes when it decides.

    `silent`: machines that do not answer this one now, by whatever path it was tried."""

    me: Machine
    machines: tuple[Machine, ...] = ()
    core: frozenset[str] = frozenset()
    silent: frozenset[str] = frozenset()


def core_names(machines: Iterable[Machine], core: Core | None) -> frozenset[str]:
    """Return who holds the log: by the Core record, while there is none by the machines' own."""
    if core is not None:
        return frozenset(core.machines)
    return frozenset(machine.name for machine in machines if machine.core)


def standing(name: str) -> bytes:
    """Return a machine's place in the order of all machines; the smallest is first."""
    return rank(ORDER, name)


def candidates(facts: Facts) -> tuple[Source, ...]:
    """Return the sources this machine may follow, best first; the last is always the log."""
    me = facts.me
    if me.name in facts.core or me.state != "active":
        return (LOG,)
    site = [machine for machine in facts.machines if near(machine, me) is Near.SITE]
    if any(machine.name in facts.core for machine in site):
        return (LOG,)
    before = [
        machine.name
        for machine in site
        if machine.state == "active"
        and machine.name not in facts.silent
        and standing(machine.name) < standing(me.name)
    ]
    return (*(Source(name) for name in sorted(before, key=standing)), LOG)


class Rest(NamedTuple):
    """A source that failed: how often in a row, and until when it is left alone (seconds)."""

    failures: int
    until: float


class Chooser:
    """Remembers which sources failed. One for each follower; `now` is the monotonic clock's."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._resting: dict[Source, Rest] = {}

    def choose(self, facts: Facts, now: float) -> Source:
        """Return the best source that does not rest; when all do, the one that may go first."""
        found = candidates(facts)
        for source in found:
            if self._until(source) <= now:
                return source
        return min(found, key=self._until)

    def rests(self, source: Source, now: float) -> bool:
        """Tell whether a source is still left alone."""
        return self._until(source) > now

    def better(self, facts: Facts, current: Source, now: float) -> Source | None:
        """Return a source to try instead of `current`, which goes on meanwhile; or None."""
        found = candidates(facts)
        before = found[: found.index(current)] if current in found else found
        return next((source for source in before if self._until(source) <= now), None)

    def failed(self, source: Source, now: float, held_s: float = 0.0) -> None:
        """Let a source rest after a failure; one that had held for long rests briefly."""
        earlier = self._resting.get(source)
        longest_s = self._limits.source_rest_ms_max / 1000
        failures = 1 if earlier is None or held_s > longest_s else earlier.failures + 1
        rest_s = min(self._limits.source_rest_ms_min / 1000 * 2 ** min(failures - 1, 30), longest_s)
        self._resting[source] = Rest(failures, now + rest_s)

    def answered(self, source: Source) -> None:
        """Take a source that gave a sign of life when it was tried: it may be chosen at once.

        Its failures are remembered, so that one which only answers and then fails rests longer."""
        rest = self._resting.get(source)
        if rest is not None:
            self._resting[source] = rest._replace(until=float("-inf"))

    def _until(self, source: Source) -> float:
        rest = self._resting.get(source)
        return float("-inf") if rest is None else rest.until
