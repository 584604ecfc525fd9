"""Workers of an account call each other through service bindings, deployed by the real wrangler.

Method: a caller with one path for each thing a binding can do, answering in JSON what came of it; what
is true of two cells is looked at by visitors, never from inside.
"""

import json
import os
import signal
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.platforms import RunningPlatform
from tests.processes import birth, wait_until
from tests.story.test_lives_of_parts import Visitors
from tests.wranglers import Wrangler, says, write_project

pytestmark = pytest.mark.story

CALLEE = """
import { WorkerEntrypoint, RpcTarget } from 'cloudflare:workers';
class Counter extends RpcTarget {
  #n = 0;
  increment(by) { this.#n += by; return this.#n; }
  get value() { return this.#n; }
}
export default class extends WorkerEntrypoint {
  async fetch(request) {
    if (request.headers.get('upgrade') === 'websocket') {
      const { 0: client, 1: server } = new WebSocketPair();
      server.accept();
      server.addEventListener('message', ({ data }) => server.send(`echo ${data}`));
      return new Response(null, { status: 101, webSocket: client });
    }
    const path = new URL(request.url).pathname;
    if (path === '/throw') throw new Error('not today');
    if (path === '/echo') return new Response(request.body, { headers: { 'x-from': 'callee' } });
    return Response.json({ url: request.url, headers: Object.fromEntries(request.headers) });
  }
  add(a, b) { return a + b; }
  async apply(given) { return await given(20) + 1; }
  counter() { return new Counter(); }
  stream() { return new Response('abc'.repeat(1000)).body; }
  async length(stream) { return (await new Response(stream).arrayBuffer()).byteLength; }
  fail() { throw new RangeError('too far'); }
  get kind() { return 'callee'; }
  get nested() { return { twice: (n) => n * 2 }; }
  props() { return this.ctx.props; }
  date(when) { return [when instanceof Date, new Map([[1, new Set([2])]])]; }
}
export class Admin extends WorkerEntrypoint {
  fetch(request) { return new Response(`admin ${request.method} ${this.ctx.props.role}`); }
  who() { return this.ctx.props; }
}
"""
CALLER = """
const asked = {
  fetch: async ({ OTHER }) => (await OTHER.fetch('https://example.com/p?q', { headers: { a: 'b' } })).json(),
  body: async ({ OTHER }) => {
    const answer = await OTHER.fetch('http://x/echo', { method: 'POST', body: 'z'.repeat(300000) });
    return [answer.headers.get('x-from'), (await answer.text()).length];
  },
  socket: async ({ OTHER }) => {
    const { webSocket } = await OTHER.fetch('http://x/', { headers: { upgrade: 'websocket' } });
    webSocket.accept();
    const heard = new Promise((done) => webSocket.addEventListener('message', (e) => done(e.data)));
    webSocket.send('hi');
    const said = await heard;
    webSocket.close();
    return said;
  },
  threw: async ({ OTHER }) => (await OTHER.fetch('http://x/throw')).status,
  add: ({ OTHER }) => OTHER.add(1, 2),
  function: ({ OTHER }) => OTHER.apply((n) => n * 2),
  stub: async ({ OTHER }) => {
    using counter = await OTHER.counter();
    await counter.increment(2);
    return [await counter.increment(3), await counter.value];
  },
  pipelined: async ({ OTHER }) => await OTHER.counter().increment(7),
  stream: async ({ OTHER }) => (await new Response(await OTHER.stream()).text()).length,
  given: ({ OTHER }) => OTHER.length(new Response('y'.repeat(200000)).body),
  failed: ({ OTHER }) => OTHER.fail(),
  absent: ({ OTHER }) => OTHER.nothing(),
  property: async ({ OTHER }) => await OTHER.kind,
  props: ({ OTHER }) => OTHER.props(),
  rich: async ({ OTHER }) => {
    const [is, map] = await OTHER.date(new Date());
    return [is, map.get(1).has(2)];
  },
  admin: ({ ADMIN }) => ADMIN.who(),
  admin_fetch: async ({ ADMIN }) => (await ADMIN.fetch('http://x/', { method: 'PUT', body: '' })).text(),
  admin_socket: ({ ADMIN }) => ADMIN.fetch('http://x/', { headers: { upgrade: 'websocket' } }),
  connect: async ({ OTHER }) => {
    const { done } = await OTHER.connect('x:1').readable.getReader().read();
    return done ? 'nothing' : 'something';
  },
  deep: ({ OTHER }) => OTHER.nested.twice(4),
  self: async ({ SELF }) => (await SELF.fetch('http://x/hello')).text(),
  exports: async (env, ctx) => (await ctx.exports.default.fetch('http://x/hello')).text(),
};
export default { async fetch(request, env, ctx) {
  const name = new URL(request.url).pathname.slice(1);
  if (name === 'hello') return new Response('hello from the caller');
  try {
    return Response.json({ is: await asked[name](env, ctx) });
  } catch (error) {
    return Response.json({ error: `${error.name}: ${error.message}` });
  }
} };
"""
EXPECTED: dict[str, Any] = {
    "body": ["callee", 300_000],
    "socket": "echo hi",
    "add": 3,
    "function": 41,
    "stub": [5, 5],
    "pipelined": 7,
    "stream": 3_000,
    "given": 200_000,
    "property": "callee",
    "props": {},
    "rich": [True, True],
    "admin": {"role": "root"},
    "admin_fetch": "admin PUT root",
    "self": "hello from the caller",
    "exports": "hello from the caller",
}
DATE = {"compatibility_date": "2026-06-01"}


