"""The front door's driver: makes HAProxy do what a plan says, and reads what it counts.

Order of work, so that a crash at any point heals at the next `apply`: the mark is taken away, the
files are written (a fresh HAProxy or a reload does the plan), the runtime socket is told the
difference (or the master to reload), the mark is set. Without the mark, or when HAProxy is not
the process that the mark names, the socket is not trusted and `apply` reloads.

`apply` never waits for a cell to drain: a removed cell takes no new request from then on, and is
deleted by a later `apply` or `loads`, when its last connection is gone. Old processes that drain
after a reload cannot be told of new cells; they are told once to hand what their clients still
send to the newest process.
"""

import contextlib
import hashlib
import math
import shutil
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec
from msgspec import Struct

from kythera.ground.files import write_atomically
from kythera.model.catalog import Name
from kythera.model.errors import KytheraError, SetupError
from kythera.route.changes import (
    Change,
    Reload,
    Replace,
    Retire,
    Say,
    changes,
    payloads,
    without_traffic,
)
from kythera.route.forwarding import (
    SHOW_HOMED,
    SHOW_RECEIVED,
    Forwarding,
    PeerTraffic,
    Reading,
    down_peers,
    parse_homed,
    parse_table,
    streams_among,
)
from kythera.route.loads import Load, Tally
from kythera.route.mesh import CONTROL, DATA, MeshFiles
from kythera.route.mesh_data import DATA_ENV, DATA_SOCKET, far_backend
from kythera.route.mesh_render import MESH_ENV, inner_backend, tunnel_section
from kythera.route.plan import (
    AWAY,
    DATA_SLOT,
    HOME,
    SLOT_LETTER,
    SLOTS_MIN,
    FrontPlan,
    decode_plan,
    encode_plan,
)
from kythera.route.render import CONFIG, HTTP_ENV, HTTPS_ENV, FrontOptions, render_front
from kythera.route.rules import RELAY, RELAY_MAP, RELAY_ON
from kythera.route.runtime import (
    SHOW_SERVERS,
    FrontSilent,
    ServerRow,
    ask_once,
    conversation,
    parse_info,
    parse_servers,
    processes,
)
from kythera.route.services import SERVICES_ENV, SERVICES_SOCKET

PLAN = "plan.json"
MARK = "applied.json"
RELOAD_S = 20.0
START_S = 15.0
POLL_S = 0.01
STREAMS_REST_S = 10.0
"""How long streams between machines may stay in a process that drains."""
DOWN_REST_S = 1.2
"""How long a peer must be down before requests inside it are given up; longer than HAProxy waits
before it tries another, so that none is given up that only waits."""
MEMBERS = "members"
FINE_ANSWERS = ("", "New server registered.")
HAPROXY_PLACES = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where HAProxy may be although an ordinary user's PATH does not say so."""


class FrontRefused(KytheraError):
    """HAProxy refused a command, or the configuration."""


class Mark(Struct, frozen=True, kw_only=True):
    """Says that HAProxy does what plan.json says."""

    plan: str
    """SHA-256 of plan.json."""
    pid: int | None
    """The process that was told; None: whoever starts next reads the files."""
    settings: str = ""
    """SHA-256 of what HAProxy reads beside the plan: settings, certificates of the mesh."""


@dataclass(frozen=True)
class Applied:
    """What `apply` did, for the log."""

    sentence: str
    reloaded: bool


