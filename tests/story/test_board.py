"""The board: seven bindings at once, deployed by one command and used as visitors use it: through its
interfaces, and with a real browser."""

import json
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

from tests.browsers import PHONE, Page, browser
from tests.platforms import RunningPlatform, running
from tests.processes import wait_until
from tests.story.test_examples import project
from tests.wranglers import VERSIONS, Wrangler

pytestmark = pytest.mark.story
NEWEST = max(VERSIONS, key=lambda version: [int(part) for part in version.split(".")])
BOARD, COPY = "board", "bulletin"
WAIT_S = 20.0
ASLEEP_S = 12.0
"""workerd lets an object sleep that was quiet for 10 s."""
SHOWN = "return [...document.images].filter((image) => image.naturalWidth === 16).length"
CONTRAST_MIN = 4.5
"""Of text and what is behind it, as WCAG's level AA wants it."""
CONTRAST = """
  const light = (text) => {
    const parts = text.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
    const [r, g, b] = parts.map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (each) => {
    const colour = getComputedStyle(each).backgroundColor;
    return colour === "rgba(0, 0, 0, 0)" ? behind(each.parentElement) : colour;
  };
  return [...document.querySelectorAll("p, b, small, a, button, h1, h2, label, .by, textarea")]
    .filter((each) => each.checkVisibility() && each.innerText.trim())
    .map((each) => {
      const [a, b] = [light(getComputedStyle(each).color), light(behind(each))];
      return [each.innerText, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
    });
"""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """A platform that has nothing yet, in a folder whose name files have to quote, and the board on it."""
    folder = tmp_path_factory.mktemp("board")
    with running(folder / "Jürgen's 100 %") as started:
        wrangler = Wrangler(NEWEST, started, folder / "home")
        wrangler.do("deploy", project=project(BOARD, folder))
        yield started


def join(platform: RunningPlatform, worker: str, name: str) -> str:
    """Join as somebody; return the cookie."""
    answer = platform.get(worker, "/join", method="POST", json={"name": name})
    assert answer.status_code == 201, answer.text
    return answer.headers["set-cookie"].partition(";")[0]


@contextmanager
def room(platform: RunningPlatform, worker: str, cookie: str) -> Iterator[ClientConnection]:
    """Be in the room for the length of a `with` block."""
    door = urlsplit(platform.http)
    headers = {"Cookie": cookie}
    with connect(
        f"ws://{worker}.{platform.domain}:{door.port}/room",
        additional_headers=headers,
        sock=_socket(platform),
        open_timeout=WAIT_S,
    ) as entered:
        yield entered


def _socket(platform: RunningPlatform) -> socket.socket:
    door = urlsplit(platform.http)
    return socket.create_connection((door.hostname or "", door.port or 0), WAIT_S)


def heard(entered: ClientConnection, kind: str) -> dict[str, object]:
    """Wait for the next message of a kind, past those of others."""
    while True:
        found: dict[str, object] = json.loads(entered.recv(WAIT_S))
        if found["kind"] == kind:
            return found


def notice(told: object) -> tuple[str, str]:
    """Return who said what."""
    assert isinstance(told, dict)
    return told["name"], told["text"]


def letters(platform: RunningPlatform, worker: str, cookie: str) -> list[str]:
    """Return what was sent to somebody."""
    answer = platform.get(worker, "/outbox", headers={"cookie": cookie})
    return [letter["text"] for letter in answer.json()]


def a_day(platform: RunningPlatform, worker: str) -> str:
    """Two join, one posts, both see it, also who comes later; letters leave. Return the first's
    cookie."""
    ada, bob = join(platform, worker, "Ada"), join(platform, worker, "Bob")
    assert platform.get(worker, "/join", method="POST", json={"name": "Ada"}).status_code == 409
    assert platform.get(worker, "/outbox").status_code == 401
    ask = partial(platform.get, worker, "/join", method="POST", json={"name": "Eve"})
    with ThreadPoolExecutor() as pool:
        at_once = [pool.submit(ask) for _ in range(5)]
        assert sorted(each.result().status_code for each in at_once) == [201, 409, 409, 409, 409]

    image = picture()
    of_ada = {"cookie": ada, "content-type": "image/png"}
    put = platform.get(worker, "/picture", method="PUT", content=image, headers=of_ada)
    assert put.json() == {"size": len(image)}
    got: httpx.Response = platform.get(worker, "/picture/Ada")
    assert (got.content, got.headers["content-type"]) == (image, "image/png")
    script = {"cookie": ada, "content-type": "text/html"}
    refused = platform.get(worker, "/picture", method="PUT", content=b"<script>", headers=script)
    assert refused.status_code == 415

    with room(platform, worker, ada) as one, room(platform, worker, bob) as other:
        one.send("hello board")
        said = ("Ada", "hello board")
        assert notice(heard(one, "notice")["notice"]) == said
        assert notice(heard(other, "notice")["notice"]) == said
        other.send("ping")
        assert other.recv(WAIT_S) == "pong"
    with room(platform, worker, bob) as again:
        last = heard(again, "last")["notices"]
        assert isinstance(last, list)
        assert [notice(each) for each in last] == [said]

    assert platform.get(worker, "/me", headers={"cookie": ada}).json() == {
        "name": "Ada",
        "posts": 1,
    }
    sent = [
        "Welcome to the board, Ada.",
        "You have found the room, Ada. Post what you like.",
    ]
    wait_until(
        lambda: letters(platform, worker, ada) == sent, "the sign-up's letters", deadline_s=WAIT_S
    )
    done = platform.kythera("cron", "run", worker)
    assert done.returncode == 0, done.stderr
    wait_until(
        lambda: "You have posted 1 times." in letters(platform, worker, ada),
        "a digest",
        deadline_s=WAIT_S,
    )
    return ada


