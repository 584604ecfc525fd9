"""The lean HTTP server that cells' KV bindings ask: on a unix socket, one request after the other on
each connection, parsed by httptools. It is asked for each read of a worker, so it does little.

Promises: what can be answered from memory is answered in the same turn; a large value waits for
one of `kv_large_at_once` places before it is read, and has to be there within `kv_body_ms`.
Refuses: bodies above what a value may have (413), whatever is no HTTP (the connection is closed).
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Protocol, cast

import anyio
import httptools

from kythera.model.limits import Limits
from kythera.store.kv_protocol import Failed

PASS = b"x-kythera-pass"
METADATA = b"cf-kv-metadata"
LENGTH = b"content-length"
DRAINED_BYTES_MAX = 128 * 1024 * 1024
"""A body that is too large is read to its end, so that its sender hears why, but not beyond this."""
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%b\r\n"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nCF-Cache-Status: MISS\r\nContent-Length: 0\r\n\r\n"


class Request:
    """One request, whole."""

    __slots__ = ("body", "granted", "metadata", "method", "size", "target")

    def __init__(self) -> None:
        self.method = b""
        self.target = b""
        self.granted = b""
        self.metadata = b""
        self.body = bytearray()
        self.size = 0
        """Of the body as it was sent; more than was kept when it is too large."""


Pieces = AsyncIterator[bytes]
"""A body that is sent piece by piece: its head first."""


class Service(Protocol):
    """What answers."""

    def answer(self, request: Request) -> bytes | None:
        """Answer at once; None: it takes longer."""
        ...

    def answer_later(self, request: Request) -> Pieces:
        """Answer what takes longer. Must not raise once it has begun."""
        ...


def ok(body: bytes, headers: bytes = b"") -> bytes:
    """Return an answer. `headers` are whole lines."""
    return _OK % (len(body), headers) + body


def ok_head(size: int, headers: bytes = b"") -> bytes:
    """Return the beginning of an answer whose body follows."""
    return _OK % (size, headers)


def header_lines(headers: list[tuple[str, bytes]]) -> bytes:
    """Return headers as lines; what would break a line is left out."""
    return b"".join(
        b"%b: %b\r\n" % (name.encode(), value.translate(None, b"\r\n\0")) for name, value in headers
    )


def failure(error: Failed) -> bytes:
    """Return an answer that says no: in its status line, as that is what a worker is shown."""
    told = error.message.translate({13: " ", 10: " ", 0: " "}).encode()
    return b"HTTP/1.1 %d %b\r\nContent-Length: 0\r\n\r\n" % (error.status, told)


class Places:
    """Places for large values in memory."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: deque[Connection] = deque()

    def take(self, connection: "Connection") -> bool:
        """Take a place; False: it will be given later (`Connection.placed`)."""
        if self._free:
            self._free -= 1
            return True
        self._waiting.append(connection)
        return False

    def give_back(self) -> None:
        """Give a place to who waits longest."""
        while self._waiting:
            connection = self._waiting.popleft()
            if connection.placed():
                return
        self._free += 1

    def leave(self, connection: "Connection") -> None:
        """Wait no more."""
        if connection in self._waiting:
            self._waiting.remove(connection)


Spawn = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


