"""One platform, whichever machine is asked: reads show what was acknowledged anywhere, writes are
decided on what is true now, and without the log each machine answers from its copy and says so.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from kythera.control.freshness import RETRY_S
from kythera.control.store import end, put, replaced
from kythera.model.errors import StoreUnavailable
from kythera.model.records import Heartbeat
from tests.control.fleets import Machines, Member, machines
from tests.control.world import ACCOUNT, World

pytestmark = pytest.mark.anyio


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Machines]:
    """Return three machines."""
    async with machines(tmp_path) as made:
        yield made


async def names(member: Member) -> list[str]:
    """Return the workers that a machine lists."""
    return [script["id"] for script in await member.ok("GET", "scripts")]


def lag(member: Member) -> None:
    """Let a machine's copy stand still."""
    member.copy.stopped_at = member.log._last


async def catch_up_later(member: Member, after_s: float = 0.05) -> None:
    """Let a copy go on in a moment."""
    await anyio.sleep(after_s)
    member.copy.stopped_at = None


async def test_what_one_machine_acknowledged_every_machine_shows(fleet: Machines) -> None:
    """A copy that lags is waited for: deploy on a, then list, read and roll back on b."""
    lag(fleet["b"])
    await fleet["a"].deploy("one")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(catch_up_later, fleet["b"])
        assert await names(fleet["b"]) == ["one"]
    lag(fleet["b"])
    second = await fleet["a"].upload("one")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(catch_up_later, fleet["b"])
        deployment = {
            "strategy": "percentage",
            "versions": [{"version_id": second["id"], "percentage": 100}],
        }
        await fleet["b"].ok("POST", "scripts/one/deployments", deployment)
    deployed = fleet["a"].catalog.deployed(ACCOUNT, "one")
    assert deployed is not None
    assert deployed.versions[0].version_id == second["id"]


async def test_a_copy_that_does_not_follow_answers_in_time_and_says_how_old_it_is(
    fleet: Machines,
) -> None:
    """In a message, in a header; the next calls do not wait as long."""
    store = fleet["a"].services.store
    await store.write([put(Heartbeat(machine="a", number=1, at_ms=1_795_000_000_123))])
    lag(fleet["b"])
    await fleet["a"].deploy("one")
    with anyio.fail_after(2):
        response = await fleet["b"].call("GET", "scripts")
    assert response.json()["result"] == []
    told = response.json()["messages"][0]["message"]
    assert "4 records behind the log, as of 2026-11-18T" in told
    assert response.headers["kythera-stale"] == told
    fleet["b"].copy.stopped_at = None
    response = await fleet["b"].call("GET", "scripts")
    assert len(response.json()["result"]) == 1
    assert response.json()["messages"] == []
    assert "kythera-stale" not in response.headers


async def test_without_the_log_reads_go_on_and_only_the_first_waits(
    fleet: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fail static: a core that hangs makes no operator wait for each answer."""
    monkeypatch.setattr("kythera.control.freshness.AWAY_MS", 1)
    b = fleet["b"]
    await fleet["a"].deploy("one")
    fleet.log.pause()
    response = await b.call("GET", "scripts")
    assert [script["id"] for script in response.json()["result"]] == ["one"]
    assert "log cannot be reached" in response.json()["messages"][0]["message"]
    with anyio.fail_after(0.25):  # less than one full wait
        for _ in range(5):
            assert (await b.call("GET", "scripts")).json()["messages"]
    b.clock.time += RETRY_S
    fleet.log.resume()
    assert (await b.call("GET", "scripts")).json()["messages"] == []


async def test_a_machine_alone_never_asks_the_log_for_a_read(world: World) -> None:
    """Its own copy shows all that anybody wrote."""
    await world.deploy()
    world.log.pause()
    with anyio.fail_after(0.1):
        assert (await world.call("GET", "scripts")).json()["messages"] == []


async def test_a_machine_that_is_not_whole_or_was_removed_does_not_pretend(fleet: Machines) -> None:
    """It would deny workers that are there."""
    await fleet["a"].deploy("one")
    b = fleet["b"]
    b.copy.whole = False
    object.__setattr__(b.services.fleet, "joined", True)
    response = await b.call("GET", "scripts/one/versions")
    assert response.status_code == 503
    assert "not whole yet" in response.json()["errors"][0]["message"]
    assert (await b.call("GET", "/client/v4/user")).status_code == 200
    b.copy.whole = True
    assert (await b.call("GET", "scripts/one/versions")).status_code == 200
    store = fleet["a"].services.store
    store.catalog()
    await store.write([end("machine.b")])
    response = await b.call("GET", "scripts/one/versions")
    assert "it was removed" in response.json()["errors"][0]["message"]


async def test_two_machines_that_write_at_once_both_get_their_numbers(fleet: Machines) -> None:
    """Whoever comes second decides again on what the first wrote, though its copy lags."""
    await fleet["a"].deploy("one")
    lag(fleet["b"])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fleet["a"].upload, "one")
        tasks.start_soon(fleet["b"].upload, "one")
        tasks.start_soon(fleet["c"].upload, "one")
        tasks.start_soon(catch_up_later, fleet["b"])
    versions = fleet["c"].catalog.versions(ACCOUNT, "one")
    assert [version.number for version in versions] == [4, 3, 2, 1]
    worker = fleet["b"].catalog.worker(ACCOUNT, "one")
    assert worker is not None
    assert worker.versions_made == 4
    tried = [len(member.workshop.tried) for member in fleet.all.values()]
    assert tried == [2, 1, 1], "code that was tried is not tried again for having been overtaken"


async def test_a_write_over_what_this_copy_cannot_see_is_refused_in_words(fleet: Machines) -> None:
    """The copy stands still: nothing is overwritten, and it says that nothing was written."""
    await fleet["a"].deploy("one")
    b = fleet["b"]
    before = b.catalog.worker(ACCOUNT, "one")
    assert before is not None
    lag(b)
    await fleet["a"].upload("one")

    async def change() -> None:
        await b.services.store.write([replaced(before, logpush=True)])

    with pytest.raises(StoreUnavailable, match=r"It was not written.*3 records behind"):
        await b.services.store.settled("worker one", change)
    after = fleet["a"].catalog.worker(ACCOUNT, "one")
    assert after is not None
    assert not after.logpush


async def test_health_can_be_asked_for_reads_alone(fleet: Machines) -> None:
    """A machine without the log serves; without a copy it does not."""
    fleet.log.pause()
    b = fleet["b"]
    assert (await b.call("GET", "/healthz?reads")).status_code == 200
    b.copy.absent = True
    assert (await b.call("GET", "/healthz?reads")).status_code == 503
