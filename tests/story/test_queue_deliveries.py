"""What a queue does with what its consumer says: acknowledged, tried again, delayed, so many at once."""

import json
from typing import Any

import pytest

from tests.platforms import RunningPlatform
from tests.processes import wait_until

pytestmark = pytest.mark.story

CODE = """
const seen = [];
let [underWay, most] = [0, 0];
let enough = false;
export default {
  async fetch(request, env) {
    const { pathname, searchParams } = new URL(request.url);
    const body = searchParams.get('body');
    if (pathname === '/batch') {
      await env.Q.sendBatch(body.split(',').map((each) => ({ body: each })));
    } else if (pathname === '/send') {
      await env.Q.send(body);
    } else if (pathname === '/enough') {
      enough = true;
    } else if (pathname === '/metrics') {
      return Response.json(await env.Q.metrics());
    }
    return Response.json({ seen, most });
  },
  async queue(batch) {
    const bodies = batch.messages.map(({ body }) => body);
    seen.push({ bodies, attempts: batch.messages.map(({ attempts }) => attempts), at: Date.now() });
    underWay += 1;
    most = Math.max(most, underWay);
    if (bodies[0].startsWith('slow')) {
      await scheduler.wait(100);
    }
    while (bodies[0] === 'long' && !enough) {
      await scheduler.wait(20);
    }
    underWay -= 1;
    const [message] = batch.messages;
    if (message.attempts > 1) {
      return;
    }
    if (bodies[0] === 'all-again') {
      message.ack();
      batch.retryAll({ delaySeconds: 1 });
    } else if (bodies[0] === 'all-good') {
      batch.ackAll();
      throw new Error('after that');
    } else if (bodies[0] === 'one-again') {
      message.retry({ delaySeconds: 1 });
    }
  },
};
"""


def told(platform: RunningPlatform, worker: str) -> dict[str, Any]:
    """Return what the consumer saw."""
    found: dict[str, Any] = json.loads(platform.get(worker).text)
    return found


def backlog(platform: RunningPlatform, worker: str) -> int:
    """Return how many messages its queue has."""
    count: int = json.loads(platform.get(worker, "/metrics").text)["backlogCount"]
    return count


def deployed(platform: RunningPlatform, name: str, settings: dict[str, Any], **queue: Any) -> None:
    """Make a queue, and a worker that sends to it and consumes it."""
    delay = queue.pop("binding_delay", None)
    document = {"queue_name": name, "settings": queue}
    made = platform.call("POST", "/queues", json=document).json()["result"]["queue_id"]
    binding = {"type": "queue", "name": "Q", "queue_name": name}
    bindings = [binding if delay is None else {**binding, "delivery_delay": delay}]
    platform.upload(name, CODE, bindings=bindings)
    consumer = {"script_name": name, "settings": settings}
    added = platform.call("POST", f"/queues/{made}/consumers", json=consumer)
    assert added.is_success, added.text
    platform.wait_for(name, "seen")


def test_what_a_consumer_says_is_done(platform: RunningPlatform) -> None:
    """Goal: batches of their size; ackAll and retryAll, one ack against them, delays of retries."""
    name = "said"
    deployed(platform, name, {"batch_size": 3, "max_wait_time_ms": 200})
    for body in ("all-again,b,c", "all-good,e,f", "one-again,h,i"):
        assert platform.get(name, f"/batch?body={body}").status_code == 200
    wait_until(lambda: len(told(platform, name)["seen"]) >= 5, "all came", deadline_s=20)
    seen = told(platform, name)["seen"]
    first = [each["bodies"] for each in seen if each["attempts"] == [1, 1, 1]]
    assert sorted(first) == [
        ["all-again", "b", "c"],
        ["all-good", "e", "f"],
        ["one-again", "h", "i"],
    ]
    again = [body for each in seen if 2 in each["attempts"] for body in each["bodies"]]
    assert sorted(again) == ["b", "c", "one-again"]
    begun = min(each["at"] for each in seen)
    assert all(each["at"] - begun >= 990 for each in seen if 2 in each["attempts"])
    wait_until(lambda: backlog(platform, name) == 0, "all is done")


