"""The board: six bindings at once, deployed by `wrangler deploy` alone and used as a visitor would."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

from tests.platforms import RunningPlatform, running
from tests.processes import wait_until
from tests.story.test_examples import project
from tests.wranglers import VERSIONS, Wrangler

pytestmark = pytest.mark.story
NEWEST = max(VERSIONS, key=lambda version: [int(part) for part in version.split(".")])
BOARD = "board"
WAIT_S = 20.0


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[RunningPlatform]:
    """A platform that has nothing yet, and the board on it."""
    with running(tmp_path / "state") as started:
        wrangler = Wrangler(NEWEST, started, tmp_path / "home")
        wrangler.do("deploy", project=project(BOARD, tmp_path))
        yield started


def join(platform: RunningPlatform, name: str) -> str:
    """Join as somebody; return the cookie."""
    answer = platform.get(BOARD, "/join", method="POST", json={"name": name})
    assert answer.status_code == 201, answer.text
    return answer.headers["set-cookie"].partition(";")[0]


@contextmanager
def room(platform: RunningPlatform, cookie: str) -> Iterator[ClientConnection]:
    """Be in the room for the length of a `with` block."""
    door = urlsplit(platform.http)
    headers = {"Cookie": cookie}
    with connect(
        f"ws://{BOARD}.{platform.domain}:{door.port}/room",
        additional_headers=headers,
        sock=_socket(platform),
        open_timeout=WAIT_S,
    ) as entered:
        yield entered


def _socket(platform: RunningPlatform) -> socket.socket:
    door = urlsplit(platform.http)
    return socket.create_connection((door.hostname or "", door.port or 0), WAIT_S)


def letters(platform: RunningPlatform, cookie: str) -> list[str]:
    """Return what was sent to somebody."""
    answer = platform.get(BOARD, "/outbox", headers={"cookie": cookie})
    return [letter["text"] for letter in answer.json()]


def test_a_day_on_the_board(platform: RunningPlatform) -> None:
    """Two join, one posts, both see it, also who comes later; letters leave."""
    ada, bob = join(platform, "Ada"), join(platform, "Bob")
    assert platform.get(BOARD, "/join", method="POST", json={"name": "Ada"}).status_code == 409
    assert platform.get(BOARD, "/outbox").status_code == 401

    picture = bytes(range(256)) * 40
    put = platform.get(
        BOARD,
        "/picture",
        method="PUT",
        content=picture,
        headers={"cookie": ada, "content-type": "image/png"},
    )
    assert put.json() == {"size": len(picture)}
    got: httpx.Response = platform.get(BOARD, "/picture/Ada")
    assert (got.content, got.headers["content-type"]) == (picture, "image/png")

    with room(platform, ada) as one, room(platform, bob) as other:
        one.send("hello board")
        said = {"name": "Ada", "text": "hello board"}
        assert json.loads(one.recv(WAIT_S)) == json.loads(other.recv(WAIT_S)) == said
        other.send("ping")
        assert other.recv(WAIT_S) == "pong"
    with room(platform, bob) as again:
        assert json.loads(again.recv(WAIT_S)) == said

    assert platform.get(BOARD, "/me", headers={"cookie": ada}).json() == {"name": "Ada", "posts": 1}
    wait_until(
        lambda: letters(platform, ada) == ["Welcome to the board, Ada."],
        "a letter",
        deadline_s=WAIT_S,
    )
    done = platform.kythera("cron", "run", BOARD)
    assert done.returncode == 0, done.stderr
    wait_until(
        lambda: "You have posted 1 times." in letters(platform, ada), "a digest", deadline_s=WAIT_S
    )
