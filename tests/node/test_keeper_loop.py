"""The keeper's loop: what is due is done, once, in order, and what was let go of is left alone."""

import os
import signal
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.node.keeper_loop import Loop

STEPS_MAX = 1000


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Return a loop, closed at the end."""
    one = Loop()
    yield one
    one.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Return both ends of a pipe that has something to read."""
    read_end, write_end = os.pipe()
    os.write(write_end, b"x")
    yield read_end, write_end
    for end in (read_end, write_end):
        os.close(end)


@given(st.lists(st.integers(0, 9), max_size=20), st.sets(st.integers(0, 19)))
def test_timers_run_once_in_order_unless_cancelled(delays: list[int], cancelled: set[int]) -> None:
    """Goal: no deadline is lost. Method: any delays (in ms), any of them cancelled."""
    loop, ran = Loop(), list[int]()

    def runs(place: int) -> Callable[[], None]:
        return lambda: ran.append(place)

    try:
        timers = [loop.after(delay / 1000, runs(place)) for place, delay in enumerate(delays)]
        expected = set(range(len(delays))) - cancelled
        for place in set(range(len(delays))) & cancelled:
            timers[place].cancel()
        for _ in range(STEPS_MAX):
            loop.step(0.02)
            if len(ran) >= len(expected):
                break
        assert set(ran) == expected
        assert len(ran) == len(expected)
        moments = [timers[place].when for place in ran]
        assert moments == sorted(moments)
    finally:
        loop.close()


def test_a_callback_may_let_go_of_what_is_due_in_the_same_step(
    loop: Loop, pipe: tuple[int, int]
) -> None:
    """Goal: no call for a closed descriptor. Method: two that are readable forget each other."""
    other = os.dup(pipe[0])
    called: list[int] = []

    def first_wins(own: int, rival: int) -> None:
        called.append(own)
        loop.forget(rival)

    try:
        loop.watch(pipe[0], lambda: first_wins(pipe[0], other))
        loop.watch(other, lambda: first_wins(other, pipe[0]))
        loop.step(1)
        assert len(called) == 1
    finally:
        os.close(other)


def test_a_watch_replaces_the_one_before(loop: Loop, pipe: tuple[int, int]) -> None:
    """Goal: one callback for each descriptor. Method: watch twice; then forget twice."""
    called: list[str] = []
    loop.watch(pipe[0], lambda: called.append("old"))
    loop.watch(pipe[0], lambda: called.append("new"))
    loop.step(1)
    loop.forget(pipe[0])
    loop.forget(pipe[0])
    loop.step(0)
    assert called == ["new"]


def test_a_signal_is_told_from_within_the_loop(loop: Loop) -> None:
    """Goal: nothing happens between two lines. Method: two signals to ourselves, then a step."""
    before = signal.getsignal(signal.SIGUSR2)
    told: list[int] = []
    try:
        loop.on_signals([signal.SIGUSR2], told.append)
        os.kill(os.getpid(), signal.SIGUSR2)
        assert told == []
        loop.step(1)
        assert told == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_what_is_due_again_and_again_is_done_again_and_again(loop: Loop) -> None:
    """Goal: pings and looks at pipes go on. Method: a short period, three times."""
    times: list[float] = []
    loop.every(0.001, lambda: times.append(loop.now()))
    for _ in range(STEPS_MAX):
        loop.step(1)
        if len(times) == 3:
            break
    assert times == sorted(times)
    assert len(times) == 3
