"""The machine's egress cell: started through the keeper, watched, and asked what it has counted.

Promises: its sockets are the keeper's, so that what cells ask waits while it is down and nothing
ever goes another way; a process of a crashed agent is adopted; one that does not answer is
killed and replaced. The key of cells' tokens is made anew only when no cell of the machine runs,
for those that run hold tokens of the last one.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import anyio
import msgspec
import structlog

from kythera.ground.addresses import own_addresses
from kythera.ground.chance import SystemChance
from kythera.ground.files import write_private
from kythera.ground.layout import Layout
from kythera.ground.sockets import parse_address
from kythera.model.errors import KytheraError
from kythera.model.platform import Platform
from kythera.node.engines import Engine, EngineOrder
from kythera.node.keeper_client import Exited, KeeperClient
from kythera.node.status import MachineFacts
from kythera.run.egress import COUNTERS, DOOR, EgressSettings, egress_config
from kythera.run.egress_counts import Counts, added
from kythera.run.outbound import EgressDoor
from kythera.run.sandbox import NAMES_AND_AUTHORITIES, Confined, ShutIn, confine
from kythera.run.tls_reasons import TlsReasons
from kythera.run.workerd import ca_available, workerd_argv

NAME = "egress"
AUTHORITIES = "SSL_CERT_FILE"
SIGTERM, SIGKILL = 15, 9
STOP_ORDER = 2
"""After the cells, which may still have something to send."""
ADDRESSES_S = 10.0
"""Between two looks at this machine's own addresses."""
ANSWER_BYTES_MAX = 64 * 1024 * 1024
REASONS_WAITING_MAX = 64
"""More failures of TLS than that at a time are told without their reason."""


def egress_door(layout: Layout, platform: Platform, held: Iterable[str]) -> EgressDoor:
    """Return what cells are given; `held` are the names of the keeper's processes."""
    running = any(name == NAME or name.startswith("cell/") for name in held)
    path = layout.egress_key
    if not running or not path.exists():
        path.unlink(missing_ok=True)
        write_private(path, SystemChance().token().encode())
    return EgressDoor(layout.egress_socket, path.read_text(encoding="ascii"), platform.limits)


def files_read() -> list[str]:
    """Return what an egress cell reads of this host, where it is there."""
    own = os.environ.get(AUTHORITIES)
    return [*NAMES_AND_AUTHORITIES, *([own] if own else [])]


def _marks() -> list[tuple[int, int]]:
    """Return what changes when one of these files is written or another is put in its place."""
    found = []
    for name in files_read():
        with suppress(OSError):
            about = Path(name).stat()
            found.append((about.st_ino, about.st_mtime_ns))
    return found


def _request(told: bytes) -> bytes:
    method = "POST" if told else "GET"
    head = f"{method} / HTTP/1.1\r\nHost: egress\r\nContent-Length: {len(told)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + told


