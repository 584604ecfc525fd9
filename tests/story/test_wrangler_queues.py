"""Queues by wrangler: made, bound, consumed, retried, dead-lettered, paused, purged, pulled, deleted."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.platforms import RunningPlatform
from tests.processes import wait_until
from tests.wranglers import Wrangler, write_project

pytestmark = pytest.mark.story

CODE = """
const seen = [];
const shown = (body) => body instanceof ArrayBuffer ? [...new Uint8Array(body)]
  : body instanceof Map ? Object.fromEntries(body) : body;
export default {
  async fetch(request, env) {
    const { pathname, searchParams } = new URL(request.url);
    try {
      if (pathname === '/kinds') {
        await env.Q.send({ kind: 'json' });
        await env.Q.send('text', { contentType: 'text' });
        await env.Q.send(new Uint8Array([1, 2, 3]), { contentType: 'bytes' });
        await env.Q.send(new Map([['kind', 'v8']]), { contentType: 'v8' });
        await env.Q.sendBatch([{ body: 'one' }, { body: 'late', delaySeconds: 1 }]);
      } else if (pathname === '/send') {
        await env.Q.send(searchParams.get('body'));
      } else if (pathname === '/large') {
        await env.Q.send('x'.repeat(128_001), { contentType: 'text' });
      }
      return Response.json(seen);
    } catch (error) {
      return new Response(String(error), { status: 500 });
    }
  },
  async queue(batch) {
    for (const message of batch.messages) {
      seen.push([batch.queue, message.attempts, shown(message.body)]);
      if (message.body === 'bad') {
        message.retry();
      } else if (message.body === 'throws') {
        throw new Error('as asked');
      } else {
        message.ack();
      }
    }
  },
};
"""


def seen(platform: RunningPlatform, worker: str) -> list[Any]:
    """Return what the consumer was given: queue, attempt, body."""
    found: list[Any] = json.loads(platform.get(worker).text)
    return found


def queue_of(platform: RunningPlatform, name: str) -> dict[str, Any]:
    """Return a queue as the API shows it."""
    found = platform.call("GET", f"/queues?name={name}").json()["result"]
    return dict(found[0])


def asked(platform: RunningPlatform, name: str, path: str, **body: Any) -> Any:
    """Ask the API about a queue's messages."""
    queue = queue_of(platform, name)["queue_id"]
    answer = platform.call("POST", f"/queues/{queue}{path}", json=body)
    assert answer.is_success, answer.text
    return answer.json()["result"]


def backlog(platform: RunningPlatform, name: str) -> int:
    """Return how many messages wait in a queue."""
    queue = queue_of(platform, name)["queue_id"]
    told = platform.call("GET", f"/queues/{queue}/metrics").json()["result"]
    return int(told["backlog_count"])


def project_of(folder: Path, name: str, queue: str, **consumer: Any) -> Path:
    """Write a worker that sends to a queue and consumes it."""
    config = {
        "name": name,
        "queues": {
            "producers": [{"binding": "Q", "queue": queue}],
            "consumers": [{"queue": queue, "max_batch_timeout": 0, **consumer}],
        },
    }
    return write_project(folder, config, {"index.js": CODE})


