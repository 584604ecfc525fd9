"""`python -m bench.offenders KIND PORT HOST`: clients that make a hostile worker busy, until stdin ends.

They stand for clients elsewhere: so they run only when nobody else wants a core (SCHED_IDLE), and
what they cost is not taken for what the platform does to a neighbour.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass

PAUSE_S = 0.005
IDLE_CONNECTIONS = 500
CHUNK_BYTES = 262_144
ANSWER_S = 30.0


@dataclass(frozen=True)
class Offender:
    """One class of hostile worker: its code, and how many ask it, in which way."""

    source: str
    clients: int
    way: str = "ask"
    """`ask`: one request after the other; `read`: endless answers; `hold`: many connections."""


def _fetching(body: str, before: str = "") -> str:
    return f"{before}export default {{ async fetch(request) {{ {body} }} }};"


OFFENDERS = {
    "loops": Offender(_fetching("for (;;);"), 2),
    "short turns": Offender(
        _fetching("for (let i = 0, x = 0; i < 1e7; i++) x += i % 7; return new Response('burnt');"),
        8,
    ),
    "heap": Offender(
        _fetching("const kept = []; for (;;) kept.push(Array(1e5).fill(kept.length));"), 2
    ),
    "buffers": Offender(
        _fetching(
            "const kept = []; for (let i = 0; i < 16; i++) kept.push(new Uint8Array(8 << 20)"
            ".fill(1)); return new Response(String(kept.length));"
        ),
        4,
    ),
    "console": Offender(
        _fetching(
            "for (let i = 0; i < 2e4; i++) console.log('x'.repeat(100)); "
            "return new Response('printed');"
        ),
        2,
    ),
    "streams": Offender(
        _fetching(
            "return new Response(new ReadableStream({ "
            "pull(controller) { controller.enqueue(piece); } }));",
            "const piece = new Uint8Array(65536); ",
        ),
        4,
        "read",
    ),
    "connections": Offender(_fetching("return new Response('hello');"), 8, "hold"),
    "crashes": Offender(
        _fetching("abortIsolate('now');", "import { abortIsolate } from 'cloudflare:workers'; "), 2
    ),
}


async def _asked(port: int, host: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        async with asyncio.timeout(ANSWER_S):
            while await reader.read(CHUNK_BYTES):
                pass
    finally:
        writer.close()


async def ask(port: int, host: str) -> None:
    """Ask again and again."""
    while True:
        with suppress(OSError, TimeoutError):
            await _asked(port, host)
        await asyncio.sleep(PAUSE_S)


async def read(port: int, host: str) -> None:
    """Read an answer that does not end, as fast as it comes."""
    while True:
        with suppress(OSError, TimeoutError):
            await _asked(port, host)
        await asyncio.sleep(1)


async def hold(port: int, host: str) -> None:
    """Hold many connections that say nothing, and open and close others."""
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(IDLE_CONNECTIONS)]
    await ask(port, host)
    for _, writer in held:
        writer.close()


WAYS: dict[str, Callable[[int, str], Coroutine[None, None, None]]] = {
    "ask": ask,
    "read": read,
    "hold": hold,
}


async def _run(offender: Offender, port: int, host: str) -> None:
    loop = asyncio.get_running_loop()
    ended = loop.run_in_executor(None, sys.stdin.read)
    async with asyncio.TaskGroup() as tasks:
        clients = [
            tasks.create_task(WAYS[offender.way](port, host)) for _ in range(offender.clients)
        ]
        await ended
        for client in clients:
            client.cancel()


def main() -> None:
    """Be a nuisance until stdin ends."""
    parser = argparse.ArgumentParser(prog="python -m bench.offenders", description=__doc__)
    parser.add_argument("kind", choices=OFFENDERS)
    parser.add_argument("port", type=int)
    parser.add_argument("host")
    options = parser.parse_args()
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    asyncio.run(_run(OFFENDERS[options.kind], options.port, options.host))


if __name__ == "__main__":
    main()
