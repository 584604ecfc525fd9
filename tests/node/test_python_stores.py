"""Stores as processes: started by who asks first, killed, hung, and nothing that was promised lost."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.platforms import RunningPlatform, running
from tests.processes import command, family, wait_until

pytestmark = pytest.mark.real
QUICK = ("--limit", "store_look_ms=200", "--limit", "store_silent_ms_max=1000")
CODE = """
export default {
  async fetch(request, env, ctx) {
    const url = new URL(request.url);
    const key = "https://kept.example/one";
    if (url.pathname === "/limit") return Response.json(await env.LIMITER.limit({ key: "k" }));
    if (url.pathname === "/put") {
      const headers = { "Cache-Control": "max-age=600" };
      await caches.default.put(key, new Response("kept", { headers }));
    }
    if (url.pathname === "/post") {
      const post = new Request(key, { method: "POST", body: "x" });
      const found = await caches.default.match(post, { ignoreMethod: true });
      return Response.json([await caches.default.match(post) === undefined, await found.text()]);
    }
    if (url.pathname === "/empty") {
      const headers = { "Cache-Control": "max-age=600", "X-Mine": "1" };
      const empty = "https://kept.example/empty";
      await caches.default.put(empty, new Response(null, { status: 204, headers }));
      return await caches.default.match(empty);
    }
    if (url.pathname === "/fetch") {
      try {
        return await fetch(key, { cf: { cacheTtl: 60 } });
      } catch {
        return new Response("asked the origin");
      }
    }
    if (url.pathname === "/point") env.POINTS.writeDataPoint({ indexes: [url.search] });
    return await caches.default.match(key) ?? new Response("miss");
  }
};
"""
BINDINGS = [
    {"type": "analytics_engine", "name": "POINTS", "dataset": "hits"},
    {
        "type": "ratelimit",
        "name": "LIMITER",
        "namespace_id": "7",
        "simple": {"limit": 1, "period": 60},
    },
]


@pytest.fixture
def machine(state: Path) -> Iterator[RunningPlatform]:
    """Return a platform that notices soon when a store hangs."""
    with running(state, *QUICK) as platform:
        platform.upload("w", CODE, bindings=BINDINGS)
        yield platform


def stores(platform: RunningPlatform) -> dict[str, int]:
    """Return the stores' processes by name."""
    found = {pid: command(pid).split() for pid in family(platform.process.pid)}
    mark = "kythera.store.program"
    return {words[words.index(mark) + 1]: pid for pid, words in found.items() if mark in words}


def points(platform: RunningPlatform) -> int:
    """Return how many points are found."""
    answer = platform.call("POST", "/analytics_engine/sql", content="SELECT count() AS n FROM hits")
    found: list[dict[str, Any]] = answer.json().get("data", [])
    return found[0]["n"] if found else 0


def test_a_store_that_nobody_uses_has_no_process(machine: RunningPlatform) -> None:
    """Goal: each costs nothing until the first request to it, and then one process."""
    assert stores(machine) == {}
    machine.wait_for("w", "miss")
    assert set(stores(machine)) == {"cache"}
    assert [machine.get("w", "/limit").json()["success"] for _ in range(2)] == [True, False]
    assert set(stores(machine)) == {"cache", "ratelimit"}


def test_what_was_kept_outlives_kill_9_of_stores_and_platform(
    machine: RunningPlatform, state: Path
) -> None:
    """Goal: the cache serves what it had, and every acknowledged point is found; who asks meanwhile
    waits, and does not fail."""
    assert machine.get("w", "/put").text == "kept"
    for number in range(5):
        machine.get("w", f"/point?{number}")
    wait_until(lambda: points(machine) == 5, "five points")
    for name in ("cache", "analytics"):
        os.kill(stores(machine)[name], signal.SIGKILL)
    assert machine.get("w", "/").text == "kept"
    machine.get("w", "/point?after")
    wait_until(lambda: points(machine) == 6, "six points")
    machine.kill()
    with running(state) as again:
        again.wait_for("w", "kept")
        assert points(again) == 6


def test_other_methods_are_matched_when_that_is_asked_for(machine: RunningPlatform) -> None:
    """Goal: `ignoreMethod` finds what was put; without it a POST finds nothing."""
    machine.get("w", "/put")
    assert machine.get("w", "/post").json() == [True, "kept"]


def test_a_response_without_a_body_is_kept_as_one(machine: RunningPlatform) -> None:
    """Goal: status 204 comes back as it was, by way of two real HTTP implementations."""
    found = machine.get("w", "/empty")
    assert (found.status_code, found.headers["x-mine"], found.text) == (204, "1", "")


def test_fetch_is_not_answered_from_the_cache(machine: RunningPlatform) -> None:
    """Goal: what is said to differ does: `fetch` of what is cached asks its origin, which is no
    host at all here."""
    machine.get("w", "/put")
    assert machine.get("w", "/fetch").text == "asked the origin"


def test_a_store_that_hangs_is_replaced(machine: RunningPlatform) -> None:
    """Goal: one that is stopped in its tracks is killed; who waited is answered by the next."""
    machine.get("w", "/put")
    first = stores(machine)["cache"]
    os.kill(first, signal.SIGSTOP)
    assert machine.get("w", "/").status_code in (200, 500)
    wait_until(lambda: stores(machine).get("cache", first) != first, "another process")
    machine.wait_for("w", "kept")