class Front:
    """HAProxy, as one machine's agent drives it. It is started by the keeper, not here."""

    def __init__(
        self,
        directory: Path,
        runtime_socket: Path,
        master_socket: Path,
        options: FrontOptions | None = None,
    ) -> None:
        self.options = options or FrontOptions()
        self._directory = directory
        self._runtime_socket = runtime_socket
        self._master_socket = master_socket
        self._written: dict[str, bytes] = {}
        """What the files held when we wrote them, so that equal ones are left alone."""
        self._plan: FrontPlan | None = None
        self._tally = Tally()
        self._forwarding = Forwarding()
        self._diverted: dict[int, float] = {}
        """Processes that drain, and when they were first seen to."""
        self._cut: set[int] = set()
        self._down: dict[str, float] = {}
        """Peers that are down, and when they were first seen to be; inf: given up."""
        self._rows: dict[int, list[ServerRow]] = {}
        self._one_at_a_time = anyio.Lock()

    def argv(self) -> list[str]:
        """Return the command line; raises SetupError when HAProxy is not installed."""
        name = self.options.haproxy
        program = shutil.which(name) or shutil.which(name, path=HAPROXY_PLACES)
        if program is None:
            raise SetupError(
                f"there is no {name} on this machine.",
                remedy="Install it, for example: sudo apt-get install haproxy",
            )
        master = f"{self._master_socket},mode,600"
        return [program, "-W", "-S", master, "-C", str(self._directory), "-f", CONFIG]

    def env(self) -> dict[str, str]:
        """Return the environment; the keeper replaces `{socket:NAME}` by a descriptor."""
        doors = {HTTP_ENV: "{socket:http}"}
        if self.options.tls_certificates:
            doors[HTTPS_ENV] = "{socket:https}"
        if self.options.services:
            doors[SERVICES_ENV] = f"{{socket:{SERVICES_SOCKET}}}"
        if self.options.mesh is not None:
            doors[MESH_ENV] = "{socket:mesh}"
            if self.options.mesh.pass_key:
                doors[DATA_ENV] = f"{{socket:{DATA_SOCKET}}}"
        return doors

    def saved_plan(self) -> FrontPlan | None:
        """Return the plan of the last `prepare` or `apply`, or None."""
        if self._plan is None:
            with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
                self._plan = decode_plan((self._directory / PLAN).read_bytes())
        return self._plan

    def prepare(self, plan: FrontPlan) -> None:
        """Write all files, before HAProxy is started: it comes up doing the plan.

        Raises SetupError when a socket's path holds a `$`: HAProxy would read a variable there."""
        for path in (self._runtime_socket, self._master_socket):
            if "$" in str(path):
                raise SetupError(
                    f"HAProxy cannot listen on {path}, because of the `$`.",
                    remedy="Choose another --state folder.",
                )
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._written.clear()
        self._write_files(plan)
        self._write_mark(plan, None, self._settings())

    async def ready(self, deadline_s: float = START_S) -> int:
        """Wait until HAProxy serves; return its newest process. Raises FrontSilent."""
        with anyio.move_on_after(deadline_s):
            while True:
                # The process serves a moment before its master listens on the other socket.
                with contextlib.suppress(FrontSilent):
                    pid = await self._newest_pid()
                    if (await processes(self._master_socket)).newest == pid:
                        return pid
                await anyio.sleep(POLL_S)
        raise FrontSilent(f"HAProxy did not start within {deadline_s:g} s.")

    async def apply(self, plan: FrontPlan) -> Applied:
        """Make HAProxy do `plan`. Raises FrontSilent or FrontRefused; then call again later."""
        async with self._one_at_a_time:
            before = self.saved_plan()
            pid = await self._newest_pid()
            way: list[Change] | Reload = Reload("it is not known what HAProxy was told last")
            settings = await anyio.to_thread.run_sync(self._settings)
            mark = self._trusted(before, pid) if before is not None else None
            if mark is not None and mark.settings != settings:
                way = Reload("settings or certificates are new")
            elif mark is not None and before is not None:
                if plan == before:
                    return Applied("The front door is as planned.", reloaded=False)
                way = changes(before, plan)
            (self._directory / MARK).unlink(missing_ok=True)
            await anyio.to_thread.run_sync(self._write_files, plan)
            applied, pid = await self._go(way, pid)
            await anyio.to_thread.run_sync(self._write_mark, plan, pid, settings)
            if before is not None and (gone := before.maps[MEMBERS].keys() - plan.maps[MEMBERS]):
                await self._shut_out(gone)
        with contextlib.suppress(FrontSilent):
            await self._delete_retired(await self._servers(self._ask_newest))
        return applied

    async def _go(self, way: list[Change] | Reload, pid: int) -> tuple[Applied, int]:
        if not isinstance(way, Reload):
            try:
                await self._tell(way)
                if await self._newest_pid() == pid:
                    sentence = f"The front door took {len(way)} changes by socket."
                    return Applied(sentence, reloaded=False), pid
                way = Reload("HAProxy was restarted meanwhile")
            except (FrontRefused, FrontSilent) as error:
                way = Reload(error.message)
        pid = await self._reload(pid)
        return Applied(f"The front door was reloaded: {way.why}.", reloaded=True), pid

    async def _tell(self, way: Sequence[Change]) -> None:
        async with conversation(self._runtime_socket) as talk:
            for change in way:
                await _do(change, talk.ask)

    async def _divert(self, old: Sequence[int]) -> None:
        """Have each process that drains hand new requests to the newest one.

        Streams between machines would keep it for ever: they are cut after a while, and begin
        again in the newest."""
        now = anyio.current_time()
        for pid in set(old) - self._diverted.keys():
            with contextlib.suppress(FrontSilent):
                await self._asker(pid)(f"add map {RELAY_MAP}.map {RELAY_ON} 1")
        self._diverted = {pid: self._diverted.get(pid, now) for pid in old}
        late = {pid for pid, seen in self._diverted.items() if now - seen >= STREAMS_REST_S}
        for pid in late - self._cut:
            await self._cut_streams(pid)
        self._cut = late

    def _asker(self, pid: int) -> Callable[[str], Awaitable[str]]:
        async def ask(command: str) -> str:
            return await ask_once(self._master_socket, f"@!{pid} {command}")

        return ask

    async def certificates_changed(self) -> Applied | None:
        """Have HAProxy read this machine's certificate anew, where it has changed.

        None when no plan was ever applied. Raises as `apply` does."""
        plan = self.saved_plan()
        return await self.apply(plan) if plan is not None else None

    async def cut_tunnels(self) -> None:
        """End the standing streams between machines, in every process: who still belongs to the
        fleet begins anew at once. `apply` does so itself when a machine was removed."""
        with contextlib.suppress(FrontSilent):
            for section in self._stream_sections():
                await self._ask_newest(f"shutdown sessions server {section}")
        for pid in (await processes(self._master_socket)).old:
            await self._cut_streams(pid)

    async def _shut_out(self, gone: Iterable[str]) -> None:
        """Have machines that were removed be gone from every process, and from what they hold."""
        with contextlib.suppress(FrontSilent):
            for pid in (await processes(self._master_socket)).old:
                for name in gone:
                    await self._asker(pid)(f"del map {MEMBERS}.map {name}")
                # What an object's caller holds open asks for nothing any more.
                await self._cut_streams(pid, inner_backend(DATA))
            await self._ask_newest(f"shutdown sessions server {inner_backend(DATA)}/inner")
            await self.cut_tunnels()

    async def _cut_streams(self, old: int, *more: str) -> None:
        """End the streams of a process that drains: it does so by session only, and has the
        sections of an older plan."""
        with contextlib.suppress(FrontSilent):
            ask = self._asker(old)
            for session in streams_among(await ask("show sess"), *more):
                await ask(f"shutdown session {session}")

    def _stream_sections(self) -> list[str]:
        """Return the servers (`backend/server`) by which streams between machines stand."""
        mesh = self.options.mesh
        if mesh is None:
            return []
        tunnels = self._plan.tunnels if self._plan is not None else ()
        return [
            *(f"{inner_backend(service)}/inner" for service in (CONTROL, *mesh.streams)),
            *(f"{tunnel_section(tunnel)}/peer" for tunnel in tunnels),
        ]

    async def _give_up(self, down: set[str]) -> None:
        """End what still waits for an answer of a peer that is down: it may hang for ever, and
        HAProxy asks another where that does no harm."""
        now = anyio.current_time()
        self._down = {name: self._down.get(name, now) for name in down}
        for name, since in self._down.items():
            if now - since >= DOWN_REST_S:
                self._down[name] = math.inf
                for server in (f"{HOME}/{name}", f"{AWAY}/{name}", f"{far_backend(name)}/home"):
                    await self._ask_newest(f"shutdown sessions server {server}")

    async def _reload(self, before: int) -> int:
        """Have the master start a process on the files; return it once it serves."""
        failed = (await processes(self._master_socket)).reloads_failed
        await ask_once(self._master_socket, "reload")
        with anyio.move_on_after(RELOAD_S):
            while True:
                # The master is away for a moment while it starts itself anew.
                with contextlib.suppress(FrontSilent):
                    there = await processes(self._master_socket)
                    if there.reloads_failed > failed:
                        break
                    pid = await self._newest_pid()
                    if pid not in (before, *there.old) and pid == there.newest:
                        await self._divert(there.old)
                        return pid
                await anyio.sleep(POLL_S)
        raise FrontRefused(
            f"HAProxy did not take {self._directory / CONFIG}; it serves on as before.",
            remedy="Its messages in the log say which line.",
        )

    async def loads(self) -> dict[str, Load]:
        """Return each cell's load, over all HAProxy processes. Raises FrontSilent."""
        there = await processes(self._master_socket)
        await self._divert(there.old)
        newest = await self._servers(self._ask_newest)
        rows = {there.newest or 0: newest}
        for pid in there.old:
            # One that is just ending may not answer; it is gone from the list next time.
            rows[pid] = self._rows.get(pid, [])
            with contextlib.suppress(FrontSilent):
                rows[pid] = await self._servers(self._asker(pid))
        self._rows = rows
        await self._give_up(down_peers(newest))
        await self._delete_retired(newest)
        return self._tally.count({pid: _cells(found) for pid, found in rows.items()})

    async def at_once(self, server: str, requests: int) -> None:
        """Give a cell at most so many requests at the same time; the others wait in HAProxy. A
        reload forgets it. Raises FrontSilent."""
        plan = self.saved_plan()
        for slot, planned in plan.named_servers() if plan is not None else ():
            if planned.name == server:
                await self._ask_newest(f"set maxconn server {slot}/{server} {requests}")

    async def forwarding(self) -> dict[str, PeerTraffic]:
        """Return what goes to and comes from each peer, as of the last `loads`. Raises FrontSilent.

        A peer that is `up` is able to serve; nothing is known of one that is not named."""
        readings = {}
        for number, (pid, rows) in enumerate(self._rows.items()):
            ask = self._asker(pid) if number else self._ask_newest
            received: dict[str, int] = {}
            with contextlib.suppress(FrontSilent):
                received = parse_table(await ask(SHOW_RECEIVED))
            readings[pid] = Reading(tuple(rows), received)
        return self._forwarding.count(readings, next(iter(readings))) if readings else {}

    async def homed(self) -> dict[Name, int]:
        """Return visitors' requests of the last `rare_window_s` that were sent to the worker's
        home. Raises FrontSilent."""
        return parse_homed(await self._ask_newest(SHOW_HOMED))

    async def asks(self) -> dict[int, Callable[[str], Awaitable[str]]]:
        """Return how to ask each of HAProxy's processes, by its id. Raises FrontSilent."""
        there = await processes(self._master_socket)
        newest = {there.newest: self._ask_newest} if there.newest else {}
        return {**newest, **{pid: self._asker(pid) for pid in there.old}}

    def queue_max(self) -> int:
        """Return how long the queue of one worker may be at the most."""
        plan = self.saved_plan()
        return self.options.room(plan.slots if plan else SLOTS_MIN).queue

    def owner(self, slot: str) -> Name | None:
        """Return whose slot it is."""
        account, _, worker = (self._plan.owners if self._plan else {}).get(slot, "").partition("/")
        return (account, worker) if worker else None

    async def _servers(self, ask: Callable[[str], Awaitable[str]]) -> list[ServerRow]:
        return parse_servers(await ask(SHOW_SERVERS))

    async def _ask_newest(self, command: str) -> str:
        return await ask_once(self._runtime_socket, command)

    async def _delete_retired(self, rows: Sequence[ServerRow]) -> None:
        """Try to delete the cells that are not planned; HAProxy refuses while they are in use."""
        planned = {server.name for _, server in self._plan.named_servers()} if self._plan else set()
        ours = [*_cells(rows), *(row for row in rows if row.slot == DATA_SLOT)]
        gone = [row for row in ours if row.server not in planned and row.current == 0]
        if self._plan is not None and gone:
            async with conversation(self._runtime_socket) as talk:
                for row in gone:
                    await talk.ask(f"del server {row.slot}/{row.server}")

    async def _newest_pid(self) -> int:
        info = parse_info(await self._ask_newest("show info"))
        if "Pid" not in info:
            raise FrontSilent("HAProxy's runtime socket does not say who it is.")
        return int(info["Pid"])

    def _trusted(self, plan: FrontPlan, pid: int) -> Mark | None:
        """Return the mark, if HAProxy is known to do this plan."""
        try:
            mark = msgspec.json.decode((self._directory / MARK).read_bytes(), type=Mark)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None
        return mark if mark.plan == _digest(plan) and mark.pid in (None, pid) else None

    def _settings(self) -> str:
        """Return what the present settings and certificates come to, whatever the plan is."""
        config = render_front(FrontPlan(), self.options, self._runtime_socket)[CONFIG]
        return hashlib.sha256(config + _contents(self.options.mesh)).hexdigest()

    def _write_mark(self, plan: FrontPlan, pid: int | None, settings: str) -> None:
        mark = Mark(plan=_digest(plan), pid=pid, settings=settings)
        write_atomically(self._directory / MARK, msgspec.json.encode(mark))

    def _write_files(self, plan: FrontPlan) -> None:
        files = render_front(plan, self.options, self._runtime_socket)
        for name, content in (files | {PLAN: encode_plan(plan)}).items():
            if self._written.get(name) != content:
                write_atomically(self._directory / name, content, 0o600)
                self._written[name] = content
        self._plan = plan


