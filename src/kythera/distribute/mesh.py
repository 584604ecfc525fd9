"""How this machine speaks to another: TLS 1.3 both ways on the other's one mesh port.

Promises: nothing is sent before the other has shown a certificate of our fleet with the name we
wanted; every wait has a deadline; whatever fails is `PeerUnreachable`, which names the machine.
Which service is meant is the TLS server name (`control.kythera` …); which machine answers is the
name (CN) in its certificate. A renewed certificate of our own is used from the next connection on.
"""

import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Self

import anyio
import httpx
import msgspec
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from kythera.distribute import membership
from kythera.distribute.authority import name_in_der, service_host
from kythera.ground.files import Stamp, stamp_of
from kythera.ground.layout import Layout
from kythera.ground.sockets import parse_address
from kythera.model.errors import SetupError, StoreUnavailable
from kythera.model.limits import Limits

CONNECTIONS_MAX = 64
"""To one peer at a time; followers and transfers hold theirs."""
KEPT_IDLE_S = 10.0
"""Below the time after which HAProxy closes an idle connection."""


class PeerUnreachable(StoreUnavailable):
    """Another machine cannot be reached now, or is not who it should be."""


class PeerNotTrusted(PeerUnreachable):
    """What answers there has no certificate of our fleet, or one with another name."""


class Directory:
    """Where machines are reached. A file of links (read anew when it changes) comes before the
    address in the records, and that before what this machine was told when it joined."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._links: dict[str, str] = {}
        self._stamp: Stamp | None = None

    def address(self, name: str, recorded: str = "") -> str:
        """Return `host:port` of a machine. Raises PeerUnreachable when nobody knows it."""
        found = self._linked(name) or recorded or self._remembered(name)
        if not found:
            raise PeerUnreachable(
                f"nobody knows where the machine {name!r} is.",
                remedy="See `kythera machine list`; start it with --advertise HOST:PORT.",
            )
        return found

    def _linked(self, name: str) -> str:
        stamp = stamp_of(self._layout.links)
        if stamp != self._stamp:
            self._links = read_links(self._layout.links)
            self._stamp = stamp
        return self._links.get(name, "")

    def _remembered(self, name: str) -> str:
        known = membership.read(self._layout)
        peers = known.peers if known is not None else ()
        return next((peer.mesh for peer in peers if peer.name == name), "")


def read_links(path: Path) -> dict[str, str]:
    """Return the links of a file (JSON: name → `host:port`); none when there is no file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return {}
    except msgspec.MsgspecError as error:
        raise SetupError(f"{path} cannot be read: {error}.", remedy="Remove it.") from None


class WrongName(ssl.SSLCertVerificationError):
    """A machine of our fleet answers, but another one than we wanted."""

    def __init__(self, name: str) -> None:
        super().__init__(1, f"it is the machine {name!r}")

    def __str__(self) -> str:
        """Say who answers."""
        return str(self.args[1])


def verified_class(wanted: str) -> type[ssl.SSLObject]:
    """Return an SSLObject that ends the handshake unless the other side's name (CN) is `wanted`."""

    class Verified(ssl.SSLObject):
        """TLS with one certain machine."""

        def do_handshake(self) -> None:
            """Shake hands, then look who it is, before anything is sent."""
            super().do_handshake()
            name = name_in_der(self.getpeercert(binary_form=True) or b"")
            if name != wanted:
                raise WrongName(name)

    return Verified


def client_context(layout: Layout, peer: str | None = None) -> ssl.SSLContext:
    """Return the TLS settings for calling another machine as this one.

    With `peer`, only the machine of that name is accepted (asyncio, AnyIO and nats-py all honour
    it). The caller gives `service_host(…)` as server name. Raises SetupError without an identity.
    """
    return context_of(layout.ca_certificate, layout.machine_certificate, peer)


