"""The status of the whole fleet, from any of its machines.

Promises: all machines are asked at once and none is waited for longer than `fleet_status_ms`; who
does not answer, or answers nonsense, is shown as unreachable, with the reason, since when, and what
it told last. Needs neither the log nor a whole copy.
"""

from typing import Any

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from kythera.control.answers import ask
from kythera.control.envelope import success
from kythera.control.fleet_view import cell_entries, core_names, machine_entry, members
from kythera.control.peers_status import STATUS_BYTES_MAX, own_status
from kythera.control.services import Services, services_of
from kythera.control.sightings import Sighting
from kythera.control.status_document import StatusAnswer
from kythera.model.catalog import Catalog
from kythera.model.errors import KytheraError, StoreUnavailable
from kythera.model.records import Machine

LOOK_S = 30.0
"""Between two looks at all others, so that `since when` is known before anybody asks."""

Seen = tuple[Sighting, StatusAnswer]


async def fleet(request: Request) -> Response:
    """GET kythera/status."""
    return success(await document(services_of(request)))


async def document(services: Services) -> dict[str, Any]:
    """Return {"machines": […], "cells": […], "objects": […], "incidents": […]} of the whole fleet."""
    catalog = _catalog(services)
    machines, removed = members(catalog, services.platform)
    services.fleet.sightings.keep_only({machine.name for machine in machines})
    seen = await _all(services, machines)
    cores = core_names(catalog)
    return {
        "machines": [
            machine_entry(m, seen[m.name][0], cores, removed=removed and m.name == services.me)
            for m in machines
        ],
        "cells": [e for m in machines for e in cell_entries(m.name, seen[m.name][1].cells)],
        "objects": [e for m in machines for e in cell_entries(m.name, seen[m.name][1].objects)],
        "incidents": [msgspec.to_builtins(incidents) for incidents in catalog.incidents()],
    }


def _catalog(services: Services) -> Catalog:
    try:
        return services.store.catalog()
    except StoreUnavailable:
        return Catalog()  # no copy yet: this machine is all we know of


async def _all(services: Services, machines: list[Machine]) -> dict[str, Seen]:
    """Ask everybody at once."""
    seen: dict[str, Seen] = {}

    async def look(machine: Machine) -> None:
        seen[machine.name] = await _one(services, machine)

    async with anyio.create_task_group() as tasks:
        for machine in machines:
            tasks.start_soon(look, machine)
    return seen


async def _one(services: Services, machine: Machine) -> Seen:
    sightings, clock = services.fleet.sightings, services.clock
    try:
        told = await _told(services, machine)
    except KytheraError as error:
        return sightings.silent(machine.name, error.message, clock.now()), StatusAnswer()
    return sightings.answered(machine.name, told, clock.now()), told


async def _told(services: Services, machine: Machine) -> StatusAnswer:
    if machine.name == services.me:
        return await own_status(services)
    return await ask(
        services.fleet.mesh,
        machine,
        "/status",
        StatusAnswer,
        bytes_max=STATUS_BYTES_MAX,
        within_ms=services.platform.limits.fleet_status_ms,
    )


async def keep_looking(services: Services) -> None:
    """Look at all machines now and then, for ever: at most one for each second."""
    while True:
        machines, _ = members(_catalog(services), services.platform)
        await anyio.sleep(max(LOOK_S, float(len(machines))))
        others = [machine for machine in machines if machine.name != services.me]
        await _all(services, others)
