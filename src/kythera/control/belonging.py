"""This machine's own place in the fleet, kept up: its record, its certificate, whom it would ask.

Promises: a machine changes nothing but its own record, and one that was removed does not come back
by itself. The authority's key is where the log is: a machine that becomes core fetches it, one that
is core no longer lets go of it once all who are core have it.
"""

import os
import platform as host
from collections.abc import Sequence

import anyio
import msgspec

import kythera
from kythera.control.peer_answers import layout_of
from kythera.control.services import Services
from kythera.control.store import Change, put
from kythera.distribute import membership
from kythera.distribute.admission import core_peers
from kythera.distribute.authority import key_fits
from kythera.distribute.invitation import AuthorityAnswer
from kythera.distribute.join import read_answer
from kythera.distribute.rotation import renew_when_due
from kythera.ground.clock import iso
from kythera.ground.files import write_private
from kythera.ground.layout import Layout
from kythera.model.catalog import Catalog
from kythera.model.errors import KytheraError, SetupError, StoreUnavailable
from kythera.model.membership import Membership, Peer
from kythera.model.platform import Platform
from kythera.model.records import Core, Machine
from kythera.run.pinned import last_used
from kythera.run.workerd import find_workerd, workerd_version

LOOK_S = 2.0
RETRY_S_MIN = 0.1
RETRY_S_MAX = 10.0


def facts_of(workerd: str) -> dict[str, object]:
    """Return what a machine says of itself: cores, architecture, kythera, workerd."""
    return {
        "cores": os.cpu_count() or 1,
        "architecture": host.machine(),
        "kythera": kythera.__version__,
        "workerd": workerd,
    }


async def own_workerd(layout: Layout) -> str:
    """Return the version of this machine's workerd; empty when there is none."""
    used = last_used(layout)
    if used is not None:
        return used.version
    try:
        return await workerd_version(find_workerd())
    except SetupError:
        return ""


def own_changes(
    catalog: Catalog, platform: Platform, member: Membership | None, workerd: str, now: float
) -> list[Change]:
    """Return what this machine has to write about itself. Pure but for the host's own facts.

    Only the founder writes a record that is not there, and only while nobody says who is core:
    whoever else has none was removed."""
    machine = catalog.machine(platform.machine)
    changes: list[Change] = []
    if machine is None:
        if member is None or not member.founder or catalog.core() is not None:
            return []
        machine = Machine(name=platform.machine, core=True, joined_on=iso(now))
    current = msgspec.structs.replace(
        machine,
        site=platform.site,
        region=platform.region,
        world=platform.world,
        mesh=platform.mesh_advertised or platform.mesh,
        api=platform.api,
        **facts_of(workerd),
    )
    if current != catalog.machine(platform.machine):
        changes.append(put(current))
    if member is not None and member.founder and catalog.core() is None:
        changes.append(put(Core(machines=(platform.machine,))))
    return changes


async def ensure_machine(services: Services, workerd: str) -> bool:
    """Bring this machine's record up to date; tell whether the fleet knows it."""
    member = membership.read(layout_of(services))

    async def bring() -> None:
        now = services.clock.now()
        catalog = services.store.catalog()
        wanted = own_changes(catalog, services.platform, member, workerd, now)
        if wanted:
            await services.store.write(wanted)

    await services.store.settled(f"machine.{services.platform.machine}", bring)
    return services.store.catalog().machine(services.platform.machine) is not None


async def keep_belonging(services: Services) -> None:
    """Write our record, then keep certificate, peers and authority up to date until cancelled."""
    pause_s = RETRY_S_MIN
    while True:
        try:
            workerd = await own_workerd(layout_of(services))
            if await ensure_machine(services, workerd):
                await _tend(services)
            pause_s = LOOK_S
        except (KytheraError, OSError) as error:
            if pause_s < RETRY_S_MAX <= pause_s * 2:
                services.journal.say("belonging_not_kept", level="warning", reason=str(error))
            pause_s = min(pause_s * 2, RETRY_S_MAX)
        await anyio.sleep(pause_s)


async def _tend(services: Services) -> None:
    layout = layout_of(services)
    peers = core_peers(services.store.catalog())
    _remember(services, peers)
    await _keep_authority(services, peers)
    limits, now = services.platform.limits, services.clock.now()
    if await renew_when_due(layout, services.fleet.mesh, peers, limits, now):
        services.journal.say("certificate_renewed", machine=services.platform.machine)


def _remember(services: Services, peers: Sequence[Peer]) -> None:
    """Keep whom to ask while the copy is lost: the core machines beside us."""
    layout = layout_of(services)
    member = membership.read(layout)
    others = tuple(peer for peer in peers if peer.name != services.platform.machine)
    if member is not None and others and member.peers != others:
        membership.write(layout, msgspec.structs.replace(member, peers=others))


async def _keep_authority(services: Services, peers: Sequence[Peer]) -> None:
    layout, me = layout_of(services), services.platform.machine
    core = any(peer.name == me for peer in peers)
    if core and not layout.ca_key.exists():
        await _fetch_authority(services)
    if peers and not core and layout.ca_key.exists() and await _all_hold_it(services, peers):
        layout.ca_key.unlink()
        services.journal.say("authority_left")


async def _fetch_authority(services: Services) -> None:
    """Ask everybody: who held it before may be core no longer."""
    layout, me = layout_of(services), services.platform.machine
    error: KytheraError = StoreUnavailable("No machine with the authority's key is known here.")
    for machine in services.store.catalog().machines():
        if machine.name == me:
            continue
        try:
            key = await _asked_for_key(services, machine)
            if not key_fits(key, layout.ca_certificate.read_bytes()):
                raise KytheraError(f"{machine.name!r} gave a key that is not this fleet's.")
            write_private(layout.ca_key, key)
            services.journal.say("authority_fetched", by=machine.name)
            return
        except KytheraError as refused:
            error = refused
    raise error


async def _asked_for_key(services: Services, machine: Machine) -> bytes:
    mesh = services.fleet.mesh
    response = await mesh.request(machine.name, machine.mesh, "GET", "/authority")
    return read_answer(response, AuthorityAnswer).key.encode()


async def _all_hold_it(services: Services, peers: Sequence[Peer]) -> bool:
    """Tell whether every core machine holds the authority: the last key must not go with us."""
    mesh = services.fleet.mesh
    for peer in peers:
        response = await mesh.request(peer.name, peer.mesh, "GET", "/authority/held")
        if not response.is_success:
            return False
    return True