def service(name: str, worker: str) -> dict[str, str]:
    """Return a binding as an upload's metadata has it."""
    return {"name": name, "type": "service", "service": worker}


def ended(pid: int) -> bool:
    """Tell whether a process is gone."""
    return birth(pid) is None


def cells_of(platform: RunningPlatform, worker: str) -> list[int]:
    """Return the processes of a worker's cells."""
    return [
        pid for row in platform.status()["cells"] if row["worker"] == worker for pid in row["pids"]
    ]


def is_observed(platform: RunningPlatform, worker: str) -> bool:
    """Tell whether a worker's cell has its traces taken."""
    return any(r["observed"] for r in platform.status()["cells"] if r["worker"] == worker)


def deployed(wrangler: Wrangler, folder: Path) -> tuple[str, str]:
    """Deploy both workers; return their names."""
    callee, caller = wrangler.name("callee"), wrangler.name("caller")
    services = [
        {"binding": "OTHER", "service": callee},
        {"binding": "ADMIN", "service": callee, "entrypoint": "Admin", "props": {"role": "root"}},
        {"binding": "SELF", "service": caller},
    ]
    project = write_project(folder / "callee", {"name": callee, **DATE}, {"index.js": CALLEE})
    wrangler.do("deploy", project=project)
    config = {"name": caller, "services": services, **DATE}
    project = write_project(folder / "caller", config, {"index.js": CALLER})
    wrangler.do("deploy", project=project)
    return callee, caller


