"""Each request may ask others so often, however it goes about it; what is beyond throws where it is
asked, is told once, and takes nothing from other requests."""

from typing import Any

import anyio
import pytest

from kythera.model.limits import Limits
from kythera.model.records import Binding, Version
from kythera.run.config import subrequests_max
from kythera.run.prelude import SUBREQUESTS_MARKER
from tests.run.starting import Workshop

pytestmark = [pytest.mark.real, pytest.mark.anyio]

MOST = 5
TEXT = "Too many subrequests by single Worker invocation."
HEAD = """
import { AsyncLocalStorage } from 'node:async_hooks';
const away = AsyncLocalStorage.snapshot();
const ask = () => fetch('http://nobody.example/');
async function spent(call = ask, tries = 20) {
  let made = 0;
  for (let at = 0; at < tries; at += 1) {
    try { await call(); made += 1; } catch (error) {
      if (String(error.message).startsWith('Too many subrequests')) break;
      made += 1;
    }
  }
  return made;
}
"""


def worker(workshop: Workshop, body: str, **fields: Any) -> Version:
    """Return a worker whose `fetch` answers what `body` returns."""
    code = HEAD + (
        "export default { async fetch(request, env, ctx) { const found = await (async () => {"
        + body
        + "})(); return Response.json(found ?? null); } };"
    )
    return workshop.worker(code, compatibility_flags=("nodejs_compat",), **fields)


async def said(workshop: Workshop, body: str, **fields: Any) -> Any:
    """Return what such a worker answers, twice: each request has all of its own."""
    async with workshop.cell(worker(workshop, body, **fields), subrequests=MOST) as cell:
        answers = [await cell.get(), await cell.get()]
        assert [answer.status_code for answer in answers] == [200, 200], cell.said
        assert answers[0].json() == answers[1].json()
        return answers[0].json()


def test_a_worker_has_what_it_asks_for_and_the_platform_s_otherwise(workshop: Workshop) -> None:
    """Goal: nothing said means the default, and no more is had than the platform allows."""
    usual = workshop.version()
    asking = workshop.version(limits={"subrequests": 50})
    assert subrequests_max(usual, Limits()) == 0
    assert subrequests_max(usual, Limits(subrequests=7)) == 7
    assert subrequests_max(asking, Limits(subrequests=7)) == 50
    assert subrequests_max(asking, Limits(subrequests_max=10)) == 10


async def test_what_is_beyond_throws_and_can_be_caught(workshop: Workshop) -> None:
    """Goal: the error has Cloudflare's words; the request goes on; the next one begins anew."""
    body = "const made = await spent(); try { await ask(); } catch (error) { return [made, `${error}`]; }"
    made, text = await said(workshop, body)
    assert made == MOST
    assert text.startswith(f"Error: {TEXT}")


async def test_what_is_beyond_is_told_once_for_each_request(workshop: Workshop) -> None:
    """Goal: a loop that does not give up fills no log."""
    body = "for (let i = 0; i < 100; i += 1) await ask().catch(() => {}); return 1;"
    async with workshop.cell(worker(workshop, body), subrequests=MOST) as cell:
        for _ in range(3):
            assert (await cell.get()).status_code == 200
        await cell.says(f"{SUBREQUESTS_MARKER}{MOST}\n")
        assert cell.said.count(SUBREQUESTS_MARKER) == 3


async def test_requests_at_the_same_time_do_not_share(workshop: Workshop) -> None:
    """Goal: each has its own count, also where their turns are mixed."""
    body = "return spent(async () => { await scheduler.wait(2); await ask(); });"
    async with workshop.cell(worker(workshop, body), subrequests=MOST) as cell:
        answers: list[int] = []

        async def one() -> None:
            answers.append((await cell.get()).json())

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(one)
        assert answers == [MOST] * 20