def test_a_day_on_the_board(platform: RunningPlatform) -> None:
    """Seven bindings at once, made by `wrangler deploy` alone."""
    a_day(platform, BOARD)


def test_kythera_deploys_the_board_too(platform: RunningPlatform, tmp_path: Path) -> None:
    """Goal: `kythera deploy` makes all that `wrangler deploy` makes, and a second one nothing anew.
    Method: a copy under another name has a day of its own, and who joined is still there after it."""
    copy = project(BOARD, tmp_path)
    config = copy / "wrangler.jsonc"
    config.write_text(config.read_text().replace(f'"{BOARD}', f'"{COPY}'))
    for again in (False, True):
        done = platform.kythera("deploy", str(copy))
        assert done.returncode == 0, done.stderr
        assert ("Made the D1 database bulletin." in done.stdout) is not again
        if not again:
            cookie = a_day(platform, COPY)
    me = platform.get(COPY, "/me", headers={"cookie": cookie}).json()
    assert me == {"name": "Ada", "posts": 0}


def picture() -> bytes:
    """Return a PNG of 16 by 16 points, all of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = (b"\0" + b"\x00\x99\x88" * 16) * 16
    head = struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def enter(platform: RunningPlatform, page: Page, name: str) -> None:
    """Join in a browser."""
    port = urlsplit(platform.http).port
    page.driver.get(f"http://{BOARD}.{platform.domain}:{port}/")
    page.type("#name", f"{name}\n")
    page.wait_for("#here", "here")


def check_looks(page: Page, folder: Path, name: str) -> None:
    """See that all is readable and in its place: by day and by night, wide and narrow."""
    for dark in (False, True):
        for size in (None, PHONE):
            page.look(dark=dark, size=size)
            page.save(
                folder / f"{name}-{'dark' if dark else 'light'}{'-phone' if size else ''}.png"
            )
            pale = [each for each in page.run(CONTRAST) if each[1] < CONTRAST_MIN]
            assert not pale, pale
            wide = page.run("return document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, f"{wide} px wider than the window"
    page.look()
    nameless = [
        each.get_attribute("outerHTML")
        for each in page.all("button, input, textarea, a")
        if each.is_displayed() and not each.accessible_name
    ]
    assert not nameless, nameless


def test_two_people_with_browsers(platform: RunningPlatform, tmp_path: Path) -> None:
    """Two sign up, talk live, share a file and a picture; one reloads, the room sleeps, and the
    other's connection outlives both. Nothing is pale, hidden or nameless, and no console complains."""
    image, report = tmp_path / "face.png", tmp_path / "Bericht für März.pdf"
    image.write_bytes(picture())
    report.write_bytes(bytes(range(256)) * 64)
    with browser() as grace, browser() as alan:
        port = urlsplit(platform.http).port
        grace.driver.get(f"http://{BOARD}.{platform.domain}:{port}/")
        grace.find("#name")
        check_looks(grace, tmp_path, "join")
        enter(platform, grace, "Grace Hopper")
        enter(platform, alan, "Alan")
        grace.wait_for("#here", "2 here: Alan, Grace Hopper")

        grace.type("#text", "Hello everybody\n")
        alan.wait_for(".notice", "Hello everybody")
        alan.type("#text", "Hello Grace, who is <b>bringing</b> cake?\n")
        grace.wait_for(".notice", "who is <b>bringing</b> cake?")

        grace.choose("#picture", image)
        for page in (grace, alan):
            wait_until(partial(page.run, SHOWN), "the picture", deadline_s=WAIT_S)
        grace.choose("#file", report)
        alan.find(".file").click()
        saved = alan.downloads / report.name
        wait_until(saved.exists, "the download", deadline_s=WAIT_S)
        assert saved.read_bytes() == report.read_bytes()

        alan.driver.refresh()
        alan.wait_for(".notice", "Hello everybody")
        alan.wait_for(".file", report.name)
        grace.wait_for("#here", "2 here")
        grace.run("socket.isTheFirst = true")
        woken = grace.find("#here").get_attribute("data-woken")
        quiet_since = time.monotonic()
        check_looks(alan, tmp_path, "room")
        # Each word would keep the room awake, so nobody speaks until workerd has let it sleep.
        time.sleep(max(0, ASLEEP_S - (time.monotonic() - quiet_since)))
        alan.type("#text", "Still there?\n")
        grace.wait_for(".notice", "Still there?")
        assert grace.run("return socket.isTheFirst"), "it had to connect again"
        assert grace.find("#here").get_attribute("data-woken") != woken, "it did not sleep"
        assert not grace.complaints() + alan.complaints()
