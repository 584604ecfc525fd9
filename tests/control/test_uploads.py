"""Uploads over HTTP: what a deploy asks first, makes, refuses and leaves behind."""

import json
from pathlib import Path

import msgspec
import pytest

from kythera.control.services import OpenSecret, ReadBlob
from kythera.control.store import put
from kythera.model.limits import Limits
from kythera.model.records import Version
from tests.control.world import ACCOUNT, HELLO, ROOT, Trial, World, form, parts, world_at

pytestmark = pytest.mark.anyio


async def test_a_first_deploy_makes_a_worker_that_serves_everybody(world: World) -> None:
    """The calls of `wrangler deploy`, in its order, against an empty account."""
    assert (await world.refused("GET", "services/hello"))[:2] == (404, 10007)
    assert (await world.refused("GET", "scripts/hello/deployments"))[:2] == (404, 10007)
    assert (await world.refused("GET", "scripts/hello/settings"))[:2] == (404, 10007)
    made = await world.deploy(bindings=[{"name": "A", "type": "plain_text", "text": "x"}])
    assert made["startup_time_ms"] == 7
    version = world.catalog.versions(ACCOUNT, "hello")[0]
    assert made["deployment_id"] == version.id.replace("-", "")
    deployed = world.catalog.deployed(ACCOUNT, "hello")
    assert deployed is not None
    assert [(s.version_id, s.percentage) for s in deployed.versions] == [(version.id, 100)]
    service = await world.ok("GET", "services/hello")
    assert service["default_environment"]["script"]["last_deployed_from"] == "wrangler"
    assert (await world.ok("GET", "subdomain")) == {"subdomain": "localhost"}
    newer = await world.ok("GET", "workers/hello")
    assert newer["subdomain"]["url"] == "http://hello.localhost:8080"


async def test_a_second_version_serves_nobody_until_it_is_deployed(world: World) -> None:
    """POST versions, then POST deployments, as deploys of existing workers do."""
    await world.deploy()
    version = await world.upload(code=HELLO + "//2", annotations={"workers/message": "second"})
    assert version["number"] == 2
    assert version["annotations"]["workers/message"] == "second"
    before = world.catalog.deployed(ACCOUNT, "hello")
    assert before is not None
    assert before.versions[0].version_id != version["id"]
    made = await world.ok(
        "POST",
        "scripts/hello/deployments",
        {"strategy": "percentage", "versions": [{"version_id": version["id"], "percentage": 100}]},
    )
    assert made["versions"] == [{"version_id": version["id"], "percentage": 100}]
    listed = await world.ok("GET", "scripts/hello/deployments")
    assert listed["deployments"][0]["versions"][0]["version_id"] == version["id"]


async def test_a_version_cannot_be_made_of_a_worker_that_is_not_there(world: World) -> None:
    """Only PUT makes workers."""
    refused = await world.refused("POST", "scripts/hello/versions", files=form())
    assert refused[:2] == (404, 10007)


async def test_code_that_does_not_start_is_refused_and_nothing_is_stored(world: World) -> None:
    """10021, in JavaScript's own words."""
    refused = await world.refused("PUT", "scripts/hello", files=form("throw new Error('boom')"))
    assert refused[1] == 10021
    assert "Uncaught Error: boom\n  at index.js:1:7" in refused[2]


async def test_modules_are_known_by_their_file_name(world: World) -> None:
    """One SDK calls every part `files` and says what metadata is."""
    described = json.dumps({"main_module": "a.js"}).encode()
    files = [
        ("metadata", ("metadata", described, "application/json")),
        ("files", ("a.js", HELLO.encode(), "application/javascript+module")),
        ("files", ("./b.txt", "é".encode(), "text/plain")),
        ("files", ('q"uote.bin', b"\x00\xff", "application/octet-stream")),
    ]
    await world.ok("PUT", "scripts/hello", files=files)
    modules = world.catalog.versions(ACCOUNT, "hello")[0].modules
    assert {m.name: m.type for m in modules} == {
        "a.js": "esm",
        "./b.txt": "text",
        'q"uote.bin': "data",
    }
    assert world.blobs.stored[next(m.digest for m in modules if m.type == "text")] == "é".encode()


