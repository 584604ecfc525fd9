"""wrangler tail of what happens in Durable Objects, which are not disturbed by it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.platforms import RunningPlatform
from tests.story.object_workers import called, deploy_shop, shop
from tests.story.test_objects import chat
from tests.story.test_wrangler_tail import watching
from tests.wranglers import VERSIONS, Wrangler, write_project

pytestmark = pytest.mark.story
WORKER = "watched-shop"
NEWEST = max(VERSIONS, key=lambda version: [int(part) for part in version.split(".")])


def is_of(kind: str) -> Callable[[dict[str, Any]], bool]:
    """Return what tells events of one kind, which happened in an object."""

    def holds(event: dict[str, Any]) -> bool:
        return event["executionModel"] == "durableObject" and kind in (event["event"] or {})

    return holds


def test_a_tail_shows_what_happens_in_objects(platform: RunningPlatform, tmp_path: Path) -> None:
    """Goal: calls, alarms, WebSockets' messages and exceptions of objects are seen, with what they
    logged, and who was connected before the tail began stays connected to the same object."""
    deploy_shop(platform, WORKER)
    platform.wait_for(WORKER, "1", "/version")
    folder = write_project(tmp_path, {"name": WORKER}, {"index.js": shop()})
    with chat(platform, WORKER, "anna") as anna:
        anna.send("before")
        said = anna.recv(10)

        def ask() -> None:
            anna.send("during")
            assert str(anna.recv(10)).partition(":")[0] == str(said).partition(":")[0]
            called(platform, WORKER, "add", "room")
            platform.get(WORKER, "/fetch/room?boom")

        def all_seen(_: str) -> bool:
            return all(any(map(is_of(kind), tail.events())) for kind in kinds)

        wrangler = Wrangler(NEWEST, platform, tmp_path / "home")
        kinds = ("request", "rpcMethod", "scheduledTime", "getWebSocketEvent")
        with watching(wrangler, folder, "--format", "json") as tail:
            tail.until(lambda _: any(map(is_of("rpcMethod"), tail.events())), ask)
            called(platform, WORKER, "wake", "room")
            tail.until(all_seen, ask)
            events = tail.events()
            (cell,) = (c for c in platform.status()["objects"] if c["worker"] == WORKER)
            assert (cell["state"], cell["classes"], cell["observed"]) == ("up", ["Shop"], True)
            assert (cell["restarts"], cell["private_bytes"] > 1_000_000) == (0, True)
    assert {event["scriptName"] for event in events} == {WORKER}
    in_objects = [event for event in events if event["executionModel"] == "durableObject"]
    assert {event["entrypoint"] for event in in_objects} == {"Shop"}
    alarm = next(filter(is_of("scheduledTime"), in_objects))
    assert alarm["logs"][0]["message"] == ["woken"]
    failed = next(event for event in in_objects if event["outcome"] == "exception")
    assert failed["event"]["request"]["url"].endswith("/fetch/room?boom")
    assert failed["exceptions"][0]["name"] == "RangeError"
