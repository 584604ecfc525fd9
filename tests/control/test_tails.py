"""Tails: made by a call, watched on a socket, fed by cells, ended with the socket.

The socket is spoken to as a server speaks to an application (ASGI), without a network.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import msgspec
import pytest
from starlette.types import Message

from kythera.control.app import build_events_app
from kythera.control.tails import sweep
from kythera.ground.clock import iso
from kythera.model.limits import Limits
from tests.control.tokens import TOKENS, bearer, token
from tests.control.world import ACCOUNT, World, world_at

pytestmark = pytest.mark.anyio
ANSWER_S = 5.0


class Watcher:
    """A WebSocket client, as the application sees one."""

    def __init__(self) -> None:
        self.said: list[Message] = []
        self._news = anyio.Event()
        self._send, self._to_app = anyio.create_memory_object_stream[Message](100)

    async def receive(self) -> Message:
        """Give the application the next message."""
        return await self._to_app.receive()

    async def send(self, message: Message) -> None:
        """Take what the application says."""
        self.said.append(message)
        self._news.set()
        self._news = anyio.Event()

    def tell(self, kind: str, **fields: Any) -> None:
        """Say something to the application."""
        self._send.send_nowait({"type": kind, **fields})

    async def wait(self, count: int) -> None:
        """Wait until the application has said so many things."""
        with anyio.fail_after(ANSWER_S):
            while len(self.said) < count:
                await self._news.wait()

    @property
    def frames(self) -> list[Any]:
        """What was shown."""
        return [msgspec.json.decode(m["bytes"]) for m in self.said if m["type"] == "websocket.send"]

    def close(self) -> None:
        """Let go of the streams."""
        self._send.close()
        self._to_app.close()


@asynccontextmanager
async def watching(world: World, path: str) -> AsyncIterator[Watcher]:
    """Connect to a tail; disconnect and wait until the application is done."""
    watcher = Watcher()
    scope = {
        "type": "websocket",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"api.test")],
        "subprotocols": ["trace-v1"],
        "scheme": "ws",
        "client": ("127.0.0.1", 1),
        "extensions": {"websocket.http.response": {}},
    }
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.app, scope, watcher.receive, watcher.send)
            watcher.tell("websocket.connect")
            await watcher.wait(1)
            yield watcher
            watcher.tell("websocket.disconnect", code=1000)
    finally:
        watcher.close()


async def made(world: World, *filters: dict[str, Any], **headers: str) -> Any:
    """Make a tail of the worker hello."""
    return await world.ok(
        "POST", "scripts/hello/tails", {"filters": list(filters)}, headers=headers
    )


async def happen(world: World, *events: dict[str, Any]) -> None:
    """Send events as an observed cell does."""
    transport = httpx.ASGITransport(build_events_app(world.services))
    async with httpx.AsyncClient(transport=transport, base_url="http://tail") as client:
        response = await client.post(f"/{ACCOUNT}/hello/some-version", json=list(events))
        assert response.status_code == 204


def event(outcome: str = "ok", **fields: Any) -> dict[str, Any]:
    """Return a trace item."""
    request = {"url": "http://h/", "method": "GET", "headers": {}}
    return {
        "outcome": outcome,
        "scriptName": "hello",
        "logs": [],
        "exceptions": [],
        "eventTimestamp": 1,
        "event": {"request": request},
        **fields,
    }


def path_of(tail: dict[str, str]) -> str:
    """Return the path of a tail's socket."""
    return "/" + tail["url"].split("/", 3)[3]


