"""Several real HAProxies: requests are served by another machine, and the visitor cannot tell."""

import dataclasses
import json
import signal
import time
from collections import Counter

import anyio
import httpx
import msgspec
import pytest
import websockets

from kythera.route.door_watch import DoorWatch
from kythera.route.forwarding import PeerTraffic
from tests.route.doors import Door, cell_released
from tests.route.fleets import Fleet, fleet

pytestmark = [pytest.mark.real, pytest.mark.anyio]

ASKING = 6
GONE_S = 3.0
"""Within how long a machine that died or hangs must be asked no more."""


async def test_a_drained_machine_fails_no_request() -> None:
    """Readers and writers go on while it drains and comes back; others serve them meanwhile."""
    async with fleet(a="here", b="here") as machines, anyio.create_task_group() as tasks:
        await machines.worker("hello")
        await machines.apply()
        counts: Counter[str] = Counter()
        for method in ("GET", "POST", "GET", "POST"):
            tasks.start_soon(_ask_for_ever, machines.doors["a"], counts, method)
        for _ in range(3):
            assert (await machines.drain("a")).startswith("socket")
            await _until(lambda seen=counts["b-hello"]: counts["b-hello"] > seen + 100)
            served = machines.cell("a", "hello").requests
            await _until(lambda seen=counts["b-hello"]: counts["b-hello"] > seen + 100)
            assert machines.cell("a", "hello").requests == served
            await machines.drain("a", draining=False)
            await _until(lambda seen=counts["a-hello"]: counts["a-hello"] > seen + 100)
        tasks.cancel_scope.cancel()
    assert set(counts) == {"a-hello", "b-hello"}


async def test_what_the_first_machine_says_of_a_visitor_survives_the_hop() -> None:
    """Address, ray and blob are the first machine's, and the answer's ray is the request's."""
    async with fleet(a="flat", b="far") as machines:
        await machines.worker("hello")
        await machines.apply()
        await machines.drain("a")
        names = "CF-Connecting-IP CF-Ray CF-Blob X-Forwarded-Proto X-Kythera-Scheme X-Kythera-Peer"
        forged = dict.fromkeys(names.split(), "forged") | {"Host": "hello.localhost"}
        answer = await machines.doors["a"].client.get("/x?y", headers=forged)
        told = answer.json()
        headers = told["headers"]
        assert (told["cell"], told["target"]) == ("b-hello", "/x?y")
        assert "forged" not in json.dumps(headers)
        assert (headers["cf-connecting-ip"], headers["x-forwarded-proto"]) == ("127.0.0.1", "http")
        assert json.loads(headers["cf-blob"])["colo"] == "flat"
        assert headers["cf-ray"] == answer.headers["cf-ray"]
        assert headers["cf-ray"].endswith("-flat")
        assert headers["host"] == "hello.localhost"
        assert not [name for name in answer.headers if name.startswith("x-kythera")]


async def test_all_machines_agree_on_a_workers_home() -> None:
    """Whichever machine is asked, one of the site serves a rare worker; the far one is no home."""
    workers = [f"w{number}" for number in range(40)]
    async with fleet(a="here", b="here", c="here", d="there") as machines:
        for worker in workers:
            await machines.worker(worker)
        for door in machines.doors.values():
            door.world.where = dict.fromkeys(workers, "home")
        await machines.apply()
        homes: dict[str, set[str]] = {worker: set() for worker in workers}
        for name in ("a", "b", "c"):
            for worker in workers:
                cell = await machines.doors[name].cell_of(f"{worker}.localhost")
                homes[worker].add(cell.partition("-")[0])
        assert all(len(found) == 1 for found in homes.values()), homes
        spread = Counter(found.pop() for found in homes.values())
        assert set(spread) == {"a", "b", "c"}
        assert min(spread.values()) >= 4
        assert await machines.doors["d"].cell_of("w0.localhost") == "d-w0"
        homed = await machines.doors["a"].front.homed()
        assert {worker for _, worker in homed} == set(workers)
        assert set(homed.values()) == {1}


