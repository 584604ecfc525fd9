"""A snapshot replaces everything in one step: a crash at any moment leaves the old or the new.

Method: a process of its own takes a snapshot and is killed at each of its steps in turn; readers in
this process look at the copy before, while and after.
"""

import os
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.control.store import Store
from kythera.distribute.batch import Stretch
from kythera.distribute.copy import Copy
from kythera.distribute.direct import DirectLog
from kythera.distribute.fold import Fold, readable
from kythera.distribute.log import Entry, LogPruned
from kythera.distribute.memory_log import MemoryLog
from kythera.distribute.pruning import prune_once
from kythera.distribute.relay import Relay, RelayLog, SourceEnded
from kythera.distribute.snapshot import beside, take_snapshot
from kythera.ground.processes import child
from kythera.model.catalog import Catalog
from kythera.model.errors import StoreUnavailable
from kythera.model.limits import Limits
from kythera.model.records import Machine, encode
from tests.distribute.relays import QUICK, WAIT_S, Mesh, fleet_of, running

pytestmark = pytest.mark.anyio
OLD = [Entry(n, f"machine.old{n}", encode(Machine(name=f"old{n}"))) for n in range(1, 6)]
NEW = [Entry(n, f"machine.new{n}", encode(Machine(name=f"new{n}"))) for n in range(11, 41)]


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Copy]:
    """Return a copy with the old records."""
    with Copy(tmp_path / "copy") as opened:
        opened.apply(OLD)
        yield opened


class Scripted:
    """A source whose snapshot is NEW in batches of ten, cut off before the one of a number."""

    def __init__(self, cut_before: int | None = None) -> None:
        self.cut_before = cut_before
        self.asked: list[int] = []

    async def stretches(self, after_seq: int) -> AsyncGenerator[Stretch, None]:
        """Only a snapshot helps."""
        if after_seq < 10:
            raise LogPruned("too long ago")
        yield Stretch([], after_seq, 40)

    async def snapshot(self, after_seq: int) -> AsyncGenerator[Stretch, None]:
        """Give what comes after."""
        self.asked.append(after_seq)
        yield Stretch([], after_seq, 40)
        for n, at in enumerate(range(0, len(NEW), 10)):
            if n == self.cut_before:
                self.cut_before = None
                raise SourceEnded("cut")
            batch = NEW[at : at + 10]
            if batch[-1].seq > after_seq:
                yield Stretch(batch, batch[-1].seq, 40)


async def test_a_snapshot_takes_the_place_of_all_records(copy: Copy) -> None:
    """The old ones are gone, the new ones there, the progress rose to 1, nothing lies beside."""
    shares: list[float] = []
    await take_snapshot(Scripted(), copy, shares.append)
    assert copy.changes_after(0) == NEW
    assert copy.applied_seq() == 40
    assert copy.generation() == 1
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert not beside(copy).exists()


@pytest.mark.parametrize("cut_before", [0, 1, 2])
async def test_a_snapshot_that_is_cut_off_leaves_the_old_and_goes_on_later(
    copy: Copy, cut_before: int
) -> None:
    """The next try asks only for what is missing."""
    source = Scripted(cut_before)
    with pytest.raises(SourceEnded):
        await take_snapshot(source, copy, lambda _: None)
    assert copy.changes_after(0) == OLD
    await take_snapshot(source, copy, lambda _: None)
    assert copy.changes_after(0) == NEW
    assert source.asked == [0, 0 if cut_before == 0 else cut_before * 10 + 10]


async def test_a_snapshot_that_ends_before_the_copy_is_not_taken(copy: Copy) -> None:
    """Less never takes the place of more."""
    copy.apply([], to_seq=100)
    with pytest.raises(StoreUnavailable, match="ends at 40"):
        await take_snapshot(Scripted(), copy, lambda _: None)
    assert copy.changes_after(0) == OLD


async def test_a_damaged_beginning_is_thrown_away(copy: Copy) -> None:
    """What lies beside cannot be read: it is begun anew, the copy is not touched before."""
    beside(copy).mkdir()
    (beside(copy) / "data.mdb").write_bytes(b"rubbish" * 4_096)
    await take_snapshot(Scripted(), copy, lambda _: None)
    assert copy.changes_after(0) == NEW


