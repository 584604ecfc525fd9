"""Where a machine's cells find Durable Objects, and which class is where: read from the records."""

from collections.abc import Sequence
from dataclasses import replace

from kythera.ground.layout import Layout
from kythera.model.catalog import Catalog
from kythera.model.objects import ObjectClass, classes_of, newest
from kythera.model.records import Version
from kythera.model.workflows import Workflow, workflows_here, workflows_of
from kythera.node.cell_maker import CellMaker
from kythera.run.objects import ObjectsDoor, doors_of


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
    version = newest(catalog, account, script)
    if here(catalog, version, machine) or workflows_here(catalog, version, machine):
        return ObjectsDoor(layout.objects_socket(account, script))
    classes, workflows = (
        classes_of(catalog, account, script),
        workflows_of(catalog, account, script),
    )
    return ObjectsDoor(
        why=f"The Durable Objects of Worker {script!r} {_why(classes, machine, 'classes')}",
        why_no_workflows=f"The Workflows of Worker {script!r} {_why(workflows, machine, 'records')}",
    )


def _why(known: Sequence[ObjectClass] | Sequence[Workflow], machine: str, called: str) -> str:
    live = [one for one in known if not one.deleted]
    if live and live[0].machine != machine:
        return f"live on machine {live[0].machine!r}, and are reached from there alone."
    return f"are gone: their {called} were deleted, or no version that has them is deployed."
