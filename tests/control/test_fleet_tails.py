"""Tails across machines: made here, watched there, fed by all; whatever dies in between."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import msgspec
import pytest

from kythera.control.app import build_events_app
from kythera.control.store import put
from kythera.control.tail_relay import WAITING_BYTES_MAX, About, Queue
from kythera.control.tails import LEFT_IDLES, _expired, sweep
from kythera.model.errors import Conflict
from kythera.model.records import Machine, Tail
from kythera.run.targets import targets
from tests.control.fleets import QUICK, Machines, Member, machines
from tests.control.test_tails import event, happen, made, path_of, watching
from tests.control.world import ACCOUNT

pytestmark = pytest.mark.anyio
HOUR_S = 3_600.0


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Machines]:
    """Return three machines, and a worker."""
    async with machines(tmp_path) as made_here:
        await made_here["a"].deploy()
        yield made_here


def records(member: Member) -> list[Tail]:
    """Return the tails of the worker as a machine sees them."""
    return member.catalog.tails(ACCOUNT, "hello")


async def until(holds: Any) -> None:
    """Wait until something holds."""
    with anyio.fail_after(5):
        while not holds():
            await anyio.sleep(0.002)


async def test_a_watcher_sees_what_all_machines_serve(fleet: Machines) -> None:
    """Events of every machine's cells, filtered as asked; once each, passed on no further."""
    tail = await made(fleet["a"], {"outcome": ["exception"]})
    assert [record.machine for record in records(fleet["c"])] == ["a"]
    async with watching(fleet["a"], path_of(tail)) as watcher:
        for member in fleet.all.values():
            url = {"url": f"http://{member.name}/", "method": "GET", "headers": {}}
            await happen(member, event(), event("exception", event={"request": url}))
        await watcher.wait(4)
        urls = sorted(frame["event"]["request"]["url"] for frame in watcher.frames)
        assert urls == ["http://a/", "http://b/", "http://c/"]
    sent = [call for call in fleet.network.calls if call[2].startswith("/events")]
    assert sorted(call[:2] for call in sent) == [("b", "a"), ("c", "a")]
    assert sum(fleet["b"].services.fleet.relay.lost.values()) == 0


async def test_a_tail_made_here_may_be_connected_there(fleet: Machines) -> None:
    """A load balancer chose another machine: the record follows the watcher."""
    tail = await made(fleet["a"])
    fleet["b"].copy.stopped_at = fleet.log._last - 2
    async with anyio.create_task_group() as tasks:

        async def catch_up() -> None:
            await anyio.sleep(0.05)
            fleet["b"].copy.stopped_at = None

        tasks.start_soon(catch_up)
        async with watching(fleet["b"], path_of(tail)) as watcher:
            await until(lambda: [record.machine for record in records(fleet["a"])] == ["b"])
            await happen(fleet["a"], event("from a"))
            await happen(fleet["b"], event("from b"))
            await watcher.wait(3)
            assert sorted(frame["outcome"] for frame in watcher.frames) == ["from a", "from b"]
    assert records(fleet["a"]) == []


async def test_the_newest_connection_has_the_tail(fleet: Machines) -> None:
    """A connection left half open elsewhere neither takes the tail back nor ends it."""
    short = msgspec.structs.replace(fleet["a"].services.platform.limits, tail_idle_s=0.3)
    for member in fleet.all.values():
        platform = msgspec.structs.replace(member.services.platform, limits=short)
        object.__setattr__(member.services, "platform", platform)
    tail = await made(fleet["a"])
    async with watching(fleet["a"], path_of(tail)) as old:
        async with watching(fleet["b"], path_of(tail)):
            await old.wait(2)
            assert old.said[-1]["type"] == "websocket.close"
            assert [record.machine for record in records(fleet["a"])] == ["b"]
    assert records(fleet["a"]) == []


async def test_a_dead_watchers_machine_delays_nobody(tmp_path: Path) -> None:
    """However long it is waited for, another watcher's events arrive."""
    patient = msgspec.structs.replace(QUICK, peer_answer_ms=60_000)
    async with machines(tmp_path, limits=patient) as fleet:
        await fleet["a"].deploy()
        await made(fleet["b"])
        fleet.network.hung.add("b")
        await happen(fleet["a"], event())
        await until(lambda: ("a", "b") in [call[:2] for call in fleet.network.calls])
        living = await made(fleet["c"])
        async with watching(fleet["c"], path_of(living)) as watcher:
            for _ in range(3):
                await happen(fleet["a"], event())
            await watcher.wait(4)


