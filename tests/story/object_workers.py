"""Workers with Durable Objects that tests deploy, and how they are asked."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.platforms import RunningPlatform

SHOP = """
import { DurableObject, RpcTarget } from 'cloudflare:workers';
class Basket extends RpcTarget {
  constructor(count) { super(); this.count = count; }
  add(more) { this.count += more; return this.count; }
  get size() { return this.count; }
}
export class %class% extends DurableObject {
  constructor(ctx, env) {
    super(ctx, env);
    ctx.blockConcurrencyWhile(async () => {
      ctx.storage.sql.exec('CREATE TABLE IF NOT EXISTS t (n INTEGER)');
      this.starts = ((await ctx.storage.get('starts')) ?? 0) + 1;
      await ctx.storage.put('starts', this.starts);
    });
    ctx.setWebSocketAutoResponse(new WebSocketRequestResponsePair('ping', 'pong'));
  }
  async fetch(request) {
    if (request.headers.get('Upgrade') === 'websocket') {
      const [client, server] = Object.values(new WebSocketPair());
      const name = new URL(request.url).searchParams.get('who');
      this.ctx.acceptWebSocket(server, [name]);
      server.serializeAttachment({ name });
      return new Response(null, { status: 101, webSocket: client });
    }
    if (request.url.endsWith('?boom')) { throw new RangeError('too far'); }
    return Response.json({
      id: this.ctx.id.toString(), name: this.ctx.id.name, method: request.method,
      url: request.url, body: await request.text(), version: '%version%',
      ours: [...request.headers.keys()].filter((each) => each.includes('kythera')),
    });
  }
  webSocketMessage(socket, text) {
    const { name } = socket.deserializeAttachment();
    for (const each of this.ctx.getWebSockets()) { each.send(`${name} ${this.starts}: ${text}`); }
  }
  webSocketClose(socket, code, reason) { socket.close(code, reason); }
  add() {
    this.ctx.storage.sql.exec('INSERT INTO t VALUES (1)');
    return this.count();
  }
  count() { return this.ctx.storage.sql.exec('SELECT count(*) AS n FROM t').one().n; }
  async apply(change, value) { return [await change(value), typeof change]; }
  basket(count) { return new Basket(count); }
  doubler() { return (value) => value * 2; }
  get colour() { return 'blue'; }
  async read(stream) { return await new Response(stream).text(); }
  stream() { return new Blob(['as a stream']).stream(); }
  fail() { throw new RangeError('not that far'); }
  async store() {
    await this.ctx.storage.put({ a: 1, b: [2] });
    try {
      this.ctx.storage.transactionSync(() => { this.add(); throw new Error('back'); });
    } catch {}
    return [[...await this.ctx.storage.list()].length, this.count()];
  }
  async wake(ms) { await this.ctx.storage.setAlarm(Date.now() + ms); }
  async alarm() { console.log('woken'); await this.ctx.storage.put('woken', 'woken'); }
  woken() { return this.ctx.storage.get('woken'); }
  spin() { for (;;) {} }
  async where() { return (await this.env.NS.getByName('another').fetch('http://x/')).json(); }
}
const CALLS = {
  add: (stub) => stub.add(),
  count: (stub) => stub.count(),
  apply: (stub) => stub.apply((value) => value + 1, 5),
  basket: async (stub) => { using b = await stub.basket(5); return [await b.add(2), await b.size]; },
  pipelined: (stub) => stub.basket(1).add(1),
  doubler: async (stub) => { using f = await stub.doubler(); return await f(21); },
  colour: async (stub) => await stub.colour,
  read: (stub) => stub.read(new Blob(['streamed in']).stream()),
  stream: async (stub) => new Response(await stub.stream()).text(),
  fail: (stub) => stub.fail(),
  missing: (stub) => stub.missing(),
  store: (stub) => stub.store(),
  wake: (stub) => stub.wake(1500),
  woken: (stub) => stub.woken(),
  spin: (stub) => stub.spin(),
  where: (stub) => stub.where(),
  jurisdiction: (stub, env) => String(env.NS.jurisdiction('eu')),
  ids: (stub, env) => {
    const id = env.NS.idFromName('x');
    return [id.equals(env.NS.idFromString(id.toString())), id.name,
      env.NS.newUniqueId().toString().length, stub.name, env.NS.get(id).id.equals(id)];
  },
};
export default {
  async fetch(request, env) {
    const url = new URL(request.url);
    const [, call, name] = url.pathname.split('/');
    const stub = env.NS.getByName(name ?? 'one');
    if (call === 'fetch') { return stub.fetch(request); }
    if (call === 'version') { return new Response('%version%'); }
    try {
      return Response.json((await CALLS[call](stub, env)) ?? null);
    } catch (error) {
      return Response.json({ name: error.name, message: error.message }, { status: 500 });
    }
  },
};
"""
FIRST = {"new_tag": "v1", "steps": [{"new_sqlite_classes": ["Shop"]}]}


def shop(version: str = "1", class_name: str = "Shop") -> str:
    """Return the worker's code."""
    return SHOP.replace("%version%", version).replace("%class%", class_name)


def binding(class_name: str = "Shop", **more: str) -> dict[str, str]:
    """Return the binding `NS`."""
    return {
        "type": "durable_object_namespace",
        "name": "NS",
        "class_name": class_name,
        **more,
    }


def deploy_shop(platform: RunningPlatform, worker: str, version: str = "1", **more: Any) -> None:
    """Deploy it; the first version with its migration."""
    if version == "1":
        more.setdefault("migrations", FIRST)
    more.setdefault("bindings", [binding()])
    platform.upload(worker, shop(version), **more)


def called(platform: RunningPlatform, worker: str, call: str, name: str = "one") -> Any:
    """Ask an object something through its worker."""
    answer = platform.get(worker, f"/{call}/{name}")
    return answer.json()


@contextmanager
def counting(platform: RunningPlatform, worker: str, at_once: int = 4) -> Iterator[list[int]]:
    """Have an object count all the time; yields what was acknowledged so far."""
    over = threading.Event()
    acknowledged: list[int] = []

    def ask() -> None:
        host = {"Host": f"{worker}.localhost"}
        while not over.is_set():
            try:
                with httpx.Client(trust_env=False, timeout=20) as client:
                    answer = client.get(f"{platform.http}/add/one", headers=host)
                if answer.status_code == 200:
                    acknowledged.append(answer.json())
            except httpx.HTTPError:
                pass  # Not acknowledged: it may count or not.
            over.wait(0.002)

    threads = [threading.Thread(target=ask) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    try:
        yield acknowledged
    finally:
        over.set()
        for thread in threads:
            thread.join()
