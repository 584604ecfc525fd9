"""A real cell: what a worker is given, and what those who watch it get."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from kythera.model.records import Binding
from tests.run.starting import ACCOUNT, VERSION_ID, RunningCell, Workshop

pytestmark = [pytest.mark.real, pytest.mark.anyio]

WASM = bytes.fromhex(
    "0061736d0100000001070160027f7f017f030201000707010361646400000a09010700200020016a0b"
)
"""(module (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add))"""


async def test_modules_of_every_kind_are_imported_by_their_names(workshop: Workshop) -> None:
    """Goal: names as bundlers make them, `./` in front or in a folder."""
    code = """
        import text from "./0a1b-note.txt"; import data from "./0a1b-raw.bin";
        import wasm from "./0a1b-add.wasm"; import value from "./lib/value.json";
        import { half } from "./lib/half.js"; import old from "./lib/old.cjs";
        export default { async fetch() {
          const { exports } = await WebAssembly.instantiate(wasm);
          return Response.json({ text, size: data.byteLength, sum: exports.add(2, 3), value,
            half: half(8), old: old.name });
        } };
    """
    version = workshop.worker(
        code,
        workshop.module("./0a1b-note.txt", "ünïcode", "text"),
        workshop.module("./0a1b-raw.bin", b"\0\xff\0", "data"),
        workshop.module("./0a1b-add.wasm", WASM, "wasm"),
        workshop.module("lib/value.json", '{"a": [1]}', "json"),
        workshop.module("lib/half.js", "export const half = (n) => n / 2;"),
        workshop.module("lib/old.cjs", "module.exports = { name: 'old' };", "cjs"),
    )
    async with workshop.cell(version) as cell:
        assert (await cell.get()).json() == {
            "text": "ünïcode",
            "size": 3,
            "sum": 5,
            "value": {"a": [1]},
            "half": 4,
            "old": "old",
        }


async def test_bindings_are_in_the_workers_environment(workshop: Workshop) -> None:
    """Goal: text, JSON, secrets and version metadata."""
    version = workshop.worker(
        "export default { fetch(request, env) { return Response.json(env); } };",
        bindings=(
            Binding(name="TEXT", type="plain_text", fields={"text": "tëxt\n"}),
            Binding(name="VALUE", type="json", fields={"json": {"a": [1, None]}}),
            Binding(name="SECRET", type="secret_text", fields={"sealed": "SECRET:s3cret"}),
            Binding(name="META", type="version_metadata"),
        ),
    )
    async with workshop.cell(version) as cell:
        assert (await cell.get()).json() == {
            "TEXT": "tëxt\n",
            "VALUE": {"a": [1, None]},
            "SECRET": "s3cret",
            "META": {"id": VERSION_ID, "tag": "", "timestamp": version.created_on},
        }


async def test_a_script_finds_its_bindings_as_globals(workshop: Workshop) -> None:
    """Goal: service-worker format with wasm, text and data."""
    code = """
        const added = new WebAssembly.Instance(ADD).exports.add(2, 3);
        addEventListener("fetch", (event) => event.respondWith(
          Response.json({ added, NOTE, size: RAW.byteLength, NAME })));
    """
    version = workshop.script(
        code,
        workshop.module("./add.wasm", WASM, "wasm"),
        workshop.module("./note.txt", "note", "text"),
        workshop.module("./raw.bin", b"123", "data"),
        bindings=(
            Binding(name="ADD", type="wasm_module", fields={"part": "./add.wasm"}),
            Binding(name="NOTE", type="text_blob", fields={"part": "./note.txt"}),
            Binding(name="RAW", type="data_blob", fields={"part": "./raw.bin"}),
            Binding(name="NAME", type="plain_text", fields={"text": "me"}),
        ),
    )
    async with workshop.cell(version) as cell:
        assert (await cell.get()).json() == {"added": 5, "NOTE": "note", "size": 3, "NAME": "me"}


async def test_node_modules_are_there_when_asked_for(workshop: Workshop) -> None:
    """Goal: nodejs_compat."""
    code = """
        import { Buffer } from "node:buffer"; import { createHash } from "node:crypto";
        export default { fetch() { return new Response(
          createHash("sha256").update(Buffer.from("x")).digest("hex").slice(0, 8)); } };
    """
    version = workshop.worker(code, compatibility_flags=("nodejs_compat",))
    async with workshop.cell(version) as cell:
        assert (await cell.get()).text == "2d711642"


async def test_the_request_says_what_the_front_knows(workshop: Workshop) -> None:
    """Goal: request.cf from the front's header, the scheme of the visitor; neither header shows."""
    code = """export default { fetch(request) { return Response.json(
        { cf: request.cf, url: request.url, names: [...request.headers.keys()] }); } };"""
    async with workshop.cell(workshop.worker(code)) as cell:
        answer = await cell.get("/p?q", cf_blob='{"colo":"home"}', x_kythera_scheme="https")
        told = answer.json()
        assert (told["cf"], told["url"]) == ({"colo": "home"}, "https://hello.localhost/p?q")
        assert "cf-blob" not in told["names"]


