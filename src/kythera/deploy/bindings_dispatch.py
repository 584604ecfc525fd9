"""A binding to a dispatch namespace, as an upload asks for it; and which workers are outbound ones.

Pure. A namespace is bound to by its name and kept by its id, which stays when it is renamed. What a
dispatch leads to is decided at run time: any worker of that namespace, and no other.
"""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from kythera.deploy.documents import as_list, as_object, as_text, shown
from kythera.deploy.refusals import invalid
from kythera.model.catalog import Catalog
from kythera.model.errors import Refusal
from kythera.model.names import DISPATCH
from kythera.model.records import Binding, Resource, Version

if TYPE_CHECKING:
    from kythera.deploy.bindings import Origin

NAMESPACE_ABSENT = 100_119
PARAMETER = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]{0,127}")
PARAMETERS_MAX = 64


class Outbound(Struct, frozen=True):
    """A worker that takes what a namespace's workers send out."""

    account: str
    namespace: str
    worker: str


def namespace_named(catalog: Catalog, account: str, name: str) -> Resource | None:
    """Return a dispatch namespace by its name."""
    found = (each for each in catalog.resources(account, DISPATCH) if each.name == name)
    return next(found, None)


def namespace_absent(name: str) -> Refusal:
    """Say that there is no such namespace."""
    return Refusal(
        NAMESPACE_ABSENT,
        f"There is no dispatch namespace {shown(name)}.",
        status=404,
        remedy="Make it first: wrangler dispatch-namespace create NAME",
    )


def read_dispatch(name: str, kind: str, fields: Mapping[str, Any], origin: "Origin") -> Binding:
    """Read `{namespace, outbound?: {worker: {service}, params?: [{name}]}}`."""
    called = as_text(fields.get("namespace"), f"the namespace of binding {name!r}")
    catalog = origin.catalog
    found = None if catalog is None else namespace_named(catalog, origin.account, called)
    if found is None:
        raise invalid(
            f"Binding {name!r}: there is no dispatch namespace {shown(called)}.",
            remedy="Make it first: wrangler dispatch-namespace create NAME",
        )
    read: dict[str, Any] = {"namespace": called, "namespace_id": found.id}
    if fields.get("outbound") is not None:
        read["outbound"] = _outbound(name, as_object(fields["outbound"], f"outbound of {name!r}"))
    return Binding(name=name, type=kind, fields=read)


def _outbound(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    worker = as_object(fields.get("worker"), f"outbound.worker of binding {name!r}")
    service = as_text(worker.get("service"), f"outbound.worker.service of binding {name!r}")
    if worker.get("environment") not in (None, "", "production"):
        raise invalid(
            f"Binding {name!r}: there is no environment {shown(worker['environment'])} of a worker.",
            remedy="Name the worker itself: wrangler's environments are workers of their own.",
        )
    params = as_list(fields.get("params") or [], f"outbound.params of binding {name!r}")
    names = [_parameter(name, each) for each in params]
    if len(names) > PARAMETERS_MAX:
        raise invalid(f"Binding {name!r} has more than {PARAMETERS_MAX} outbound parameters.")
    return {"worker": {"service": service}, "params": [{"name": each} for each in names]}


def _parameter(name: str, each: Any) -> str:
    """Wrangler writes `{name}`, the API's own documents a name alone."""
    text = each if isinstance(each, str) else as_object(each, "an outbound parameter").get("name")
    if not isinstance(text, str) or PARAMETER.fullmatch(text) is None:
        raise invalid(
            f"Binding {name!r}: {shown(text)} cannot be an outbound parameter.",
            remedy="Use letters, digits, `_` and `$`: it becomes a key of the outbound worker's env.",
        )
    return text


def outbound_of(binding: Binding) -> str:
    """Return the outbound worker that a binding names; empty: none."""
    if binding.type != DISPATCH or "outbound" not in binding.fields:
        return ""
    service: str = binding.fields["outbound"]["worker"]["service"]
    return service


def outbound_workers(catalog: Catalog) -> Iterator[Outbound]:
    """Yield the workers that deployed dispatchers name, each as often as they do."""
    for version in _deployed(catalog):
        for binding in version.bindings:
            if worker := outbound_of(binding):
                yield Outbound(version.account, binding.fields["namespace_id"], worker)


def is_outbound(catalog: Catalog, account: str, worker: str) -> bool:
    """Tell whether a deployed dispatcher names a worker as its outbound one."""
    found = outbound_workers(catalog)
    return any((each.account, each.worker) == (account, worker) for each in found)


def _deployed(catalog: Catalog) -> Iterator[Version]:
    for version in catalog.dispatchers():
        deployment = catalog.deployed(version.account, version.worker)
        splits = deployment.versions if deployment is not None else ()
        if any(split.version_id == version.id for split in splits):
            yield version
