"""Workers as things with a name: listed, described, set, deleted."""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from kythera.control.bodies import object_body
from kythera.control.caller import sees
from kythera.control.envelope import listed, success
from kythera.control.publish import present
from kythera.control.services import Services, services_of
from kythera.control.store import Change, end, put
from kythera.deploy.bindings import public
from kythera.deploy.bindings_services import bound_to, refuse_in_use
from kythera.deploy.documents import as_flag
from kythera.deploy.refusals import worker_absent
from kythera.deploy.settings import worker_settings
from kythera.deploy.versions import runtime_view
from kythera.ground.clock import iso
from kythera.model.catalog import Catalog
from kythera.model.errors import Refusal
from kythera.model.names import DISPATCH, namespace_of, script_name
from kythera.model.objects import OBJECTS, deleted, is_live, of_worker
from kythera.model.records import Binding, Version, Worker
from kythera.model.workflows import WORKFLOW


def worker_of(request: Request) -> tuple[Services, Worker, list[Version]]:
    """Return the worker that a request's path names, with its versions, newest first."""
    services = services_of(request)
    catalog = services.store.catalog()
    return services, *present(catalog, services.account, request.path_params["name"])


def script_view(worker: Worker, version: Version) -> dict[str, Any]:
    """Return a worker as Cloudflare's older endpoints show it."""
    return {
        "id": script_name(worker.name),
        "tag": worker.tag,
        "tags": list(worker.tags),
        "etag": version.etag,
        "handlers": list(version.handlers),
        "named_handlers": [{"name": name, "handlers": []} for name in version.named_handlers],
        "created_on": worker.created_on,
        "modified_on": worker.modified_on,
        "migration_tag": worker.migration_tag,
        "last_deployed_from": "wrangler",
        "logpush": worker.logpush,
        "tail_consumers": list(worker.tail_consumers),
        "observability": worker.observability,
        "usage_model": version.usage_model,
        "compatibility_date": version.compatibility_date,
        "compatibility_flags": list(version.compatibility_flags),
        "has_assets": version.assets is not None,
        "has_modules": version.main_module is not None,
    }


async def scripts(request: Request) -> Response:
    """GET workers/scripts."""
    services = services_of(request)
    catalog = services.store.catalog()
    found = []
    for worker in catalog.workers(services.account):
        versions = catalog.versions(services.account, worker.name)
        if versions and sees(worker.name) and not namespace_of(worker.name):
            found.append(script_view(worker, versions[0]))
    return listed(request, found)


async def service(request: Request) -> Response:
    """GET workers/services/{name}: what a deploy asks first."""
    _, worker, versions = worker_of(request)
    environment = {
        "environment": "production",
        "created_on": worker.created_on,
        "modified_on": worker.modified_on,
        "script": script_view(worker, versions[0]),
    }
    return success(
        {
            "id": worker.name,
            "default_environment": environment,
            "environments": [environment],
            "created_on": worker.created_on,
            "modified_on": worker.modified_on,
        }
    )


async def settings(request: Request) -> Response:
    """GET scripts/{name}/settings: the newest version's bindings and how it runs."""
    _, worker, versions = worker_of(request)
    version = versions[0]
    return success(
        {
            **runtime_view(version),
            "bindings": [public(binding) for binding in version.bindings],
            "placement": version.placement,
            "annotations": version.annotations,
            **script_settings_view(worker),
        }
    )


def script_settings_view(worker: Worker) -> dict[str, Any]:
    """Return the settings that belong to a worker, not to a version."""
    return {
        "logpush": worker.logpush,
        "observability": worker.observability,
        "tags": list(worker.tags),
        "tail_consumers": list(worker.tail_consumers),
    }


async def script_settings(request: Request) -> Response:
    """GET scripts/{name}/script-settings."""
    return success(script_settings_view(worker_of(request)[1]))


async def patch_script_settings(request: Request) -> Response:
    """PATCH scripts/{name}/script-settings."""
    services = services_of(request)
    document = await object_body(request, services.platform.limits.json_body_bytes_max)
    worker = await rewrite(request, worker_settings(document))
    return success(script_settings_view(worker))


async def rewrite(request: Request, fields: dict[str, Any]) -> Worker:
    """Set fields of a worker's record; nothing is written when nothing changes."""
    services = services_of(request)

    async def change() -> Worker:
        _, worker, _ = worker_of(request)
        wanted = msgspec.structs.replace(worker, **fields)
        if wanted == worker:
            return worker
        now = iso(services.clock.now())
        written = msgspec.structs.replace(wanted, modified_on=now)
        await services.store.write([put(written)])
        return written

    return await services.store.settled(f"worker {request.path_params['name']}", change)


