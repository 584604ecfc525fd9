"""The loop that drives a copy: it catches up, keeps up, and keeps its last good state."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from kythera.distribute.copy import Copy
from kythera.distribute.follower import follow_into
from kythera.distribute.jetstream import open_log
from kythera.distribute.log import Entry, Log
from kythera.distribute.memory_log import MemoryLog
from kythera.ground.clock import SystemClock
from kythera.model.errors import StoreUnavailable
from kythera.model.limits import Limits
from tests.distribute.servers import serving

pytestmark = pytest.mark.anyio
WAIT_S = 20
REPLAY_S_MAX = 3.0
WRITERS = 50


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Copy]:
    """Return an empty copy, open for writing."""
    with Copy(tmp_path / "copy") as opened:
        yield opened


class Applied:
    """Notes what the loop says it applied."""

    def __init__(self) -> None:
        self.seqs: list[int] = []
        self._more = anyio.Event()

    def __call__(self, seq: int) -> None:
        """Take one report."""
        self.seqs.append(seq)
        self._more.set()

    async def reached(self, seq: int) -> None:
        """Wait until a sequence number has been applied."""
        with anyio.fail_after(WAIT_S):
            while not self.seqs or self.seqs[-1] < seq:
                self._more = anyio.Event()
                await self._more.wait()


@asynccontextmanager
async def following(log: Log, copy: Copy) -> AsyncIterator[Applied]:
    """Run the loop for the length of the block."""
    applied = Applied()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow_into, log, copy, applied)
        yield applied
        tasks.cancel_scope.cancel()


async def test_the_copy_catches_up_and_keeps_up(copy: Copy) -> None:
    """What was there before and what comes later is all applied, in rising order."""
    log = MemoryLog()
    for n in range(5):
        await log.append(f"worker.a.w{n}", b"%d" % n)
    async with following(log, copy) as applied:
        await applied.reached(5)
        await log.append("worker.a.w0", None)
        await applied.reached(6)
    assert applied.seqs == sorted(set(applied.seqs))
    assert copy.get("worker.a.w0") == (6, None)
    assert [entry.seq for entry in copy.changes_after(0)] == [2, 3, 4, 5, 6]


async def test_a_second_run_applies_only_what_is_new(copy: Copy) -> None:
    """Ended and started again, the loop goes on from what the copy holds."""
    log = MemoryLog()
    await log.append("worker.a.w", b"1")
    async with following(log, copy) as applied:
        await applied.reached(1)
    await log.append("worker.a.w", b"2")
    async with following(log, copy) as applied:
        await applied.reached(2)
    assert applied.seqs == [2]


async def test_the_copy_is_readable_while_the_log_is_away(copy: Copy) -> None:
    """Fail static: a log that cannot be reached takes nothing from what was applied."""
    log = MemoryLog()
    await log.append("worker.a.w", b"1")
    async with following(log, copy) as applied:
        await applied.reached(1)
        log.pause()
        await anyio.lowlevel.checkpoint()
        assert copy.get("worker.a.w") == (1, b"1")
        log.resume()
        await log.append("worker.a.w", b"2")
        await applied.reached(2)


class FullOnce(Copy):
    """A copy whose disk is full for the first batch."""

    full = True

    def apply(self, entries: Sequence[Entry], to_seq: int = 0) -> list[Entry]:
        """Refuse the first time."""
        if self.full:
            self.full = False
            raise StoreUnavailable("no space left")
        return super().apply(entries, to_seq)


async def test_a_batch_that_could_not_be_kept_comes_again(tmp_path: Path) -> None:
    """A full disk loses nothing: the loop tries again from the last good state."""
    log = MemoryLog()
    await log.append("worker.a.w", b"1")
    with FullOnce(tmp_path / "copy") as copy:
        async with following(log, copy) as applied:
            await applied.reached(1)
        assert copy.get("worker.a.w") == (1, b"1")


async def test_a_log_that_lost_its_store_leaves_the_copy_alone(copy: Copy) -> None:
    """The copy is ahead of the log: it is kept as it is until the log has caught up with it."""
    copy.apply([Entry(2, "worker.a.w", b"good")])
    log = MemoryLog()
    async with following(log, copy) as applied:
        await log.append("worker.a.x", b"1")
        assert copy.changes_after(0) == [Entry(2, "worker.a.w", b"good")]
        await log.append("worker.a.x", b"2")
        await log.append("worker.a.x", b"3")
        await applied.reached(3)


async def test_an_error_of_whoever_listens_ends_the_loop(copy: Copy) -> None:
    """The listener's failure is not taken for the log's, even when it has the same class."""
    log = MemoryLog()
    await log.append("worker.a.w", b"1")

    def refuse(seq: int) -> None:
        raise StoreUnavailable(f"the listener refuses {seq}")

    with anyio.fail_after(WAIT_S), pytest.raises(StoreUnavailable, match="the listener refuses 1"):
        await follow_into(log, copy, refuse)


@pytest.mark.real
async def test_ten_thousand_records_fill_an_empty_copy_within_three_seconds(
    tmp_path: Path, copy: Copy
) -> None:
    """A machine that comes new replays a whole log, durably."""
    limits = Limits()
    clock = SystemClock()
    async with (
        serving(tmp_path / "state", limits, lazy=True) as server,
        open_log(server.address, limits) as log,
    ):
        async with anyio.create_task_group() as tasks:
            for start in range(WRITERS):

                async def write(start: int = start) -> None:
                    for n in range(start, 10_000, WRITERS):
                        await log.append(f"worker.a.w{n}", b"x" * 1_000)

                tasks.start_soon(write)
        began = clock.monotonic()
        async with following(log, copy) as applied:
            await applied.reached(10_000)
        assert clock.monotonic() - began < REPLAY_S_MAX
    assert len(copy.changes_after(0)) == 10_000
