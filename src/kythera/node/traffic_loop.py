"""The loop that keeps HAProxy as the records and the cells ask: gather, plan, apply, report.

Fail static: when a plan cannot be applied HAProxy goes on with the last one, and the loop says
so and tries again. Cells learn that traffic has moved only after HAProxy has confirmed it.
"""

import dataclasses
import os
import resource
from collections.abc import Collection, Iterable, Mapping

import anyio
import structlog

from kythera.deploy.bindings_dispatch import outbound_workers
from kythera.distribute.nearness import Near, near
from kythera.distribute.served import Served, served_key
from kythera.ground.files import stamp_of
from kythera.ground.layout import Layout
from kythera.ground.passes import outbound_mark, store_key, worker_mark
from kythera.model.catalog import Name
from kythera.model.errors import KytheraError
from kythera.model.platform import Platform
from kythera.model.traffic import Traffic
from kythera.node.door_loop import DoorLoop
from kythera.node.engines import EngineOrder
from kythera.node.fleet import Fleet
from kythera.node.fleet_data import kept, ways
from kythera.node.keeper_client import Exited
from kythera.node.log_servers import LogServers
from kythera.node.mind import Mind, Reading
from kythera.node.status import MachineFacts
from kythera.route.elsewhere import Elsewhere, Situation
from kythera.route.forwarding import UP
from kythera.route.front import Front
from kythera.route.mesh import MeshFiles, Where
from kythera.route.plan import FrontPlan, plan_front
from kythera.route.queues import queues
from kythera.route.render import FrontOptions

SIGUSR1 = 10
STOP_ORDER = 0
RETRY_S = 0.3
SETTLED_S_MAX, SETTLED_POLL_S = 2.0, 0.02
MEASURE_S = 0.5
FILES_S = 1.0
NAMED = 3
"""How many workers a sentence of the log names."""
THREADS_MAX = 4
CORES_PER_THREAD = 2
"""A thread of HAProxy feeds two busy cells and more; a second one costs every request a tenth."""


