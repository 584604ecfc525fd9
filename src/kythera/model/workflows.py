"""A Workflow as a record: whose class it is, how its instances are kept, and where they are.

The record is a `Resource`; its id is the name of the folder with all its instances, and is another one
when a Workflow of that name is made again. One that was deleted stays as a record that says so, as
with classes of Durable Objects: data are removed because of what a record says.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from kythera.model.catalog import Catalog
from kythera.model.objects import is_live
from kythera.model.records import Resource, Version

WORKFLOW = "workflow"
"""The type of such a resource, and of the binding to one."""


class Workflow(Struct, frozen=True, kw_only=True):
    """One Workflow of a worker."""

    id: str
    name: str
    worker: str
    class_name: str
    machine: str
    """Where its instances are: their data are on that machine alone."""
    settings: dict[str, Any]
    """`steps` and `retention`, as the engine reads them."""
    deleted: bool = False


def read_workflow(resource: Resource) -> Workflow:
    """Return what a resource says of its Workflow."""
    fields = resource.fields
    return Workflow(
        id=resource.id,
        name=resource.name,
        worker=fields["script"],
        class_name=fields["class"],
        machine=fields["machine"],
        settings=fields.get("settings", {}),
        deleted=fields.get("deleted", False),
    )


def workflow_named(resources: Iterable[Resource], name: str) -> Resource | None:
    """Return the Workflow of that name, unless it was deleted."""
    return next((one for one in resources if is_live(one) and one.name == name), None)


def workflow_id(account: str, name: str, before: int) -> str:
    """Return the id of a Workflow; `before`: how many of this name there have been."""
    return hashlib.sha256(f"workflow {account} {name} {before}".encode()).hexdigest()[:32]


def workflows_of(catalog: Catalog, account: str, worker: str) -> list[Workflow]:
    """Return all Workflows that a worker has and had."""
    found = catalog.resources(account, WORKFLOW)
    return [read_workflow(one) for one in found if one.fields["script"] == worker]


def workflows_here(catalog: Catalog, version: Version | None, machine: str) -> tuple[Workflow, ...]:
    """Return the Workflows whose class a version has and whose instances are on this machine."""
    if version is None:
        return ()
    return tuple(
        one
        for one in workflows_of(catalog, version.account, version.worker)
        if not one.deleted
        and one.machine in ("", machine)
        and one.class_name in version.named_handlers
    )
