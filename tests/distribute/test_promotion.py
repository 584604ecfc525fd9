"""The log moves to other servers while it is written: nothing is lost, nothing is written twice.

Method: real nats-servers, one for each machine and epoch; a writer and a follower through it all.
"""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from kythera.distribute.cores import ServerPlan
from kythera.distribute.jetstream import JetStreamLog, open_log
from kythera.distribute.log import Entry
from kythera.distribute.moving import Announce, CopyOn, Create, Freeze, Open, Step, Wait, wished
from kythera.distribute.promotion import TROUBLE, Mover, point_to_log
from kythera.model.errors import Conflict
from kythera.model.limits import Limits
from kythera.model.records import Core, decode, encode
from tests.distribute.core_machines import Any, Cores, cores

pytestmark = [pytest.mark.anyio, pytest.mark.real]
LIMITS = Limits(append_ms=30_000)
WAIT_S = 60
POLL_S = 0.05
NAMES = ("a", "b", "c", "d", "e")
ALONE = Core(machines=("a",))


@pytest.fixture
async def machines(tmp_path: Path) -> AsyncIterator[Cores]:
    """Return five machines, of which one holds the log."""
    async with cores(tmp_path, NAMES, LIMITS) as made:
        await made.start(ServerPlan(1, ("a",)))
        await point_to_log(made["a"].layout, ALONE, "a")
        yield made


async def wish(log: JetStreamLog, core: Core, names: tuple[str, ...]) -> Core:
    """Write who shall hold the log."""
    moving = wished(core, names)
    newest = await log.newest(core.key())
    await log.append(core.key(), encode(moving), expected_seq=0 if newest is None else newest.seq)
    return moving


async def moved(machines: Cores, core: Core, driver: str, until: type[Step] = Announce) -> Core:
    """Drive a move up to a step (and do that step too); return the record then."""
    mover = Mover(machines[driver].layout, driver, LIMITS)
    with anyio.fail_after(WAIT_S):
        while True:
            try:
                step = await mover.step(core)
            except TROUBLE:
                pass  # the loop in production tries again, too
            else:
                if isinstance(step, Announce):
                    for name in NAMES:
                        await point_to_log(machines[name].layout, step.core, name)
                    return step.core
                if isinstance(step, until):
                    return core
            await anyio.sleep(POLL_S)


class Writer:
    """Writes keys one after the other, and keeps what was acknowledged."""

    def __init__(self) -> None:
        self.written: dict[str, int] = {}
        self.enough = False

    async def write(self, log: JetStreamLog, prefix: str) -> None:
        """Write new keys until told that it is enough, then one more."""
        number = 0
        last = False
        while not last:
            last = self.enough
            key = f"worker.{prefix}.w{number}"
            self.written[key] = await log.append(key, b"%d" % number, expected_seq=0)
            number += 1


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


async def fill(log: JetStreamLog, count: int) -> None:
    """Write many keys, several at once."""

    async def some(start: int) -> None:
        for number in range(start, count, 50):
            await log.append(f"worker.old.w{number}", b"x" * 100)

    async with anyio.create_task_group() as tasks:
        for start in range(50):
            tasks.start_soon(some, start)


async def test_a_log_of_one_machine_moves_to_three_under_a_writer(machines: Cores) -> None:
    """5,000 records and a writer: each record is there once after the move, in the same order;
    followers' numbers go on; the writer only waits; what was frozen stays shut."""
    writer = Writer()
    async with open_log(Any(machines["a"]), LIMITS) as log:
        await fill(log, 5_000)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(writer.write, log, "new")
            core = await wish(log, ALONE, ("a", "b", "c"))
            before = await everything(log)
            await machines.start(ServerPlan(2, core.wanted))
            core = await moved(machines, core, "a")
            await machines["a"].kill(1)
            writer.enough = True
        after = await everything(log)
    assert core == Core(machines=("a", "b", "c"), epoch=2)
    kept = {entry.key: entry.value for entry in after}
    assert len(kept) == len(after) == 5_000 + len(writer.written) + 1
    assert set(writer.written) <= set(kept)
    assert decode(Core, kept["core.log"] or b"") == core
    olds = [entry.key for entry in before if entry.key != "core.log"]
    assert [entry.key for entry in after if entry.key != "core.log"][: len(olds)] == olds
    assert after[0].seq > before[-1].seq


