"""What the API's endpoints are given: everything that reaches the world, in one place.

Tests hand in fakes; `kythera.control.server` hands in the real ones.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import anyio
from starlette.requests import Request

from kythera.control.asset_sessions import AssetSessions
from kythera.control.bucket_door import BucketDoor, NoBuckets
from kythera.control.caller import ROOT_NAME, calling
from kythera.control.carrier import Carrier, NoCarrier
from kythera.control.fleet import Fleet
from kythera.control.store_calls import NoStores, StoreCalls
from kythera.control.wrong_tokens import WrongTokens
from kythera.deploy.bindings import Seals
from kythera.ground.chance import Chance
from kythera.ground.clock import Clock
from kythera.ground.journal import Journal
from kythera.model.errors import StoreUnavailable
from kythera.model.limits import Limits
from kythera.model.platform import Platform
from kythera.model.records import Version

if TYPE_CHECKING:
    from kythera.control.asset_index import AssetIndex
    from kythera.control.kv_store import KvStore
    from kythera.control.store import Store
    from kythera.control.tail_hub import TailHub
    from kythera.deploy.keyring import Keyring
    from kythera.distribute.blobs import Blobs
    from kythera.distribute.relay import Relay


QUERIES_AT_ONCE = 2


class Tried(Protocol):
    """What a trial finds out about a version that starts."""

    @property
    def handlers(self) -> tuple[str, ...]:
        """Names of the handlers of its default export (or of its event listeners)."""
        ...

    @property
    def named_handlers(self) -> tuple[str, ...]:
        """Names of its other exported entry points."""
        ...

    @property
    def startup_time_ms(self) -> int:
        """How long its top-level code took."""
        ...


ReadBlob = Callable[[str], bytes]
OpenSecret = Callable[[str, str], str]
TryVersion = Callable[[Version, ReadBlob, OpenSecret], Awaitable[Tried]]
"""Start a version's code once. Raises Refusal (10021) with JavaScript's own words."""


class BlobStore(Protocol):
    """Content-addressed bytes (`kythera.distribute.blobs.Blobs`)."""

    def put(self, data: bytes) -> str:
        """Store bytes durably and return their SHA-256; what is there already stays."""
        ...

    def has(self, digest: str) -> bool:
        """Tell whether these bytes are stored."""
        ...

    def touch(self, digest: str) -> bool:
        """Tell whether these bytes are stored; if so they count as used now, and stay."""
        ...

    def read(self, digest: str) -> bytes:
        """Return the bytes, verified."""
        ...


@dataclass(frozen=True)
class Services:
    """All of it."""

    platform: Platform
    token: str
    store: "Store"
    blobs: BlobStore
    seals: Seals
    session_key: bytes
    try_version: TryVersion
    asset_index: "AssetIndex"
    tails: "TailHub"
    clock: Clock
    chance: Chance
    journal: Journal
    fleet: Fleet = field(default_factory=Fleet)
    asset_sessions: AssetSessions = field(default_factory=AssetSessions)
    carrier: Carrier = field(default_factory=NoCarrier)
    relay: "Relay | None" = None
    """Serves this machine's copy to others that follow it."""
    wrong_tokens: WrongTokens = field(default_factory=lambda: WrongTokens(Limits()))
    stores: StoreCalls = field(default_factory=NoStores)
    """This machine's stores."""
    queries: anyio.CapacityLimiter = field(
        default_factory=lambda: anyio.CapacityLimiter(QUERIES_AT_ONCE)
    )
    """Over data points; the rest wait their turn."""
    buckets: BucketDoor = field(default_factory=NoBuckets)
    """R2's store of this machine."""
    keyring: "Keyring | None" = None
    """This machine's keys for secrets; `seals` is the same, where there is one."""

    kept_blobs: "tuple[Blobs, ...]" = ()
    """What stores of this machine keep as blobs; other machines may have them."""
    kv: "KvStore | None" = None
    """This machine's KV store."""

    @property
    def me(self) -> str:
        """This machine's name."""
        return self.platform.machine

    def fleet_now(self) -> float:
        """Return the time that all machines agree on, in Unix seconds.

        Their clocks may be hours apart; what one machine signs and another checks goes by the
        newest heartbeat, which may be a second old. A machine alone goes by its clock."""
        try:
            catalog = self.store.catalog()
        except StoreUnavailable:
            return self.clock.now()
        heartbeat = catalog.heartbeat()
        if heartbeat is None or len(catalog.machines()) < 2:
            return self.clock.now()
        return heartbeat.at_ms / 1000

    @property
    def account(self) -> str:
        """The account whose platform this is."""
        return self.platform.account_id

    @property
    def author(self) -> str:
        """Who is said to have made what came through the API: a token's name, as there are no
        users."""
        caller = calling.get()
        name = "operator" if caller is None or caller.name == ROOT_NAME else caller.name
        return f"{name}@{self.platform.domain}"


def services_of(request: Request) -> Services:
    """Return the services behind a request's application."""
    found = request.app.state.services
    assert isinstance(found, Services)
    return found
