"""Dispatch namespaces and their workers through the API, as a platform builder's program asks."""

from typing import Any

import pytest

from kythera.deploy.bindings_dispatch import NAMESPACE_ABSENT, is_outbound, outbound_workers
from kythera.model.limits import Limits
from tests.control.tokens import bearer, is_forbidden, logs, token
from tests.control.world import ACCOUNT, ROOT, World, form

pytestmark = pytest.mark.anyio
NAMESPACES = f"{ROOT}/accounts/{ACCOUNT}/workers/dispatch/namespaces"
TENANTS = f"{NAMESPACES}/tenants"


async def made(world: World, name: str = "tenants") -> None:
    """Make a namespace."""
    await world.ok("POST", NAMESPACES, {"name": name})


async def put(world: World, script: str, namespace: str = "tenants", **metadata: Any) -> Any:
    """Deploy a worker into a namespace."""
    path = f"{NAMESPACES}/{namespace}/scripts/{script}"
    return await world.ok("PUT", path, files=form(**metadata))


def bound(namespace: str = "tenants", **fields: Any) -> dict[str, Any]:
    """Return a binding as wrangler sends it."""
    return {"name": "D", "type": "dispatch_namespace", "namespace": namespace, **fields}


async def test_a_name_means_one_namespace_and_its_id_stays(world: World) -> None:
    """Goal: made once, listed, renamed; its old name is free, and leads to another namespace then."""
    await made(world)
    assert (await world.refused("POST", NAMESPACES, {"name": "tenants"}))[0] == 409
    for name in ("", "A b", "a~b", "x" * 64, None, 5):
        await world.refused("POST", NAMESPACES, {"name": name})
    await put(world, "shop")
    renamed = await world.ok("PUT", TENANTS, {"name": "customers"})
    assert (renamed["namespace_id"], renamed["namespace_name"]) == ("tenants", "customers")
    assert (await world.refused("GET", TENANTS))[:2] == (404, NAMESPACE_ABSENT)
    await made(world)
    assert (await world.ok("GET", TENANTS))["namespace_id"] == "tenants_2"
    listed = await world.ok("GET", NAMESPACES)
    assert [(n["namespace_name"], n["script_count"]) for n in listed] == [
        ("customers", 1),
        ("tenants", 0),
    ]
    await world.refused("PUT", TENANTS, {"name": "customers"})
    await world.refused("DELETE", f"{NAMESPACES}/customers")
    await world.ok("DELETE", TENANTS)
    await world.ok("DELETE", f"{NAMESPACES}/customers/scripts/shop")
    await world.ok("DELETE", f"{NAMESPACES}/customers")
    assert await world.ok("GET", NAMESPACES) == []


async def test_a_namespace_s_worker_has_all_that_a_worker_has_but_an_address(world: World) -> None:
    """Goal: settings, bindings, secrets, tags and content at the namespace's addresses; at the
    account's it is not there, and cannot be given a route."""
    await made(world)
    variable = {"name": "V", "type": "plain_text", "text": "v"}
    answer = await put(world, "shop", bindings=[variable], tags=["free"])
    assert (answer["id"], answer["tags"]) == ("shop", ["free"])
    one = f"{TENANTS}/scripts/shop"
    assert (await world.ok("GET", one))["script"]["id"] == "shop"
    assert await world.ok("GET", f"{one}/bindings") == [variable]
    await world.ok("PUT", f"{one}/secrets", {"name": "S", "text": "x", "type": "secret_text"})
    assert [s["name"] for s in await world.ok("GET", f"{one}/secrets")] == ["S"]
    patched = {"bindings": [{"name": "V", "type": "inherit"}], "limits": {"cpu_ms": 50}}
    settings = await world.ok("PATCH", f"{one}/settings", patched)
    assert (settings["limits"], settings["bindings"]) == ({"cpu_ms": 50}, [variable])
    await world.ok("PUT", f"{one}/tags", ["a", "b"])
    await world.ok("PUT", f"{one}/tags/c")
    await world.ok("DELETE", f"{one}/tags/a")
    assert await world.ok("GET", f"{one}/tags") == ["b", "c"]
    assert b"export default" in (await world.call("GET", f"{one}/content")).content
    await world.ok("PUT", f"{one}/content", files=form("export default { fetch() { /* 2 */ } }"))
    assert b"/* 2 */" in (await world.call("GET", f"{one}/content")).content
    assert [b["name"] for b in await world.ok("GET", f"{one}/bindings")] == ["V"]
    assert await world.ok("GET", f"{one}/tags") == ["b", "c"]
    assert await world.ok("GET", "scripts") == []
    for path in ("tenants~shop", "tenants~shop/routes", "tenants~shop/subdomain"):
        assert (await world.refused("GET", f"scripts/{path}"))[:2] == (404, 10007)
    body = [{"pattern": "example.com/*"}]
    assert (await world.refused("PUT", "scripts/tenants~shop/routes", body))[1] == 10007
    (worker,) = world.catalog.workers(ACCOUNT)
    assert (worker.name, worker.hostname_enabled) == ("tenants~shop", False)
    await world.ok("POST", "scripts/tenants~shop/tails", {"filters": []})


