"""What a process prints becomes events, whole lines only, and a flood is cut."""

import os
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from structlog.testing import capture_logs

from kythera.ground.clock import SystemClock
from kythera.node.consoles import (
    CHUNK_BYTES,
    LINE_BYTES_MAX,
    LINES_PER_S_MAX,
    Console,
    Consoles,
    own_event,
)
from kythera.node.keeper_client import HeldProcess
from kythera.run.cell import CellName
from kythera.run.prelude import EXCEPTION_MARKER, SUBREQUESTS_MARKER

CELL = CellName("a", "shop", "v1", 1, observed=False)
PROCESS = f"{CELL.socket}+1"


class Holder:
    """What the consoles need of the keeper: who runs, and where their output comes out."""

    def __init__(self, output: int, name: str = PROCESS) -> None:
        self.processes = {name: HeldProcess(name, 1, {}, ready=True, started=0, output=output)}


async def printed(
    text: bytes, told: list[tuple[CellName, str]] | None = None, process: str = PROCESS
) -> list[Any]:
    """Return the events that come of a process printing `text` and ending; `told` takes limits met."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    consoles = Consoles(Holder(reading, process), SystemClock())
    consoles.exceeded = lambda cell, reason: (told if told is not None else []).append(
        (cell, reason)
    )
    with capture_logs() as events:
        consoles.listen_to(process)
        os.write(writing, text)
        os.close(writing)
        with anyio.move_on_after(0.2):
            await consoles.run()
    consoles.close()
    os.close(reading)
    return events


@pytest.mark.anyio
async def test_a_line_of_a_cell_is_an_event_with_its_worker_and_version() -> None:
    """The version's console."""
    (event,) = await printed(b"hello\nunfinished")
    assert event["event"] == "console"
    assert (event["worker"], event["version"], event["line"]) == ("shop", "v1", "hello")


@pytest.mark.anyio
async def test_a_marked_line_is_an_exception_with_its_ray_id() -> None:
    """This is how an owner finds a visitor's ray id when nobody was watching."""
    text = EXCEPTION_MARKER + '{"ray":"r-1","name":"Error","message":"boom","stack":"at x"}'
    (event,) = await printed(text.encode() + b"\n")
    assert event["event"] == "exception"
    assert (event["ray"], event["message"], event["stack"]) == ("r-1", "boom", "at x")


@pytest.mark.anyio
async def test_an_engine_is_heard_when_something_is_wrong() -> None:
    """Goal: a log of the first minute is calm. Method: HAProxy's words of a reload and of a crash."""
    calm = "[WARNING]  (9) : Former worker (12) exited with code 0 (Exit)"
    crash = "[ALERT]    (9) : Current worker (13) exited with code 139 (Segmentation fault)"
    (event,) = await printed(f"{calm}\n{crash}\n".encode(), process="haproxy")
    assert (event["event"], event["log_level"], event["line"]) == ("engine", "warning", crash)


@pytest.mark.anyio
@pytest.mark.parametrize("forged", ["[1,2]", "{", "[" * 10_000, "null", "\x00"])
async def test_a_forged_exception_line_is_only_text(forged: str) -> None:
    """A worker may print our mark; nothing trusts what follows it."""
    (event,) = await printed(f"{EXCEPTION_MARKER}{forged}\n".encode())
    assert event["line"] == forged


@pytest.mark.anyio
async def test_a_request_that_asked_too_often_is_told_of_and_counted() -> None:
    """The line is a typed event, and the machine counts it as an incident of the worker's."""
    told: list[tuple[CellName, str]] = []
    (event,) = await printed(f"{SUBREQUESTS_MARKER}50\n".encode(), told)
    assert (event["event"], event["subrequests_max"]) == ("subrequests_exceeded", "50")
    assert told == [(CELL, "exceededSubrequests")]


def test_a_flood_is_cut_and_counted() -> None:
    """Above the limit of a second, lines are dropped and counted."""
    console = Console("x", 0)
    assert sum(console.allow(5.5) for _ in range(LINES_PER_S_MAX + 7)) == LINES_PER_S_MAX
    assert console.dropped == 7
    assert console.allow(6.0)


def test_what_floods_is_skipped_to_the_next_second() -> None:
    """Goal: lines are counted, not read; the piece after the last one begins the next."""
    console = Console("x", 0)
    assert console.take(b"begun") == []
    for _ in range(LINES_PER_S_MAX):
        assert console.allow(5.5)
    assert console.floods(5.9)
    assert console.skip(b" and ended\none\ntw") == 2
    assert console.skip(b"o") == 0
    assert console.dropped == 2
    assert not console.floods(6.0)
    assert console.take(b"\n") == [b"two"]


@pytest.mark.anyio
async def test_a_flood_costs_little_to_drop() -> None:
    """Goal: a process that prints for ever is read slowly. Method: how much it gets rid of in a while."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    consoles = Consoles(Holder(reading), SystemClock())
    dropped = []
    consoles.dropped = lambda _, lines: dropped.append(lines)
    consoles.listen_to(PROCESS)
    written = 0
    with capture_logs() as events, anyio.move_on_after(0.5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consoles.run)
            while True:
                with suppress(BlockingIOError):
                    written += os.write(writing, b"flood\n" * 10_000)
                await anyio.lowlevel.checkpoint()
    consoles.close()
    os.close(reading)
    os.close(writing)
    assert written < 80 * CHUNK_BYTES
    assert LINES_PER_S_MAX <= len(events) <= 2 * LINES_PER_S_MAX + CHUNK_BYTES // 6
    assert sum(dropped) > 100_000


def test_an_endless_line_is_cut() -> None:
    """Memory stays bounded whatever a worker prints."""
    console = Console("x", 0)
    (line,) = console.take(b"x" * (LINE_BYTES_MAX + 1))
    assert len(line) == LINE_BYTES_MAX
    assert console.rest == b""


def test_events_of_our_own_stores_are_passed_on_as_they_were_said() -> None:
    """Goal: an operator reads an event, not JSON in a warning; garbage stays a line."""
    line = (
        '{"ts": "2026", "level": "error", "process": "kv", "event": "kv_cannot_follow", "why": "x"}'
    )
    assert own_event(line) == ("error", "kv_cannot_follow", {"why": "x"})
    for other in ("[ERR] x", '{"ts"', '{"ts": 1}', '{"ts": 1, "level": "exception"}'):
        assert own_event(other) is None
