"""An upload is on more than one machine, one of them core, before anybody is told that it is done.

Promises: `replicate` returns when the blobs are durable on `blob_copies_min` machines, or on fewer
because fewer can be reached, which is then said in the log; never without a core machine among
them. Machines are asked once what they lack; nothing is sent twice.
Refuses (StoreUnavailable) when no core machine can be reached: what only this machine has would be
lost with it.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import anyio
import structlog

from kythera.distribute import transfer
from kythera.distribute.blobs import Blobs
from kythera.distribute.nearness import nearest
from kythera.distribute.transfer import Mesh, TransferFailed
from kythera.model.errors import StoreUnavailable
from kythera.model.limits import Limits
from kythera.model.records import Machine

NAMED_MAX = 3
_events = structlog.get_logger("blobs")


@dataclass(frozen=True)
class Given:
    """What replication works with: the others, this machine, who is core, who failed of late."""

    blobs: Blobs
    mesh: Mesh
    others: Sequence[Machine]
    me: Machine
    cores: Collection[str]
    limits: Limits
    rests: Callable[[Machine], bool] = lambda _: False
    left: Callable[[Machine, TransferFailed], None] = lambda _machine, _failure: None


def takers(
    others: Sequence[Machine],
    me: Machine,
    cores: Collection[str],
    rests: Callable[[Machine], bool],
) -> list[Machine]:
    """Return whom to give copies, best first (pure): the core, then the others, nearest first;
    who failed of late comes last of its kind."""
    return sorted(nearest(others, me), key=lambda m: (m.name not in cores, rests(m)))


class Giving(Protocol):
    """Makes sure that one machine has all these blobs: `give`."""

    async def __call__(
        self, digests: Sequence[str], machine: Machine, given: Given, *, patient: bool
    ) -> None:
        """Raise TransferFailed when it has not."""
        ...


async def replicate(digests: Sequence[str], given: Given, giving: Giving | None = None) -> None:
    """Give copies away until there are enough. Raises StoreUnavailable when no core has one.

    `giving` makes sure that one machine has them all (`give`)."""
    giving = giving or give
    if not digests:
        return
    wanted = min(given.limits.blob_copies_min, 1 + len(given.others))
    holders = [given.me.name]
    failures: dict[str, TransferFailed] = {}

    def core_holds() -> bool:
        return any(name in given.cores for name in holders)

    for patient in (False, True):
        for machine in takers(given.others, given.me, given.cores, given.rests):
            if core_holds() and (patient or len(holders) >= wanted):
                break
            if not core_holds() and machine.name not in given.cores:
                break  # No core took it: more copies would not make it safe.
            try:
                await giving(digests, machine, given, patient=patient)
                holders.append(machine.name)
            except TransferFailed as failure:
                failures[machine.name] = failure
                given.left(machine, failure)
    reasons = "; ".join(str(failure) for failure in list(failures.values())[:NAMED_MAX])
    if not core_holds():
        raise _no_core(given, reasons)
    if len(holders) < wanted:
        _events.warning(
            "blob_copies_few",
            machines=holders,
            wanted=wanted,
            blobs=len(digests),
            reason=reasons,
        )


def _no_core(given: Given, reasons: str) -> StoreUnavailable:
    names = ", ".join(sorted(given.cores)) or "none is known"
    return StoreUnavailable(
        f"Nothing was stored: no core machine ({names}) could take a copy"
        f" ({reasons or 'none could be asked'}).",
        remedy="Try again; `kythera status` tells which machines can be reached.",
    )


async def give(
    digests: Sequence[str], machine: Machine, given: Given, *, patient: bool = True
) -> None:
    """Make sure that one machine has all these blobs. Raises TransferFailed."""
    absent = await transfer.missing(
        given.mesh,
        machine,
        digests,
        given.limits,
        within_ms=transfer.answer_ms(machine, given.me, given.limits, patient=patient),
    )
    queue = iter(sorted(absent))
    failures: list[TransferFailed | StoreUnavailable] = []

    async with anyio.create_task_group() as tasks:
        for _ in range(min(given.limits.blob_transfers_at_once, len(absent))):
            tasks.start_soon(_push_rest, queue, machine, given, failures)
    if failures:
        raise failures[0]


async def _push_rest(
    queue: Iterator[str],
    machine: Machine,
    given: Given,
    failures: list[TransferFailed | StoreUnavailable],
) -> None:
    """Send blob after blob until none is left, or one has failed."""
    for digest in queue:
        if failures:
            return
        try:
            await transfer.push(given.mesh, machine, digest, given.blobs, given.limits)
        except (TransferFailed, StoreUnavailable) as failure:
            failures.append(failure)