async def test_a_busy_home_lets_the_next_one_take_it() -> None:
    """Requests that wait at home are company enough: the next goes to another machine."""
    async with fleet(a="here", b="here") as machines, anyio.create_task_group() as tasks:
        await machines.worker("hello")
        for door in machines.doors.values():
            door.world.where = {"hello": "home"}
        await machines.apply()
        door = machines.doors["a"]
        home = (await door.cell_of("hello.localhost")).partition("-")[0]
        other = "b" if home == "a" else "a"
        for _ in range(4):
            tasks.start_soon(door.cell_of, "hello.localhost", "/slow")
        await _until(lambda: machines.cell(other, "hello").requests > 0)
        assert machines.cell(home, "hello").requests > 1
        for name in machines.doors:
            cell_released[f"{name}-hello"].set()


@pytest.mark.parametrize("way", ["killed", "stopped"])
async def test_a_machine_that_dies_or_hangs_is_asked_no_more(way: str) -> None:
    """Visitors of another are served by a third within seconds, those on their way too."""
    async with fleet(a="here", b="here", c="here") as machines, anyio.create_task_group() as tasks:
        await machines.worker("hello")
        await machines.apply()
        await machines.drain("a")
        door = machines.doors["a"]
        serving = (await door.cell_of("hello.localhost")).partition("-")[0]
        other = "c" if serving == "b" else "b"
        counts: Counter[str] = Counter()
        for _ in range(ASKING):
            tasks.start_soon(_ask_for_ever, door, counts)
        await _until(lambda: counts[f"{serving}-hello"] > 20)
        began = time.monotonic()
        if way == "killed":
            machines.doors[serving].kill()
            machines.doors[serving].sockets["mesh"].close()
        else:
            machines.signal(serving, signal.SIGSTOP)
        await _until(lambda: counts[f"{other}-hello"] > 20, GONE_S)
        await machines.until("a", serving, "down", GONE_S)
        assert time.monotonic() - began < GONE_S
        seen = counts[f"{other}-hello"]
        await _until(lambda: counts[f"{other}-hello"] > seen + 100)
        if way == "stopped":
            machines.signal(serving, signal.SIGCONT)
            await machines.until("a", serving, "up")
        tasks.cancel_scope.cancel()
    failed = sum(count for cell, count in counts.items() if not cell.endswith("-hello"))
    # What is inside a machine that hangs may fail, but does not wait for ever.
    assert failed <= (0 if way == "killed" else ASKING), counts


async def test_two_machines_that_both_drain_serve_by_themselves_and_never_in_a_loop() -> None:
    """Each is asked once for a request, whatever the other would like."""
    async with fleet(a="here", b="here") as machines:
        await machines.worker("hello")
        await machines.apply()
        # Both send everything away before either has seen that the other is no help.
        for name, door in machines.doors.items():
            door.world.where = {"hello": "away"}
            await door.apply()
            assert name in machines.doors
        assert await machines.doors["a"].cell_of("hello.localhost") == "b-hello"
        assert await machines.doors["b"].cell_of("hello.localhost") == "a-hello"
        for name in machines.doors:
            await machines.drain(name)
        for name, other in (("a", "b"), ("b", "a")):
            await machines.until(name, other, "leaving")
            assert await machines.doors[name].cell_of("hello.localhost") == f"{name}-hello"
        assert sum(machines.cell(name, "hello").requests for name in machines.doors) == 4


async def test_a_far_machine_helps_only_when_no_near_one_is_able() -> None:
    """Same site first; a machine that drains gets nothing new."""
    async with fleet(a="here", b="there", c="here") as machines:
        for number in range(10):
            await machines.worker(f"w{number}")
        await machines.apply()
        await machines.drain("a")
        found = {await machines.doors["a"].cell_of(f"w{n}.localhost") for n in range(10)}
        assert {cell.partition("-")[0] for cell in found} == {"c"}
        await machines.drain("c")
        await machines.until("a", "c", "leaving")
        found = {await machines.doors["a"].cell_of(f"w{n}.localhost") for n in range(10)}
        assert {cell.partition("-")[0] for cell in found} == {"b"}


async def test_a_machine_that_cannot_serve_it_refuses_and_the_next_is_asked() -> None:
    """A cell that does not start, and a worker not heard of yet: no visitor sees either."""
    async with fleet(a="here", b="here", c="here") as machines:
        for number in range(8):
            await machines.worker(f"w{number}", on=("a", "c") if number < 4 else ())
        world = machines.doors["b"].world
        for number in range(4, 8):
            world.failing["a" * 32, f"w{number}"] = "exit 1"
        await machines.apply()
        await machines.drain("a")
        for number in range(8):
            assert await machines.doors["a"].cell_of(f"w{number}.localhost") == f"c-w{number}"
            assert machines.cell("a", f"w{number}").requests == 0


