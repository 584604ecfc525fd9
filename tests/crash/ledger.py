"""What was asked for, what was acknowledged, and what must therefore be there. Pure.

A write that was acknowledged is there; one that was asked for and not acknowledged may be. Of a name that
is written again and again, by one client, the value is the last acknowledged one or a later one. A counter
shows at least as many as were acknowledged, and at most as many as were asked for. A message that was
acknowledged is heard at least once.
"""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field

VALUES = ("kv", "r2", "d1")


@dataclass
class Name:
    """One name in one store, written with 1, 2, 3 …"""

    asked: int = 0
    acknowledged: int = 0
    """Of values the last, of counters how many."""
    attempts: int = 0


@dataclass
class Ledger:
    """All names of all stores."""

    names: dict[tuple[str, str], Name] = field(default_factory=lambda: defaultdict(Name))
    messages: set[str] = field(default_factory=set)
    """Acknowledged."""
    broken: list[str] = field(default_factory=list)
    """What was seen on the way that must never be."""

    def ask(self, store: str, name: str) -> int:
        """Note that the next value of a name is asked for; return it."""
        found = self.names[store, name]
        found.asked += 1
        found.attempts += 1
        return found.asked

    def acknowledge(self, store: str, name: str, value: int) -> None:
        """Note that it was acknowledged."""
        found = self.names[store, name]
        if store == "queue":
            self.messages.add(f"{name}={value}")
        elif store == "object":
            found.acknowledged += 1
        else:
            found.acknowledged = max(found.acknowledged, value)

    def wrong(self, store: str, name: str, text: str) -> str:
        """Return what is wrong with what is read; empty: nothing."""
        found = self.names[store, name]
        value = int(text) if text.isdecimal() else 0
        if not found.acknowledged <= value <= found.asked:
            return (
                f"{store} {name}: {found.acknowledged} acknowledged, {found.asked} asked for,"
                f" {text!r} there"
            )
        return ""

    def unheard(self, heard: Collection[str]) -> set[str]:
        """Return the messages that were acknowledged and not heard."""
        return self.messages - set(heard)
