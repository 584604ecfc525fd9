"""A binding to another worker of the account, as an upload asks for it; and who is bound to whom.

Pure. A worker that is bound to has to be there (10143), unless it is the one that is uploaded.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from kythera.deploy.bindings_dispatch import outbound_of
from kythera.deploy.documents import as_object, as_text
from kythera.deploy.refusals import invalid
from kythera.model.catalog import Catalog
from kythera.model.errors import Refusal
from kythera.model.names import namespace_of
from kythera.model.records import Binding

NOT_THERE, IN_USE = 10143, 10064
PROPS_BYTES_MAX = 65_536


def read_service(name: str, kind: str, fields: Mapping[str, Any], origin: object) -> Binding:
    """Read `{service, entrypoint?, environment?, props?}`. There is one environment alone."""
    service = as_text(fields.get("service"), f"the service of binding {name!r}")
    if namespace_of(service):
        raise invalid(
            f"Binding {name!r}: {service!r} is a worker of a dispatch namespace.",
            remedy="Bind to the namespace, and get() the worker when it is asked.",
        )
    found: dict[str, Any] = {"service": service}
    environment = fields.get("environment")
    if environment not in (None, "", "production"):
        raise invalid(
            f"Binding {name!r}: there is no environment {environment!r} of a service.",
            remedy="Name the worker itself: wrangler's environments are workers of their own.",
        )
    if fields.get("entrypoint") is not None:
        found["entrypoint"] = as_text(fields["entrypoint"], f"the entrypoint of binding {name!r}")
    if fields.get("props") is not None:
        found["props"] = as_object(fields["props"], f"the props of binding {name!r}")
        if len(msgspec.json.encode(found["props"])) > PROPS_BYTES_MAX:
            raise invalid(
                f"The props of binding {name!r} are larger than {PROPS_BYTES_MAX:,} bytes."
            )
    return Binding(name=name, type=kind, fields=found)


def target_of(binding: Binding) -> str:
    """Return the worker that a binding leads to, at once or as an outbound one; empty: none."""
    if binding.type == "service":
        service: str = binding.fields["service"]
        return service
    return outbound_of(binding)


def refuse_no_worker(bindings: Iterable[Binding], catalog: Catalog, account: str, me: str) -> None:
    """Refuse a binding to a worker that is not there. Raises Refusal (10143)."""
    for binding in bindings:
        target = target_of(binding)
        if target and target != me and not catalog.versions(account, target):
            raise Refusal(
                NOT_THERE,
                f"Could not resolve service binding '{binding.name}'. Target script '{target}'"
                " not found.",
                remedy=f"Deploy {target!r} first.",
            )


def bound_to(catalog: Catalog, account: str, target: str) -> list[tuple[str, Binding]]:
    """Return the workers, and their bindings, whose newest or deployed versions call a worker."""
    found = []
    for worker in catalog.workers(account):
        if worker.name == target:
            continue
        deployment = catalog.deployed(account, worker.name)
        live = {split.version_id for split in deployment.versions} if deployment else set()
        versions = catalog.versions(account, worker.name)
        seen = set()
        for version in versions:
            if version.id not in live and version is not versions[0]:
                continue
            for binding in version.bindings:
                if target_of(binding) == target and binding.name not in seen:
                    seen.add(binding.name)
                    found.append((worker.name, binding))
    return found


def refuse_in_use(catalog: Catalog, account: str, target: str) -> None:
    """Refuse to delete a worker that others call. Raises Refusal (10064)."""
    callers = sorted({name for name, _ in bound_to(catalog, account, target)})
    if callers:
        raise Refusal(
            IN_USE,
            f"Worker {target!r} is bound to by {', '.join(callers)}; without it their calls fail.",
            status=409,
            remedy="Take the bindings away first, or delete it all the same with `--force`.",
        )