def context_of(ca: Path, certificate_and_key: Path, peer: str | None = None) -> ssl.SSLContext:
    """Return TLS settings from files. Raises SetupError when they are missing or do not match."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(ca)
        context.load_cert_chain(certificate_and_key)
    except (OSError, ssl.SSLError) as error:
        raise SetupError(
            f"this machine's certificate cannot be used: {error} ({certificate_and_key}).",
            remedy="Start the platform once, or restore its state folder from a backup.",
        ) from error
    if peer is not None:
        context.sslobject_class = verified_class(peer)
    return context


@contextmanager
def _unreachable(
    peer: str, address: str, expected: type[Exception] = httpx.HTTPError
) -> Iterator[None]:
    """Turn what may go wrong on the way into a sentence about the machine."""
    try:
        yield
    except (expected, httpx.InvalidURL, anyio.BrokenResourceError, anyio.EndOfStream) as error:
        reason, kind = _reason(error)
        raise kind(f"the machine {peer!r} at {address} cannot be reached: {reason}.") from error


def _reason(error: BaseException) -> tuple[str, type[PeerUnreachable]]:
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, WrongName):
            return str(inner), PeerNotTrusted
        if isinstance(inner, ssl.SSLCertVerificationError):
            return f"its certificate is refused ({inner.verify_message})", PeerNotTrusted
        inner = inner.__cause__ or inner.__context__
    return str(error).rstrip(".") or type(error).__name__, PeerUnreachable


class MeshClient:
    """HTTP to other machines' control processes; connections are kept for a while.

    Use as `async with MeshClient(layout, limits) as client`."""

    def __init__(
        self,
        layout: Layout,
        limits: Limits,
        context: Callable[[str], ssl.SSLContext] | None = None,
    ) -> None:
        """`context` makes the TLS settings for a peer's name; by default this machine's own."""
        self.directory = Directory(layout)
        self._layout = layout
        self._limits = limits
        self._context = context or (lambda peer: client_context(layout, peer))
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._retired: list[httpx.AsyncClient] = []
        self._stamp: Stamp | None = None

    async def __aenter__(self) -> Self:
        """Open no connection yet."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections."""
        clients = [*self._clients.values(), *self._retired]
        self._clients, self._retired = {}, []
        for client in clients:
            with anyio.move_on_after(self._limits.peer_connect_ms / 1000, shield=True):
                await client.aclose()

    async def request(
        self, peer: str, recorded: str, method: str, path: str, **more: Any
    ) -> httpx.Response:
        """Ask a machine and return its whole answer, whatever its status.

        `recorded` is the address in the records (or ""); `more` is httpx' (json, content …).
        Raises PeerUnreachable."""
        address = self.directory.address(peer, recorded)
        with _unreachable(peer, address):
            client = await self._client(peer)
            return await client.request(method, _url(address, path), **_with_service(more))

    @asynccontextmanager
    async def stream(
        self, peer: str, recorded: str, method: str, path: str, **more: Any
    ) -> AsyncIterator[httpx.Response]:
        """Ask a machine and hand over its answer as it comes. Raises PeerUnreachable, also from
        reading the body inside the block."""
        address = self.directory.address(peer, recorded)
        with _unreachable(peer, address):
            client = await self._client(peer)
            url = _url(address, path)
            async with client.stream(method, url, **_with_service(more)) as response:
                yield response

    async def _client(self, peer: str) -> httpx.AsyncClient:
        stamp = stamp_of(self._layout.machine_certificate)
        if stamp != self._stamp:
            # Those in the middle of an answer finish it: they are closed at the next renewal, half
            # a certificate's life later.
            past, self._retired = self._retired, [*self._clients.values()]
            self._clients, self._stamp = {}, stamp
            for client in past:
                await client.aclose()
        if peer not in self._clients:
            self._clients[peer] = self._opened(self._context(peer))
        return self._clients[peer]

    def _opened(self, context: ssl.SSLContext) -> httpx.AsyncClient:
        answer_s = self._limits.peer_answer_ms / 1000
        return httpx.AsyncClient(
            verify=context,
            timeout=httpx.Timeout(answer_s, connect=self._limits.peer_connect_ms / 1000),
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX, keepalive_expiry=KEPT_IDLE_S),
            headers={"host": service_host("control"), "user-agent": "kythera"},
            trust_env=False,
        )


def _url(address: str, path: str) -> str:
    return f"https://{address}{path}"


def _with_service(more: dict[str, Any]) -> dict[str, Any]:
    """Ask for the control process: httpx takes the TLS server name from here."""
    extensions = {**more.pop("extensions", {}), "sni_hostname": service_host("control")}
    return {**more, "extensions": extensions}


async def open_tls(
    layout: Layout, directory: Directory, peer: str, recorded: str, service: str, within_ms: float
) -> ByteStream:
    """Return a raw stream to a service of a machine, TLS inside. Raises PeerUnreachable."""
    address = directory.address(peer, recorded)
    host, port = parse_address(address)
    with _unreachable(peer, address, OSError), anyio.fail_after(within_ms / 1000):
        raw = await anyio.connect_tcp(host, port)
        try:
            return await TLSStream.wrap(
                raw,
                hostname=service_host(service),
                ssl_context=client_context(layout, peer),
                standard_compatible=False,
            )
        except BaseException:
            await anyio.aclose_forcefully(raw)
            raise
