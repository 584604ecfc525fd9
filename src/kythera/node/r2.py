"""R2 on this machine: its store and its engine, started by the first request, and watched; or its store
alone, where the objects are kept by another endpoint (`node.r2_elsewhere`).

Promises: a machine whose workers have no bucket runs neither; the store's socket is the keeper's, so
that what is asked while either starts, or is started again, waits; processes of a crashed agent are
adopted; a store that does not answer for `r2_silent_ms_max` is killed and replaced, and so is an engine that
writes nothing any more, for its disk was full (`store.r2_health`).
"""

import os
import sys

import anyio
import structlog

from kythera.ground.chance import SystemChance
from kythera.model.catalog import Catalog
from kythera.model.errors import KytheraError, SetupError
from kythera.node.engines import Engine, EngineOrder
from kythera.node.keeper_client import Exited
from kythera.node.store_use import StoreUse
from kythera.node.workerd_store import StoreHost
from kythera.store import r2_buckets
from kythera.store.r2_engine import EngineFiles, command, program

NAME = "r2"
SOCKET = f"store/{NAME}"
S3 = "s3"
"""The keeper's name of the door for clients outside."""
STORE, ENGINE = "store/r2", "r2-engine"
"""Names of the two processes."""
SIGKILL = 9
STORE_STOPS, ENGINE_STOPS = 2, 3
"""After the cells; the engine after the store."""
ASK = b"GET /healthz HTTP/1.1\r\nHost: r2\r\nConnection: close\r\n\r\n"
AILS, ENDED = b"HTTP/1.1 503 ", b"ended"
"""What says that the engine has to be started anew; that the store has just ended."""
KEPT = ("PATH", "LANG", "TMPDIR", "PYTHONPATH", "SSL_CERT_FILE", "SSL_CERT_DIR")
LOOK_S = 2.0


class R2:
    """Keeps both alive while they are of use."""

    name = NAME

    def __init__(self, host: StoreHost) -> None:
        self._layout = host.layout
        self._platform = host.platform
        self._keeper = host.keeper
        self._files = EngineFiles(host.layout)
        self._tell = host.tell
        self._asked = anyio.Event()
        self._store = Engine(STORE, host.keeper, self._prepare_store, host.started)
        self._engine = Engine(ENGINE, host.keeper, self._prepare_engine, host.started)
        self._journal = structlog.get_logger("r2")

    def note(self, event: Exited) -> None:
        """Take the keeper's word that a process has ended."""
        self._store.note(event)
        self._engine.note(event)

    def records_changed(self, catalog: Catalog) -> None:
        """Tell the store which buckets there are."""
        me = self._platform.machine
        found = {
            bucket.name: bucket.created_on
            for bucket in catalog.resources(self._platform.account_id, "r2_bucket")
            # One that another machine keeps is none here: it would be a second one of that name.
            if bucket.fields.get("machine", me) == me
        }
        if found or self._files.buckets.exists():
            self._files.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            r2_buckets.tell(self._files.buckets, found)

    async def run(self) -> None:
        """Start both when somebody asks, and keep them alive, for ever."""
        if {STORE, ENGINE} & self._keeper.processes.keys():
            self._asked.set()
        async with anyio.create_task_group() as tasks:
            if not self._platform.r2_endpoint:
                tasks.start_soon(self._engine.run)
            tasks.start_soon(self._store.run)
            tasks.start_soon(self._watch)
            if not self._asked.is_set():
                for name in (SOCKET, *([S3] if self._platform.s3 else [])):
                    tasks.start_soon(self._hear, name)

    async def _hear(self, socket: str) -> None:
        """Start both when somebody asks at a socket."""
        await anyio.wait_readable(self._keeper.sockets[socket])
        self._asked.set()

    async def _prepare_engine(self) -> EngineOrder:
        await self._asked.wait()
        bubblewrap = self._platform.isolation.bubblewrap
        if not bubblewrap:
            raise SetupError(
                "R2's engine runs in a network of its own alone, and there is no bubblewrap here.",
                remedy="Install it (apt-get install bubblewrap), then start the platform again.",
            )
        self._files.prepare(SystemChance())
        argv = command(self._files, bubblewrap, program())
        return EngineOrder(argv, {}, stop_order=ENGINE_STOPS)

    async def _prepare_store(self) -> EngineOrder:
        await self._asked.wait()
        self._files.prepare_keys(SystemChance())
        argv = [sys.executable, "-m", "kythera.store.r2_server"]
        argv += ["--state", str(self._layout.state.absolute())]
        argv += ["--listen-fd", f"{{socket:{SOCKET}}}"]
        argv += ["--s3-fd", f"{{socket:{S3}}}"] if self._platform.s3 else []
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        return EngineOrder(argv, {**environment, "TZ": "UTC"}, stop_order=STORE_STOPS)

    async def _watch(self) -> None:
        """Replace a store that does not answer, for ever."""
        since: tuple[int, float] = (0, 0.0)
        use = StoreUse(NAME, self._layout, self._platform.limits.r2_silent_ms_max, self._tell)
        while True:
            await anyio.sleep(LOOK_S)
            held = self._keeper.processes.get(STORE)
            if held is None:
                use.show("down")
                continue
            now = anyio.current_time()
            said = await self._asked_store()
            if AILS in said:
                self._journal.error("r2_engine_writes_nothing", remedy="It is started anew.")
                self._engine.replacing = True
                await self._replace(ENGINE)
            if held.pid != since[0] or said:
                if held.pid == since[0]:
                    await use.heard(held.pid)
                since = (held.pid, now)
            elif (now - since[1]) * 1000 > self._platform.limits.r2_start_ms:
                self._journal.error("r2_hangs", pid=held.pid)
                await self._replace(STORE)

    async def _replace(self, process: str) -> None:
        try:
            await self._keeper.signal(process, SIGKILL)
        except KytheraError as error:
            self._journal.warning("r2_not_replaced", error=str(error))

    async def _asked_store(self) -> bytes:
        """Return how the store's answer begins; empty: it does not answer."""
        with anyio.move_on_after(self._platform.limits.r2_silent_ms_max / 1000):
            try:
                path = self._layout.store_socket(NAME)
                async with await anyio.connect_unix(path) as stream:
                    await stream.send(ASK)
                    return await stream.receive()
            except (OSError, anyio.EndOfStream, anyio.BrokenResourceError):
                return ENDED  # the keeper says so
        return b""
