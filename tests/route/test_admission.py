"""What the front door refuses, with a real HAProxy: each limit holds, is counted under its reason,
and hurts nobody else.

Each test fails when its rule is taken away.
"""

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import msgspec
import pytest
import websockets

from kythera.route.render import FrontOptions
from tests.route.counts import Counted
from tests.route.doors import SMALL, Door, cell_released, opened

pytestmark = [pytest.mark.real, pytest.mark.anyio]
HEAD = b"Host: hello.localhost\r\n"


def options(**limits: Any) -> FrontOptions:
    """Return a door's options with these limits."""
    return FrontOptions(limits=msgspec.structs.replace(SMALL, **limits))


class Wire:
    """A client that decides over every byte."""

    def __init__(self, port: int, received_bytes: int = 0) -> None:
        self.socket = socket.socket()
        if received_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, received_bytes)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setblocking(False)

    async def say(self, data: bytes) -> None:
        """Send."""
        with anyio.fail_after(10):
            while data:
                try:
                    data = data[self.socket.send(data) :]
                except BlockingIOError:
                    await anyio.wait_writable(self.socket)

    async def hear(self, enough: int = 1 << 30, within_s: float = 10) -> bytes:
        """Return what comes until so much came, or the other side ended; raises TimeoutError."""
        heard = bytearray()
        with anyio.fail_after(within_s):
            while len(heard) < enough:
                await anyio.wait_readable(self.socket)
                try:
                    piece = self.socket.recv(1 << 16)
                except ConnectionResetError:
                    break
                if not piece:
                    break
                heard += piece
        return bytes(heard)


@contextmanager
def wires(door: Door) -> Iterator[Any]:
    """Open any number of connections, closed at the end."""
    with ExitStack() as stack:

        def opened_one(received_bytes: int = 0) -> Wire:
            wire = Wire(door.port, received_bytes)
            stack.callback(wire.socket.close)
            return wire

        yield opened_one


async def hello(door: Door, name: str = "hello") -> Any:
    """Deploy a worker with one cell."""
    cell = await door.cell(f"c-{name}")
    door.world.worker(name, {cell: 100})
    await door.apply()
    return cell


async def test_too_long_a_url_head_or_body_is_refused_with_a_page_and_counted() -> None:
    """414, 431 and 413 in the visitor's form, with the ray id; just below each limit all is well."""
    limits = {"url_bytes_max": 2_000, "request_head_bytes_max": 8_000, "request_headers_max": 40}
    async with opened(options(**limits, request_body_bytes_max=100_000)) as door:
        await hello(door)
        told = Counted(door)
        for send, status in (
            ({"url": "/" + "a" * 1_900}, 200),
            ({"url": "/" + "a" * 2_100}, 414),
            ({"headers": {"X-Long": "a" * 7_000}}, 200),
            ({"headers": {"X-Long": "a" * 9_000}}, 431),
            ({"headers": {f"X-{n}": "a" for n in range(30)}}, 200),
            ({"headers": {f"X-{n}": "a" for n in range(60)}}, 431),
            ({"content": bytes(100_000), "method": "POST"}, 200),
            ({"content": bytes(100_001), "method": "POST"}, 413),
        ):
            request: dict[str, Any] = {"method": "GET", "url": "/", **send}
            headers = {"Host": "hello.localhost", "Accept": "application/json"}
            request["headers"] = headers | request.get("headers", {})
            answer = await door.client.request(**request)
            assert answer.status_code == status, (str(send)[:50], answer.text)
            if status != 200:
                assert answer.json()["ray_id"] == answer.headers["cf-ray"]
        await told.is_(url_too_long=1, head_too_large=2, body_too_large=1)


async def test_haproxy_has_nothing_to_say_against_the_rules() -> None:
    """No warning when it reads its configuration: each is a rule that does not mean what it says."""
    async with opened() as door:
        log = (door.folder / "log").read_text()
        assert "Loading success" in log
        assert "config :" not in log


async def test_a_head_that_haproxy_cannot_read_is_answered_and_counted() -> None:
    """Too large for its buffers, too many lines, nonsense: 400; too slow: 408; each by its name."""
    async with opened(options(request_head_s=1)) as door:
        await hello(door)
        told = Counted(door)
        with wires(door) as wire:
            for head in (b"X: " + b"a" * 20_000, b"X: a\r\n" * 300, b"\x00\x01"):
                line = wire()
                await line.say(b"GET / HTTP/1.1\r\n" + HEAD + head + b"\r\n\r\n")
                assert b" 400 " in (await line.hear())[:20]
            await told.is_(head_not_understood=3)
            slow = wire()
            await slow.say(b"GET / HTTP/1.1\r\nHo")
            assert b" 408 " in (await slow.hear(within_s=4))[:20]
            await told.is_(head_not_understood=3, head_not_sent=1)


