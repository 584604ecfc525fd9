"""What a log promises, asked of the fake and of the real nats-server alike."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from kythera.distribute.address import LogAddress
from kythera.distribute.cores import ServerPlan
from kythera.distribute.jetstream import JetStreamLog, open_log
from kythera.distribute.log import Entry, LogBehind
from kythera.distribute.memory_log import MemoryLog
from kythera.model.errors import Conflict, KytheraError
from kythera.model.limits import Limits
from tests.distribute.core_machines import Cores, cores
from tests.distribute.servers import serving

pytestmark = pytest.mark.anyio
LIMITS = Limits(record_bytes_max=1_000, append_ms=5_000)
WAIT_S = 10
THREE = ServerPlan(2, ("a", "b", "c"))
Log = MemoryLog | JetStreamLog


@pytest.fixture(scope="module")
async def three(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Cores]:
    """Return three core machines that this module's tests share; they run if any test needs them."""
    async with cores(tmp_path_factory.mktemp("three"), THREE.machines, LIMITS) as made:
        if any("cluster" in item.name for item in request.session.items):
            await made.start(THREE)
        yield made


async def emptied(machines: Cores) -> LogAddress:
    """Return where an empty log of three machines is reached."""
    await machines.drop_log(THREE)
    await machines.make_log(THREE)
    return machines["b"].address(THREE.epoch)


KINDS = [
    "memory",
    pytest.param("jetstream", marks=pytest.mark.real),
    pytest.param("cluster", marks=pytest.mark.real),
]


@pytest.fixture(params=KINDS)
async def log(request: pytest.FixtureRequest, tmp_path: Path, three: Cores) -> AsyncIterator[Log]:
    """Return each kind of log in turn, empty."""
    if request.param == "memory":
        yield MemoryLog(LIMITS)
    elif request.param == "cluster":
        async with open_log(await emptied(three), LIMITS) as log:
            yield log
    else:
        async with (
            serving(tmp_path / "state", LIMITS) as server,
            open_log(server.address, LIMITS) as log,
        ):
            yield log


async def followed(log: Log, after_seq: int, until_seq: int) -> list[Entry]:
    """Follow until a sequence number has been seen."""
    seen: list[Entry] = []
    with anyio.fail_after(WAIT_S):
        async with contextlib.aclosing(log.follow(after_seq)) as batches:
            async for batch in batches:
                seen += batch
                if seen[-1].seq >= until_seq:
                    return seen
    raise AssertionError("a follower never ends")


async def settled(log: Log, until_seq: int, wanted: list[Entry]) -> list[Entry]:
    """Follow from the start until it is `wanted`, or WAIT_S: a follower is served by any of the core's
    machines, and one of them may forget what was replaced a moment later than the others."""
    entries = await followed(log, 0, until_seq)
    with anyio.move_on_after(WAIT_S):
        while entries != wanted:
            entries = await followed(log, 0, until_seq)
    return entries


async def test_appended_records_are_followed_in_order(log: Log) -> None:
    """Ten appends, one follower from the start: all ten, ascending, with their values."""
    seqs = [await log.append(f"worker.a.w{n}", b"%d" % n) for n in range(10)]
    assert seqs == sorted(set(seqs))
    entries = await followed(log, 0, seqs[-1])
    assert entries == [Entry(seqs[n], f"worker.a.w{n}", b"%d" % n) for n in range(10)]
    assert await log.last_seq() == seqs[-1]


async def test_an_empty_log_ends_at_zero(log: Log) -> None:
    """Before the first append the newest sequence number is 0."""
    assert await log.last_seq() == 0


async def test_a_follower_resumes_after_a_sequence_number(log: Log) -> None:
    """Following from the middle gives what came after it, and nothing before."""
    seqs = [await log.append(f"worker.a.w{n}", b"v") for n in range(6)]
    entries = await followed(log, seqs[2], seqs[-1])
    assert [entry.seq for entry in entries] == seqs[3:]


async def test_a_follower_sees_what_is_appended_while_it_follows(log: Log) -> None:
    """A follower of an empty log waits, and gets the first record when it comes."""
    async with anyio.create_task_group() as tasks:
        seen: list[Entry] = []

        async def follow() -> None:
            seen.extend(await followed(log, 0, 1))

        tasks.start_soon(follow)
        seq = await log.append("worker.a.w", b"v")
    assert seen == [Entry(seq, "worker.a.w", b"v")]


