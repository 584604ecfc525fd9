"""Links with faults: what passes, in which order, how late, and what a cut leaves."""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from kythera.ground.chance import SeededChance
from kythera.ground.relay_links import CUT, HEALTHY, SILENT, Condition, Relay

pytestmark = pytest.mark.anyio
DEADLINE_S = 20
Handle = Callable[[anyio.abc.SocketStream], Awaitable[None]]
PROMPT_S = 0.25
"""Sooner than any delay that is tested; later than a busy machine needs."""


@pytest.fixture(autouse=True)
async def _deadline() -> AsyncIterator[None]:
    """No test of this file waits for ever."""
    with anyio.fail_after(DEADLINE_S):
        yield


async def echo(stream: anyio.abc.SocketStream) -> None:
    """Send back whatever comes, then end as the other end did."""
    try:
        async with stream:
            async for chunk in stream:
                await stream.send(chunk)
    except (anyio.BrokenResourceError, anyio.EndOfStream):
        return


@asynccontextmanager
async def linked(handle: Handle = echo) -> AsyncIterator[Relay]:
    """Run machines a and b, both at a door where `handle` answers, and the links between them."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    door = f"127.0.0.1:{port}"
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        async with Relay({"a": lambda: door, "b": lambda: door}, chance=SeededChance(1)) as relay:
            yield relay
        tasks.cancel_scope.cancel()


async def call(relay: Relay, a: str = "a", b: str = "b") -> anyio.abc.SocketStream:
    """Connect as machine `a` to machine `b`."""
    host, _, port = relay.addresses(a)[b].rpartition(":")
    return await anyio.connect_tcp(host, int(port))


async def exactly(stream: anyio.abc.SocketStream, size: int) -> bytes:
    """Read so many bytes."""
    found = bytearray()
    while len(found) < size:
        found += await stream.receive(size - len(found))
    return bytes(found)


async def says_nothing(stream: anyio.abc.SocketStream) -> bool:
    """Tell whether nothing comes for a while."""
    with anyio.move_on_after(PROMPT_S):
        await stream.receive()
        return False
    return True


async def test_a_healthy_link_passes_bytes_both_ways_and_the_end() -> None:
    """Goal: a relay that nobody notices. Method: 4 MB through an echo, then a half close."""
    sent = bytes(range(256)) * 16_384
    async with linked() as relay, await call(relay) as stream:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.send, sent)
            assert await exactly(stream, len(sent)) == sent
        await stream.send_eof()
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()


async def test_a_delay_is_kept_in_each_direction_and_order_with_it() -> None:
    """Goal: late, in order. Method: 0.2 s there, 0.1 s back; then the delay shrinks under way."""
    async with linked() as relay, await call(relay) as stream:
        await stream.send(b"x")
        await exactly(stream, 1)
        relay.become("a", "b", Condition(delay_ms=200))
        relay.become("b", "a", Condition(delay_ms=100))
        began = time.monotonic()
        await stream.send(b"first ")
        await anyio.sleep(0.02)
        relay.become("a", "b", HEALTHY)
        await stream.send(b"second")
        assert await exactly(stream, 12) == b"first second"
        assert 0.3 <= time.monotonic() - began < 0.6


async def test_a_delay_does_not_limit_throughput_to_a_chunk_for_each_round_trip() -> None:
    """Goal: much may be under way. Method: 6 MB with 0.2 s each way within a second or so."""
    sent = b"z" * 6_000_000
    async with linked() as relay:
        relay.become("a", "b", Condition(delay_ms=200))
        relay.become("b", "a", Condition(delay_ms=200))
        async with await call(relay) as stream:
            began = time.monotonic()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.send, sent)
                await exactly(stream, len(sent))
            assert 0.4 <= time.monotonic() - began < 2.5


async def test_a_black_hole_keeps_the_connection_and_delivers_after_healing() -> None:
    """Goal: TCP's own behaviour. Method: silent, send, nothing; heal, and it comes."""
    async with linked() as relay, await call(relay) as stream:
        await stream.send(b"x")
        await exactly(stream, 1)
        relay.become("a", "b", Condition(state=SILENT))
        await stream.send(b"held back")
        assert await says_nothing(stream)
        relay.become("a", "b", HEALTHY)
        assert await exactly(stream, 9) == b"held back"


