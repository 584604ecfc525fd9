"""Where a machine's cells find Durable Objects, and which class is where: read from the records."""

from collections.abc import Sequence
from dataclasses import replace

from msgspec import structs

from kythera.ground.layout import Layout
from kythera.ground.passes import store_key, way_mark
from kythera.model.catalog import Catalog
from kythera.model.objects import OBJECTS, ObjectClass, classes_of, newest, read_class
from kythera.model.records import Binding, Version
from kythera.model.workflows import Workflow, workflows_here, workflows_of
from kythera.node.cell_maker import CellMaker
from kythera.node.fleet_data import homes_for, object_homes
from kythera.run.bindings import FLEET
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


def moved(catalog: Catalog, account: str) -> dict[str, ObjectClass]:
    """Return an account's classes that another worker had before, by id."""
    found = map(read_class, catalog.resources(account, OBJECTS))
    return {one.id: one for one in found if one.came_from}


def located(catalog: Catalog, version: Version) -> Version:
    """Return a version whose bindings lead to where classes are now: what was bound to a class before
    it was another worker's reaches its objects there."""
    homes = moved(catalog, version.account)
    if not homes:
        return version
    bindings = tuple(_led(binding, version.worker, homes) for binding in version.bindings)
    return structs.replace(version, bindings=bindings)


def _led(binding: Binding, worker: str, homes: dict[str, ObjectClass]) -> Binding:
    one = homes.get(binding.fields["namespace_id"]) if binding.type == OBJECTS else None
    if one is None:
        return binding
    fields = {key: value for key, value in binding.fields.items() if key != "script_name"}
    other = {} if one.worker == worker else {"script_name": one.worker}
    return structs.replace(binding, fields={**fields, **other})


def ways_to_moved(catalog: Catalog, account: str) -> dict[str, str]:
    """Return for each class that another worker had before where it is, and whether it runs there:
    cells that were started while that was otherwise are to be started anew."""
    return {
        key: f"{one.worker} {one.deleted} {_runs(catalog, account, one)}"
        for key, one in moved(catalog, account).items()
    }


def _runs(catalog: Catalog, account: str, one: ObjectClass) -> bool:
    version = newest(catalog, account, one.worker)
    return version is not None and one.id in version.objects.values()


def doors(
    layout: Layout, catalog: Catalog, version: Version, machine: str
) -> dict[str, ObjectsDoor]:
    """Return how a version's cells reach the objects that it has bindings to."""
    bindings = located(catalog, version).bindings
    return {
        script: _door(layout, catalog, version.account, script, machine)
        for script in doors_of(bindings, version.worker)
    }


def with_objects(maker: CellMaker, catalog: Catalog) -> CellMaker:
    """Return a maker of cells that reach the objects they have bindings to."""
    layout, machine = maker.layout, maker.platform.machine
    return replace(
        maker,
        objects=lambda version: doors(layout, catalog, version, machine),
        located=lambda version: located(catalog, version),
        homes=homes_for(catalog, machine),
    )


def _door(layout: Layout, catalog: Catalog, account: str, script: str, machine: str) -> ObjectsDoor:
    version = newest(catalog, account, script)
    if here(catalog, version, machine) or workflows_here(catalog, version, machine):
        return ObjectsDoor(layout.objects_socket(account, script))
    home = object_homes(catalog).get((account, script), "")
    if version is not None and home != machine and catalog.machine(home) is not None:
        mark = way_mark(
            store_key(layout.store_key), home, layout.objects_socket(account, script).name
        )
        return ObjectsDoor(layout.store_socket(FLEET), mark=mark, machine=home)
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
