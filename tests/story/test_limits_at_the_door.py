"""A platform whose door is leant on: who does so is refused early, and nobody else notices.

Method: a worker that hangs and a quiet one; 2,000 requests at once to the one that hangs, while the quiet one is asked all the time. Then heads, addresses and bodies that are
too large, and a worker that answers with a bomb.
"""

import selectors
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.platforms import RunningPlatform, running
from tests.processes import wait_until

pytestmark = pytest.mark.story

REQUESTS = 2_000
QUEUE = 200
HANGS = "export default { async fetch() { await scheduler.wait(600000); } };"
QUIET = "export default { fetch() { return new Response('quiet') } };"
BOMB = """
export default { fetch(request) {
  if (new URL(request.url).pathname === '/bomb') {
    return new Response('x', { headers: { 'x-bomb': 'a'.repeat(100000) } });
  }
  return new Response('fine');
} };
"""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """Return a platform with a worker that hangs, one with a short queue, and quiet ones."""
    folder = tmp_path_factory.mktemp("door") / "state"
    limits = ("slow_look_s=0.3", "slow_body_s=1", "request_body_bytes_max=1000000")
    words = [word for limit in limits for word in ("--limit", limit)]
    with running(folder, *words) as started:
        started.upload("hangs", HANGS)
        started.upload("short", HANGS, kythera={"queue_requests": QUEUE})
        started.upload("quiet", QUIET)
        started.upload("bomb", BOMB)
        started.wait_for("quiet", "quiet")
        started.wait_for("bomb", "fine")
        yield started


def refused(platform: RunningPlatform) -> dict[str, int]:
    """Return what `kythera status --json` says was refused."""
    found: dict[str, int] = platform.status()["machines"][0]["refused"]
    return {reason: count for reason, count in found.items() if count}


class Crowd:
    """Many clients that ask one worker at the same time and wait."""

    def __init__(self, platform: RunningPlatform, worker: str, stack: ExitStack) -> None:
        self._address = urlsplit(platform.http)
        self._head = f"GET / HTTP/1.1\r\nHost: {worker}.{platform.domain}\r\n\r\n".encode()
        self._stack = stack
        self._answers = stack.enter_context(selectors.DefaultSelector())
        self.said: Counter[str] = Counter()

    def ask(self, requests: int) -> None:
        """Send so many requests, each by a connection of its own."""
        for number in range(requests):
            # No client alone may have as many.
            mine = (f"127.0.0.{2 + number % 8}", 0)
            there = (self._address.hostname, self._address.port)
            client = socket.create_connection(there, source_address=mine)
            self._stack.callback(client.close)
            client.sendall(self._head)
            self._answers.register(client, selectors.EVENT_READ)

    def hear(self) -> int:
        """Count what was answered; return of how many."""
        for key, _ in self._answers.select(0.05):
            assert isinstance(key.fileobj, socket.socket)
            answer = key.fileobj.recv(4_096).decode()
            retry = "retry-after: 5" in answer.lower()
            self.said[f"{answer[9:12]}{' retry-after' if retry else ''}"] += 1
            self._answers.unregister(key.fileobj)
        return self.said.total()


@pytest.mark.parametrize(("worker", "queue"), [("hangs", 1_000), ("short", QUEUE)])
def test_a_worker_that_hangs_fills_its_own_queue_and_no_neighbours(
    platform: RunningPlatform, worker: str, queue: int
) -> None:
    """2,000 requests: as many as may wait do, all others hear 503 with Retry-After at once; a quiet
    neighbour answers every time, and status counts what was refused."""
    before = refused(platform).get("queue", 0)
    with ExitStack() as stack:
        crowd = Crowd(platform, worker, stack)
        for _ in range(20):
            crowd.ask(REQUESTS // 20)
            assert platform.get("quiet").text == "quiet"
        wait_until(lambda: crowd.hear() == REQUESTS - queue, "the rest was answered", deadline_s=20)
        for _ in range(20):
            assert platform.get("quiet").text == "quiet"
        assert crowd.said == {"503 retry-after": REQUESTS - queue}
        wait_until(
            lambda: refused(platform).get("queue", 0) - before == REQUESTS - queue,
            "status counts them",
            deadline_s=10,
        )


@pytest.mark.parametrize(
    ("reason", "status", "request_"),
    [
        ("url_too_long", 414, {"path": "/" + "a" * 9_000}),
        ("head_too_large", 431, {"headers": {"X-Long": "a" * 14_500}}),
        ("head_too_large", 431, {"headers": {f"X-{n}": "a" for n in range(150)}}),
        ("body_too_large", 413, {"method": "POST", "content": bytes(2_000_000)}),
    ],
    ids=["url", "head", "lines", "body"],
)
def test_what_is_too_large_is_refused_by_name(
    platform: RunningPlatform, reason: str, status: int, request_: dict[str, Any]
) -> None:
    """The visitor reads our page with the ray id; status tells the reason, as JSON and in words."""
    before = refused(platform).get(reason, 0)
    path = request_.pop("path", "/")
    answer = platform.fetch(f"http://quiet.{platform.domain}{path}", **request_)
    assert answer.status_code == status
    assert answer.headers["CF-Ray"] in answer.text
    wait_until(lambda: refused(platform).get(reason, 0) == before + 1, "status counts it")
    assert f"{reason} {before + 1}" in platform.kythera("status").stdout


def test_a_worker_that_answers_with_a_bomb_is_503_and_serves_on(platform: RunningPlatform) -> None:
    """A head of 100 KB in the answer: our page, counted, and the same worker's next answer passes."""
    answer = platform.get("bomb", "/bomb")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert answer.headers["CF-Ray"] in answer.text
    assert platform.get("bomb").text == "fine"
    wait_until(lambda: refused(platform).get("answer_not_understood") == 1, "status counts it")


def test_a_body_that_drips_is_hung_up_on(platform: RunningPlatform) -> None:
    """A byte, then nothing: the connection is closed, and the reason counted."""
    address = urlsplit(platform.http)
    head = f"POST / HTTP/1.1\r\nHost: hangs.{platform.domain}\r\nContent-Length: 9\r\n\r\na"
    with socket.create_connection((address.hostname, address.port)) as client:
        client.settimeout(15)
        client.sendall(head.encode())
        assert client.recv(100) == b""
    wait_until(lambda: refused(platform).get("slow_body") == 1, "status counts it")
