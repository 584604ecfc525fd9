"""Static files uploaded through several machines: one session, gathered where it began."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kythera.control.store import put
from kythera.model.records import Heartbeat
from tests.control.fleets import Machines, Member, machines
from tests.control.test_asset_uploads import FILES, SESSION, hash_of, manifest_of
from tests.control.world import ACCOUNT, form

pytestmark = pytest.mark.anyio
BINDING = [{"name": "ASSETS", "type": "assets"}]


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Machines]:
    """Return three machines."""
    async with machines(tmp_path) as made:
        yield made


async def send(member: Member, token: str, path: str) -> httpx.Response:
    """Upload one file as wrangler does, in a form."""
    name = hash_of(path, FILES[path])
    part = (name, base64.b64encode(FILES[path]), "text/html")
    return await member.call(
        "POST",
        "assets/upload?base64=true",
        files=[(name, part)],
        headers={"authorization": f"Bearer {token}"},
    )


async def send_raw(member: Member, token: str, path: str) -> httpx.Response:
    """Upload one file as it is."""
    return await member.call(
        "POST",
        f"assets/upload/{hash_of(path, FILES[path])}",
        content=FILES[path],
        headers={"authorization": f"Bearer {token}", "content-type": "text/html"},
    )


async def begun(member: Member) -> str:
    """Begin a session and return its token."""
    answer: Any = await member.ok("POST", SESSION, manifest_of(FILES))
    return str(answer["jwt"])


async def test_a_session_goes_on_through_any_machine(fleet: Machines) -> None:
    """Begun on a, files sent to a, b and c; whichever completes it hands out the token, which any
    machine takes."""
    token = await begun(fleet["a"])
    assert (await send(fleet["b"], token, "/index.html")).status_code == 202
    assert (await send_raw(fleet["a"], token, "/css/a b.css")).status_code == 202
    last = await send_raw(fleet["c"], token, "/x")
    assert last.status_code == 201
    assert fleet["b"].blobs.stored == {}
    metadata: Any = {"assets": {"jwt": last.json()["result"]["jwt"]}, "bindings": BINDING}
    await fleet["c"].ok("PUT", "scripts/site", files=form(**metadata))
    version = fleet["b"].catalog.versions(ACCOUNT, "site")[0]
    assert version.assets is not None
    assert version.assets.manifest in fleet["a"].blobs.stored


async def test_a_session_whose_machine_is_gone_is_refused_in_words(fleet: Machines) -> None:
    """Nothing is stored on the way, and what to do is said: it begins anew elsewhere."""
    token = await begun(fleet["a"])
    fleet.network.cut.add("a")
    response = await send(fleet["b"], token, "/index.html")
    assert response.status_code == 503
    told = response.json()["errors"][0]["message"]
    assert "begun on the machine 'a'" in told
    assert "Run the deploy again" in told
    assert fleet["b"].blobs.stored == {}
    fresh = await begun(fleet["b"])
    for path in ("/index.html", "/css/a b.css"):
        assert (await send(fleet["b"], fresh, path)).status_code == 202
    assert (await send(fleet["b"], fresh, "/x")).status_code == 201


async def test_clocks_hours_apart_do_not_end_a_session(fleet: Machines) -> None:
    """Its tokens go by the fleet's clock, and end by it too."""
    store = fleet["a"].services.store
    at_ms = int(fleet["a"].clock.time * 1000)
    await store.write([put(Heartbeat(machine="a", number=1, at_ms=at_ms))])
    fleet["b"].clock.time += 5 * 3_600
    fleet["c"].clock.time -= 5 * 3_600
    token = await begun(fleet["b"])
    for name, path in (("a", "/index.html"), ("c", "/css/a b.css")):
        assert (await send(fleet[name], token, path)).status_code == 202
    last = await send(fleet["a"], token, "/x")
    assert last.status_code == 201
    metadata: Any = {"assets": {"jwt": last.json()["result"]["jwt"]}, "bindings": BINDING}
    await fleet["c"].ok("PUT", "scripts/site", files=form(**metadata))
    store.catalog()
    later_ms = at_ms + 3_601_000
    await store.write([put(Heartbeat(machine="a", number=2, at_ms=later_ms))])
    assert (await send(fleet["a"], token, "/x")).status_code == 403


async def test_what_a_machine_refuses_is_refused_by_whoever_handed_it_on(fleet: Machines) -> None:
    """The same words, wherever a bad file was sent."""
    token = await begun(fleet["a"])
    name = hash_of("/x", b"")
    responses = [
        await fleet[to].call(
            "POST",
            f"assets/upload/{name}",
            content=b"not empty",
            headers={"authorization": f"Bearer {token}"},
        )
        for to in "ab"
    ]
    assert [response.status_code for response in responses] == [400, 400]
    assert responses[0].json() == responses[1].json()


async def test_a_body_that_is_too_large_is_not_handed_on_whole(fleet: Machines) -> None:
    """The limit holds on the way already."""
    token = await begun(fleet["a"])
    limit = fleet["b"].services.platform.limits.assets_upload_bytes_max

    async def body() -> AsyncIterator[bytes]:
        for _ in range(limit // (1 << 20) + 2):
            yield bytes(1 << 20)

    response = await fleet["b"].call(
        "POST",
        f"assets/upload/{hash_of('/x', b'')}",
        content=body(),
        headers={"authorization": f"Bearer {token}"},
    )
    assert response.status_code == 413


async def test_a_strangers_token_is_handed_on_to_nobody(fleet: Machines) -> None:
    """It is looked at where it arrives."""
    response = await send(fleet["b"], "x.y.z", "/x")
    assert response.status_code == 403
    assert fleet.network.calls == []
