"""The servers of the log that this machine runs: none, one, or two while the log moves.

Promises: what the records want is started through the keeper and kept alive; what they no longer
want is stopped; processes of a crashed agent are adopted. Each server's ports are kept from start
to start, so that tunnels of other machines go on leading to it. One that writes nothing any more, for its
disk was full, is started anew as soon as there is room (`distribute.log_writes`).
"""

from collections.abc import Callable

import anyio
import msgspec
import structlog
from anyio.abc import TaskGroup
from nats.errors import Error as NatsError

from kythera.distribute import cores
from kythera.distribute.address import address_at
from kythera.distribute.cores import ServerPlan
from kythera.distribute.link import LinkLost
from kythera.distribute.log_writes import write_error
from kythera.distribute.nats_server import (
    folder_of,
    forget_epochs,
    port_of,
    prepare_server,
    server_file,
)
from kythera.distribute.promotion import point_to_log
from kythera.distribute.remembered import remember_core
from kythera.ground.files import has_room
from kythera.ground.layout import Layout
from kythera.model.errors import KytheraError
from kythera.model.limits import Limits
from kythera.model.records import Core
from kythera.node.engines import Engine, EngineOrder
from kythera.node.fleet import Fleet
from kythera.node.keeper_client import Exited, KeeperClient

SIGTERM = 15
STOP_ORDER = 9
LOOK_S = 0.25
PREPARED_S_MAX, PREPARED_POLL_S = 5.0, 0.005
UNHEARD = (OSError, NatsError, LinkLost, TimeoutError, KytheraError, msgspec.MsgspecError)
"""What may go wrong with a question to a server: it is asked again."""


