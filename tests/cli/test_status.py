"""The status as a person reads it, and as it comes over the agent's socket."""

import fcntl
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kythera.cli.status_text import text
from kythera.ground.layout import Layout
from kythera.node.up_options import LOCK_NAME
from tests.cli.conftest import Run
from tests.cli.fake_api import FakeApi

CELL: dict[str, Any] = {
    "machine": "here",
    "worker": "hello",
    "version": "21624ea2-b948-4249-8a4c-aaf244ae2692",
    "state": "ready",
    "pids": [12, 13],
    "private_bytes": 21_400_000,
    "cpu_seconds": 1.25,
    "requests": 7,
}
IDLE = {**CELL, "worker": "site", "state": "idle", "pids": [], "private_bytes": 0, "requests": 0}
STATUS: dict[str, Any] = {
    "machines": [
        {
            "name": "here",
            "state": "ready",
            "site": "local",
            "cores": 2,
            "cpu_share": 0.251,
            "log": "connected",
        }
    ],
    "cells": [IDLE, CELL],
}
GOLDEN = """\
MACHINE  STATE  SITE   CORES  CPU   LOG
here     ready  local  2      25 %  connected

WORKER  VERSION   STATE  PROCESSES  PRIVATE MEMORY  CPU    REQUESTS
hello   21624ea2  ready  2          21.4 MB         1.2 s  7
site    21624ea2  idle   0          -               1.2 s  0
"""


@contextmanager
def keeping(layout: Layout) -> Iterator[None]:
    """Hold the state folder as a keeper does."""
    layout.run.mkdir(parents=True, exist_ok=True)
    with (layout.state / LOCK_NAME).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_the_busiest_cell_stands_first() -> None:
    """Two tables: machines, then cells."""
    assert text(STATUS) + "\n" == GOLDEN


def test_a_platform_without_workers_says_what_to_type() -> None:
    """No empty table."""
    assert text({**STATUS, "cells": []}).endswith("Deploy one: kythera deploy [PATH]")


def test_the_agents_document_is_passed_on_as_it_came(run: Run, layout: Layout) -> None:
    """`--json` adds and drops nothing."""
    with keeping(layout), socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(layout.status_socket))
        listening.listen()

        def answer_once() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(json.dumps(STATUS).encode())

        thread = threading.Thread(target=answer_once)
        thread.start()
        ran = run("status", "--json")
        thread.join()
    assert ran.code == 0, ran.err
    assert json.loads(ran.out) == STATUS


def test_the_fleets_status_comes_from_the_api(run: Run, api: FakeApi) -> None:
    """Whatever its agent does; and what the API says beside it is told."""
    other = {**STATUS["machines"][0], "name": "there", "state": "unreachable", "why": "cut"}
    api.fleet = {**STATUS, "machines": [*STATUS["machines"], other]}
    api.messages = [{"code": 1, "message": "The copy is old."}]
    ran = run("status")
    assert ran.code == 0, ran.err
    assert "there is unreachable since ?: cut" in ran.out
    assert ran.err == "Note: The copy is old.\n"
    assert json.loads(run("status", "--json").out) == api.fleet


def test_this_machine_alone_is_shown_when_the_api_does_not_answer(
    run: Run, api: FakeApi, layout: Layout
) -> None:
    """And that is said, on stderr."""
    api.refusals["GET /kythera/status"] = (503, 10013, "The API is busy.")
    with keeping(layout), socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(layout.status_socket))
        listening.listen()

        def answer_once() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(json.dumps(STATUS).encode())

        thread = threading.Thread(target=answer_once)
        thread.start()
        ran = run("status")
        thread.join()
    assert ran.out == GOLDEN
    assert "The API is busy.): this is this machine alone." in ran.err


def test_a_platform_whose_agent_does_not_answer_is_not_called_down(
    run: Run, layout: Layout
) -> None:
    """The keeper is there; the remedy is its log, not a second start."""
    with keeping(layout):
        ran = run("status")
    assert ran.code == 3
    assert "runs, but its agent does not answer (FileNotFoundError)" in ran.err
