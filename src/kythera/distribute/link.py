"""One connection to nats-server at a time, made again whenever it is cut.

nats-py's own reconnecting is switched off: it buffers what is published while nothing is
connected and sends it whenever it can, so that a write we reported as failed could still happen
minutes later. Here a cut cancels what waits for an answer at once; whoever waited decides.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoServersError

from kythera.distribute.address import LogAddress
from kythera.model.errors import StoreUnavailable

CONNECT_MS = 2_000
CLOSE_MS = 1_000
RETRY_MS_MIN = 20
RETRY_MS_MAX = 500
PING_S = 5
"""A server that hangs without closing is noticed after two of these go unanswered."""

_events = structlog.get_logger()


class LinkLost(Exception):
    """The connection was cut while somebody waited on it; what was sent may have arrived."""


class Link:
    """One connection, from its CONNECT to its cut."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.lost = anyio.Event()
        self._waiting: set[anyio.CancelScope] = set()

    def cut(self) -> None:
        """Say that the connection has ended: whoever waits on it gets LinkLost."""
        self.lost.set()
        for scope in list(self._waiting):
            scope.cancel()

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Raise LinkLost from the block as soon as the connection is cut."""
        if self.lost.is_set():
            raise LinkLost
        with anyio.CancelScope() as scope:
            self._waiting.add(scope)
            try:
                yield
            finally:
                self._waiting.discard(scope)
        if scope.cancelled_caught:
            raise LinkLost

    async def request(
        self, subject: str, payload: bytes, headers: dict[str, str], timeout_ms: float
    ) -> bytes:
        """Send one request and return its answer's body.

        Raises LinkLost, TimeoutError or nats-py's own errors (no responders: JetStream is not up).
        """
        answer: Msg | None = None
        with self.guard(), anyio.fail_after(timeout_ms / 1000):
            # nats-py wants a deadline of its own; ours comes first.
            answer = await self.client.request(
                subject, payload, timeout=timeout_ms / 500, headers=headers or None
            )
        if answer is None:
            raise LinkLost
        return answer.data


class Links:
    """The connection that holds now, for those who wait for one."""

    def __init__(self) -> None:
        self._link: Link | None = None
        self._changed = anyio.Event()
        self.last_error = "nothing answered yet"

    def offer(self, link: Link | None) -> None:
        """Make `link` the one that holds (None: there is none now)."""
        self._link = link
        self._changed.set()
        self._changed = anyio.Event()

    async def ready(self) -> Link:
        """Return a connection, waiting for one; the caller holds the deadline."""
        while self._link is None or self._link.lost.is_set():
            await self._changed.wait()
        return self._link


async def keep_linked(
    links: Links,
    find: Callable[[], LogAddress | None],
    prepare: Callable[[Link], Awaitable[None]],
) -> None:
    """Keep `links` supplied until cancelled. `prepare` runs on each new connection before use.

    `find` is asked anew each time: a restarted nats-server may have another port.
    """
    retry_ms = RETRY_MS_MIN
    while True:
        address = find()
        try:
            if address is None:
                links.last_error = "its address has not been written yet"
            else:
                async with connected(address, address.user, links) as link:
                    await prepare(link)
                    retry_ms = RETRY_MS_MIN
                    _events.info("log_connected", url=address.url)
                    links.offer(link)
                    await link.lost.wait()
                _events.warning("log_connection_lost", url=address.url, error=links.last_error)
        except (OSError, NatsError, LinkLost, TimeoutError, StoreUnavailable) as error:
            if not isinstance(error, NoServersError):  # the reason was noted before it
                links.last_error = str(error) or type(error).__name__
            if retry_ms < RETRY_MS_MAX <= retry_ms * 2:
                _events.warning("log_unreachable", error=links.last_error)
        finally:
            links.offer(None)
        await anyio.sleep(retry_ms / 1000)
        retry_ms = min(retry_ms * 2, RETRY_MS_MAX)


@asynccontextmanager
async def connected(address: LogAddress, user: str, links: Links) -> AsyncIterator[Link]:
    """Connect once as `user`, and close again whatever happened."""
    client = Client()
    link = Link(client)

    async def cut() -> None:
        link.cut()

    async def note(error: Exception) -> None:
        links.last_error = str(error) or type(error).__name__
        _events.debug("log_client_error", error=links.last_error, kind=type(error).__name__)

    options: dict[str, Any] = {
        "allow_reconnect": False,
        "max_reconnect_attempts": 1,
        "reconnect_time_wait": RETRY_MS_MIN / 1000,
        "connect_timeout": CONNECT_MS / 1000,
        "ping_interval": PING_S,
    }
    try:
        with anyio.fail_after(CONNECT_MS / 1000):
            await client.connect(
                address.url,
                user=user,
                password=address.password,
                error_cb=note,
                disconnected_cb=cut,
                closed_cb=cut,
                name="kythera",
                **options,
            )
        yield link
    finally:
        link.cut()
        with anyio.move_on_after(CLOSE_MS / 1000, shield=True):
            await client.close()
