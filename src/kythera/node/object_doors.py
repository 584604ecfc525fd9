"""Where a machine's cells find Durable Objects, and which class is where: read from the records."""

from dataclasses import replace

from kythera.ground.layout import Layout
from kythera.model.catalog import Catalog
from kythera.model.objects import ObjectClass, classes_of
from kythera.model.records import Version
from kythera.node.cell_maker import CellMaker
from kythera.run.objects import ObjectsDoor, doors_of


def newest(catalog: Catalog, account: str, worker: str) -> Version | None:
    """Return the version that a worker's objects run: of those that its deployment names, the one
    that was uploaded last, whatever its share. So data never meet older code while newer serves."""
    deployment = catalog.deployed(account, worker)
    named = deployment.versions if deployment is not None else ()
    found = [catalog.version(account, worker, split.version_id) for split in named]
    known = [version for version in found if version is not None]
    return max(known, key=lambda version: version.number, default=None)


def here(
    catalog: Catalog, version: Version | None, machine: str
) -> tuple[tuple[str, ObjectClass], ...]:
    """Return the classes that a version has and whose objects live on this machine."""
    if version is None:
        return ()
    known = {one.id: one for one in classes_of(catalog, version.account, version.worker)}
    named = ((name, known.get(key)) for name, key in sorted(version.objects.items()))
    return tuple(
        (name, one)
        for name, one in named
        if one is not None and not one.deleted and one.machine in ("", machine)
    )


def doors(
    layout: Layout, catalog: Catalog, version: Version, machine: str
) -> dict[str, ObjectsDoor]:
    """Return how a version's cells reach the objects that it has bindings to."""
    return {
        script: _door(layout, catalog, version.account, script, machine)
        for script in doors_of(version.bindings, version.worker)
    }


def with_objects(maker: CellMaker, catalog: Catalog) -> CellMaker:
    """Return a maker of cells that reach the objects they have bindings to."""
    layout, machine = maker.layout, maker.platform.machine
    return replace(maker, objects=lambda version: doors(layout, catalog, version, machine))


def _door(layout: Layout, catalog: Catalog, account: str, script: str, machine: str) -> ObjectsDoor:
    if here(catalog, newest(catalog, account, script), machine):
        return ObjectsDoor(layout.objects_socket(account, script))
    live = [one for one in classes_of(catalog, account, script) if not one.deleted]
    if live and live[0].machine != machine:
        why = f"live on machine {live[0].machine!r}, and are reached from there alone."
    else:
        why = "are gone: their classes were deleted, or no version that has them is deployed."
    return ObjectsDoor(why=f"The Durable Objects of Worker {script!r} {why}")
