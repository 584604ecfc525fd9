"""What was written and read while a fleet was in trouble, and whether it may have happened. Pure.

A register is one fact of one worker (its code, its secret, its setting). One client writes it,
one write after the other, each with the next number. An acknowledged write must be there in the
end; a refused one never; one whose answer got lost may be there or not, but it may not come back
over a later one that was acknowledged.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, field

OK = "ok"
REFUSED = "refused"
UNKNOWN = "unknown"

Register = tuple[str, str]
"""Worker, field."""


class Write(Struct, frozen=True, kw_only=True):
    """One write: from when it was sent to when it was answered (seconds since the beginning)."""

    worker: str
    field: str
    value: int
    began: float
    ended: float
    outcome: str
    machine: str = ""
    told: str = ""
    made_version: bool = True
    """Whether it makes a version of its own; the first deploy sets three registers at once."""

    @property
    def register(self) -> Register:
        """Return what was written."""
        return self.worker, self.field


class Read(Struct, frozen=True, kw_only=True):
    """One answer of a worker: the values of all its registers."""

    machine: str
    worker: str
    at: float
    values: dict[str, int]


class Stored(Struct, frozen=True, kw_only=True):
    """What one machine's API says about a worker in the end: version number -> message."""

    machine: str
    worker: str
    versions: tuple[tuple[int, str], ...]


class History(Struct, kw_only=True):
    """All that clients saw. `final` reads were made after everything had healed."""

    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    final: list[Read] = field(default_factory=list)
    stored: list[Stored] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    """Machines that did not answer in the end, each with what it said."""


def message_of(worker: str, value: int) -> str:
    """Return what marks the version of one deploy."""
    return f"deploy {value} of {worker}"


def violations(history: History) -> list[str]:
    """Return all that must not have happened, each as a sentence."""
    by_register: dict[Register, list[Write]] = defaultdict(list)
    for write in history.writes:
        by_register[write.register].append(write)
    return [
        *(f"no answer in the end: {each}" for each in history.silent),
        *_phantoms([*history.reads, *history.final], by_register),
        *_lost(history.final, by_register),
        *_different(history.final),
        *_stored_wrongly(history.stored, history.writes),
    ]


def _phantoms(reads: Iterable[Read], writes: Mapping[Register, Sequence[Write]]) -> Iterable[str]:
    """Nobody reads what was never sent, was not yet sent, or was refused."""
    for read in reads:
        for name, value in read.values.items():
            sent = {write.value: write for write in writes.get((read.worker, name), ())}
            write = sent.get(value)
            where = f"{read.machine} served {name} {value} of {read.worker}"
            if write is None:
                yield f"{where}, which nobody wrote"
            elif write.began > read.at:
                yield f"{where} before it was written"
            elif write.outcome == REFUSED:
                yield f"{where}, which was refused ({write.told})"


def _lost(final: Iterable[Read], writes: Mapping[Register, Sequence[Write]]) -> Iterable[str]:
    """No acknowledged write is lost, nor hidden by an older one, on any machine."""
    for read in final:
        for name, value in read.values.items():
            known = writes.get((read.worker, name), ())
            newest = max((each.value for each in known if each.outcome == OK), default=None)
            if newest is not None and value < newest:
                yield (
                    f"{read.machine} serves {name} {value} of {read.worker} in the end, "
                    f"but {newest} was acknowledged"
                )


def _different(final: Iterable[Read]) -> Iterable[str]:
    """All machines serve the same in the end."""
    seen: dict[str, dict[str, dict[str, int]]] = defaultdict(dict)
    for read in final:
        seen[read.worker][read.machine] = read.values
    for worker, answers in seen.items():
        if len({tuple(sorted(values.items())) for values in answers.values()}) > 1:
            yield f"the machines differ about {worker}: {answers}"


def _stored_wrongly(stored: Iterable[Stored], writes: Sequence[Write]) -> Iterable[str]:
    """Each acknowledged deploy made one version; no write made two."""
    sent: dict[str, list[Write]] = defaultdict(list)
    for write in writes:
        sent[write.worker].append(write)
    for listing in stored:
        mine = sent[listing.worker]
        where = f"{listing.machine}'s list of {listing.worker}"
        yield from _twice(where, listing)
        lowest = min((number for number, _ in listing.versions), default=0)
        messages = {message for _, message in listing.versions}
        whole = lowest <= 1
        for write in mine:
            message = message_of(write.worker, write.value)
            if write.field != "code":
                continue
            if write.outcome == OK and whole and message not in messages:
                yield f"{where} lacks the acknowledged {message!r}"
            if write.outcome == REFUSED and message in messages:
                yield f"{where} holds {message!r}, which was refused"
        made = max((number for number, _ in listing.versions), default=0)
        mine = [write for write in mine if write.made_version]
        effective = sum(write.outcome != REFUSED for write in mine)
        if made > effective:
            yield f"{where} counts {made} versions after {effective} writes: one was applied twice"
        acknowledged = sum(write.outcome == OK for write in mine)
        if made < acknowledged:
            yield f"{where} counts {made} versions after {acknowledged} acknowledged writes"


def _twice(where: str, listing: Stored) -> Iterable[str]:
    numbers = [number for number, _ in listing.versions]
    deploys = [message for _, message in listing.versions if message.startswith("deploy ")]
    for kind, seen in (("number", numbers), ("version", deploys)):
        for each in sorted({str(one) for one in seen if seen.count(one) > 1}):  # type: ignore[arg-type]
            yield f"{where} has {kind} {each} twice"
