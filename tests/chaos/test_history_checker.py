"""The checker of chaos histories: silent about what may happen, loud about each planted fault."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from tests.chaos.history import (
    OK,
    REFUSED,
    UNKNOWN,
    History,
    Read,
    Stored,
    Write,
    message_of,
    violations,
)


def write(value: int, outcome: str = OK, field: str = "code", at: float | None = None) -> Write:
    """Return the write of a number at that second."""
    began = float(value) if at is None else at
    return Write(
        worker="w", field=field, value=value, began=began, ended=began + 0.5, outcome=outcome
    )


def read(machine: str, at: float, **values: int) -> Read:
    """Return what a machine answered."""
    return Read(machine=machine, worker="w", at=at, values=values)


def stored(machine: str, *numbers: int) -> Stored:
    """Return a machine's list when each version is the deploy of its own number."""
    return Stored(
        machine=machine, worker="w", versions=tuple((n, message_of("w", n)) for n in numbers)
    )


def good() -> History:
    """Return a history in which an answer got lost, a write was refused, and all is well."""
    return History(
        writes=[write(1), write(2), write(3, UNKNOWN), write(4, REFUSED), write(5, UNKNOWN)],
        reads=[read("a", 1.2, code=1), read("b", 2.4, code=1), read("b", 3.2, code=3)],
        final=[read("a", 9, code=3), read("b", 9, code=3)],
        stored=[stored("a", 1, 2, 3), stored("b", 1, 2, 3)],
    )


def test_what_may_happen_draws_no_complaint() -> None:
    """A lost answer may have been a success; staleness is allowed until the end."""
    assert violations(good()) == []


def test_an_unanswered_write_may_have_been_nothing() -> None:
    """The acknowledged one before it serves."""
    history = good()
    history.reads = history.reads[:2]
    history.final = [read("a", 9, code=2), read("b", 9, code=2)]
    history.stored = [stored("a", 1, 2), stored("b", 1, 2)]
    assert violations(history) == []


def test_a_list_that_was_cut_to_its_newest_is_not_missing_the_old() -> None:
    """Only so many versions are kept; numbers still count them all."""
    history = good()
    history.stored = [stored("a", 2, 3), stored("b", 2, 3)]
    assert violations(history) == []


def lost(history: History) -> None:
    """Both machines serve what was before the acknowledged write."""
    history.final = [read("a", 9, code=1), read("b", 9, code=1)]


def stale_on_one(history: History) -> None:
    """One machine never heard."""
    history.final[1] = read("b", 9, code=2)


def late_comer(history: History) -> None:
    """A write whose answer got lost came back over a later, acknowledged one."""
    history.writes.append(write(6))
    history.stored = []


def from_nowhere(history: History) -> None:
    """A value that nobody wrote."""
    history.reads.append(read("a", 8, code=77))


def from_the_future(history: History) -> None:
    """A value was served before its write began."""
    history.reads.append(read("a", 2.9, code=3))


def refused_served(history: History) -> None:
    """A refused write is served."""
    history.reads.append(read("a", 8, code=4))


def applied_twice(history: History) -> None:
    """One deploy made two versions."""
    doubled = stored("a", 1, 2, 3)
    history.stored[0] = replace(doubled, versions=(*doubled.versions, (4, message_of("w", 3))))


def number_twice(history: History) -> None:
    """Two versions carry one number."""
    first = stored("a", 1, 2, 3)
    history.stored[0] = replace(first, versions=(*first.versions, (3, "a secret")))


def more_versions_than_writes(history: History) -> None:
    """A secret's write was applied again."""
    first = stored("a", 1, 2, 3)
    more = ((4, ""), (5, ""))
    history.stored[0] = replace(first, versions=(*first.versions, *more))


def version_gone(history: History) -> None:
    """An acknowledged deploy left no version."""
    history.stored[1] = replace(stored("b", 1, 2, 3), versions=((1, "x"), (2, "y"), (3, "z")))


def fewer_versions_than_writes(history: History) -> None:
    """An acknowledged write left no trace."""
    history.stored[1] = stored("b", 1)


def refused_stored(history: History) -> None:
    """A refused deploy is in the list."""
    history.stored[0] = stored("a", 1, 2, 3, 4)


def mute(history: History) -> None:
    """A machine did not come back."""
    history.silent.append("c: ConnectError")


PLANTED: list[tuple[Callable[[History], None], str]] = [
    (lost, "but 2 was acknowledged"),
    (stale_on_one, "the machines differ"),
    (late_comer, "but 6 was acknowledged"),
    (from_nowhere, "which nobody wrote"),
    (from_the_future, "before it was written"),
    (refused_served, "which was refused"),
    (applied_twice, "has version deploy 3 of w twice"),
    (number_twice, "has number 3 twice"),
    (more_versions_than_writes, "one was applied twice"),
    (version_gone, "lacks the acknowledged 'deploy 1 of w'"),
    (fewer_versions_than_writes, "counts 1 versions after 2 acknowledged"),
    (refused_stored, "which was refused"),
    (mute, "no answer in the end"),
]


@pytest.mark.parametrize(
    ("plant", "says"), PLANTED, ids=lambda value: getattr(value, "__name__", "")
)
def test_each_planted_fault_is_found(plant: Callable[[History], None], says: str) -> None:
    """No rule is toothless."""
    history = good()
    plant(history)
    found = violations(history)
    assert any(says in each for each in found), found
