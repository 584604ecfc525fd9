"""The API in a test's own process: a log in memory, blobs in memory, a trial that reads the code.

`World.call` speaks HTTP to the application itself; nothing listens. The fakes honour the contracts
of the real parts: the log is the one that passes the log's contract suite, the copy shows what the
log holds (or lags, when a test says so), a trial refuses with 10021.
"""

import contextlib
import io
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from msgspec import Struct

from kythera.control.app import build_app
from kythera.control.asset_index import AssetIndex
from kythera.control.audit import Trail
from kythera.control.services import OpenSecret, ReadBlob, Services
from kythera.control.store import Store, put
from kythera.control.tail_hub import TailHub
from kythera.control.wrong_tokens import WrongTokens
from kythera.deploy.assets import digest_of
from kythera.deploy.seal import Sealer
from kythera.distribute.copy import Changes
from kythera.distribute.memory_log import MemoryLog
from kythera.ground.chance import SeededChance
from kythera.ground.journal import Journal
from kythera.model.catalog import Catalog
from kythera.model.errors import Refusal, StoreUnavailable
from kythera.model.limits import Limits
from kythera.model.platform import Platform
from kythera.model.records import Account, Version

ACCOUNT = "0123456789abcdef0123456789abcdef"
TOKEN = "a-token-of-forty-characters-for-the-tests"
ROOT = "/client/v4"
WORKERS = f"{ROOT}/accounts/{ACCOUNT}/workers"
HELLO = 'export default { fetch() { return new Response("hello") } }'
QUICK = Limits(append_ms=200, read_your_writes_ms=200)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.time = 1_795_000_000.0

    def now(self) -> float:
        """Return Unix time."""
        return self.time

    def monotonic(self) -> float:
        """Return the same."""
        return self.time


class MemoryCopy:
    """Shows what a MemoryLog holds, at once, or only up to where a test stopped it."""

    def __init__(self, log: MemoryLog) -> None:
        self.log = log
        self.stopped_at: int | None = None
        self.absent = False
        self.whole = True

    def is_whole(self) -> bool:
        """Tell whether it has once had everything."""
        return self.whole

    def applied_seq(self) -> int:
        """Return the newest sequence shown."""
        if self.absent:
            raise StoreUnavailable("This machine's copy of the records is not there yet.")
        return self.log._last if self.stopped_at is None else self.stopped_at

    def changes_since(self, generation: int, seq: int) -> Changes:
        """Return what came after; anew when this shows less than was read."""
        newest = self.applied_seq()
        anew = newest < seq
        entries = self.log._after(0 if anew else seq)
        return Changes(0, newest, anew, [entry for entry in entries if entry.seq <= newest])