@pytest.mark.parametrize("until", [Wait, Freeze, Create, CopyOn, Open])
async def test_a_move_that_was_interrupted_goes_on(machines: Cores, until: type[Step]) -> None:
    """The driving process ends after any step; the next one brings the move to its end."""
    async with open_log(Any(machines["a"]), LIMITS) as log:
        await fill(log, 500)
        core = await wish(log, ALONE, ("a", "b", "c"))
        if until is not Wait:
            await machines.start(ServerPlan(2, core.wanted))
        await moved(machines, core, "a", until)
        if until is Wait:
            await machines.start(ServerPlan(2, core.wanted))
        core = await moved(machines, core, "a")
        await machines["a"].kill(1)
        assert await log.append("worker.new.w", b"1", expected_seq=0) > 1_000
        assert len(await everything(log)) == 502


async def test_the_new_log_says_from_its_first_moment_who_holds_it(machines: Cores) -> None:
    """It opens, and whoever drove it dies before he announces it: a wish that somebody writes now
    begins with the new servers."""
    async with open_log(Any(machines["a"]), LIMITS) as log:
        core = await wish(log, ALONE, ("a", "b", "c"))
        await machines.start(ServerPlan(2, core.wanted))
        await moved(machines, core, "a", Open)
        await point_to_log(machines["a"].layout, core, "a")
        await machines["a"].kill(1)
        found = await log.newest("core.log")
        assert found is not None
        assert decode(Core, found.value or b"") == Core(machines=("a", "b", "c"), epoch=2)


async def moved_to(machines: Cores, log: JetStreamLog, core: Core, names: str, driver: str) -> Core:
    """Wish, start the servers, drive the move to its end, stop the old servers."""
    wanted = await wish(log, core, tuple(names))
    await machines.start(ServerPlan(wanted.wanted_epoch, wanted.wanted))
    after = await moved(machines, wanted, driver)
    for name in core.machines:
        await machines[name].kill(core.epoch)
    return after


async def test_the_log_grows_to_five_replaces_a_lost_machine_and_comes_home(
    machines: Cores,
) -> None:
    """One, three, five, three with another one for one that died, one: the log goes on each time,
    its numbers grow, and each record is there once."""
    async with open_log(Any(*(machines[name] for name in NAMES)), LIMITS) as log:
        await fill(log, 200)
        newest = await log.last_seq()
        core = ALONE
        for number, (names, driver) in enumerate(
            [("abc", "a"), ("abcde", "b"), ("bde", "d"), ("bce", "e"), ("b", "b")]
        ):
            if names == "bce":
                await machines["d"].kill(core.epoch)
            core = await moved_to(machines, log, core, names, driver)
            assert core.machines == tuple(names)
            seq = await log.append(f"worker.step.w{number}", b"1", expected_seq=0)
            assert seq > newest
            newest = seq
        keys = [entry.key for entry in await everything(log)]
        assert len(keys) == len(set(keys)) == 200 + 5 + 1


async def test_two_machines_that_drive_one_move_do_no_harm(machines: Cores) -> None:
    """From three to three, driven by two at once, each as fast as it can: each record once."""
    async with open_log(Any(*(machines[name] for name in NAMES)), LIMITS) as log:
        await fill(log, 2_000)
        core = await moved_to(machines, log, ALONE, "abc", "a")
        wanted = await wish(log, core, ("b", "c", "d"))
        await machines.start(ServerPlan(wanted.wanted_epoch, wanted.wanted))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(moved, machines, wanted, "b")
            await moved(machines, wanted, "c")
        for name in core.machines:
            await machines[name].kill(core.epoch)
        found = await everything(log)
        assert len({entry.key for entry in found}) == len(found) == 2_001
        assert await log.append("worker.new.w", b"1", expected_seq=0) == found[-1].seq + 1


async def test_a_write_whose_answer_got_lost_is_known_after_the_move(machines: Cores) -> None:
    """Written in the old log, tried again in the new one with its message id: it is the same."""
    async with open_log(Any(*(machines[name] for name in NAMES)), LIMITS) as log:
        await log.append("worker.a.w", b"1", expected_seq=0, message_id="m")
        await moved_to(machines, log, ALONE, "abc", "a")
        again = await log.append("worker.a.w", b"1", expected_seq=0, message_id="m")
        newest = await log.newest("worker.a.w")
        assert newest is not None
        assert newest.seq == again
        with pytest.raises(Conflict):
            await log.append("worker.a.w", b"2", expected_seq=0)
