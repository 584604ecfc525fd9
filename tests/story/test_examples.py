"""The examples are what a new user copies: each is deployed as its README says, with wrangler on
Node 20, and used as a visitor would, through the front door."""

import http.client
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.platforms import ROOT, RunningPlatform, running
from tests.story.pictures import develop, read_png, write_png
from tests.wranglers import Wrangler

pytestmark = pytest.mark.story

WRANGLER = "4.86.0"
SERVED = ("hello", "todo-api", "site", "wasm", "chat", "stream")
WAIT_S = 20.0


def project(name: str, folder: Path) -> Path:
    """Return a copy of an example with its npm packages, as a user has it after `npm ci`."""
    copy = folder / name
    shutil.copytree(ROOT / "examples" / name, copy)
    if (copy / "package.json").exists() and not (copy / "node_modules").is_dir():
        subprocess.run(["npm", "ci"], cwd=copy, check=True, capture_output=True, timeout=120)
    return copy


def deploy(name: str, platform: RunningPlatform, folder: Path, *options: str) -> None:
    """Deploy an example as `example-<name>`."""
    wrangler = Wrangler(WRANGLER, platform, folder)
    wrangler.do("deploy", "--name", f"example-{name}", *options, project=project(name, folder))


@pytest.fixture(scope="module")
def served(platform: RunningPlatform, tmp_path_factory: pytest.TempPathFactory) -> RunningPlatform:
    """Return the shared platform with the examples on it."""
    for name in SERVED:
        deploy(name, platform, tmp_path_factory.mktemp("examples"))
    return platform


def door(platform: RunningPlatform) -> tuple[str, int]:
    """Return where the platform takes requests."""
    url = urlsplit(platform.http)
    assert url.hostname is not None
    assert url.port is not None
    return url.hostname, url.port


def test_hello_greets_whom_the_path_names(served: RunningPlatform) -> None:
    """Goal: the first thing that anybody tries works. Method: with and without a name."""
    assert served.get("example-hello", "/Ada").text == "Hello, Ada!\n"
    assert served.get("example-hello").text == "Hello, world!\n"


def test_a_todo_is_made_changed_and_removed(served: RunningPlatform) -> None:
    """Goal: the TypeScript API with its router serves. Method: one to-do's whole life."""
    made = served.get("example-todo-api", "/todos", method="POST", json={"title": " water them "})
    assert made.status_code == 201
    path, todo = made.headers["location"], made.json()
    assert todo == {"id": todo["id"], "title": "water them", "done": False}

    changed = served.get("example-todo-api", path, method="PATCH", json={"done": True})
    assert changed.json() == {**todo, "done": True}
    assert served.get("example-todo-api", "/todos?done=true").json() == [changed.json()]

    assert served.get("example-todo-api", path, method="DELETE").status_code == 204
    assert served.get("example-todo-api", path).status_code == 404


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"{", "the body is not JSON"),
        (b"[]", "a to-do needs a title"),
        (b'{"title": 7}', "title must be a text"),
        (b'{"title": "x", "done": "yes"}', "done must be true or false"),
    ],
)
def test_a_bad_todo_is_refused_in_words(
    served: RunningPlatform, content: bytes, complaint: str
) -> None:
    """Goal: what people copy checks its input. Method: one sample of each mistake."""
    answer = served.get("example-todo-api", "/todos", method="POST", content=content)
    assert (answer.status_code, answer.json()) == (400, {"error": complaint})


def test_the_site_serves_its_pages_with_clean_addresses(served: RunningPlatform) -> None:
    """Goal: static files as configured. Method: a page, its headers, a redirect, no page."""
    page = served.get("example-site")
    assert "<title>Wanderers</title>" in page.text
    assert page.headers["x-content-type-options"] == "nosniff"
    assert served.get("example-site", "/style.css").headers["cache-control"].endswith("=3600")
    assert "About Wanderers" in served.get("example-site", "/about").text

    moved = served.get("example-site", "/info")
    assert (moved.status_code, moved.headers["location"]) == (301, "/about")
    lost = served.get("example-site", "/nowhere")
    assert (lost.status_code, "Lost in space" in lost.text) == (404, True)


def test_the_site_answers_its_api_before_its_files(served: RunningPlatform) -> None:
    """Goal: `run_worker_first` leads to the code. Method: a hit and a miss below /api."""
    mars = served.get("example-site", "/api/planets/mars").json()
    assert mars == {"name": "Mars", "days": 686.98, "moons": 2}
    missing = served.get("example-site", "/api/nothing")
    assert (missing.status_code, missing.json()) == (404, {"error": "nothing at /api/nothing"})


