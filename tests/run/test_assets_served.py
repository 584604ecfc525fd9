"""Static assets as a visitor sees them: workerd's asset service behind our door."""

import asyncio
import base64
import gzip
import os

import httpx
import pytest
import websockets

from kythera.ground import meters
from kythera.model.limits import MIB
from kythera.model.records import Binding
from tests.run.starting import RunningCell, Workshop, is_uncaught

pytestmark = [pytest.mark.real, pytest.mark.anyio]

FILES = {
    "/index.html": b"<h1>index</h1>",
    "/about.html": b"about",
    "/404.html": b"not here",
    "/a.css": b"a{}",
    "/docs/index.html": b"docs",
    "/data.yaml": b"a: 1",
    "/digits.txt": b"0123456789",
    "/empty.txt": b"",
}
API = """
    export default { async fetch(request, env) {
      const { pathname } = new URL(request.url);
      if (pathname === "/asset") { return env.ASSETS.fetch("http://x/a.css"); }
      if (pathname === "/cf") { return Response.json(request.cf ?? null); }
      if (pathname === "/throw") { throw new Error("boom"); }
      return new Response("worker " + pathname);
    } };
"""
ASSETS = (Binding(name="ASSETS", type="assets"),)


async def test_files_and_the_worker_share_the_paths(workshop: Workshop) -> None:
    """Goal: files first, the worker for the rest, env.ASSETS for both, request.cf for the worker,
    and exceptions look as they do without assets."""
    version = workshop.worker(API, assets=workshop.assets(FILES), bindings=ASSETS)
    async with workshop.cell(version) as cell:
        for path, text in {
            "/": "<h1>index</h1>",
            "/about": "about",
            "/docs/": "docs",
            "/asset": "a{}",
            "/api": "worker /api",
            "/a.css": "a{}",
        }.items():
            response = await cell.get(path)
            assert (response.status_code, response.text) == (200, text), path
        moved = await cell.get("/docs")
        assert (moved.status_code, moved.headers["location"]) == (307, "/docs/")
        assert (await cell.get("/cf", cf_blob='{"colo":"local"}')).json() == {"colo": "local"}
        failed = await cell.get("/throw", cf_ray="ray")
        assert is_uncaught(failed)
        assert '"ray":"ray"' in await cell.says("boom")


async def test_assets_alone_make_a_worker(workshop: Workshop) -> None:
    """Goal: no code is needed; what is not there is 404, as it was configured to look."""
    headers = "/a.css\n  X-Mine: yes\n/digits.txt\n  Cache-Control: no-store"
    assets = workshop.assets(
        FILES,
        not_found_handling="404-page",
        html_handling="drop-trailing-slash",
        _headers=headers,
        _redirects="/old /about 301\n/p/* /docs/:splat 302",
    )
    async with workshop.cell(workshop.version(assets=assets)) as cell:
        missing = await cell.get("/missing")
        assert (missing.status_code, missing.text) == (404, "not here")
        assert (await cell.get("/docs")).text == "docs"
        assert (await cell.get("/a.css")).headers["x-mine"] == "yes"
        assert (await cell.get("/digits.txt")).headers["cache-control"] == "no-store"
        old, splat = await cell.get("/old"), await cell.get("/p/x")
        assert (old.status_code, old.headers["location"]) == (301, "/about")
        assert (splat.status_code, splat.headers["location"]) == (302, "/docs/x")
        assert (await cell.get("/_headers")).status_code == 404


async def test_a_single_page_application_gets_its_page(workshop: Workshop) -> None:
    """Goal: not_found_handling and html_handling reach workerd."""
    assets = workshop.assets(
        FILES, not_found_handling="single-page-application", html_handling="none"
    )
    async with workshop.cell(workshop.version(assets=assets)) as cell:
        assert (await cell.get("/some/where")).text == "<h1>index</h1>"
        assert (await cell.get("/about.html")).text == "about"


@pytest.mark.parametrize(
    ("first", "answers"),
    [
        (True, {"/a.css": "worker /a.css", "/x": "worker /x"}),
        (["/api/*", "!/api/a.css"], {"/api/x": "worker /api/x", "/a.css": "a{}"}),
        (False, {"/a.css": "a{}", "/x": "worker /x"}),
    ],
)
async def test_the_worker_runs_first_where_it_is_asked_to(
    workshop: Workshop, first: bool | list[str], answers: dict[str, str]
) -> None:
    """Goal: run_worker_first as a flag and as patterns."""
    assets = workshop.assets(FILES, run_worker_first=first)
    async with workshop.cell(workshop.worker(API, assets=assets)) as cell:
        for path, text in answers.items():
            assert (await cell.get(path)).text == text