class LogServers:
    """Runs what `cores.servers_wanted` says."""

    def __init__(
        self,
        layout: Layout,
        limits: Limits,
        keeper: KeeperClient,
        fleet: Fleet,
        listen_to: Callable[[str], None],
    ) -> None:
        self.changed: Callable[[], None] = lambda: None
        """Told when ports or tunnels have changed."""
        self._layout = layout
        self._limits = limits
        self._keeper = keeper
        self._fleet = fleet
        self._listen_to = listen_to
        self._running: dict[str, tuple[ServerPlan, Engine, anyio.CancelScope]] = {}
        self._shown: object = None
        self._told: dict[str, str] = {}
        """Of servers that write nothing any more: why, as the journal has it."""
        self._journal = structlog.get_logger("log-servers")

    async def prepared(self) -> None:
        """Wait, but not for ever, until the ports of all wanted servers are known.

        HAProxy then starts with them, instead of being reloaded right after."""
        with anyio.move_on_after(PREPARED_S_MAX):
            while any(server_file(self._layout, plan.epoch) is None for plan in self.wanted()):
                await anyio.sleep(PREPARED_POLL_S)

    def note(self, event: Exited) -> None:
        """Take the keeper's word that a process has ended."""
        for _, engine, _ in self._running.values():
            engine.note(event)

    def wanted(self) -> tuple[ServerPlan, ...]:
        """Return the servers that this machine is to run now."""
        if self._fleet.is_removed():
            return ()
        return cores.servers_wanted(self._fleet.core(), self._fleet.me)

    def streams(self) -> dict[str, str]:
        """Return the services of the mesh door that these servers are: name → `host:port`."""
        found: dict[str, str] = {}
        for plan in self.wanted():
            file = server_file(self._layout, plan.epoch)
            if file is None:
                continue
            if plan.clustered:
                found[plan.service] = f"127.0.0.1:{file.route_port}"
        # Of two servers one is the log; `point_to_log` has found out which.
        official = address_at(self._layout.log_address)
        if official is not None:
            found["log"] = f"127.0.0.1:{port_of(official)}"
        return found

    async def run(self) -> None:
        """Keep the servers as wanted, for ever."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch)
            while True:
                await self.look(tasks)
                await anyio.sleep(LOOK_S)

    async def look(self, tasks: TaskGroup) -> None:
        """Start what is wanted and does not run, stop what is not wanted."""
        wanted = {plan.name: plan for plan in self.wanted()}
        for name in list(self._running):
            if self._running[name][0] != wanted.get(name):
                await self._stop(name)
        for name in self._orphans(set(wanted)):
            await self._keeper.signal(name, SIGTERM)
        for name, plan in wanted.items():
            if name not in self._running:
                self._start(name, plan, tasks)
        self._show()
        core = None if self._fleet.is_removed() else self._fleet.core()
        await point_to_log(self._layout, core, self._fleet.me)
        if core is not None:
            self._settle(core)

    def _settle(self, core: Core) -> None:
        """Keep in mind who holds the log; let go of stores whose time is over."""
        recorded = self._fleet.catalog.core()
        if recorded is not None and recorded == core:
            remember_core(self._layout, core, self._fleet.me)
        running = {plan.name for plan in self.wanted()} | set(self._keeper.processes)
        epochs = {ServerPlan.epoch_of(name) for name in running}
        forget_epochs(self._layout, epochs, core.epoch)

    def _orphans(self, wanted: set[str]) -> list[str]:
        """Return servers of an earlier agent that nobody wants any more."""
        held = [name for name in self._keeper.processes if name.partition("-")[0] == "nats"]
        return [name for name in held if name not in wanted]

    def _start(self, name: str, plan: ServerPlan, tasks: TaskGroup) -> None:
        async def prepare() -> EngineOrder:
            argv, _ = prepare_server(self._layout, plan, self._fleet.me, self._limits)
            self._show()
            return EngineOrder(argv, {}, SIGTERM, STOP_ORDER)

        engine = Engine(name, self._keeper, prepare, self._listen_to)
        scope = anyio.CancelScope()
        self._running[name] = (plan, engine, scope)

        async def keep() -> None:
            with scope:
                await engine.run()

        tasks.start_soon(keep)

    async def _stop(self, name: str) -> None:
        _, _, scope = self._running.pop(name)
        scope.cancel()
        await self._keeper.signal(name, SIGTERM)

    async def _watch(self) -> None:
        """Look after servers that write nothing any more, for ever."""
        while True:
            await anyio.sleep(self._limits.log_look_ms / 1000)
            for name, (plan, engine, _) in list(self._running.items()):
                file = server_file(self._layout, plan.epoch)
                if file is None or name not in self._keeper.processes:
                    continue
                try:
                    why = await write_error(file.address)
                    if self._mends(name, plan, why):
                        engine.replacing = True
                        await self._keeper.signal(name, SIGTERM)
                except UNHEARD as error:
                    self._journal.debug("log_not_asked", server=name, error=repr(error))

    def _mends(self, name: str, plan: ServerPlan, why: str) -> bool:
        """Tell whether a server is to be started anew; tell the journal once what ails it."""
        if not why:
            self._told.pop(name, None)
            return False
        room = has_room(folder_of(self._layout, plan.epoch), self._limits.log_room_bytes_min)
        remedy = (
            "It is started anew." if room else "Make room on its disk: then it is started anew."
        )
        if self._told.get(name) != remedy:
            self._told[name] = remedy
            self._journal.error("log_writes_nothing", server=name, why=why, remedy=remedy)
        return room

    def _show(self) -> None:
        """Tell of ports and tunnels where they have changed."""
        plans = self.wanted()
        tunnels: list[cores.Tunnel] = []
        for plan in plans:
            file = server_file(self._layout, plan.epoch)
            if file is not None and plan.clustered:
                catalog = self._fleet.catalog
                tunnels += cores.tunnels(plan, self._fleet.me, file.tunnels, catalog)
        self._fleet.tunnels = tuple(tunnels)
        shown = (self._fleet.tunnels, self.streams())
        if shown != self._shown:
            self._shown = shown
            self.changed()