@pytest.mark.parametrize("effect", ["gray", "edges", "dither"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_webassembly_develops_a_picture_as_python_does(
    served: RunningPlatform, effect: str, channels: int
) -> None:
    """Goal: wasm does real work, rightly. Method: the same arithmetic in Python, each filter."""
    width, height = 61, 47
    rows = [
        [(x * 7 + y * 13 + c * 71 + x * y) % 256 for x in range(width) for c in range(channels)]
        for y in range(height)
    ]
    png = write_png(rows, channels)
    answer = served.get("example-wasm", f"/develop?effect={effect}", method="POST", content=png)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert read_png(answer.content) == develop(rows, channels, effect)


def test_webassembly_refuses_what_is_not_a_picture(served: RunningPlatform) -> None:
    """Goal: bad input is told, not thrown. Method: text, and a PNG that is cut off."""
    png = write_png([[1, 2, 3]], 1)
    for content, complaint in ((b"hello", "not a PNG"), (png[:-20], "cut off")):
        answer = served.get("example-wasm", "/develop", method="POST", content=content)
        assert answer.status_code == 400
        assert complaint in answer.text


@contextmanager
def member(platform: RunningPlatform, room: str, name: str) -> Iterator[ClientConnection]:
    """Join a room of the chat."""
    host, port = door(platform)
    uri = f"ws://example-chat.{platform.domain}:{port}/rooms/{room}?name={name}"
    sock = socket.create_connection((host, port), timeout=WAIT_S)
    with connect(uri, sock=sock, open_timeout=WAIT_S, proxy=None) as connection:
        yield connection


def hear(connection: ClientConnection) -> dict[str, Any]:
    """Return the next thing that a member is told."""
    event: dict[str, Any] = json.loads(connection.recv(timeout=WAIT_S))
    return event


def test_two_people_in_a_room_hear_each_other(served: RunningPlatform) -> None:
    """Goal: WebSockets pass the front, both ways. Method: two sockets, one talk, one leaves."""
    with member(served, "tea", "Ada") as ada:
        assert hear(ada) == {"type": "joins", "members": 1, "from": "Ada"}
        with member(served, "tea", "Grace") as grace:
            assert hear(ada) == hear(grace) == {"type": "joins", "members": 2, "from": "Grace"}
            for speaker, name in ((ada, "Ada"), (grace, "Grace")):
                speaker.send(f"{name} was here")
                said = {"type": "says", "text": f"{name} was here", "from": name}
                assert hear(ada) == hear(grace) == said
        assert hear(ada) == {"type": "leaves", "members": 1, "from": "Grace"}


@contextmanager
def exchange(
    platform: RunningPlatform, method: str, path: str, **headers: str
) -> Iterator[http.client.HTTPConnection]:
    """Open a connection and send a request's head; the body is the caller's."""
    with closing(http.client.HTTPConnection(*door(platform), timeout=WAIT_S)) as connection:
        connection.putrequest(method, path, skip_host=True)
        connection.putheader("Host", f"example-stream.{platform.domain}")
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        yield connection


def test_events_arrive_while_the_stream_goes_on(served: RunningPlatform) -> None:
    """Goal: nothing on the way collects a stream. Method: read three ticks of one that lasts
    far longer than we wait."""
    with exchange(served, "GET", "/clock?every_ms=50&ticks=100000") as connection:
        answer = connection.getresponse()
        assert answer.headers["content-type"] == "text/event-stream"
        ticks = [[answer.readline() for _ in range(4)] for _ in range(3)]
    assert [tick[0] for tick in ticks] == [b"id: 1\n", b"id: 2\n", b"id: 3\n"]
    assert all(tick[2].startswith(b"data: 20") for tick in ticks)


def test_an_upload_is_answered_while_it_is_being_sent(served: RunningPlatform) -> None:
    """Goal: both directions flow together. Method: send each word after the last one's echo."""
    with exchange(served, "POST", "/shout", Transfer_Encoding="chunked") as connection:
        connection.send(b"3\r\none\r\n")
        answer = connection.getresponse()
        assert answer.read1() == b"ONE"
        for word in (b"two", b"and three"):
            connection.send(b"%x\r\n%s\r\n" % (len(word), word))
            assert answer.read1() == word.upper()
        connection.send(b"0\r\n\r\n")
        assert answer.read() == b""


def test_a_large_upload_is_counted_as_it_passes(served: RunningPlatform) -> None:
    """Goal: every byte of a body arrives. Method: 32 MiB of lines in pieces."""
    piece, pieces = b"0123456789abcde\n" * 65_536, 32
    length = str(len(piece) * pieces)
    with exchange(served, "POST", "/count", Content_Length=length) as connection:
        for _ in range(pieces):
            connection.send(piece)
        counted = json.loads(connection.getresponse().read())
    assert (counted["bytes"], counted["lines"]) == (int(length), 65_536 * pieces)


class Upstream(BaseHTTPRequestHandler):
    """A small site for the proxy to stand before."""

    def do_GET(self) -> None:
        """Answer a page, or send its old address on."""
        page = (
            "<html><head><title>Home</title></head><body>"
            f'<a href="http://{self.headers["Host"]}/next?a=1#b">next</a><a href="deep/er">deeper</a>'
            '<a href="https://elsewhere.test/x">away</a></body></html>'
        ).encode()
        if self.path == "/old":
            self.send_response(302)
            self.send_header("Location", "/new")
        else:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
        content = b"" if self.path == "/old" else page
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing."""


@contextmanager
def upstream() -> Iterator[str]:
    """Serve the upstream on loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_the_proxy_rewrites_pages_so_that_links_lead_back(state: Path, tmp_path: Path) -> None:
    """Goal: HTMLRewriter and outbound fetch. Method: an upstream on loopback, which this
    platform's owner allowed."""
    with upstream() as url, running(state, "--egress-allow", "127.0.0.0/8") as platform:
        deploy("proxy", platform, tmp_path, "--var", f"UPSTREAM:{url}")
        page = platform.get("example-proxy", "/dir/").text
        moved = platform.get("example-proxy", "/old")
        home = f"http://example-proxy.{platform.domain}"
    assert f"<title>Home (by way of example-proxy.{platform.domain})</title>" in page
    assert f'href="{home}/next?a=1#b"' in page
    assert f'href="{home}/dir/deep/er"' in page
    assert 'href="https://elsewhere.test/x"' in page
    assert (moved.status_code, moved.headers["location"]) == (302, f"{home}/new")


def test_a_worker_may_not_reach_this_machine_unasked(
    served: RunningPlatform, tmp_path: Path
) -> None:
    """Goal: the proxy is no way into the owner's network. Method: the same, without leave."""
    with upstream() as url:
        deploy("proxy", served, tmp_path, "--var", f"UPSTREAM:{url}")
        assert served.get("example-proxy").status_code == 500
