"""A class of Durable Objects as a record: what stays of it while code, and even its name, changes.

The record is a `Resource`; its id is the key that workerd derives the ids and the folder of all its
objects from. One that was deleted stays as a record that says so: data are removed because of what a
record says, never because one is missing.
"""

from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from kythera.model.catalog import Catalog
from kythera.model.records import Resource, Version

OBJECTS = "durable_object_namespace"
"""The type of such a resource, and of the binding to one."""


class ObjectClass(Struct, frozen=True, kw_only=True):
    """One class of a worker."""

    worker: str
    class_name: str
    id: str
    sqlite: bool
    machine: str
    """Where its objects live: their data are on that machine alone."""
    deleted: bool = False
    came_from: tuple[str, ...] = ()
    """Workers that had the class before, and where its objects may lie until this one has taken them."""


def read_class(resource: Resource) -> ObjectClass:
    """Return what a resource says of its class."""
    fields = resource.fields
    return ObjectClass(
        worker=fields["script"],
        class_name=fields["class"],
        id=resource.id,
        sqlite=fields["use_sqlite"],
        machine=fields["machine"],
        deleted=fields.get("deleted", False),
        came_from=tuple(fields.get("came_from", ())),
    )


def of_worker(resources: Iterable[Resource], worker: str) -> list[Resource]:
    """Return a worker's classes, those deleted too."""
    return [one for one in resources if one.fields["script"] == worker]


def is_live(resource: Resource) -> bool:
    """Tell whether a class was not deleted."""
    return not resource.fields.get("deleted", False)


def deleted(resource: Resource) -> Resource:
    """Return the record that says that a class, and all its objects, are gone."""
    return replace(resource, fields={**resource.fields, "deleted": True})


def transferred(resource: Resource, worker: str, name: str) -> Resource:
    """Return the record that says that a class, with all its objects, is another worker's now."""
    before = [one for one in resource.fields.get("came_from", ()) if one != worker]
    came_from = [*before, resource.fields["script"]]
    fields = {**resource.fields, "script": worker, "class": name, "came_from": came_from}
    return replace(resource, name=f"{worker}_{name}", fields=fields)


def classes_of(catalog: Catalog, account: str, worker: str) -> list[ObjectClass]:
    """Return all classes that a worker has and had."""
    return [read_class(one) for one in of_worker(catalog.resources(account, OBJECTS), worker)]


def newest(catalog: Catalog, account: str, worker: str) -> Version | None:
    """Return the version that a worker's objects run: of those that its deployment names, the one
    that was uploaded last, whatever its share. So data never meet older code while newer serves."""
    deployment = catalog.deployed(account, worker)
    named = deployment.versions if deployment is not None else ()
    found = [catalog.version(account, worker, split.version_id) for split in named]
    known = [version for version in found if version is not None]
    return max(known, key=lambda version: version.number, default=None)
