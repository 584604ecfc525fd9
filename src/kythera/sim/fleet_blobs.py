"""Code on its way through a simulated fleet: copied before it is acknowledged, fetched when it is
needed or ahead of that, healed when it is damaged, let go when there is too much.

Whom to ask and whom to give, what to fetch ahead and what to remove is decided by the real code.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

from kythera.distribute import evict
from kythera.distribute.ahead import ahead_of_need, all_versions, deployed_versions
from kythera.distribute.blobs import Blobs, Held
from kythera.distribute.files import named_blobs
from kythera.distribute.replication import Given, replicate
from kythera.distribute.transfer import Mesh, TransferFailed
from kythera.model.errors import StoreUnavailable
from kythera.model.limits import Limits
from kythera.model.records import Machine, Version, decode
from kythera.sim.fleet_decisions import Decisions
from kythera.sim.fleet_ground import Fleet
from kythera.sim.fleet_machine import Host
from kythera.sim.fleet_task import Task, Wait, pause

ANSWER_S, AHEAD_S, SWEEP_S = 0.5, 1.0, 3.0


@dataclass
class FleetBlobs:
    """The blobs of all machines."""

    fleet: Fleet
    decisions: Decisions
    limits: Limits
    seen: dict[str, dict[str, evict.Seen]] = field(default_factory=dict)
    core_at: dict[str, float] = field(default_factory=dict)
    """When each machine was last seen to hold the log."""

    def begin(self, host: Host) -> None:
        """A machine's loops start."""
        self.seen[host.name] = {}
        self.core_at.pop(host.name, None)
        Task(host, self._ahead(host)).start()
        Task(host, self._sweep(host)).start()

    def genuine(self, host: Host, digest: str) -> bool:
        """Tell whether a machine holds the blob, and whole."""
        data = host.blobs.get(digest)
        return data is not None and self.decisions.genuine(digest, data)

    def use(self, host: Host, digest: str) -> bool:
        """A cell starts from the blob; False when it is absent or seen to be damaged."""
        if not self.genuine(host, digest):
            return False
        if not Decisions().genuine(digest, host.blobs[digest]):
            self.fleet.violation(f"{host.name} runs {digest[:8]} whose bytes were changed")
        host.used_s[digest] = host.now()
        return True

    # -- getting -----------------------------------------------------------------------------------

    async def ensure(self, host: Host, digests: Iterable[str]) -> bool:
        """Fetch what is absent or damaged; tell whether all is here now."""
        for digest in digests:
            if not self.genuine(host, digest) and not await self._fetched(host, digest):
                return False
        return True

    async def _fetched(self, host: Host, digest: str) -> bool:
        for machine in self.decisions.holders(host, digest):
            data = await Wait[bytes | None](
                lambda tell, name=machine.name: self.fleet.ask(  # type: ignore[misc]
                    host, name, lambda peer: peer.blobs.get(digest), tell, ANSWER_S
                )
            )
            if data is not None and self.decisions.genuine(digest, data):
                host.blobs[digest] = data
                host.used_s[digest] = host.now()
                return True
        return False

    async def _ahead(self, host: Host) -> None:
        had: set[str] = set()
        was_core = False
        while True:
            await pause(host, AHEAD_S)
            core = self.decisions.place(host).is_core()
            if core != was_core:
                had, was_core = set(), core
            had.intersection_update(host.catalog().records)
            for version in ahead_of_need(host.catalog(), had, core=core):
                if await self.ensure(host, named_blobs(version)):
                    had.add(version.key())

    # -- giving ------------------------------------------------------------------------------------

    async def replicate(self, host: Host, blobs: dict[str, bytes]) -> None:
        """Keep an upload's blobs on enough machines. Raises StoreUnavailable."""
        host.blobs.update(blobs)
        host.used_s.update(dict.fromkeys(blobs, host.now()))
        place = self.decisions.place(host)
        others = [machine for machine in place.machines() if machine.name != host.name]
        if not others:
            raise StoreUnavailable("This machine knows nobody yet.")

        async def give(
            digests: Sequence[str], machine: Machine, given: Given, *, patient: bool
        ) -> None:
            took = await Wait[bool | None](
                lambda tell: self.fleet.ask(
                    host, machine.name, lambda peer: self._keep(peer, blobs), tell, ANSWER_S
                )
            )
            if not took:
                raise TransferFailed("unreachable", f"{machine.name} did not answer")

        given = Given(
            cast("Blobs", None),
            cast("Mesh", None),
            others,
            place.here(),
            place.core_names(),
            self.limits,
        )
        await replicate(list(blobs), given, give)

    def _keep(self, host: Host, blobs: dict[str, bytes]) -> bool:
        host.blobs.update(blobs)
        host.used_s.update(dict.fromkeys(blobs, host.now()))
        return True

    # -- letting go --------------------------------------------------------------------------------

    async def _sweep(self, host: Host) -> None:
        while True:
            await pause(host, SWEEP_S)
            self._sweep_once(host)

    def _sweep_once(self, host: Host) -> None:
        place = self.decisions.place(host)
        place.heard()
        catalog = host.catalog()
        facts = evict.Facts(
            held=[
                Held(digest, len(data), int(host.used_s.get(digest, 0.0) * 1e9))
                for digest, data in sorted(host.blobs.items())
            ],
            referenced=_digests(all_versions(catalog)),
            needed=_digests(deployed_versions(catalog)),
            complete=place.is_fresh() and not catalog.unknown,
            core=self._is_or_was_core(host),
            bytes_max=self.limits.blob_bytes_max,
            grace_s=self.limits.blob_grace_s,
            now_s=host.monotonic(),
        )
        decision = self.decisions.evict(facts, self.seen[host.name])
        self.seen[host.name] = dict(decision.seen)
        for blob in decision.remove:
            del host.blobs[blob.digest]
            self._check_gone(host, blob.digest)

    def _is_or_was_core(self, host: Host) -> bool:
        """Tell whether a machine holds the log or did lately (`node.blob_loop`)."""
        now = self.fleet.time.now
        if self.decisions.place(host).is_core():
            self.core_at[host.name] = now
        return now - self.core_at.get(host.name, -math.inf) < self.limits.blob_grace_s

    def _check_gone(self, host: Host, digest: str) -> None:
        """Nobody gives away the last copy of what a version refers to, and no core machine the
        last one in the core."""
        if digest not in self.referenced():
            return
        cores = self.fleet.log.cores
        others = cores if host.name in cores else self.fleet.hosts
        if not any(digest in self.fleet.hosts[name].blobs for name in others):
            self.fleet.violation(f"{host.name} let go of {digest[:8]}, the last copy")

    def referenced(self) -> set[str]:
        """Return the digests that versions refer to, in truth."""
        log = self.fleet.log
        held = (log.newest(key) for key in log.every_key() if key.startswith("version."))
        values = (entry.value for entry in held if entry is not None and entry.value is not None)
        return _digests(decode(Version, value) for value in values)


def _digests(versions: Iterable[Version]) -> set[str]:
    return {digest for version in versions for digest in named_blobs(version)}
