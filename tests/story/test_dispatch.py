"""A platform builder's day: namespaces, their workers, a dispatcher and an outbound worker, deployed by
the real wranglers and asked by visitors.

Method: one dispatcher with one path for each thing a dispatch can do; what a tenant's worker answers is
looked at from outside. Nothing here reaches the internet: what tenants send out meets the outbound worker.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.platforms import RunningPlatform
from tests.processes import wait_until
from tests.wranglers import Wrangler, says, write_project

pytestmark = pytest.mark.story

DATE = {"compatibility_date": "2026-06-01"}
NAMESPACES = "/workers/dispatch/namespaces"
DISPATCHER = """
const outbound = (who) => ({ outbound: { who, more: [1, { a: 'é' }] } });
const asked = {
  hello: async ({ D }, request) => (await D.get('tenant').fetch(request)).json(),
  body: async ({ D }) => (await (await D.get('tenant').fetch('https://x/echo', { method: 'POST', body: 'z'.repeat(200000) })).text()).length,
  nobody: ({ D }) => D.get('nobody').fetch('http://x/'),
  threw: ({ D }) => D.get('tenant').fetch('http://x/throw'),
  method: ({ D }) => D.get('tenant').add(1, 2),
  args: ({ D }) => D.get('tenant', { a: 1 }),
  limits: ({ D }) => D.get('tenant', {}, { limits: { cpuMs: 5 } }),
  strange: ({ D }) => D.get('tenant', {}, { outbound: { other: 1 } }),
  much: ({ D }) => D.get('tenant', {}, { outbound: { who: 'x'.repeat(5000) } }).fetch('http://x/'),
  out: async ({ D }) => (await D.get('tenant', {}, outbound('anna')).fetch('http://x/out')).json(),
  both: ({ D }) => Promise.all(['a', 'b', 'c', 'd'].map(async (who) => {
    const { who: seen } = await (await D.get('tenant', {}, outbound(who)).fetch('http://x/out')).json();
    return seen === who;
  })),
  late: async ({ D }) => (await D.get('tenant', {}, outbound('late')).fetch('http://x/late')).json(),
  forged: async ({ D }) => (await D.get('tenant', {}, outbound('anna')).fetch('http://x/forged')).text(),
  stolen: async ({ D }) => (await D.get('tenant', {}, outbound('anna')).fetch('http://x/stolen')).json(),
  bare: async ({ D }) => (await D.get('tenant', {}, outbound('anna')).fetch('http://x/bare')).text(),
  tcp: async ({ D }) => (await D.get('tenant', {}, outbound('anna')).fetch('http://x/tcp')).text(),
  script: async ({ D }) => (await D.get('script', {}, outbound('anna')).fetch('http://x/')).text(),
  told: async ({ D }) => (await D.get('tenant', {}, outbound('anna')).fetch('http://x/', { headers: { 'x-kythera-told': '{}', 'x-kythera-context': 'a' } })).json(),
  failing: async ({ D }) => (await D.get('tenant', {}, outbound('throw')).fetch('http://x/out')).text(),
  socket: async ({ D }) => {
    const { webSocket } = await D.get('tenant').fetch('http://x/', { headers: { upgrade: 'websocket' } });
    webSocket.accept();
    const heard = new Promise((done) => webSocket.addEventListener('message', (e) => done(e.data)));
    webSocket.send('hi');
    const said = await heard;
    webSocket.close();
    return said;
  },
};
export default { async fetch(request, env) {
  try {
    return Response.json({ is: await asked[new URL(request.url).pathname.slice(1)](env, request) });
  } catch (error) {
    return Response.json({ error: `${error.name}: ${error.message}` });
  }
} };
"""
TENANT = """
import { connect } from 'cloudflare:sockets';
const URL_OUT = 'https://api.example.com/x?y';
let kept = 'nothing';
const { set } = Headers.prototype;
const asked = {
  '/echo': (request) => new Response(request.body),
  '/throw': () => { throw new Error('not today'); },
  '/out': () => fetch(URL_OUT, { headers: { a: 'b' } }),
  '/late': async () => {
    await scheduler.wait(5);
    const [first] = await Promise.all([new Promise((done) => setTimeout(() => done(fetch(URL_OUT)), 5))]);
    return first;
  },
  '/forged': () => fetch(URL_OUT, { headers: { 'x-kythera-context': 'a', 'x-kythera-told': '{}' } }),
  '/stolen': async () => {
    Headers.prototype.set = function (name, value) { kept = name; return set.call(this, name, value); };
    const response = await fetch(URL_OUT);
    Headers.prototype.set = set;
    return Response.json({ kept, who: (await response.json()).who });
  },
  '/tcp': async () => {
    const socket = connect('192.0.2.1:80');
    const read = socket.readable.getReader().read();
    return new Response(await read.then(({ done }) => done ? 'nothing' : 'read', (error) => error.message));
  },
  '/bare': async () => {
    const socket = new WebSocket('wss://api.example.com/');
    return new Response(await new Promise((done) => {
      socket.addEventListener('error', (e) => done(e.error?.message ?? e.message));
      socket.addEventListener('open', () => done('open'));
    }));
  },
};
export default { async fetch(request, env) {
  if (request.headers.get('upgrade') === 'websocket') {
    const { 0: client, 1: server } = new WebSocketPair();
    server.accept();
    server.addEventListener('message', ({ data }) => server.send(`echo ${data}`));
    return new Response(null, { status: 101, webSocket: client });
  }
  const { pathname } = new URL(request.url);
  if (pathname === '/throw') return asked[pathname]();
  try {
    const found = asked[pathname];
    return found ? await found(request) : Response.json({ who: env.WHO, headers: Object.fromEntries(request.headers) });
  } catch (error) {
    return new Response(error.message);
  }
} };
"""
OUTBOUND = """
export default { async fetch(request, env) {
  if (env.who === 'throw') throw new Error('no');
  return Response.json({
    url: request.url, who: env.who, more: env.more, own: env.OWN, headers: Object.fromEntries(request.headers),
  });
} };
"""


def upload(platform: RunningPlatform, namespace: str, script: str, code: str, **more: Any) -> None:
    """Deploy one module into a namespace, as a platform builder's own program does."""
    document = {"main_module": "w.js", **DATE, **more}
    files = {
        "metadata": (None, json.dumps(document), "application/json"),
        "w.js": (
            "w.js",
            code,
            "application/javascript" + ("" if "body_part" in more else "+module"),
        ),
    }
    path = f"{NAMESPACES}/{namespace}/scripts/{script}"
    answer = platform.call("PUT", path, files=files)
    assert answer.status_code == 200, answer.text


