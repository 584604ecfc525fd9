"""Workers that stand for bindings which the platform does not offer."""

import pytest

from kythera.deploy.bindings_mapped import read_mapped
from kythera.model.records import Resource
from tests.control.tokens import bearer, is_forbidden, logs, token
from tests.control.world import ACCOUNT, ROOT, World, form

pytestmark = pytest.mark.anyio
MAP = f"{ROOT}/accounts/{ACCOUNT}/kythera/bindings"
VECTORS = {"name": "V", "type": "vectorize", "index_name": "words"}


async def test_a_mapped_binding_is_one_to_the_worker_and_shown_as_it_was_uploaded(
    world: World,
) -> None:
    """Goal: what the upload says becomes props; the API shows the binding that was asked for; the
    worker cannot be deleted meanwhile."""
    await world.deploy("index")
    made = await world.ok("PUT", f"{MAP}/vectorize", {"service": "index"})
    assert (made["type"], made["service"], made["workers"]) == ("vectorize", "index", [])
    await world.deploy("shop", bindings=[VECTORS])
    (version,) = world.catalog.versions(ACCOUNT, "shop")
    (binding,) = version.bindings
    assert (binding.type, binding.fields["service"]) == ("service", "index")
    assert binding.fields["props"] == VECTORS
    (shown,) = (await world.ok("GET", "scripts/shop/settings"))["bindings"]
    assert shown == VECTORS
    assert (await world.ok("GET", MAP))[0]["workers"] == ["shop"]
    assert (await world.refused("DELETE", "services/index"))[1] == 10064


async def test_a_bare_mapped_binding_is_kept_as_it_is(world: World) -> None:
    """Goal: the older wrangler's `secret bulk` and `keep_bindings` name it by the type it came with."""
    await world.deploy("index")
    await world.ok("PUT", f"{MAP}/vectorize", {"service": "index"})
    await world.deploy("shop", bindings=[VECTORS])
    await world.ok("DELETE", f"{MAP}/vectorize")
    bare = {"bindings": [{"name": "V", "type": "vectorize"}]}
    assert (await world.ok("PATCH", "scripts/shop/settings", bare))["bindings"] == [VECTORS]
    await world.deploy("shop", keep_bindings=["vectorize"])
    assert (await world.ok("GET", "scripts/shop/settings"))["bindings"] == [VECTORS]


async def test_what_is_mapped_can_be_changed_and_taken_away(world: World) -> None:
    """Goal: another worker for later uploads; after DELETE uploads are refused, with the command."""
    await world.deploy("one")
    await world.deploy("two")
    for name in ("one", "two"):
        await world.ok("PUT", f"{MAP}/ai", {"service": name})
        await world.deploy(f"with-{name}", bindings=[{"name": "AI", "type": "ai"}])
        (version,) = world.catalog.versions(ACCOUNT, f"with-{name}")
        assert version.bindings[0].fields["service"] == name
    assert (await world.ok("DELETE", f"{MAP}/ai"))["workers"] == ["with-one", "with-two"]
    assert await world.ok("GET", MAP) == []
    refused = await world.refused(
        "PUT", "scripts/x", files=form(bindings=[{"name": "AI", "type": "ai"}])
    )
    assert "kythera binding map ai WORKER" in refused[2]
    assert (await world.refused("DELETE", f"{MAP}/ai"))[0] == 404


@pytest.mark.parametrize("kind", ["kv_namespace", "inherit", "workflow", "A-B", "x" * 64, "a.b"])
async def test_only_what_is_not_offered_is_mapped(world: World, kind: str) -> None:
    """Goal: no worker comes between a worker and what the platform has, or will have, itself."""
    await world.deploy("index")
    await world.refused("PUT", f"{MAP}/{kind}", {"service": "index"})


async def test_what_is_mapped_to_is_there(world: World) -> None:
    """Goal: a worker and an entry point that nobody has are told at once, not by the first visitor."""
    await world.deploy("index")
    for body in ({}, {"service": "nobody"}, {"service": "a~b"}, {"service": 1}):
        await world.refused("PUT", f"{MAP}/ai", body)
    refused = await world.refused("PUT", f"{MAP}/ai", {"service": "index", "entrypoint": "No"})
    assert "has no entry point 'No'" in refused[2]


async def test_only_an_administrator_maps_and_the_audit_tells(world: World) -> None:
    """Goal: who may deploy cannot redirect all others' bindings; who did is known."""
    await world.deploy("index")
    text = await token(world, "deploy")
    answer = await world.call("PUT", f"{MAP}/ai", {"service": "index"}, headers=bearer(text))
    assert is_forbidden(answer), answer.text
    await world.ok("PUT", f"{MAP}/ai", {"service": "index"})
    await world.ok("DELETE", f"{MAP}/ai")
    told = [(each["action"]["type"], each["resource"]["id"]) for each in await logs(world)]
    assert told[-2:] == [
        ("map binding", "mapped binding ai"),
        ("unmap binding", "mapped binding ai"),
    ]


def test_props_are_what_the_upload_said() -> None:
    """Goal: a worker that stands for several types is told which, and under which name."""
    mapping = Resource(
        account=ACCOUNT,
        type="mapped_binding",
        id="ai",
        name="ai",
        created_on="",
        fields={"service": "index", "entrypoint": "E"},
    )
    read = read_mapped("AI", "ai", {"name": "AI", "type": "ai", "x": 1}, mapping, None)
    assert read.fields == {
        "service": "index",
        "entrypoint": "E",
        "props": {"name": "AI", "type": "ai", "x": 1},
        "mapped": "ai",
    }
