"""What happens to visitors when a part of the platform dies, hangs or starts again.

Method: real processes, real signals; visitors ask all the while and count what failed.
"""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.platforms import COMMAND, RunningPlatform, clean_environment, running, start
from tests.processes import birth, children, command, family, wait_until
from tests.wranglers import says

pytestmark = pytest.mark.story

TELLS_SECRET = "export default { fetch(r, env) { return new Response(env.WORD + env.KEY) } }"
SLOW = """
export default { async fetch(request) {
  const parts = ["slow ", "but ", "whole"];
  const stream = new ReadableStream({ async pull(controller) {
    if (parts.length === 0) return controller.close();
    await new Promise((resolve) => setTimeout(resolve, 400));
    controller.enqueue(new TextEncoder().encode(parts.shift()));
  } });
  return new Response(stream);
} };
"""


def part(platform: RunningPlatform, word: str) -> int:
    """Return the process of a part by a word of its command line."""
    found = [pid for pid in family(platform.process.pid) if word in command(pid)]
    assert found, f"no {word} among {[command(p) for p in family(platform.process.pid)]}"
    return min(found)


def replaced(platform: RunningPlatform, word: str, old: int) -> bool:
    """Tell whether another process plays that part now."""
    return any(
        word in command(pid) and pid != old and birth(pid) is not None
        for pid in family(platform.process.pid)
    )


