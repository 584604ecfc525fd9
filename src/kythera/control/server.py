"""The control API as a process: `python -m kythera.control.server --state DIR`.

Started by the keeper it takes its sockets over by systemd's convention (LISTEN_FDS, names `api`,
`tail` and `peers`); started by hand it listens on the platform's addresses itself. It answers at once:
while the agent has not made the copy yet, or the log is away, calls say so. On SIGTERM it stops
listening, finishes what it can within `stop_ms`, and ends.
"""

import argparse
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, MutableMapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import anyio
import uvicorn
from starlette.types import ASGIApp

import kythera.distribute.nats_alone  # noqa: F401
from kythera.control.app import build_app, build_events_app, build_peers_app
from kythera.control.asset_index import AssetIndex
from kythera.control.audit import Trail
from kythera.control.belonging import keep_belonging
from kythera.control.bucket_door import StoreDoor
from kythera.control.copies import LateCopy
from kythera.control.cron import CronLoop
from kythera.control.fleet import Fleet
from kythera.control.fleet_status import keep_looking
from kythera.control.incidents import keep_telling
from kythera.control.key_rotation import keep_keys, sealing_key
from kythera.control.kv_store import STORE as KV
from kythera.control.kv_store import kv_store
from kythera.control.restored import take_back
from kythera.control.services import OpenSecret, ReadBlob, Services, Tried
from kythera.control.store import Store, put
from kythera.control.store_calls import SocketStores
from kythera.control.tail_hub import TailHub
from kythera.control.tails import keep_sweeping
from kythera.control.unmasked import LenientWebSockets
from kythera.control.wrong_tokens import WrongTokens
from kythera.deploy.keyring import Keyring
from kythera.deploy.source_map import map_stack, source_maps
from kythera.distribute import membership
from kythera.distribute.authority import found
from kythera.distribute.blobs import Blobs
from kythera.distribute.core_finder import CoreFinder, mesh_secure
from kythera.distribute.fetch import fetcher_of
from kythera.distribute.fold import Fold
from kythera.distribute.jetstream import open_log
from kythera.distribute.mesh import MeshClient
from kythera.distribute.relay import Relay
from kythera.distribute.served import Served
from kythera.ground.chance import SystemChance
from kythera.ground.clock import SystemClock
from kythera.ground.journal import Journal, configure
from kythera.ground.key_files import key_files
from kythera.ground.layout import Layout
from kythera.ground.passes import store_key
from kythera.ground.shared_secrets import read_shared
from kythera.ground.sockets import listen_tcp, listen_unix
from kythera.model.catalog import Catalog
from kythera.model.errors import Conflict, KytheraError, StoreUnavailable
from kythera.model.platform import Platform
from kythera.model.records import Account, Deployment, Version
from kythera.run.pinned import workerd_in_use
from kythera.run.trial import TrialSettings, try_version

FIRST_DESCRIPTOR = 3
NAMES = ("api", "tail", "peers")
KEEP_ALIVE_S = 30
MESSAGE_BYTES_MAX = 64 * 1024
"""Of what a tail's client sends us: it has nothing long to say."""
BOOTSTRAP_RETRY_MS = 200
ASSET_INDEX = "asset-hashes"


def inherited(environment: MutableMapping[str, str]) -> dict[str, socket.socket]:
    """Take over the sockets that were passed to this process, by name."""
    count = environment.pop("LISTEN_FDS", "")
    owner = environment.pop("LISTEN_PID", str(os.getpid()))
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if not count.isdigit() or owner != str(os.getpid()):
        return {}
    found = {}
    for name, descriptor in zip(
        names, range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count)), strict=False
    ):
        sock = socket.socket(fileno=descriptor)
        sock.set_inheritable(False)
        sock.setblocking(False)
        found[name] = sock
    return found