def test_messages_of_all_kinds_come_to_the_consumer(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: a queue that is absent is named, or made where wrangler does so; each content type arrives
    as it was sent, delays hold."""
    name, platform = wrangler.name("kinds"), wrangler.platform
    project = project_of(tmp_path, name, name)
    if wrangler.version.startswith("4.86."):
        assert f'Queue "{name}" does not exist' in wrangler.refuse("deploy", project=project).text
        wrangler.do("queues", "create", name)
    else:
        assert f'Creating new Queue "{name}"' in wrangler.do("deploy", project=project).text
    assert name in wrangler.do("queues", "list").text
    wrangler.do("deploy", project=project)
    assert queue_of(platform, name)["consumers"][0]["script"] == name
    platform.wait_for(name, "[]")
    assert platform.get(name, "/kinds").status_code == 200
    wait_until(lambda: len(seen(platform, name)) == 6, "all six came", deadline_s=10)
    bodies = [body for _, _, body in seen(platform, name)]
    wanted = [{"kind": "json"}, "text", [1, 2, 3], {"kind": "v8"}, "one", "late"]
    assert sorted(map(str, bodies)) == sorted(map(str, wanted))
    assert bodies[-1] == "late"
    assert {queue for queue, _, _ in seen(platform, name)} == {name}
    assert platform.get(name, "/large").status_code == 500
    wrangler.do("deploy", project=project)
    assert len(queue_of(platform, name)["consumers"]) == 1


def test_what_fails_is_tried_again_and_then_put_aside(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: `retry()` and an exception are attempts; after max_retries the dead letter queue has it."""
    name, platform = wrangler.name("retried"), wrangler.platform
    dead = f"{name}-dead"
    wrangler.do("queues", "create", name)
    consumer = {"max_retries": 2, "dead_letter_queue": dead}
    wrangler.do("deploy", project=project_of(tmp_path, name, name, **consumer))
    platform.wait_for(name, "[]")
    for body in ("bad", "throws", "good"):
        assert platform.get(name, f"/send?body={body}").status_code == 200
    wait_until(lambda: backlog(platform, dead) == 2, "both are put aside", deadline_s=20)
    attempts = [(body, attempt) for _, attempt, body in seen(platform, name)]
    for body in ("bad", "throws"):
        assert {(body, 1), (body, 2), (body, 3)} <= set(attempts)
        assert (body, 4) not in attempts
    wrangler.do("queues", "consumer", "http", "add", dead)
    pulled = asked(platform, dead, "/messages/pull", batch_size=10)["messages"]
    assert sorted(message["body"] for message in pulled) == ['"bad"', '"throws"']


def test_a_queue_is_paused_purged_and_deleted(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: paused messages wait and then come; purged ones never; consumers come and go by name."""
    name, platform = wrangler.name("paused"), wrangler.platform
    wrangler.do("queues", "create", name, "--delivery-delay-secs", "0")
    wrangler.do("deploy", project=project_of(tmp_path, name, name))
    platform.wait_for(name, "[]")
    wrangler.do("queues", "pause-delivery", name)
    platform.get(name, "/send?body=gone")
    wait_until(lambda: backlog(platform, name) == 1, "it waits")
    wrangler.do("queues", "purge", name, "--force")
    assert backlog(platform, name) == 0
    platform.get(name, "/send?body=kept")
    assert seen(platform, name) == []
    wrangler.do("queues", "resume-delivery", name)
    wait_until(lambda: len(seen(platform, name)) == 1, "it came", deadline_s=20)
    assert seen(platform, name)[0][2] == "kept"
    assert name in wrangler.do("queues", "info", name).text
    wrangler.do("queues", "update", name, "--delivery-delay-secs", "4")
    assert queue_of(platform, name)["settings"]["delivery_delay"] == 4
    assert name in wrangler.refuse("queues", "delete", name).text
    wrangler.do("queues", "consumer", "remove", name, name)
    assert queue_of(platform, name)["consumers"] == []
    wrangler.do("queues", "consumer", "add", name, name, "--batch-size", "5")
    taken = wrangler.refuse("queues", "consumer", "add", name, name)
    assert "11004" in taken.text
    wrangler.do("delete", "--name", name, "--force")
    wrangler.do("queues", "delete", name)
    assert platform.call("GET", f"/queues?name={name}").json()["result"] == []


def test_messages_are_pulled_and_settled(wrangler: Wrangler) -> None:
    """Goal: what is pulled is hidden until its lease ends, acknowledged once, or comes again."""
    name, platform = wrangler.name("pulled"), wrangler.platform
    wrangler.do("queues", "create", name)
    wrangler.do("queues", "consumer", "http", "add", name)
    asked(platform, name, "/messages", body={"n": 1})
    batch = [{"body": "two", "content_type": "text"}, {"body": "AQI=", "content_type": "bytes"}]
    asked(platform, name, "/messages/batch", messages=batch)
    pulled = asked(platform, name, "/messages/pull", batch_size=10, visibility_timeout_ms=60_000)
    found = {m["metadata"]["CF-Content-Type"]: m for m in pulled["messages"]}
    bodies = {kind: message["body"] for kind, message in found.items()}
    assert bodies == {"json": '{"n":1}', "text": "two", "bytes": "AQI="}
    assert asked(platform, name, "/messages/pull")["messages"] == []
    acks = [{"lease_id": found[kind]["lease_id"]} for kind in ("json", "bytes")]
    retries = [{"lease_id": found["text"]["lease_id"]}]
    told = asked(platform, name, "/messages/ack", acks=acks, retries=retries)
    assert (told["ackCount"], told["retryCount"]) == (2, 1)
    (again,) = asked(platform, name, "/messages/pull")["messages"]
    assert (again["body"], again["attempts"]) == ("two", 2)
    told = asked(platform, name, "/messages/ack", acks=[{"lease_id": retries[0]["lease_id"]}])
    assert told["ackCount"] == 0
    told = asked(platform, name, "/messages/ack", acks=[{"lease_id": again["lease_id"]}])
    assert told["ackCount"] == 1
    assert backlog(platform, name) == 0
    wrangler.do("queues", "consumer", "http", "remove", name)
    wrangler.do("queues", "delete", name)
