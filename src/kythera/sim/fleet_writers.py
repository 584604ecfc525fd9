"""Who writes in a simulated fleet: people who deploy, watch and delete, on whatever machine.

A write is tried on one core machine after another with the same message id until it is
acknowledged or its deadline has passed; then nobody knows, and nobody may promise anything. Each
change is decided on what the machine's own copy shows, which may be old: the guard tells.
"""

import hashlib
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from kythera.distribute.log import Log
from kythera.model.errors import Conflict, StoreUnavailable
from kythera.model.records import (
    Deployment,
    Module,
    Record,
    Split,
    Tail,
    Version,
    Worker,
    encode,
)
from kythera.sim.fleet_checks import WriteChecks
from kythera.sim.fleet_decisions import Decisions
from kythera.sim.fleet_ground import Fleet
from kythera.sim.fleet_machine import Host
from kythera.sim.fleet_reach import ReachedLog
from kythera.sim.fleet_serve import Servers
from kythera.sim.fleet_task import Task, pause

ACCOUNT = "a"
WORKERS = ("w0", "w1", "w2")
SOME_TIME = "2026-11-23T00:00:00Z"
CONFLICTS_MAX = 4
CAUGHT_UP_S = 0.5

Replicate = Callable[[Host, dict[str, bytes]], Awaitable[None]]
"""Puts blobs where they are safe, before a record names them. Raises StoreUnavailable."""


@dataclass
class Writers:
    """Deploys, deletions and tails."""

    fleet: Fleet
    decisions: Decisions
    servers: Servers
    checks: WriteChecks
    replicate: Replicate

    def operate(self) -> None:
        """Somebody does something on some machine."""
        chance, live = self.fleet.time.chance, self.fleet.live()
        if self.fleet.healed or not live:
            return
        host, worker = chance.choice(live), chance.choice(WORKERS)
        action = chance.choices((self.deploy, self.watch, self.delete), (6, 3, 1))[0]
        call = f"{action.__name__}{self.fleet.next_number()}"
        self.fleet.tell(f"{host.name}: {call} {worker}")
        Task(host, action(host, worker, call), failed=self._given_up).start()

    def _given_up(self, error: Exception) -> None:
        if not isinstance(error, StoreUnavailable):
            raise error

    async def write(
        self, host: Host, key: str, value: bytes | None, call: str, guard: int | None = None
    ) -> None:
        """Write one record and note that it was acknowledged. Raises Conflict, StoreUnavailable."""
        log: Log = ReachedLog(self.fleet, self.decisions, self.servers, host)
        seq = await log.append(key, value, expected_seq=guard, message_id=call)
        self.checks.acknowledge(key, seq, value)

    async def _put(self, host: Host, record: Record, call: str, guard: int | None) -> None:
        await self.write(host, record.key(), encode(record), call, guard)

    def guard(self, host: Host, key: str) -> int:
        """Return over which sequence a record may be written, as this machine's copy shows it."""
        shown = host.copy.get(key)
        return 0 if shown is None or shown[1] is None else shown[0]

    async def settled(self, host: Host, change: Callable[[], Awaitable[None]]) -> None:
        """Run a read-decide-write; when somebody else wrote first, run it again."""
        for _ in range(CONFLICTS_MAX):
            try:
                await change()
            except Conflict:
                await pause(host, CAUGHT_UP_S)
            else:
                return

    # -- what people do ----------------------------------------------------------------------------

    async def deploy(self, host: Host, name: str, call: str) -> None:
        """Upload a version and deploy it, as `control.publish` does."""
        data = f"code of {call}".encode()
        digest = hashlib.sha256(data).hexdigest()
        began = self.fleet.time.now
        module = Module(name="main.js", type="esm", digest=digest, size=len(data))

        attempts = itertools.count()

        async def attempt() -> None:
            mark = f"{call}#{next(attempts)}"
            worker = self._next_worker(host, name, mark)
            guard = self.guard(host, worker.key())
            version, deployment = _published(worker, call, module)
            await self.replicate(host, {digest: data})
            await self._put(host, worker, f"{mark}/worker", guard)
            await self._put(host, version, f"{mark}/version", 0)
            await self._put(host, deployment, f"{mark}/deployment", 0)
            self.checks.deployed[deployment.key()] = began

        await self.settled(host, attempt)

    def _next_worker(self, host: Host, name: str, tag: str) -> Worker:
        """Return the worker's record with the numbers of what is about to be written; numbers
        that a deletion has left behind are not used again."""
        catalog = host.catalog()
        known = catalog.worker(ACCOUNT, name)
        versions = [known.versions_made] if known else []
        deployments = [known.deployments_made] if known else []
        if known is None:
            versions = [version.number for version in catalog.versions(ACCOUNT, name)]
            deployments = [each.number for each in catalog.deployments(ACCOUNT, name)]
        return Worker(
            account=ACCOUNT,
            name=name,
            tag=known.tag if known else tag,
            created_on=SOME_TIME,
            modified_on=SOME_TIME,
            versions_made=max(versions, default=0) + 1,
            deployments_made=max(deployments, default=0) + 1,
        )

    async def watch(self, host: Host, name: str, call: str) -> None:
        """Tail a worker for a while: a record that soon ends."""
        tail = Tail(
            account=ACCOUNT, worker=name, id=call, created_on=SOME_TIME, expires_on=SOME_TIME
        )
        await self._put(host, tail, f"{call}/begin", None)
        await pause(host, self.fleet.time.chance.uniform(0.2, 3.0))
        await self.write(host, tail.key(), None, f"{call}/end")

    async def delete(self, host: Host, name: str, call: str) -> None:
        """End everything that belongs to a worker, as far as this machine knows."""

        async def attempt() -> None:
            keys = host.catalog().keys_of(ACCOUNT, name)
            guards = {key: self.guard(host, key) for key in keys}
            for key, guard in guards.items():
                if guard:
                    await self.write(host, key, None, f"{call}/{key}#{guard}", guard)

        await self.settled(host, attempt)


def _published(worker: Worker, call: str, module: Module) -> tuple[Version, Deployment]:
    version = Version(
        account=ACCOUNT,
        worker=worker.name,
        id=call,
        number=worker.versions_made,
        created_on=SOME_TIME,
        main_module=module.name,
        modules=(module,),
    )
    deployment = Deployment(
        account=ACCOUNT,
        worker=worker.name,
        id=call,
        number=worker.deployments_made,
        created_on=SOME_TIME,
        versions=(Split(version_id=call, percentage=100),),
        tag=worker.tag,
    )
    return version, deployment
