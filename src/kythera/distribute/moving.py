"""How the log moves to the servers of the next epoch: facts in, the next step out. Pure.

    wished ─▶ servers start ─▶ freeze ─▶ create ─▶ copy … ─▶ open ─▶ announce

Every step may be interrupted, repeated, or done by two machines at once, and the next look at the
facts goes on from there: freezing and opening twice change nothing, and each record is copied on the
condition that it takes one certain place in the new stream. Nothing is ever deleted. Until the old
stream is frozen the wish may be changed; from then on the move goes through.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kythera.distribute.cores import SIZES
from kythera.distribute.stream import StreamState
from kythera.model.errors import KytheraError
from kythera.model.records import Core

TAKE_OVER_MS = 10_000
"""How long each machine in line waits for those before it to bring a move to its end."""


class CannotMove(KytheraError):
    """The log cannot be held by these machines."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the driving machine sees. `core` is the record in the old log where that answers."""

    core: Core
    old: StreamState | None
    """None: the old servers do not answer."""
    new: StreamState | None = None
    """None: there is no stream yet, or no server to ask."""
    answering: frozenset[str] = frozenset()
    """Machines whose new server runs, syncs every write and has been heard."""
    led: bool = False
    """Whether the new servers have agreed on a leader among all of them."""
    copied_to: int = 0
    """Sequence in the old stream of the newest record that was copied."""
    left: bool = True
    """Whether the old stream has records after that one."""


@dataclass(frozen=True)
class Nothing:
    """The log does not move."""


@dataclass(frozen=True)
class Wait:
    """Look again in a moment."""

    why: str


@dataclass(frozen=True)
class Freeze:
    """Let the old stream take no more writes. Writers wait from here on."""


@dataclass(frozen=True)
class Create:
    """Make the new stream; its first record gets this sequence, or a higher one."""

    first_seq: int


@dataclass(frozen=True)
class CopyOn:
    """Copy the old stream's records after this one."""

    after_seq: int


@dataclass(frozen=True)
class Open:
    """Let the new stream take writes: from here on it is the log."""


@dataclass(frozen=True)
class Announce:
    """Write into the new log who holds it."""

    core: Core


@dataclass(frozen=True)
class Thaw:
    """Let the old stream take writes again: the wish was given up while its move froze the log."""


Step = Nothing | Wait | Freeze | Thaw | Create | CopyOn | Open | Announce


def next_step(facts: Facts) -> Step:
    """Return what to do now."""
    core = facts.core
    if not core.wanted:
        # A frozen stream's last word is final: no move can be under way that knew better.
        return Thaw() if facts.old is not None and facts.old.frozen else Nothing()
    if facts.new is not None and facts.new.open:
        return Announce(settled(core))
    if facts.old is None:
        return Wait("the servers that hold the log do not answer")
    missing = [name for name in core.wanted if name not in facts.answering]
    if facts.old.open:
        if missing:
            return Wait(f"for the new servers of {', '.join(missing)}")
        return Freeze() if facts.led else Wait("for the new servers to agree on a leader")
    if not facts.old.frozen:
        return Wait("the servers that hold the log do not hold all of it yet")
    if not facts.led or len(missing) > len(core.wanted) // 2:
        return Wait("for most of the new servers")
    if facts.new is None:
        return Create(facts.old.last_seq + 1)
    return CopyOn(facts.copied_to) if facts.left else Open()


def settled(core: Core) -> Core:
    """Return the record of a move that is done."""
    return Core(machines=core.wanted, epoch=core.wanted_epoch)


def wished(core: Core, machines: Sequence[str]) -> Core:
    """Return the record that begins a move to `machines`, or gives one up when they hold it now.

    Raises CannotMove."""
    wanted = tuple(sorted(set(machines)))
    if len(wanted) not in SIZES:
        raise CannotMove(
            f"{len(wanted)} machines cannot hold the log ({', '.join(wanted)}).",
            remedy="Let it be 1, 3 or 5: promote or demote so many.",
        )
    if wanted == tuple(sorted(core.machines)):
        return Core(machines=core.machines, epoch=core.epoch, wanted_epoch=_used(core))
    if not set(wanted) & set(core.machines):
        raise CannotMove(
            "None of these machines holds the log now, so none could copy it.",
            remedy="Keep one that does for now; demote it when the others have it.",
        )
    if core.wanted == wanted:
        return core
    return Core(
        machines=core.machines, epoch=core.epoch, wanted=wanted, wanted_epoch=_used(core) + 1
    )


def _used(core: Core) -> int:
    return max(core.epoch, core.wanted_epoch)


def drives(core: Core, me: str, waited_ms: float) -> bool:
    """Tell whether this machine is to bring the move on now; `waited_ms` since it heard of it.

    It needs an old and a new server of its own. Two at once do no harm, only work."""
    line = sorted(set(core.machines) & set(core.wanted))
    return me in line and waited_ms >= line.index(me) * TAKE_OVER_MS