def is_observed(platform: RunningPlatform, worker: str) -> bool:
    """Tell whether a worker's cell has its traces taken."""
    return any(r["observed"] for r in platform.status()["cells"] if r["worker"] == worker)


def deployed(wrangler: Wrangler, folder: Path) -> tuple[str, str]:
    """Deploy a tenant, an outbound worker and a dispatcher; return namespace and dispatcher."""
    namespace, outbound = wrangler.name("tenants"), wrangler.name("outbound")
    dispatcher = wrangler.name("dispatcher")
    wrangler.do("dispatch-namespace", "create", namespace)
    config: dict[str, Any] = {"name": "tenant", "vars": {"WHO": namespace}, **DATE}
    project = write_project(folder / "tenant", config, {"index.js": TENANT})
    wrangler.do("deploy", "--dispatch-namespace", namespace, project=project)
    own = [{"name": "OWN", "type": "plain_text", "text": "own"}]
    wrangler.platform.upload(outbound, OUTBOUND, bindings=own, **DATE)
    told = {"service": outbound, "parameters": ["who", "more"]}
    binding = {"binding": "D", "namespace": namespace, "outbound": told}
    config = {"name": dispatcher, "dispatch_namespaces": [binding], **DATE}
    wrangler.do("deploy", project=write_project(folder / "d", config, {"index.js": DISPATCHER}))
    return namespace, dispatcher