class Visitors:
    """Some visitors who ask one worker without a pause and count answers and failures."""

    def __init__(self, platform: RunningPlatform, worker: str, text: str) -> None:
        self._platform, self._worker, self._text = platform, worker, text
        self._end = threading.Event()
        self.answers = 0
        self.failures: list[str] = []

    def ask(self) -> None:
        """Ask until told to stop."""
        headers = {"Host": f"{self._worker}.{self._platform.domain}"}
        with httpx.Client(trust_env=False, timeout=20, headers=headers) as client:
            while not self._end.is_set():
                try:
                    answer = client.get(self._platform.http)
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    continue
                if answer.text == self._text:
                    self.answers += 1
                else:
                    self.failures.append(f"{answer.status_code} {answer.text[:200]}")

    @contextmanager
    def asking(self, count: int = 3) -> Iterator["Visitors"]:
        """Let visitors ask for the length of a `with` block."""
        threads = [threading.Thread(target=self.ask) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._end.set()
            for thread in threads:
                thread.join(30)

    def wait_for(self, more: int) -> None:
        """Wait until that many more answers came."""
        goal = self.answers + more
        wait_until(lambda: self.answers >= goal, f"{more} more answers", deadline_s=20)


def test_every_worker_serves_again_after_the_keeper_was_killed(state: Path) -> None:
    """Goal: `kill -9` of `kythera up` leaves no process, and the next start serves every worker
    as before, at the same addresses: code, variables, secrets, routes, splits."""
    first = start(state)
    first.upload("plain", says("plain"))
    variable = {"type": "plain_text", "name": "WORD", "text": "word-"}
    secret = {"type": "secret_text", "name": "KEY", "text": "key"}
    first.upload("secretive", TELLS_SECRET, bindings=[variable, secret])
    routes = [{"pattern": "shop.example.com/v1/*", "zone_name": "example.com"}]
    answer = first.call("PUT", "/workers/scripts/plain/routes", json=routes)
    assert answer.status_code == 200, answer.text
    first.wait_for("plain", "plain")
    first.wait_for("secretive", "word-key")
    before = {cell["version"] for cell in first.status()["cells"]}
    first.kill()
    with running(state) as second:
        assert (second.http, second.api) == (first.http, first.api)
        assert second.account_id == first.account_id
        second.wait_for("plain", "plain")
        second.wait_for("secretive", "word-key")
        routed = "http://shop.example.com/v1/x"
        wait_until(lambda: second.fetch(routed).text == "plain", "the route leads to the worker")
        assert {cell["version"] for cell in second.status()["cells"]} == before


def test_a_stop_lets_what_was_asked_end(state: Path) -> None:
    """Goal: SIGTERM drains. Method: a streamed answer is half way when the signal comes."""
    with running(state) as platform:
        platform.upload("slow", SLOW)
        platform.wait_for("slow", "slow but whole")
        headers = {"Host": f"slow.{platform.domain}"}
        with (
            httpx.Client(trust_env=False, timeout=20) as client,
            client.stream("GET", platform.http, headers=headers) as answer,
        ):
            pieces = answer.iter_bytes()
            heard = next(pieces)
            platform.process.send_signal(signal.SIGTERM)
            heard += b"".join(pieces)
        assert heard == b"slow but whole"
        platform.stop()


def test_two_platforms_live_side_by_side(tmp_path: Path) -> None:
    """Goal: two state folders, one machine, one worker name, no mixing; one may end."""
    with running(tmp_path / "one") as one:
        with running(tmp_path / "two") as two:
            one.upload("same", says("from one"))
            two.upload("same", says("from two"))
            one.wait_for("same", "from one")
            two.wait_for("same", "from two")
            assert one.account_id != two.account_id
        assert one.answers("same", "from one")


def test_a_second_keeper_on_one_state_is_refused_by_pid(platform: RunningPlatform) -> None:
    """Goal: two keepers never share a state folder; the message names who has it."""
    argv = [*COMMAND, "up", "--state", str(platform.state)]
    free = ["--http", "127.0.0.1:0", "--api", "127.0.0.1:0"]
    done = subprocess.run(
        [*argv, *free],
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode != 0
    assert str(platform.process.pid) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """Return a platform that this module may hurt."""
    with running(tmp_path_factory.mktemp("lives") / "state", "--limit", "idle_stop_s=2") as started:
        yield started


def test_a_killed_agent_fails_no_request(own: RunningPlatform) -> None:
    """Goal: HAProxy and warm cells serve on; the next agent adopts them (same processes), idle
    workers' requests wait for it, and deploys go on."""
    own.upload("warm", says("warm"))
    own.upload("idle", says("idle"))
    own.wait_for("warm", "warm")
    own.wait_for("idle", "idle")
    with Visitors(own, "warm", "warm").asking() as visitors:
        visitors.wait_for(50)
        for _ in range(2):
            agent, front = part(own, "kythera.node.agent"), part(own, "haproxy")
            os.kill(agent, signal.SIGKILL)
            assert own.get("idle").text == "idle"
            visitors.wait_for(100)
            wait_until(lambda a=agent: replaced(own, "kythera.node.agent", a), "a new agent")  # type: ignore[misc]
            assert birth(front) is not None
        own.upload("after", says("after the agent"))
        own.wait_for("after", "after the agent", deadline_s=10)
    assert not visitors.failures, visitors.failures[:5]


def test_an_agent_that_hangs_is_replaced(own: RunningPlatform) -> None:
    """Goal: an agent that stands still is found by its silence, and no request fails."""
    own.upload("steady", says("steady"))
    own.wait_for("steady", "steady")
    with Visitors(own, "steady", "steady").asking(1) as visitors:
        agent = part(own, "kythera.node.agent")
        os.kill(agent, signal.SIGSTOP)
        wait_until(lambda: replaced(own, "kythera.node.agent", agent), "a new agent", deadline_s=15)
        visitors.wait_for(20)
    assert not visitors.failures, visitors.failures[:5]


@pytest.mark.parametrize("word", ["kythera.control.server", "nats-server", "haproxy"])
def test_a_killed_part_comes_back(own: RunningPlatform, word: str) -> None:
    """Goal: API, log and front door are replaced; then a deploy is served as always."""
    name = f"after-{word.rpartition('.')[2]}"
    victim = part(own, word)
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: replaced(own, word, victim), f"a new {word}", deadline_s=15)

    def deployed() -> bool:
        try:
            own.upload(name, says("served again"))
            return own.answers(name, "served again")
        except (httpx.HTTPError, AssertionError):
            return False  # it is still on its way up

    wait_until(deployed, f"a deploy after the end of {word}", deadline_s=25)


def test_a_killed_cell_is_replaced_at_the_next_request(own: RunningPlatform) -> None:
    """Goal: the socket outlives the process; the next request waits for the new one."""
    own.upload("mortal", says("alive"))
    own.wait_for("mortal", "alive")
    (cell,) = [c for c in own.status()["cells"] if c["worker"] == "mortal"]
    os.kill(cell["pids"][0], signal.SIGKILL)
    assert own.get("mortal").text == "alive"


def test_an_idle_cell_is_stopped_and_wakes_for_the_next_visitor(own: RunningPlatform) -> None:
    """Goal: idle costs no process, and waking fails no request."""

    def cell() -> dict[str, object]:
        found = [c for c in own.status()["cells"] if c["worker"] == "sleeper"]
        return found[0] if found else {}

    own.upload("sleeper", says("awake"))
    own.wait_for("sleeper", "awake")
    wait_until(lambda: cell().get("state") == "idle", "the cell sleeps", deadline_s=20)
    assert cell()["pids"] == []
    assert own.get("sleeper").text == "awake"


def test_nobody_is_orphaned_by_the_agents_death(own: RunningPlatform) -> None:
    """Goal: everything is the keeper's child, so that nothing outlives it. Method: look."""
    keeper = own.process.pid
    for word in ("kythera.node.agent", "kythera.control.server", "nats-server", "haproxy"):
        pid = part(own, word)
        assert pid in children(keeper), f"{word} is not the keeper's own child"