@pytest.mark.parametrize("trouble", ["hung", "cut"])
async def test_events_for_a_machine_that_cannot_be_reached_are_lost_and_counted(
    fleet: Machines, trouble: str
) -> None:
    """What waits with them too: a tail is something to look at, and late is of no use."""
    await made(fleet["b"])
    getattr(fleet.network, trouble).add("b")
    for _ in range(3):
        await happen(fleet["a"], event())
    lost = fleet["a"].services.fleet.relay.lost
    await until(lambda: lost["unreachable"] == 3)
    assert "tail_events_lost" in fleet["a"].journal.getvalue()


async def test_what_waits_for_a_machine_is_bounded(fleet: Machines) -> None:
    """A flood towards a hanging machine costs a few megabytes, and each loss has a reason."""
    await made(fleet["b"])
    fleet.network.hung.add("b")
    a = fleet["a"]
    large = event(logs=[{"level": "log", "message": ["x" * 200_000], "timestamp": 1}])
    for _ in range(40):
        a.clock.time += 1
        await happen(a, large)
    assert a.services.fleet.relay.lost["queue_full"] > 0
    for _ in range(3):
        await happen(a, *[event() for _ in range(100)])
    assert a.services.fleet.relay.lost["flood"] > 0
    queue = Queue(Machine(name="b"))
    about = About(ACCOUNT, "hello", "v")
    while queue.put(about, b"x" * 1_000):
        pass
    assert WAITING_BYTES_MAX - 1_000 < queue._bytes <= WAITING_BYTES_MAX


async def test_events_travel_together_but_not_without_limit(fleet: Machines) -> None:
    """Those of one version in one request; the order is kept."""
    queue = Queue(Machine(name="b"))
    one, two = About(ACCOUNT, "hello", "1"), About(ACCOUNT, "hello", "2")
    for about, text in ((one, b"aa"), (one, b"bb"), (one, b"cc"), (two, b"dd"), (one, b"ee")):
        assert queue.put(about, text)
    taken = []
    while len(queue):
        taken.append(queue.take(bytes_max=5))
    assert taken == [(one, [b"aa", b"bb"]), (one, [b"cc"]), (two, [b"dd"]), (one, [b"ee"])]


async def test_a_machine_that_nobody_watches_any_more_is_told_nothing_new(
    fleet: Machines,
) -> None:
    """It answers 404; that is counted, and no event is kept for it."""
    await made(fleet["b"])
    await happen(fleet["a"], event())
    lost = fleet["a"].services.fleet.relay.lost
    await until(lambda: lost["nobody_watches"] == 1)


async def test_clocks_hours_apart_neither_end_nor_prolong_a_tail(fleet: Machines) -> None:
    """Others go by how long it was not renewed, on their own monotonic clock."""
    fleet["b"].clock.time += 5 * HOUR_S
    fleet["c"].clock.time -= 5 * HOUR_S
    await made(fleet["a"])
    for name in "bc":
        assert await sweep(fleet[name].services) == 0
        assert len(records(fleet[name])) == 1
        now = "2031-01-01T00:00:00.000000Z"
        observed = targets(fleet[name].catalog, now, name)[(ACCOUNT, "hello")]
        assert all(want.observed for want in observed.values())
    idle_s = fleet["a"].services.platform.limits.tail_idle_s
    fleet["b"].clock.time += LEFT_IDLES * idle_s - 1
    assert await sweep(fleet["b"].services) == 0
    fleet["b"].clock.time += 1
    assert await sweep(fleet["b"].services) == 1
    assert records(fleet["a"]) == []


async def test_a_clock_that_is_put_back_leaves_no_tail_for_hours(fleet: Machines) -> None:
    """Its own tails of the wrong hour go too, but for those somebody is connected to."""
    a = fleet["a"]
    a.clock.time += 5 * HOUR_S
    await made(a)
    watched = await made(a)
    async with watching(a, path_of(watched)):
        await sweep(a.services)
        idle_s = a.services.platform.limits.tail_idle_s
        ages = a.services.fleet.tail_ages
        ages._seen = {k: (seq, at - LEFT_IDLES * idle_s) for k, (seq, at) in ages._seen.items()}
        assert await sweep(a.services) == 1
        assert [tail.id for tail in records(a)] == [watched["id"]]


