"""Passes to stores."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.ground.passes import NotAPass, Pass, check, sign

GRANTED = Pass(account="a", worker="w", version="v", store="kv", resource="n1", binding="KV")


def test_a_pass_is_read_by_the_store_it_is_for() -> None:
    """A store reads what the agent signed."""
    assert check(sign(GRANTED, "key"), "key", "kv") == GRANTED


@pytest.mark.parametrize(("key", "store"), [("other", "kv"), ("key", "d1")])
def test_a_pass_of_another_machine_or_to_another_store_is_none(key: str, store: str) -> None:
    """Another key, or another store, refuses it."""
    with pytest.raises(NotAPass):
        check(sign(GRANTED, "key"), key, store)


@given(text=st.text())
def test_what_is_no_pass_is_refused(text: str) -> None:
    """Whatever a client sends instead is refused, and nothing else happens."""
    with pytest.raises(NotAPass):
        check(text, "key", "kv")


@given(place=st.integers(0, len(sign(GRANTED, "key")) - 1), letter=st.sampled_from("Aa0_-."))
def test_no_letter_of_a_pass_can_be_another(place: int, letter: str) -> None:
    """One text alone means one pass."""
    whole = sign(GRANTED, "key")
    changed = whole[:place] + letter + whole[place + 1 :]
    if changed != whole:
        with pytest.raises(NotAPass):
            check(changed, "key", "kv")
