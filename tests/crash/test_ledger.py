"""The judge of the crash test knows a lost write from one that nobody was promised."""

import pytest

from tests.crash.ledger import COUNTERS, LATER, VALUES, Call, Ledger, shown


def written(store: str, n_acknowledged: int, n_asked: int) -> Ledger:
    """Return a ledger where a name was asked for more often than was acknowledged."""
    ledger = Ledger()
    for value in range(1, n_asked + 1):
        assert ledger.ask(store, "a") == value
        if value <= n_acknowledged:
            ledger.acknowledge(store, "a", value)
    return ledger


@pytest.mark.parametrize("store", VALUES)
@pytest.mark.parametrize(("there", "good"), [("1", False), ("2", True), ("3", True), ("4", False)])
def test_a_value_is_the_last_acknowledged_or_a_later_one(
    store: str, there: str, good: bool
) -> None:
    """The third was asked for, and nobody heard what became of it."""
    assert (written(store, 2, 3).wrong(store, "a", there) == "") is good


@pytest.mark.parametrize(("there", "good"), [("1", False), ("2", True), ("3", True), ("4", False)])
def test_a_counter_shows_what_was_acknowledged(there: str, good: bool) -> None:
    """Of three attempts the first and the last were acknowledged."""
    ledger = Ledger()
    for value in (1, 2, 3):
        ledger.ask("object", "a")
        if value != 2:
            ledger.acknowledge("object", "a", value)
    assert (ledger.wrong("object", "a", there) == "") is good


def test_what_was_read_is_not_taken_back() -> None:
    """Nobody had acknowledged the third; but somebody has seen it."""
    ledger = written("kv", 2, 3)
    assert ledger.wrong("kv", "a", "3") == ""
    assert ledger.wrong("kv", "a", "2")


@pytest.mark.parametrize(("acknowledged", "there", "good"), [(5, "", True), (5, "4", False)])
def test_what_was_deleted_stays_away(acknowledged: int, there: str, good: bool) -> None:
    """Each fifth value is that there is none; and before and after it nothing may be missing."""
    ledger = written("r2", acknowledged, acknowledged)
    assert (ledger.wrong("r2", "a", there) == "") is good
    assert written("r2", 4, 4).wrong("r2", "a", "")
    assert written("r2", 6, 6).wrong("r2", "a", "")


def test_a_name_is_over_when_nobody_knows_what_became_of_a_write() -> None:
    """A late write and a lost one look alike."""
    ledger = written("d1", 1, 2)
    assert not ledger.names["d1", "a"].over
    ledger.refuse("d1", "a", 2, "cut off")
    assert ledger.names["d1", "a"].over


@pytest.mark.parametrize("store", ["queue", "dead"])
def test_a_message_that_was_acknowledged_is_heard(store: str) -> None:
    """Once or more; what was not acknowledged may be heard or not."""
    ledger = written(store, 1, 2)
    assert ledger.unheard(store, []) == {"a=1"}
    assert ledger.unheard(store, ["a=1", "a=1"]) == set()


@pytest.mark.parametrize("store", [*VALUES, *COUNTERS, *LATER])
def test_what_is_missing_altogether_is_wrong(store: str) -> None:
    """What shows nothing is right as long as nothing was acknowledged."""
    nothing = shown(store, 0)
    assert written(store, 0, 1).wrong(store, "a", nothing) == ""
    assert written(store, 1, 1).wrong(store, "a", nothing)


def test_what_was_torn_is_wrong() -> None:
    """Half of a write is no value."""
    assert written("d1", 1, 2).wrong("d1", "a", "torn: 1 and 2")


def miscounted(*calls: tuple[float, float, int, str]) -> list[str]:
    """Return what is wrong with some calls: when each began and ended, the number, the instance."""
    ledger = Ledger()
    for call in calls:
        ledger.ask("object", "a")
        ledger.called("a", Call(*call))
    return ledger.miscounted()


def test_calls_at_the_same_time_may_count_in_any_order() -> None:
    """Two clients overlap; then the object is killed and another instance counts on."""
    assert not miscounted((0, 9, 2, "x"), (1, 5, 1, "x"), (10, 11, 3, "y"), (10.5, 12, 5, "y"))


def test_a_number_that_two_calls_were_given_is_wrong() -> None:
    """An acknowledged step was lost, or another instance counted beside it."""
    assert "two calls counted to 1" in miscounted((0, 1, 1, "x"), (2, 3, 1, "x"))[0]


def test_counting_backwards_is_wrong() -> None:
    """Whoever begins after another has ended counts further."""
    assert "counted to 2 after somebody" in miscounted((0, 1, 3, "x"), (2, 3, 2, "x"))[0]


def test_an_instance_that_lives_on_beside_another_is_wrong() -> None:
    """Each counts right, and still there were two at once."""
    (told,) = miscounted((0, 1, 1, "x"), (2, 3, 2, "y"), (4, 5, 3, "x"))
    assert told == "object a: y counted to 2 while x lived"


def test_the_history_of_a_name_tells_of_what_befell_all() -> None:
    """And of no other name."""
    ledger = written("kv", 1, 1)
    ledger.tell("", "kill kv")
    ledger.tell("b", "1 is asked for")
    words = [line.split(" s ")[1] for line in ledger.told("a")]
    assert words == ["1 is asked for", "1 is acknowledged", "kill kv"]