class Connection(asyncio.Protocol):
    """One connection of a cell, or of the API."""

    def __init__(
        self,
        service: Service,
        spawn: Spawn,
        places: Places,
        limits: Limits,
        all_of_them: "set[Connection]",
    ) -> None:
        self._service = service
        self._spawn = spawn
        self._places = places
        self._limits = limits
        self._all = all_of_them
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._request = Request()
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[Request] = deque()
        self._busy = False
        self._placed = False
        self._wants_place = False
        self._timer: asyncio.TimerHandle | None = None
        self._writable = anyio.Event()
        self._writable.set()
        self._closing = False

    # -- the connection ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the connection."""
        self._transport = cast("asyncio.Transport", transport)
        self._all.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give back what it held."""
        self._all.discard(self)
        self._transport = None
        self._stop_timer()
        self._places.leave(self)
        self._wants_place = False
        if not self._busy:
            self._free_place()
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._abort()

    def pause_writing(self) -> None:
        """Note that the other side does not read."""
        self._writable = anyio.Event()

    def resume_writing(self) -> None:
        """Note that it reads again."""
        self._writable.set()

    def close_when_idle(self) -> None:
        """Take no further request."""
        self._closing = True
        if not self._busy and not self._request.method and self._transport is not None:
            self._transport.close()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # -- httptools' callbacks ------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._request = Request()

    def on_url(self, url: bytes) -> None:
        """Take (a part of) the address."""
        self._request.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        lower = name.lower()
        if lower == PASS:
            self._request.granted = value
        elif lower == METADATA:
            self._request.metadata = value
        elif lower == LENGTH and int(value) > self._limits.kv_inline_bytes_max:
            self._want_place()

    def on_headers_complete(self) -> None:
        """Note the method."""
        self._request.method = self._parser.get_method()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        request = self._request
        request.size += len(body)
        if request.size <= self._limits.kv_value_bytes_max:
            request.body += body
        elif request.size > DRAINED_BYTES_MAX:
            self._abort()
        if request.size > self._limits.kv_inline_bytes_max:
            self._want_place()

    def on_message_complete(self) -> None:
        """Answer, or queue behind what is being answered."""
        self._stop_timer()
        request, self._request = self._request, Request()
        if self._busy or self._waiting:
            self._waiting.append(request)
        else:
            self._answer(request)

    # -- answering -----------------------------------------------------------------------------

    def _answer(self, request: Request) -> None:
        found = self._service.answer(request)
        if found is None:
            self._busy = True
            self._spawn(lambda: self._answer_later(request))
            return
        self._write(found)
        self._done()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    async def _answer_later(self, request: Request) -> None:
        try:
            async for piece in self._service.answer_later(request):
                if not piece or self._transport is None:
                    self._abort()
                    break
                self._write(piece)
                await self._writable.wait()
        finally:
            self._busy = False
            self._done()
        while self._waiting and not self._busy:
            self._answer(self._waiting.popleft())

    def _done(self) -> None:
        self._free_place()
        if self._closing and not self._waiting and self._transport is not None:
            self._transport.close()

    # -- places --------------------------------------------------------------------------------

    def _want_place(self) -> None:
        if self._placed or self._wants_place:
            return
        self._timer = self._loop.call_later(self._limits.kv_body_ms / 1000, self._abort)
        if self._places.take(self):
            self._placed = True
        elif self._transport is not None:
            self._wants_place = True
            self._transport.pause_reading()

    def placed(self) -> bool:
        """Have a place now; False: it is not wanted any more."""
        if self._transport is None or not self._wants_place:
            return False
        self._placed, self._wants_place = True, False
        self._transport.resume_reading()
        return True

    def _free_place(self) -> None:
        if self._placed:
            self._placed = False
            self._places.give_back()
        elif self._wants_place:
            # The whole value came while it waited: it needs none any more.
            self._wants_place = False
            self._places.leave(self)
            if self._transport is not None:
                self._transport.resume_reading()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Doors:
    """All connections of one listening socket."""

    def __init__(self, service: Service, limits: Limits, spawn: Spawn) -> None:
        self._limits = limits
        self._service = service
        self._spawn = spawn
        self._places = Places(limits.kv_large_at_once)
        self._connections: set[Connection] = set()

    def connection(self) -> Connection:
        """Return what a new connection is given to."""
        return Connection(self._service, self._spawn, self._places, self._limits, self._connections)

    async def close(self, within_s: float) -> None:
        """Let what is under way end, but not for ever."""
        for connection in list(self._connections):
            connection.close_when_idle()
        with anyio.move_on_after(within_s):
            while self._connections:
                await anyio.sleep(0.01)
