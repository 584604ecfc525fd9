"""Routes, custom domains, schedules and zones over HTTP, as wrangler asks for them."""

import pytest

from tests.control.world import ACCOUNT, ROOT, World

pytestmark = pytest.mark.anyio


async def test_any_hostname_is_said_to_be_a_zone(world: World) -> None:
    """Otherwise a deploy with routes fails after its upload."""
    zones = await world.ok("GET", f"{ROOT}/zones?name=api.example.com&account.id={ACCOUNT}")
    assert [z["name"] for z in zones] == ["api.example.com"]
    assert zones == await world.ok("GET", f"{ROOT}/zones?name=API.example.com.")
    for name in ("", "*.example.com", "a b", "x" * 300):
        assert await world.ok("GET", f"{ROOT}/zones", params={"name": name}) == []


async def test_routes_are_replaced_as_a_whole(world: World) -> None:
    """PUT routes; the same again writes nothing."""
    await world.deploy()
    wanted = [
        {"pattern": "api.example.com/v1/*", "zone_name": "example.com"},
        {"pattern": "*.b.c/*"},
    ]
    await world.ok("PUT", "scripts/hello/routes", wanted)
    before = world.stored()
    await world.ok("PUT", "scripts/hello/routes", wanted)
    assert world.stored() == before
    listed = await world.ok("GET", f"{ROOT}/zones/any/workers/routes")
    assert [(r["pattern"], r["script"]) for r in listed] == [
        ("api.example.com/v1/*", "hello"),
        ("*.b.c/*", "hello"),
    ]
    await world.ok("PUT", "scripts/hello/routes", [])
    assert await world.ok("GET", "scripts/hello/routes") == []


async def test_a_pattern_leads_to_one_worker(world: World) -> None:
    """The second worker is told whose it is."""
    await world.deploy("first")
    await world.deploy("second")
    await world.ok("PUT", "scripts/first/routes", [{"pattern": "a.b/*"}])
    refused = await world.refused("PUT", "scripts/second/routes", [{"pattern": "a.b/*"}])
    assert refused[:2] == (409, 10020)
    assert "'first'" in refused[2]
    for pattern in ("a.b*c/x", "a.b:80/*", "http://", "", "ä.b/*"):
        assert (await world.refused("PUT", "scripts/second/routes", [{"pattern": pattern}]))[
            1
        ] == 10021


async def test_a_custom_domain_moves_only_when_somebody_says_so(world: World) -> None:
    """Changeset, refusal, and the override that wrangler sends after asking."""
    await world.deploy("first")
    await world.deploy("second")
    origins = [{"hostname": "App.example.com"}]
    await world.ok("PUT", "scripts/first/domains/records", {"origins": origins})
    path = "scripts/second/domains/changeset?replace_state=true"
    changes = await world.ok("POST", path, origins)
    assert changes["added"] == changes["conflicting"] == []
    held = changes["updated"][0]
    assert (held["hostname"], held["service"], held["modified"]) == (
        "app.example.com",
        "first",
        True,
    )
    assert (await world.ok("GET", f"domains/records/{held['id']}"))["service"] == "first"
    refused = await world.refused("PUT", "scripts/second/domains/records", {"origins": origins})
    assert refused[0] == 409
    wanted = {"override_existing_origin": True, "origins": origins}
    await world.ok("PUT", "scripts/second/domains/records", wanted)
    assert world.catalog.domains(ACCOUNT, "first").hostnames == ()
    assert world.catalog.domains(ACCOUNT, "second").hostnames == ("app.example.com",)
    assert [d["service"] for d in await world.ok("GET", "domains?hostname=app.example.com")] == [
        "second"
    ]


async def test_what_is_absent_is_an_empty_list_or_a_refusal_in_words(world: World) -> None:
    """A deploy provisions what has no id: it must hear that there is no such thing."""
    path = f"{ROOT}/accounts/{ACCOUNT}/vectorize/v2/indexes"
    assert await world.ok("GET", f"{path}?per_page=100&order=title&direction=asc&page=1") == []
    assert await world.ok("GET", f"{ROOT}/accounts/{ACCOUNT}/r2/buckets") == {"buckets": []}
    refused = await world.refused("POST", path, {"title": "x"})
    assert "does not offer Vectorize" in refused[2]
    assert (await world.refused("GET", f"{ROOT}/accounts/{ACCOUNT}/queues/x"))[0] == 404