async def test_a_tail_ends_with_the_token_it_was_made_with(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is turned away sees no more: revoked, or expired, while watching."""
    monkeypatch.setattr("kythera.control.tails.SOCKET_CHECK_S_MAX", 0.01)
    await world.deploy()
    text = await token(world, "read", workers=["hello"])
    tail = await made(world, **bearer(text))
    async with watching(world, path_of(tail)) as watcher:
        await happen(world, event())
        await watcher.wait(2)
        await world.ok("DELETE", f"{TOKENS}/ci")
        await watcher.wait(3)
        assert watcher.said[-1]["type"] == "websocket.close"
    assert world.catalog.tails(ACCOUNT, "hello") == []


async def test_a_watcher_sees_what_happens_in_a_worker(world: World) -> None:
    """The whole way: POST, socket with trace-v1, an event from a cell, the end."""
    await world.deploy()
    tail = await made(world)
    assert tail["url"] == f"ws://api.test/tails/{tail['id']}"
    assert tail["expires_at"] > iso(world.clock.time)
    async with watching(world, path_of(tail)) as watcher:
        assert watcher.said[0]["subprotocol"] == "trace-v1"
        watcher.tell("websocket.receive", text='{"debug":false}')
        await happen(world, event(), event("exception"))
        await watcher.wait(3)
        assert [f["outcome"] for f in watcher.frames] == ["ok", "exception"]
        assert len(world.catalog.tails(ACCOUNT, "hello")) == 1
    assert world.catalog.tails(ACCOUNT, "hello") == []
    await happen(world, event())


async def test_filters_and_another_workers_events_hide_what_was_not_asked_for(
    world: World,
) -> None:
    """`--status error --method GET` and the like."""
    await world.deploy()
    tail = await made(world, {"outcome": ["exception"]}, {"client_ip": ["self"]})
    record = world.catalog.tails(ACCOUNT, "hello")[0]
    assert record.filters[1] == {"client_ip": ["127.0.0.1"]}
    async with watching(world, path_of(tail)) as watcher:
        request = {"url": "u", "method": "GET", "headers": {"CF-Connecting-IP": "::1"}}
        mine = event("exception", event={"request": request})
        await happen(world, event(), event("exception"), mine)
        await watcher.wait(2)
        assert len(watcher.frames) == 1


async def test_the_address_of_a_socket_is_the_capability(world: World) -> None:
    """An unknown or expired one is refused before the handshake."""
    await world.deploy()
    tail = await made(world)
    world.clock.time += 31
    for path in (path_of(tail), "/tails/nothing"):
        async with watching(world, path) as watcher:
            assert watcher.said[0]["type"] == "websocket.http.response.start"
            assert watcher.said[0]["status"] == 404


async def test_a_tail_ends_when_its_worker_does(tmp_path: Path) -> None:
    """The socket is closed, and the record is not written again."""
    async with world_at(tmp_path, Limits(tail_idle_s=0.3)) as world:
        await world.deploy()
        tail = await made(world)
        async with watching(world, path_of(tail)) as watcher:
            await world.ok("DELETE", "services/hello")
            await watcher.wait(2)
            assert watcher.said[-1]["type"] == "websocket.close"
        assert [k for k in world.catalog.records if k.startswith("tail.")] == []


async def test_a_tail_lives_as_long_as_somebody_is_connected(tmp_path: Path) -> None:
    """Its record is renewed while the socket is open."""
    async with world_at(tmp_path, Limits(tail_idle_s=0.3)) as world:
        await world.deploy()
        tail = await made(world)
        async with watching(world, path_of(tail)):
            world.clock.time += 0.2
            with anyio.fail_after(ANSWER_S):
                while True:
                    record = world.catalog.tails(ACCOUNT, "hello")[0]
                    if record.expires_on > tail["expires_at"]:
                        break
                    await anyio.sleep(0.01)
            world.clock.time += 0.2
            assert await sweep(world.services) == 0


async def test_tails_nobody_watches_are_swept(world: World) -> None:
    """The older wrangler never deletes its own."""
    await world.deploy()
    await made(world)
    assert await sweep(world.services) == 0
    world.clock.time += 31
    assert await sweep(world.services) == 1
    assert world.catalog.tails(ACCOUNT, "hello") == []


async def test_a_tail_can_be_deleted_and_there_are_not_too_many(world: World) -> None:
    """DELETE tails/{id}; the eleventh is refused."""
    await world.deploy()
    tail = await made(world)
    await world.ok("DELETE", f"scripts/hello/tails/{tail['id']}")
    await world.ok("DELETE", f"scripts/hello/tails/{tail['id']}")
    for _ in range(world.services.platform.limits.tails_per_worker_max):
        await made(world)
    assert (await world.refused("POST", "scripts/hello/tails", {"filters": []}))[0] == 429


async def test_the_sockets_address_follows_the_name_the_client_used(world: World) -> None:
    """Behind a proxy too; a host that is none is not repeated."""
    await world.deploy()
    tail = await made(world, host="farm.example:8443", **{"x-forwarded-proto": "https"})
    assert tail["url"].startswith("wss://farm.example:8443/tails/")
    strange = await made(world, host="a b/c")
    assert strange["url"].startswith("ws://127.0.0.1:8787/tails/")


async def test_a_slow_watcher_costs_bounded_memory(world: World) -> None:
    """What does not fit into its queue is lost, for it alone."""
    await world.deploy()
    await made(world)
    record = world.catalog.tails(ACCOUNT, "hello")[0]
    watch = world.services.tails.watch(record)
    large = event(logs=[{"level": "log", "message": ["x" * 200_000], "timestamp": 1}])
    for n in range(100):
        world.clock.time += n
        world.services.tails.publish(ACCOUNT, "hello", [large])
    assert watch.lost > 0
    assert watch.waiting_bytes <= 4 * 1024 * 1024
    world.services.tails.forget(watch)


async def test_cells_may_send_nonsense(world: World) -> None:
    """Events come from code that anybody wrote: nothing of it breaks a tail."""
    await world.deploy()
    tail = await made(world, {"query": "x"}, {"method": ["GET"]})
    async with watching(world, path_of(tail)):
        transport = httpx.ASGITransport(build_events_app(world.services))
        async with httpx.AsyncClient(transport=transport, base_url="http://tail") as client:
            for body in (
                b"",
                b"{",
                b"null",
                b"[1,null,{}]",
                b'[{"event":1,"logs":2}]',
                b"[" * 9999,
            ):
                response = await client.post(f"/{ACCOUNT}/hello/v", content=body)
                assert response.status_code in (204, 400)