class MemoryBlobs:
    """Blobs in a dictionary."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}

    def put(self, data: bytes) -> str:
        """Store bytes."""
        digest = digest_of(data)
        self.stored[digest] = data
        return digest

    def has(self, digest: str) -> bool:
        """Tell whether they are there."""
        return digest in self.stored

    def touch(self, digest: str) -> bool:
        """Tell the same: nothing leaves this dictionary."""
        return self.has(digest)

    def read(self, digest: str) -> bytes:
        """Return them."""
        if digest not in self.stored:
            raise StoreUnavailable(f"Blob {digest} is not on this machine.")
        return self.stored[digest]


class Trial(Struct, frozen=True, kw_only=True):
    """What a trial finds out."""

    handlers: tuple[str, ...] = ("fetch",)
    named_handlers: tuple[str, ...] = ()
    startup_time_ms: int = 7


class Workshop:
    """Tries versions: code that says `throw` at its beginning does not start."""

    def __init__(self) -> None:
        self.tried: list[Version] = []
        self.secrets: dict[str, str] = {}
        """Of the version that was tried last."""

    async def try_version(
        self, version: Version, read_blob: ReadBlob, open_secret: OpenSecret
    ) -> Trial:
        """Read the code and open the secrets, as a cell would."""
        self.tried.append(version)
        self.secrets = {
            binding.name: open_secret(binding.name, binding.fields["sealed"])
            for binding in version.bindings
            if binding.type == "secret_text"
        }
        classes: list[str] = []
        for module in version.modules:
            code = read_blob(module.digest)
            if code.startswith(b"throw"):
                raise Refusal(10021, f"Uncaught Error: boom\n  at {module.name}:1:7")
            classes += [name.decode() for name in re.findall(rb"export class (\w+)", code)]
        return Trial(named_handlers=tuple(classes))


class World:
    """One platform's API and all that is behind it."""

    def __init__(self, folder: Path, limits: Limits = QUICK) -> None:
        self.log = MemoryLog(limits)
        self.copy = MemoryCopy(self.log)
        self.blobs = MemoryBlobs()
        self.clock = Clock()
        self.workshop = Workshop()
        self.journal = io.StringIO()
        chance = SeededChance(1)
        journal = Journal("api", json_lines=True, out=self.journal)
        self.services = Services(
            platform=Platform(
                account_id=ACCOUNT, machine="m", http="127.0.0.1:8080", limits=limits
            ),
            token=TOKEN,
            store=Store(
                self.log,
                self.copy,
                limits,
                trail=Trail("m", self.log, limits, self.clock, journal),
            ),
            blobs=self.blobs,
            seals=Sealer(bytes(32)),
            session_key=bytes(32),
            try_version=self.workshop.try_version,
            asset_index=AssetIndex(folder / "asset-hashes", self.blobs),
            tails=TailHub(limits, self.clock, chance),
            clock=self.clock,
            chance=chance,
            journal=journal,
            wrong_tokens=WrongTokens(limits),
        )
        self.app = build_app(self.services)
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=True),
            base_url="http://api.test",
            headers={"authorization": f"Bearer {TOKEN}"},
        )

    async def start(self) -> None:
        """Write what the server writes at its first start."""
        account = Account(id=ACCOUNT, name="Kythera", subdomain="localhost")
        await self.services.store.write([put(account)])

    @property
    def catalog(self) -> Catalog:
        """All records, as the API sees them."""
        return self.services.store.catalog()

    def stored(self) -> tuple[int, frozenset[str]]:
        """Return what tells whether anything was written."""
        return self.log._last, frozenset(self.blobs.stored)

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        """Call an endpoint below the account's workers, or by its whole path."""
        url = path if path.startswith(("/client", "/healthz")) else f"{WORKERS}/{path}"
        if body is not None:
            # As some wrangler calls do: JSON, said to be text.
            more["content"] = json.dumps(body).encode()
            more["headers"] = {
                "content-type": "text/plain;charset=UTF-8",
                **more.get("headers", {}),
            }
        return await self.client.request(method, url, **more)

    async def ok(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """Call an endpoint that must succeed; return its result."""
        response = await self.call(method, path, body, **more)
        document = response.json()
        assert document["success"], document
        return document["result"]

    async def refused(
        self, method: str, path: str, body: Any = None, **more: Any
    ) -> tuple[int, int, str]:
        """Call an endpoint that must refuse and store nothing; return status, code and message."""
        before = self.stored()
        response = await self.call(method, path, body, **more)
        document = response.json()
        assert document["success"] is False, document
        assert response.status_code < 500, document
        assert self.stored() == before, "a refused call stored something"
        return response.status_code, document["errors"][0]["code"], document["errors"][0]["message"]

    async def deploy(self, name: str = "hello", code: str = HELLO, **metadata: Any) -> Any:
        """Deploy a module worker as wrangler does."""
        return await self.ok("PUT", f"scripts/{name}", files=form(code, **metadata))

    async def upload(self, name: str = "hello", code: str = HELLO, **metadata: Any) -> Any:
        """Make a version without deploying it."""
        files = form(code, **metadata)
        return await self.ok("POST", f"scripts/{name}/versions", files=files)


Files = Sequence[tuple[str, tuple[str | None, bytes, str | None]]]


def form(code: str = HELLO, **metadata: Any) -> Files:
    """Return an upload form: metadata and one module."""
    described = {"main_module": "index.js", "compatibility_date": "2026-01-01", **metadata}
    return parts(described, {"index.js": (code.encode(), "application/javascript+module")})


def parts(metadata: Mapping[str, Any], files: Mapping[str, tuple[bytes, str]]) -> Files:
    """Return an upload form of metadata and any files."""
    described = ("metadata", (None, json.dumps(metadata).encode(), None))
    modules = [(name, (name, data, kind)) for name, (data, kind) in files.items()]
    return [described, *modules]


@contextlib.asynccontextmanager
async def world_at(folder: Path, limits: Limits = QUICK) -> AsyncIterator[World]:
    """Return a world that has been started."""
    world = World(folder, limits)
    async with world.client:
        await world.start()
        yield world


def errors_in(world: World) -> Iterator[str]:
    """Yield what the journal holds of unexpected failures."""
    for line in world.journal.getvalue().splitlines():
        if '"error"' in line or "Traceback" in line:
            yield line