def test_what_each_worker_did_is_counted(platform: RunningPlatform) -> None:
    """Goal: status tells what was sent and delivered."""
    deployed(platform, "counted", {"batch_size": 3, "max_wait_time_ms": 0})
    assert platform.get("counted", "/batch?body=a,b,c").status_code == 200

    def counted() -> bool:
        stores = platform.status()["machines"][0]["stores"]
        uses = {use["worker"]: use["counts"] for use in stores["queues"]["workers"]}
        wanted = {"calls": 1, "failed": 0, "sent": 3, "batches": 1, "delivered": 3}
        return uses.get("counted") == wanted

    wait_until(counted, "it is counted", deadline_s=20)


def test_so_many_batches_are_under_way(platform: RunningPlatform) -> None:
    """Goal: `max_concurrency` holds."""
    name = "narrow"
    settings = {"batch_size": 1, "max_wait_time_ms": 0, "max_concurrency": 2}
    deployed(platform, name, settings)
    assert platform.get(name, "/batch?body=" + ",".join(["slow"] * 12)).status_code == 200
    wait_until(lambda: len(told(platform, name)["seen"]) == 12, "all came", deadline_s=20)
    assert told(platform, name)["most"] == 2


def test_delays_of_queue_and_binding(platform: RunningPlatform) -> None:
    """Goal: a queue's own delay holds for who says nothing, a binding's stands before it."""
    quick = {"batch_size": 1, "max_wait_time_ms": 0}
    deployed(platform, "late", quick, delivery_delay=2)
    deployed(platform, "early", quick, delivery_delay=600, binding_delay=0)
    for name in ("late", "early"):
        assert platform.get(name, "/send?body=x").status_code == 200
    wait_until(lambda: len(told(platform, "early")["seen"]) == 1, "the early one came")
    assert told(platform, "late")["seen"] == []
    wait_until(lambda: len(told(platform, "late")["seen"]) == 1, "the late one came")


def replaced(platform: RunningPlatform) -> int:
    """Return how often the queues' process was replaced."""
    return platform.log.read_text().count('"event": "store_changes", "store": "queues"')


def served(platform: RunningPlatform, worker: str) -> None:
    """Wait until its consumer was called."""
    wait_until(lambda: told(platform, worker)["seen"] != [], f"{worker} is served")


def test_a_change_of_queues_leaves_alone_what_is_being_delivered(platform: RunningPlatform) -> None:
    """Goal: other queues and consumers come and go while a batch is under way: it is one attempt."""
    deployed(platform, "steady", {"batch_size": 1, "max_wait_time_ms": 0})
    assert platform.get("steady", "/send?body=long").status_code == 200
    served(platform, "steady")
    before = replaced(platform)
    for name in ("passing", "passing-too"):
        deployed(platform, name, {"batch_size": 1, "max_wait_time_ms": 0}, delivery_delay=1)
        assert platform.get(name, "/send?body=x").status_code == 200
        served(platform, name)
    platform.get("steady", "/enough")
    wait_until(lambda: backlog(platform, "steady") == 0, "it has ended")
    assert [each["attempts"] for each in told(platform, "steady")["seen"]] == [[1]]
    assert replaced(platform) == before, "a process was replaced"


def test_another_consumer_gets_what_the_last_one_never_took(platform: RunningPlatform) -> None:
    """Goal: a message that waits for a worker which lost its handler goes to the next consumer, soon."""
    platform.upload("deaf", CODE)
    deployed(platform, "hears", {"batch_size": 1, "max_wait_time_ms": 0})
    queue = platform.call("GET", "/queues?name=hears").json()["result"][0]
    path = f"/queues/{queue['queue_id']}/consumers"
    (mine,) = queue["consumers"]
    assert platform.call("DELETE", f"{path}/{mine['consumer_id']}").is_success
    settings = {"batch_size": 1, "max_wait_time_ms": 0}
    document = {"script_name": "deaf", "settings": settings}
    deaf = platform.call("POST", path, json=document).json()["result"]
    platform.upload("deaf", "export default { fetch() { return new Response('no queue'); } };")
    platform.wait_for("deaf", "no queue")
    assert platform.get("hears", "/send?body=x").status_code == 200
    wait_until(lambda: backlog(platform, "hears") == 1, "it waits")
    assert platform.call("DELETE", f"{path}/{deaf['consumer_id']}").is_success
    document = {"script_name": "hears", "settings": settings}
    assert platform.call("POST", path, json=document).is_success
    served(platform, "hears")
