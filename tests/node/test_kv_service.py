"""The KV store: passes, acknowledgements in the log's order, blobs, starts, restores."""

from pathlib import Path

import anyio
import msgspec
import pytest

from kythera.distribute.kv_log import Replaced
from kythera.ground.passes import Pass, sign
from kythera.model.limits import Limits
from kythera.store.kv_entry import Entry, Head, encode, subject
from kythera.store.kv_http import Request
from tests.kv_worlds import KEY, OTHER, SPACE, KvWorld, MemoryKvLog, kv_world

pytestmark = pytest.mark.anyio
QUICK = Limits(kv_catch_up_ms=200, kv_write_ms=200, kv_inline_bytes_max=10)


async def test_a_value_is_read_back_with_what_was_put_beside_it(tmp_path: Path) -> None:
    """Goal: put, get, list, delete."""
    async with kv_world(tmp_path) as world:
        assert (await world.ask("GET", "/k?urlencoded=true"))[0] == 404
        status, *_ = await world.ask(
            "PUT", "/k?urlencoded=true&expiration_ttl=60", b"value", metadata=b'{"a":"\xc3\xa9"}'
        )
        assert status == 200
        status, _, body, headers = await world.ask("GET", "/k?urlencoded=true")
        assert (status, body) == (200, b"value")
        assert headers["CF-KV-Metadata"] == '{"a":"é"}'
        assert headers["Kythera-KV-Expiration"] == "1795000060"
        told = (await world.ask("GET", "/?prefix=k"))[2]
        assert (
            told
            == (
                '{"keys":[{"name":"k","expiration":1795000060,"metadata":"{\\"a\\":\\"é\\"}"}],'
                '"list_complete":true}'
            ).encode()
        )
        assert (await world.ask("DELETE", "/k?urlencoded=true"))[0] == 200
        assert (await world.ask("GET", "/k?urlencoded=true"))[0] == 404


async def test_a_key_is_gone_when_it_expires_and_the_log_forgets_it_too(tmp_path: Path) -> None:
    """Goal: at once in reads and lists; the log's own copy has a life, a little longer."""
    async with kv_world(tmp_path) as world:
        await world.ask("PUT", "/k?urlencoded=true&expiration_ttl=60", b"v")
        await world.ask("PUT", "/stays?urlencoded=true", b"v")
        world.clock.time += 60
        assert (await world.ask("GET", "/k?urlencoded=true"))[0] == 404
        assert b'"k"' not in (await world.ask("GET", "/"))[2]
        assert sorted(world.log.lives.values()) == [0, 120]
        world.service.sweep()
        assert (await world.ask("GET", "/stays?urlencoded=true"))[0] == 200


@pytest.mark.parametrize(
    "granted",
    [
        "",
        "nothing",
        sign(Pass(account="a", worker="w", store="d1", resource=SPACE), KEY),
        sign(Pass(account="a", worker="w", store="kv", resource=SPACE), "another key"),
        sign(Pass(account="a", worker="w", store="kv", resource="no number"), KEY),
    ],
    ids=["none", "garbage", "another store's", "another machine's", "no namespace"],
)
async def test_who_shows_no_good_pass_is_refused(tmp_path: Path, granted: str) -> None:
    """Goal: the pass decides, nothing else."""
    async with kv_world(tmp_path) as world:
        request = Request()
        request.method, request.target, request.granted = b"GET", b"/k", granted.encode()
        assert (await world.answered(request))[0] == 403


async def test_a_pass_opens_its_own_namespace_alone(tmp_path: Path) -> None:
    """Goal: same key, other namespace: another value; a worker ends no namespace."""
    async with kv_world(tmp_path) as world:
        await world.ask("PUT", "/k?urlencoded=true", b"mine")
        assert (await world.ask("GET", "/k?urlencoded=true", space=OTHER))[0] == 404
        assert (await world.ask("GET", "/", space=OTHER))[2].startswith(b'{"keys":[]')
        assert (await world.ask("DELETE", "/"))[0] == 400
        assert (await world.ask("GET", "/k?urlencoded=true"))[2] == b"mine"