@pytest.mark.parametrize("bomb", ["head", "lines"])
async def test_a_cell_that_answers_with_a_head_bomb_is_503_and_the_door_serves_on(
    bomb: str,
) -> None:
    """The visitor gets our page, each is counted, the same cell answers the next request; a cell
    that hangs up is no bomb."""
    async with opened() as door:
        await hello(door)
        told = Counted(door)
        answer = await door.get("hello.localhost", f"/{bomb}-bomb", Accept="text/html")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert answer.headers["cf-ray"] in answer.text
        await told.is_(answer_not_understood=1)
        assert await door.cell_of("hello.localhost") == "c-hello"
        assert (await door.get("hello.localhost", f"/{bomb}-bomb")).status_code == 503
        # On a connection that was used before HAProxy may hang up, so that the client asks again.
        with suppress(httpx.RemoteProtocolError):
            assert (await door.get("hello.localhost", "/cut")).status_code == 503
        await told.is_(answer_not_understood=2)


async def test_a_client_with_too_many_connections_is_told_and_others_are_served() -> None:
    """Above the limit 429 with Retry-After and a closed connection, far above a hang-up; whoever
    comes from elsewhere is served, and so is the client when it has closed some."""
    async with opened(options(connections_per_client_max=20)) as door:
        await hello(door)
        told = Counted(door)
        with wires(door) as wire:
            lines = [wire() for _ in range(20)]
            for line in lines:
                await line.say(b"GET / HTTP/1.1\r\n" + HEAD + b"\r\n")
                assert b" 200 " in (await line.hear(20))[:20]
            more = wire()
            await more.say(b"GET / HTTP/1.1\r\n" + HEAD + b"\r\n")
            answer = (await more.hear()).lower()
            assert b" 429 " in answer[:20]
            assert b"retry-after: 5\r\n" in answer
            await told.is_(connections_per_client=1)
            silent = [wire() for _ in range(8)]
            far = wire()
            assert await far.hear() == b""
            await told.is_(connections_per_client=2)
            elsewhere = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
            async with httpx.AsyncClient(transport=elsewhere) as client:
                url = f"http://127.0.0.1:{door.port}/"
                other = await client.get(url, headers={"Host": "hello.localhost"})
                assert other.json()["cell"] == "c-hello"
            for line in silent + lines:
                line.socket.close()
            await anyio.lowlevel.checkpoint()
        with anyio.fail_after(10):
            while not await is_served(door):
                await anyio.sleep(0.05)


async def is_served(door: Door) -> bool:
    """Tell whether the client is let in; it is hung up on until the door has seen its others close."""
    try:
        return await door.cell_of("hello.localhost", Connection="close") == "c-hello"
    except httpx.TransportError:
        return False


async def test_a_full_door_says_503_early_and_answers_health_checks_and_peers() -> None:
    """Above `connections_max` 503 with Retry-After at once; a load balancer is answered the truth."""
    limits = {"connections_max": 50, "connections_per_client_max": 1_000}
    async with opened(options(**limits)) as door:
        await hello(door)
        told = Counted(door)
        with ExitStack() as stack:
            for number in range(50):  # From many clients: no one has more than half.
                line = socket.socket()
                stack.callback(line.close)
                line.bind((f"127.0.0.{10 + number % 5}", 0))
                line.connect(("127.0.0.1", door.port))
            began = anyio.current_time()
            answer = await door.get("hello.localhost", Accept="application/json")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert answer.json()["ray_id"] == answer.headers["cf-ray"]
            assert anyio.current_time() - began < 2
            assert (await door.get("nobody", "/.kythera/health")).status_code == 200
            await told.is_(connections=1)
        with anyio.fail_after(5):
            while await door.cell_of("hello.localhost", Connection="close") != "c-hello":
                await anyio.sleep(0.05)


async def test_a_stuck_worker_fills_its_own_queue_and_no_other() -> None:
    """2,000 requests to a cell that never answers: as many as its queue holds wait, the rest hear 503
    with Retry-After at once, and a neighbour answers all of its own."""
    async with opened(options(queue_requests=300)) as door, anyio.create_task_group() as tasks:
        await hello(door, "stuck")
        await hello(door, "quiet")
        told = Counted(door)
        said: Counter[str] = Counter()
        with wires(door) as wire:
            for _ in range(1_000):
                line = wire()
                await line.say(b"GET /slow HTTP/1.1\r\nHost: stuck.localhost\r\n\r\n")
                tasks.start_soon(_count_status, line, said)
            for _ in range(200):
                assert await door.cell_of("quiet.localhost") == "c-quiet"
            await told.is_(queue=700)
            assert said == {"503": 700}
            assert (await door.front.loads())["c-stuck"].current == 300
            cell_released["c-stuck"].set()
            with anyio.fail_after(20):
                while said["200"] < 300:
                    await anyio.sleep(0.05)
            assert await door.cell_of("stuck.localhost") == "c-stuck"


async def _count_status(line: Wire, said: Counter[str]) -> None:
    answer = await line.hear(20, within_s=60)
    said[answer[9:12].decode()] += 1


