"""Where this machine's other programs have workers' handlers called: HTTP on a unix socket.

`POST /<account>/<worker>/<scheduled|queue>`: the body goes to `run/js/events.js` as it is, and what that
answers comes back. 503: the handler was not reached (ask again); 502: its process ended over it; both
with `{"outcome", "detail"}`. The socket is the keeper's: whoever asks while the agent is down waits.
Refuses: bodies above `event_body_bytes_max` (413), and whatever is not of this form (404).
"""

import json
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import anyio
import uvicorn

from kythera.ground.layout import Layout
from kythera.node.events import Events, NotCalled
from kythera.node.keeper_client import KeeperClient
from kythera.run.config import EVENT_HANDLERS

NAME = "events/door"
NOT_CALLED = "notCalled"
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the agent has none either."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


class EventsDoor:
    """Serves it."""

    def __init__(self, layout: Layout, keeper: KeeperClient, events: Events) -> None:
        self._layout = layout
        self._keeper = keeper
        self._events = events
        self._body_bytes_max = events.body_bytes_max

    async def open(self) -> None:
        """Have the socket."""
        await self._keeper.listen(NAME, self._layout.events_socket)
        # Stores have users of their own; who is not one of ours does not get past the folder.
        await anyio.Path(self._layout.events_socket).chmod(0o666)

    async def run(self) -> None:
        """Serve for ever."""
        config = uvicorn.Config(
            self._serve,
            interface="asgi3",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
        )
        listener = socket.socket(fileno=socket.dup(self._keeper.sockets[NAME]))
        listener.setblocking(False)
        await _Server(config).serve(sockets=[listener])

    async def _serve(self, scope: Message, receive: Receive, send: Send) -> None:
        status, body = await self._answer(scope, receive)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Message, receive: Receive) -> tuple[int, bytes]:
        parts = scope["path"].removeprefix("/").split("/")
        if scope["method"] != "POST" or len(parts) != 3 or parts[2] not in EVENT_HANDLERS:
            return 404, b"{}"
        body = await self._body(receive)
        if body is None:
            return 413, b"{}"
        try:
            account, worker, handler = parts
            called = await self._events.call(account, worker, handler, body)
        except NotCalled as error:
            told = {"outcome": NOT_CALLED, "detail": error.message}
            return 503, json.dumps(told).encode()
        return called.status, called.body

    async def _body(self, receive: Receive) -> bytes | None:
        whole = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            whole += message.get("body", b"")
            if len(whole) > self._body_bytes_max:
                return None
            if not message.get("more_body", False):
                return bytes(whole)
