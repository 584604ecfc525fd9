"""Stubs of objects and service bindings, handed from process to process in every direction."""

from typing import Any

import pytest

from tests.platforms import RunningPlatform

pytestmark = [pytest.mark.real, pytest.mark.story]

CODE = """
import { DurableObject, WorkerEntrypoint } from 'cloudflare:workers';
const ask = async (stub) => (await stub.fetch('http://x/plain')).text();
export class Shop extends DurableObject {
  count() { return 7; }
  async fetch(request) { return new Response('object ' + new URL(request.url).pathname); }
  async use(stub) { return [await stub.count(), await stub.name, await ask(stub)]; }
  async nested({ list: [stub] }) { return await stub.count(); }
  async fetches(stub) { return await ask(stub); }
  async calls(stub) { return await stub.hello('you'); }
  gives() { return { stub: this.env.NS.getByName('given') }; }
  async own() { return await ask(this.env.SELF); }
  async other() { return [await this.env.OTHER.hello('there'), await ask(this.env.OTHER)]; }
  async handsOn() { return await this.env.OTHER.use(this.env.NS.getByName('third')); }
  async exported() { return await ask(this.ctx.exports.default); }
  async exportedObject() { return await this.ctx.exports.Shop.getByName('fourth').count(); }
}
export default class extends WorkerEntrypoint {
  hello(who) { return `hello ${who}`; }
  async use(stub) { return [await stub.count(), await ask(stub)]; }
  async calls(stub) { return await stub.hello('again'); }
  gives() { return this.env.NS.getByName('given'); }
  async fetch(request) {
    const { pathname } = new URL(request.url);
    if (pathname === '/plain') { return new Response('plain'); }
    const { NS, OTHER, SELF } = this.env;
    const [stub, second] = [NS.getByName('one'), NS.getByName('two')];
    const asked = {
      anObject: () => stub.use(second),
      nested: () => stub.nested({ list: [second] }),
      aBinding: async () => [await stub.fetches(OTHER), await stub.calls(SELF)],
      aResult: async () => { const { stub: given } = await stub.gives(); return [await given.count(), await ask(given)]; },
      aWorkersResult: async () => await (await OTHER.gives()).count(),
      toAWorker: async () => [await OTHER.use(second), await OTHER.calls(SELF)],
    };
    return Response.json(await (asked[pathname.slice(1)] ?? (() => stub[pathname.slice(1)]()))());
  }
}
"""
NS = {"type": "durable_object_namespace", "name": "NS", "class_name": "Shop"}
FIRST = {"new_tag": "v1", "steps": [{"new_sqlite_classes": ["Shop"]}]}
EXPECTED: dict[str, Any] = {
    "anObject": [7, "two", "object /plain"],
    "nested": 7,
    "aBinding": ["plain", "hello you"],
    "aResult": [7, "object /plain"],
    "toAWorker": [[7, "object /plain"], "hello again"],
    "own": "plain",
    "other": ["hello there", "plain"],
    "handsOn": [7, "object /plain"],
    "exported": "plain",
    "exportedObject": 7,
}


def test_stubs_are_handed_from_process_to_process(platform: RunningPlatform) -> None:
    """Goal: of an object and of a binding, as an argument and as a result, from cells to objects, from
    objects to workers; an object calls its worker, others, and what it exports."""
    flags = ["enable_ctx_exports"]
    platform.upload("stubs-other", CODE, bindings=[NS], migrations=FIRST, compatibility_flags=flags)
    services = [
        {"type": "service", "name": "OTHER", "service": "stubs-other"},
        {"type": "service", "name": "SELF", "service": "stubs"},
    ]
    platform.upload(
        "stubs", CODE, bindings=[NS, *services], migrations=FIRST, compatibility_flags=flags
    )
    platform.wait_for("stubs", "plain", "/plain")
    answers = {call: platform.get("stubs", f"/{call}") for call in EXPECTED}
    assert {call: answer.text for call, answer in answers.items() if not answer.is_success} == {}
    assert {call: answer.json() for call, answer in answers.items()} == EXPECTED
    assert platform.get("stubs", "/aWorkersResult").status_code == 500
