"""Records from copy to copy: in order, without a gap, whatever happens to the stream or its source.

Method: whole followers with copies on the disk in one process; the mesh between them is a fake that
can cut, fall silent and damage what it carries.
"""

import itertools
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import anyio
import msgspec
import pytest

from kythera.distribute.batch import Stretch
from kythera.distribute.copy import Copy
from kythera.distribute.log import Entry, LogPruned
from kythera.distribute.memory_log import MemoryLog
from kythera.distribute.relay import NotWhole, Relay, RelayLog, SourceEnded
from kythera.distribute.sources import LOG, Source
from kythera.model.errors import StoreUnavailable
from kythera.model.limits import Limits
from kythera.model.records import Horizon, encode
from tests.distribute.relays import QUICK, WAIT_S, Mesh, fleet_of, running

pytestmark = pytest.mark.anyio


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Copy]:
    """Return a whole copy of nothing."""
    with Copy(tmp_path / "copy") as opened:
        opened.mark_whole()
        yield opened


def fill(copy: Copy, first: int, last: int, size: int = 10) -> None:
    """Apply records `first` to `last`."""
    copy.apply([Entry(n, f"worker.a.w{n}", b"x" * size) for n in range(first, last + 1)])


async def taken(relay: Relay, after_seq: int, until_seq: int) -> list[Stretch]:
    """Follow a relay until a sequence."""
    mesh = Mesh()
    mesh.relays["r"] = relay
    found: list[Stretch] = []
    with anyio.fail_after(WAIT_S):
        async with aclosing(RelayLog(mesh, "r", "", QUICK).stretches(after_seq)) as stretches:
            async for stretch in stretches:
                found.append(stretch)
                if stretch.to_seq >= until_seq:
                    return found
    raise AssertionError("it never ends")


def seqs(stretches: list[Stretch]) -> list[int]:
    """Return all numbers, in the order in which they came."""
    return [entry.seq for stretch in stretches for entry in stretch.entries]


# -- one stream --------------------------------------------------------------------------------------


async def test_it_gives_what_comes_after_a_sequence_and_says_first_how_far_it_goes(
    copy: Copy,
) -> None:
    """A sign of life with the newest number, then what was asked for and nothing before it."""
    fill(copy, 1, 9)
    found = await taken(Relay(copy, QUICK), 4, 9)
    assert found[0] == Stretch([], 4, 9)
    assert seqs(found) == [5, 6, 7, 8, 9]


async def test_what_comes_later_is_given_as_it_comes(copy: Copy) -> None:
    """A follower that waits gets the next record without asking again."""
    relay = Relay(copy, QUICK)
    async with anyio.create_task_group() as tasks:
        found: list[Stretch] = []

        async def follow() -> None:
            found.extend(await taken(relay, 0, 5))

        tasks.start_soon(follow)
        for n in range(1, 6):
            await anyio.sleep(0.01)
            fill(copy, n, n)
    assert seqs(found) == [1, 2, 3, 4, 5]


async def test_numbers_that_no_record_carries_any_more_are_passed_over(copy: Copy) -> None:
    """Compacted: key rewritten again and again; the receiver still arrives at the newest number."""
    copy.apply([Entry(1, "a", b"1"), Entry(2, "b", b"1")])
    copy.apply([Entry(3, "a", b"2"), Entry(4, "a", b"3")])
    copy.apply([], to_seq=7)
    found = await taken(Relay(copy, QUICK), 1, 7)
    assert seqs(found) == [2, 4]
    assert found[-1].to_seq == 7


async def test_a_sign_of_life_comes_when_nothing_happens(copy: Copy) -> None:
    """Each with the newest number."""
    fill(copy, 1, 3)
    mesh = Mesh()
    mesh.relays["r"] = Relay(copy, QUICK)
    async with aclosing(RelayLog(mesh, "r", "", QUICK).stretches(3)) as stretches:
        with anyio.fail_after(WAIT_S):
            assert [await anext(stretches) for _ in range(3)] == [Stretch([], 3, 3)] * 3


async def test_a_batch_is_no_larger_than_the_limit(copy: Copy) -> None:
    """Many records travel in several frames; one record over the limit travels alone."""
    fill(copy, 1, 50, size=100)
    copy.apply([Entry(51, "large", b"x" * 5_000), Entry(52, "small", b"x")])
    limits = Limits(batch_bytes_max=1_000, heartbeat_ms=50)
    found = [s for s in await taken(Relay(copy, limits), 0, 52) if s.entries]
    assert seqs(found) == list(range(1, 53))
    assert all(sum(len(e.value or b"") for e in s.entries) <= 1_000 for s in found[:-2])
    assert len(found) > 5