async def test_nothing_is_acknowledged_or_shown_before_the_log_has_it(tmp_path: Path) -> None:
    """Goal: an acknowledgement is a promise. Method: the log's own one is held back."""
    async with kv_world(tmp_path) as world:
        world.log.acknowledge = anyio.Event()
        answered = []

        async def write() -> None:
            answered.append(await world.ask("PUT", "/k?urlencoded=true", b"v"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await anyio.wait_all_tasks_blocked()
            assert answered == []
            world.log.acknowledge.set()
        assert answered[0][0] == 200


async def test_an_acknowledged_write_is_read_though_the_feed_stands_still(tmp_path: Path) -> None:
    """Goal: reads include this machine's own writes. Method: nobody follows the log."""
    world = KvWorld(tmp_path)
    await world.service.meet()
    world.service.copy.note_heard(world.clock.now())
    world.service.ready.set()
    await world.ask("PUT", "/k?urlencoded=true", b"v")
    assert (await world.ask("GET", "/k?urlencoded=true"))[2] == b"v"
    world.service.copy.close()


async def test_of_concurrent_writes_the_logs_last_one_is_read(tmp_path: Path) -> None:
    """Goal: acknowledgements that overtake each other reorder nothing.

    Method: the first write's acknowledgement is held back until the second's has come."""
    world = KvWorld(tmp_path)
    await world.service.meet()
    world.service.copy.note_heard(world.clock.now())
    world.service.ready.set()
    first, second = anyio.Event(), anyio.Event()
    second.set()
    async with anyio.create_task_group() as tasks:
        world.log.acknowledge = first
        tasks.start_soon(world.ask, "PUT", "/k?urlencoded=true", b"first")
        await anyio.wait_all_tasks_blocked()
        world.log.acknowledge = second
        await world.ask("PUT", "/k?urlencoded=true", b"second")
        first.set()
    assert (await world.ask("GET", "/k?urlencoded=true"))[2] == b"second"
    world.service.copy.close()


async def test_a_write_that_the_log_does_not_take_fails(tmp_path: Path) -> None:
    """Goal: the worker hears of it, and reads what was there before."""
    async with kv_world(tmp_path) as world:
        await world.ask("PUT", "/k?urlencoded=true", b"before")
        world.log.away = True
        status, words, *_ = await world.ask("PUT", "/k?urlencoded=true", b"after")
        assert (status, "did not acknowledge" in words) == (503, True)
        assert (await world.ask("GET", "/k?urlencoded=true"))[2] == b"before"


async def test_a_large_value_is_a_blob_until_nobody_names_it(tmp_path: Path) -> None:
    """Goal: streamed back as it was; swept when it was replaced, and not before its grace is over."""
    async with kv_world(tmp_path, QUICK) as world:
        value = bytes(range(256)) * 10_000
        await world.ask("PUT", "/k?urlencoded=true", value)
        assert (await world.ask("GET", "/k?urlencoded=true"))[2] == value
        asked = await world.ask("POST", "/bulk/get", b'{"keys":["k"]}')
        assert asked[0] == 200
        world.clock.time += 1e8  # reading it was a use, by the machine's own clock
        assert world.service.sweep_blobs() == 0
        await world.ask("PUT", "/k?urlencoded=true", b"small")
        assert world.service.sweep_blobs() == 1
        assert list(world.service.blobs.digests()) == []


async def test_a_large_value_that_is_damaged_or_absent_is_not_served(tmp_path: Path) -> None:
    """Goal: an error, or a connection that is cut; never other bytes."""
    async with kv_world(tmp_path, QUICK) as world:
        await world.ask("PUT", "/k?urlencoded=true", b"a value of some length")
        (digest,) = world.service.blobs.digests()
        path = world.service.blobs.path(digest)
        path.chmod(0o600)
        path.write_bytes(b"A value of some length")
        request = Request()
        request.method, request.target = b"GET", b"/k?urlencoded=true"
        granted = Pass(account="a", worker="w", store="kv", resource=SPACE)
        request.granted = sign(granted, KEY).encode()
        assert world.service.answer(request) is None
        pieces = [piece async for piece in world.service.answer_later(request)]
        assert pieces[-1] == b""
        assert b"A value" not in b"".join(pieces)
        path.unlink()
        assert (await world.ask("GET", "/k?urlencoded=true"))[0] == 503


async def test_a_large_value_of_another_machine_is_fetched(tmp_path: Path) -> None:
    """Goal: when it is asked for, alone or among others, and before that, as the feed brings it."""
    async with kv_world(tmp_path, QUICK) as world:
        value = b"a value of some length"
        await world.ask("PUT", "/k?urlencoded=true", value)
        (digest,) = world.service.blobs.digests()
        for method, target, body, told in (
            ("GET", "/k?urlencoded=true", b"", value),
            ("POST", "/bulk/get", b'{"keys":["k"]}', b'{"k":"a value of some length"}'),
        ):
            world.service.blobs.remove(digest)
            world.elsewhere = {digest: value}
            assert (await world.ask(method, target, body))[2] == told
        world.service.blobs.remove(digest)
        entry = Entry(Head(b"k", 0, b"", digest, len(value)))
        await world.log.append(subject(SPACE, b"k"), encode(entry))
        with anyio.fail_after(5):
            while digest not in world.service.wanted:
                await anyio.sleep(0.001)


async def test_a_namespace_that_is_deleted_takes_its_keys_with_it(tmp_path: Path) -> None:
    """Goal: nothing of it is left in log or copy, and nothing is written to it again."""
    async with kv_world(tmp_path) as world:
        await world.ask("PUT", "/k?urlencoded=true", b"v")
        await world.ask("PUT", "/k?urlencoded=true", b"theirs", space=OTHER)
        assert (await world.ask("DELETE", "/", worker=""))[0] == 200
        for method in ("GET", "PUT", "DELETE"):
            status, words, *_ = await world.ask(method, "/k?urlencoded=true")
            assert (status, words) == (400, "This KV namespace was deleted.")
        assert [s for s in world.log.kept if SPACE in s] == [f"kv.ended.{SPACE}"]
        assert (await world.ask("GET", "/k?urlencoded=true", space=OTHER))[2] == b"theirs"


async def test_a_store_that_starts_catches_up_before_it_answers(tmp_path: Path) -> None:
    """Goal: what was acknowledged before the crash is read after it, though the copy lacked it."""
    async with kv_world(tmp_path) as world:
        await world.ask("PUT", "/k?urlencoded=true", b"v")
        behind = KvWorld(tmp_path / "behind")
        behind.log = behind.service.log = world.log  # type: ignore[assignment]
        async with anyio.create_task_group() as tasks:
            answers = []

            async def read() -> None:
                answers.append(await behind.ask("GET", "/k?urlencoded=true"))

            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            assert answers == []
            tasks.start_soon(behind.follow)
            with anyio.fail_after(5):
                while not answers:
                    await anyio.sleep(0.001)
            tasks.cancel_scope.cancel()
        assert answers[0][2] == b"v"
        behind.service.copy.close()


async def test_a_copy_that_never_was_whole_is_not_read(tmp_path: Path) -> None:
    """Goal: a key is never said to be absent because the copy is."""
    world = KvWorld(tmp_path)
    world.log.away = True
    status, words, *_ = await world.ask("GET", "/k?urlencoded=true")
    assert (status, "not complete" in words) == (503, True)
    world.service.copy.close()


async def test_after_a_loss_of_power_the_copy_is_made_anew_from_the_log(tmp_path: Path) -> None:
    """Goal: the log is what was synced."""
    async with kv_world(tmp_path) as world:
        await world.ask("PUT", "/k?urlencoded=true", b"v")
    world.service = world.started(boot="another")
    await world.service.meet()
    assert world.service.copy.applied_seq() == 0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.follow)
        with anyio.fail_after(5):
            await world.service.ready.wait()
        assert (await world.ask("GET", "/k?urlencoded=true"))[2] == b"v"
        tasks.cancel_scope.cancel()
    world.service.copy.close()


@pytest.mark.parametrize("boot", ["boot", "another"])
async def test_a_restored_copy_fills_a_new_log(tmp_path: Path, boot: str) -> None:
    """Goal: a backup holds the copy; its log is new and empty, on this machine or another."""
    async with kv_world(tmp_path, QUICK) as world:
        for number in range(600):
            await world.ask("PUT", f"/k{number}?urlencoded=true", b"%d" % number)
        await world.ask("PUT", "/large?urlencoded=true", bytes(100))
        await world.ask("PUT", "/over?urlencoded=true&expiration_ttl=60", b"v")
        await world.ask("PUT", "/k?urlencoded=true", b"v", space=OTHER)
        await world.ask("DELETE", "/", space=OTHER, worker="")
    world.clock.time += 100
    world.log = MemoryKvLog("second")
    world.service = world.started(boot)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.follow)
        with anyio.fail_after(5):
            await world.service.ready.wait()
        assert (await world.ask("GET", "/k599?urlencoded=true"))[2] == b"599"
        assert (await world.ask("GET", "/large?urlencoded=true"))[2] == bytes(100)
        assert (await world.ask("GET", "/over?urlencoded=true"))[0] == 404
        assert (await world.ask("GET", "/k?urlencoded=true", space=OTHER))[0] == 400
        assert world.log.last == 602
        tasks.cancel_scope.cancel()
    world.service.copy.close()