def test_a_dispatcher_gets_workers_and_an_outbound_worker_takes_what_they_send(
    wrangler: Wrangler, tmp_path: Path
) -> None:
    """Goal: a dispatch reaches the tenant's own cell; what that sends out, however it is written and
    whenever, meets the outbound worker with this dispatch's parameters, or is refused."""
    namespace, dispatcher = deployed(wrangler, tmp_path)
    platform = wrangler.platform

    def said(name: str) -> Any:
        return platform.get(dispatcher, f"/{name}").json()

    seen = said("hello")["is"]
    assert seen["who"] == namespace
    assert not [name for name in seen["headers"] if name.startswith("x-kythera")]
    assert said("body") == {"is": 200_000}
    assert said("socket") == {"is": "echo hi"}
    assert said("nobody") == {"error": "Error: Worker not found."}
    assert "ended this request with an exception" in said("threw")["error"]
    for name in ("method", "args", "limits", "strange"):
        assert said(name)["error"].startswith("TypeError"), name
    assert "dispatch_told_bytes_max" in said("much")["error"]
    out = said("out")["is"]
    assert (out["url"], out["who"], out["own"]) == ("https://api.example.com/x?y", "anna", "own")
    assert out["more"] == [1, {"a": "é"}]
    assert out["headers"]["a"] == "b"
    assert not [name for name in out["headers"] if name.startswith("x-kythera")]
    assert said("both") == {"is": [True] * 4}
    assert said("late")["is"]["who"] == "late"
    assert json.loads(said("forged")["is"])["who"] == "anna"
    assert said("stolen") == {"is": {"kept": "nothing", "who": "anna"}}
    script = (
        "addEventListener('fetch', (event) => event.respondWith(\n"
        "  fetch('https://api.example.com/').catch((error) => new Response(error.message))));\n"
    )
    upload(platform, namespace, "script", script, main_module=None, body_part="w.js")
    assert said("tcp")["is"] != "read"
    wait_until(
        lambda: "outbound connect failed: this Worker is dispatched" in platform.tail(),
        "the reason is in its log",
    )
    for name in ("bare", "script"):
        assert "dispatched with an outbound Worker" in said(name)["is"], name
    for worker in (f"{namespace}~tenant", wrangler.name("outbound")):
        made = platform.call("POST", f"/workers/scripts/{worker}/tails", json={})
        assert made.status_code == 200, made.text
        wait_until(partial(is_observed, platform, worker), "the cell is watched", deadline_s=10)
    assert said("out")["is"]["who"] == "anna"
    told = said("told")["is"]["headers"]
    assert not [name for name in told if name.startswith("x-kythera")]
    assert "ended it with an exception" in said("failing")["is"]
    assert platform.fetch(f"http://{namespace}~tenant.{platform.domain}/").status_code == 404
    assert platform.get("tenant").status_code == 404
    cells = [row["worker"] for row in platform.status()["cells"] if row["pids"]]
    assert f"{namespace}~tenant" in cells


