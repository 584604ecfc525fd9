"""Data that another machine keeps, through two real front doors: who reaches what, and who does not."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import anyio
import httpx
import pytest

from kythera.ground.passes import PASS_HEADER, Pass, check, sign
from kythera.route.mesh_data import AWAY_HEADER, GRANTED_HEADER, NAME_HEADER, WAY_HEADER
from tests.route.counts import Counted
from tests.route.doors import Cell
from tests.route.fleets import Fleet, fleet, with_mesh

pytestmark = [pytest.mark.real, pytest.mark.anyio]

KEYS = {"a": "the key of a", "b": "the key of b"}
GRANTED = Pass(account="x" * 32, worker="w", version="v", store="d1", resource="r", binding="DB")
STORE, OBJECTS = "5" * 32, "0" * 32
"""Marks at machine a."""
OUT_S = 5.0


@dataclass
class Two:
    """Machine a, whose cells ask; b, which keeps a store and an object cell."""

    machines: Fleet
    asks: httpx.AsyncClient
    store: Cell
    objects: Cell


@asynccontextmanager
async def two() -> AsyncIterator[Two]:
    """Run them for the length of the block."""
    async with fleet(a="here", b="here") as machines:
        a, b = machines.doors["a"], machines.doors["b"]
        store, objects = await b.cell("b-store"), await b.cell("b-objects")
        a.world.ways = {STORE: "b|d1|pass", OBJECTS: "b|o1.sock|"}
        b.world.data = {"d1": str(store.path), "o1.sock": str(objects.path)}
        for name, door in machines.doors.items():
            with_mesh(door, pass_key=KEYS[name])
        await machines.apply()
        transport = httpx.AsyncHTTPTransport(uds=str(a.data_door))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as asks:
            yield Two(machines, asks, store, objects)


async def test_a_pass_is_signed_anew_by_the_home() -> None:
    """Goal: no key leaves its machine. Method: what a signed is what b's store can read; what
    somebody else signed, or nobody, reaches nothing, and neither does a wrong mark."""
    async with two() as found:
        good = {WAY_HEADER: STORE, PASS_HEADER: sign(GRANTED, KEYS["a"]), GRANTED_HEADER: "mine"}
        answer = await found.asks.post("/query", headers=good, content=b"hello")
        told = answer.json()
        assert told["cell"] == "b-store"
        assert check(told["headers"][PASS_HEADER.lower()], KEYS["b"], "d1") == GRANTED
        assert not {WAY_HEADER, NAME_HEADER, GRANTED_HEADER} & told["headers"].keys()
        payload, _, mark = good[PASS_HEADER].partition(".")
        for headers, status in (
            ({**good, PASS_HEADER: sign(GRANTED, KEYS["b"])}, 403),
            ({**good, PASS_HEADER: f"{payload}."}, 403),
            ({**good, PASS_HEADER: f"{payload}x.{mark}"}, 403),
            ({**good, PASS_HEADER: ""}, 403),
            ({WAY_HEADER: STORE}, 403),
            ({**good, WAY_HEADER: "6" * 32}, 404),
            ({PASS_HEADER: good[PASS_HEADER], NAME_HEADER: "d1"}, 404),
        ):
            refused = await found.asks.post("/query", headers=headers)
            assert refused.status_code == status
            assert AWAY_HEADER in refused.headers
        assert found.store.requests == 1
        a = found.machines.doors["a"]
        await Counted(a).is_(data_forbidden=5, data_unknown=2)


async def test_a_way_to_objects_carries_no_pass_and_no_claim_of_a_caller() -> None:
    """Goal: what a worker puts into a request is never taken for what the platform says."""
    async with two() as found:
        claims = {GRANTED_HEADER: "mine", NAME_HEADER: "d1", PASS_HEADER: "mine.mine"}
        answer = await found.asks.get("/", headers={WAY_HEADER: OBJECTS, **claims})
        told = answer.json()
        assert told["cell"] == "b-objects"
        assert not [name for name in told["headers"] if name.startswith("x-kythera")]


async def test_what_was_sent_to_a_home_is_never_sent_twice() -> None:
    """Goal: nothing is done two times. Method: a store that dies in a request, also a GET."""
    async with two() as found:
        headers = {WAY_HEADER: OBJECTS}
        answer = await found.asks.get("/cut", headers=headers)
        assert answer.status_code == 502
        assert AWAY_HEADER in answer.headers
        assert found.objects.requests == 1


async def test_a_home_that_is_gone_is_named_soon() -> None:
    """Goal: an error within a deadline, in words; and none once the home is back."""
    async with two() as found:
        headers = {WAY_HEADER: OBJECTS}
        door = found.machines.doors["b"]
        door.kill()
        with anyio.fail_after(OUT_S):
            answer = await found.asks.get("/", headers=headers)
        assert answer.status_code == 503
        assert "the machine b, which keeps these data" in answer.json()["error"]
        door.start()
        await door.front.ready()
        assert (await found.asks.get("/", headers=headers)).status_code == 200


async def test_what_is_kept_comes_and_goes_without_a_reload() -> None:
    """Goal: a deploy of a worker with objects reloads nobody, and what went can come again."""
    async with two() as found:
        a, b = found.machines.doors["a"], found.machines.doors["b"]
        fresh = await b.cell("b-fresh")
        for _ in range(2):
            b.world.data["o2.sock"], a.world.ways["7" * 32] = str(fresh.path), "b|o2.sock|"
            for door in (b, a):
                assert (await door.apply()).startswith("socket")
            answer = await found.asks.get("/", headers={WAY_HEADER: "7" * 32})
            assert answer.json()["cell"] == "b-fresh"
            del b.world.data["o2.sock"]
            assert (await b.apply()).startswith("socket")
            answer = await found.asks.get("/", headers={WAY_HEADER: "7" * 32})
            assert answer.status_code == 503
            await b.front.loads()
        await Counted(b).is_(data_absent=2)


async def test_a_removed_machine_loses_what_it_holds_open() -> None:
    """Goal: its objects' sockets end, in an old process too, and nothing new begins."""
    async with two() as found:
        b = found.machines.doors["b"]
        context = found.machines.identities.context(found.machines.identities.machine("a"))
        base, sni = f"https://127.0.0.1:{b.mesh_port}", {"sni_hostname": "data.kythera"}
        headers = {NAME_HEADER: "o1.sock"}
        async with (
            httpx.AsyncClient(verify=context, base_url=base) as removed,
            AsyncExitStack() as all_,
        ):
            standing = []
            for _ in ("an old process", "the newest one"):
                stream = removed.stream("GET", "/events", headers=headers, extensions=sni)
                standing.append(await all_.enter_async_context(stream))
                await b.reload()
            found.machines.removed.add("a")
            b.world.peers = found.machines.peers("b")
            await b.apply()
            with anyio.fail_after(OUT_S):
                for each in standing:
                    with suppress(httpx.HTTPError):
                        assert [piece async for piece in each.aiter_bytes()]
            with pytest.raises(httpx.HTTPError):
                await removed.get("/", headers=headers, extensions=sni)
