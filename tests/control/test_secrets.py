"""Secrets over HTTP: kept, changed, taken away, and never shown."""

import pytest

from tests.control.world import ACCOUNT, HELLO, World, form

pytestmark = pytest.mark.anyio
S = {"name": "S", "type": "secret_text", "text": "hush-hush"}
LISTED = {"name": "S", "type": "secret_text"}


async def test_a_secret_survives_a_deploy_that_does_not_mention_it(world: World) -> None:
    """The older wrangler's plain deploy sends no keep_bindings at all."""
    await world.deploy(bindings=[S, {"name": "A", "type": "plain_text", "text": "gone"}])
    await world.deploy(code=HELLO + "//2")
    assert world.workshop.secrets == {"S": "hush-hush"}
    await world.upload(code=HELLO + "//3", keep_bindings=["secret_text", "secret_key"])
    assert world.workshop.secrets == {"S": "hush-hush"}
    settings = await world.ok("GET", "scripts/hello/settings")
    assert settings["bindings"] == [LISTED]


async def test_a_deploy_that_says_what_to_keep_keeps_nothing_else(world: World) -> None:
    """`versions secret delete` of the older wrangler depends on it."""
    await world.deploy(bindings=[S, {**S, "name": "T"}])
    await world.upload(keep_bindings=["secret_key"], bindings=[{"name": "T", "type": "inherit"}])
    assert set(world.workshop.secrets) == {"T"}


async def test_a_secret_put_makes_and_deploys_a_version(world: World) -> None:
    """PUT secrets."""
    await world.deploy()
    await world.ok("PUT", "scripts/hello/secrets", S)
    versions = world.catalog.versions(ACCOUNT, "hello")
    deployed = world.catalog.deployed(ACCOUNT, "hello")
    assert deployed is not None
    assert deployed.versions[0].version_id == versions[0].id
    assert versions[0].number == 2
    assert versions[0].annotations["workers/triggered_by"] == "secret"
    assert versions[0].modules == versions[1].modules
    assert world.workshop.secrets == {"S": "hush-hush"}
    assert await world.ok("GET", "scripts/hello/secrets") == [LISTED]
    assert await world.ok("GET", "scripts/hello/secrets/S") == LISTED


async def test_a_secret_of_an_absent_worker_is_answered_so_that_wrangler_makes_one(
    world: World,
) -> None:
    """10007, then a draft worker, then the secret."""
    assert (await world.refused("PUT", "scripts/new/secrets", S))[:2] == (404, 10007)
    await world.ok(
        "PUT",
        "scripts/new",
        files=form("export default { fetch() {} }", bindings=[], logpush=False),
    )
    await world.ok("PUT", "scripts/new/secrets", S)


async def test_secrets_are_not_changed_behind_a_version_that_waits(world: World) -> None:
    """10215: deploying the newest version is somebody's decision, not a side effect."""
    await world.deploy()
    await world.upload(code=HELLO + "//2")
    assert (await world.refused("PUT", "scripts/hello/secrets", S))[1] == 10215
    bulk = {"secrets": {"S": S}}
    assert (await world.refused("PATCH", "scripts/hello/secrets-bulk", bulk))[1] == 10215


async def test_a_secret_is_deleted_by_name_or_said_to_be_absent(world: World) -> None:
    """DELETE secrets/{name}."""
    await world.deploy(bindings=[S])
    await world.ok("DELETE", "scripts/hello/secrets/S?url_encoded=true")
    assert world.workshop.secrets == {}
    assert (await world.refused("DELETE", "scripts/hello/secrets/S"))[:2] == (404, 10056)


async def test_many_secrets_change_at_once_in_the_newer_way(world: World) -> None:
    """PATCH secrets-bulk, a merge patch; null takes away."""
    await world.deploy(bindings=[S])
    patch = {"secrets": {"N": {"name": "N", "text": "n", "type": "secret_text"}, "S": None}}
    await world.ok("PATCH", "scripts/hello/secrets-bulk", patch)
    assert world.workshop.secrets == {"N": "n"}