async def test_followers_at_one_place_share_one_frame(copy: Copy) -> None:
    """Fifty followers cost the reading of the copy once."""
    fill(copy, 1, 5)
    relay = Relay(copy, QUICK)
    made: list[int] = []
    make = relay.make

    def counted(seq: int) -> tuple[int, bytes]:
        made.append(seq)
        return make(seq)

    relay.make = counted  # type: ignore[method-assign]
    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(taken, relay, 0, 5)
    assert made == [0]
    assert relay.followers == 0


async def test_a_frame_that_was_made_earlier_does_not_bring_back_what_has_ended(copy: Copy) -> None:
    """Somebody follows from 0; a record ends, its end is forgotten; the next one from 0 must not be
    given the record."""
    relay = Relay(copy, QUICK)
    fill(copy, 1, 3)
    assert seqs(await taken(relay, 0, 3)) == [1, 2, 3]
    copy.apply([Entry(4, "worker.a.w2", None)])
    copy.apply([Entry(5, "horizon.log", encode(Horizon(seq=4)))])
    copy.prune(4)
    assert seqs(await taken(relay, 0, 5)) == [1, 3, 5]


async def test_a_copy_that_was_never_whole_is_not_served(tmp_path: Path) -> None:
    """A machine that is being filled must not be taken for one that has everything."""
    with Copy(tmp_path / "copy") as copy:
        fill(copy, 1, 3)
        with pytest.raises(NotWhole):
            Relay(copy, QUICK).refuse(0)
        with pytest.raises(SourceEnded, match="503"):
            await taken(Relay(copy, QUICK), 0, 3)


async def test_who_missed_forgotten_ends_is_told_to_take_a_snapshot(copy: Copy) -> None:
    """Below the horizon nobody follows on, but who has nothing yet may."""
    fill(copy, 1, 5)
    copy.apply([Entry(6, "horizon.log", encode(Horizon(seq=4)))])
    relay = Relay(copy, QUICK)
    with pytest.raises(LogPruned):
        await taken(relay, 3, 6)
    assert seqs(await taken(relay, 4, 6)) == [5, 6]
    assert seqs(await taken(relay, 0, 6)) == [1, 2, 3, 4, 5, 6]


async def test_a_stream_ends_where_the_horizon_overtakes_it(copy: Copy) -> None:
    """A slow follower from 0 may miss an end that goes meanwhile: its stream is not continued."""
    fill(copy, 1, 20, size=100)
    limits = Limits(batch_bytes_max=300, heartbeat_ms=50)
    frames = Relay(copy, limits).serve(0)
    async with aclosing(frames):  # type: ignore[type-var]
        for _ in range(3):
            await anext(frames)
        copy.apply([Entry(21, "worker.a.w1", None)])
        copy.apply([Entry(22, "horizon.log", encode(Horizon(seq=21)))])
        assert [frame async for frame in frames] == []


async def test_a_closed_relay_ends_its_streams(copy: Copy) -> None:
    """The control process stops in time although others follow it."""
    relay = Relay(copy, QUICK)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):

            async def follow() -> None:
                with pytest.raises(SourceEnded):
                    await taken(relay, 0, 1)

            tasks.start_soon(follow)
        while relay.followers < 3:
            await anyio.sleep(0.001)
        relay.close()


async def test_a_snapshot_ends_where_the_copy_stood(copy: Copy) -> None:
    """Everything up to one number, and the end of the stream."""
    fill(copy, 1, 8)
    mesh = Mesh()
    mesh.relays["r"] = Relay(copy, QUICK)
    found = [stretch async for stretch in RelayLog(mesh, "r", "", QUICK).snapshot(0)]
    assert seqs(found) == list(range(1, 9))
    assert found[-1] == Stretch([], 8, 8)


async def test_a_snapshot_that_was_cut_short_is_not_taken_for_a_whole_one(copy: Copy) -> None:
    """The connection ends after the first frame."""
    fill(copy, 1, 8)
    mesh = Mesh()
    mesh.relays["r"] = Relay(copy, QUICK)
    mesh.mangle = lambda numbers, frame: [frame] if next(numbers) == 0 else []
    with pytest.raises(SourceEnded):
        [stretch async for stretch in RelayLog(mesh, "r", "", QUICK).snapshot(0)]


# -- faults ------------------------------------------------------------------------------------------


def dropped(numbers: Iterator[int], frame: bytes) -> list[bytes]:
    """Lose the third frame."""
    return [] if next(numbers) == 2 else [frame]