async def test_what_is_not_there_says_so_in_wrangler_s_code(world: World) -> None:
    """Goal: 10092 for a worker that a namespace lacks; nothing is stored in one that is not there, or
    under a name that is none."""
    one = f"{TENANTS}/scripts/shop"
    assert (await world.refused("PUT", one, files=form()))[1] == NAMESPACE_ABSENT
    await made(world)
    for method, path in (("GET", one), ("GET", f"{one}/settings"), ("DELETE", one)):
        assert (await world.refused(method, path))[:2] == (404, 10092)
    assert (await world.refused("PUT", f"{one}/content", files=form()))[1] == 10092
    assert (await world.refused("PUT", f"{TENANTS}/scripts/a~b", files=form()))[1] == 10016
    assert (await world.refused("PUT", f"{TENANTS}/scripts/A", files=form()))[1] == 10016


async def test_tags_choose_which_workers_are_listed_and_deleted(world: World) -> None:
    """Goal: one customer's workers go at once; no tag never means all."""
    await made(world)
    for script, tags in (("a", ["one", "free"]), ("b", ["one"]), ("c", ["two"])):
        await put(world, script, tags=tags)
    scripts = f"{TENANTS}/scripts"

    async def names(query: str = "") -> list[str]:
        return [each["id"] for each in await world.ok("GET", scripts + query)]

    assert await names() == ["a", "b", "c"]
    assert await names("?tags=one:yes,free:no") == ["b"]
    await world.refused("GET", f"{scripts}?tags=one")
    await world.refused("DELETE", scripts)
    await world.ok("DELETE", f"{scripts}?tags=one:yes")
    assert await names() == ["c"]


async def test_a_dispatcher_is_bound_to_what_is_there(world: World) -> None:
    """Goal: namespace and outbound worker must exist; the outbound one is found in the records, and
    deleted by force alone while it is named."""
    text = (await world.refused("PUT", "scripts/d", files=form(bindings=[bound()])))[2]
    assert "wrangler dispatch-namespace create" in text
    await made(world)
    outbound = {"worker": {"service": "out"}, "params": [{"name": "who"}, "more"]}
    with_outbound = bound(outbound=outbound)
    refused = await world.refused("PUT", "scripts/d", files=form(bindings=[with_outbound]))
    assert refused[1] == 10143
    bad = {"worker": {"service": "out"}, "params": [{"name": "no name"}]}
    await world.deploy("out")
    await world.refused("PUT", "scripts/d", files=form(bindings=[bound(outbound=bad)]))
    await world.deploy("d", bindings=[with_outbound])
    (found,) = outbound_workers(world.catalog)
    assert (found.namespace, found.worker) == ("tenants", "out")
    assert is_outbound(world.catalog, ACCOUNT, "out")
    assert not is_outbound(world.catalog, ACCOUNT, "d")
    (shown,) = (await world.ok("GET", "scripts/d/settings"))["bindings"]
    assert shown["outbound"]["params"] == [{"name": "who"}, {"name": "more"}]
    (used,) = (await world.ok("GET", "scripts/out/references"))["dispatch_outbounds"]
    assert (used["service"], used["namespace"]) == ("d", "tenants")
    assert (await world.refused("DELETE", "services/out"))[1] == 10064


async def test_no_service_binding_leads_into_a_namespace(world: World) -> None:
    """Goal: a tenant's upload cannot name another tenant's worker by what records call it."""
    await made(world)
    await put(world, "shop")
    service = {"name": "S", "type": "service", "service": "tenants~shop"}
    text = (await world.refused("PUT", "scripts/x", files=form(bindings=[service])))[2]
    assert "Bind to the namespace" in text


async def test_a_token_for_some_workers_reaches_no_namespace(world: World) -> None:
    """Goal: neither the worker of the same name, nor through code that dispatches to all of them."""
    await made(world)
    await put(world, "shop")
    text = await token(world, "deploy", "secrets", workers=["shop", "tenants-shop"])
    for method, path, more in (
        ("GET", f"{TENANTS}/scripts/shop", {}),
        ("PUT", f"{TENANTS}/scripts/shop", {"files": form()}),
        ("PUT", "scripts/shop", {"files": form(bindings=[bound()])}),
    ):
        answer = await world.call(method, path, headers=bearer(text), **more)
        assert is_forbidden(answer), answer.text


async def test_the_audit_tells_which_worker_of_which_namespace(world: World) -> None:
    """Goal: who changed what is told for tenants' workers too."""
    await made(world)
    await put(world, "shop")
    await world.ok("DELETE", f"{TENANTS}/scripts/shop")
    told = [(each["action"]["type"], each["resource"]["id"]) for each in await logs(world)]
    assert told == [
        ("make dispatch namespace", "dispatch namespace tenants"),
        ("deploy", "worker tenants~shop"),
        ("delete worker", "worker tenants~shop"),
    ]


def test_parameters_fit_into_a_head() -> None:
    """Goal: what a dispatch may tell leaves room for a request's own head."""
    limits = Limits()
    assert limits.dispatch_told_bytes_max * 3 < limits.request_head_bytes_max
