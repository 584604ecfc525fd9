"""Who may join, as rules over records: any history of tries, by machines honest and not."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.distribute.admission import (
    Refused,
    core_peers,
    is_core,
    is_label,
    is_repeat,
    machine_of,
    refuse,
    refuse_bad_facts,
    released,
    used,
)
from kythera.distribute.invitation import JoinRequest, digest
from kythera.ground.clock import iso
from kythera.model.catalog import Catalog
from kythera.model.membership import Peer
from kythera.model.records import Core, Machine, Record, Token, encode

NOW = 1_795_000_000.0
LIFE_S = 3_600.0


def request_of(token: str, name: str, **more: str) -> JoinRequest:
    """Return what a machine says."""
    about = {"mesh": "10.0.0.1:7", **more}
    return JoinRequest(token=token, secret="s", name=name, csr="", **about)  # type: ignore[arg-type]


def token_of(name: str) -> Token:
    """Return a fresh token."""
    return Token(
        id=name, secret_digest=digest("s"), created_on=iso(NOW), expires_on=iso(NOW + LIFE_S)
    )


@dataclass
class Registry:
    """Records, and the tries that went through: the core machine's part without its log."""

    catalog: Catalog = field(default_factory=Catalog)
    let_in: list[tuple[str, str, str]] = field(default_factory=list)
    """(token, name, key)"""

    def put(self, record: Record) -> None:
        """Write a record."""
        self.catalog.apply(record.key(), encode(record))

    def token(self, name: str) -> Token:
        """Return a token's record."""
        found = self.catalog.records[f"token.{name}"]
        assert isinstance(found, Token)
        return found

    def join(self, token: str, name: str, key: str, now: float, *, crash: bool = False) -> bool:
        """Try to join; `crash`: the core machine dies after it has written the token."""
        request = request_of(token, name)
        try:
            refuse(request, key, self.catalog, now)
        except Refused:
            return False
        before, machine = self.token(token), self.catalog.machine(name)
        if not is_repeat(before, request, key, machine):
            self.put(used(before, request, key))
        if crash:
            return False
        if machine is None:
            self.put(machine_of(request, iso(now)))
        self.let_in.append((token, name, key))
        return True

    def remove(self, name: str) -> None:
        """Remove a machine, with its token."""
        machine = self.catalog.machine(name)
        if machine is not None:
            self.catalog.apply(f"token.{machine.token}", None)
            self.catalog.apply(machine.key(), None)


tries = st.tuples(
    st.sampled_from(["t1", "t2", "t3"]),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["k1", "k2"]),
    st.floats(NOW, NOW + 2 * LIFE_S),
    st.booleans(),
)
removals = st.sampled_from(["a", "b"])


@given(st.lists(st.one_of(tries, removals), max_size=30))
def test_no_history_lets_a_token_in_twice_or_two_machines_under_one_name(
    history: list[tuple[str, str, str, float, bool] | str],
) -> None:
    """Goal: the two rules hold whatever is tried. Method: any tries, crashes and removals."""
    registry = Registry()
    for name in ("t1", "t2", "t3"):
        registry.put(token_of(name))
    alive: dict[str, str] = {}
    for step in history:
        if isinstance(step, str):
            registry.remove(step)
            alive.pop(step, None)
            continue
        token, name, key, now, crash = step
        if registry.join(token, name, key, now, crash=crash):
            assert now < NOW + LIFE_S
            assert alive.setdefault(name, key) == key, "two machines under one name"
    owners: dict[str, set[tuple[str, str]]] = {}
    for token, name, key in registry.let_in:
        owners.setdefault(token, set()).add((name, key))
    assert all(len(owner) == 1 for owner in owners.values()), "a token let two in"


def test_the_checker_finds_a_rule_that_is_not_there() -> None:
    """Goal: the property above can fail. Method: a token that forgets who used it."""
    registry = Registry()
    registry.put(token_of("t1"))
    assert registry.join("t1", "a", "k1", NOW)
    registry.put(token_of("t1"))
    assert registry.join("t1", "b", "k2", NOW)
    assert {name for _, name, _ in registry.let_in} == {"a", "b"}


def test_who_crashed_between_the_two_records_may_be_asked_again() -> None:
    """Goal: no token is lost by a crash of a core machine. Method: crash, then the same, then another."""
    registry = Registry()
    registry.put(token_of("t1"))
    assert not registry.join("t1", "a", "k1", NOW, crash=True)
    assert not registry.join("t1", "a", "k2", NOW), "another key"
    assert not registry.join("t1", "b", "k1", NOW), "another name"
    assert registry.join("t1", "a", "k1", NOW)
    assert registry.join("t1", "a", "k1", NOW), "the answer got lost"


def test_who_lost_the_race_for_a_name_has_its_token_released() -> None:
    """Goal: it may try another name. Method: both tokens used for `a`, one record."""
    token, request = token_of("t1"), request_of("t1", "a")
    taken = used(token, request, "k1")
    assert released(taken, request, "k1", Machine(name="a", token="t2"))
    assert not released(taken, request, "k1", Machine(name="a", token="t1"))
    assert not released(taken, request, "k2", Machine(name="a", token="t2"))
    assert not released(token, request, "k1", Machine(name="a", token="t2"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "A"},
        {"name": "join-x"},
        {"mesh": "nowhere"},
        {"mesh": ""},
        {"site": ""},
        {"site": "x" * 65},
        {"region": "a\nb"},
        {"world": "a/b"},
    ],
)
def test_what_a_machine_may_not_say_of_itself(wrong: dict[str, str]) -> None:
    """Goal: records stay readable. Method: one wrong fact at a time."""
    about = {"name": "a", **wrong}
    with pytest.raises(Refused):
        refuse_bad_facts(request_of("t", **about))


def test_places_may_be_named_as_people_name_them() -> None:
    """Goal: any alphabet. Method: a few places."""
    assert all(map(is_label, ("Köln", "us-east.1", "Antikythera site", "東京")))


def test_core_machines_are_those_that_the_record_names() -> None:
    """Goal: one word holds. Method: without the record the machines' own; with it, it alone."""
    registry = Registry()
    registry.put(Machine(name="a", mesh="x:1", core=True))
    registry.put(Machine(name="b", mesh="x:2"))
    assert core_peers(registry.catalog) == (Peer(name="a", mesh="x:1"),)
    registry.put(Core(machines=("b", "gone")))
    assert core_peers(registry.catalog) == (Peer(name="b", mesh="x:2"),)
    assert is_core(registry.catalog, "b")
    assert not is_core(registry.catalog, "a")
