"""A worker that never ends its turn: it is ended, and nobody else notices.

Method: a loop in a worker that may burn 100 ms, a quiet worker beside it; then many short requests,
which together burn more and must not be mistaken for a loop. Loops of all other kinds are in
tests/hostile/cpu.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.platforms import RunningPlatform, running
from tests.processes import wait_until

pytestmark = pytest.mark.story

CPU_MS = 100
ENDED_S_MAX = 3.0
"""From the request to its 503, on a machine that is busy with other tests too."""
SHORT = """
export default { fetch() {
  for (let i = 0, x = 0; i < 4e6; i++) x += i % 7;
  return new Response('short');
} };
"""
LOOPING = """
export default { fetch(request) {
  if (new URL(request.url).pathname === '/loop') for (;;);
  return new Response('alive');
} };
"""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """Return a platform with a hostile worker and a quiet one."""
    with running(tmp_path_factory.mktemp("limits") / "state") as started:
        started.upload("hostile", LOOPING, limits={"cpu_ms": CPU_MS})
        started.upload("quiet", "export default { fetch() { return new Response('quiet') } };")
        started.wait_for("hostile", "alive")
        started.wait_for("quiet", "quiet")
        yield started


@contextmanager
def asking(platform: RunningPlatform, worker: str, clients: int = 1) -> Iterator[Counter[str]]:
    """Ask a worker all the while; count what it said."""
    said: Counter[str] = Counter()
    end = threading.Event()

    def ask() -> None:
        while not end.is_set():
            answer = platform.get(worker)
            said[f"{answer.status_code} {answer.text[:80]}"] += 1

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield said
    finally:
        end.set()
        for thread in threads:
            thread.join(30)


def cells(platform: RunningPlatform, worker: str) -> list[dict[str, Any]]:
    """Return what status tells of a worker's cells."""
    found: list[dict[str, Any]] = platform.status()["cells"]
    return [cell for cell in found if cell["worker"] == worker]


def test_a_loop_is_ended_and_neither_the_next_request_nor_a_neighbour_notices(
    platform: RunningPlatform,
) -> None:
    """503 with code 1102 and the ray id for whom it was; everything else is served."""
    with asking(platform, "quiet") as said:
        answer = platform.fetch("http://hostile.localhost/loop", method="POST", timeout=ENDED_S_MAX)
        assert platform.get("hostile").text == "alive"
    assert answer.status_code == 503, answer.text
    assert "1102" in answer.text
    assert answer.headers["CF-Ray"] in answer.text
    assert set(said) == {"200 quiet"}


def test_each_end_is_counted_and_logged_with_its_reason(platform: RunningPlatform) -> None:
    """Status and the log say what happened, and that it was no crash."""
    before = sum(cell["exceeded_cpu"] for cell in cells(platform, "hostile"))
    platform.fetch("http://hostile.localhost/loop", method="POST", timeout=ENDED_S_MAX)
    wait_until(
        lambda: sum(cell["exceeded_cpu"] for cell in cells(platform, "hostile")) == before + 1,
        "one more was ended",
    )
    assert sum(cell["crashes"] for cell in cells(platform, "hostile")) == 0
    assert '"cell_exceeded", "what": "cpu"' in platform.log.read_text(errors="replace")


def test_a_loop_asked_for_by_get_takes_two_processes_at_most(platform: RunningPlatform) -> None:
    """What may be tried again is tried again once: the request may be what the cell died of."""

    def ended() -> int:
        return sum(cell["exceeded_cpu"] for cell in cells(platform, "hostile"))

    assert platform.get("hostile").text == "alive"
    before = ended()
    answer = platform.fetch("http://hostile.localhost/loop", timeout=2 * ENDED_S_MAX)
    assert answer.status_code == 503, answer.text
    assert "1102" in answer.text
    wait_until(lambda: ended() == before + 2, "both are counted")
    assert platform.get("hostile").text == "alive"
    assert ended() == before + 2


def test_many_short_requests_are_not_mistaken_for_a_loop(platform: RunningPlatform) -> None:
    """Each burns a fraction of what it may, together they burn a core for seconds."""
    platform.upload("short", SHORT, limits={"cpu_ms": CPU_MS})
    platform.wait_for("short", "short")
    with asking(platform, "short", clients=24) as said:
        wait_until(lambda: said.total() > 300, "300 answers", deadline_s=60)
    assert set(said) == {"200 short"}
    assert sum(cell["exceeded_cpu"] for cell in cells(platform, "short")) == 0


def test_a_limit_that_is_none_is_refused_with_what_to_write(platform: RunningPlatform) -> None:
    """Nothing is stored of the upload."""
    for wrong in (0, -1, 9, 1.5, "50", True, None):
        document = {"limits": {"cpu_ms": wrong}}
        with pytest.raises(AssertionError, match=r"limits\.cpu_ms .* from 10"):
            platform.upload("wrong", LOOPING, **document)
    assert platform.get("wrong").status_code == 404
