"""Cron triggers over HTTP: replaced as a whole, kept as they were, refused in Cloudflare's words."""

import dataclasses

import anyio
import msgspec
import pytest

from kythera.control.cron import CronLoop
from tests.control.world import ACCOUNT, ROOT, World

pytestmark = pytest.mark.anyio
KYTHERA = f"{ROOT}/accounts/{ACCOUNT}/kythera"


async def test_triggers_are_replaced_as_a_whole(world: World) -> None:
    """Goal: what stays keeps its date, the same again writes nothing, none is fine."""
    await world.deploy()
    wanted = [{"cron": "*/5 * * * *"}, {"cron": "0 0 L * *"}]
    told = await world.ok("PUT", "scripts/hello/schedules", wanted)
    assert [each["cron"] for each in told["schedules"]] == ["*/5 * * * *", "0 0 L * *"]
    before = world.stored()
    await world.ok("PUT", "scripts/hello/schedules", wanted)
    assert world.stored() == before
    await world.ok("PUT", "scripts/hello/schedules", [{"cron": "0 0 L * *"}])
    (kept,) = (await world.ok("GET", "scripts/hello/schedules"))["schedules"]
    assert kept == told["schedules"][1]
    (shown,) = await world.ok("GET", f"{KYTHERA}/cron")
    assert (shown["worker"], shown["cron"], shown["runs"]) == ("hello", "0 0 L * *", 0)
    await world.ok("PUT", "scripts/hello/schedules", [])
    assert await world.ok("GET", f"{KYTHERA}/cron") == []


@pytest.mark.parametrize(
    ("document", "code", "said"),
    [
        ([{"cron": "0 0 * * 0"}], 10100, "day of the week: not in 1-7"),
        ([{"cron": "* * * * *"}, {"cron": "x"}], 10100, "1 fields, not 5"),
        ([{"cron": 5}], 10021, "cron"),
        ([5], 10021, "a schedule"),
        ("* * * * *", 10021, "the schedules"),
    ],
)
async def test_what_is_wrong_is_refused(
    world: World, document: object, code: int, said: str
) -> None:
    """Goal: the code of Cloudflare's, the expression and what is wrong; nothing is stored."""
    await world.deploy()
    refused = await world.refused("PUT", "scripts/hello/schedules", document)
    assert refused[1] == code
    assert said in refused[2]
    assert (await world.ok("GET", "scripts/hello/schedules"))["schedules"] == []


async def test_an_account_has_so_many_triggers(world: World) -> None:
    """Goal: the limit is of all workers together, and it is named."""
    await world.deploy("first")
    await world.deploy("second")
    many = [{"cron": f"{minute} {hour} * * *"} for hour in range(5) for minute in range(50)]
    await world.ok("PUT", "scripts/first/schedules", many)
    refused = await world.refused("PUT", "scripts/second/schedules", [{"cron": "* * * * *"}])
    assert "cron_triggers_max" in refused[2]


async def test_a_worker_goes_with_its_triggers(world: World) -> None:
    """Goal: nothing of a deleted worker is called."""
    await world.deploy()
    await world.ok("PUT", "scripts/hello/schedules", [{"cron": "* * * * *"}])
    await world.ok("DELETE", "services/hello?force=true")
    assert world.catalog.all_schedules() == []


async def test_a_call_that_cannot_be_made_says_so(world: World) -> None:
    """Goal: without an agent the outcome is `notCalled`; a bad expression is refused."""
    await world.deploy()
    told = await world.ok("POST", f"{KYTHERA}/cron/hello", {})
    assert (told["outcome"], told["cron"]) == ("notCalled", "* * * * *")
    assert (await world.refused("POST", f"{KYTHERA}/cron/hello", {"cron": "1"}))[1] == 10100
    assert (await world.refused("POST", f"{KYTHERA}/cron/absent", {}))[1] == 10007


async def test_what_is_due_is_called_once_whoever_looks(world: World) -> None:
    """Goal: of two machines over one log one calls; the next minute it is called again; a
    call that was cut off is made again by the next life."""
    await world.deploy()
    made: list[int] = []
    hold = anyio.Event()

    async def called(worker: str, cron: str, at_ms: int) -> tuple[str, str]:
        made.append(at_ms // 1000)
        await hold.wait()
        return "ok", ""

    minute = int(world.clock.time) // 60 * 60
    world.clock.time = minute + 5.0
    await world.ok("PUT", "scripts/hello/schedules", [{"cron": "* * * * *"}])
    elsewhere = msgspec.structs.replace(world.services.platform, machine="elsewhere")
    here = CronLoop(world.services, called)
    there = CronLoop(dataclasses.replace(world.services, platform=elsewhere), called)
    async with anyio.create_task_group() as tasks:
        await here.look(tasks)
        assert made == []
        world.clock.time = minute + 60.5
        for loop in (here, there, here):
            await loop.look(tasks)
        await anyio.wait_all_tasks_blocked()
        assert made == [minute + 60]
        next_life = CronLoop(world.services, called)
        await next_life.look(tasks)
        await anyio.wait_all_tasks_blocked()
        assert made == [minute + 60] * 2
        hold.set()
    world.clock.time = minute + 120.0
    async with anyio.create_task_group() as tasks:
        await there.look(tasks)
        await next_life.look(tasks)
    assert made == [minute + 60] * 2 + [minute + 120]
    (shown,) = await world.ok("GET", f"{KYTHERA}/cron")
    assert (shown["failed"], shown["under_way"]) == (0, 0)
    assert shown["last"][0]["outcome"] == "ok"
