"""Three machines hold the log and die in every way: no acknowledged write is lost, none comes twice.

Method: real nats-servers on loopback, ended with SIGKILL or stopped with SIGSTOP under writers that
write each key once, over nothing.
"""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from kythera.distribute.cores import ServerPlan
from kythera.distribute.jetstream import JetStreamLog, open_log
from kythera.distribute.log import Entry
from kythera.distribute.nats_server import verify
from kythera.model.limits import Limits
from tests.distribute.core_machines import Any, Cores, cores

pytestmark = [pytest.mark.anyio, pytest.mark.real]
LIMITS = Limits(append_ms=30_000)
PLAN = ServerPlan(2, ("a", "b", "c"))
WAIT_S = 90
POLL_S = 0.02


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[Cores]:
    """Return three core machines with an empty log."""
    async with cores(tmp_path, PLAN.machines, LIMITS) as made:
        await made.start(PLAN)
        await made.make_log(PLAN)
        yield made


class Writers:
    """Several clients, each connected to another machine first, writing until told to stop."""

    def __init__(self, three: Cores) -> None:
        self.written: dict[str, int] = {}
        self._three = three
        self._enough = False

    async def write(self, number: int) -> None:
        """Write new keys as fast as they are acknowledged."""
        names = PLAN.machines[number:] + PLAN.machines[:number]
        finder = Any(*(self._three[name] for name in names))
        async with open_log(finder, LIMITS, within_ms=WAIT_S * 1_000) as log:
            count = 0
            while not self._enough:
                key = f"worker.w{number}.k{count}"
                self.written[key] = await log.append(key, b"%d" % count, expected_seq=0)
                count += 1

    async def more(self, count: int) -> None:
        """Wait until so many more have been acknowledged."""
        until = len(self.written) + count
        with anyio.fail_after(WAIT_S):
            while len(self.written) < until:
                await anyio.sleep(POLL_S)

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Write for the length of the block, and end in good order."""
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(self.write, number)
            yield
            self._enough = True


async def everything(log: JetStreamLog) -> list[Entry]:
    """Return all that is in the log."""
    until = await log.last_seq()
    seen: list[Entry] = []
    with anyio.fail_after(WAIT_S):
        async with contextlib.aclosing(log.follow(0)) as batches:
            async for batch in batches:
                seen += batch
                if seen[-1].seq >= until:
                    return seen
    raise AssertionError


async def assert_written_once(three: Cores, writers: Writers) -> None:
    """Look that the log holds what was acknowledged, under the numbers that were told."""
    async with open_log(Any(three["c"], three["a"]), LIMITS, within_ms=WAIT_S * 1_000) as log:
        found = {entry.key: entry.seq for entry in await everything(log)}
        assert await log.last_seq() == len(found), "something was written twice"
    lost = {key: seq for key, seq in writers.written.items() if found.get(key) != seq}
    assert not lost
    assert set(found) == set(writers.written)


async def test_the_leader_is_killed_under_writers(three: Cores) -> None:
    """Kill -9 of whoever leads, twice, each back again: writers wait, nothing is lost or doubled."""
    writers = Writers(three)
    async with writers.at_work():
        for _ in range(2):
            await writers.more(100)
            leader = await three.leader(PLAN)
            await three[leader].kill(PLAN.epoch)
            await writers.more(100)
            await three[leader].start(PLAN)
    await assert_written_once(three, writers)


async def test_all_are_killed_at_once(three: Cores) -> None:
    """Kill -9 of all three while they acknowledge, then a start: all that was acknowledged is there."""
    writers = Writers(three)
    async with writers.at_work():
        await writers.more(200)
        for name in PLAN.machines:
            await three[name].kill(PLAN.epoch)
        for name in PLAN.machines:
            await three[name].start(PLAN)
        await writers.more(100)
    await assert_written_once(three, writers)


async def test_a_core_machine_that_hangs_is_left_for_another(three: Cores) -> None:
    """SIGSTOP of the leader and of the server one is connected to: writers go on at the others, a
    follower does too, and what the stopped one still had in its buffers is not written again."""
    writers = Writers(three)
    async with writers.at_work():
        await writers.more(100)
        leader = await three.leader(PLAN)
        three[leader].hang(PLAN.epoch, still=True)
        await writers.more(100)
        three[leader].hang(PLAN.epoch, still=False)
        await writers.more(100)
    await assert_written_once(three, writers)


async def test_a_follower_leaves_a_hanging_server_in_time(three: Cores) -> None:
    """Nobody but the follower notices: it is connected to a server that hangs, and is not leader."""
    leader = await three.leader(PLAN)
    names = [name for name in PLAN.machines if name != leader]
    hung, other = three[names[0]], three[names[1]]
    seen: list[Entry] = []
    async with (
        open_log(Any(hung, other), LIMITS, within_ms=WAIT_S * 1_000) as follower,
        open_log(Any(three[leader]), LIMITS, within_ms=WAIT_S * 1_000) as writer,
        anyio.create_task_group() as tasks,
    ):

        async def follow() -> None:
            async with contextlib.aclosing(follower.follow(0)) as batches:
                async for batch in batches:
                    seen.extend(batch)

        tasks.start_soon(follow)
        await writer.append("worker.a.w", b"1")
        with anyio.fail_after(WAIT_S):
            while not seen:
                await anyio.sleep(POLL_S)
        hung.hang(PLAN.epoch, still=True)
        try:
            last = await writer.append("worker.a.w", b"2")
            # The silence, and then feeds that the cluster may place on the hung server again.
            with anyio.fail_after(LIMITS.source_silent_ms_max * 4 / 1000):
                while seen[-1].seq < last:
                    await anyio.sleep(POLL_S)
        finally:
            hung.hang(PLAN.epoch, still=False)
        tasks.cancel_scope.cancel()


async def test_each_server_says_that_it_syncs_every_write(three: Cores) -> None:
    """Each is asked itself: what another one answers counts for nothing."""
    for name in PLAN.machines:
        await verify(three[name].address(PLAN.epoch))
