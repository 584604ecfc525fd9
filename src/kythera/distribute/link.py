"""One connection to nats-server at a time, made again whenever it is cut.

nats-py's own reconnecting is switched off: it buffers what is published while nothing is
connected and sends it whenever it can, so that a write we reported as failed could still happen
minutes later. Here a cut cancels what waits for an answer at once; whoever waited decides.
"""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol

import anyio
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoServersError

from kythera.distribute.address import LogAddress
from kythera.distribute.authority import service_host
from kythera.model.errors import KytheraError

CONNECT_MS = 3_000
CLOSE_MS = 1_000
ASK_MS = 500
RETRY_MS_MIN = 20
RETRY_MS_MAX = 500
PING_S = 3_600
"""nats-py's own pings are of no use here: `keep_alive` asks more often."""
ASKED_TIMES = 4
"""How often a silent server is asked for a sign of life before it is given up."""

_events = structlog.get_logger()


Secure = Callable[[str], ssl.SSLContext]
"""Makes the TLS settings for calling the machine of a name (`mesh.client_context`)."""


class Finder(Protocol):
    """Says where to connect next."""

    def find(self) -> LogAddress | None:
        """Return the address to try now; None: none is known yet. Asked for each connection."""
        ...

    def failed(self, address: LogAddress) -> None:
        """Hear that a connection to `address` was not made, or has ended."""
        ...

    def worked(self, address: LogAddress) -> None:
        """Hear that the server at `address` is in order."""
        ...

    def is_outdated(self, address: LogAddress) -> bool:
        """Tell whether a connection to `address` is to be left: the log is no longer there."""
        ...


class LinkLost(Exception):
    """The connection was cut while somebody waited on it; what was sent may have arrived."""


class Link:
    """One connection, from its CONNECT to its cut."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.clustered = False
        """Whether the server has others beside it: it then answers some questions otherwise."""
        self.troubled_since: float | None = None
        """Since when nothing succeeded over it, while its server is there; for those who use it."""
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

    def signs_of_life(self) -> tuple[int, int, int]:
        """Return what changes with everything that arrives: messages, answers to pings, and how
        much of a long message is here already."""
        return self.client.stats["in_msgs"], self.client._pongs_received, len(self.client._ps.buf)

    async def ask_for_life(self) -> None:
        """Ping the server; its answer counts as a sign of life whenever it comes."""
        with anyio.move_on_after(ASK_MS / 1000):
            try:
                await self.client._send_ping()
            except (OSError, NatsError):
                self.cut()

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


class Supply:
    """What a connection needs that its address does not say."""

    def __init__(self, finder: Finder, secure: Secure | None, silent_ms_max: int) -> None:
        self.finder = finder
        self.secure = secure
        self.silent_ms_max = silent_ms_max


async def keep_linked(
    links: Links, supply: Supply, prepare: Callable[[Link], Awaitable[None]]
) -> None:
    """Keep `links` supplied until cancelled. `prepare` runs on each new connection before use.

    The finder is asked anew each time: a restarted nats-server may have another port, and another
    machine may answer where this one does not.
    """
    retry_ms = RETRY_MS_MIN
    while True:
        address: LogAddress | None = None
        try:
            address = supply.finder.find()
            if address is None:
                links.last_error = "its address has not been written yet"
            else:
                async with connected(address, address.user, links, supply.secure) as link:
                    await prepare(link)
                    retry_ms = RETRY_MS_MIN
                    supply.finder.worked(address)
                    _events.info("log_connected", url=address.url)
                    links.offer(link)
                    await keep_alive(link, links, supply, address)
                _events.warning("log_connection_lost", url=address.url, error=links.last_error)
        except (OSError, NatsError, LinkLost, TimeoutError, KytheraError) as error:
            if not isinstance(error, NoServersError):  # the reason was noted before it
                links.last_error = str(error) or type(error).__name__
            if retry_ms < RETRY_MS_MAX <= retry_ms * 2:
                _events.warning("log_unreachable", error=links.last_error)
        finally:
            links.offer(None)
            if address is not None:
                supply.finder.failed(address)
        await anyio.sleep(retry_ms / 1000)
        retry_ms = min(retry_ms * 2, RETRY_MS_MAX)


async def keep_alive(link: Link, links: Links, supply: Supply, address: LogAddress) -> None:
    """Return when the connection has ended; end it when its server says nothing for too long, or is
    no longer the one to talk to.

    Whatever arrives counts, so that a slow link full of records is not taken for a dead one."""
    silent_ms_max = supply.silent_ms_max
    heard, asked = link.signs_of_life(), 0
    while not link.lost.is_set():
        await link.ask_for_life()
        with anyio.move_on_after(silent_ms_max / ASKED_TIMES / 1000):
            await link.lost.wait()
            return
        now = link.signs_of_life()
        asked = 0 if now != heard else asked + 1
        heard = now
        if asked >= ASKED_TIMES:
            links.last_error = f"the server said nothing for {silent_ms_max} ms"
            link.cut()
        elif supply.finder.is_outdated(address):
            links.last_error = "the log is at another address now"
            link.cut()


@asynccontextmanager
async def connected(
    address: LogAddress, user: str, links: Links, secure: Secure | None = None
) -> AsyncIterator[Link]:
    """Connect once as `user`, and close again whatever happened.

    `secure` is needed for another machine's server: its certificate is checked for its name."""
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
    if address.peer:
        assert secure is not None, f"the log of {address.peer} is reached by TLS alone"
        options["tls"] = secure(address.peer)
        options["tls_hostname"] = service_host("log")
        options["tls_handshake_first"] = True
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
