"""Time and chance: what callers build on."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.ground.chance import Chance, SeededChance, SystemChance
from kythera.ground.clock import SystemClock, iso, wait_until
from kythera.model.names import ACCOUNT_ID, VERSION_ID


def test_a_moment_is_written_as_cloudflare_writes_it() -> None:
    """Goal: one format everywhere. Method: a known moment, and one with no fraction."""
    assert iso(1795403279.015332) == "2026-11-23T03:07:59.015332Z"
    assert iso(0) == "1970-01-01T00:00:00.000000Z"


@given(st.floats(0, 4e9), st.floats(0, 4e9))
def test_written_moments_sort_as_the_moments_do(a: float, b: float) -> None:
    """Goal: comparing text is comparing time. Method: any two moments."""
    if a <= b:
        assert iso(a) <= iso(b)


def test_the_monotonic_clock_never_goes_back() -> None:
    """Goal: differences mean something. Method: look a thousand times."""
    clock = SystemClock()
    moments = [clock.monotonic() for _ in range(1000)]
    assert moments == sorted(moments)
    assert clock.now() > 1.7e9


def test_waiting_ends_when_it_holds_or_when_the_time_is_over() -> None:
    """Goal: no wait without an end. Method: what holds at the third look, and what never does."""
    answers = iter([False, False, True])
    assert wait_until(lambda: next(answers), within_s=5)
    assert not wait_until(lambda: False, within_s=0)


@pytest.mark.parametrize("chance", [SystemChance(), SeededChance(7)], ids=["system", "seeded"])
def test_every_chance_makes_ids_that_records_accept(chance: Chance) -> None:
    """Goal: the fake is as the real one. Method: one contract for both."""
    assert ACCOUNT_ID.fullmatch(chance.hex(32))
    assert len(chance.hex(7)) == 7
    assert VERSION_ID.fullmatch(chance.uuid())
    assert re.fullmatch(r"[A-Za-z0-9_-]{40}", chance.token())
    assert 1 <= chance.uniform(1, 2) <= 2
    assert chance.uuid() != chance.uuid()


def test_equal_seeds_give_equal_histories() -> None:
    """Goal: a simulation can be run again. Method: two of one seed, one of another."""
    histories = [
        [c.hex(8), c.uuid(), c.token(), c.uniform(0, 1)]
        for c in (SeededChance(1), SeededChance(1), SeededChance(2))
    ]
    assert histories[0] == histories[1] != histories[2]