async def test_one_direction_can_be_lost_while_the_other_passes() -> None:
    """Goal: one-way faults, on connections of either side. Method: b talks on, hears nothing."""

    async def talk(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.send(b"hello")
            heard.append(await stream.receive())

    heard: list[bytes] = []
    async with linked(talk) as relay:
        relay.become("a", "b", Condition(state=SILENT))
        async with await call(relay, "a", "b") as stream:
            assert await exactly(stream, 5) == b"hello"
            await stream.send(b"nobody hears")
            await anyio.sleep(PROMPT_S)
            assert not heard
            relay.become("a", "b", HEALTHY)
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
            assert heard == [b"nobody hears"]
        relay.become("a", "b", Condition(state=SILENT))
        async with await call(relay, "b", "a") as stream:
            assert await says_nothing(stream)


async def test_an_end_that_was_reset_unseen_resets_the_other() -> None:
    """Goal: no error, nothing left standing. Method: b resets while nothing of it is heard, then
    a ends."""
    was_reset = anyio.Event()

    async def reset(stream: anyio.abc.SocketStream) -> None:
        await stream.receive()
        sock = stream.extra(anyio.abc.SocketAttribute.raw_socket)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()
        was_reset.set()

    said: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    async with linked(reset) as relay, await call(relay) as stream:
        relay.become("b", "a", Condition(state=SILENT))
        relay.become("a", "b", Condition(delay_ms=20))
        await stream.send(b"x")
        await was_reset.wait()
        await stream.send_eof()
        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
            await stream.receive()
    assert not said


async def test_a_cut_resets_what_stands_and_what_comes() -> None:
    """Goal: both ends notice at once. Method: cut under a standing connection, then call anew."""
    async with linked() as relay, await call(relay) as stream:
        await stream.send(b"x")
        await exactly(stream, 1)
        relay.become("a", "b", Condition(state=CUT))
        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
            await stream.receive()
        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream, OSError)):
            async with await call(relay) as fresh:
                await fresh.receive()
        relay.become("a", "b", HEALTHY)
        async with await call(relay) as healed:
            await healed.send(b"back")
            assert await exactly(healed, 4) == b"back"


async def test_a_slow_reader_slows_its_writer() -> None:
    """Goal: back-pressure. Method: nobody reads at the far end; the sender must get stuck."""
    sent = 0
    with socket.create_server(("127.0.0.1", 0)) as unread:
        door = f"127.0.0.1:{unread.getsockname()[1]}"
        async with (
            Relay({"a": lambda: door, "b": lambda: door}, chance=SeededChance(1)) as relay,
            await call(relay) as stream,
        ):
            with anyio.move_on_after(2):
                while sent < 200_000_000:
                    await stream.send(b"y" * 100_000)
                    sent += 100_000
    assert sent < 60_000_000


async def test_a_lossy_link_delivers_everything_late_and_in_order() -> None:
    """Goal: loss is lateness to TCP. Method: half of the pieces are lost once."""
    sent = b"".join(b"%06d" % number for number in range(2_000))
    async with linked() as relay:
        relay.become("a", "b", Condition(delay_ms=5, loss=0.5))
        async with await call(relay) as stream, anyio.create_task_group() as tasks:

            async def pieces() -> None:
                for begin in range(0, len(sent), 600):
                    await stream.send(sent[begin : begin + 600])
                    await anyio.lowlevel.checkpoint()

            tasks.start_soon(pieces)
            assert await exactly(stream, len(sent)) == sent


async def test_a_target_that_is_not_there_resets_the_caller() -> None:
    """Goal: a dead machine is seen as dead. Method: no address, then a door nobody holds."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    gone = f"127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
    await listener.aclose()
    for address in ("", gone):
        async with Relay({"a": lambda: "", "b": lambda at=address: at}) as relay:  # type: ignore[misc]
            async with await call(relay) as stream:
                with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
                    await stream.receive()
