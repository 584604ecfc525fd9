"""The judge of the crash test knows a lost write from one that nobody was promised."""

import pytest

from tests.crash.ledger import Ledger


@pytest.mark.parametrize("store", ["kv", "r2", "d1"])
@pytest.mark.parametrize(("there", "good"), [("1", False), ("2", True), ("3", True), ("4", False)])
def test_a_value_is_the_last_acknowledged_or_a_later_one(
    store: str, there: str, good: bool
) -> None:
    """The third was asked for, and nobody heard what became of it."""
    ledger = Ledger()
    for value in (1, 2, 3):
        assert ledger.ask(store, "a") == value
        if value < 3:
            ledger.acknowledge(store, "a", value)
    assert (ledger.wrong(store, "a", there) == "") is good


@pytest.mark.parametrize(("there", "good"), [("1", False), ("2", True), ("3", True), ("4", False)])
def test_a_counter_shows_what_was_acknowledged(there: str, good: bool) -> None:
    """Of three attempts the first and the last were acknowledged."""
    ledger = Ledger()
    for value in (1, 2, 3):
        ledger.ask("object", "a")
        if value != 2:
            ledger.acknowledge("object", "a", value)
    assert (ledger.wrong("object", "a", there) == "") is good


def test_a_message_that_was_acknowledged_is_heard() -> None:
    """Once or more; what was not acknowledged may be heard or not."""
    ledger = Ledger()
    ledger.ask("queue", "q")
    ledger.ask("queue", "q")
    ledger.acknowledge("queue", "q", 1)
    assert ledger.unheard([]) == {"q=1"}
    assert ledger.unheard(["q=1", "q=1"]) == set()


def test_what_is_missing_altogether_is_wrong() -> None:
    """No answer is no value."""
    ledger = Ledger()
    ledger.ask("kv", "a")
    assert ledger.wrong("kv", "a", "") == ""
    ledger.acknowledge("kv", "a", 1)
    assert ledger.wrong("kv", "a", "")