async def test_files_live_below_the_base_path(workshop: Workshop) -> None:
    """Goal: base_path reaches workerd."""
    assets = workshop.assets(FILES, base_path="/base")
    async with workshop.cell(workshop.version(assets=assets)) as cell:
        assert (await cell.get("/base/a.css")).text == "a{}"
        assert (await cell.get("/a.css")).status_code == 404


async def test_a_validator_is_right_though_the_size_stays(workshop: Workshop) -> None:
    """Goal: 304 for what has not changed, 200 as soon as the content differs, even by a byte of
    the same size; and for equal content the same validator in the next version."""
    tags = []
    for text in (b"one", b"two", b"one"):
        version = workshop.version(assets=workshop.assets({"/a.txt": text}))
        async with workshop.cell(version) as cell:
            response = await cell.get("/a.txt")
            tags.append(response.headers["etag"])
            same = await cell.get("/a.txt", if_none_match=tags[-1])
            assert (same.status_code, same.content) == (304, b"")
            other = await cell.get("/a.txt", if_none_match=tags[0])
            assert other.status_code == (304 if text == b"one" else 200)
    assert tags[0] == tags[2] != tags[1]
    assert all(tag.startswith('"') for tag in tags)


async def test_types_are_those_of_the_upload(workshop: Workshop) -> None:
    """Goal: a type that workerd cannot guess comes from the manifest, and not for error pages."""
    types = {"/data.yaml": "text/yaml; charset=utf-8", "/a.css": "text/css; charset=utf-8"}
    assets = workshop.assets(FILES, types, not_found_handling="404-page")
    async with workshop.cell(workshop.version(assets=assets)) as cell:
        assert (await cell.get("/data.yaml")).headers["content-type"] == types["/data.yaml"]
        assert (await cell.get("/a.css")).headers["content-type"] == types["/a.css"]
        assert (await cell.get("/x.yaml")).headers["content-type"] == "text/html; charset=utf-8"
        head = await cell.get("/data.yaml", "HEAD")
        assert head.headers["content-type"] == types["/data.yaml"]
        assert head.headers["content-length"] == "4"


@pytest.mark.parametrize(
    ("wanted", "answer"),
    [
        ("bytes=0-3", "bytes 0-3/10"),
        ("bytes=4-", "bytes 4-9/10"),
        ("bytes=-3", "bytes 7-9/10"),
        ("bytes=-30", "bytes 0-9/10"),
        ("bytes=9-9", "bytes 9-9/10"),
        ("bytes=5-500", "bytes 5-9/10"),
    ],
)
async def test_a_range_of_a_file_is_cut_out(workshop: Workshop, wanted: str, answer: str) -> None:
    """Goal: 206 with just the bytes asked for, headers kept."""
    async with workshop.cell(workshop.version(assets=workshop.assets(FILES))) as cell:
        response = await cell.get("/digits.txt", range=wanted)
        assert (response.status_code, response.headers["content-range"]) == (206, answer)
        first, last = (int(n) for n in answer.split()[1].partition("/")[0].split("-"))
        assert response.content == FILES["/digits.txt"][first : last + 1]
        assert response.headers["content-length"] == str(len(response.content))
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        assert response.headers["etag"]


