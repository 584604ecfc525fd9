"""Bindings that cannot be had on one's own machines, and for which a worker of the operator's stands.

Pure. The map is the operator's: a type of binding, and the worker (and its entry point) that is to be
asked instead. A version keeps what was mapped when it was uploaded, as a binding to that worker; its
`props` are what the upload said of the binding. Only what the platform itself does not offer is mapped.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from kythera.deploy.bindings_absent import INSTEAD
from kythera.deploy.bindings_services import read_service
from kythera.deploy.documents import as_text, shown
from kythera.deploy.refusals import invalid
from kythera.model.catalog import Catalog
from kythera.model.names import CLASS_NAME, is_worker_name
from kythera.model.records import Binding, Resource, Version

MAPPED = "mapped_binding"
"""The type of such a resource; its id is the type of binding."""
KIND = re.compile(r"[a-z][a-z0-9_]{0,62}")
AS = "mapped"
"""Of a binding to a worker: for which type that stands."""


def mapping_of(catalog: Catalog | None, account: str, kind: str) -> Resource | None:
    """Return what stands for a type of binding, if anything does."""
    return None if catalog is None else catalog.resource(account, MAPPED, kind)


def read_mapped(
    name: str, kind: str, fields: Mapping[str, Any], mapping: Resource, origin: object
) -> Binding:
    """Return a binding to the worker that stands for the type."""
    service = {**mapping.fields, "props": dict(fields)}
    found = read_service(name, kind, service, origin)
    return Binding(name=name, type="service", fields={**found.fields, AS: kind})


def shown_type(binding: Binding) -> str:
    """Return a binding's type as it was uploaded."""
    kind: str = binding.fields.get(AS, binding.type)
    return kind


def shown_fields(binding: Binding) -> dict[str, Any]:
    """Return a binding's fields as they were uploaded, without its name and type."""
    if AS not in binding.fields:
        return dict(binding.fields)
    props: Mapping[str, Any] = binding.fields["props"]
    return {key: value for key, value in props.items() if key not in ("name", "type")}


def check_kind(kind: str, offered: Collection[str], planned: Collection[str]) -> None:
    """Refuse to map what is no type of binding, or what the platform has itself or will have."""
    if KIND.fullmatch(kind) is None:
        raise invalid(
            f"{shown(kind)} is no type of binding.",
            remedy=f"Types that a worker can stand for are: {', '.join(INSTEAD)}.",
        )
    if kind in offered or (kind in planned and kind not in INSTEAD):
        raise invalid(
            f"Bindings of type {kind} are not for a worker to stand for:"
            " the platform has them itself, or will have.",
            remedy=f"Types that a worker can stand for are: {', '.join(INSTEAD)}.",
        )


def read_mapping(document: Mapping[str, Any], catalog: Catalog, account: str) -> dict[str, Any]:
    """Read `{service, entrypoint?}`: a worker that is there, and has that entry point."""
    service = as_text(document.get("service"), "service")
    versions = catalog.versions(account, service) if is_worker_name(service) else []
    if not versions:
        raise invalid(
            f"There is no Worker {shown(service)}.", remedy="Deploy it first; then map it."
        )
    entrypoint = document.get("entrypoint")
    if entrypoint is None:
        return {"service": service}
    _check_entrypoint(as_text(entrypoint, "entrypoint"), versions[0])
    return {"service": service, "entrypoint": entrypoint}


def _check_entrypoint(entrypoint: str, newest: Version) -> None:
    known = newest.named_handlers
    if CLASS_NAME.fullmatch(entrypoint) is None or entrypoint not in known:
        has = f"It exports {', '.join(known)}." if known else "It exports a default one alone."
        raise invalid(
            f"Worker {newest.worker!r} has no entry point {shown(entrypoint)}.",
            remedy=f"{has} Leave --entrypoint out for the default one.",
        )


def used_by(catalog: Catalog, account: str, kind: str) -> list[str]:
    """Return the workers whose newest version has a binding that was mapped from a type."""
    found = []
    for worker in catalog.workers(account):
        versions = catalog.versions(account, worker.name)
        if versions and any(b.fields.get(AS) == kind for b in versions[0].bindings):
            found.append(worker.name)
    return found