async def test_calls_of_bindings_and_of_all_that_fetches_count(workshop: Workshop) -> None:
    """Goal: KV, R2, D1, queues, the cache, WebSockets and beacons are subrequests like any other."""
    bindings = (
        Binding(name="KV", type="kv_namespace", fields={"namespace_id": "0" * 32}),
        Binding(name="BUCKET", type="r2_bucket", fields={"bucket_name": "b"}),
        Binding(name="DATABASE", type="d1", fields={"id": "0" * 32}),
        Binding(name="QUEUE", type="queue", fields={"queue_name": "q"}),
    )
    body = """
    const ways = {
      cache: () => caches.default.match('http://nobody.example/'),
      kv: () => env.KV.get('key'),
      bucket: () => env.BUCKET.head('key'),
      query: () => env.DATABASE.prepare('SELECT 1').all(),
      batch: () => env.DATABASE.batch([env.DATABASE.prepare('SELECT 1')]),
      queue: () => env.QUEUE.send(1),
      socket: () => new WebSocket('ws://nobody.example/'),
      events: () => new EventSource('http://nobody.example/').close(),
      beacon: () => navigator.sendBeacon('http://nobody.example/'),
    };
    await spent();
    const found = {};
    for (const name of Object.keys(ways)) found[name] = await spent(ways[name]);
    return found;
    """
    assert set((await said(workshop, body, bindings=bindings)).values()) == {0}


async def test_who_asks_for_no_limit_has_nothing_of_it(workshop: Workshop) -> None:
    """Goal: a worker without the setting runs the code that it ran before."""
    assert b"const MOST" not in workshop.config(worker(workshop, "return 1;"))
    async with workshop.cell(worker(workshop, "return spent(ask, 20);")) as cell:
        assert (await cell.get()).json() == 20


async def test_other_handlers_are_counted_too(workshop: Workshop) -> None:
    """Goal: what runs in no `fetch` handler has its own count, and keeps it while it lives."""
    code = (
        HEAD
        + """
import { WorkerEntrypoint } from 'cloudflare:workers';
export class Other extends WorkerEntrypoint { tries() { return spent(); } }
export default { async fetch(request, env, ctx) {
  return Response.json([await ctx.exports.Other.tries(), await ctx.exports.Other.tries()]);
} };
"""
    )
    flags = ("nodejs_compat", "enable_ctx_exports")
    version = workshop.worker(code, compatibility_flags=flags)
    async with workshop.cell(version, subrequests=MOST) as cell:
        assert (await cell.get()).json() == [MOST, MOST], cell.said


WAYS_ROUND = {
    "a context from before": "return away(() => spent(() => away(ask)));",
    "its own name for it": "return spent(() => Object.getPrototypeOf(globalThis).fetch('http://x.example/'));",
    "deleting ours": "delete globalThis.fetch; return spent();",
    "prototypes": """
      const { get } = Map.prototype;
      WeakSet.prototype.has = () => false; WeakRef.prototype.deref = () => undefined;
      AsyncLocalStorage.prototype.getStore = () => ({ spent: -1e9 });
      AsyncLocalStorage.prototype.run = (store, call) => call();
      Object.prototype.spent = -1e9; Function.prototype.toString = () => '';
      Reflect.apply = () => undefined; WebSocketPair.prototype = {};
      return spent();""",
    "our handler": """
      const main = (await import('./kythera-around.js')).default;
      const inner = new Request('http://inner.example/');
      if (request.url.includes('inner')) return spent();
      let made = await spent();
      for (const other of [ctx, Object.create(ctx), new Proxy(ctx, {}), { waitUntil: ctx.waitUntil },
        { waitUntil() {} }]) {
        const found = await away(() => main.fetch(inner, env, other));
        made += typeof found.json === 'function' ? await found.json() : 0;
      }
      return made;""",
}


@pytest.mark.parametrize("way", WAYS_ROUND)
async def test_no_way_round_it(workshop: Workshop, way: str) -> None:
    """Goal: whoever leaves our async context has one more count, and no third."""
    version = worker(workshop, WAYS_ROUND[way])
    async with workshop.cell(version, subrequests=MOST) as cell:
        answer = await cell.get()
        assert answer.status_code == 200, cell.said
        assert answer.json() <= 2 * MOST, answer.json()
        assert answer.json() >= 1
