"""The front door with a real HAProxy: requests find their worker and cell, changes hurt nobody."""

import json
import re
from collections import Counter

import anyio
import httpx
import pytest
import websockets

from kythera.model.traffic import Share
from kythera.route.runtime import processes
from kythera.run.solo import ALL, ONE
from tests.route.doors import ACCOUNT, Door, cell_released, opened

pytestmark = [pytest.mark.real, pytest.mark.anyio]


async def test_a_host_leads_to_its_worker_whatever_its_case_port_or_final_dot() -> None:
    """Hosts are normalised before they are looked up; unknown ones are 404."""
    async with opened() as door:
        door.world.worker("hello", {await door.cell("c1"): 100})
        assert (await door.apply()).startswith("socket")
        for host in ("hello.localhost", "HELLO.localhost.", "hello.LOCALHOST:8080"):
            assert await door.cell_of(host) == "c1"
        assert await door.cell_of("other.localhost") == "404"
        assert await door.cell_of("[::1]:80") == "404"


async def test_routes_go_before_domains_and_domains_before_worker_hostnames() -> None:
    """Each kind of address is tried in Cloudflare's order, the most specific pattern first."""
    async with opened() as door:
        for name in ("site", "shop", "wild", "deep"):
            door.world.worker(name, {await door.cell(name): 100})
        door.world.domains("site", "a.example.com", "b.example.com")
        door.world.routes("shop", "a.example.com/shop/*", "http://a.example.com/cart")
        door.world.routes("wild", "*.example.com/wild*", "https://a.example.com/*")
        door.world.routes("deep", "a.example.com/shop/deep/*")
        await door.apply()
        for host, path, cell in (
            ("a.example.com", "/", "site"),
            ("a.example.com", "/shop/x?y", "shop"),
            ("A.example.com.:80", "/shop/deep/x", "deep"),
            ("a.example.com", "/Shop/x", "site"),
            ("a.example.com", "/cart", "shop"),
            ("a.example.com", "/cart?x", "site"),
            ("a.example.com", "/wild1", "wild"),
            ("c.d.example.com", "/wild", "wild"),
            ("c.example.com", "/", "404"),
            ("b.example.com", "/w", "site"),
            ("deep.localhost", "/", "deep"),
        ):
            assert await door.cell_of(host, path) == cell, (host, path)


async def test_a_deploy_swaps_cells_by_socket_while_requests_run() -> None:
    """Twenty swaps under load: no failure, no reload, and old cells are deleted once quiet."""
    async with opened() as door, anyio.create_task_group() as tasks:
        door.world.worker("hello", {await door.cell("c0"): 100})
        await door.apply()
        counts: Counter[str] = Counter()
        for _ in range(8):
            tasks.start_soon(_ask_for_ever, door, counts)
        for number in range(1, 21):
            cell = await door.cell(f"c{number}")
            door.world.worker("hello", {cell: 100})
            assert (await door.apply()).startswith("socket")
            await _until(lambda name=cell.name: counts[name] > 5)
        tasks.cancel_scope.cancel()
    assert set(counts) == {f"c{number}" for number in range(21)}


async def test_retired_cells_are_deleted_when_their_last_request_ends() -> None:
    """A removed cell finishes what is inside, takes nothing new, then disappears."""
    async with opened() as door, anyio.create_task_group() as tasks:
        old, new = await door.cell("old"), await door.cell("new")
        door.world.worker("hello", {old: 100})
        await door.apply()
        answers: list[str] = []

        async def ask_slowly() -> None:
            answers.append(await door.cell_of("hello.localhost", "/slow"))

        tasks.start_soon(ask_slowly)
        await _until(lambda: old.requests == 1)
        door.world.worker("hello", {new: 100})
        await door.apply()
        assert await door.cell_of("hello.localhost") == "new"
        assert (await door.front.loads())["old"].current == 1
        cell_released["old"].set()
        with anyio.fail_after(10):
            while "old" in await door.front.loads():
                await anyio.sleep(0.05)
        assert answers == ["old"]