class EgressCell:
    """Keeps the one egress cell of this machine alive."""

    def __init__(
        self,
        layout: Layout,
        platform: Platform,
        keeper: KeeperClient,
        facts: MachineFacts,
        workerd: Path,
    ) -> None:
        self.door = egress_door(layout, platform, keeper.processes)
        """What cells are given."""
        self.started: Callable[[str], None] = lambda _: None
        """Told its name when it was started (its output wants reading)."""
        self._layout = layout
        self._platform = platform
        self._keeper = keeper
        self._facts = facts
        self._workerd = workerd
        self._engine = Engine(NAME, keeper, self._prepare, self._tell)
        self._own = own_addresses()
        self._files = _marks()
        self._past = Counts()
        self._last = Counts()
        self._begun = 0.0
        self._restarts = 0
        self._heard_at = 0.0
        self._reasons = TlsReasons()
        self._to_tell, self._told = anyio.create_memory_object_stream[tuple[str, str]](
            REASONS_WAITING_MAX
        )
        self._journal = structlog.get_logger("egress")

    def _tell(self, name: str) -> None:
        self.started(name)

    def note(self, event: Exited) -> None:
        """Take the keeper's word that a process has ended."""
        self._engine.note(event)

    def hear(self, name: str, line: str) -> None:
        """Take what an engine printed: why TLS failed, the egress cell cannot read of itself."""
        found = self._reasons.take(line) if name == NAME else None
        if found is not None:
            with suppress(anyio.WouldBlock):
                self._to_tell.send_nowait(found)

    async def open(self) -> None:
        """Have its sockets; before a cell starts, which is shown the one it may use."""
        await self._keeper.listen(f"{NAME}/{DOOR}", self._layout.egress_socket)
        # Cells have users of their own; who is not one of ours does not get past the folder above.
        await anyio.Path(self._layout.egress_socket).chmod(0o666)
        await self._keeper.listen(f"{NAME}/{COUNTERS}", self._layout.egress_counters)

    async def run(self) -> None:
        """Keep it alive, for ever."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._engine.run)
            tasks.start_soon(self._watch)
            tasks.start_soon(self._tell_reasons)
            tasks.start_soon(self._watch_addresses)

    async def _prepare(self) -> EngineOrder:
        platform = self._platform
        doors = [parse_address(door)[1] for door in (platform.http, platform.https) if door]
        config = egress_config(
            EgressSettings(
                key=self.door.key,
                allow=platform.egress_allow,
                own=self._own,
                door_ports=tuple(doors),
                ca_available=ca_available(),
                limits=platform.limits,
            )
        )
        sockets = {name: f"{{socket:{NAME}/{name}}}" for name in (DOOR, COUNTERS)}
        shut_in = self._shut_in(workerd_argv(sockets, "{control}"))
        environment = {"TZ": "UTC", "LANG": "C.UTF-8"}
        if AUTHORITIES in os.environ:
            environment[AUTHORITIES] = os.environ[AUTHORITIES]
        return EngineOrder(
            shut_in.argv,
            environment,
            SIGTERM,
            STOP_ORDER,
            batch=True,
            stdin=config,
            control=True,
            uid=shut_in.uid,
            stage=shut_in.stage,
            rlimits=shut_in.rlimits,
        )

    def _shut_in(self, arguments: list[str]) -> Confined:
        """Return what to spawn: in a sandbox that has the host's network and hardly a file."""
        seen = [Path(name) for name in files_read() if Path(name).is_file()]
        cell = ShutIn(
            program=self._workerd,
            arguments=arguments,
            account=NAME,
            memory_mib=0,
            folders={file: file.resolve() for file in seen},
            outward=True,
        )
        return confine(cell, self._platform.isolation, self._platform.limits)

    async def _watch(self) -> None:
        """Ask what it has counted, for ever; replace one that does not answer."""
        limits = self._platform.limits
        self._heard_at = anyio.current_time()
        while True:
            await self._look()
            silent_s = anyio.current_time() - self._heard_at
            if silent_s * 1000 > limits.egress_silent_ms_max and NAME in self._keeper.processes:
                self._journal.error("egress_hangs", silent_s=round(silent_s, 1))
                await self._replace()
            await anyio.sleep(limits.egress_look_ms / 1000)

    async def _replace(self) -> None:
        self._heard_at = anyio.current_time()
        await self._keeper.signal(NAME, SIGKILL)

    async def _look(self) -> None:
        held = self._keeper.processes.get(NAME)
        if held is None:
            self._show("down", self._last)
            return
        if held.started != self._begun:  # not its pid: bubblewrap's comes first, then its own
            self._restarts += self._begun != 0.0
            self._past, self._last = added(self._past, self._last), Counts()
            self._begun, self._heard_at = held.started, anyio.current_time()
        found = await self._ask()
        if found is None:
            self._show("silent", self._last)
            return
        self._heard_at = anyio.current_time()
        self._last = found
        self._show("up", found)

    def _show(self, state: str, now: Counts) -> None:
        shown = added(self._past, now)
        shown.state, shown.restarts = state, self._restarts
        self._facts.egress = shown

    async def _tell_reasons(self) -> None:
        """Tell it what it printed, for ever."""
        async for reference, why in self._told:
            await self._ask(msgspec.json.encode({"reference": reference, "why": why}))

    async def _ask(self, told: bytes = b"") -> Counts | None:
        """Return what it has counted, having told it something; None when it does not answer."""
        received = bytearray()
        try:
            with anyio.fail_after(self._platform.limits.egress_silent_ms_max / 2000):
                async with await anyio.connect_unix(self._layout.egress_counters) as stream:
                    await stream.send(_request(told))
                    async for chunk in stream:
                        received += chunk
                        if len(received) > ANSWER_BYTES_MAX:
                            return None
            head, _, body = bytes(received).partition(b"\r\n\r\n")
            return msgspec.json.decode(body, type=Counts) if b" 200 " in head[:20] else None
        except (OSError, TimeoutError, anyio.BrokenResourceError, msgspec.MsgspecError):
            return None

    async def _watch_addresses(self) -> None:
        """Start it anew when this machine's own addresses have changed, or the files that it reads
        (its sandbox shows it those of its start); for ever."""
        while True:
            await anyio.sleep(ADDRESSES_S)
            own, files = own_addresses(), _marks()
            if (own, files) != (self._own, self._files):
                self._journal.info("surroundings_changed", addresses=len(own))
                self._own, self._files = own, files
                try:
                    await self._replace()
                except KytheraError as error:
                    self._journal.warning("egress_not_replaced", error=str(error))