def flipped(numbers: Iterator[int], frame: bytes) -> list[bytes]:
    """Change a byte of the third frame."""
    if next(numbers) != 2:
        return [frame]
    damaged = bytearray(frame)
    damaged[len(frame) // 2] ^= 1
    return [bytes(damaged)]


def repeated(numbers: Iterator[int], frame: bytes) -> list[bytes]:
    """Send every frame twice."""
    return [frame, frame]


class Swapped:
    """Send the third frame after the fourth."""

    def __init__(self) -> None:
        self.held = b""

    def __call__(self, numbers: Iterator[int], frame: bytes) -> list[bytes]:
        """Take a frame."""
        number = next(numbers)
        if number == 2:
            self.held = frame
            return []
        return [frame, self.held] if number == 3 else [frame]


@pytest.mark.parametrize("fault", [dropped, flipped, repeated, Swapped()])
async def test_whatever_the_mesh_does_to_frames_the_copy_gets_all_in_order(
    tmp_path: Path, fault: object
) -> None:
    """The faulty stream is refused at the fault and asked for again; nothing is lost or doubled."""
    log = MemoryLog()
    limits = msgspec.structs.replace(QUICK, batch_bytes_max=100)
    with fleet_of(tmp_path, log, {"x": 2}, limits) as fleet:
        first, second = fleet.in_order("x")
        for n in range(1, 31):
            await log.append(f"worker.a.w{n % 9}", b"%d" % n)
        fleet.mesh.mangle = fault  # type: ignore[assignment]
        async with running(first, second):
            await first.reached(30)
            await second.reached(30)
        assert second.copy.changes_after(0) == first.copy.changes_after(0)
        assert second.seqs == sorted(second.seqs)
        assert any(peer == first.name for peer, _ in fleet.mesh.asked)


# -- sources that change -----------------------------------------------------------------------------


async def beating(log: MemoryLog) -> None:
    """Write a record every now and then, as the heartbeat does."""
    for n in itertools.count():
        await log.append("heartbeat.fleet", b"%d" % n)
        await anyio.sleep(0.02)


async def test_one_machine_follows_the_log_and_the_others_follow_it(tmp_path: Path) -> None:
    """A site of three and a site with a core machine."""
    log = MemoryLog()
    with fleet_of(tmp_path, log, {"x": 3, "y": 2}, core=frozenset({"y0"})) as fleet:
        await log.append("worker.a.w", b"1")
        async with running(*fleet.nodes.values()), anyio.create_task_group() as tasks:
            tasks.start_soon(beating, log)
            for node in fleet.nodes.values():
                await node.reached(1)
            first, second, third = fleet.in_order("x")
            await first.follows(LOG)
            await second.follows(Source(first.name))
            await third.follows(Source(first.name))
            for node in fleet.in_order("y"):
                await node.follows(LOG)
            tasks.cancel_scope.cancel()


async def test_a_relay_that_dies_is_replaced_and_taken_back_without_a_gap(tmp_path: Path) -> None:
    """The second takes over; when the first is back it is relay again. All see all records."""
    log = MemoryLog()
    with fleet_of(tmp_path, log, {"x": 3}) as fleet:
        first, second, third = fleet.in_order("x")
        async with running(first, second, third), anyio.create_task_group() as tasks:
            tasks.start_soon(beating, log)
            await third.follows(Source(first.name))
            fleet.mesh.cut.add(first.name)
            first.stop()
            await third.follows(Source(second.name), LOG)
            seq = await log.append("worker.a.w", b"during")
            await second.reached(seq)
            await third.reached(seq)
            fleet.mesh.cut.clear()
            tasks.start_soon(first.run)
            await third.follows(Source(first.name))
            await second.follows(Source(first.name))
            seq = await log.append("worker.a.w", b"after")
            for node in (first, second, third):
                await node.reached(seq)
                assert node.seqs == sorted(node.seqs)
            tasks.cancel_scope.cancel()
            first.stop()


async def test_a_relay_that_hangs_is_left(tmp_path: Path) -> None:
    """Its connection stands and says nothing."""
    log = MemoryLog()
    with fleet_of(tmp_path, log, {"x": 2}) as fleet:
        first, second = fleet.in_order("x")
        async with running(first, second), anyio.create_task_group() as tasks:
            tasks.start_soon(beating, log)
            await second.follows(Source(first.name))
            fleet.mesh.silent.add(first.name)
            await second.follows(LOG)
            await second.reached(await log.append("worker.a.w", b"1"))
            tasks.cancel_scope.cancel()


async def test_a_relay_that_is_cut_off_itself_is_left(tmp_path: Path) -> None:
    """It answers and says it is there, but nothing new comes from it: it is not taken back either,
    although it stands where a machine stands that has just left it."""
    log = MemoryLog()
    with fleet_of(tmp_path, log, {"x": 2}) as fleet:
        first, second = fleet.in_order("x")
        async with running(first, second), anyio.create_task_group() as tasks:
            tasks.start_soon(beating, log)
            await second.follows(Source(first.name))
            first.stop()
            await second.reached(await log.append("worker.a.w", b"1"))
            assert second.follower.state.source == LOG
            tasks.cancel_scope.cancel()
        second.copy.apply([], to_seq=first.copy.applied_seq())
        assert not await second.follower._answers(Source(first.name))


async def test_a_relay_that_has_less_is_not_taken_for_a_better_source(tmp_path: Path) -> None:
    """A machine that follows the log and is ahead stays with it until the relay has as much."""
    log = MemoryLog()
    with fleet_of(tmp_path, log, {"x": 2}) as fleet:
        first, second = fleet.in_order("x")
        first.copy.mark_whole()
        seq = await log.append("worker.a.w", b"1")
        async with running(second), anyio.create_task_group() as tasks:
            await second.follows(LOG)
            await second.reached(seq)
            await anyio.sleep(0.5)
            assert second.follower.state.source == LOG
            tasks.start_soon(first.run)
            tasks.start_soon(beating, log)
            await second.follows(Source(first.name))
            tasks.cancel_scope.cancel()


async def test_a_machine_that_becomes_core_follows_the_log(tmp_path: Path) -> None:
    """Facts change while it follows: so does its source."""
    log = MemoryLog()
    with fleet_of(tmp_path, log, {"x": 2}) as fleet:
        first, second = fleet.in_order("x")
        async with running(first, second), anyio.create_task_group() as tasks:
            tasks.start_soon(beating, log)
            await second.follows(Source(first.name))
            fleet.core = frozenset({second.name})
            await second.follows(LOG)
            tasks.cancel_scope.cancel()


async def test_the_log_that_lost_its_store_takes_nothing_from_the_copy(tmp_path: Path) -> None:
    """The copy is ahead of the log: it is kept, and that is said until the log has caught up."""
    log = MemoryLog()
    with fleet_of(tmp_path, log, {"x": 1}) as fleet:
        (node,) = fleet.in_order("x")
        node.copy.apply([Entry(3, "worker.a.w", b"good")])
        await log.append("worker.a.x", b"1")
        async with running(node):
            with anyio.fail_after(WAIT_S):
                while not node.follower.state.behind:
                    await anyio.sleep(0.005)
            assert "ends at 1" in node.follower.state.trouble
            assert node.copy.changes_after(0) == [Entry(3, "worker.a.w", b"good")]
            for n in range(3):
                await log.append("worker.a.x", b"%d" % n)
            await node.reached(4)
            assert not node.follower.state.behind


async def test_a_new_machine_says_how_far_it_is_and_when_it_is_whole(tmp_path: Path) -> None:
    """Progress rises to 1 with the log's newest number as target; whole is remembered."""
    log = MemoryLog()
    for n in range(5_000):
        await log.append(f"worker.a.w{n}", b"x")
    with fleet_of(tmp_path, log, {"x": 1}) as fleet:
        (node,) = fleet.in_order("x")
        shares: list[tuple[float, bool]] = []

        async with running(node):
            state = node.follower.state
            assert not state.whole
            with anyio.fail_after(WAIT_S):
                while not node.follower.state.whole:
                    shares.append((node.follower.state.share, node.follower.state.whole))
                    await anyio.sleep(0.001)
        assert [share for share, _ in shares] == sorted(share for share, _ in shares)
        assert node.follower.state.share == 1.0
        assert node.copy.is_whole()


async def test_an_error_of_whoever_listens_ends_the_follower(tmp_path: Path) -> None:
    """The listener's failure is not taken for the source's, even when it has the same class."""
    log = MemoryLog()
    await log.append("worker.a.w", b"1")
    with fleet_of(tmp_path, log, {"x": 1}) as fleet:
        (node,) = fleet.in_order("x")

        def refuse(seq: int) -> None:
            raise StoreUnavailable(f"the listener refuses {seq}")

        with anyio.fail_after(WAIT_S), pytest.raises(StoreUnavailable, match="refuses 1"):
            await node.follower.run(refuse)