async def test_readers_see_the_old_or_the_new_and_notice_the_change(copy: Copy) -> None:
    """An agent's catalogue and the API's, each folded before the swap: after it what has vanished
    without a tombstone is gone from both."""
    catalog = Catalog()
    fold = Fold(copy, catalog)
    store = Store(MemoryLog(), copy, Limits())
    fold.take()
    assert [m.name for m in catalog.machines()] == [m.name for m in store.catalog().machines()]
    assert len(catalog.machines()) == 5
    await take_snapshot(Scripted(), copy, lambda _: None)
    missed = fold.take()
    assert missed.anew
    names = [machine.name for machine in catalog.machines()]
    assert names == [f"new{n}" for n in range(11, 41)]
    assert [machine.name for machine in store.catalog().machines()] == names
    assert not fold.take().entries
    assert store.guard_of("machine.old1") == 0


@given(
    before=st.lists(st.tuples(st.sampled_from("abcde"), st.booleans()), max_size=10),
    after=st.lists(st.tuples(st.sampled_from("abcde"), st.booleans()), max_size=10),
)
def test_a_fold_equals_a_fresh_one_whatever_was_replaced(
    before: list[tuple[str, bool]],
    after: list[tuple[str, bool]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Any records before, any after the swap: the catalogue is that of the copy alone."""

    def entries(history: list[tuple[str, bool]], first: int) -> list[Entry]:
        newest = {}
        for n, (name, there) in enumerate(history, first):
            value = encode(Machine(name=name, site=str(n))) if there else None
            newest[name] = Entry(n, f"machine.{name}", value)
        return sorted(newest.values())

    with Copy(tmp_path_factory.mktemp("copy")) as copy:
        catalog = Catalog()
        fold = Fold(copy, catalog)
        copy.apply(entries(before, 1), to_seq=10)
        fold.take()
        copy.replace(entries(after, 11), 30)
        fold.take()
        fresh = Catalog()
        Fold(copy, fresh).take()
        assert catalog.records == fresh.records
        assert fold.applied_seq == 30


READER = """
import sys
from pathlib import Path
from kythera.control.copies import LateCopy

with LateCopy(Path(sys.argv[1])) as copy:
    generation, seq, names = 0, 0, set()
    print("reads", flush=True)
    while not Path(sys.argv[2]).exists():
        missed = copy.changes_since(generation, seq)
        if missed.anew:
            names = set()
        names |= {entry.key.partition("machine.")[2][:3] for entry in missed.entries}
        if missed.generation != generation or missed.applied_seq != seq:
            print(missed.generation, len(missed.entries), *sorted(names), flush=True)
        generation, seq = missed.generation, missed.applied_seq
"""


@pytest.mark.real
async def test_another_process_reads_on_while_snapshots_are_swapped_in(tmp_path: Path) -> None:
    """As the API does beside the agent: each reading is of one state, and every swap is noticed."""
    path, end = tmp_path / "copy", tmp_path / "end"
    with Copy(path) as copy:
        copy.apply(OLD)
        argv = [sys.executable, "-c", READER, str(path), str(end)]
        async with child(argv, env={"PYTHONPATH": ":".join(sys.path)}) as process:
            assert process.stdout is not None
            lines = Lines(process.stdout)
            assert [await lines.next(), await lines.next()] == ["reads", "0 5 old"]
            for turn in range(1, 4):
                entries = [entry._replace(seq=entry.seq + 100 * turn) for entry in NEW]
                copy.replace(entries, 100 * turn + 40)
                assert await lines.next() == f"{turn} {len(NEW)} new"
            end.touch()
            await process.wait()


class Lines:
    """A process's output, line by line."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._held = b""

    async def next(self) -> str:
        """Wait for a line."""
        with anyio.fail_after(WAIT_S):
            while b"\n" not in self._held:
                await anyio.wait_readable(self._descriptor)
                self._held += os.read(self._descriptor, 65_536)
        line, _, self._held = self._held.partition(b"\n")
        return line.decode()


KILLED = """
import os, signal, sys
from pathlib import Path
import anyio
import lmdb
from kythera.distribute import snapshot
from kythera.distribute.copy import Copy
from tests.distribute.test_snapshot import Scripted

step = int(sys.argv[2])
count = 0

def tick(*_):
    global count
    if count == step:
        os.kill(os.getpid(), signal.SIGKILL)
    count += 1

put, apply = Copy._put, Copy.apply
def counted_put(self, transaction, entry):
    tick()
    put(self, transaction, entry)
def counted_apply(self, *more):
    tick()
    found = apply(self, *more)
    tick()
    return found
replace = Copy.replace
def counted_replace(self, *more):
    tick()
    replace(self, *more)
    tick()
Copy._put, Copy.apply, Copy.replace = counted_put, counted_apply, counted_replace
remove = snapshot.shutil.rmtree
def counted_remove(*more, **named):
    tick()
    remove(*more, **named)
    tick()
snapshot.shutil.rmtree = counted_remove
with Copy(Path(sys.argv[1])) as copy:
    anyio.run(snapshot.take_snapshot, Scripted(), copy, lambda _: None)
print("done", count)
"""
STEPS = [0, 12, 25, 50, 67, 68, 69]
"""Of some seventy: before, in and after each batch beside, the swap, and the clearing up."""


@pytest.mark.real
async def test_a_kill_at_any_step_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    """SIGKILL at each step: what a reader finds is one of the two, whole; another try succeeds."""
    found: set[str] = set()
    for step in STEPS:
        path = tmp_path / f"copy{step}"
        with Copy(path) as copy:
            copy.apply(OLD)
        argv = [sys.executable, "-c", KILLED, str(path), str(step)]
        with anyio.fail_after(WAIT_S):
            async with child(argv, env={"PYTHONPATH": ":".join(sys.path)}) as process:
                assert await process.wait() != 0, f"step {step} was not reached"
        with Copy(path) as copy:
            entries = copy.changes_after(0)
            assert entries in (OLD, NEW)
            found.add("old" if entries == OLD else "new")
            assert copy.applied_seq() == entries[-1].seq
            assert copy.generation() == (0 if entries == OLD else 1)
            await take_snapshot(Scripted(), copy, lambda _: None)
            assert copy.changes_after(0) == NEW
    assert found == {"old", "new"}


# -- who needs one ------------------------------------------------------------------------------------


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.time = 1_790_000_000.0

    def now(self) -> float:
        """Return Unix time."""
        return self.time

    def monotonic(self) -> float:
        """Return the same."""
        return self.time


KEPT = Limits(tombstones_kept_s=100.0)


async def long_history(log: MemoryLog, clock: Clock) -> None:
    """Ten machines come; later six of them go; much later something happens."""
    for n in range(10):
        await log.append(f"machine.m{n}", encode(Machine(name=f"m{n}")))
    clock.time += 10
    for n in range(6):
        await log.append(f"machine.m{n}", None)
    clock.time += 1_000
    await log.append("machine.late", encode(Machine(name="late")))


@pytest.mark.parametrize("by_relay", [False, True])
async def test_a_machine_that_was_away_too_long_takes_a_snapshot(
    tmp_path: Path, by_relay: bool
) -> None:
    """Its log's ends of records are forgotten: it learns of them all the same."""
    clock = Clock()
    log = MemoryLog(clock=clock)
    with fleet_of(tmp_path, log, {"x": 2}) as fleet:
        first, second = fleet.in_order("x")
        away = second if by_relay else first
        async with running(away):
            await log.append("machine.m0", encode(Machine(name="m0")))
            await away.reached(1)
        await long_history(log, clock)
        async with running(*([first] if by_relay else [second])):
            other = first if by_relay else second
            await other.reached(log._last)
            assert await prune_once(log, other.copy, KEPT) > 0
            await other.reached(log._last)
            async with running(away):
                await away.reached(log._last)
                if by_relay:
                    assert any("snapshot" in path for _, path in fleet.mesh.asked)
        assert away.copy.generation() == 1
        catalog = Catalog()
        Fold(away.copy, catalog).take()
        assert [m.name for m in catalog.machines()] == ["late", "m6", "m7", "m8", "m9"]


async def test_a_machine_that_was_away_briefly_takes_none(tmp_path: Path) -> None:
    """Above the horizon following on is enough."""
    clock = Clock()
    log = MemoryLog(clock=clock)
    await long_history(log, clock)
    with fleet_of(tmp_path, log, {"x": 1}) as fleet:
        (node,) = fleet.in_order("x")
        async with running(node):
            await node.reached(log._last)
        await prune_once(log, node.copy, KEPT)
        async with running(node):
            await node.reached(log._last)
        assert node.copy.generation() == 0


async def test_the_horizon_is_written_before_anything_goes() -> None:
    """A crash between the two forgets nothing unseen: the horizon stands, the ends are still there,
    and the next round removes them."""
    clock = Clock()
    log = MemoryLog(clock=clock)
    await long_history(log, clock)
    order: list[str] = []

    class Watched(MemoryLog):
        """Notes what is done to it, and fails at the third removal."""

        async def append(self, key: str, value: bytes | None, **more: object) -> int:
            """Note it."""
            order.append(key)
            return await log.append(key, value)

        async def erase(self, seq: int) -> None:
            """Note it."""
            order.append(f"erase {seq}")
            if len(order) == 4:
                raise StoreUnavailable("the machine died")
            await log.erase(seq)

    watched = Watched(clock=clock)
    watched._newest, watched._order, watched._written = log._newest, log._order, log._written
    watched._last = log._last
    copy = MemoryEntries(log)
    with pytest.raises(StoreUnavailable):
        await prune_once(watched, copy, KEPT)  # type: ignore[arg-type]
    assert order[:3] == ["horizon.log", "erase 11", "erase 12"]
    assert await prune_once(log, copy, KEPT) == 16  # type: ignore[arg-type]
    assert [entry.key for entry in log._after(0) if entry.value is None] == []


class MemoryEntries:
    """What a copy that had applied everything would show."""

    def __init__(self, log: MemoryLog) -> None:
        self._entries = sorted(log._newest.values())

    def changes_after(self, seq: int) -> list[Entry]:
        """Return all."""
        return self._entries


async def test_young_ends_and_records_that_began_again_stay(tmp_path: Path) -> None:
    """Only what ended longer ago than the limit goes; a machine that came back is not touched."""
    clock = Clock()
    log = MemoryLog(clock=clock)
    await long_history(log, clock)
    await log.append("machine.m0", encode(Machine(name="m0", site="again")))
    young = await log.append("machine.m9", None)
    with fleet_of(tmp_path, log, {"x": 1}) as fleet:
        (node,) = fleet.in_order("x")
        async with running(node):
            await node.reached(young)
            assert await prune_once(log, node.copy, KEPT) == 16
            assert await prune_once(log, node.copy, KEPT, done=16) == 16
            assert log._newest["machine.m0"].value is not None
            assert log._newest["machine.m9"] == Entry(young, "machine.m9", None)
            # The copy forgets those below a horizon when there is a newer one.
            await node.reached(log._last)
            assert node.copy.get("machine.m1") == (12, None)
            clock.time += 1_000
            await log.append("machine.later", b"{}")
            await node.reached(log._last)
            assert await prune_once(log, node.copy, KEPT, done=16) == young
            await node.reached(log._last)
            with anyio.fail_after(WAIT_S):
                while node.copy.get("machine.m1") is not None:
                    await anyio.sleep(0.005)
            assert node.copy.get("machine.m9") == (young, None)


async def test_a_horizon_that_moves_while_a_copy_is_filled_asks_for_a_snapshot() -> None:
    """From 0 it had begun to read; an end that it still had to see was removed meanwhile."""
    clock = Clock()
    log = MemoryLog(clock=clock)
    for n in range(2_500):
        await log.append(f"machine.m{n}", b"x")
    async with aclosing(DirectLog(log).stretches(0)) as stretches:
        assert (await anext(stretches)).newest == 2_500
        assert (await anext(stretches)).to_seq == 1_000
        await log.append("machine.m1", None)
        clock.time += 1_000
        await log.append("machine.late", b"x")
        assert await prune_once(log, MemoryEntries(log), KEPT) == 2_501  # type: ignore[arg-type]
        with anyio.fail_after(WAIT_S), pytest.raises(LogPruned):
            async for _ in stretches:
                pass


async def test_an_empty_log_is_not_asked_when_its_newest_entry_was_written() -> None:
    """nats-server calls that a bad request; the agent of a platform's first start asked."""

    class Unasked(MemoryLog):
        async def written_at(self, seq: int) -> float | None:
            raise AssertionError(f"asked about {seq}")

    log = Unasked()
    assert await prune_once(log, MemoryEntries(log), KEPT) == 0  # type: ignore[arg-type]


async def test_a_relay_gives_a_snapshot_from_a_copy_with_a_horizon(copy: Copy) -> None:
    """From 0 with a horizon above it: everything there is, without a complaint."""
    copy.mark_whole()
    copy.apply([Entry(9, "horizon.log", b'{"seq":4}')])
    mesh = Mesh()
    mesh.relays["r"] = Relay(copy, QUICK)
    stretches = [stretch async for stretch in RelayLog(mesh, "r", "", QUICK).snapshot(0)]
    assert [entry.seq for stretch in stretches for entry in stretch.entries] == [1, 2, 3, 4, 5, 9]


# -- what a newer Kythera wrote -----------------------------------------------------------------------


def sites(copy: Copy) -> list[tuple[str, str]]:
    """Return what a reader that begins now sees: each machine and its site."""
    catalog = Catalog()
    Fold(copy, catalog).take()
    return [(machine.name, machine.site) for machine in catalog.machines()]


def test_a_restart_goes_by_the_last_state_that_could_be_read(tmp_path: Path) -> None:
    """A record gets a schema of the future: before and after a restart its last readable value
    holds, its new bytes are there, and once it can be read (or ends) that is what holds."""
    newer = b'{"schema":99,"name":"m","site":"future"}'
    path = tmp_path / "copy"
    with Copy(path, readable=readable) as copy:
        copy.apply([Entry(1, "machine.m", encode(Machine(name="m", site="known")))])
        copy.apply([Entry(2, "machine.m", newer), Entry(3, "machine.n", newer)])
        copy.apply([Entry(4, "machine.m", newer)])
    with Copy(path, readable=readable) as copy:
        assert sites(copy) == [("m", "known")]
        assert copy.get("machine.m") == (4, newer)
        catalog = Catalog()
        Fold(copy, catalog).take()
        assert set(catalog.unknown) == {"machine.m", "machine.n"}
        assert [m.site for m in Store(MemoryLog(), copy, Limits()).catalog().machines()] == [
            "known"
        ]
        copy.replace([Entry(5, "machine.m", newer)], 5)
        assert sites(copy) == [("m", "known")]
        copy.apply([Entry(6, "machine.m", None)])
        assert sites(copy) == []
        copy.apply([Entry(7, "machine.m", newer)])
        assert sites(copy) == []
        copy.apply([Entry(8, "machine.m", encode(Machine(name="m", site="again")))])
        assert sites(copy) == [("m", "again")]
        assert copy.changes_since(0, 0).kept == []


def test_an_upgraded_reader_reads_what_was_kept_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes of a newer schema were kept as they came; with that schema known they are read."""
    newer = encode(Machine(name="m", site="future", schema=2))
    path = tmp_path / "copy"
    with Copy(path, readable=readable) as copy:
        copy.apply([Entry(1, "machine.m", encode(Machine(name="m", site="known")))])
        copy.apply([Entry(2, "machine.m", newer)])
        assert sites(copy) == [("m", "known")]
    monkeypatch.setattr("kythera.model.records.SCHEMA", 2)
    with Copy(path, readable=readable) as copy:
        assert sites(copy) == [("m", "future")]
