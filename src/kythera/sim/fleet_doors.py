"""Visitors of a simulated fleet: to whatever machine they come, somebody answers.

Each machine's front door does what HAProxy is told: serve here, or send to the worker's home or to
another machine that is able; the other serves it or refuses, and never sends it on. Who serves
what is decided by `route.elsewhere`; HAProxy's own part (health checks, the ring, a few tries) is
sketched.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kythera.distribute.files import named_blobs
from kythera.model.catalog import Name
from kythera.model.limits import Limits
from kythera.model.records import Version
from kythera.route.mesh import PeerServer, peer_servers
from kythera.sim.fleet_blobs import FleetBlobs
from kythera.sim.fleet_decisions import Decisions
from kythera.sim.fleet_ground import Fleet
from kythera.sim.fleet_machine import Host
from kythera.sim.fleet_task import Mailbox, Task, Wait, pause
from kythera.sim.fleet_writers import ACCOUNT, WORKERS

LOOK_S = 0.6
TRIES_MAX = 4
PEER_ANSWER_S = 1.2
CELL_WAITS_S = 2.0
HOPS_MAX = 1
SERVED, REFUSED = "served", "refused"


@dataclass
class Request:
    """One visitor's request, and where it has been."""

    name: Name
    came_to: str
    hops: int = 0
    path: list[str] = field(default_factory=list)


