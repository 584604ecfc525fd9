"""KV's log: what the real one and the one in memory both promise, and what only the real one can lose."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from kythera.distribute.feed import Arrived
from kythera.distribute.jetstream import _Fixed
from kythera.distribute.kv_log import KvLog, LogFull, Replaced, open_kv_log, use_kv_stream
from kythera.distribute.link import Link
from kythera.distribute.stream import LogMoving
from kythera.model.limits import Limits
from tests.distribute.servers import Server, serving
from tests.kv_worlds import MemoryKvLog

pytestmark = pytest.mark.anyio
LIMITS = Limits()
Log = KvLog | MemoryKvLog


@asynccontextmanager
async def real(path: Path, limits: Limits = LIMITS) -> AsyncIterator[tuple[KvLog, Server]]:
    """Return a log on a nats-server of its own."""
    async with serving(path / "state", limits) as server:
        async with open_kv_log(_Fixed(server.layout.log_address), limits) as log:
            yield log, server


@pytest.fixture(params=["memory", pytest.param("real", marks=pytest.mark.real)])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Log]:
    """Return each of both."""
    if request.param == "memory":
        yield MemoryKvLog()
        return
    async with real(tmp_path) as (found, _):
        yield found


async def come(log: Log, after: int, source: str = "") -> list[Arrived]:
    """Return all that comes until the log is in step."""
    messages: list[Arrived] = []
    with anyio.fail_after(10):
        feed = log.follow(lambda: (source, after))
        async for each in feed:
            messages += each.messages
            if each.in_step:
                await feed.aclose()
                return messages
    raise AssertionError("it never ends")


async def test_a_follower_gets_the_newest_of_each_subject_in_order(log: Log) -> None:
    """Goal: one order, no gap; older values are left out."""
    assert (await log.stream()).last_seq == 0
    seqs = [await log.append(f"kv.a.{name}", name.encode()) for name in "xyxz"]
    assert seqs == [1, 2, 3, 4]
    found = await come(log, 0)
    assert [(m.seq, m.subject, m.data) for m in found] == [
        (2, "kv.a.y", b"y"),
        (3, "kv.a.x", b"x"),
        (4, "kv.a.z", b"z"),
    ]
    assert [m.seq for m in await come(log, 3)] == [4]
    assert await come(log, 4) == []


async def test_what_is_purged_is_forgotten_and_the_numbers_go_on(log: Log) -> None:
    """Goal: a namespace's keys go, others' stay; a follower behind it is in step all the same."""
    for subject in ("kv.b.x", "kv.a.x", "kv.a.y"):
        await log.append(subject, b"v", 3600)
    await log.purge("kv.a.>")
    assert [m.subject for m in await come(log, 0)] == ["kv.b.x"]
    assert await come(log, 1) == []
    assert await log.append("kv.a.x", b"v") == 4


async def test_another_stream_is_not_followed(log: Log) -> None:
    """Goal: a copy of one history never takes another."""
    await log.append("kv.a.x", b"v")
    created = (await log.stream()).created
    assert len(await come(log, 0, created)) == 1
    with pytest.raises(Replaced):
        await come(log, 0, "another")
    with pytest.raises(Replaced):
        await come(log, 7, created)


async def test_a_log_on_several_machines_is_refused_by_name() -> None:
    """Goal: no stream is made there that would stay behind when the log moves on."""
    client = SimpleNamespace(_server_info={"cluster": "kythera-2"})
    with pytest.raises(LogMoving, match="several machines"):
        await use_kv_stream(Link(cast("Any", client)), LIMITS)


@pytest.mark.real
async def test_a_write_outlives_the_servers_death_and_is_made_once(tmp_path: Path) -> None:
    """Goal: acknowledged means kept; a write under way is finished when the server is back."""
    async with real(tmp_path) as (log, server):
        for number in range(20):
            await log.append(f"kv.a.{number}", b"v")
        await server.kill()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(log.append, "kv.a.late", b"v")
            await anyio.sleep(0.1)  # it waits for a server
            await server.start()
        assert len(await come(log, 0)) == 21


@pytest.mark.real
async def test_what_has_a_life_is_forgotten_by_the_server(tmp_path: Path) -> None:
    """Goal: expired keys take no room in the log."""
    async with real(tmp_path) as (log, _):
        await log.append("kv.a.short", b"v", 1)
        await log.append("kv.a.long", b"v", 3600)
        with anyio.fail_after(20):
            while len(await come(log, 0)) > 1:
                await anyio.sleep(0.1)


@pytest.mark.real
async def test_a_full_log_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    """Goal: no key is dropped for another one; a deletion makes room."""
    limits = Limits(kv_log_bytes_max=20_000)
    async with real(tmp_path, limits) as (log, _):
        await log.append("kv.a.1", bytes(9_000))
        await log.append("kv.a.2", bytes(9_000))
        with pytest.raises(LogFull, match="kv_log_bytes_max"):
            await log.append("kv.a.3", bytes(9_000))
        assert len(await come(log, 0)) == 2