async def test_a_clock_hours_ahead_may_connect_to_a_tail_and_count_it(fleet: Machines) -> None:
    """Expiries are believed where they were written alone."""
    tail = await made(fleet["a"])
    b = fleet["b"]
    b.clock.time += 5 * HOUR_S
    async with watching(b, path_of(tail)) as watcher:
        assert watcher.said[0]["type"] == "websocket.accept"
    b.clock.time += 5 * HOUR_S
    for _ in range(b.services.platform.limits.tails_per_worker_max):
        await made(fleet["a"])
    assert (await b.refused("POST", "scripts/hello/tails", {"filters": []}))[0] == 429


async def test_a_tail_renewed_after_it_was_looked_at_is_not_ended(fleet: Machines) -> None:
    """The end holds over the record that was looked at alone, whatever was read since."""
    await made(fleet["a"])
    b = fleet["b"].services
    await sweep(b)
    fleet["b"].clock.time += LEFT_IDLES * b.platform.limits.tail_idle_s
    ends = _expired(b)
    assert len(ends) == 1
    record = records(fleet["a"])[0]
    later = msgspec.structs.replace(record, expires_on="2999-01-01T00:00:00.000000Z")
    await fleet["a"].services.store.write([put(later)])
    b.store.catalog()
    with pytest.raises(Conflict):
        await b.store.write(ends)


async def test_machines_that_sweep_at_once_do_not_disturb_each_other(fleet: Machines) -> None:
    """The first end holds; who looked at an older record ends nothing."""
    await made(fleet["a"])
    idle_s = fleet["a"].services.platform.limits.tail_idle_s
    for name in "bc":
        await sweep(fleet[name].services)
        fleet[name].clock.time += LEFT_IDLES * idle_s
    fleet["c"].copy.stopped_at = fleet.log._last
    assert await sweep(fleet["b"].services) == 1
    assert await sweep(fleet["c"].services) == 0
    fleet["c"].copy.stopped_at = None
    renewed = await made(fleet["a"])
    record = records(fleet["a"])[0]
    await sweep(fleet["b"].services)
    fleet["b"].clock.time += LEFT_IDLES * idle_s
    later = msgspec.structs.replace(record, expires_on="2999-01-01T00:00:00.000000Z")
    await fleet["a"].services.store.write([put(later)])
    assert await sweep(fleet["b"].services) == 0
    assert [tail.id for tail in records(fleet["b"])] == [renewed["id"]]


async def test_a_tail_can_be_ended_from_any_machine(fleet: Machines) -> None:
    """DELETE on another machine than it was made on."""
    tail = await made(fleet["a"])
    await fleet["c"].ok("DELETE", f"scripts/hello/tails/{tail['id']}")
    assert records(fleet["a"]) == []


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[1,null,{}]", b"[" * 9999])
async def test_another_machine_may_send_nonsense(fleet: Machines, body: bytes) -> None:
    """It is refused or passed over; the watcher's socket lives."""
    tail = await made(fleet["a"])
    async with watching(fleet["a"], path_of(tail)) as watcher:
        transport = httpx.ASGITransport(fleet["a"].peers_app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            response = await client.post(f"/events/{ACCOUNT}/hello/v", content=body)
            assert response.status_code in (204, 400)
        await happen(fleet["b"], event("after"))
        await until(lambda: any(frame.get("outcome") == "after" for frame in watcher.frames))


async def test_cells_may_send_nonsense_for_watchers_elsewhere(fleet: Machines) -> None:
    """What is no event is not sent on."""
    await made(fleet["b"], {"query": "x"})
    transport = httpx.ASGITransport(build_events_app(fleet["a"].services))
    async with httpx.AsyncClient(transport=transport, base_url="http://tail") as client:
        for body in (b"{", b"null", b'[1,{"logs":2}]', b"[" * 9999):
            response = await client.post(f"/{ACCOUNT}/hello/v", content=body)
            assert response.status_code in (204, 400)
    assert not [call for call in fleet.network.calls if call[2].startswith("/events")]
