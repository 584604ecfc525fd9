"""Cron triggers over HTTP: replaced as a whole, kept as they were, refused in Cloudflare's words."""

import pytest

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
