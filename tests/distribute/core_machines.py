"""Core machines for tests: several nats-servers of one fleet on one host, started, killed, frozen.

What HAProxy tunnels in a fleet is a straight line here: each server's tunnel to a peer is that
peer's own port.
"""

import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import msgspec
from nats.errors import Error as NatsError

from kythera.distribute.address import LogAddress
from kythera.distribute.cores import ServerPlan
from kythera.distribute.jetstream import JetStreamLog, open_log
from kythera.distribute.link import Links, connected
from kythera.distribute.nats_config import cluster_server_name
from kythera.distribute.nats_server import (
    SERVER_FILE,
    ServerFile,
    folder_of,
    point_at,
    prepare_server,
    server_file,
)
from kythera.distribute.stream import make_stream, stream_config, stream_state
from kythera.ground.files import write_private
from kythera.ground.layout import Layout
from kythera.ground.processes import Child, child
from kythera.model.errors import KytheraError
from kythera.model.limits import Limits

FORM_S_MAX = 30
POLL_S = 0.02


class CoreMachine:
    """One machine's servers of the log, by epoch."""

    def __init__(self, state: Path, name: str, limits: Limits) -> None:
        self.name = name
        self.layout = Layout(state / name)
        self.layout.state.mkdir(parents=True)
        write_private(self.layout.secrets_key, b"a key that all machines of the fleet have")
        self._limits = limits
        self._running: dict[int, tuple[AsyncExitStack, Child]] = {}

    def prepare(self, plan: ServerPlan) -> ServerFile:
        """Choose the ports of a server."""
        return prepare_server(self.layout, plan, self.name, self._limits)[1]

    def lay_tunnels(self, plan: ServerPlan, ports: dict[str, int]) -> None:
        """Let the server's tunnels be its peers' own ports."""
        file = self.file(plan.epoch)
        straight = msgspec.structs.replace(file, tunnels=ports)
        path = folder_of(self.layout, plan.epoch) / SERVER_FILE
        write_private(path, msgspec.json.encode(straight))

    def file(self, epoch: int) -> ServerFile:
        """Return the ports of a server."""
        file = server_file(self.layout, epoch)
        assert file is not None
        return file

    def address(self, epoch: int) -> LogAddress:
        """Return where the server of an epoch is reached."""
        return self.file(epoch).address

    async def start(self, plan: ServerPlan) -> None:
        """Start a server as the agent does."""
        argv, _ = prepare_server(self.layout, plan, self.name, self._limits)
        stack = AsyncExitStack()
        self._running[plan.epoch] = stack, await stack.enter_async_context(child(argv))

    async def kill(self, epoch: int) -> None:
        """End a server as a loss of power would: no goodbye."""
        if epoch not in self._running:
            return
        stack, process = self._running.pop(epoch)
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        await stack.aclose()

    def hang(self, epoch: int, still: bool) -> None:
        """Stop a server without closing anything, or let it go on."""
        os.kill(self._running[epoch][1].pid, signal.SIGSTOP if still else signal.SIGCONT)

    async def end(self) -> None:
        """Kill all that runs."""
        for epoch in list(self._running):
            await self.kill(epoch)


class Cores:
    """The core machines of one fleet."""

    def __init__(self, state: Path, names: Iterable[str], limits: Limits) -> None:
        self.limits = limits
        self.machines = {name: CoreMachine(state, name, limits) for name in names}

    def __getitem__(self, name: str) -> CoreMachine:
        return self.machines[name]

    async def start(self, plan: ServerPlan, only: Sequence[str] = ()) -> None:
        """Start the servers of an epoch; their tunnels are laid first."""
        members = [self.machines[name] for name in plan.machines]
        files = {member.name: member.prepare(plan) for member in members}
        for member in members if plan.clustered else ():
            others = {name: file.route_port for name, file in files.items() if name != member.name}
            member.lay_tunnels(plan, others)
        for member in members:
            if not only or member.name in only:
                await member.start(plan)

    async def make_log(self, plan: ServerPlan) -> None:
        """Make an empty log on a new cluster, as a move to it would leave it."""
        first = self.machines[plan.machines[0]]
        with anyio.fail_after(FORM_S_MAX):
            while True:
                try:
                    async with connected(first.address(plan.epoch), "kythera", Links()) as link:
                        await make_stream(link, stream_config(self.limits, len(plan.machines)))
                        if await stream_state(link) is not None:
                            break
                except Exception:  # noqa: BLE001, S110 (it is being elected; the deadline ends this)
                    pass
                await anyio.sleep(POLL_S)
        for name in plan.machines:
            member = self.machines[name]
            point_at(member.layout, member.file(plan.epoch))

    async def drop_log(self, plan: ServerPlan) -> None:
        """Forget the log of a cluster, if it has one."""
        address = self[plan.machines[0]].address(plan.epoch)
        with contextlib.suppress(OSError, NatsError):
            async with connected(address, "kythera", Links()) as link:
                await link.client.jetstream(timeout=5).delete_stream("RECORDS")

    async def leader(self, plan: ServerPlan) -> str:
        """Return which machine leads the stream."""
        with anyio.fail_after(FORM_S_MAX):
            while True:
                for name in plan.machines:
                    found = await self._leader_by(name, plan)
                    if found is not None:
                        return found
                await anyio.sleep(POLL_S)
        raise AssertionError

    async def _leader_by(self, name: str, plan: ServerPlan) -> str | None:
        servers = {cluster_server_name(m, plan.epoch): m for m in plan.machines}
        try:
            async with connected(self[name].address(plan.epoch), "kythera", Links()) as link:
                info = await link.client.jetstream(timeout=2).stream_info("RECORDS")
        except Exception:  # noqa: BLE001 (it is dead, or being elected)
            return None
        return None if info.cluster is None else servers.get(info.cluster.leader or "")


class Any:
    """Finds the log at any of some machines, one after the other (`link.Finder`)."""

    def __init__(self, *machines: CoreMachine) -> None:
        self._machines = list(machines)

    def find(self) -> LogAddress | None:
        """Return where the first machine says its log is."""
        for machine in self._machines:
            file = machine.layout.log_address
            if file.is_file():
                return msgspec.json.decode(file.read_bytes(), type=LogAddress)
            self._machines.append(self._machines.pop(0))
        return None

    def failed(self, address: LogAddress) -> None:
        """Try the next."""
        self._machines.append(self._machines.pop(0))

    def worked(self, address: LogAddress) -> None:
        """Stay with it."""

    def is_outdated(self, address: LogAddress) -> bool:
        """Stay with it."""
        return False


@asynccontextmanager
async def cores(state: Path, names: Iterable[str], limits: Limits) -> AsyncIterator[Cores]:
    """Return core machines of which nothing runs yet; kill what runs in the end."""
    made = Cores(state, names, limits)
    try:
        yield made
    finally:
        with anyio.CancelScope(shield=True):
            for machine in made.machines.values():
                await machine.end()


@asynccontextmanager
async def clustered_log(state: Path, limits: Limits) -> AsyncIterator[JetStreamLog]:
    """Return the log of three machines, empty."""
    plan = ServerPlan(2, ("a", "b", "c"))
    async with cores(state, plan.machines, limits) as made:
        await made.start(plan)
        await made.make_log(plan)
        async with open_log(made["a"].address(2), limits, within_ms=FORM_S_MAX * 1_000) as log:
            yield log


__all__ = ["Any", "CoreMachine", "Cores", "KytheraError", "clustered_log", "cores"]
