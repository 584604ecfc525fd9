"""The heartbeat's loop on a log in memory and a clock that the test moves."""

import itertools

import pytest

from kythera.distribute.heart import KEY, Heart
from kythera.distribute.memory_log import MemoryLog
from kythera.model.limits import Limits
from kythera.model.records import Heartbeat, decode

pytestmark = pytest.mark.anyio
LIMITS = Limits()
CORES = ("a", "b", "c")


class Time:
    """A steady clock that stands still until moved, and a calendar that is hours off."""

    def __init__(self, wrong_by_s: float = 0.0) -> None:
        self.wrong_by_s = wrong_by_s

    at = 100.0

    def monotonic(self) -> float:
        """Return the time that all share."""
        return Time.at

    def now(self) -> float:
        """Return the calendar's time."""
        return Time.at + self.wrong_by_s


class Shown:
    """A copy that shows the log's newest entries at once."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    def get(self, key: str) -> tuple[int, bytes | None] | None:
        """Return a record."""
        entry = self._log._newest.get(key)
        return None if entry is None else (entry.seq, entry.value)


def written(log: MemoryLog) -> Heartbeat:
    """Return the newest heartbeat."""
    return decode(Heartbeat, log._newest[KEY].value or b"")


async def test_one_writes_and_the_next_takes_over_when_it_stops() -> None:
    """Three hearts for six seconds, then the writer is gone: no second without a beat but three."""
    log = MemoryLog(LIMITS)
    hearts = {m: Heart(log, Shown(log), m, LIMITS, Time()) for m in CORES}
    history: list[tuple[int, str]] = []
    for tick in range(120):
        Time.at += 0.1
        for name, heart in hearts.items():
            if name == "a" and tick >= 60:
                continue
            if heart.is_due(CORES):
                await heart._write()
                history.append((tick, name))
    assert {name for tick, name in history if 20 < tick < 60} == {"a"}
    assert {name for tick, name in history if tick >= 60} == {"b"}
    pauses = [later[0] - before[0] for before, later in itertools.pairwise(history)]
    assert sorted(pauses)[-2] <= 12
    assert 28 <= max(pauses) <= 33
    assert written(log).number == len(history)


async def test_of_two_who_think_it_is_their_turn_one_writes() -> None:
    """The second finds the first one's beat in its place, and waits a beat again."""
    log = MemoryLog(LIMITS)
    one, other = (Heart(log, Shown(log), name, LIMITS, Time()) for name in ("a", "b"))
    Time.at += 10
    assert one.is_due(CORES)
    assert other.is_due(CORES)
    await one._write()
    await other._write()
    assert written(log).machine == "a"
    assert written(log).number == 1
    assert not other.is_due(CORES)


async def test_a_calendar_that_is_wrong_changes_nobodys_turn() -> None:
    """Hours off: it still writes each second, and others still count by their own steady clocks."""
    log = MemoryLog(LIMITS)
    wrong = Heart(log, Shown(log), "a", LIMITS, Time(-7_200))
    right = Heart(log, Shown(log), "b", LIMITS, Time())
    for _ in range(50):
        Time.at += 0.1
        for heart in (wrong, right):
            if heart.is_due(CORES):
                await heart._write()
    assert written(log).machine == "a"
    assert not right.is_due(CORES)
