"""KV through the API: namespaces, keys, many at a time, and bindings to what is not there."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kythera.model.limits import Limits
from tests.control.tokens import bearer, is_forbidden, token
from tests.control.world import ACCOUNT, HELLO, WORKERS, World, errors_in, world_at
from tests.kv_worlds import kv_store_of, kv_world

pytestmark = pytest.mark.anyio
KV = f"/client/v4/accounts/{ACCOUNT}/storage/kv/namespaces"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Return an API with a KV store behind it."""
    async with kv_world(tmp_path / "kv") as kv:
        async with world_at(tmp_path) as made:
            store = kv_store_of(kv, ACCOUNT)
            made.app.state.services = made.services = _with(made, store)
            yield made
            assert list(errors_in(made)) == []
            await store.aclose()


def _with(world: World, store: Any) -> Any:
    import dataclasses

    return dataclasses.replace(world.services, kv=store)


async def call(world: World, method: str, path: str, **more: Any) -> tuple[int, Any]:
    """Call below the namespaces; return status and envelope."""
    answer = await world.client.request(method, f"{KV}{path}", **more)
    return answer.status_code, answer.json()


async def made(world: World, title: str = "sessions") -> str:
    """Make a namespace; return its id."""
    status, told = await call(world, "POST", "", json={"title": title})
    assert status == 200, told
    found: str = told["result"]["id"]
    return found


def code_of(told: Any) -> int:
    """Return the first error's code."""
    found: int = told["errors"][0]["code"]
    return found


async def test_a_namespace_is_made_renamed_listed_and_deleted(world: World) -> None:
    """Goal: its whole life; a list ends, whatever page is asked for."""
    first, second = await made(world), await made(world, "flags")
    _, told = await call(world, "GET", "?per_page=1000&order=title&direction=asc")
    assert [n["title"] for n in told["result"]] == ["flags", "sessions"]
    assert (await call(world, "GET", "?page=2"))[1]["result"] == []
    status, told = await call(world, "PUT", f"/{first}", json={"title": "logins"})
    assert (status, told["result"]["title"]) == (200, "logins")
    assert (await call(world, "GET", f"/{first}"))[1]["result"]["title"] == "logins"
    assert (await call(world, "DELETE", f"/{second}"))[0] == 200
    assert [n["id"] for n in (await call(world, "GET", ""))[1]["result"]] == [first]


async def test_what_is_wrong_with_a_namespace_has_cloudflares_code(world: World) -> None:
    """Goal: clients act on codes."""
    first = await made(world)
    await made(world, "taken")
    absent = "0" * 32
    wrong: list[tuple[str, str, Any, int]] = [
        ("POST", "", {"title": "taken"}, 10014),
        ("PUT", f"/{first}", {"title": "taken"}, 10014),
        ("POST", "", {}, 10019),
        ("POST", "", {"title": " "}, 10019),
        ("GET", f"/{absent}", None, 10013),
        ("DELETE", f"/{absent}", None, 10013),
        ("GET", f"/{absent}/values/k", None, 10013),
        ("GET", "/not-an-id/keys", None, 10011),
        ("GET", f"/{first}/values/absent", None, 10009),
        ("GET", f"/{first}/keys?limit=9", None, 10028),
        ("GET", f"/{first}/keys?cursor=a", None, 10041),
        ("PUT", f"/{first}/values/k?expiration_ttl=1", None, 10034),
        ("PUT", f"/{first}/values/k?expiration=1", None, 10033),
        ("PUT", f"/{first}/values/{'k' * 513}", None, 10030),
        ("PUT", f"/{first}/bulk", {}, 10029),
        ("POST", f"/{first}/bulk/get", {"keys": []}, 10029),
    ]
    for method, path, document, code in wrong:
        status, told = await call(world, method, path, json=document)
        assert (status >= 400, code_of(told)) == (True, code), (method, path, told)


async def test_a_value_is_bytes_with_metadata_and_an_expiration(world: World) -> None:
    """Goal: what is put is got, whatever stands in its key."""
    space = await made(world)
    key = "a%2Fb%20%25%3F%C3%A9"
    value = bytes(range(256)) * 500
    assert (await call(world, "PUT", f"/{space}/values/{key}", content=value))[0] == 200
    answer = await world.client.get(f"{KV}/{space}/values/{key}")
    assert (answer.status_code, answer.content) == (200, value)
    files = {"value": (None, b"v"), "metadata": (None, b'{"a": "\xc3\xa9"}')}
    path = f"/{space}/values/meta?expiration_ttl=3600"
    assert (await call(world, "PUT", path, files=files))[0] == 200
    assert (await call(world, "GET", f"/{space}/metadata/meta"))[1]["result"] == {"a": "é"}
    _, told = await call(world, "GET", f"/{space}/keys?prefix=m")
    (found,) = told["result"]
    assert found == {"name": "meta", "expiration": 1_795_003_600, "metadata": {"a": "é"}}
    assert told["result_info"] == {"count": 1, "cursor": ""}
    answer = await world.client.get(f"{KV}/{space}/values/meta")
    assert answer.headers["expiration"] == "1795003600"
    assert (await call(world, "DELETE", f"/{space}/values/{key}"))[0] == 200
    _, told = await call(world, "GET", f"/{space}/keys")
    assert [key["name"] for key in told["result"]] == ["meta"]


