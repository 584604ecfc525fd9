"""`kythera tail` against a WebSocket that speaks trace-v1."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

from tests.cli.conftest import Run
from tests.cli.fake_api import FakeApi
from tests.cli.test_tail_text import EVENT


@contextmanager
def tailing(api: FakeApi, *frames: str) -> Iterator[list[str]]:
    """Serve these frames to whoever watches, then close; return what the watcher sent."""
    heard: list[str] = []

    def speak(connection: ServerConnection) -> None:
        assert connection.subprotocol == "trace-v1"
        heard.append(str(connection.recv(timeout=5)))
        for frame in frames:
            connection.send(frame)

    with serve(speak, "127.0.0.1", 0, subprotocols=[Subprotocol("trace-v1")]) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        api.tail_url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}/t1"
        yield heard
        server.shutdown()
        thread.join()


def test_events_are_printed_and_the_tail_is_ended(run: Run, api: FakeApi) -> None:
    """The tail is asked for with its filters, opened as the protocol wants, and taken away."""
    with tailing(api, json.dumps(EVENT)) as heard:
        ran = run("tail", "hello", "--status", "error", "--method", "get")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("Watching hello; Ctrl-C ends it.\nGET http://hello.localhost/x")
    assert heard == ['{"debug":false}']
    filters = api.asked("POST", "/workers/scripts/hello/tails").json()["filters"]
    assert filters[1] == {"method": ["GET"]}
    api.asked("DELETE", "/workers/scripts/hello/tails/t1")


def test_json_prints_each_event_verbatim_on_a_line(run: Run, api: FakeApi) -> None:
    """For programs: nothing added, nothing left out."""
    with tailing(api, json.dumps(EVENT), json.dumps(EVENT)):
        ran = run("tail", "hello", "--json")
    assert [json.loads(line) for line in ran.out.splitlines()] == [EVENT, EVENT]


def test_a_tail_that_cannot_be_opened_is_told_and_ended(run: Run, api: FakeApi) -> None:
    """Nobody listens at the URL: a sentence, and the tail is taken away all the same."""
    api.tail_url = "ws://127.0.0.1:1/t1"
    ran = run("tail", "hello")
    assert ran.code == 1
    assert "the tail broke off" in ran.err
    api.asked("DELETE", "/workers/scripts/hello/tails/t1")
