"""Which blobs a machine may let go of. Pure: what is held and needed goes in, what to remove comes out.

Promises: what a running cell or a deployed version needs stays, and on a core machine everything
that any version refers to; a blob that no version refers to goes once it has been seen so, unused,
for the whole grace time, by a clock that nobody sets; above the limit the least recently used go
first, down to a little below it, so that not each new blob removes one.
Refuses to call anything unreferenced while it does not know everything that is referred to.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from kythera.distribute.blobs import Held

LOW_SHARE = 0.9
"""Of the limit: how far a machine above it goes down."""


class Facts(NamedTuple):
    """What is known at one moment."""

    held: Sequence[Held]
    referenced: Collection[str]
    """Digests that some version's record or manifest names, as far as it is known."""
    needed: Collection[str]
    """Those of running cells and of deployed versions."""
    complete: bool
    """Whether `referenced` is everything: the copy is fresh, and all is readable."""
    core: bool
    bytes_max: int
    grace_s: float
    now_s: float
    """By a monotonic clock."""


class Seen(NamedTuple):
    """A blob without references: its last use when it was first seen so, and when that was."""

    used_ns: int
    since_s: float


def room(bytes_max: int, held: int, free: int, free_min: int) -> int:
    """Return how many bytes of blobs there may be: the limit, or less where the disk has less room
    than shall stay free."""
    return max(0, min(bytes_max, held + free - free_min))


class Decision(NamedTuple):
    """What to remove, what to remember until the next time, and by how much too much stays."""

    remove: tuple[Held, ...]
    seen: Mapping[str, Seen]
    over_bytes: int


def decide(facts: Facts, seen: Mapping[str, Seen]) -> Decision:
    """Return what this machine may remove now; `seen` is what the last decision remembered."""
    loose = _loose(facts, seen) if facts.complete else {}
    expired = {
        digest for digest, first in loose.items() if facts.now_s - first.since_s >= facts.grace_s
    }
    rest = [blob for blob in facts.held if blob.digest not in expired]
    old = () if facts.core else _least_used(rest, facts)
    gone = expired | {blob.digest for blob in old}
    total = sum(blob.size for blob in facts.held if blob.digest not in gone)
    return Decision(
        remove=tuple(blob for blob in facts.held if blob.digest in gone),
        seen={digest: first for digest, first in loose.items() if digest not in gone},
        over_bytes=0 if facts.core else max(0, total - facts.bytes_max),
    )


def _loose(facts: Facts, seen: Mapping[str, Seen]) -> dict[str, Seen]:
    """Return the blobs that nothing refers to; one that was used in between is seen anew."""
    found = {}
    for blob in facts.held:
        if blob.digest in facts.referenced or blob.digest in facts.needed:
            continue
        before = seen.get(blob.digest)
        same = before is not None and before.used_ns == blob.used_ns
        found[blob.digest] = before if before and same else Seen(blob.used_ns, facts.now_s)
    return found


def _least_used(held: Sequence[Held], facts: Facts) -> tuple[Held, ...]:
    """Return what has to go for the limit: known to be an old version's, the longest unused first.

    What nothing refers to may be an upload that is not complete yet: it has its own time."""
    total = sum(blob.size for blob in held)
    if total <= facts.bytes_max:
        return ()
    free = [b for b in held if b.digest in facts.referenced and b.digest not in facts.needed]
    found = []
    for blob in sorted(free, key=lambda blob: (blob.used_ns, blob.digest)):
        if total <= facts.bytes_max * LOW_SHARE:
            break
        total -= blob.size
        found.append(blob)
    return tuple(found)


class Trees(NamedTuple):
    """Which laid-out folders to remove, and since when the others have not been needed."""

    remove: tuple[str, ...]
    idle_since: Mapping[str, float]


def decide_trees(
    present: Collection[str],
    needed: Collection[str],
    idle_since: Mapping[str, float],
    now_s: float,
    grace_s: float,
) -> Trees:
    """Return which folders of static files to remove: they are made again from blobs in no time,
    and while one is there its blobs take room. No grace (0) where room is scarce."""
    idle = {name: idle_since.get(name, now_s) for name in present if name not in needed}
    remove = tuple(sorted(name for name, since in idle.items() if now_s - since >= grace_s))
    return Trees(remove, {name: since for name, since in idle.items() if name not in remove})
