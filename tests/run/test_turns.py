"""When a turn is too long: loops are ended in time, many short requests never are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.model.limits import Limits
from kythera.run.turns import DOUBT_MS, PULSE_MS, Turns, cpu_ms_max
from tests.run.test_config import version_of

LOOK_MS = 25.0
LIMIT_MS = 100.0


def ended_after(
    limit_ms: float, *, current: int = 1, answers_every: int = 0, looks: int = 2_000
) -> float | None:
    """Burn CPU without answering the pulse; return when the process is ended, None when never.

    `answers_every`: after so many looks another process of the cell has answered something."""
    turns = Turns()
    for look in range(looks):
        cpu_ms = look * LOOK_MS
        verdict = turns.look("p", cpu_ms, limit_ms)
        answers = look // answers_every if answers_every else 7
        if verdict == "over":
            return cpu_ms
        if verdict == "doubt" and turns.is_stuck(
            "p", cpu_ms, limit_ms, answers=answers, current=current
        ):
            return cpu_ms
    return None


@pytest.mark.parametrize("limit_ms", [10, 50, 100, 1_000, 30_000])
def test_a_loop_that_is_alone_is_ended_within_100_ms_of_its_limit(limit_ms: int) -> None:
    """Looked at every 25 ms of its CPU time."""
    ended = ended_after(limit_ms)
    assert ended is not None
    assert limit_ms <= ended <= limit_ms + 100


def test_who_burns_nothing_is_sent_nothing() -> None:
    """An idle process costs a look."""
    turns = Turns()
    assert {turns.look("p", 5.0, LIMIT_MS) for _ in range(1_000)} == {"fine"}


def test_a_process_that_answers_its_pulses_lives_however_much_it_burns() -> None:
    """Timers, many requests, long streams: each turn is short."""
    turns = Turns()
    said = set()
    for step in range(4_000):
        verdict = turns.look("p", step * LOOK_MS, LIMIT_MS)
        said.add(verdict)
        if verdict == "pulse":
            turns.answered("p", step * LOOK_MS + 1)
    assert said == {"fine", "pulse"}


@given(current=st.integers(2, 60), each_ms=st.floats(0.1, LIMIT_MS * 0.9))
def test_requests_that_are_run_together_may_each_burn_their_limit(
    current: int, each_ms: float
) -> None:
    """As many as were under way when the doubt began, before any answer comes out."""
    turns = Turns()
    whole_ms = min(current * each_ms, DOUBT_MS)
    cpu_ms = 0.0
    while cpu_ms < whole_ms:
        verdict = turns.look("p", cpu_ms, LIMIT_MS)
        assert verdict != "over"
        if verdict == "doubt":
            known = {"answers": 3, "current": current}
            assert not turns.is_stuck("p", cpu_ms, LIMIT_MS, **known)
        cpu_ms += LOOK_MS


@pytest.mark.parametrize(("current", "answers_every"), [(500, 0), (1, 1), (500, 3)])
def test_neither_a_queue_nor_busy_siblings_shield_a_loop_for_long(
    current: int, answers_every: int
) -> None:
    """Visitors queue up behind it, and another process of its cell goes on answering."""
    ended = ended_after(LIMIT_MS, current=current, answers_every=answers_every)
    assert ended is not None
    assert ended <= LIMIT_MS + DOUBT_MS + PULSE_MS + 2 * LOOK_MS


def test_a_pulse_that_was_lost_is_sent_again_and_a_process_that_is_gone_is_forgotten() -> None:
    """No verdict rests on a pulse that never arrived."""
    turns = Turns()
    turns.look("p", 0, LIMIT_MS)
    assert turns.look("p", 50, LIMIT_MS) == "pulse"
    turns.lost("p")
    assert turns.look("p", 500, LIMIT_MS) == "pulse"
    turns.keep([])
    assert turns.look("p", 900, LIMIT_MS) == "fine"
    assert not turns.is_stuck("gone", 900, LIMIT_MS, answers=0, current=1)


def test_a_worker_has_its_own_limit_up_to_the_platforms() -> None:
    """A setting that is no number (of another Kythera) counts as none."""
    limits = Limits(cpu_ms=30_000, cpu_ms_max=60_000)
    asked = [{}, {"cpu_ms": 50}, {"cpu_ms": 99_999}, {"cpu_ms": "many"}]
    assert [cpu_ms_max(version_of({}, limits=a), limits) for a in asked] == [
        30_000,
        50,
        60_000,
        30_000,
    ]
    assert cpu_ms_max(None, limits) == 30_000