def sockets_of(layout: Layout, platform: Platform) -> dict[str, socket.socket]:
    """Return the listening sockets: those passed, and the rest made here."""
    found = inherited(os.environ)
    if "api" not in found:
        found["api"] = listen_tcp(platform.api, option="--api")
    for name, path in (("tail", layout.tail_socket), ("peers", layout.mesh_socket)):
        if name not in found:
            layout.run.mkdir(parents=True, exist_ok=True, mode=0o700)
            found[name] = listen_unix(path)
    # asyncio sets it only where the socket says it is TCP, which a passed one does not; without it
    # every answer of two pieces waits 40 ms for the client's acknowledgement.
    if found["api"].family != socket.AF_UNIX:
        found["api"].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return {name: found[name] for name in NAMES}


def _home_of_bucket(store: Store, platform: Platform, bucket: str) -> str:
    """Return which other machine keeps a bucket; empty: this one."""
    found = store.catalog().resource(platform.account_id, "r2_bucket", bucket)
    home = "" if found is None else str(found.fields.get("machine", ""))
    return "" if home == platform.machine else home


@asynccontextmanager
async def real_services(layout: Layout) -> AsyncIterator[Services]:
    """Return what the API is given in real life."""
    platform = layout.read_platform()
    limits = platform.limits
    clock, chance = SystemClock(), SystemChance()
    found(layout, platform.machine, clock, limits.certificate_life_s)
    shared = read_shared(layout)
    assert shared is not None, "the keeper made it"
    blobs = Blobs(layout.blobs)
    async with AsyncExitStack() as stack:
        copy = stack.enter_context(LateCopy(layout.copy))
        finder = CoreFinder(layout, platform.machine, _catalog_of(copy))
        opening = open_log(finder, limits, within_ms=0, secure=mesh_secure(layout))
        log = await stack.enter_async_context(opening)
        served = stack.enter_context(Served(layout.served, readonly=True))

        async def live(deployment: Deployment) -> bool:
            about = (deployment.account, deployment.worker, deployment.id)
            return await served.wait(*about, within_ms=limits.served_ms)

        journal = Journal("api", json_lines=not sys.stderr.isatty())
        store = Store(
            log, copy, limits, live, trail=Trail(platform.machine, log, limits, clock, journal)
        )
        keyring = Keyring(key_files(layout, platform), partial(sealing_key, store))
        mesh = await stack.enter_async_context(MeshClient(layout, limits))
        carrier = fetcher_of(blobs, mesh, store.catalog, platform.machine, limits)
        layout.data.mkdir(mode=0o700, exist_ok=True)
        kv = kv_store(
            platform.account_id,
            partial(store_key, layout.store_key),
            layout.store_socket(KV),
            limits,
        )
        stack.push_async_callback(kv.aclose)
        yield Services(
            platform=platform,
            token=layout.token.read_text().strip(),
            store=store,
            blobs=blobs,
            seals=keyring,
            session_key=bytes.fromhex(shared.uploads_key),
            try_version=partial(_try, layout, platform),
            asset_index=AssetIndex(layout.state / ASSET_INDEX, blobs),
            tails=TailHub(limits, clock, chance),
            clock=clock,
            chance=chance,
            journal=journal,
            fleet=Fleet(
                mesh=mesh,
                layout=layout,
                status_socket=layout.status_socket,
                joined=_joined(layout),
            ),
            carrier=await stack.enter_async_context(carrier),
            relay=Relay(copy, limits),
            wrong_tokens=WrongTokens(limits),
            stores=SocketStores(layout),
            keyring=keyring,
            kept_blobs=(Blobs(layout.kv_blobs),),
            kv=kv,
            buckets=StoreDoor(
                layout,
                platform.account_id,
                limits.r2_silent_ms_max,
                partial(_home_of_bucket, store, platform),
            ),
        )


def _catalog_of(copy: LateCopy) -> Callable[[], Catalog]:
    """Return what reads the records for those who look for the log."""
    catalog = Catalog()
    fold = Fold(copy, catalog)

    def read() -> Catalog:
        fold.take()
        return catalog

    return read


def _joined(layout: Layout) -> bool:
    """Tell whether this machine came into a fleet that others began."""
    known = membership.read(layout)
    return known is not None and not known.founder