async def test_many_secrets_change_at_once_in_the_older_way(world: World) -> None:
    """PATCH settings with a form: name and type alone mean "keep", what is not listed goes."""
    plain = {"name": "A", "type": "plain_text", "text": "a"}
    await world.deploy(bindings=[S, {**S, "name": "GONE"}, plain])
    listed = '{"bindings":[{"type":"plain_text","name":"A"},{"type":"secret_text","name":"S"},'
    added = '{"type":"secret_text","name":"B","text":"b"}]}'
    files = [("settings", (None, (listed + added).encode(), None))]
    await world.ok("PATCH", "scripts/hello/settings", files=files)
    assert world.workshop.secrets == {"S": "hush-hush", "B": "b"}
    assert plain in (await world.ok("GET", "scripts/hello/settings"))["bindings"]


async def test_a_copy_of_the_newest_version_with_another_secret_is_not_deployed(
    world: World,
) -> None:
    """PATCH versions/latest, the newer `versions secret put`."""
    assert (await world.refused("PATCH", "workers/hello/versions/latest", {}))[1] == 10007
    await world.deploy(bindings=[S])
    patch = {
        "env": {"V": {"type": "secret_text", "text": "v"}, "S": None},
        "annotations": {"workers/message": "m"},
    }
    version = await world.ok("PATCH", "workers/hello/versions/latest", patch)
    assert version["number"] == 2
    assert version["annotations"]["workers/message"] == "m"
    assert world.workshop.secrets == {"V": "v"}
    deployed = world.catalog.deployed(ACCOUNT, "hello")
    assert deployed is not None
    assert deployed.versions[0].version_id != version["id"]


async def test_inheriting_what_is_not_there_is_refused_for_each(world: World) -> None:
    """10057, one error for each binding."""
    await world.deploy()
    bindings = [{"name": n, "type": "inherit"} for n in ("A", "B")]
    response = await world.call("POST", "scripts/hello/versions", files=form(bindings=bindings))
    errors = response.json()["errors"]
    assert [e["code"] for e in errors] == [10057, 10057]
    assert errors[0]["message"].startswith("inherit binding 'A' is invalid")


async def test_an_inherited_secret_may_change_its_name(world: World) -> None:
    """It is sealed anew: an envelope opens only under the name it was made for."""
    await world.deploy(bindings=[S])
    await world.deploy(bindings=[{"name": "T", "type": "inherit", "old_name": "S"}])
    assert world.workshop.secrets == {"T": "hush-hush", "S": "hush-hush"}


async def test_no_answer_no_record_and_no_journal_holds_a_secret(world: World) -> None:
    """Its text goes in and never comes out."""
    await world.deploy(bindings=[S])
    await world.ok("PUT", "scripts/hello/secrets", {**S, "name": "T"})
    version = world.catalog.versions(ACCOUNT, "hello")[0].id
    for path in (
        "settings",
        "secrets",
        "secrets/S",
        "versions",
        f"versions/{version}",
        "content/v2",
    ):
        assert "hush-hush" not in (await world.call("GET", f"scripts/hello/{path}")).text
    assert not any(b"hush-hush" in (e.value or b"") for e in world.log._newest.values())
    assert not any(b"hush-hush" in data for data in world.blobs.stored.values())
    assert "hush-hush" not in world.journal.getvalue()


async def test_a_secret_cannot_take_the_name_of_another_binding(world: World) -> None:
    """10053; and its own name must be one that code can use."""
    await world.deploy(bindings=[{"name": "A", "type": "plain_text", "text": "a"}])
    assert (await world.refused("PUT", "scripts/hello/secrets", {**S, "name": "A"}))[1] == 10053
    assert (await world.refused("PUT", "scripts/hello/secrets", {**S, "name": "a b"}))[1] == 10021