async def test_slots_grow_by_a_reload_that_fails_no_request() -> None:
    """The 65th worker needs more backends: HAProxy reloads under load and loses nothing."""
    async with opened() as door, anyio.create_task_group() as tasks:
        cell = await door.cell("c0")
        door.world.worker("w0", {cell: 100})
        await door.apply()
        counts: Counter[str] = Counter()
        for _ in range(8):
            tasks.start_soon(_ask_for_ever, door, counts, "w0.localhost")
        await _until(lambda: counts["c0"] > 50)
        for number in range(1, 70):
            share = Share(server=f"x{number}", version_id="v", path=str(cell.path), percentage=100)
            door.world.worker(f"w{number}", {share: 100})
        assert (await door.apply()).startswith("reload")
        seen = counts["c0"]
        await _until(lambda: counts["c0"] > seen + 200)
        tasks.cancel_scope.cancel()
    assert set(counts) == {"c0"}


async def test_percentages_split_requests_and_keys_stick() -> None:
    """10/90 is exact without a key; with one, each key keeps its version through a cell swap."""
    async with opened() as door:
        a, b, c = [await door.cell(name) for name in ("a", "b", "c")]
        door.world.worker("hello", {a: 10, b: 90})
        await door.apply()
        found = Counter([await door.cell_of("hello.localhost") for _ in range(200)])
        assert found == {"a": 20, "b": 180}
        keys = [f"visitor {n}" for n in range(200)]
        before = {k: await _keyed(door, k) for k in keys}
        assert 5 <= Counter(before.values())["a"] <= 40
        assert before == {k: await _keyed(door, k) for k in keys}
        swapped = Share(server="c", version_id="b", path=str(c.path), percentage=90)
        door.world.serve("hello", *door.world.traffic[ACCOUNT, "hello"].shares[:1], swapped)
        await door.apply()
        after = {k: await _keyed(door, k) for k in keys}
        assert after == {k: "c" if cell == "b" else cell for k, cell in before.items()}


async def test_version_overrides_reach_deployed_versions_alone() -> None:
    """An override wins over weights and keys; one for another worker or version is ignored."""
    async with opened() as door:
        a, b = await door.cell("a"), await door.cell("b")
        door.world.worker("hello", {a: 100, b: 0})
        await door.apply()
        for override, cell in (
            ('hello="b"', "b"),
            ('other="a", hello="b"', "b"),
            ('one="x",two="y",three="z",hello="b"', "b"),
            ('other="b"', "a"),
            ('hello="nosuch"', "a"),
            ("hello=b", "a"),
            ("%00", "a"),
        ):
            told = {"Cloudflare_Workers_Version_Overrides": override}
            assert await door.cell_of("hello.localhost", **told) == cell, override


async def test_requests_wait_in_the_backlog_until_a_cell_starts() -> None:
    """Nobody accepts yet: the request waits instead of failing, also a POST with a body."""
    async with opened() as door, anyio.create_task_group() as tasks:
        cell = await door.cell("cold", started=False)
        door.world.worker("hello", {cell: 100})
        await door.apply()
        answers: list[httpx.Response] = []

        async def ask(body: bytes) -> None:
            headers = {"Host": "hello.localhost"}
            answers.append(await door.client.post("/", content=body, headers=headers))

        for size in (0, 10, 300_000):
            tasks.start_soon(ask, bytes(size))
        with anyio.fail_after(5):
            while (await door.front.loads())["cold"].current < 3:
                await anyio.sleep(0.02)
        await cell.start()
        await _until(lambda: len(answers) == 3)
        assert sorted(answer.json()["size"] for answer in answers) == [0, 10, 300_000]


async def test_a_failing_worker_answers_503_at_once_and_serves_again() -> None:
    """The failing map beats the backlog, with Retry-After, until the entry is taken away."""
    async with opened() as door:
        cell = await door.cell("c1", started=False)
        door.world.worker("hello", {cell: 100})
        door.world.failing[ACCOUNT, "hello"] = 'exit 1;\n  out of "memory" \\'
        await door.apply()
        answer = await door.get("hello.localhost")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        await cell.start()
        door.world.failing.clear()
        assert (await door.apply()).startswith("socket")
        assert await door.cell_of("hello.localhost") == "c1"