def test_a_worker_calls_another_in_every_way(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: fetch, bodies, WebSockets, and RPC with functions, stubs and streams, between cells."""
    callee, caller = deployed(wrangler, tmp_path)
    platform = wrangler.platform

    def said(name: str) -> Any:
        return platform.get(caller, f"/{name}").json()

    assert {name: said(name) for name in EXPECTED} == {
        name: {"is": value} for name, value in EXPECTED.items()
    }
    seen = said("fetch")["is"]
    assert seen["url"] == "https://example.com/p?q"
    assert seen["headers"]["a"] == "b"
    assert not [name for name in seen["headers"] if name.startswith("x-kythera")]
    assert said("failed") == {"error": "RangeError: too far"}
    assert "does not implement the method" in said("absent")["error"]
    assert "does not implement the method" in said("deep")["error"]
    assert "A WebSocket cannot go through" in said("admin_socket")["error"]
    assert said("connect") != {"is": "something"}
    assert f'The worker "{callee}" ended this request with an exception' in said("threw")["error"]


def test_a_worker_with_static_files_and_one_that_is_watched_are_called_too(
    wrangler: Wrangler, tmp_path: Path
) -> None:
    """Goal: whatever stands before a worker's code in its cell, calls arrive at the code."""
    callee, caller = wrangler.name("filed"), wrangler.name("filing")
    code = (
        "import { WorkerEntrypoint } from 'cloudflare:workers';\n"
        "export default class extends WorkerEntrypoint {\n"
        "  fetch() { return new Response('code') }\n"
        "  add(a, b) { return a + b }\n"
        "}\n"
    )
    calling = (
        "export default { async fetch(r, { S }) {\n"
        "  const file = await (await S.fetch('http://x/a.txt')).text();\n"
        "  return new Response(`${await S.add(20, 22)} ${file}`);\n"
        "} };\n"
    )
    config: dict[str, Any] = {"name": callee, "assets": {"directory": "public"}, **DATE}
    files = {"index.js": code, "public/a.txt": "a file"}
    wrangler.do("deploy", project=write_project(tmp_path / "a", config, files))
    config = {"name": caller, "services": [{"binding": "S", "service": callee}], **DATE}
    wrangler.do("deploy", project=write_project(tmp_path / "b", config, {"index.js": calling}))
    platform = wrangler.platform
    platform.wait_for(caller, "42 a file")
    made = platform.call("POST", f"/workers/scripts/{callee}/tails", json={})
    assert made.status_code == 200, made.text
    wait_until(lambda: is_observed(platform, callee), "the cell is watched", deadline_s=10)
    platform.wait_for(caller, "42 a file")


def test_a_deploy_of_the_worker_that_is_called_fails_no_call(
    platform: RunningPlatform,
) -> None:
    """Goal: calls go on while their worker is swapped three times, and arrive at the newest."""
    code = (
        "import { WorkerEntrypoint } from 'cloudflare:workers';\n"
        "export default class extends WorkerEntrypoint {\n"
        "  async word() { await scheduler.wait(5); return 'said %s'; }\n"
        "  fetch() { return new Response('fetched %s'); }\n"
        "}\n"
    )
    calling = (
        "export default { async fetch(request, env) {\n"
        "  const said = `${await env.S.word()} ${await (await env.S.fetch(request)).text()}`;\n"
        "  const whole = /^said \\d fetched \\d$/.test(said) && new URL(request.url).pathname === '/';\n"
        "  return new Response(whole ? 'whole' : said);\n"
        "} };\n"
    )
    platform.upload("swapped", code.replace("%s", "0"))
    platform.upload("swapping", calling, bindings=[service("S", "swapped")], **DATE)
    with Visitors(platform, "swapping", "whole").asking() as visitors:
        for number in ("1", "2", "3"):
            platform.upload("swapped", code.replace("%s", number))
            platform.wait_for("swapping", f"said {number} fetched {number}", "/word")
            visitors.wait_for(20)
    assert visitors.failures == []


def test_calls_are_shared_out_as_a_deployment_says(platform: RunningPlatform) -> None:
    """Goal: each call of one caller goes to a version by its percentage, not its tunnel's for ever."""
    code = (
        "import { WorkerEntrypoint } from 'cloudflare:workers';\n"
        "export default class extends WorkerEntrypoint { word() { return '%s' } }\n"
    )
    calling = "export default { async fetch(r, env) { return new Response(await env.S.word()) } }"
    platform.upload("shared", code % "one")
    platform.upload("sharing", calling, bindings=[service("S", "shared")], **DATE)
    platform.wait_for("sharing", "one")
    platform.upload("shared", code % "two")
    path = "/workers/scripts/shared"
    items = platform.call("GET", f"{path}/versions").json()["result"]["items"]
    split = [{"version_id": item["id"], "percentage": 50} for item in items[:2]]
    document = {"strategy": "percentage", "versions": split}
    assert platform.call("POST", f"{path}/deployments", json=document).status_code == 200
    said = [platform.get("sharing").text for _ in range(60)]
    assert said.count("one") > 10
    assert said.count("two") > 10


def test_what_is_idle_is_woken_and_what_was_killed_is_started_again(
    platform: RunningPlatform,
) -> None:
    """Goal: a call finds a cell whatever happened to the last one."""
    code = (
        "import { WorkerEntrypoint } from 'cloudflare:workers';\n"
        "export default class extends WorkerEntrypoint { word() { return 'awake' } }\n"
    )
    calling = "export default { async fetch(r, env) { return new Response(await env.S.word()) } }"
    platform.upload("sleeper", code)
    platform.upload("waker", calling, bindings=[service("S", "sleeper")], **DATE)
    platform.wait_for("waker", "awake")
    for pid in cells_of(platform, "sleeper"):
        os.kill(pid, signal.SIGKILL)
        wait_until(partial(ended, pid), "the cell ended")
    platform.wait_for("waker", "awake")


LOOP = """
import { WorkerEntrypoint } from 'cloudflare:workers';
export default class extends WorkerEntrypoint {
  async fetch(request) {
    const path = new URL(request.url).pathname;
    if (path === '/rest') return new Response('rested');
    try {
      if (path === '/call') return new Response(await this.env.S.again());
      return await this.env.S.fetch(path === '/same' ? request : 'http://x/fresh');
    } catch (error) {
      return new Response(error.message);
    }
  }
  again() { return this.env.S.again(); }
}
"""


@pytest.mark.parametrize("way", ["same", "fresh", "call"])
def test_a_loop_through_two_workers_is_cut(platform: RunningPlatform, way: str) -> None:
    """Goal: A calls B calls A ends with an error that says so, and both go on."""
    platform.upload("loop-b", "export default { fetch() { return new Response('') } }")
    platform.upload("loop-a", LOOP, bindings=[service("S", "loop-b")], **DATE)
    platform.upload("loop-b", LOOP, bindings=[service("S", "loop-a")], **DATE)
    answer = platform.get("loop-a", f"/{way}")
    assert "Subrequest depth limit exceeded" in answer.text
    assert platform.get("loop-a", "/rest").text == "rested"
    assert platform.get("loop-b", "/rest").text == "rested"


def test_what_is_bound_to_must_be_there_and_stays(platform: RunningPlatform) -> None:
    """Goal: 10143 for what is not there; a worker that others call is deleted by force alone, and
    then its callers are told so."""
    hello = says("hello")
    metadata = {"main_module": "w.js", "bindings": [service("S", "nobody")], **DATE}
    files = {
        "metadata": (None, json.dumps(metadata), "application/json"),
        "w.js": ("w.js", hello, "application/javascript+module"),
    }
    refused = platform.call("PUT", "/workers/scripts/bound", files=files)
    assert refused.json()["errors"][0]["code"] == 10143
    platform.upload("needed", hello)
    calling = (
        "export default { async fetch(r, env) { try { return await env.S.fetch(r) }"
        " catch (error) { return new Response(error.message) } } }"
    )
    platform.upload("bound", calling, bindings=[service("S", "needed")], **DATE)
    platform.wait_for("bound", "hello")
    seen = platform.call("GET", "/workers/scripts/needed/references").json()["result"]
    assert [entry["service"] for entry in seen["services"]["incoming"]] == ["bound"]
    deletion = "/workers/services/needed"
    assert platform.call("DELETE", deletion).json()["errors"][0]["code"] == 10064
    assert platform.call("DELETE", f"{deletion}?force=true").status_code == 200
    platform.wait_for("bound", 'there is no worker "needed"')


def test_no_visitor_opens_a_tunnel(platform: RunningPlatform) -> None:
    """Goal: calls are for workers of the account; the public door refuses CONNECT."""
    host, _, port = platform.http.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as visitor:
        visitor.sendall(b"CONNECT hello.localhost:1 HTTP/1.1\r\nHost: hello.localhost:1\r\n\r\n")
        assert visitor.recv(100).startswith(b"HTTP/1.1 405 ")


LOADING = """
export default { async fetch(request, env) {
  const stub = env.LOADER.get('one', async () => ({
    compatibilityDate: '2026-06-01',
    mainModule: 'w.js',
    modules: { 'w.js': "export default { fetch(r, env) { return new Response('loaded ' + env.WORD) } }" },
    env: { WORD: 'word' },
    globalOutbound: null,
  }));
  return stub.getEntrypoint().fetch(request);
} };
"""


def test_a_worker_loads_another_whose_clocks_it_lets_run(platform: RunningPlatform) -> None:
    """Goal: workerd's own loader, for a worker that says that clocks may run; refused otherwise."""
    loader = [{"name": "LOADER", "type": "worker_loader"}]
    running = {"kythera": {"clocks": "running"}}
    platform.upload("loading", LOADING, bindings=loader, **running, **DATE)
    platform.wait_for("loading", "loaded word")
    metadata = {"main_module": "w.js", "bindings": loader, **DATE}
    files = {
        "metadata": (None, json.dumps(metadata), "application/json"),
        "w.js": ("w.js", LOADING, "application/javascript+module"),
    }
    refused = platform.call("PUT", "/workers/scripts/loading", files=files).json()
    assert "kythera.clocks to running" in refused["errors"][0]["message"]