class TrafficLoop:
    """HAProxy's driver on this machine."""

    def __init__(
        self,
        layout: Layout,
        platform: Platform,
        mind: Mind,
        facts: MachineFacts,
        *,
        table: Served,
        fleet: Fleet,
        servers: LogServers,
    ) -> None:
        self._layout = layout
        self._fleet = fleet
        self._servers = servers
        self._elsewhere = Elsewhere(platform.limits)
        self._where: dict[Name, Where] = {}
        self._platform = platform
        self._mind = mind
        self._facts = facts
        self._journal = structlog.get_logger("front")
        self.ready = anyio.Event()
        """Set once HAProxy has been seen to serve the present plan."""
        _, descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
        options = FrontOptions(
            site=platform.site,
            services=True,
            limits=platform.limits,
            tls_certificates=platform.tls_certificates,
            threads=max(1, min(THREADS_MAX, (os.cpu_count() or 1) // CORES_PER_THREAD)),
            descriptors_max=descriptors,
        )
        self._table = table
        self._served: dict[str, str] = {}
        self._front = Front(
            layout.haproxy, layout.haproxy_socket, layout.haproxy_master_socket, options
        )
        self._key = store_key(layout.store_key)
        self.door = DoorLoop(self._front, platform.limits, facts)

    def _plan(self) -> tuple[FrontPlan, Iterable[Traffic]]:
        traffic, failing = self._mind.traffic()
        self._front.options = dataclasses.replace(self._front.options, mesh=self._mesh())
        peers = self._fleet.peers()
        plan = plan_front(
            self._mind.catalog,
            traffic,
            failing,
            domain=self._platform.domain,
            previous=self._front.saved_plan(),
            peers=peers,
            where=self._where,
            tunnels=self._fleet.front_tunnels(),
            queues=queues(
                self._mind.catalog, traffic, self._platform.limits, self._front.queue_max()
            ),
            mark_of=lambda name: worker_mark(self._key, *name),
            more_marks={
                outbound_mark(self._key, each.account, each.namespace, each.worker): (
                    each.account,
                    each.worker,
                )
                for each in outbound_workers(self._mind.catalog)
            },
            ways=ways(self._layout, self._mind.catalog, peers, self._key),
            data=kept(self._layout, self._mind.catalog, self._platform.machine),
        )
        return plan, traffic.values()

    def _mesh(self) -> MeshFiles:
        """Return what the door for other machines needs; a removed machine's own are as good as
        none, the others see to that."""
        return MeshFiles(
            certificate=str(self._layout.machine_certificate.absolute()),
            authority=str(self._layout.ca_certificate.absolute()),
            control_socket=str(self._layout.mesh_socket),
            streams=self._servers.streams(),
            pass_key=self._key,
        )

    async def prepare(self) -> EngineOrder:
        """Write HAProxy's files from the present plan; return how to start it."""
        await self._mind.sockets_open()
        await self._servers.prepared()
        plan, _ = self._plan()
        self._front.prepare(plan)
        return EngineOrder(self._front.argv(), self._front.env(), SIGUSR1, STOP_ORDER, batch=True)

    def note_exit(self, event: Exited) -> None:
        """HAProxy has ended: whatever it was told is gone with it."""
        if event.name == "haproxy":
            self._facts.front = "down"
            self._mind.traffic_changed.set()

    async def run(self) -> None:
        """Apply every change of the plan, for ever."""
        while True:
            await self._front.ready()
            self._mind.traffic_changed = anyio.Event()
            plan, traffic = self._plan()
            changed = plan != self._front.saved_plan()
            try:
                applied = await self._front.apply(plan)
            except (KytheraError, OSError) as error:
                self._facts.front = f"not applied: {error}"
                self._journal.error("front_not_applied", error=str(error))
                await anyio.sleep(RETRY_S)
                continue
            if changed or applied.reloaded:
                self._journal.info("front", sentence=applied.sentence, reloaded=applied.reloaded)
            self._facts.front = applied.sentence
            self._mind.traffic_applied(traffic)
            self._tell_served(traffic)
            self.ready.set()
            await self._mind.traffic_changed.wait()

    async def settled(self) -> None:
        """Wait, but not for ever, until the door leads to each worker that is deployed."""
        with anyio.move_on_after(SETTLED_S_MAX):
            while self._deployed() - self._served.keys():
                await anyio.sleep(SETTLED_POLL_S)

    def _deployed(self) -> set[str]:
        catalog = self._mind.catalog
        names = ((worker.account, worker.name) for worker in catalog.workers())
        return {served_key(*name) for name in names if catalog.deployed(*name) is not None}

    def _tell_served(self, traffic: Iterable[Traffic]) -> None:
        """Write down which deployments are live here now, as far as that has changed."""
        catalog, now = self._mind.catalog, dict[str, str]()
        for item in traffic:
            deployment = catalog.deployed(item.account, item.worker)
            if deployment is None:
                continue
            shown = {(share.version_id, share.percentage) for share in item.shares}
            if shown == {(split.version_id, split.percentage) for split in deployment.versions}:
                now[served_key(item.account, item.worker)] = deployment.id
        gone = dict.fromkeys(self._served.keys() - now.keys())
        news = {key: value for key, value in now.items() if self._served.get(key) != value}
        if news or gone:
            self._table.write({**news, **gone})
        self._served = now

    async def measure(self) -> None:
        """Read HAProxy's counters twice a second, for ever."""
        while True:
            await anyio.sleep(MEASURE_S)
            try:
                loads = await self.loads()
            except (KytheraError, OSError):
                continue  # HAProxy is starting or down; its loop says so.
            self._mind.measured(loads)
            if self._mind.is_watched():
                self._mind.records_changed()  # Tails expire by time alone.
            await self._decide_where()

    async def loads(self) -> Reading:
        """Return what HAProxy counts of each cell now. Raises KytheraError, OSError."""
        loads = await self._front.loads()
        return {name: (load.current, load.requests) for name, load in loads.items()}

    async def at_once(self, server: str, requests: int) -> None:
        """Give a cell at most so many requests at the same time. Raises KytheraError, OSError."""
        await self._front.at_once(server, requests)

    async def _decide_where(self) -> None:
        """Look which workers others had better serve; have the front door do so."""
        self._mind.hurry(self._fleet.is_draining())
        if len(self._fleet.machines()) < 2 and not self._where:
            return
        try:
            able = [n for n, peer in (await self._front.forwarding()).items() if peer.state == UP]
            homed = await self._front.homed()
        except (KytheraError, OSError):
            return
        where = self._elsewhere.decide(self._situation(able, homed), self._mind.clock.monotonic())
        self._fleet.overloaded = self._elsewhere.overloaded
        if where != self._where:
            moved = {name: to for name, to in where.items() if self._where.get(name, "local") != to}
            self._where = where
            if moved:
                names = ", ".join(f"{name[1]}: {to}" for name, to in sorted(moved.items())[:NAMED])
                self._journal.info("where", sentence=f"{len(moved)} workers go elsewhere ({names})")
            self._mind.traffic_changed.set()

    def _situation(self, able: Collection[str], homed: Mapping[Name, int]) -> Situation:
        cells = self._mind.cells
        here = self._fleet.here()
        peers = [machine for machine in self._fleet.machines() if machine.name in able]
        return Situation(
            workers=frozenset(cells.workers),
            draining=self._fleet.is_draining(),
            cpu_share=self._facts.cpu_share,
            site_peers=sum(near(machine, here) is Near.SITE for machine in peers),
            peers=len(peers),
            failing=frozenset(cells.failing(self._mind.clock.monotonic())),
            served={key: worker.served() for key, worker in cells.workers.items()},
            homed=homed,
        )

    async def watch_files(self) -> None:
        """Notice a renewed certificate, or peers that are reached elsewhere now; for ever."""
        watched = (
            self._layout.machine_certificate,
            self._layout.ca_certificate,
            self._layout.links,
        )
        known = [stamp_of(path) for path in watched]
        while True:
            await anyio.sleep(FILES_S)
            stamps = [stamp_of(path) for path in watched]
            if stamps != known:
                known = stamps
                self._mind.traffic_changed.set()