async def test_clients_cannot_forge_what_the_front_door_says() -> None:
    """Our headers replace the client's; the worker's cannot claim our marks."""
    async with opened() as door:
        door.world.worker("hello", {await door.cell("c1"): 100})
        await door.apply()
        names = (
            "CF-Connecting-IP CF-Ray CF-Visitor CF-Blob X-Forwarded-For X-Forwarded-Proto "
            "X-Real-IP X-Kythera-Anything CF-IPCountry"
        ).split()
        forged = {"Host": "hello.localhost"} | dict.fromkeys(names, "forged")
        answer = await door.client.get("/", headers=forged)
        got = answer.json()["headers"]
        assert "forged" not in json.dumps(got)
        assert got["cf-connecting-ip"] == "127.0.0.1"
        assert got["x-forwarded-proto"] == "http"
        assert not got.keys() & {"cf-visitor", "x-real-ip", "x-forwarded-for"}
        blob = json.loads(got["cf-blob"])
        assert (blob["colo"], blob["httpProtocol"]) == ("local", "HTTP/1.1")
        assert isinstance(blob["clientTcpRtt"], int)
        assert re.fullmatch(r"[0-9a-f]{16}-local", got["cf-ray"])
        assert answer.headers["cf-ray"] == got["cf-ray"]
        assert not [name for name in answer.headers if name.startswith("x-kythera")]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [("/boom", 500, 1101), ("/cut", 503, 1102), ("/refused", 503, 1102), ("", 404, 1001)],
)
async def test_errors_come_as_html_json_or_text(path: str, status: int, code: int) -> None:
    """Browsers get a page, JSON clients JSON, curl a line; each with the ray id."""
    async with opened() as door:
        door.world.worker("hello", {await door.cell("c1"): 100})
        await door.apply()
        host = "hello.localhost" if path else "nobody.localhost"
        for accept, kind in (
            ("text/html,application/xhtml+xml,application/json;q=0.9", "text/html; charset=utf-8"),
            ("application/json", "application/json"),
            ("application/problem+json", "application/json"),
            ("*/*", "text/plain; charset=utf-8"),
        ):
            # A request that is not its connection's first may be answered by a hang-up alone.
            answer = await door.get(host, path or "/", Accept=accept, Connection="close")
            assert (answer.status_code, answer.headers["content-type"]) == (status, kind)
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["cf-ray"] in answer.text
            assert str(code) in answer.text
            assert ("retry-after" in answer.headers) == (status == 503)
            if kind == "application/json":
                told = answer.json()
                assert told["errors"][0]["code"] == code
                assert (told["success"], told["ray_id"]) == (False, answer.headers["cf-ray"])


async def test_a_workers_own_500_passes_as_it_is() -> None:
    """Only an answer that no JavaScript made becomes error 1101; one that lacks a type is not
    enough."""
    async with opened() as door:
        door.world.worker("hello", {await door.cell("c1"): 100})
        await door.apply()
        answer = await door.get("hello.localhost", "/500")
        assert (answer.status_code, answer.text) == (500, "mine")
        alike = await door.get("hello.localhost", "/500-alike")
        assert (alike.status_code, alike.text) == (500, "my own server error. ")
        assert (
            await door.client.head("/boom", headers={"Host": "hello.localhost"})
        ).status_code == 500


async def test_only_safe_methods_are_tried_again() -> None:
    """A cell that ends without a word: GET is repeated, POST is not."""
    async with opened() as door:
        cell = await door.cell("c1")
        door.world.worker("hello", {cell: 100})
        await door.apply()
        assert await door.cell_of("hello.localhost", "/once-cut") == "c1"
        assert cell.requests == 2
        cell.requests = 0
        headers = {"Host": "hello.localhost", "Connection": "close"}
        async with httpx.AsyncClient(base_url=door.client.base_url) as fresh:
            answer = await fresh.post("/once-cut", headers=headers)
        assert (answer.status_code, cell.requests) == (503, 1)


async def test_a_cell_gets_one_request_at_a_time_when_told_so_and_all_again() -> None:
    """The others wait in HAProxy; those too that met a cell which ended, and are tried again."""
    async with opened() as door, anyio.create_task_group() as tasks:
        cell = await door.cell("c1")
        door.world.worker("hello", {cell: 100})
        await door.apply()
        for _ in range(4):
            tasks.start_soon(door.cell_of, "hello.localhost", "/slow")
        await _until(lambda: cell.requests == 4)
        await door.front.at_once("c1", ONE)
        await cell.stop()
        await cell.start()
        await _until(lambda: cell.requests == 5)
        assert (await door.front.loads())["c1"].current == 1
        await door.front.at_once("c1", ALL)
        await _until(lambda: cell.requests == 8)
        cell_released["c1"].set()


