"""A worker that wants more memory than it may have: it alone is ended, and nobody else notices."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.platforms import RunningPlatform, running
from tests.processes import wait_until

pytestmark = pytest.mark.story

MEMORY_MIB = 64
ENDED_S_MAX = 20.0
GREEDY = """
const kept = [];
const decoder = new TextDecoder();
const eaters = {
  heap() { for (;;) kept.push(new Array(1e5).fill(0.5)); },
  objects() { for (;;) kept.push({ a: { b: { c: [kept.length] } } }); },
  map() { const m = new Map(); for (let i = 0; ; i++) m.set(i, 'v' + i); },
  strings() { for (const text = new Uint8Array(1e5).fill(65); ;) kept.push(decoder.decode(text)); },
  closures() { for (let i = 0; ; i++) kept.push(() => kept[i]); },
  buffers() { for (;;) kept.push(new Uint8Array(1e6).fill(1)); },
  wasm() {
    const memory = new WebAssembly.Memory({ initial: 1 });
    for (;;) { memory.grow(64); new Uint8Array(memory.buffer).fill(1); }
  },
};
export default { fetch(request) {
  const eat = eaters[new URL(request.url).pathname.slice(1)];
  if (eat) eat();
  return new Response('alive');
} };
"""
DIES = ("heap", "objects", "map", "strings", "closures")
"""V8 ends the process; of what lies beside the heap, JavaScript is told by a RangeError."""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """Return a platform with a greedy worker and a quiet one."""
    with running(tmp_path_factory.mktemp("memory") / "state") as started:
        started.upload("greedy", GREEDY, kythera={"memory_mib": MEMORY_MIB})
        started.upload("quiet", "export default { fetch() { return new Response('quiet') } };")
        started.wait_for("greedy", "alive")
        started.wait_for("quiet", "quiet")
        yield started


def counted(platform: RunningPlatform, what: str) -> int:
    """Return what status counts of the greedy worker."""
    found: list[dict[str, Any]] = platform.status()["cells"]
    return sum(cell[what] for cell in found if cell["worker"] == "greedy")


@pytest.mark.parametrize("how", DIES)
def test_a_heap_that_is_full_ends_its_own_process_alone(
    platform: RunningPlatform, how: str
) -> None:
    """503 with code 1102 and the ray id for whom it was; counted; the next request is served."""
    before = counted(platform, "exceeded_memory")
    answer = platform.fetch(f"http://greedy.localhost/{how}", method="POST", timeout=ENDED_S_MAX)
    assert answer.status_code == 503, answer.text
    assert "1102" in answer.text
    assert answer.headers["CF-Ray"] in answer.text
    assert platform.get("greedy").text == "alive"
    assert platform.get("quiet").text == "quiet"
    wait_until(lambda: counted(platform, "exceeded_memory") > before, "it is counted")
    assert counted(platform, "crashes") == 0
    assert '"cell_exceeded", "what": "memory"' in platform.log.read_text(errors="replace")


def test_what_befell_a_worker_is_a_record_that_every_machine_can_tell(
    platform: RunningPlatform,
) -> None:
    """Worker, version, reason, time, limit and the visitor's ray id; through the log, not from the agent's memory."""
    answer = platform.fetch("http://greedy.localhost/heap", method="POST", timeout=ENDED_S_MAX)
    ray = answer.headers["CF-Ray"]

    def told() -> list[dict[str, Any]]:
        answer = platform.call("GET", "/kythera/status")
        return [one for one in answer.json()["result"]["incidents"] if one["worker"] == "greedy"]

    def rays() -> list[str]:
        return [ray for one in told() for incident in one["last"] for ray in incident["rays"]]

    wait_until(lambda: ray in rays(), "it is in the log, with the visitor's ray id", deadline_s=20)
    (incidents,) = told()
    assert incidents["counts"]["exceededMemory"] >= 1
    assert incidents["last"][-1]["reason"] == "exceededMemory"
    assert incidents["last"][-1]["detail"] == f"memory_mib {MEMORY_MIB}"
    assert "ended for its memory" in platform.kythera("status").stdout


@pytest.mark.parametrize("how", ["buffers", "wasm"])
def test_memory_beside_the_heap_is_refused(platform: RunningPlatform, how: str) -> None:
    """An error of that request (or the end of that process), long before the machine is full."""
    answer = platform.fetch(f"http://greedy.localhost/{how}", method="POST", timeout=ENDED_S_MAX)
    assert answer.status_code in (500, 503), answer.text
    wait_until(lambda: platform.get("greedy").text == "alive", "it is served again")
    assert platform.get("quiet").text == "quiet"