async def test_a_copy_that_was_served_while_the_log_was_away_is_not_read_while_it_is_made_anew(
    tmp_path: Path,
) -> None:
    """Goal: in a restored folder whose log came late, no key is said to be absent. Method: the copy was
    served (`kv_catch_up_ms` had passed), the new log is full, and the feed has not come yet."""
    async with kv_world(tmp_path, QUICK) as world:
        await world.ask("PUT", "/k?urlencoded=true", b"v")
    world.log = MemoryKvLog("second")
    world.service = world.started()
    world.service.ready.set()
    assert (await world.ask("GET", "/k?urlencoded=true"))[2] == b"v"
    await world.service.meet()
    status, words, *_ = await world.ask("GET", "/k?urlencoded=true")
    assert (status, "not complete" in words) == (503, True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.follow)
        assert (await world.ask("GET", "/k?urlencoded=true"))[2] == b"v"
        tasks.cancel_scope.cancel()
    world.service.copy.close()


async def test_a_write_waits_until_the_log_has_been_met(tmp_path: Path) -> None:
    """Goal: while a restored copy still fills its log, which may take longer than reads wait, nobody is told
    to try again. Method: the copy is served already, a write comes, then the log has been filled."""
    async with kv_world(tmp_path) as world:
        await world.ask("PUT", "/k?urlencoded=true", b"v")
    world.log = MemoryKvLog("second")
    world.service = world.started()
    world.service.ready.set()
    told = []

    async def write() -> None:
        told.append(await world.ask("PUT", "/k?urlencoded=true", b"w"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        await anyio.wait_all_tasks_blocked()
        assert told == []
        tasks.start_soon(world.follow)
        with anyio.fail_after(5):
            while not told:
                await anyio.sleep(0.001)
        assert told[0][0] == 200
        assert (await world.ask("GET", "/k?urlencoded=true"))[2] == b"w"
        tasks.cancel_scope.cancel()
    world.service.copy.close()


async def test_a_machine_without_the_log_does_not_fill_a_new_one(tmp_path: Path) -> None:
    """Goal: of several machines one alone fills it: another's older values would be the last."""
    async with kv_world(tmp_path) as world:
        await world.ask("PUT", "/k?urlencoded=true", b"v")
    world.log = MemoryKvLog("second")
    world.service = world.started()
    world.service.holds_log = lambda: False
    with pytest.raises(Replaced):
        await world.service.meet()
    assert world.log.last == 0
    world.service.copy.close()


async def test_a_log_of_somebody_else_is_neither_followed_nor_written(tmp_path: Path) -> None:
    """Goal: two histories are never mixed; reads go on."""
    async with kv_world(tmp_path) as world:
        await world.ask("PUT", "/k?urlencoded=true", b"v")
    world.log = MemoryKvLog("second")
    await world.log.append("kv.x.y", b"")
    world.service = world.started()
    with pytest.raises(Replaced, match="remove that folder"):
        await world.service.meet()
    world.service.ready.set()
    assert (await world.ask("GET", "/k?urlencoded=true"))[2] == b"v"
    assert (await world.ask("PUT", "/k?urlencoded=true", b"w"))[0] == 503
    world.service.copy.close()


async def test_what_each_worker_does_is_counted(tmp_path: Path) -> None:
    """Goal: usage, by worker."""
    async with kv_world(tmp_path) as world:
        await world.ask("PUT", "/k?urlencoded=true", b"v", worker="one")
        await world.ask("GET", "/k?urlencoded=true", worker="two")
        keys = msgspec.json.encode({"keys": ["k", "l"]})
        await world.ask("POST", "/bulk/get", keys, worker="two")
        await world.ask("GET", "/k?urlencoded=true", worker="")
        told = msgspec.json.decode((await world.ask("GET", "/usage", space="", worker=""))[2])
        workers = told["workers"]
        assert {u["worker"]: {n: c for n, c in u["counts"].items() if c} for u in workers} == {
            "one": {"writes": 1},
            "two": {"reads": 3},
        }
        assert (await world.ask("GET", "/usage", worker="two"))[0] == 404