async def test_a_new_agent_adopts_a_running_haproxy_without_a_reload() -> None:
    """The files and the mark are enough for the next agent to go on by socket."""
    async with opened() as door:
        door.world.worker("hello", {await door.cell("c1"): 100})
        await door.apply()
        door.new_front()
        assert (await door.apply()) == "socket: The front door is as planned."
        door.world.worker("hello", {await door.cell("c2"): 100})
        assert (await door.apply()).startswith("socket")
        assert await door.cell_of("hello.localhost") == "c2"


async def test_doubt_ends_in_a_reload() -> None:
    """A lost mark, a HAProxy restarted behind our back, a cell we did not add: all heal."""
    async with opened() as door:
        door.world.worker("hello", {await door.cell("c1"): 100})
        await door.apply()
        (door.folder / "haproxy" / "applied.json").unlink()
        assert (await door.apply()).startswith("reload")
        door.kill()
        door.start()
        await door.front.ready()
        assert await door.cell_of("hello.localhost") == "c1"
        assert (await door.apply()).startswith("reload")
        assert (await door.apply()).startswith("socket")


async def test_totals_never_fall_over_a_reload() -> None:
    """Requests counted by a process that ended stay counted.

    What a process served after we last asked and before it ended is not known: here, the one
    request with which a client's connection leaves it."""
    async with opened() as door:
        door.world.worker("hello", {await door.cell("c1"): 100})
        await door.apply()
        before = 0
        for reloads in range(3):
            for _ in range(7):
                await door.cell_of("hello.localhost")
            total = (await door.front.loads())["c1"].requests
            assert max(before, 7 * (reloads + 1) - reloads) <= total <= 7 * (reloads + 1)
            before = total
            await door.reload()


async def test_a_process_that_drains_hands_later_requests_to_the_newest() -> None:
    """A client kept its connection over a reload and a swap: the new cell answers it, though the
    old process never heard of it, and its WebSocket in the old process goes on."""
    async with opened() as door:
        old = await door.cell("c1")
        door.world.worker("hello", {old: 100})
        await door.apply()
        url = f"ws://hello.localhost:{door.port}/ws"
        async with websockets.connect(url, host="127.0.0.1", proxy=None) as client:
            assert await door.cell_of("hello.localhost") == "c1"
            await door.reload()
            assert len((await processes(door.folder / "m.sock")).old) == 1
            door.world.worker("hello", {await door.cell("c2"): 100})
            door.world.worker("late", {await door.cell("c3"): 100})
            assert (await door.apply()).startswith("socket")
            # This client's connection belongs to the old process until it is told to close.
            answer = await door.get("late.localhost", "/x", X_Real_IP="forged")
            assert (answer.json()["cell"], answer.headers["connection"]) == ("c3", "close")
            told = answer.json()["headers"]
            assert (told["cf-connecting-ip"], told["x-forwarded-proto"]) == ("127.0.0.1", "http")
            assert "x-real-ip" not in told
            assert told["cf-ray"] == answer.headers["cf-ray"]
            loads = await door.front.loads()
            assert (loads["c1"].current, loads["c2"].current, loads["c3"].requests) == (1, 0, 1)
            await client.send("still here")
            assert await client.recv() == "still here"


@pytest.mark.parametrize(("host", "path", "status"), [("hello", "/boom", 500), ("no", "/", 404)])
async def test_pages_are_whole_when_relayed(host: str, path: str, status: int) -> None:
    """Two processes handle one request; the visitor sees one page, in the form asked for."""
    async with opened() as door:
        door.world.worker("hello", {await door.cell("c1"): 100})
        await door.apply()
        assert await door.cell_of("hello.localhost") == "c1"
        await door.reload()
        answer = await door.get(f"{host}.localhost", path, Accept="application/json")
        assert (answer.status_code, answer.headers["connection"]) == (status, "close")
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["ray_id"] == answer.headers["cf-ray"]
        assert not [name for name in answer.headers if name.startswith("x-kythera")]


async def _keyed(door: Door, key: str) -> str:
    return await door.cell_of("hello.localhost", Cloudflare_Workers_Version_Key=key)


async def _ask_for_ever(door: Door, counts: Counter[str], host: str = "hello.localhost") -> None:
    while True:
        try:
            counts[await door.cell_of(host)] += 1
        except httpx.HTTPError as error:
            counts[repr(error)] += 1


async def _until(holds: object, deadline_s: float = 15) -> None:
    assert callable(holds)
    with anyio.fail_after(deadline_s):
        while not holds():
            await anyio.sleep(0.01)