async def test_a_newer_value_stands_in_for_the_older_ones(log: Log) -> None:
    """The log is compacted: a late follower sees each key once, with its newest value."""
    for n in range(5):
        await log.append("worker.a.w", b"%d" % n)
    last = await log.append("worker.a.other", b"x")
    wanted = [Entry(last - 1, "worker.a.w", b"4"), Entry(last, "worker.a.other", b"x")]
    assert await settled(log, last, wanted) == wanted


async def test_the_end_of_a_record_is_seen_as_a_tombstone(log: Log) -> None:
    """Ending a record is an entry of its own, without a value, also for a late follower."""
    await log.append("worker.a.w", b"v")
    ended = await log.append("worker.a.w", None)
    wanted = [Entry(ended, "worker.a.w", None)]
    assert await settled(log, ended, wanted) == wanted


async def test_a_retry_with_the_same_message_id_is_applied_once(log: Log) -> None:
    """The second append with one id gives the first one's number, even when overwritten since."""
    first = await log.append("worker.a.w", b"1", message_id="m1")
    assert await log.append("worker.a.w", b"1", message_id="m1") == first
    second = await log.append("worker.a.w", b"2", message_id="m2")
    assert await log.append("worker.a.w", b"1", message_id="m1") == first
    assert await log.last_seq() == second
    wanted = [Entry(second, "worker.a.w", b"2")]
    assert await settled(log, second, wanted) == wanted


async def test_equal_message_ids_of_two_records_are_two_writes(log: Log) -> None:
    """An id belongs to its key: another record's append with it is not swallowed."""
    first = await log.append("worker.a.w", b"1", message_id="m1")
    assert await log.append("worker.a.other", b"1", message_id="m1") == first + 1


async def test_a_record_that_must_not_exist_is_written_once(log: Log) -> None:
    """Of two creations the second is a conflict and changes nothing."""
    seq = await log.append("worker.a.w", b"1", expected_seq=0)
    with pytest.raises(Conflict, match=r"worker\.a\.w"):
        await log.append("worker.a.w", b"2", expected_seq=0)
    wanted = [Entry(seq, "worker.a.w", b"1")]
    assert await settled(log, seq, wanted) == wanted


async def test_a_record_that_ended_may_be_created_again(log: Log) -> None:
    """For "must not exist" a tombstone is as good as nothing."""
    await log.append("worker.a.w", b"1")
    ended = await log.append("worker.a.w", None)
    assert await log.append("worker.a.w", b"2", expected_seq=0) == ended + 1


async def test_a_write_over_an_unseen_change_is_a_conflict(log: Log) -> None:
    """Writing over the entry that was read works; over one that has been replaced it does not."""
    read = await log.append("worker.a.w", b"1")
    changed = await log.append("worker.a.w", b"2", expected_seq=read)
    with pytest.raises(Conflict):
        await log.append("worker.a.w", b"3", expected_seq=read)
    await log.append("worker.a.other", b"x")
    assert await log.append("worker.a.w", b"3", expected_seq=changed) == changed + 2


async def test_a_write_over_a_record_that_never_was_is_a_conflict(log: Log) -> None:
    """Expecting an entry where there is none is a conflict too."""
    with pytest.raises(Conflict):
        await log.append("worker.a.w", b"1", expected_seq=7)


async def test_a_retry_after_a_lost_acknowledgement_is_no_conflict(log: Log) -> None:
    """The same id and the same expectation once more: the first time's number, not a conflict."""
    first = await log.append("worker.a.w", b"1", expected_seq=0, message_id="m1")
    assert await log.append("worker.a.w", b"1", expected_seq=0, message_id="m1") == first
    over = await log.append("worker.a.w", b"2", expected_seq=first, message_id="m2")
    assert await log.append("worker.a.w", b"2", expected_seq=first, message_id="m2") == over
    await log.append("worker.a.w", b"3")
    assert await log.append("worker.a.w", b"2", expected_seq=first, message_id="m2") == over


