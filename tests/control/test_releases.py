"""Deployments over HTTP: splits, rollbacks, and what is refused."""

import pytest

from tests.control.world import ACCOUNT, HELLO, World

pytestmark = pytest.mark.anyio
DEPLOYMENTS = "scripts/hello/deployments"


async def three_versions(world: World) -> list[str]:
    """Deploy three versions; return their ids, oldest first."""
    for n in range(3):
        await world.deploy(code=f"{HELLO}//{n}")
    return [v.id for v in reversed(world.catalog.versions(ACCOUNT, "hello"))]


def split(*shares: tuple[str, float]) -> dict[str, object]:
    """Return what POST deployments takes."""
    versions = [{"version_id": v, "percentage": p} for v, p in shares]
    return {"strategy": "percentage", "versions": versions}


async def test_two_versions_share_the_traffic(world: World) -> None:
    """`versions deploy A@10% B@90%`."""
    first, second, _ = await three_versions(world)
    made = await world.ok("POST", DEPLOYMENTS, split((first, 10), (second, 90)))
    deployed = world.catalog.deployed(ACCOUNT, "hello")
    assert deployed is not None
    assert deployed.id == made["id"]
    assert {s.version_id: s.percentage for s in deployed.versions} == {first: 10, second: 90}
    for version in (first, second):
        assert (await world.ok("GET", f"scripts/hello/versions/{version}"))["id"] == version


async def test_a_rollback_is_one_and_stays_in_the_history(world: World) -> None:
    """The newest deployment comes first; older ones are what the next rollback chooses from."""
    first, _, third = await three_versions(world)
    wanted = {**split((first, 100)), "annotations": {"workers/message": "back"}}
    made = await world.ok("POST", DEPLOYMENTS, wanted)
    assert made["annotations"] == {"workers/message": "back", "workers/triggered_by": "rollback"}
    history = (await world.ok("GET", DEPLOYMENTS))["deployments"]
    assert [d["versions"][0]["version_id"] for d in history[:2]] == [first, third]
    assert (await world.ok("GET", f"{DEPLOYMENTS}/{made['id']}"))["id"] == made["id"]


async def test_a_rollback_over_changed_secrets_asks_first(world: World) -> None:
    """10220 names them; with force=true it is done."""
    await world.deploy(bindings=[{"name": "S", "type": "secret_text", "text": "old"}])
    old = world.catalog.versions(ACCOUNT, "hello")[0].id
    secret = {"name": "S", "type": "secret_text", "text": "new"}
    await world.ok("PUT", "scripts/hello/secrets", secret)
    await world.ok("PUT", "scripts/hello/secrets", {**secret, "name": "T"})
    _, code, text = await world.refused("POST", DEPLOYMENTS, split((old, 100)))
    assert code == 10220
    assert text.endswith("The following secrets have changed: S, T")
    await world.ok("POST", f"{DEPLOYMENTS}?force=true", split((old, 100)))


async def test_deployments_that_make_no_sense_are_refused(world: World) -> None:
    """Too many versions, wrong sums, unknown or repeated versions."""
    first, second, third = await three_versions(world)
    for wanted, expected in (
        (split(), "one or two versions"),
        (split((first, 30), (second, 30), (third, 40)), "one or two versions"),
        (split((first, 50), (second, 40)), "add up to 90"),
        (split((first, 50), (first, 50)), "once"),
        (split((first, 150), (second, -50)), "between 0 and 100"),
        ({**split((first, 100)), "strategy": "hope"}, "not known"),
        ({}, "must be an array"),
    ):
        status, code, text = await world.refused("POST", DEPLOYMENTS, wanted)
        assert (status, code) == (400, 10021)
        assert expected in text
    absent = await world.refused("POST", DEPLOYMENTS, split(("no-such-version", 100)))
    assert absent[:2] == (404, 10222)