async def test_a_request_that_nobody_can_serve_gets_the_page() -> None:
    """Refused everywhere: 503 with Retry-After, in the form that was asked for, and no mark."""
    async with fleet(a="here", b="here") as machines:
        await machines.worker("hello")
        for name, door in machines.doors.items():
            door.world.failing["a" * 32, "hello"] = f"exit 1 on {name}"
        await machines.apply()
        await machines.drain("a")
        for method in ("GET", "POST"):
            answer = await machines.doors["a"].client.request(
                method, "/", headers={"Host": "hello.localhost", "Accept": "application/json"}
            )
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert answer.json()["ray_id"] == answer.headers["cf-ray"]
            assert not [name for name in answer.headers if name.startswith("x-kythera")]


@pytest.mark.parametrize(
    ("path", "status", "code"), [("/boom", 500, "1101"), ("/cut", 503, "1102"), ("/500", 500, "")]
)
async def test_errors_of_a_worker_elsewhere_look_as_they_do_here(
    path: str, status: int, code: str
) -> None:
    """The same pages, once; a worker's own 500 passes as it is."""
    async with fleet(a="here", b="here") as machines:
        await machines.worker("hello")
        await machines.apply()
        await machines.drain("a")
        answer = await machines.doors["a"].get("hello.localhost", path, Accept="application/json")
        assert answer.status_code == status
        if code:
            assert answer.json()["errors"][0]["code"] == int(code)
            assert answer.json()["ray_id"] == answer.headers["cf-ray"]
        else:
            assert answer.text == "mine"
        assert not [name for name in answer.headers if name.startswith("x-kythera")]


async def test_streams_upgrades_and_large_bodies_pass_the_hop() -> None:
    """What is not a short request and a short answer is no different elsewhere."""
    async with fleet(a="here", b="here") as machines:
        await machines.worker("hello")
        await machines.apply()
        await machines.drain("a")
        door = machines.doors["a"]
        url = f"ws://hello.localhost:{door.port}/ws"
        async with websockets.connect(url, host="127.0.0.1", proxy=None) as client:
            for message in ("hello", bytes(range(256)) * 1024):
                await client.send(message)
                assert await client.recv() == message
        headers = {"Host": "hello.localhost"}
        async with door.client.stream("GET", "/events", headers=headers) as stream:
            pieces = stream.aiter_text()
            assert await anext(pieces) == "data: first\n\n"
            cell_released["b-hello"].set()
            assert await anext(pieces) == "data: second\n\n"
        answer = await door.client.post("/", content=bytes(32 << 20), headers=headers)
        assert (answer.json()["size"], answer.json()["cell"]) == (32 << 20, "b-hello")
        answer = await door.client.get("/download?16", headers=headers)
        assert len(answer.content) == 16 << 20


async def test_version_keys_and_overrides_mean_the_same_elsewhere() -> None:
    """The machine that serves deals the versions: by key, by override, by weight."""
    async with fleet(a="here", b="here") as machines:
        for name, door in machines.doors.items():
            cells = [await door.cell(f"{name}-{version}") for version in ("v1", "v2")]
            door.world.worker("hello", dict(zip(cells, (50, 50), strict=True)))
        await machines.apply()
        await machines.drain("a")
        door = machines.doors["a"]
        for version in ("v1", "v2"):
            told = {"Cloudflare_Workers_Version_Overrides": f'hello="b-{version}"'}
            assert await door.cell_of("hello.localhost", **told) == f"b-{version}"
        for key in range(10):
            told = {"Cloudflare_Workers_Version_Key": f"visitor {key}"}
            found = {await door.cell_of("hello.localhost", **told) for _ in range(3)}
            assert len(found) == 1
            assert found < {"b-v1", "b-v2"}


