"""What was asked for, what was acknowledged, and what must therefore be there. Pure.

A write that was acknowledged is there; one that was asked for and not acknowledged may be, from any time
on. So a name of which a write was not acknowledged is written no more (`Name.over`): else nobody could
tell a late write from a lost one. What was read once is not taken back.
A counter shows at least as many as were acknowledged, and at most as many as were asked for. No two calls
count to the same number, who begins after another has ended counts further, and once another instance of
an object has answered the one before never does again. A message that was acknowledged is heard at
least once.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

VALUES = ("kv", "large", "r2", "parts", "d1")
"""Stores in which a name has a value: 1, 2, 3 …, and of some each fifth is that it is deleted."""
DELETING = ("kv", "r2", "d1")
DELETED_EACH = 5
COUNTERS = ("object",)
LATER = ("alarm", "secret")
"""Stores that show what was acknowledged in the end."""
MESSAGES = {"queue": ("crash", "crash-dead"), "dead": ("crash-dead",)}
"""Stores of messages, and the queues in one of which each is heard."""
REFUSAL_MAX = 120
ONCE = re.compile(r"(?<=reference = )\S+|(?<=ray=)\S+|\s+$")
"""What differs each time in what is said of a refusal."""
STORES = (*VALUES, *COUNTERS, *LATER, *MESSAGES)


@dataclass
class Name:
    """One name in one store, written with 1, 2, 3 …"""

    asked: int = 0
    acknowledged: int = 0
    """Of values the last, of counters how many."""
    seen: int = 0
    """The last that was read."""
    over: bool = False
    """A write was not acknowledged: it may come at any time, so nobody writes here any more."""


class Call(NamedTuple):
    """One call of a counter that was acknowledged."""

    began: float
    ended: float
    value: int
    instance: str


def _never() -> float:
    return 0.0


@dataclass
class Ledger:
    """All names of all stores."""

    clock: Callable[[], float] = _never
    names: dict[tuple[str, str], Name] = field(default_factory=lambda: defaultdict(Name))
    messages: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Acknowledged, by store."""
    calls: dict[str, list[Call]] = field(default_factory=lambda: defaultdict(list))
    """Of each counter."""
    broken: list[str] = field(default_factory=list)
    """What was seen on the way that must never be."""
    refusals: "Counter[str]" = field(default_factory=Counter)
    """How often which store said why that it did not write."""
    history: list[tuple[float, str, str]] = field(default_factory=list)
    """When, of which name (empty: of all), what."""

    def tell(self, name: str, what: str) -> None:
        """Add to the history."""
        self.history.append((self.clock(), name, what))

    def told(self, name: str, last: int = 60) -> list[str]:
        """Return the history of a name, and what befell all meanwhile."""
        found = [each for each in self.history if each[1] in (name, "")]
        return [f"  {when:8.3f} s {what}" for when, _, what in found[-last:]]

    def ask(self, store: str, name: str) -> int:
        """Note that the next value of a name is asked for; return it."""
        found = self.names[store, name]
        found.asked += 1
        self.tell(name, f"{found.asked} is asked for")
        return found.asked

    def acknowledge(self, store: str, name: str, value: int) -> None:
        """Note that it was acknowledged."""
        found = self.names[store, name]
        self.tell(name, f"{value} is acknowledged")
        if store in MESSAGES:
            self.messages[store].add(f"{name}={value}")
        elif store in COUNTERS:
            found.acknowledged += 1
        else:
            found.acknowledged = max(found.acknowledged, value)

    def refuse(self, store: str, name: str, value: int, why: str) -> None:
        """Note that nobody knows whether it was written."""
        self.tell(name, f"{value} is not acknowledged: {why}")
        self.names[store, name].over = True
        self.refusals[f"{store}: {ONCE.sub('…', why)[:REFUSAL_MAX]}"] += 1

    def called(self, name: str, call: Call) -> None:
        """Note what a counter's call answered."""
        self.acknowledge("object", name, call.value)
        self.calls[name].append(call)

    def wrong(self, store: str, name: str, text: str, acknowledged: int | None = None) -> str:
        """Return what is wrong with what is read; empty: nothing. `acknowledged`: before the reading began,
        where writes go on meanwhile."""
        found = self.names[store, name]
        least = found.acknowledged if acknowledged is None else acknowledged
        if store in VALUES:
            least = max(least, found.seen)
        good = {shown(store, value): value for value in range(least, found.asked + 1)}
        if text in good:
            found.seen = max(found.seen, good[text]) if text.isdecimal() else found.seen
            return ""
        return f"{store} {name}: {least} acknowledged or read, {found.asked} asked for, {text[:100]!r} there"

    def unheard(self, store: str, heard: Collection[str]) -> set[str]:
        """Return the messages that were acknowledged and not heard."""
        return self.messages[store] - set(heard)

    def miscounted(self) -> list[str]:
        """Return what is wrong with the order in which the counters counted."""
        return [
            f"object {name}: {wrong}"
            for name, calls in sorted(self.calls.items())
            for wrong in (*_counted_twice(calls), *_out_of_order(calls), *_two_at_once(calls))
        ]


def shown(store: str, value: int) -> str:
    """Return what a store shows of a name whose last value this is."""
    none = value == 0 or (store in DELETING and value % DELETED_EACH == 0)
    return "0" if none and store in COUNTERS else "" if none else str(value)


def _counted_twice(calls: Iterable[Call]) -> Iterable[str]:
    seen: set[int] = set()
    for call in calls:
        if call.value in seen:
            yield f"two calls counted to {call.value}"
        seen.add(call.value)


def _out_of_order(calls: Collection[Call]) -> Iterable[str]:
    ended = sorted(calls, key=lambda call: call.ended)
    past, most = 0, 0
    for call in sorted(calls, key=lambda call: call.began):
        while past < len(ended) and ended[past].ended < call.began:
            most = max(most, ended[past].value)
            past += 1
        if call.value < most:
            yield f"counted to {call.value} after somebody had counted to {most}"


def _two_at_once(calls: Collection[Call]) -> Iterable[str]:
    """An instance lived from the end of one of its calls to the begin of another one."""
    lives: dict[str, tuple[float, float]] = {}
    for call in calls:
        since, until = lives.get(call.instance, (call.ended, call.began))
        lives[call.instance] = min(since, call.ended), max(until, call.began)
    for call in calls:
        for instance, (since, until) in lives.items():
            if instance != call.instance and since < call.began and call.ended < until:
                yield f"{call.instance} counted to {call.value} while {instance} lived"