async def test_many_keys_are_written_listed_by_pages_got_and_deleted(world: World) -> None:
    """Goal: bulk, in both ways to delete; the last value of a key that is named twice counts."""
    space = await made(world)
    pairs: list[dict[str, Any]] = [
        {"key": f"k{n:02}", "value": str(n), "metadata": {"n": n}} for n in range(25)
    ]
    pairs += [{"key": "raw", "value": "AAEC", "base64": True}, {"key": "k00", "value": "last"}]
    status, told = await call(world, "PUT", f"/{space}/bulk", json=pairs)
    assert (status, told["result"]["successful_key_count"]) == (200, 26)
    names, cursor = [], ""
    while True:
        _, told = await call(world, "GET", f"/{space}/keys?limit=10&cursor={cursor}")
        names += [key["name"] for key in told["result"]]
        cursor = told["result_info"]["cursor"]
        if not cursor:
            break
    assert names == sorted({pair["key"] for pair in pairs})
    assert (await world.client.get(f"{KV}/{space}/values/raw")).content == b"\0\1\2"
    asked = {"keys": ["k00", "k01", "none"]}
    _, told = await call(world, "POST", f"/{space}/bulk/get", json=asked)
    assert told["result"]["values"] == {
        "k00": {"value": "last"},
        "k01": {"value": "1"},
        "none": None,
    }
    _, told = await call(world, "POST", f"/{space}/bulk/get", json={**asked, "withMetadata": True})
    assert told["result"]["values"]["k01"] == {"value": "1", "metadata": {"n": 1}}
    assert (await call(world, "DELETE", f"/{space}/bulk", json=["k00", "k01"]))[0] == 200
    assert (await call(world, "POST", f"/{space}/bulk/delete", json=["k02"]))[0] == 200
    _, told = await call(world, "GET", f"/{space}/keys")
    assert len(told["result"]) == 23


async def test_a_bulk_with_one_wrong_key_says_which(world: World) -> None:
    """Goal: nobody searches among ten thousand."""
    space = await made(world)
    pairs = [{"key": "good", "value": "v"}, {"key": "bad", "value": "v", "expiration_ttl": 1}]
    status, told = await call(world, "PUT", f"/{space}/bulk", json=pairs)
    assert (status, code_of(told)) == (400, 10034)
    assert "(key 'bad')" in told["errors"][0]["message"]


async def test_a_binding_to_a_namespace_that_is_not_there_is_refused_by_name(world: World) -> None:
    """Goal: found out at the upload, not by a visitor."""
    absent = "0" * 32

    async def upload(namespace: str) -> tuple[int, Any]:
        bound = {"type": "kv_namespace", "name": "CACHE", "namespace_id": namespace}
        metadata = {"main_module": "w.js", "compatibility_date": "2026-01-01", "bindings": [bound]}
        files: Any = {
            "metadata": (None, msgspec.json.encode(metadata)),
            "w.js": ("w.js", HELLO, "application/javascript+module"),
        }
        answer = await world.client.put(f"{WORKERS}/scripts/hello", files=files)
        return answer.status_code, answer.json()

    status, told = await upload(absent)
    assert (status, code_of(told)) == (400, 10041)
    assert absent in told["errors"][0]["message"]
    assert "'CACHE'" in told["errors"][0]["message"]
    status, told = await upload("no id")
    assert code_of(told) == 10042
    space = await made(world)
    status, told = await upload(space)
    assert status == 200, told
    answer = await world.client.get(f"{WORKERS}/scripts/hello/settings")
    assert answer.json()["result"]["bindings"] == [
        {"name": "CACHE", "type": "kv_namespace", "namespace_id": space}
    ]


async def test_a_token_for_some_workers_sees_their_namespaces_and_no_keys(world: World) -> None:
    """Goal: what belongs to all workers is closed to who may change one."""
    space = await made(world)
    text = await token(world, "deploy", workers=["hello"])
    answer = await world.client.get(KV, headers=bearer(text))
    assert answer.json()["result"] == []
    for method, path in [("GET", "/keys"), ("PUT", "/values/k"), ("DELETE", "")]:
        answer = await world.client.request(method, f"{KV}/{space}{path}", headers=bearer(text))
        assert is_forbidden(answer)


async def test_there_are_no_more_namespaces_than_may_be(tmp_path: Path) -> None:
    """Goal: a limit with a name."""
    async with world_at(tmp_path, Limits(kv_namespaces_max=1)) as world:
        await made(world)
        status, told = await call(world, "POST", "", json={"title": "one more"})
        assert (status, code_of(told)) == (400, 10018)
        assert "kv_namespaces_max" in told["errors"][0]["message"]
        assert (await call(world, "GET", f"/{'0' * 32}/keys"))[0] == 404