async def test_uploaded_modules_come_back_as_they_were(world: World) -> None:
    """The older wrangler re-uploads what content/v2 gives it."""
    files = {
        "index.js": (HELLO.encode(), "application/javascript+module"),
        "add.wasm": (b"\0asm\1\0\0\0", "application/wasm"),
    }
    await world.ok("PUT", "scripts/hello", files=parts({"main_module": "index.js"}, files))
    response = await world.call("GET", "scripts/hello/content/v2")
    assert response.headers["cf-entrypoint"] == "index.js"
    assert response.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert HELLO.encode() in response.content
    assert b'filename="add.wasm"\r\nContent-Type: application/wasm\r\n\r\n\0asm' in response.content
    assert (await world.refused("GET", "scripts/hello/content/v2?version=x"))[1] == 10222


async def test_a_service_worker_brings_its_parts_as_bindings(world: World) -> None:
    """The older format: one script, files bound by name."""
    script = b"addEventListener('fetch', () => {})"
    files = {
        "index.js": (script, "application/javascript"),
        "wasm": (b"\0asm\1\0\0\0", "application/wasm"),
    }
    bound = [{"name": "ADD", "type": "wasm_module", "part": "wasm"}]
    metadata = {"body_part": "index.js", "bindings": bound}
    await world.ok("PUT", "scripts/hello", files=parts(metadata, files))
    version = world.catalog.versions(ACCOUNT, "hello")[0]
    assert version.main_module is None
    assert {m.name: m.type for m in version.modules} == {
        "index.js": "service_worker",
        "wasm": "wasm",
    }
    response = await world.call("GET", "scripts/hello/content/v2")
    assert response.headers["content-type"] == "application/javascript"
    assert response.content == script


async def test_names_that_cannot_be_hostnames_are_refused(world: World) -> None:
    """A worker's name becomes a label of its address."""
    for name in ("Hello", "a.b", "-a", "a" * 64, "ä"):
        assert (await world.refused("PUT", f"scripts/{name}", files=form()))[1] == 10016


async def test_what_is_not_offered_is_refused_by_name(world: World) -> None:
    """Never dropped: the message names the binding and what there is instead."""
    bound = [{"name": "DATA", "type": "vectorize", "index_name": "x"}]
    code, text = (await world.refused("PUT", "scripts/hello", files=form(bindings=bound)))[1:]
    assert code == 10021
    assert "'DATA'" in text
    assert "Vectorize" in text
    assert "pgvector" in text, "what to use instead"
    for metadata in (
        {"exports": {"C": {"type": "workflow"}}},
        {"containers": [{"class_name": "X"}]},
        {"tail_consumers": [{"service": "x"}]},
    ):
        refused = await world.refused("PUT", "scripts/hello", files=form(**metadata))
        assert refused[1] == 10021
        assert "does not offer" in refused[2]


async def test_old_versions_are_let_go_but_never_one_that_serves(tmp_path: Path) -> None:
    """`versions_kept_max` bounds what is kept; deployments of lost versions go with them."""
    limits = Limits(versions_kept_max=3, deployments_kept_max=5)
    async with world_at(tmp_path, limits) as world:
        await world.deploy()
        first = world.catalog.versions(ACCOUNT, "hello")[0].id
        for n in range(6):
            await world.upload(code=f"{HELLO}//{n}")
        numbers = [v.number for v in world.catalog.versions(ACCOUNT, "hello")]
        assert numbers == [7, 6, 1]
        assert world.catalog.version(ACCOUNT, "hello", first) is not None
        for n in range(6):
            await world.deploy(code=f"{HELLO}//again {n}")
        kept = {v.id for v in world.catalog.versions(ACCOUNT, "hello")}
        assert len(kept) == 3
        for deployment in world.catalog.deployments(ACCOUNT, "hello"):
            assert {split.version_id for split in deployment.versions} <= kept


