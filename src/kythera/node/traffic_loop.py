"""The loop that keeps HAProxy as the records and the cells ask: gather, plan, apply, report.

Fail static: when a plan cannot be applied HAProxy goes on with the last one, and the loop says
so and tries again. Cells learn that traffic has moved only after HAProxy has confirmed it.
"""

import os
import resource
from collections.abc import Iterable

import anyio
import structlog

from kythera.distribute.served import Served, served_key
from kythera.ground.layout import Layout
from kythera.model.errors import KytheraError
from kythera.model.platform import Platform
from kythera.model.traffic import Traffic
from kythera.node.engines import EngineOrder
from kythera.node.keeper_client import Exited
from kythera.node.mind import Mind
from kythera.node.status import MachineFacts
from kythera.route.front import Front
from kythera.route.plan import FrontPlan, plan_front
from kythera.route.render import FrontOptions

SIGUSR1 = 10
STOP_ORDER = 0
RETRY_S = 0.3
MEASURE_S = 0.5
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
        table: Served,
    ) -> None:
        self._platform = platform
        self._mind = mind
        self._facts = facts
        self._journal = structlog.get_logger("front")
        self.ready = anyio.Event()
        """Set once HAProxy has been seen to serve the present plan."""
        _, descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
        options = FrontOptions(
            site=platform.site,
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

    def _plan(self) -> tuple[FrontPlan, Iterable[Traffic]]:
        traffic, failing = self._mind.traffic()
        plan = plan_front(
            self._mind.catalog,
            traffic,
            failing,
            domain=self._platform.domain,
            previous=self._front.saved_plan(),
        )
        return plan, traffic.values()

    async def prepare(self) -> EngineOrder:
        """Write HAProxy's files from the present plan; return how to start it."""
        await self._mind.sockets_open()
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
                loads = await self._front.loads()
            except (KytheraError, OSError):
                continue  # HAProxy is starting or down; its loop says so.
            self._mind.measured(
                {name: (load.current, load.requests) for name, load in loads.items()}
            )
            if self._mind.is_watched():
                self._mind.records_changed()  # Tails expire by time alone.