def test_wrangler_keeps_namespaces(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: create, deploy twice, get, list, rename, delete; a namespace with workers stays; a dispatcher
    reaches its workers after it was renamed."""
    platform, name, after = wrangler.platform, wrangler.name("kept"), wrangler.name("renamed")
    assert platform.call("POST", NAMESPACES, json={"name": name}).status_code == 200
    project = write_project(tmp_path / "t", {"name": "t", **DATE}, {"index.js": says("t here")})
    upload(platform, name, "t", says("t before"))
    wrangler.do("deploy", "--dispatch-namespace", name, project=project)
    code = "export default { fetch(request, { D }) { return D.get('t').fetch(request) } }"
    bound = [{"name": "D", "type": "dispatch_namespace", "namespace": name}]
    dispatcher = wrangler.name("keeper")
    platform.upload(dispatcher, code, bindings=bound, **DATE)
    platform.wait_for(dispatcher, "t here")
    wrangler.do("dispatch-namespace", "rename", name, after)
    assert "script_count: 1" in wrangler.do("dispatch-namespace", "get", after).text
    assert after in wrangler.do("dispatch-namespace", "list").text
    assert platform.get(dispatcher).text == "t here"
    gone = platform.call("DELETE", f"{NAMESPACES}/{after}/scripts/t")
    assert gone.status_code == 200, gone.text
    wrangler.do("dispatch-namespace", "delete", after)
    wait_until(lambda: platform.get(dispatcher).status_code == 500, "the worker is gone")


def test_a_namespace_reaches_its_own_workers_alone(platform: RunningPlatform) -> None:
    """Goal: equal names in two namespaces and in the account are three workers; each dispatcher gets its
    own namespace's, whatever name it asks for; static files, objects and secrets are a tenant's own."""
    for name in ("apart-a", "apart-b"):
        assert platform.call("POST", NAMESPACES, json={"name": name}).status_code == 200
    upload(platform, "apart-a", "same", says("of a"))
    upload(platform, "apart-b", "same", says("of b"))
    upload(platform, "apart-b", "only", says("only b"))
    platform.upload("same", says("of the account"))
    code = (
        "export default { async fetch(request, { D }) {\n"
        "  try { return await D.get(new URL(request.url).searchParams.get('w')).fetch(request) }\n"
        "  catch (error) { return new Response(error.message) }\n"
        "} }"
    )
    bound = [{"name": "D", "type": "dispatch_namespace", "namespace": "apart-a"}]
    platform.upload("apart-dispatcher", code, bindings=bound, **DATE)
    platform.wait_for("apart-dispatcher", "of a", "/?w=same")
    for name in ("only", "apart-b~only", "apart-b/only", "../same", "x" * 300):
        assert platform.get("apart-dispatcher", f"/?w={name}").text == "Worker not found."
    assert platform.get("same").text == "of the account"
    counting = (
        "import { DurableObject } from 'cloudflare:workers';\n"
        "export class Counter extends DurableObject {\n"
        "  async add() { const n = 1 + (await this.ctx.storage.get('n') ?? 0);"
        " await this.ctx.storage.put('n', n); return n; }\n"
        "}\n"
        "export default { async fetch(request, env) {\n"
        "  const count = await env.C.get(env.C.idFromName('x')).add();\n"
        "  return new Response(`${env.S} ${count}`);\n"
        "} }"
    )
    objects = [{"name": "C", "type": "durable_object_namespace", "class_name": "Counter"}]
    migrations = {"new_tag": "v1", "steps": [{"new_sqlite_classes": ["Counter"]}]}
    upload(platform, "apart-a", "counter", counting, bindings=objects, migrations=migrations)
    secret = {"name": "S", "text": "secret", "type": "secret_text"}
    one = f"{NAMESPACES}/apart-a/scripts/counter"
    assert platform.call("PUT", f"{one}/secrets", json=secret).status_code == 200
    platform.wait_for("apart-dispatcher", "secret", "/?w=counter")
    counts = [int(platform.get("apart-dispatcher", "/?w=counter").text.split()[1]) for _ in "ab"]
    assert counts[1] == counts[0] + 1


def test_a_worker_of_the_operator_s_stands_for_what_is_not_offered(
    platform: RunningPlatform,
) -> None:
    """Goal: `ai` is refused by name with the command that helps; once a worker stands for it,
    env.AI.run() is that worker's method, told what the upload said; after unmap it is refused again."""
    model = (
        "import { WorkerEntrypoint } from 'cloudflare:workers';\n"
        "export class Models extends WorkerEntrypoint {\n"
        "  run(model, { prompt }) {\n"
        "    return { response: `${model} says ${prompt}`, gateway: this.ctx.props.gateway };\n"
        "  }\n"
        "}\n"
        "export default { fetch() { return new Response('') } };\n"
    )
    code = (
        "export default { async fetch(request, env) {\n"
        "  return Response.json(await env.AI.run('@cf/small', { prompt: 'hi' }));\n"
        "} }"
    )
    bound = [{"name": "AI", "type": "ai", "gateway": "mine"}]
    platform.upload("models", model, **DATE)
    document = {"main_module": "w.js", "bindings": bound, **DATE}
    files = {
        "metadata": (None, json.dumps(document), "application/json"),
        "w.js": ("w.js", code, "application/javascript+module"),
    }
    refused = platform.call("PUT", "/workers/scripts/asking", files=files).json()["errors"]
    assert "kythera binding map ai WORKER" in refused[0]["message"]
    mapped = platform.kythera("binding", "map", "ai", "models", "--entrypoint", "Models")
    assert mapped.returncode == 0, mapped.stderr
    try:
        platform.upload("asking", code, bindings=bound, **DATE)
        answer = platform.get("asking").json()
        assert answer == {"response": "@cf/small says hi", "gateway": "mine"}
        assert "asking" in platform.kythera("binding", "list").stdout
    finally:
        unmapped = platform.kythera("binding", "unmap", "ai")
    assert "Still bound to models: asking" in unmapped.stdout
    assert platform.get("asking").status_code == 200
    assert platform.call("PUT", "/workers/scripts/asking", files=files).status_code == 400
