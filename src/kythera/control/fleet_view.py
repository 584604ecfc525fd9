"""The fleet as one document: the records say who is in it, the machines' answers how they are.

Pure. What the records know (site, core, draining) holds against what a machine says of itself; a
machine that is silent is shown as `unreachable` with what it told last. A machine speaks for itself
alone: names in its answer are not believed.
"""

from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from kythera.control.sightings import Sighting
from kythera.control.status_document import CellFacts, MachineFacts, ObjectCellFacts
from kythera.ground.clock import iso
from kythera.model.catalog import Catalog
from kythera.model.platform import Platform
from kythera.model.records import Machine

ACTIVE, DRAINING, REMOVED, UNREACHABLE = "active", "draining", "removed", "unreachable"


def members(catalog: Catalog, platform: Platform) -> tuple[list[Machine], bool]:
    """Return the fleet's machines, this one among them, and whether the records do not know it."""
    found = catalog.machines()
    if any(machine.name == platform.machine for machine in found):
        return found, False
    me = Machine(
        name=platform.machine,
        site=platform.site,
        region=platform.region,
        world=platform.world,
        mesh=platform.mesh_advertised or platform.mesh,
        api=platform.api,
    )
    listed = sorted([*found, me], key=lambda machine: machine.name)
    return listed, bool(found)


def core_names(catalog: Catalog) -> frozenset[str]:
    """Return who holds the log; empty while nobody has said so."""
    core = catalog.core()
    if core is not None:
        return frozenset(core.machines)
    return frozenset(machine.name for machine in catalog.machines() if machine.core)


def machine_entry(
    record: Machine, sighting: Sighting, cores: Collection[str], *, removed: bool = False
) -> dict[str, Any]:
    """Return one machine as the status shows it."""
    silent = sighting.silent_since is not None
    facts = sighting.facts or MachineFacts(
        cores=record.cores, kythera=record.kythera, workerd=record.workerd
    )
    entry: dict[str, Any] = msgspec.to_builtins(facts)
    entry |= {
        "name": record.name,
        "site": record.site,
        "region": record.region,
        "world": record.world,
        "mesh": record.mesh or facts.mesh,
        "core": record.name in cores if cores else facts.core or record.core,
        "labels": record.labels,
        "state": UNREACHABLE if silent else _state(record, facts, removed=removed),
        "seen_at": _time(sighting.seen_at),
        "unreachable_since": _time(sighting.silent_since),
        "why": sighting.why if silent else "",
    }
    return entry


def _state(record: Machine, facts: MachineFacts, *, removed: bool) -> str:
    if facts.state in (ACTIVE, "ready"):
        return REMOVED if removed else record.state
    return facts.state


def _time(moment: float | None) -> str | None:
    return None if moment is None else iso(moment)


def cell_entries(
    machine: str, cells: Iterable[CellFacts | ObjectCellFacts]
) -> list[dict[str, Any]]:
    """Return a machine's cells, or object cells, as the status shows them."""
    return [msgspec.to_builtins(cell) | {"machine": machine} for cell in cells]
