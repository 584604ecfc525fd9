"""The lean HTTP server in front of KV: whole answers, in order, whatever comes in how many pieces."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from kythera.model.limits import Limits
from kythera.store.kv_http import Doors, Request, failure, ok, ok_head
from kythera.store.kv_protocol import Failed

pytestmark = pytest.mark.anyio
LIMITS = Limits(kv_inline_bytes_max=10, kv_value_bytes_max=100, kv_large_at_once=1, kv_body_ms=200)


class Echo:
    """Answers with what was asked; `/later` waits until it may, `/broken` ends in the middle."""

    def __init__(self) -> None:
        self.may = anyio.Event()
        self.asked: list[Request] = []

    def answer(self, request: Request) -> bytes | None:
        """Answer at once what is not for later."""
        self.asked.append(request)
        if request.target.startswith((b"/later", b"/broken")):
            return None
        return ok(request.method + b" " + request.target + b" " + bytes(request.body))

    async def answer_later(self, request: Request) -> AsyncIterator[bytes]:
        """Answer when the test says so."""
        if request.target == b"/broken":
            yield ok_head(10)
            yield b""
        await self.may.wait()
        yield ok_head(6)
        yield b"la"
        yield b"ter\n"


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[tuple[Echo, Path, Doors]]:
    """Serve on a socket of its own."""
    echo = Echo()
    async with anyio.create_task_group() as tasks:

        def spawn(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
            tasks.start_soon(work)

        doors = Doors(echo, LIMITS, spawn)
        path = folder / "s"
        server = await asyncio.get_running_loop().create_unix_server(doors.connection, str(path))
        try:
            yield echo, path, doors
        finally:
            server.close()
            await doors.close(0)
            tasks.cancel_scope.cancel()


async def received(stream: anyio.abc.ByteStream, mark: bytes) -> bytes:
    """Receive until a mark has come."""
    found = b""
    with anyio.fail_after(5):
        while mark not in found:
            found += await stream.receive()
    return found


async def test_a_request_in_pieces_is_one_request(tmp_path: Path) -> None:
    """Goal: nothing depends on how the kernel cuts it."""
    sent = b"PUT /k?a=b HTTP/1.1\r\nHost: x\r\nX-Kythera-Pass: p\r\nCF-KV-Metadata: \xc3\xa9\r\n"
    sent += b"Content-Length: 5\r\n\r\nvalue"
    async with served(tmp_path) as (echo, path, _):
        async with await anyio.connect_unix(path) as stream:
            for place in range(len(sent)):
                await stream.send(sent[place : place + 1])
            assert (await received(stream, b"value")).endswith(b"PUT /k?a=b value")
            chunked = b"PUT /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
            await stream.send(chunked)
            await received(stream, b"PUT /c abc")
        first = echo.asked[0]
        assert (first.granted, first.metadata, first.size) == (b"p", b"\xc3\xa9", 5)


async def test_answers_come_in_the_order_of_their_requests(tmp_path: Path) -> None:
    """Goal: what is quick does not overtake what takes longer on the same connection."""
    async with served(tmp_path) as (echo, path, _):
        async with await anyio.connect_unix(path) as stream:
            asked = [b"GET %b HTTP/1.1\r\n\r\n" % target for target in (b"/later", b"/a", b"/b")]
            await stream.send(b"".join(asked))
            await anyio.wait_all_tasks_blocked()
            echo.may.set()
            told = await received(stream, b"GET /b ")
            assert told.index(b"later") < told.index(b"GET /a") < told.index(b"GET /b")


async def test_a_second_large_value_waits_for_its_place(tmp_path: Path) -> None:
    """Goal: memory has a bound, and who waits is served in the end."""
    head = b"PUT %b HTTP/1.1\r\nContent-Length: 50\r\n\r\n"
    async with served(tmp_path) as (echo, path, _):
        async with (
            await anyio.connect_unix(path) as first,
            await anyio.connect_unix(path) as second,
        ):
            await first.send(head % b"/later" + bytes(50))
            await anyio.wait_all_tasks_blocked()
            await second.send(head % b"/second" + bytes(20))
            await anyio.wait_all_tasks_blocked()
            echo.may.set()
            await received(first, b"later")
            await second.send(bytes(30))
            assert b"PUT /second" in await received(second, bytes(50))


async def test_a_large_value_that_never_comes_is_given_up(tmp_path: Path) -> None:
    """Goal: a place is not held for ever. Method: half a value, then nothing."""
    async with served(tmp_path) as (_, path, _):
        async with await anyio.connect_unix(path) as slow:
            await slow.send(b"PUT /slow HTTP/1.1\r\nContent-Length: 50\r\n\r\n" + bytes(20))
            with anyio.fail_after(5), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await slow.receive()
        async with await anyio.connect_unix(path) as other:
            await other.send(b"PUT /k HTTP/1.1\r\nContent-Length: 50\r\n\r\n" + bytes(50))
            await received(other, b"PUT /k")


async def test_a_value_that_is_too_large_is_read_to_its_end_but_not_kept(tmp_path: Path) -> None:
    """Goal: its sender hears why."""
    async with served(tmp_path) as (echo, path, _):
        async with await anyio.connect_unix(path) as stream:
            await stream.send(b"PUT /k HTTP/1.1\r\nContent-Length: 500\r\n\r\n" + bytes(500))
            await received(stream, b"PUT /k")
        assert (echo.asked[0].size, len(echo.asked[0].body) <= 100) == (500, True)


@pytest.mark.parametrize("sent", [b"nonsense\r\n\r\n", b"GET /broken HTTP/1.1\r\n\r\n"])
async def test_garbage_and_an_answer_that_breaks_off_end_the_connection(
    tmp_path: Path, sent: bytes
) -> None:
    """Goal: nobody takes half a value for a whole one."""
    async with served(tmp_path) as (_, path, _):
        async with await anyio.connect_unix(path) as stream:
            await stream.send(sent)
            with anyio.fail_after(5), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                while True:
                    await stream.receive()


async def test_a_store_that_stops_lets_what_is_under_way_end(tmp_path: Path) -> None:
    """Goal: no request fails because of an upgrade; idle connections are closed."""
    async with served(tmp_path) as (echo, path, doors):
        async with await anyio.connect_unix(path) as busy, await anyio.connect_unix(path) as idle:
            await idle.send(b"GET /a HTTP/1.1\r\n\r\n")
            await received(idle, b"/a")
            await busy.send(b"GET /later HTTP/1.1\r\n\r\n")
            await anyio.wait_all_tasks_blocked()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(doors.close, 5)
                with pytest.raises(anyio.EndOfStream):
                    await idle.receive()
                echo.may.set()
                await received(busy, b"later")


def test_what_an_error_says_stands_in_its_status_line() -> None:
    """Goal: one line, whatever a message holds."""
    assert failure(Failed(400, "a\r\nb: c")) == b"HTTP/1.1 400 a  b: c\r\nContent-Length: 0\r\n\r\n"
