"""One request of a cell to a store of ours, and its answer, over ASGI.

Promises: nobody is heard without a pass to this very store; what is not HTTP, or breaks off, ends
quietly; what goes wrong inside is answered (500) and told, and the store lives on.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Protocol

import anyio
import structlog

from kythera.ground.passes import PASS_HEADER, NotAPass, Pass, check
from kythera.store.usage import PATH, Usage, is_agents

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[str, str]]

NO_PASS = b"This store answers this machine's cells alone.\n"


class BrokenOff(Exception):
    """Who asked has gone, or says nothing more, before all was said."""


class TooLarge(Exception):
    """A body is larger than it may be."""


class Exchange:
    """What was asked, and the way to answer it, once."""

    def __init__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        query = scope["query_string"]
        self.target = (scope["raw_path"] + (b"?" + query if query else b"")).decode("latin-1")
        """Path and query, as they were sent."""
        self.headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        """By lower-case name; of several the last."""
        self._receive = receive
        self._send = send

    async def chunks(self, silent_s: float) -> AsyncIterator[bytes]:
        """Yield the body as it comes. Raises BrokenOff, also when nothing comes for so long."""
        more = True
        while more:
            message: Message = {}
            with anyio.move_on_after(silent_s):
                message = await self._receive()
            if message.get("type") != "http.request":
                raise BrokenOff
            more = message.get("more_body", False)
            if chunk := message.get("body", b""):
                yield chunk

    async def body(self, bytes_max: int, silent_s: float) -> bytes:
        """Return the whole body. Raises TooLarge, BrokenOff."""
        whole = bytearray()
        async for chunk in self.chunks(silent_s):
            whole += chunk
            if len(whole) > bytes_max:
                raise TooLarge
        return bytes(whole)

    async def begin(self, status: int, headers: Headers = ()) -> None:
        """Send the head of the answer; `send` sends the rest."""
        raw = [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in headers]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def send(self, chunk: bytes, *, more: bool) -> None:
        """Send a part of the answer's body."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": more})

    async def answer(self, status: int, headers: Headers = (), body: bytes = b"") -> None:
        """Answer, all at once."""
        await self.begin(status, [*headers, ("content-length", str(len(body)))])
        await self.send(body, more=False)

    async def answer_json(self, document: Any, status: int = 200) -> None:
        """Answer with a JSON document."""
        body = json.dumps(document, separators=(",", ":")).encode()
        await self.answer(status, [("content-type", "application/json")], body)


class Store(Protocol):
    """What a store's program runs."""

    usage: Usage
    """What it has counted."""

    async def handle(self, exchange: Exchange, granted: Pass) -> None:
        """Answer one request."""
        ...

    async def keep(self) -> None:
        """Do what has to be done now and then, for ever."""
        ...

    def close(self) -> None:
        """Let go of files."""
        ...


def app_of(store: Store, name: str, key: str) -> App:
    """Return an application that lets cells with a pass to the store `name` speak to it."""
    journal = structlog.get_logger(f"store/{name}")

    async def app(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send)
        try:
            granted = check(exchange.headers.get(PASS_HEADER.lower(), ""), key, name)
        except NotAPass:
            await exchange.answer(403, body=NO_PASS)
            return
        if exchange.target == PATH and is_agents(granted):
            await exchange.answer(200, body=store.usage.told())
            return
        try:
            await store.handle(exchange, granted)
        except BrokenOff:
            return
        except TooLarge:
            await exchange.answer(413)
        except Exception as error:
            journal.exception("store_failed", method=exchange.method, error=str(error))
            raise  # uvicorn answers 500 when nothing was sent yet, and cuts what was begun

    return app
