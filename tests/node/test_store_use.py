"""What a Worker asks of each store is counted, shown by `kythera status`, and added up over restarts."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.node.r2_running import make_bucket
from tests.platforms import RunningPlatform
from tests.processes import command, family, wait_until

pytestmark = pytest.mark.real
CODE = """
import { DurableObject } from "cloudflare:workers";
export class Room extends DurableObject { say(word) { return word; } }
export default { async fetch(request, env) {
  const { pathname } = new URL(request.url);
  if (pathname === '/kv') {
    await env.KV.put('k', 'v');
    await env.KV.get('k');
    return Response.json(await env.KV.get(['k', 'l']).then((found) => found.size));
  }
  await env.KV.list();
  await env.KV.delete('k');
  await env.R2.put('k', 'hello');
  await (await env.R2.get('k')).text();
  await env.R2.head('k');
  await env.R2.delete('k');
  await env.ROOM.getByName('one').say('a');
  await env.ROOM.getByName('two').say('b');
  const kept = new Response('kept', { headers: { 'Cache-Control': 'max-age=60' } });
  await caches.default.put('https://a.example/', kept);
  await caches.default.match('https://a.example/');
  await caches.default.match('https://b.example/');
  await env.LIMITER.limit({ key: 'k' });
  await env.LIMITER.limit({ key: 'k' });
  env.POINTS.writeDataPoint({ indexes: ['i'] });
  return new Response('done');
} };
"""
WANTED = {
    "kv": {"reads": 3, "writes": 1, "deletes": 1, "lists": 1},
    "r2": {"class_a": 1, "class_b": 2, "free": 1, "bytes_in": 5, "bytes_out": 5},
    "objects": {"requests": 2},
    "cache": {"matches": 2, "hits": 1, "puts": 1, "deletes": 0},
    "ratelimit": {"calls": 2, "limited": 1},
    "analytics": {"points": 1},
}


@pytest.fixture(scope="module")
def busy(platform: RunningPlatform) -> RunningPlatform:
    """Return the shared platform, with a Worker that has asked each store."""
    make_bucket(platform, "asks-all-stores")
    made = platform.call(
        "POST", "/storage/kv/namespaces", content=json.dumps({"title": "asks-all-stores"})
    )
    bindings = [
        {"type": "kv_namespace", "name": "KV", "namespace_id": made.json()["result"]["id"]},
        {"type": "r2_bucket", "name": "R2", "bucket_name": "asks-all-stores"},
        {"type": "durable_object_namespace", "name": "ROOM", "class_name": "Room"},
        {"type": "analytics_engine", "name": "POINTS", "dataset": "asked"},
        {
            "type": "ratelimit",
            "name": "LIMITER",
            "namespace_id": "9",
            "simple": {"limit": 1, "period": 60},
        },
    ]
    classes = {"new_tag": "v1", "new_sqlite_classes": ["Room"]}
    platform.upload("asks-all-stores", CODE, bindings=bindings, migrations=classes)
    assert platform.get("asks-all-stores", "/kv").text == "2"
    assert platform.get("asks-all-stores").text == "done"
    return platform


def uses(platform: RunningPlatform) -> dict[str, dict[str, int]]:
    """Return what status tells of the Worker, by store."""
    (machine,) = platform.status()["machines"]
    return {
        store: use["counts"]
        for store, facts in machine["stores"].items()
        for use in facts["workers"]
        if use["worker"] == "asks-all-stores"
    }


def test_each_binding_is_counted_for_its_worker(busy: RunningPlatform) -> None:
    """Goal: every store, exactly; what the API asks itself is nobody's."""
    busy.call("PUT", "/r2/buckets/asks-all-stores/objects/by-the-api", content=b"x")
    try:
        wait_until(lambda: uses(busy) == WANTED, "counted as wanted", deadline_s=30)
    except AssertionError:
        assert uses(busy) == WANTED
    shown = busy.kythera("status").stdout
    lines = [
        line.split(None, 2) for line in shown.splitlines() if line.startswith("asks-all-stores ")
    ]
    told: dict[str, Any] = {line[1]: line[2] for line in lines if line[1] in WANTED}
    assert told["kv"] == "reads 3, writes 1, deletes 1, lists 1"
    assert told["objects"] == "requests 2"


def test_sums_go_on_when_a_store_is_killed(busy: RunningPlatform) -> None:
    """Goal: kill -9 of a store's program: what was heard of it is not forgotten."""
    wait_until(lambda: "kv" in uses(busy), "counted", deadline_s=10)
    before = uses(busy)["kv"]["reads"]
    (pid,) = [p for p in family(busy.process.pid) if "kythera.node.kv_server" in command(p)]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "killed")
    assert busy.get("asks-all-stores", "/kv").text == "2"
    wait_until(
        lambda: uses(busy)["kv"]["reads"] == before + 3,
        "three more",
        deadline_s=15,
    )