async def test_health_is_told_to_balancers_and_to_peers() -> None:
    """200 `ready`, 503 `draining`; an overloaded machine is ready, but its peers spare it."""
    async with fleet(a="here", b="here") as machines:
        door = machines.doors["a"]
        for draining, status, word in ((False, 200, "ready"), (True, 503, "draining")):
            await machines.drain("a", draining=draining)
            answer = await door.client.get("/.kythera/health")
            assert (answer.status_code, answer.text) == (status, f"{word}\n")
            context = machines.identities.context(machines.identities.machine("b"))
            async with httpx.AsyncClient(verify=context) as client:
                answer = await client.get(
                    f"https://127.0.0.1:{door.mesh_port}/.kythera/health",
                    extensions={"sni_hostname": "http.kythera"},
                )
            assert (answer.status_code, answer.text) == (status, f"{word}\n")
        await machines.drain("a", draining=False)
        await machines.until("b", "a", "up")
        door.world.peers = machines.peers("a", overloaded=True)
        assert (await door.apply()).startswith("socket")
        await machines.until("b", "a", "leaving")
        assert (await door.client.get("/.kythera/health")).status_code == 200


async def test_a_worker_that_hangs_elsewhere_fills_no_more_than_its_queue_here() -> None:
    """Ten requests on the way to a cell that does not answer, at a door where five may wait: five are
    told so, and another worker's are served."""
    async with fleet(a="here", b="here") as machines:
        await machines.worker("hangs")
        await machines.worker("quiet")
        door = machines.doors["a"]
        few = msgspec.structs.replace(door.options.limits, queue_requests=5)
        door.options = door.front.options = dataclasses.replace(door.front.options, limits=few)
        await machines.apply()
        await machines.drain("a")
        watch, said = DoorWatch(few), Counter[int]()

        async def ask() -> None:
            said[(await door.get("hangs.localhost", "/slow")).status_code] += 1

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(ask)
            await _until(lambda: said[503] == 5)
            assert await door.cell_of("quiet.localhost") == "b-quiet"
            await watch.count(await door.front.asks(), door.front.owner)
            assert watch.refusals.totals()["queue"] == 5
            assert {name[1]: n for name, n in watch.refusals.queues.items()} == {"hangs": 5}
            cell_released["b-hangs"].set()
        assert said == {200: 5, 503: 5}


async def test_requests_to_and_from_each_peer_are_counted() -> None:
    """The totals do not fall when HAProxy reloads."""
    async with fleet(a="here", b="here") as machines:
        await machines.worker("hello")
        await machines.apply()
        await machines.drain("a")
        for round_ in range(3):
            for _ in range(5):
                assert await machines.doors["a"].cell_of("hello.localhost") == "b-hello"
            sent, received = [await _traffic(machines, name) for name in ("a", "b")]
            assert 5 * (round_ + 1) - round_ <= sent["b"].sent <= 5 * (round_ + 1)
            assert 5 * (round_ + 1) - round_ <= received["a"].received <= 5 * (round_ + 1)
            assert (sent["b"].received, received["a"].sent) == (0, 0)
            for door in machines.doors.values():
                await door.reload()
            await machines.until("a", "b", "up")


async def test_a_reload_of_either_machine_fails_no_forwarded_request() -> None:
    """Old processes go on with their clients, and hand what comes later to the newest."""
    async with fleet(a="here", b="here") as machines, anyio.create_task_group() as tasks:
        await machines.worker("hello")
        await machines.apply()
        await machines.drain("a")
        counts: Counter[str] = Counter()
        for method in ("GET", "POST", "GET", "POST"):
            tasks.start_soon(_ask_for_ever, machines.doors["a"], counts, method)
        for name in ("a", "b", "a", "b"):
            await machines.doors[name].reload()
            await _until(lambda seen=counts["b-hello"]: counts["b-hello"] > seen + 100)
        tasks.cancel_scope.cancel()
    assert set(counts) == {"b-hello"}


async def _traffic(machines: Fleet, name: str) -> dict[str, PeerTraffic]:
    front = machines.doors[name].front
    await front.loads()
    return await front.forwarding()


async def _ask_for_ever(door: Door, counts: Counter[str], method: str = "GET") -> None:
    headers = {"Host": "hello.localhost"}
    async with httpx.AsyncClient(base_url=door.client.base_url, timeout=15) as client:
        while True:
            try:
                answer = await client.request(method, "/", headers=headers)
                status = str(answer.status_code)
                counts[answer.json()["cell"] if status == "200" else status] += 1
            except httpx.HTTPError as error:
                counts[repr(error)] += 1


async def _until(holds: object, deadline_s: float = 15) -> None:
    assert callable(holds)
    with anyio.fail_after(deadline_s):
        while not holds():
            await anyio.sleep(0.01)
