"""`python -m bench.records_host CONFIG.json`: one process of the records bench.

Either a site's relay (follows the log into its copy, serves the copy over HTTP on a unix socket),
or a host of many followers, each with a copy of its own on the disk. It says `ready` when all are
whole, and ends when its standard input does; a host of followers waits before that for the sequence
it was told there, and prints what each one saw.
"""

import logging
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import anyio
import httpx
import msgspec
import structlog
import uvicorn
from anyio import to_thread
from msgspec import Struct
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control.peers_records import answer
from kythera.distribute.address import LogAddress
from kythera.distribute.copy import Copy
from kythera.distribute.direct import DirectLog, Followed
from kythera.distribute.follower import Follower
from kythera.distribute.jetstream import open_log
from kythera.distribute.log import Entry
from kythera.distribute.relay import PATH, Relay, RelayLog
from kythera.distribute.sources import Facts, Source
from kythera.ground.clock import SystemClock
from kythera.model.errors import StoreUnavailable
from kythera.model.limits import Limits
from kythera.model.records import Machine

STAMP_DIGITS = 20
WRITTEN = "bench."
"""Keys of the records whose lag is measured; none is written twice, so that a gap shows."""
POLL_S = 0.02


class Config(Struct, kw_only=True):
    """What a host is to do. `names` are its machines'; `site` is all of the site's."""

    folder: str
    site: list[str]
    names: list[str]
    relay: str
    socket: str
    log: LogAddress | None = None
    """Only the relay is given it."""


class Seen(Struct, kw_only=True):
    """What one follower saw of the measured records."""

    name: str
    lags_ms: list[float]
    seqs: list[int]
    digest: str
    left_relay: int
    """How often one of its process left its relay because nothing came from it."""
    seconds: float
    """From the start until the copy was whole."""


def stamp() -> bytes:
    """Return now, as it begins a record's value: this host's monotonic clock in nanoseconds."""
    return str(time.monotonic_ns()).zfill(STAMP_DIGITS).encode()


def digest(copy: Copy) -> str:
    """Return a digest of a copy's measured records with their numbers."""
    made = blake2b(digest_size=16)
    for entry in copy.entries():
        if entry.key.startswith(WRITTEN):
            made.update(msgspec.msgpack.encode(entry))
    return made.hexdigest()


class NotedCopy(Copy):
    """A copy that notes when each measured record was durable in it."""

    def __init__(self, path: Path) -> None:
        self.lags_ns: list[int] = []
        self.seqs: list[int] = []
        super().__init__(path)

    def apply(self, entries: Sequence[Entry], to_seq: int = 0) -> list[Entry]:
        """Apply, then note."""
        fresh = super().apply(entries, to_seq)
        now = time.monotonic_ns()
        for entry in fresh:
            if entry.key.startswith(WRITTEN):
                self.seqs.append(entry.seq)
                self.lags_ns.append(now - int((entry.value or b"0")[:STAMP_DIGITS]))
        return fresh


class UnixCaller:
    """Asks relays on their unix sockets; in place of the mesh's TLS."""

    def __init__(self, socket: str) -> None:
        transport = httpx.AsyncHTTPTransport(uds=socket, limits=httpx.Limits(max_connections=None))
        self.client = httpx.AsyncClient(transport=transport, timeout=10.0)

    @asynccontextmanager
    async def stream(
        self, peer: str, recorded: str, method: str, path: str, **more: Any
    ) -> AsyncIterator[httpx.Response]:
        """Ask the relay, whatever its name."""
        async with self.client.stream(method, f"http://relay{path}") as response:
            yield response


def facts(config: Config, name: str) -> Facts:
    """Return what a machine knows: all of its site, and that the core is elsewhere."""
    machines = tuple(Machine(name=other, site="s") for other in config.site)
    return Facts(me=Machine(name=name, site="s"), machines=machines, core=frozenset({"core"}))


async def run_relay(config: Config) -> None:
    """Follow the log and serve the copy."""
    assert config.log is not None
    limits = Limits()
    with NotedCopy(Path(config.folder) / config.relay) as copy:
        relay = Relay(copy, limits)

        async def records(request: Request) -> Response:
            return answer(relay, request)

        app = Starlette(routes=[Route(PATH, records)])
        settings = uvicorn.Config(
            app, uds=config.socket, http="h11", lifespan="off", log_config=None, access_log=False
        )
        async with (
            open_log(config.log, limits, within_ms=0) as log,
            anyio.create_task_group() as tasks,
        ):
            direct = DirectLog(log)
            about = partial(facts, config, config.relay)
            follower = Follower(copy, about, lambda _: direct, limits, SystemClock())
            tasks.start_soon(follower.run, lambda _: None)
            tasks.start_soon(uvicorn.Server(settings).serve)
            await whole([follower])
            await until_told()
            tasks.cancel_scope.cancel()


async def run_followers(config: Config) -> None:
    """Run all followers of this process; print what they saw."""
    limits = Limits()
    caller = UnixCaller(config.socket)
    copies: dict[str, NotedCopy] = {}
    followers: dict[str, Follower] = {}
    left = [0]

    def opened(source: Source) -> Followed:
        if not source.relay:
            left[0] += 1
            raise StoreUnavailable("the log is out of reach here: this bench is about relays")
        return RelayLog(caller, source.relay, "", limits)

    with ExitStack() as stack:
        for name in config.names:
            copies[name] = stack.enter_context(NotedCopy(Path(config.folder) / name))
            about = partial(facts, config, name)
            followers[name] = Follower(copies[name], about, opened, limits, SystemClock())
        began = time.monotonic()
        async with anyio.create_task_group() as tasks:
            for follower in followers.values():
                tasks.start_soon(follower.run, lambda _: None)
            await whole(list(followers.values()))
            seconds = time.monotonic() - began
            target = int(await until_told())
            while any(copy.applied_seq() < target for copy in copies.values()):
                await anyio.sleep(POLL_S)
            tasks.cancel_scope.cancel()
        for name, copy in copies.items():
            seen = Seen(
                name=name,
                lags_ms=[lag / 1e6 for lag in copy.lags_ns],
                seqs=copy.seqs,
                digest=digest(copy),
                left_relay=left[0],
                seconds=seconds,
            )
            print(msgspec.json.encode(seen).decode(), flush=True)
    await caller.client.aclose()


async def whole(followers: list[Follower]) -> None:
    """Wait until all copies are whole, and say so."""
    while not all(follower.state.whole for follower in followers):
        await anyio.sleep(POLL_S)
    print("ready", flush=True)


async def until_told() -> str:
    """Wait until standard input ends; return what it said: a sequence to wait for."""
    return await to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True) or "0"


def main() -> None:
    """Read the settings and run."""
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
    )
    config = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Config)
    anyio.run(run_relay if config.log is not None else run_followers, config)


if __name__ == "__main__":
    main()
