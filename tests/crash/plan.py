"""What a round does: who writes and reads what, and whom it hits when and how. Pure.

A round's plan depends on the seed and its number alone: round 137 of seed 5 is the same whether the
136 before it were run or not. What becomes of it depends on the kernel, too.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tests.crash.ledger import COUNTERS, STORES

KINDS = (
    *("cell", "objects", "d1", "queues", "kv", "r2", "engine", "log", "front", "egress"),
    *("agent", "api"),
)
"""Whom a round may hit beside the whole platform; see `tests.crash.victims`."""
CLIENTS, OPERATIONS_MAX, NAMES = 12, 8, 3
READS_SHARE = 0.25
HITS = (0, 1, 1, 1, 1, 2, 2, 3)
"""How many are hit in a round, one as likely as the other."""
PLATFORM_SHARE, STOPPED_SHARE, DEPLOY_SHARE, FULL_SHARE = 0.07, 0.15, 0.06, 0.3
AFTER_MS_MAX, STOPPED_MS_MAX = 200, 2_000
FULL_MS_MIN, FULL_MS_MAX = 200, 6_000
How = Literal["kill", "stop", "deploy", "fill"]


@dataclass(frozen=True)
class Client:
    """One who writes one name (counters: one of several who do), one operation after the other."""

    store: str
    slot: int
    operations: tuple[bool, ...]
    """Of each whether it writes; the others read."""


@dataclass(frozen=True)
class Hit:
    """Something that is done to somebody, so long after the round's begin or the hit before."""

    how: How
    kind: str
    after_ms: int
    for_ms: int = 0

    def __str__(self) -> str:
        """Return it as one line has it."""
        lasts = f" for {self.for_ms} ms" if self.for_ms else ""
        return f"{self.how} {self.kind}{lasts} after {self.after_ms} ms"


@dataclass(frozen=True)
class Round:
    """One round."""

    clients: tuple[Client, ...]
    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class Wanted:
    """What rounds are to be made of, where not of everything."""

    stores: tuple[str, ...] = STORES
    kinds: tuple[str, ...] = KINDS
    fills: bool = False
    """The disk is a small one, and may be filled."""
    always: bool = False
    """Each round kills one of them, and the platform is spared."""


def planned(seed: int, number: int, wanted: Wanted) -> Round:
    """Return the plan of a round."""
    chance = random.Random(f"{seed}/{number}")
    clients = [_client(chance, wanted.stores) for _ in range(CLIENTS)]
    # One client writes a name, so that the last acknowledged value is the last one written.
    alone = {(c.store, c.slot): c for c in clients if c.store not in COUNTERS}
    shared = [c for c in clients if c.store in COUNTERS]
    return Round((*alone.values(), *shared), tuple(_hits(chance, wanted)))


def _client(chance: random.Random, stores: Sequence[str]) -> Client:
    many = chance.randint(1, OPERATIONS_MAX)
    store = chance.choice(stores)
    if store == "secret":  # each has its workers' cells replaced
        return Client(store, 0, (True,))
    writes = tuple(chance.random() >= READS_SHARE for _ in range(many))
    return Client(store, chance.randrange(NAMES), writes)


def _hits(chance: random.Random, wanted: Wanted) -> list[Hit]:
    def after_ms() -> int:
        return chance.randrange(AFTER_MS_MAX)

    if wanted.always:
        return [Hit("kill", chance.choice(wanted.kinds), after_ms())]
    if chance.random() < PLATFORM_SHARE:
        return [Hit("kill", "platform", after_ms())]
    if wanted.fills and chance.random() < FULL_SHARE:
        fill = Hit("fill", "disk", 0, chance.randint(FULL_MS_MIN, FULL_MS_MAX))
        return [
            fill,
            *(_hit(chance, wanted.kinds, after_ms()) for _ in range(chance.choice((0, 1)))),
        ]
    if chance.random() < DEPLOY_SHARE:
        return [
            Hit("deploy", "worker", after_ms()),
            Hit("kill", chance.choice(wanted.kinds), after_ms()),
        ]
    return [_hit(chance, wanted.kinds, after_ms()) for _ in range(chance.choice(HITS))]


def _hit(chance: random.Random, kinds: Sequence[str], after_ms: int) -> Hit:
    kind = chance.choice(kinds)
    if chance.random() < STOPPED_SHARE:
        return Hit("stop", kind, after_ms, chance.randint(50, STOPPED_MS_MAX))
    return Hit("kill", kind, after_ms)