@dataclass
class Doors:
    """The front doors of all machines."""

    fleet: Fleet
    decisions: Decisions
    blobs: FleetBlobs
    limits: Limits
    served: int = 0
    failed: int = 0
    due: bool = False
    """Everything is well for some time: whoever comes now must be served."""

    def begin(self, host: Host) -> None:
        """A machine's front door opens."""
        Task(host, self._watch(host)).start()

    # -- who is able -------------------------------------------------------------------------------

    async def _watch(self, host: Host) -> None:
        while True:
            await pause(host, LOOK_S)
            self._check_peers(host)
            self._decide(host)

    def _check_peers(self, host: Host) -> None:
        """Ask each peer whether it is able, as HAProxy does."""
        place = self.decisions.place(host)
        doors = [door.name for door in place.peers().machines]
        place.failed_checks = {name: place.failed_checks.get(name, 0) for name in doors}
        for name in doors:
            peer = self.fleet.hosts[name]
            if self.fleet.talks(host.name, name) and self.fleet.admits(peer, host.name):
                place.failed_checks[name] = 0
                there = self.decisions.place(peer)
                leaves = there.is_draining() or there.overloaded
                (place.leaving.add if leaves else place.leaving.discard)(name)
            else:
                place.failed_checks[name] += 1

    def _decide(self, host: Host) -> None:
        place, now = self.decisions.place(host), self.fleet.time.now
        workers = frozenset((w.account, w.name) for w in host.catalog().workers())
        window_s = self.limits.rare_window_s
        place.homed = {
            name: [at for at in times if now - at < window_s] for name, times in place.homed.items()
        }
        situation = place.situation(workers, frozenset(host.failing & workers))
        place.where = self.decisions.where(place, situation, now)
        place.overloaded = place.elsewhere.overloaded
        if situation.draining and situation.peers and "local" in place.where.values():
            self.fleet.violation(f"{host.name} drains and keeps visitors: {place.where}")

    # -- visitors ----------------------------------------------------------------------------------

    def visit(self) -> None:
        """Somebody asks some machine for some worker."""
        up = [host for host in self.fleet.hosts.values() if host.up]
        if up:
            host = self.fleet.time.chance.choice(up)
            name = (ACCOUNT, self.fleet.time.chance.choice(WORKERS))
            Task(host, self._visit(host, Request(name, host.name))).start()

    async def _visit(self, host: Host, request: Request) -> None:
        known = self._deployed(host, request.name) is not None
        outcome = await self._enter(host, request)
        if outcome == SERVED:
            self.served += 1
        elif known and not host.removed:
            self.failed += 1
            where = self.decisions.place(host).where.get(request.name)
            self.fleet.tell(f"nobody served {request} ({where}): {outcome}")
            if self.due:
                self.fleet.violation(f"a visitor of {host.name} was not served: {outcome}")

    async def _enter(self, host: Host, request: Request) -> str | None:
        """The first machine's door: here, or elsewhere."""
        request.path.append(host.name)
        place = self.decisions.place(host)
        where = place.where.get(request.name, "local")
        if where == "local":
            return await self._here(host, request)
        if where == "home":
            place.homed.setdefault(request.name, []).append(self.fleet.time.now)
        outcome, last = None, ""
        for _ in range(TRIES_MAX):
            target = self._next_target(host, request.name, where, last)
            if target == host.name:
                outcome = await self._here(host, request)
            else:
                outcome = await self._forward(host, request, target)
            if outcome == SERVED:
                break
            last = target
        return outcome

    def _next_target(self, host: Host, name: Name, where: str, last: str) -> str:
        """Return whom HAProxy picks: on the ring, not the one that has just failed."""
        place = self.decisions.place(host)
        able = set(place.able())
        peers = [peer for peer in peer_servers(place.peers()) if peer.name in able]
        site = [peer.name for peer in peers if peer.same_site]
        if where == "home":
            site.append(host.name)
        choices = site or self._backups(peers, host.name)
        ring = sorted(choices, key=lambda peer: _on_ring(name, peer))
        return next((peer for peer in ring if peer != last), ring[0])

    def _backups(self, peers: Sequence[PeerServer], me: str) -> list[str]:
        return [next((peer.name for peer in peers if not peer.same_site), me)]

    async def _forward(self, host: Host, request: Request, target: str) -> str | None:
        """Send a request to another machine and wait for its answer."""
        catalog = host.catalog()
        if catalog.machine(target) is None:
            self.fleet.violation(f"{host.name} forwards to {target}, which it knows to be removed")
        answers: Mailbox[str] = Mailbox(host)
        peer = self.fleet.hosts[target]
        copy = Request(request.name, request.came_to, request.hops + 1, list(request.path))

        def arrive() -> None:
            if self.fleet.admits(peer, host.name):
                Task(peer, self._received(host, peer, copy, answers)).start()

        self.fleet.network.send(host.name, target, lambda: peer.run(arrive))
        return await answers.get(PEER_ANSWER_S)

    async def _received(
        self, sender: Host, host: Host, request: Request, answers: Mailbox[str]
    ) -> None:
        """A request comes through the mesh door: it is served here or refused."""
        known = host.catalog()
        if known.machines() and known.machine(sender.name) is None:
            self.fleet.violation(f"{host.name} took a request of {sender.name}, no member")
        if request.hops > HOPS_MAX:
            self.fleet.violation(f"a request made {request.hops} hops: {request.path}")
        request.path.append(host.name)
        if self.decisions.sends_on(self.decisions.place(host), request.name):
            outcome = await self._enter(host, request)
        else:
            outcome = await self._here(host, request)
        self.fleet.network.send(
            host.name, sender.name, lambda: sender.run(lambda: answers.put(outcome or REFUSED))
        )

    # -- cells -------------------------------------------------------------------------------------

    async def _here(self, host: Host, request: Request) -> str:
        """A cell of this machine serves it, if one can."""
        version = self._deployed(host, request.name)
        place = self.decisions.place(host)
        place.served[request.name] = place.served.get(request.name, 0) + 1
        if version is None or request.name in host.broken:
            return REFUSED
        digests = named_blobs(version)
        if not all(self.blobs.use(host, digest) for digest in digests):
            ready = await Wait[bool](lambda tell: self._prepare(host, digests, tell))
            if not ready or not all(self.blobs.use(host, digest) for digest in digests):
                host.failing.add(request.name)
                return REFUSED
        host.failing.discard(request.name)
        return SERVED

    def _prepare(self, host: Host, digests: list[str], tell: Callable[[bool], None]) -> None:
        """Fetch what a cell needs; it waits only so long."""

        async def fetch() -> None:
            tell(await self.blobs.ensure(host, digests))

        Task(host, fetch()).start()
        host.after(CELL_WAITS_S, lambda: tell(False))

    def _deployed(self, host: Host, name: Name) -> Version | None:
        catalog = host.catalog()
        deployment = catalog.deployed(*name)
        if deployment is None:
            return None
        return catalog.version(*name, deployment.versions[0].version_id)


def _on_ring(name: Name, machine: str) -> bytes:
    return hashlib.md5(f"{name}{machine}".encode(), usedforsecurity=False).digest()
