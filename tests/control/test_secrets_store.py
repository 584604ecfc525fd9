"""The secrets store's API: texts go in and never come out."""

import json
from typing import Any

import pytest

from kythera.deploy.shared_secrets import SECRET, opened
from kythera.model.envelope import keys_used
from kythera.model.records import encode
from tests.control.tokens import bearer, token
from tests.control.world import ACCOUNT, ROOT, World

pytestmark = pytest.mark.anyio
STORES = f"{ROOT}/accounts/{ACCOUNT}/secrets_store/stores"
TEXT = "a text nobody may see"


async def store_with(world: World, *names: str) -> tuple[str, list[dict[str, Any]]]:
    """Make a store with secrets; return its id, and theirs."""
    store = await world.ok("POST", STORES, {"name": "main"})
    entries = [{"name": name, "value": TEXT, "scopes": ["workers"]} for name in names]
    made = await world.ok("POST", f"{STORES}/{store['id']}/secrets", entries) if names else []
    return store["id"], made


def bound(store: str, name: str = "KEY") -> dict[str, Any]:
    """Return a binding to a secret."""
    return {
        "type": "secrets_store_secret",
        "name": "SECRET",
        "store_id": store,
        "secret_name": name,
    }


async def test_a_secret_is_kept_sealed_and_never_shown(world: World) -> None:
    """Goal: its text is in no answer, no record, no journal; it opens where it was sealed for."""
    store, (made,) = await store_with(world, "KEY")
    path = f"{STORES}/{store}/secrets"
    shown = [made, await world.ok("GET", path), await world.ok("GET", f"{path}/{made['id']}")]
    await world.ok("PATCH", f"{path}/{made['id']}", {"value": f"{TEXT} 2", "comment": "new"})
    copy = await world.ok("POST", f"{path}/{made['id']}/duplicate", {"name": "COPY", "scopes": []})
    records = world.catalog.resources(ACCOUNT, SECRET)
    assert [opened(record, world.services.seals) for record in records] == [f"{TEXT} 2"] * 2
    assert all(keys_used(record) for record in records)
    everything = [json.dumps([*shown, copy]), world.journal.getvalue()]
    everything += [encode(record).decode() for record in world.catalog.records.values()]
    assert not any(TEXT in text for text in everything)
    assert (made["status"], made["scopes"], made["store_id"]) == ("active", ["workers"], store)


async def test_lists_are_paged_and_searched(world: World) -> None:
    """Goal: what wrangler asks: pages that end, and a search by name."""
    store, _ = await store_with(world, "A_KEY", "B_KEY", "C")
    path = f"{STORES}/{store}/secrets"
    names = [s["name"] for s in await world.ok("GET", f"{path}?search=KEY")]
    assert names == ["A_KEY", "B_KEY"]
    assert await world.ok("GET", f"{path}?page=2&per_page=10") == []
    assert [s["name"] for s in await world.ok("GET", f"{path}?page=2&per_page=2")] == ["C"]
    assert [s["id"] for s in await world.ok("GET", STORES)] == [store]
    assert (await world.ok("GET", f"{STORES[:-7]}/quota"))["secrets"] == {"usage": 3, "quota": 100}


async def test_what_cannot_be_is_refused_and_stores_nothing(world: World) -> None:
    """Goal: names, sizes and numbers as Cloudflare has them; all of a list or none of it."""
    store, (made,) = await store_with(world, "KEY")
    path = f"{STORES}/{store}/secrets"
    entry = {"name": "X", "value": "x", "scopes": []}
    for entries in (
        [],
        {"name": "X"},
        [{**entry, "name": "with blank"}],
        [{**entry, "name": ""}],
        [{**entry, "value": ""}],
        [{**entry, "value": "x" * 1_025}],
        [{**entry, "scopes": "workers"}],
        [entry, {**entry, "name": "KEY"}],
        [entry, entry],
        [{**entry, "name": f"N{n}"} for n in range(100)],
    ):
        await world.refused("POST", path, entries)
    assert (await world.refused("POST", STORES, {"name": "second"}))[0] == 429
    assert (await world.refused("GET", f"{path}/none"))[0] == 404
    assert (await world.refused("PATCH", f"{STORES}/none/secrets/{made['id']}", {}))[0] == 404


async def test_a_deleted_store_takes_its_secrets_along(world: World) -> None:
    """Goal: nothing sealed is left over."""
    store, (first, _) = await store_with(world, "A", "B")
    await world.ok("DELETE", f"{STORES}/{store}/secrets/{first['id']}")
    await world.ok("DELETE", f"{STORES}/{store}")
    assert world.catalog.resources(ACCOUNT, SECRET) == []
    assert await world.ok("GET", STORES) == []


async def test_a_binding_to_a_secret_that_is_not_there_is_refused(world: World) -> None:
    """Goal: told at the deploy, not at the first request."""
    store, _ = await store_with(world, "KEY")
    await world.deploy(bindings=[bound(store)])
    version = world.catalog.versions(ACCOUNT, "hello")[0]
    assert version.bindings[0].fields == {"store_id": store, "secret_name": "KEY"}
    for wrong in (bound(store, "NONE"), bound("none")):
        answer = await world.call("PUT", "scripts/hello", files=_files(bindings=[wrong]))
        assert "there is no secret" in answer.text


def _files(**metadata: Any) -> Any:
    from tests.control.world import form

    return form(**metadata)


async def test_who_may_not_see_all_workers_sees_no_store(world: World) -> None:
    """Goal: a store is the whole account's; changing it needs the scope secrets."""
    some = bearer(await token(world, "secrets", workers=["shop"]))
    deploys = bearer(await token(world, "deploy", name="deploys"))
    keeps = bearer(await token(world, "secrets", name="keeps"))
    statuses = [
        (await world.call("GET", STORES, headers=some)).status_code,
        (await world.call("POST", STORES, {"name": "main"}, headers=deploys)).status_code,
        (await world.call("GET", STORES, headers=deploys)).status_code,
        (await world.call("POST", STORES, {"name": "main"}, headers=keeps)).status_code,
    ]
    assert statuses == [403, 403, 200, 200]
