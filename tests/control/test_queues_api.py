"""Queues over HTTP: made, found by name, given consumers, refused with Cloudflare's codes."""

from typing import Any

import pytest

from tests.control.world import ACCOUNT, ROOT, World, form

pytestmark = pytest.mark.anyio
QUEUES = f"{ROOT}/accounts/{ACCOUNT}/queues"


async def made(world: World, name: str, **settings: Any) -> dict[str, Any]:
    """Make a queue."""
    found: dict[str, Any] = await world.ok(
        "POST", QUEUES, {"queue_name": name, "settings": settings}
    )
    return found


async def test_queues_are_made_found_and_changed(world: World) -> None:
    """Goal: lists end, names filter, settings not spoken of stay."""
    queue = await made(world, "mail", delivery_delay=3)
    await made(world, "other")
    names = [q["queue_name"] for q in await world.ok("GET", f"{QUEUES}?page=1")]
    assert names == ["mail", "other"]
    assert await world.ok("GET", f"{QUEUES}?page=2&per_page=2") == []
    (found,) = await world.ok("GET", f"{QUEUES}?page=1&name=mail&name=absent")
    assert found["queue_id"] == queue["queue_id"]
    one = f"{QUEUES}/{queue['queue_id']}"
    await world.ok("PATCH", one, {"queue_name": "mail", "settings": {"delivery_paused": True}})
    settings = (await world.ok("GET", one))["settings"]
    assert (settings["delivery_delay"], settings["delivery_paused"]) == (3, True)


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ({"queue_name": "a_b"}, 11003),
        ({"queue_name": "A"}, 11003),
        ({"queue_name": "mail"}, 11009),
        ({}, 10021),
        ({"queue_name": "x", "settings": {"delivery_delay": 86_401}}, 10021),
        ({"queue_name": "x", "settings": {"message_retention_period": 60}}, 10021),
    ],
)
async def test_a_queue_that_cannot_be_is_refused(
    world: World, document: dict[str, Any], code: int
) -> None:
    """Goal: Cloudflare's codes; nothing is stored."""
    await made(world, "mail")
    assert (await world.refused("POST", QUEUES, document))[1] == code
    assert len(await world.ok("GET", QUEUES)) == 1


async def test_a_queue_has_one_consumer_that_can_hear(world: World) -> None:
    """Goal: absent and deaf workers, a second consumer and odd settings are refused; a dead letter
    queue is made with the consumer that names it."""
    one = f"{QUEUES}/{(await made(world, 'mail'))['queue_id']}/consumers"
    consumer = {"type": "worker", "script_name": "hello", "dead_letter_queue": "dead"}
    assert (await world.refused("POST", one, consumer))[1] == 10007
    await world.deploy()
    assert (await world.refused("POST", one, consumer))[1] == 11001
    assert (await world.refused("POST", one, {"type": "r2_bucket"}))[1] == 10021
    pull = {"type": "http_pull", "dead_letter_queue": "dead"}
    for settings in ({"batch_size": 101}, {"max_retries": 101}, {"visibility_timeout_ms": 0}):
        assert (await world.refused("POST", one, {**pull, "settings": settings}))[1] == 10021
    told = await world.ok("POST", one, pull)
    assert told["settings"]["batch_size"] == 10
    assert [q["queue_name"] for q in await world.ok("GET", QUEUES)] == ["dead", "mail"]
    assert (await world.refused("POST", one, pull))[1] == 11004
    changed = await world.ok("PUT", f"{one}/{told['consumer_id']}", {"type": "http_pull"})
    assert changed["consumer_id"] == told["consumer_id"]
    await world.ok("DELETE", f"{one}/{told['consumer_id']}")
    assert await world.ok("GET", one) == []
    assert (await world.refused("DELETE", f"{one}/{told['consumer_id']}"))[1] == 11000


async def test_a_binding_leads_to_a_queue_that_is_there(world: World) -> None:
    """Goal: an upload is refused by name and stores nothing; a bound queue is not deleted."""
    binding = {"type": "queue", "name": "MAIL", "queue_name": "mail"}
    files = form(main_module="index.js", bindings=[binding])
    refused = await world.refused("PUT", "scripts/hello", files=files)
    assert refused[1] == 11000
    assert "Queue binding 'MAIL' references queue 'mail' which was not found" in refused[2]
    queue = await made(world, "mail")
    await world.deploy("hello", bindings=[binding])
    (found,) = await world.ok("GET", QUEUES)
    assert [producer["script"] for producer in found["producers"]] == ["hello"]
    refused = await world.refused("DELETE", f"{QUEUES}/{queue['queue_id']}")
    assert refused[:2] == (409, 11005)
    assert "hello" in refused[2]


async def test_what_needs_the_store_says_that_it_is_away(world: World) -> None:
    """Goal: nothing is said to be purged, pulled or sent that is not."""
    one = f"{QUEUES}/{(await made(world, 'mail'))['queue_id']}"
    await world.ok("POST", f"{one}/consumers", {"type": "http_pull"})
    for path, document in (
        ("purge", {"delete_messages_permanently": True}),
        ("messages", {"body": 1}),
        ("messages/batch", {"messages": [{"body": "x", "content_type": "text"}]}),
        ("messages/pull", {}),
        ("messages/ack", {"acks": [{"lease_id": "1.2.3"}]}),
    ):
        assert (await world.call("POST", f"{one}/{path}", document)).status_code == 503
    assert (await world.refused("POST", f"{one}/purge", {}))[1] == 10021
    assert (await world.refused("POST", f"{one}/messages/ack", {"acks": [{"lease_id": "x"}]}))[
        1
    ] == 10021
    large = {"body": "x" * 128_001, "content_type": "text"}
    assert (await world.refused("POST", f"{one}/messages", large))[1] == 10021
    assert (await world.refused("GET", f"{QUEUES}/absent"))[1] == 11000