@pytest.mark.parametrize("wanted", ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99-"])
async def test_a_range_beyond_the_file_is_refused(workshop: Workshop, wanted: str) -> None:
    """Goal: 416 with the file's length."""
    async with workshop.cell(workshop.version(assets=workshop.assets(FILES))) as cell:
        response = await cell.get("/digits.txt", range=wanted)
        assert (response.status_code, response.content) == (416, b"")
        assert response.headers["content-range"] == "bytes */10"
        assert response.headers["content-length"] == "0"


@pytest.mark.parametrize(
    "wanted", ["bytes=0-1,3-4", "lines=0-1", "bytes=5-2", "bytes=-", "bytes=a-b", "", "bytes=1"]
)
async def test_a_range_that_we_do_not_serve_is_ignored(workshop: Workshop, wanted: str) -> None:
    """Goal: several ranges, other units and nonsense get the whole file, as they may."""
    async with workshop.cell(workshop.version(assets=workshop.assets(FILES))) as cell:
        response = await cell.get("/digits.txt", range=wanted)
        assert (response.status_code, response.content) == (200, FILES["/digits.txt"])


async def test_a_range_holds_only_for_what_its_validator_names(workshop: Workshop) -> None:
    """Goal: If-Range; a client that resumes never mixes two contents."""
    async with workshop.cell(workshop.version(assets=workshop.assets(FILES))) as cell:
        tag = (await cell.get("/digits.txt")).headers["etag"]
        for condition, status in ((tag, 206), ('"other"', 200), (f"W/{tag}", 200)):
            response = await cell.get("/digits.txt", range="bytes=0-0", if_range=condition)
            assert response.status_code == status
        same = await cell.get("/digits.txt", range="bytes=0-0", if_none_match=tag)
        assert same.status_code == 304
        head = await cell.get("/digits.txt", "HEAD", range="bytes=0-0")
        assert (head.status_code, head.headers["content-length"]) == (200, "10")
        empty = await cell.get("/empty.txt", range="bytes=0-")
        assert empty.status_code in (200, 416)


async def test_ranges_of_a_large_file_stream_with_flat_memory(workshop: Workshop) -> None:
    """Goal: a range costs no memory, wherever in the file it lies, and whoever hangs up."""
    content = os.urandom(MIB) * 24
    version = workshop.version(assets=workshop.assets({"/big.bin": content}))
    async with workshop.cell(version) as cell:
        await cell.get("/big.bin", range="bytes=0-9")
        before = meters.private_bytes(cell.process.pid)
        for first in (0, 12 * MIB + 7, 24 * MIB - 10):
            response = await cell.get("/big.bin", range=f"bytes={first}-")
            assert response.content == content[first:]
            await hang_up(cell)
        grown = meters.private_bytes(cell.process.pid) - before
        assert grown < 16 * MIB, grown
        assert (await cell.get("/big.bin", range="bytes=5-6")).content == content[5:7]


async def hang_up(cell: RunningCell) -> None:
    """Begin a download and leave it."""
    async with cell.client() as client:
        headers = {"range": "bytes=1-"}
        async with client.stream("GET", "/big.bin", headers=headers) as response:
            assert response.status_code == 206


THROUGH = """
    export default { async fetch(request, env) {
      const { pathname } = new URL(request.url);
      if (pathname === "/socket") {
        const [client, server] = Object.values(new WebSocketPair());
        server.accept();
        server.addEventListener("message", (event) => server.send("echo " + event.data));
        server.addEventListener("close", () => server.close());
        return new Response(null, { status: 101, webSocket: client });
      }
      if (pathname === "/gzip") {
        const headers = { "content-encoding": "gzip", etag: '"x"' };
        return new Response(Uint8Array.from(atob("%s"), (c) => c.charCodeAt(0)),
          { headers, encodeBody: "manual" });
      }
      if (pathname === "/events") {
        const { readable, writable } = new TransformStream();
        const writer = writable.getWriter();
        writer.write(new TextEncoder().encode("data: 1\\n\\n"));
        return new Response(readable, { headers: { "content-type": "text/event-stream" } });
      }
      return new Response(await request.arrayBuffer(), { headers: { "set-cookie": "a=1" } });
    } };
"""


async def test_everything_else_passes_the_door_untouched(workshop: Workshop) -> None:
    """Goal: WebSockets, streams, request bodies and encoded bodies of the worker behind it."""
    packed = gzip.compress(b"packed")
    code = THROUGH % base64.b64encode(packed).decode()
    types = {"/data.yaml": "text/yaml"}
    version = workshop.worker(code, assets=workshop.assets(FILES, types))
    async with workshop.cell(version) as cell:
        address = "ws://hello.localhost/socket"
        async with websockets.unix_connect(str(cell.path), address) as socket:
            await socket.send("hello")
            assert await asyncio.wait_for(socket.recv(), 5) == "echo hello"
        for headers in ({}, {"range": "bytes=0-1"}):
            response = await cell.get("/gzip", accept_encoding="gzip", **headers)
            assert (response.status_code, response.content) == (200, b"packed")
            assert response.headers["content-encoding"] == "gzip"
        async with cell.client() as client:
            async with client.stream("GET", "/events", headers={"range": "bytes=0-1"}) as events:
                assert await anext(events.aiter_bytes()) == b"data: 1\n\n"
            sent: httpx.Response = await client.post("/echo", content=b"x" * MIB)
            assert (sent.content, sent.headers["set-cookie"]) == (b"x" * MIB, "a=1")