def _cells(rows: Iterable[ServerRow]) -> list[ServerRow]:
    """Leave out servers that are no cells: relays, other machines, the mesh's inner doors."""
    return [row for row in rows if row.slot.startswith(SLOT_LETTER) and row.slot != RELAY]


def _contents(mesh: MeshFiles | None) -> bytes:
    """Return what the certificates' files hold now."""
    files = (mesh.certificate, mesh.authority) if mesh else ()
    return b"\0".join(path.read_bytes() for path in map(Path, files) if path.is_file())


def _digest(plan: FrontPlan) -> str:
    return hashlib.sha256(encode_plan(plan)).hexdigest()


async def _do(change: Change, ask: Callable[[str], Awaitable[str]]) -> None:
    match change:
        case Say(text):
            await _say(text, ask)
        case Replace(name, rows):
            answer = await ask(f"prepare map {name}.map")
            version = answer.rpartition(": ")[2].strip()
            for payload in payloads(list(rows)):
                await _say(f"add map @{version} {name}.map <<\n{payload}", ask)
            await _say(f"commit map @{version} {name}.map", ask)
        case Retire():
            for text in without_traffic(change):
                await _say(text, ask)


async def _say(text: str, ask: Callable[[str], Awaitable[str]]) -> None:
    answer = await ask(text)
    if answer not in FINE_ANSWERS:
        first = text.partition("\n")[0]
        raise FrontRefused(f"HAProxy said {answer!r} to {first!r}")