async def test_settings_of_a_worker_are_set_without_a_new_version(world: World) -> None:
    """PATCH script-settings, as every deploy sends it; the second time nothing is written."""
    await world.deploy()
    wanted = {"observability": {"enabled": True}, "tags": ["cf:service=hello"]}
    assert (await world.ok("PATCH", "scripts/hello/script-settings", wanted))["tags"] == wanted[
        "tags"
    ]
    before = world.stored()
    await world.ok("PATCH", "scripts/hello/script-settings", wanted)
    assert world.stored() == before
    assert (await world.ok("GET", "scripts/hello/script-settings"))["observability"] == {
        "enabled": True
    }
    assert len(world.catalog.versions(ACCOUNT, "hello")) == 1


async def test_the_default_hostname_can_be_switched_off(world: World) -> None:
    """POST subdomain; what is not said about previews follows `enabled`."""
    await world.deploy()
    assert await world.ok("GET", "scripts/hello/subdomain") == {
        "enabled": True,
        "previews_enabled": False,
    }
    await world.ok("POST", "scripts/hello/subdomain", {"enabled": False})
    worker = world.catalog.worker(ACCOUNT, "hello")
    assert worker is not None
    assert not worker.hostname_enabled
    assert not worker.previews_enabled


async def test_deleting_a_worker_leaves_no_record_of_it(world: World) -> None:
    """And the same name can be used again, beginning anew."""
    await world.deploy(bindings=[{"name": "S", "type": "secret_text", "text": "s"}])
    await world.deploy(code=HELLO + "//2")
    await world.ok("PUT", "scripts/hello/routes", [{"pattern": "a.b/*"}])
    await world.ok("GET", "scripts/hello/references")
    assert await world.ok("GET", "tails/by-consumer/hello") == []
    assert await world.ok("DELETE", "services/hello?force=false") is None
    assert [key for key in world.catalog.records if "hello" in key] == []
    assert (await world.refused("DELETE", "services/hello"))[:2] == (404, 10007)
    await world.deploy()
    assert await world.ok("GET", "scripts/hello/secrets") == []


async def test_lists_end_with_an_empty_page(world: World) -> None:
    """Some clients ask for pages until one is empty."""
    await world.deploy()
    for path in (
        f"{ROOT}/accounts",
        f"{ROOT}/memberships",
        f"{ROOT}/zones?name=example.com",
        f"{ROOT}/zones/z/workers/routes",
        f"{ROOT}/accounts/{ACCOUNT}/storage/kv/namespaces",
        f"{ROOT}/accounts/{ACCOUNT}/queues",
        "scripts",
        "scripts/hello/versions",
        "scripts/hello/deployments",
        "scripts/hello/secrets",
        "scripts/hello/routes",
        "domains",
    ):
        result = await world.ok("GET", path, params=None)
        page = await world.ok("GET", path + ("&" if "?" in path else "?") + "page=2")
        inner = next(iter(page.values())) if isinstance(page, dict) else page
        assert inner == [], path
        assert isinstance(result, (list, dict))


async def test_versions_are_listed_page_by_page(world: World) -> None:
    """With per_page, the pages are what a client can count on."""
    for n in range(5):
        await world.deploy(code=f"{HELLO}//{n}")
    response = (await world.call("GET", "scripts/hello/versions?per_page=2&page=3")).json()
    assert [v["number"] for v in response["result"]["items"]] == [1]
    assert response["result_info"]["total_count"] == 5
    assert response["result_info"]["total_pages"] == 3


async def test_two_uploads_at_once_get_two_numbers(world: World) -> None:
    """Another process writes the worker's record while ours is trying the code."""
    await world.deploy()
    tried = world.workshop.try_version

    async def slow_trial(version: Version, read_blob: ReadBlob, open_secret: OpenSecret) -> Trial:
        worker = world.catalog.worker(ACCOUNT, "hello")
        assert worker is not None
        if worker.versions_made == 1:
            theirs = msgspec.structs.replace(worker, versions_made=2)
            await world.services.store.write([put(theirs)])
        return await tried(version, read_blob, open_secret)

    object.__setattr__(world.services, "try_version", slow_trial)
    version = await world.upload(code=HELLO + "//2")
    assert version["number"] == 3