async def subdomain(request: Request) -> Response:
    """GET workers/subdomain: the account's label in printed addresses."""
    services = services_of(request)
    for account in services.store.catalog().accounts():
        if account.id == services.account:
            return success({"subdomain": account.subdomain})
    raise Refusal(10007, "This platform is still starting: it has no subdomain yet.", status=404)


async def register_subdomain(request: Request) -> Response:
    """PUT workers/subdomain: there is one, chosen by `kythera up --domain`."""
    raise Refusal(
        10036,
        "The subdomain of this platform is chosen when it is started.",
        remedy="Use `kythera up --domain DOMAIN`.",
        status=409,
    )


async def worker_subdomain(request: Request) -> Response:
    """GET scripts/{name}/subdomain: whether `<name>.<domain>` serves the worker."""
    _, worker, _ = worker_of(request)
    return success(_subdomain_view(worker))


def _subdomain_view(worker: Worker) -> dict[str, Any]:
    return {"enabled": worker.hostname_enabled, "previews_enabled": worker.previews_enabled}


async def set_worker_subdomain(request: Request) -> Response:
    """POST scripts/{name}/subdomain; what is not said about previews follows `enabled`."""
    services = services_of(request)
    document = await object_body(request, services.platform.limits.json_body_bytes_max)
    enabled = as_flag(document.get("enabled"), "enabled")
    previews = as_flag(document.get("previews_enabled", enabled), "previews_enabled")
    worker = await rewrite(request, {"hostname_enabled": enabled, "previews_enabled": previews})
    return success(_subdomain_view(worker))


async def worker(request: Request) -> Response:
    """GET workers/workers/{name}: newer wranglers print the address they find here."""
    services, found, _ = worker_of(request)
    return success(
        {
            "id": found.tag,
            "name": found.name,
            "created_on": found.created_on,
            "updated_on": found.modified_on,
            "tags": list(found.tags),
            "logpush": found.logpush,
            "observability": found.observability,
            "tail_consumers": list(found.tail_consumers),
            "subdomain": {**_subdomain_view(found), "url": address_of(services, found.name)},
        }
    )


def address_of(services: Services, name: str) -> str:
    """Return where a worker is served by default, as a person would type it."""
    platform = services.platform
    scheme, door, usual = (
        ("https", platform.https, "443") if platform.https else ("http", platform.http, "80")
    )
    port = door.rpartition(":")[2]
    return f"{scheme}://{name}.{platform.domain}" + ("" if port == usual else f":{port}")


async def references(request: Request) -> Response:
    """GET scripts/{name}/references: who calls this worker, and whom it calls."""
    services, worker, versions = worker_of(request)
    callers = bound_to(services.store.catalog(), services.account, worker.name)
    direct = [(name, binding) for name, binding in callers if binding.type == "service"]
    called = [binding for binding in versions[0].bindings if binding.type == "service"]
    return success(
        {
            "services": {
                "incoming": [_reference(name, binding) for name, binding in direct],
                "outgoing": [_reference(b.fields["service"], b) for b in called],
                "pages_function": False,
            },
            "durable_objects": [],
            "dispatch_outbounds": [
                {**_reference(name, binding), "namespace": binding.fields["namespace"]}
                for name, binding in callers
                if binding.type == DISPATCH
            ],
        }
    )


def _reference(other: str, binding: Binding) -> dict[str, Any]:
    return {"name": binding.name, "service": other, "environment": "production"}


async def delete(request: Request) -> Response:
    """DELETE workers/services/{name} or scripts/{name}: the worker and all that is its own."""
    services = services_of(request)
    name = request.path_params["name"]

    async def change() -> None:
        catalog = services.store.catalog()
        if catalog.worker(services.account, name) is None:
            raise worker_absent(name)
        if request.query_params.get("force") != "true":
            refuse_in_use(catalog, services.account, name)
        classes = of_worker(catalog.resources(services.account, OBJECTS), name)
        classes += of_worker(catalog.resources(services.account, WORKFLOW), name)
        gone = [put(deleted(one)) for one in classes if is_live(one)]
        await services.store.write([*gone, *_ends(catalog, services.account, name)])

    await services.store.settled(f"worker {name}", change)
    return success(None)


def _ends(catalog: Catalog, account: str, name: str) -> list[Change]:
    """Return what deleting a worker writes, in an order that may stop anywhere.

    Old deployments go before the one that holds, so that no older one holds in between; the
    worker goes last, so that a deletion that was cut short can be repeated."""
    ordered = [d.key() for d in reversed(catalog.deployments(account, name))]
    ordered += [version.key() for version in reversed(catalog.versions(account, name))]
    last = f"worker.{account}.{name}"
    others = [k for k in catalog.keys_of(account, name) if k != last and k not in set(ordered)]
    return [end(key) for key in (*others, *ordered, last)]
