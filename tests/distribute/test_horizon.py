"""Who may have missed the end of a record takes a snapshot, whenever the ends were removed."""

import contextlib
from collections.abc import AsyncGenerator

import pytest

from kythera.distribute.batch import Stretch
from kythera.distribute.direct import DirectLog
from kythera.distribute.horizon import HORIZON_KEY
from kythera.distribute.log import Entry, LogPruned
from kythera.model.records import Horizon, encode

pytestmark = pytest.mark.anyio


class ToldLog:
    """A log that gives these batches; each time it is asked it names the next of these horizons, then
    the last of them again."""

    def __init__(
        self, newest: int, batches: list[list[int]], horizons: list[int], later: int = 0
    ) -> None:
        self._newest = newest
        self._later = later
        self._batches = batches
        self._horizons = horizons

    async def last_seq(self) -> int:
        """Return the newest sequence; the next one, when it is asked again, is what it has become."""
        found, self._newest = self._newest, self._later or self._newest
        return found

    async def newest(self, key: str) -> Entry | None:
        """Return the Horizon record."""
        assert key == HORIZON_KEY
        horizon = self._horizons.pop(0) if len(self._horizons) > 1 else self._horizons[0]
        return Entry(1, key, encode(Horizon(seq=horizon)))

    async def follow(self, after_seq: int) -> AsyncGenerator[list[Entry], None]:
        """Yield the batches; an empty one says that the log was reached anew."""
        for seqs in self._batches:
            yield [Entry(seq, f"tail.a.w.{seq}", b"{}") for seq in seqs]


async def _read(log: ToldLog, after_seq: int) -> list[Stretch]:
    async with contextlib.aclosing(DirectLog(log).stretches(after_seq)) as stretches:
        return [stretch async for stretch in stretches]


async def test_a_follower_that_was_cut_off_while_ends_were_removed_takes_a_snapshot() -> None:
    """It had everything up to 10; when it is back, ends up to 50 are gone."""
    with pytest.raises(LogPruned, match="up to 50"):
        await _read(ToldLog(10, [[11], [], [60]], [0, 0, 50]), 10)


async def test_a_follower_that_was_cut_off_briefly_goes_on() -> None:
    """The horizon is where it was, below what it has."""
    found = await _read(ToldLog(10, [[11], [], [60]], [5]), 10)
    assert [stretch.to_seq for stretch in found] == [10, 11, 60]


async def test_what_was_read_while_the_horizon_passed_by_is_not_given_out() -> None:
    """It is at 10 and reads up to 40; meanwhile ends up to 30 have gone."""
    with pytest.raises(LogPruned, match="up to 30"):
        await _read(ToldLog(100, [[40]], [0, 0, 30]), 10)


async def test_who_begins_with_nothing_asks_once_when_he_has_everything() -> None:
    """What ended before he came he never had; only a horizon that moves meanwhile matters."""
    found = await _read(ToldLog(30, [[10], [20], [30]], [5]), 0)
    assert [stretch.to_seq for stretch in found] == [0, 10, 20, 30]
    with pytest.raises(LogPruned, match="up to 25"):
        await _read(ToldLog(30, [[10], [20], [30]], [5, 5, 25]), 0)


@pytest.mark.parametrize("batches", [[[5], [], [21, 22], [23]], [[21], [22], [23]]])
async def test_a_snapshot_during_which_the_log_moves_goes_on_to_the_end_of_the_new_one(
    batches: list[list[int]],
) -> None:
    """The new servers' numbers begin above the old ones': each record comes once more, in order. It
    may move while it is read, or before the first record has come."""
    log = ToldLog(20, batches, [0], later=23)
    async with contextlib.aclosing(DirectLog(log).snapshot(0)) as stretches:
        found = [stretch.to_seq async for stretch in stretches]
    assert found[-1] == 23
