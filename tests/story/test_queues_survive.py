"""Queues under `kill -9` of whoever has a part in them: each message that was acknowledged to its sender
is given to the consumer at least once.

The consumer passes on what it gets to another queue, from which the test pulls: nothing is remembered
where it could get lost. A consumer that drops some (planted) is found out by the same count.
"""

import os
import random
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.platforms import RunningPlatform, running, start
from tests.processes import family, wait_until

pytestmark = pytest.mark.story

SENDER = """
export default {
  async fetch(request, env) {
    await env.IN.send(Number(new URL(request.url).searchParams.get('n')));
    return new Response('sent');
  },
};
"""
CONSUMER = """
export default {
  async queue(batch, env) {
    for (const message of batch.messages) {
      if (!(env.DROPS && message.body % 7 === 0)) {
        await env.OUT.send(message.body);
      }
      message.ack();
    }
  },
};
"""
ROUNDS, EACH = 6, 24


def made(platform: RunningPlatform, name: str) -> str:
    """Make a queue; return its id."""
    answer = platform.call("POST", "/queues", json={"queue_name": name})
    return str(answer.json()["result"]["queue_id"])


def deployed(platform: RunningPlatform, *, drops: bool) -> str:
    """Deploy sender and consumer; return the id of the queue that everything ends in."""
    into, out = made(platform, "into"), made(platform, "out")
    to = {"type": "queue", "name": "IN", "queue_name": "into"}
    onwards = {"type": "queue", "name": "OUT", "queue_name": "out"}
    flag = {"type": "json", "name": "DROPS", "json": drops}
    platform.upload("sender", SENDER, bindings=[to])
    platform.upload("consumer", CONSUMER, bindings=[onwards, flag])
    settings = {"batch_size": 5, "max_wait_time_ms": 100, "max_retries": 100}
    consumer = {"script_name": "consumer", "settings": settings}
    assert platform.call("POST", f"/queues/{into}/consumers", json=consumer).is_success
    pull = {"type": "http_pull", "settings": {"max_retries": 100}}
    assert platform.call("POST", f"/queues/{out}/consumers", json=pull).is_success
    return out


def sent(platform: RunningPlatform, number: int) -> int | None:
    """Send a number; return it when that was acknowledged."""
    try:
        answer = platform.get("sender", f"/?n={number}")
    except httpx.HTTPError:
        return None
    return number if answer.status_code == 200 and answer.text == "sent" else None


def arrived(platform: RunningPlatform, out: str) -> "Counter[int]":
    """Pull all that has come, and acknowledge it."""
    found: Counter[int] = Counter()
    while True:
        told = platform.call("POST", f"/queues/{out}/messages/pull", json={"batch_size": 100})
        messages = told.json()["result"]["messages"]
        if not messages:
            return found
        found.update(int(message["body"]) for message in messages)
        acks = [{"lease_id": message["lease_id"]} for message in messages]
        platform.call("POST", f"/queues/{out}/messages/ack", json={"acks": acks})


def store_pid(platform: RunningPlatform) -> int | None:
    """Return the process that has a queue's file open."""
    for pid in family(platform.process.pid):
        try:
            links = [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            continue
        if any("/queues/" in link and ".sqlite" in link for link in links):
            return pid
    return None


def cell_pid(platform: RunningPlatform, worker: str) -> int | None:
    """Return a process of a worker."""
    cells = [c for c in platform.status()["cells"] if c["worker"] == worker]
    pids = [pid for cell in cells for pid in cell["pids"]]
    return pids[0] if pids else None


def test_each_acknowledged_message_is_delivered_whatever_is_killed(tmp_path: Path) -> None:
    """Goal: at least once. Method: numbers sent while store, consumer, sender and platform are killed
    in turn; all that were acknowledged come out, and most of them once."""
    chance = random.Random(5)  # noqa: S311 (seeded chance is the point)
    platform = start(tmp_path / "state")
    acknowledged: set[int] = set()
    came: Counter[int] = Counter()
    try:
        out = deployed(platform, drops=False)
        platform.wait_for("sender", "sent", "/?n=0")
        for round_ in range(ROUNDS):
            numbers = range(1 + round_ * EACH, 1 + (round_ + 1) * EACH)
            victim = ("store", "consumer", "store", "sender", "platform", "store")[round_]
            with ThreadPoolExecutor(4) as pool:
                sending = [pool.submit(sent, platform, number) for number in numbers]
                sending[chance.randrange(EACH // 2)].result()
                if victim == "platform":
                    platform.kill()
                else:
                    pid = store_pid(platform) if victim == "store" else cell_pid(platform, victim)
                    assert pid is not None, f"{victim} runs"
                    os.kill(pid, signal.SIGKILL)
                found = {future.result() for future in sending}
            acknowledged |= {number for number in found if number is not None}
            if victim == "platform":
                platform = start(tmp_path / "state")

        def all_came() -> bool:
            came.update(arrived(platform, out))
            return acknowledged <= came.keys()

        wait_until(all_came, f"all came but {acknowledged - came.keys()}", deadline_s=60)
        assert len(acknowledged) > ROUNDS * EACH / 2
        assert sum(came.values()) < 2 * len(came)
        platform.stop()
    finally:
        if platform.process.poll() is None:
            platform.kill()


def test_a_consumer_that_drops_messages_is_found_out(tmp_path: Path) -> None:
    """Planted: with every seventh number dropped, the count above would not come out."""
    with running(tmp_path / "state") as platform:
        out = deployed(platform, drops=True)
        platform.wait_for("sender", "sent", "/?n=1")
        acknowledged = {number for number in range(1, 15) if sent(platform, number) is not None}
        came: Counter[int] = Counter()

        def rest_came() -> bool:
            came.update(arrived(platform, out))
            return acknowledged - {7, 14} <= came.keys()

        wait_until(rest_came, "the others came", deadline_s=20)
        assert acknowledged - came.keys() == {7, 14}