SLOW = {"slow_look_s": 0.2, "slow_body_s": 1.0, "body_bytes_per_s_min": 2_000}
"""A small window, and a rate between one byte now and then and any upload."""


async def test_a_body_that_drips_is_hung_up_on_and_one_that_waits_for_its_worker_is_not() -> None:
    """One byte at a time keeps every time-out of HAProxy's content; the mean tells. An upload that
    is quick enough, a worker that thinks, an event stream and a WebSocket all live."""
    async with opened(options(**SLOW)) as door, anyio.create_task_group() as tasks:
        await hello(door)
        told = Counted(door)
        with wires(door) as wire:
            post = b"POST / HTTP/1.1\r\n" + HEAD
            drips = [wire(), wire()]
            await drips[0].say(post + b"Content-Length: 50000\r\n\r\n")
            await drips[1].say(post + b"Transfer-Encoding: chunked\r\n\r\n")
            steady, thinks, hears = wire(), wire(), wire()
            await steady.say(post + b"Content-Length: 400000\r\n\r\n")
            await thinks.say(b"POST /slow HTTP/1.1\r\n" + HEAD + b"Content-Length: 5\r\n\r\nhello")
            await hears.say(b"GET /events HTTP/1.1\r\n" + HEAD + b"\r\n")
            url = f"ws://hello.localhost:{door.port}/ws"
            async with websockets.connect(url, host="127.0.0.1", proxy=None) as talks:
                tasks.start_soon(told.end_slow_for_ever)
                for _ in range(40):
                    with suppress(ConnectionError):
                        await drips[0].say(b"a")
                        await drips[1].say(b"1\r\na\r\n")
                    await steady.say(bytes(10_000))
                    await anyio.sleep(0.1)
                assert [await drip.hear() for drip in drips] == [b"", b""]
                assert b" 200 " in (await steady.hear(20))
                await told.is_(slow_body=2)
                cell_released["c-hello"].set()
                assert b" 200 " in (await thinks.hear(20))
                assert b"second" in await hears.hear()
                await talks.send("still here")
                assert await talks.recv() == "still here"
        tasks.cancel_scope.cancel()


async def test_a_body_of_no_declared_length_ends_when_it_is_too_long() -> None:
    """Nobody says how long a chunked body will be: it is measured while it comes."""
    limits = {"request_body_bytes_max": 1_000_000, "slow_look_s": 0.1}
    async with opened(options(**limits)) as door, anyio.create_task_group() as tasks:
        await hello(door)
        told = Counted(door)
        tasks.start_soon(told.end_slow_for_ever)
        with wires(door) as wire:
            long = wire()
            await long.say(b"POST / HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            sent = 0
            with suppress(ConnectionError):
                while sent < 20_000_000:
                    await long.say(b"4000\r\n" + bytes(0x4000) + b"\r\n")
                    sent += 0x4000
                    await anyio.sleep(0.005)
            assert 1_000_000 < sent < 15_000_000
            await told.is_(body_too_large=1)
            assert await door.cell_of("hello.localhost") == "c-hello"
        tasks.cancel_scope.cancel()


async def test_a_reader_that_drips_is_hung_up_on_and_a_steady_one_is_not() -> None:
    """An answer of 64 MiB: who takes a byte now and then is ended, who takes it all gets it all."""
    limits = {"slow_look_s": 0.2, "slow_reader_s": 1.0, "answer_bytes_per_s_min": 100_000}
    async with opened(options(**limits)) as door, anyio.create_task_group() as tasks:
        await hello(door)
        told = Counted(door)
        tasks.start_soon(told.end_slow_for_ever)
        with wires(door) as wire:
            drip = wire(4_096)
            await drip.say(b"GET /download?64 HTTP/1.1\r\n" + HEAD + b"\r\n")
            steady = wire()
            await steady.say(b"GET /download?64 HTTP/1.1\r\n" + HEAD + b"\r\n")
            taken = 0
            while (await told.now()).get("slow_reader") != 1:
                await drip.hear(1)
                taken += len(await steady.hear(1 << 18))
                await anyio.sleep(0.05)
            taken += len(await steady.hear((64 << 20) - taken, within_s=60))
            assert taken >= 64 << 20
            assert await told.now() == {"slow_reader": 1}
        tasks.cancel_scope.cancel()


async def test_who_leaves_gives_its_place_back() -> None:
    """Clients that ask a worker which hangs, and go: their places in the queue are free again."""
    async with opened(options(queue_requests=5)) as door:
        await hello(door)
        for _ in range(3):
            with wires(door) as wire:
                for _ in range(5):
                    await wire().say(b"GET /slow HTTP/1.1\r\n" + HEAD + b"\r\n")
                with anyio.fail_after(5):
                    while (await door.front.loads())["c-hello"].current < 5:
                        await anyio.sleep(0.02)
                assert (await door.get("hello.localhost")).status_code == 503
            with anyio.fail_after(5):
                while await door.cell_of("hello.localhost") != "c-hello":
                    await anyio.sleep(0.02)
