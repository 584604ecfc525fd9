"""What each machine last told of itself, and since when it is silent. In this process' memory alone.

Pure: time is an argument.
"""

from dataclasses import dataclass

from kythera.control.status_document import MachineFacts, StatusAnswer


@dataclass
class Sighting:
    """One machine, as this process knows it. Times are Unix seconds by this machine's clock."""

    facts: MachineFacts | None = None
    seen_at: float | None = None
    silent_since: float | None = None
    why: str = ""
    """The reason of its silence, in words."""


class Sightings:
    """All machines that were asked."""

    def __init__(self) -> None:
        self._known: dict[str, Sighting] = {}

    def answered(self, name: str, answer: StatusAnswer, now: float) -> Sighting:
        """Note what a machine has told."""
        facts = answer.machines[0] if answer.machines else MachineFacts()
        self._known[name] = Sighting(facts, now)
        return self._known[name]

    def silent(self, name: str, why: str, now: float) -> Sighting:
        """Note that a machine has not answered; what it told before is kept."""
        known = self._known.setdefault(name, Sighting())
        known.silent_since = now if known.silent_since is None else known.silent_since
        known.why = why
        return known

    def keep_only(self, names: set[str]) -> None:
        """Forget machines that are no longer in the fleet."""
        for name in self._known.keys() - names:
            del self._known[name]
