"""Lag by heartbeats: right when clocks agree, and when they are hours apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.distribute.lag import Lag, LagMeter
from kythera.model.records import Heartbeat

HOUR_MS = 3_600_000.0
BEGIN_MS = 1_790_000_000_000


def beat(number: int, at_ms: float, machine: str = "a") -> Heartbeat:
    """Return a heartbeat."""
    return Heartbeat(machine=machine, number=number, at_ms=round(at_ms))


class Reader:
    """A machine whose clock is off by `off_ms`, and whose monotonic clock began at 5,000."""

    def __init__(self, off_ms: float = 0.0) -> None:
        self.meter = LagMeter()
        self.off_ms = off_ms

    def take(self, number: int, *, at_s: float, came_s: float, machine: str = "a") -> None:
        """Take a heartbeat written and applied at these true times."""
        heartbeat = beat(number, BEGIN_MS + at_s * 1000, machine)
        self.meter.beat(heartbeat, monotonic_ms=5_000 + came_s * 1000)

    def look(self, now_s: float) -> Lag:
        """Ask at a true time."""
        wall_ms = BEGIN_MS + now_s * 1000 + self.off_ms
        return self.meter.at(monotonic_ms=5_000 + now_s * 1000, wall_ms=wall_ms)


def test_before_the_first_heartbeat_nothing_is_known() -> None:
    """No heartbeat: no lag, no offset, no age."""
    assert Reader().look(0) == Lag()


def test_with_equal_clocks_the_lag_is_the_age_of_the_newest_heartbeat() -> None:
    """Each on its way for 40 ms; asked half a second after the last was written."""
    reader = Reader()
    for n in range(5):
        reader.take(n, at_s=n, came_s=n + 0.04)
    lag = reader.look(4.5)
    assert lag.lag_ms == pytest.approx(500)
    assert lag.heartbeat_age_ms == pytest.approx(460)
    assert lag.clock_offset_ms == pytest.approx(0)
    assert (lag.writer, lag.number) == ("a", 4)


@pytest.mark.parametrize("hours", [-7, -0.01, 0.01, 3])
def test_a_clock_that_is_hours_off_does_not_look_like_lag(hours: float) -> None:
    """The offset is reported for itself, and the lag is what it would be with a right clock."""
    reader = Reader(hours * HOUR_MS)
    for n in range(5):
        reader.take(n, at_s=n, came_s=n + 0.04)
    lag = reader.look(4.5)
    assert lag.lag_ms == pytest.approx(460)
    assert lag.clock_offset_ms == pytest.approx(hours * HOUR_MS + 40)


def test_a_machine_that_is_cut_off_falls_behind_second_by_second() -> None:
    """Ten seconds without a heartbeat are ten seconds of lag, whatever the clock says."""
    for off_ms in (0.0, 2 * HOUR_MS):
        reader = Reader(off_ms)
        for n in range(5):
            reader.take(n, at_s=n, came_s=n)
        assert reader.look(14).lag_ms == pytest.approx(10_000)
        reader.take(15, at_s=15, came_s=15.02)
        assert reader.look(15.02).lag_ms == pytest.approx(20)


def test_a_heartbeat_from_the_disk_is_old_and_no_offset() -> None:
    """After a start the copy's last heartbeat is an hour old: so is the copy."""
    reader = Reader()
    reader.take(1, at_s=0, came_s=3_600)
    lag = reader.look(3_600.1)
    assert lag.lag_ms == pytest.approx(HOUR_MS + 100)
    assert lag.clock_offset_ms is None
    reader.take(3_600, at_s=3_600, came_s=3_600.2)
    reader.take(3_601, at_s=3_601, came_s=3_601.01)
    assert reader.look(3_601.5).lag_ms == pytest.approx(500)


def test_another_writer_has_another_clock() -> None:
    """The leader changed to a machine two hours ahead: that is its clock, not our lag."""
    reader = Reader()
    for n in range(5):
        reader.take(n, at_s=n, came_s=n + 0.01)
    for n in range(5, 9):
        reader.take(n, at_s=n + 7_200, came_s=n + 0.01, machine="b")
    lag = reader.look(8.5)
    assert lag.lag_ms == pytest.approx(490)
    assert lag.clock_offset_ms == pytest.approx(10 - 2 * HOUR_MS)


@pytest.mark.parametrize("step_s", [-7_200, -5, 7_200])
def test_a_writer_whose_clock_is_set_is_understood_after_two_heartbeats(step_s: float) -> None:
    """Its clock jumps; the lag stays what it was."""
    reader = Reader()
    for n in range(5):
        reader.take(n, at_s=n, came_s=n)
    for n in range(5, 9):
        reader.take(n, at_s=n + step_s, came_s=n)
    assert reader.look(8.3).lag_ms == pytest.approx(300)


def test_a_repeated_heartbeat_is_no_news() -> None:
    """Seeing the newest one again does not make it younger."""
    reader = Reader()
    reader.take(1, at_s=0, came_s=0)
    reader.take(2, at_s=1, came_s=1)
    reader.take(2, at_s=1, came_s=9)
    assert reader.look(9).heartbeat_age_ms == pytest.approx(8_000)


@given(
    ways=st.lists(st.floats(0, 0.9), min_size=3, max_size=30),
    off_h=st.floats(-48, 48),
)
def test_the_lag_is_never_wrong_by_more_than_the_fastest_way(
    ways: list[float], off_h: float
) -> None:
    """Any delays, any clock: the error is bounded by the smallest delay or what passes as equal."""
    reader = Reader(off_h * HOUR_MS)
    for n, way in enumerate(ways):
        reader.take(n, at_s=n, came_s=n + way)
    now = len(ways) - 1 + ways[-1] + 0.1
    true_ms = (ways[-1] + 0.1) * 1000
    found = reader.look(now).lag_ms
    assert found is not None
    assert abs(found - true_ms) <= max(min(ways[1:]) * 1000, 1_000) + 1
