"""Which faults befall a fleet, drawn from a seed. Pure.

Each fault begins, lasts, and is mended before the next but one begins, so that two may overlap.
"""

import random
from collections.abc import Sequence

from msgspec import Struct

PARTS = {
    "agent": "kythera.node.agent",
    "api": "kythera.control.server",
    "haproxy": "haproxy",
    "nats": "nats-server",
}
"""A part's name -> a word of its command line."""
KINDS = (
    "cut",
    "cut-silent",
    "cut-one-way",
    "isolate",
    "slow",
    "kill",
    "hang",
    "kill-part",
    "kill-core",
    "full-disk",
)
LASTS_SHARE = (0.3, 1.4)
"""Of the time between two faults."""


class Fault(Struct, frozen=True, kw_only=True):
    """One fault: seconds since the beginning; `b` is the other machine, or the part."""

    number: int
    kind: str
    begins_s: float
    ends_s: float
    a: str
    b: str = ""
    delay_ms: float = 0.0

    def __str__(self) -> str:
        """Return it in words."""
        more = f" {self.delay_ms:.0f} ms" if self.delay_ms else ""
        lasts = self.ends_s - self.begins_s
        return f"{self.kind} {self.a} {self.b}".rstrip() + f"{more} for {lasts:.1f} s"


def draw(
    seed: int,
    count: int,
    within_s: float,
    machines: Sequence[str],
    core: Sequence[str],
    kinds: Sequence[str] = KINDS,
) -> list[Fault]:
    """Return `count` faults spread over `within_s` seconds; every kind comes before any repeats."""
    dice = random.Random(seed)
    pace_s = within_s / count
    order: list[str] = []
    while len(order) < count:
        order += dice.sample(list(kinds), len(kinds))
    return [
        _draw(dice, kind, machines, core, number=number, pace_s=pace_s)
        for number, kind in enumerate(order[:count])
    ]


def _draw(
    dice: random.Random,
    kind: str,
    machines: Sequence[str],
    core: Sequence[str],
    *,
    number: int,
    pace_s: float,
) -> Fault:
    begins_s = number * pace_s
    a, b = dice.sample(list(machines), 2)
    delay_ms = 0.0
    if kind == "slow":
        delay_ms = float(dice.choice((20, 100, 300, 1_000)))
    elif kind == "isolate":
        b = "all"
    elif kind == "kill-part":
        b = dice.choice(sorted(PARTS))
        a = dice.choice(list(core)) if b == "nats" else a
    elif kind == "kill-core":
        a, b = "core", ""
    elif kind in ("kill", "hang", "full-disk"):
        b = ""
    return Fault(
        number=number,
        kind=kind,
        begins_s=begins_s,
        ends_s=begins_s + pace_s * dice.uniform(*LASTS_SHARE),
        a=a,
        b=b,
        delay_ms=delay_ms,
    )
