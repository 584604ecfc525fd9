"""What stands before a worker's code: uncaught exceptions are told with their ray id, and nothing
else about the worker changes."""

import json
from typing import Any

import pytest

from kythera.run.prelude import EXCEPTION_MARKER
from tests.run.starting import RunningCell, Workshop, is_uncaught

pytestmark = [pytest.mark.real, pytest.mark.anyio]

RAY = "8f2b4c6d8e0a1b3c-LOC"


def told(said: str) -> list[dict[str, Any]]:
    """Return the exceptions that a cell has told of."""
    lines = [line for line in said.split("\n") if line.startswith(EXCEPTION_MARKER)]
    return [json.loads(line.removeprefix(EXCEPTION_MARKER)) for line in lines]


async def the_exception(cell: RunningCell) -> dict[str, Any]:
    """Ask for something that fails; return the one exception told."""
    response = await cell.get("/fail", cf_ray=RAY)
    assert is_uncaught(response)
    await cell.says(EXCEPTION_MARKER)
    (found,) = told(cell.said)
    assert found["ray"] == RAY
    return found


THROWING = {
    "a plain object": """\
        export default {
          async fetch(request, env, ctx) { return deep(); },
        };
        function deep() { throw new TypeError("boom\\nand more"); }
    """,
    "an object that throws at once": """\
        export default {
          fetch() { return deep(); },
        };
        function deep() { throw new TypeError("boom\\nand more"); }
    """,
    "an instance of a class": """\
        class App { #message = "boom\\nand more"; fetch() { return this.deep(); }

        deep() { throw new TypeError(this.#message); } }
        export default new App();
    """,
    "an entrypoint class": """\
        import { WorkerEntrypoint } from "cloudflare:workers";
        export default class Main extends WorkerEntrypoint { fetch() { return this.#deep(); }

        #deep() { throw new TypeError("boom\\nand more"); } }
    """,
}


@pytest.mark.parametrize("code", THROWING.values(), ids=THROWING.keys())
async def test_an_uncaught_exception_is_told_with_its_ray_id(workshop: Workshop, code: str) -> None:
    """Goal: the owner finds ray id, name, message and stack in the log, whatever the worker's
    form; the stack names the worker's own module and line, and none of ours."""
    async with workshop.cell(workshop.worker(code)) as cell:
        found = await the_exception(cell)
        assert (found["name"], found["message"]) == ("TypeError", "boom\nand more")
        assert "(index.js:4:" in found["stack"] or "(index.js:3:" in found["stack"]
        assert "kythera" not in found["stack"]


async def test_anything_may_be_thrown_and_is_told(workshop: Workshop) -> None:
    """Goal: what is thrown need not be an Error."""
    code = "export default { async fetch() { throw 'just text'; } };"
    async with workshop.cell(workshop.worker(code)) as cell:
        found = await the_exception(cell)
        assert (found["name"], found["message"]) == ("string", "just text")


SCRIPTS = {
    "asynchronous": """\
        "use strict";
        addEventListener("fetch", (event) => event.respondWith(handle(event.request)));
        async function handle() { throw new TypeError("boom"); }
    """,
    "at once": """\
        /* first */ 'use strict';
        addEventListener("fetch", (event) => {
          throw new TypeError("boom"); });
    """,
}


@pytest.mark.parametrize("code", SCRIPTS.values(), ids=SCRIPTS.keys())
async def test_a_script_in_service_worker_format_is_watched_too(
    workshop: Workshop, code: str
) -> None:
    """Goal: exceptions of scripts are told as well, with lines and columns of the script."""
    async with workshop.cell(workshop.script(code)) as cell:
        found = await the_exception(cell)
        assert (found["name"], found["message"]) == ("TypeError", "boom")
        assert "worker.js:3:" in found["stack"]


async def test_columns_of_a_minified_script_are_told_as_they_were_uploaded(
    workshop: Workshop,
) -> None:
    """Goal: a source map of a script that is one line still fits what is told."""
    code = 'addEventListener("fetch",e=>{throw new Error("boom")});'
    async with workshop.cell(workshop.script(code)) as cell:
        found = await the_exception(cell)
        column = code.index("new Error") + 1
        assert found["stack"].splitlines() == ["Error: boom", f"    at worker.js:1:{column}"]


async def test_a_script_in_service_worker_format_has_a_console(workshop: Workshop) -> None:
    """Goal: what a script logs is printed, though workerd itself prints nothing of scripts."""
    code = """
        addEventListener("fetch", (event) => {
          console.log("told", { a: 1 }); console.warn("and", "warned");
          event.respondWith(new Response("fine"));
        });
    """
    async with workshop.cell(workshop.script(code)) as cell:
        assert (await cell.get("/")).text == "fine"
        assert "told { a: 1 }\n" in await cell.says("told")
        await cell.says("and warned")


async def test_the_worker_keeps_its_own_this_and_its_other_exports(workshop: Workshop) -> None:
    """Goal: standing before the worker changes nothing that it can see."""
    code = """
        import { WorkerEntrypoint, DurableObject } from "cloudflare:workers";
        export class Other extends WorkerEntrypoint { greet(name) { return `hello ${name}`; } }
        export class Thing extends DurableObject {}
        export const named = { async fetch() { return new Response("named"); } };
        class App {
          #count = 0;
          prefix = "n=";
          async fetch(request, env, ctx) {
            this.#count += 1;
            const same = this instanceof App;
            const rpc = await ctx.exports.Other.greet("you");
            const entry = await (await ctx.exports.named.fetch("http://x/")).text();
            return Response.json({ count: this.#count, same, rpc, entry, env, url: request.url });
          }
        }
        export default new App();
    """
    version = workshop.worker(code, compatibility_flags=("enable_ctx_exports",))
    async with workshop.cell(version) as cell:
        await cell.get("/a")
        response = await cell.get("/b?c", x_kythera_scheme="https")
        assert response.json() == {
            "count": 2,
            "same": True,
            "rpc": "hello you",
            "entry": "named",
            "env": {},
            "url": "https://hello.localhost/b?c",
        }


async def test_a_handler_that_is_absent_stays_absent(workshop: Workshop) -> None:
    """Goal: a worker without fetch fails as stock workerd lets it fail."""
    version = workshop.worker("export default { scheduled() {} };", handlers=("scheduled",))
    async with workshop.cell(version) as cell:
        assert (await cell.get("/")).status_code == 500
        assert "lack a handler for FetchEvents" in await cell.says("lack a handler")


async def test_a_response_of_500_is_the_workers_own(workshop: Workshop) -> None:
    """Goal: it has a type, which uncaught exceptions lack, so that HAProxy can tell them."""
    code = "export default { fetch() { return new Response('mine', { status: 500 }); } };"
    async with workshop.cell(workshop.worker(code)) as cell:
        response = await cell.get("/")
        assert (response.status_code, response.text) == (500, "mine")
        assert not is_uncaught(response)
        assert told(cell.said) == []


async def test_an_observed_cell_leaves_exceptions_to_its_traces(workshop: Workshop) -> None:
    """Goal: what a trace carries is not printed a second time."""
    code = "export default { fetch() { throw new Error('boom'); } };"
    sink = workshop.folder / "nobody.sock"
    async with workshop.cell(workshop.worker(code), tail_url_socket=sink) as cell:
        assert (await cell.get("/")).status_code == 500
        await cell.says("Uncaught exception")
        assert told(cell.said) == []