async def _try(
    layout: Layout,
    platform: Platform,
    version: Version,
    read_blob: ReadBlob,
    open_secret: OpenSecret,
) -> Tried:
    """Start the version in a process of its own; its errors point into the sources."""

    def mapped(stack: str) -> str:
        return map_stack(stack, source_maps(version, read_blob))

    return await try_version(
        version,
        read_blob=read_blob,
        open_secret=open_secret,
        settings=TrialSettings(
            workerd=workerd_in_use(layout),
            limits=platform.limits,
            isolation=platform.isolation,
            map_stack=mapped,
        ),
    )


class QuietServer(uvicorn.Server):
    """uvicorn without its own signal handlers: two of them share this process."""

    @contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # noqa: ANN201
        """Leave signals to whoever runs both servers."""
        yield


def server_for(app: ASGIApp, platform: Platform) -> QuietServer:
    """Return a server whose limits are ours."""
    return QuietServer(
        uvicorn.Config(
            app,
            http="h11",
            ws=LenientWebSockets,
            ws_max_size=MESSAGE_BYTES_MAX,
            ws_ping_interval=20,
            ws_ping_timeout=20,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, platform.limits.stop_ms // 2000),
            h11_max_incomplete_event_size=64 * 1024,
        )
    )


async def ensure_account(services: Services) -> None:
    """Write the platform's account, once, as soon as records can be written."""
    platform = services.platform
    account = Account(
        id=platform.account_id,
        name="Kythera",
        subdomain=platform.domain.split(".")[0] or "kythera",
    )
    while True:
        try:
            await services.store.usable()
            if all(found.id != account.id for found in services.store.catalog().accounts()):
                await services.store.write([put(account)])
            return
        except Conflict:
            return
        except StoreUnavailable:
            await anyio.sleep(BOOTSTRAP_RETRY_MS / 1000)


async def bootstrap(layout: Layout, services: Services) -> None:
    """Write what a platform needs from its first start on."""
    await take_back(layout, services)
    await ensure_account(services)


async def serve(layout: Layout, announce: Callable[[], None] = lambda: None) -> None:
    """Serve until a signal says stop."""
    async with real_services(layout) as services:
        sockets = sockets_of(layout, services.platform)
        apps = {
            "api": build_app(services),
            "tail": build_events_app(services),
            "peers": build_peers_app(services),
        }
        servers = {name: server_for(app, services.platform) for name, app in apps.items()}
        async with anyio.create_task_group() as background:
            background.start_soon(bootstrap, layout, services)
            background.start_soon(keep_sweeping, services)
            background.start_soon(keep_telling, services)
            background.start_soon(CronLoop(services).run)
            background.start_soon(keep_looking, services)
            background.start_soon(keep_belonging, services)
            if services.store.trail is not None:
                background.start_soon(services.store.trail.keep, services.store)
            background.start_soon(keep_keys, services)
            fleet = services.fleet
            background.start_soon(
                fleet.relay.run, fleet.mesh, services.platform.limits, services.journal
            )
            async with anyio.create_task_group() as serving:
                serving.start_soon(
                    _stop_on_signal, list(servers.values()), serving.cancel_scope, services.relay
                )
                async with anyio.create_task_group() as both:
                    for name, server in servers.items():
                        both.start_soon(partial(server.serve, sockets=[sockets[name]]))
                    services.journal.say("api_serving", api=services.platform.api, pid=os.getpid())
                    announce()
                serving.cancel_scope.cancel()
            background.cancel_scope.cancel()
        services.journal.say("api_stopped")


async def _stop_on_signal(
    servers: Sequence[QuietServer], scope: anyio.CancelScope, relay: Relay | None
) -> None:
    """First signal: stop in good order. Second: at once."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            if all(server.should_exit for server in servers):
                scope.cancel()
            if relay is not None:
                relay.close()  # its followers go elsewhere; they would hold the stop up
            for server in servers:
                server.should_exit = True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the API until it is told to stop; return an exit code."""
    parser = argparse.ArgumentParser(prog="kythera.control.server")
    parser.add_argument("--state", type=Path, required=True)
    options = parser.parse_args(arguments)
    configure("api")
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # we say it ourselves
    try:
        anyio.run(serve, Layout(options.state))
    except KytheraError as error:
        Journal("api", json_lines=not sys.stderr.isatty()).say(
            "api_cannot_start", level="error", reason=str(error)
        )
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