async def test_a_large_module_fits(workshop: Workshop) -> None:
    """Goal: the message's own limits are not ours."""
    big = workshop.module("big.bin", bytes(60_000_000), "data")
    code = """import big from "./big.bin";
        export default { fetch() { return new Response(big.byteLength); } };"""
    async with workshop.cell(workshop.worker(code, big)) as cell:
        assert (await cell.get()).text == "60000000"


@asynccontextmanager
async def sink(path: Path) -> AsyncIterator[list[tuple[str, list[Any]]]]:
    """Listen where observed cells post their traces; collect paths and traces."""
    got: list[tuple[str, list[Any]]] = []

    async def take(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            data = b""
            while b"\r\n\r\n" not in data:
                data += await stream.receive()
            head, _, body = data.partition(b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
            length = int({k.lower(): v for k, v in fields.items()}["content-length"])
            while len(body) < length:
                body += await stream.receive()
            got.append((head.split()[1].decode(), json.loads(body)))
            await stream.send(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

    async with anyio.create_task_group() as tasks:
        listener = await anyio.create_unix_listener(path)
        tasks.start_soon(listener.serve, take)
        yield got
        tasks.cancel_scope.cancel()
    await listener.aclose()


WATCHED = """export default { async fetch(request) {
    console.log("hello", { a: 1 }); console.warn("beware");
    if (request.url.endsWith("/fail")) throw new TypeError("boom");
    return new Response("fine", { status: 201 }); } };"""


async def wait_for(cell: RunningCell, got: list[Any], count: int) -> None:
    """Wait until so many traces have come."""
    with anyio.fail_after(10):
        while len(got) < count:
            await anyio.sleep(0.01)
    assert cell.process.status is None


@pytest.mark.parametrize("form", ["module", "script"])
async def test_an_observed_cell_posts_its_traces(workshop: Workshop, form: str) -> None:
    """Goal: request, response, console and exceptions, under the worker's name and version; the
    console goes to stdout as well."""
    script = """addEventListener("fetch", (event) => event.respondWith(handle(event.request)));
        const handle = (WATCHED).fetch;""".replace("WATCHED", WATCHED.partition("default")[2][:-1])
    version = workshop.worker(WATCHED) if form == "module" else workshop.script(script)
    path = workshop.folder / "tail.sock"
    async with sink(path) as got, workshop.cell(version, tail_url_socket=path) as cell:
        assert (await cell.get("/fine", cf_ray="r1")).status_code == 201
        assert (await cell.get("/fail", cf_ray="r2")).status_code == 500
        await wait_for(cell, got, 2)
        await cell.says("hello { a: 1 }")
        assert {place for place, _ in got} == {f"/{ACCOUNT}/hello/{VERSION_ID}"}
        fine, failed = (trace for _, traces in got for trace in traces)
    assert fine["scriptName"] == "hello"
    assert fine["scriptVersion"] == {"id": VERSION_ID}
    assert (fine["outcome"], failed["outcome"]) == ("ok", "exception")
    assert [(log["level"], log["message"]) for log in fine["logs"]] == [
        ("log", ["hello", {"a": 1}]),
        ("warn", ["beware"]),
    ]
    assert fine["event"]["response"]["status"] == 201
    assert fine["event"]["request"]["headers"]["cf-ray"] == "r1"
    (exception,) = failed["exceptions"]
    assert (exception["name"], exception["message"]) == ("TypeError", "boom")
    assert version.modules[0].name in exception["stack"]


@pytest.mark.parametrize("somebody", [False, True])
async def test_a_deaf_watcher_costs_no_request(workshop: Workshop, somebody: bool) -> None:
    """Goal: whether nobody listens or somebody listens and never answers, the worker serves."""
    path = workshop.folder / "tail.sock"
    with socket.socket(socket.AF_UNIX) as deaf:
        if somebody:
            deaf.bind(str(path))
            deaf.listen()
        async with workshop.cell(workshop.worker(WATCHED), tail_url_socket=path) as cell:
            with anyio.fail_after(4):
                for _ in range(20):
                    assert (await cell.get("/fine")).text == "fine"


async def test_text_holds_any_character(workshop: Workshop) -> None:
    """Goal: not even a zero cuts a text short."""
    text = "a\0b\u2028\U0001f600"
    version = workshop.worker(
        "import text from './t.txt'; export default { fetch(request, env) {"
        " return Response.json([text, env.TEXT, env.VALUE]); } };",
        workshop.module("./t.txt", text, "text"),
        bindings=(
            Binding(name="TEXT", type="plain_text", fields={"text": text}),
            Binding(name="VALUE", type="json", fields={"json": text}),
        ),
    )
    async with workshop.cell(version) as cell:
        assert (await cell.get()).json() == [text, text, text]
