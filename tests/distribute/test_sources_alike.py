"""What every source of records promises to who follows it: the log in memory, the log of a real
nats-server, and a relay of either, held to one contract by the same follower."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import anyio
import pytest

from kythera.distribute.batch import Stretch
from kythera.distribute.copy import Copy
from kythera.distribute.direct import DirectLog, Followed
from kythera.distribute.follower import Follower
from kythera.distribute.jetstream import JetStreamLog, open_log
from kythera.distribute.log import Entry, LogPruned
from kythera.distribute.memory_log import MemoryLog
from kythera.distribute.pruning import prune_once
from kythera.distribute.relay import Relay, RelayLog
from kythera.distribute.sources import Facts
from kythera.ground.clock import SystemClock
from kythera.model.limits import Limits
from kythera.model.records import Machine
from tests.distribute.relays import QUICK, WAIT_S, Mesh
from tests.distribute.servers import serving

pytestmark = pytest.mark.anyio
EAGER = Limits(tombstones_kept_s=0.05)


class World:
    """A log to write to, and what followers are given to follow it by."""

    def __init__(self, log: MemoryLog | JetStreamLog, folder: Path) -> None:
        self.log = log
        self.folder = folder
        self.source: Followed = DirectLog(log)

    async def put(self, *names: str, value: bytes | None = b"v") -> int:
        """Write some records; return the last one's number."""
        seq = 0
        for name in names:
            seq = await self.log.append(f"worker.a.{name}", value)
        return seq

    @asynccontextmanager
    async def following(self, name: str, source: Followed | None = None) -> AsyncIterator[Copy]:
        """Follow into the copy of a name for the length of the block."""
        about = Facts(me=Machine(name=name))
        with Copy(self.folder / name) as copy:
            follower = Follower(
                copy, lambda: about, lambda _: source or self.source, QUICK, SystemClock()
            )
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follower.run, lambda _: None)
                yield copy
                tasks.cancel_scope.cancel()


@pytest.fixture(
    params=[
        "memory",
        "relay",
        pytest.param("jetstream", marks=pytest.mark.real),
        pytest.param("relay of jetstream", marks=pytest.mark.real),
    ]
)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """Return each kind of source in turn, of an empty log."""
    kind: str = request.param
    if "jetstream" not in kind:
        async with _relayed(World(MemoryLog(QUICK), tmp_path), kind) as world:
            yield world
        return
    async with (
        serving(tmp_path / "state", QUICK) as server,
        open_log(server.address, QUICK) as log,
        _relayed(World(log, tmp_path), kind) as world,
    ):
        yield world


@asynccontextmanager
async def _relayed(world: World, kind: str) -> AsyncIterator[World]:
    if "relay" not in kind:
        yield world
        return
    async with world.following("relay", DirectLog(world.log)) as copy:
        mesh = Mesh()
        mesh.relays["relay"] = Relay(copy, QUICK)
        world.source = RelayLog(mesh, "relay", "", QUICK)
        with anyio.fail_after(WAIT_S):
            while not copy.is_whole():
                await anyio.sleep(0.005)
        yield world


async def reached(copy: Copy, seq: int) -> None:
    """Wait until a copy has everything up to a number."""
    with anyio.fail_after(WAIT_S):
        while copy.applied_seq() < seq:
            await anyio.sleep(0.005)


async def test_it_says_at_once_how_far_it_goes(world: World) -> None:
    """The first stretch comes also when there is nothing new."""
    seq = await world.put("x")
    async with world.following("first") as copy:
        await reached(copy, seq)
    with anyio.fail_after(WAIT_S):
        async with aclosing(world.source.stretches(seq)) as stretches:
            assert await anext(stretches) == Stretch([], seq, seq)


async def test_a_copy_catches_up_and_keeps_up(world: World) -> None:
    """What was there before, what comes later, and what ends."""
    last = await world.put(*"abcde")
    async with world.following("copy") as copy:
        await reached(copy, last)
        ended = await world.put("a", value=None)
        await reached(copy, ended)
        assert copy.get("worker.a.a") == (ended, None)
        assert [entry.seq for entry in copy.changes_after(0)] == [2, 3, 4, 5, 6]
        assert copy.is_whole()


async def test_a_copy_goes_on_where_it_stopped(world: World) -> None:
    """Followed, left, followed again: only what is new, and nothing is missing."""
    async with world.following("copy") as copy:
        await reached(copy, await world.put(*"abc"))
    last = await world.put(*"cde")
    async with world.following("copy") as copy:
        await reached(copy, last)
        found = [(entry.seq, entry.key[-1]) for entry in copy.changes_after(0)]
        assert found == [(1, "a"), (2, "b"), (4, "c"), (5, "d"), (6, "e")]


async def test_a_snapshot_is_everything_and_ends(world: World) -> None:
    """From nothing, and from somewhere in the middle."""
    last = await world.put(*"abcab")
    async with world.following("copy") as copy:
        await reached(copy, last)

    async def seqs(snapshot: AsyncGenerator[Stretch, None]) -> list[int]:
        with anyio.fail_after(WAIT_S):
            return [entry.seq async for stretch in snapshot for entry in stretch.entries]

    with anyio.fail_after(WAIT_S):
        while await seqs(world.source.snapshot(0)) != [3, 4, 5]:  # a relay may lag a moment
            await anyio.sleep(0.01)
    assert await seqs(world.source.snapshot(3)) == [4, 5]


async def test_who_was_away_while_ends_were_forgotten_learns_of_them(world: World) -> None:
    """Two records are known, one ends, its end is removed from the log: it vanishes all the same."""
    async with world.following("other") as other:
        async with world.following("copy") as copy:
            await reached(copy, await world.put("stays", "goes"))
        await world.put("goes", value=None)
        await anyio.sleep(0.1)
        await reached(other, await world.put("late"))
        assert await prune_once(world.log, other, EAGER) == 3
        last = await world.put("later")
        await reached(other, last)
        with anyio.fail_after(WAIT_S):
            await _pruned(world.source, 2)
        async with world.following("copy") as copy:
            await reached(copy, last)
            keys = [entry.key for entry in copy.changes_after(0) if entry.value is not None]
            assert keys == ["worker.a.stays", "worker.a.late", "horizon.log", "worker.a.later"]
            assert copy.generation() == 1


async def _pruned(source: Followed, after_seq: int) -> None:
    """Wait until a source refuses to go on from a number."""
    while True:
        try:
            async with aclosing(source.stretches(after_seq)) as stretches:
                await anext(stretches)
        except LogPruned:
            return
        await anyio.sleep(0.01)


async def test_a_record_of_a_newer_kythera_is_kept_as_it_is(world: World) -> None:
    """Kinds and schemas nobody here knows: their bytes arrive, for an upgraded reader later."""
    newer = b'{"schema":99,"something":"new"}'
    await world.log.append("account.x", newer)
    seq = await world.log.append("unheard-of.x", b"\x00\xff not even JSON")
    async with world.following("copy") as copy:
        await reached(copy, seq)
        assert copy.changes_after(0) == [
            Entry(1, "account.x", newer),
            Entry(2, "unheard-of.x", b"\x00\xff not even JSON"),
        ]