async def test_a_refused_write_is_not_remembered_as_done(log: Log) -> None:
    """A conflict leaves no trace: the same id may be used once the expectation holds."""
    seq = await log.append("worker.a.w", b"1")
    with pytest.raises(Conflict):
        await log.append("worker.a.w", b"2", expected_seq=0, message_id="m")
    assert await log.append("worker.a.w", b"2", expected_seq=seq, message_id="m") == seq + 1


async def test_a_record_over_the_limit_is_refused_before_it_is_sent(log: Log) -> None:
    """At the limit it is written, one byte over it is refused with both sizes named."""
    seq = await log.append("worker.a.w", b"x" * 1_000)
    with pytest.raises(KytheraError, match="1,001 bytes; 1,000 are allowed"):
        await log.append("worker.a.w", b"x" * 1_001)
    assert await log.last_seq() == seq


@pytest.mark.parametrize(
    "key", ["", ".", "a..b", "a.*", "a.>", "a b", "a.b\r\nPUB", "a" * 401, "ä", "a."]
)
async def test_what_cannot_be_a_key_is_refused(log: Log, key: str) -> None:
    """Wildcards, blanks, empty tokens and control characters never reach the wire."""
    with pytest.raises(KytheraError, match="cannot be a record's key"):
        await log.append(key, b"v")
    assert await log.last_seq() == 0


async def test_an_empty_value_is_refused(log: Log) -> None:
    """An empty body would mean a tombstone; whoever wants one says None."""
    with pytest.raises(KytheraError, match="no content"):
        await log.append("worker.a.w", b"")


async def test_a_log_that_ends_before_the_copy_is_refused(log: Log) -> None:
    """A follower that has applied more than the log holds is told so, not left waiting."""
    await log.append("worker.a.w", b"v")
    with pytest.raises(LogBehind, match="ends at 1"):
        await followed(log, 5, 6)


async def test_many_writers_at_once_get_numbers_of_their_own(log: Log) -> None:
    """A hundred concurrent appends: a hundred different numbers, none lost."""
    seqs: list[int] = []

    async def write(n: int) -> None:
        seqs.append(await log.append(f"worker.a.w{n}", b"v"))

    async with anyio.create_task_group() as tasks:
        for n in range(100):
            tasks.start_soon(write, n)
    assert sorted(seqs) == list(range(1, 101))
    assert len(await followed(log, 0, 100)) == 100


async def test_two_followers_see_the_same(log: Log) -> None:
    """Followers do not share a place in the log."""
    newest = {}
    for n in range(20):
        key = f"worker.a.w{n % 7}"
        newest[key] = Entry(await log.append(key, b"%d" % n), key, b"%d" % n)
    wanted = sorted(newest.values(), key=lambda entry: entry.seq)
    assert await settled(log, wanted[-1].seq, wanted) == wanted
    assert await settled(log, wanted[-1].seq, wanted) == wanted


async def test_the_newest_entry_of_a_key_can_be_asked_for(log: Log) -> None:
    """A value, a tombstone, a key that never was."""
    await log.append("worker.a.w", b"1")
    second = await log.append("worker.a.w", b"2")
    assert await log.newest("worker.a.w") == Entry(second, "worker.a.w", b"2")
    ended = await log.append("worker.a.w", None)
    assert await log.newest("worker.a.w") == Entry(ended, "worker.a.w", None)
    assert await log.newest("worker.a.other") is None


async def test_an_erased_entry_is_gone_and_leaves_the_rest(log: Log) -> None:
    """A tombstone is forgotten for good: followers do not see it, and numbers go on."""
    await log.append("worker.a.w", b"1")
    ended = await log.append("worker.a.w", None)
    kept = await log.append("worker.a.other", b"x")
    for _ in range(2):  # the second time it is gone already
        await log.erase(ended)
    assert await log.newest("worker.a.w") is None
    wanted = [Entry(kept, "worker.a.other", b"x")]
    assert await settled(log, kept, wanted) == wanted
    assert await log.append("worker.a.w", b"again", expected_seq=0) == kept + 1


async def test_it_is_known_when_an_entry_was_written(log: Log) -> None:
    """By the log's clock, rising with the numbers; unknown for what is gone."""
    first = await log.append("worker.a.w", b"1")
    second = await log.append("worker.a.x", b"1")
    before, after = await log.written_at(first), await log.written_at(second)
    assert before is not None
    assert after is not None
    assert before <= after
    await log.append("worker.a.w", b"2")
    assert await log.written_at(first) is None
