"""Versions and deployments: shown, copied with other secrets, and put to work."""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from kythera.control.bodies import json_body, object_body
from kythera.control.envelope import listed, success
from kythera.control.publish import deployment_of, let_go, publish
from kythera.control.services import services_of
from kythera.control.store import put
from kythera.control.workers import worker_of
from kythera.deploy.bindings import Origin
from kythera.deploy.refusals import version_absent
from kythera.deploy.upload import Draft
from kythera.deploy.versions import (
    deployment_view,
    read_deployment,
    read_secrets,
    version_view,
    with_secrets,
)
from kythera.ground.clock import iso
from kythera.model.errors import Refusal
from kythera.model.records import Deployment


async def versions(request: Request) -> Response:
    """GET scripts/{name}/versions, newest first."""
    _, _, found = worker_of(request)
    return listed(request, [version_view(version) for version in found], wrap="items")


async def version(request: Request) -> Response:
    """GET scripts/{name}/versions/{id}."""
    _, worker, found = worker_of(request)
    wanted = request.path_params["version"]
    for one in found:
        if one.id == wanted:
            return success(version_view(one))
    raise version_absent(wanted[:80], worker.name)


async def patch_latest_version(request: Request) -> Response:
    """PATCH workers/{name}/versions/latest: a copy of the newest version, other secrets."""
    services = services_of(request)
    document = await object_body(request, services.platform.limits.json_body_bytes_max)
    changes = read_secrets(document.get("env") or {}, "env")
    notes = document.get("annotations")

    def drafting(origin: Origin) -> Draft:
        return with_secrets(changes, origin, message=notes)

    published = await publish(services, request.path_params["name"], drafting)
    return success(version_view(published.version))


async def deployments(request: Request) -> Response:
    """GET scripts/{name}/deployments, newest first."""
    services, worker, _ = worker_of(request)
    found = services.store.catalog().deployments(services.account, worker.name)
    return listed(request, [deployment_view(one) for one in found], wrap="deployments")


async def deployment(request: Request) -> Response:
    """GET scripts/{name}/deployments/{id}."""
    services, worker, _ = worker_of(request)
    for one in services.store.catalog().deployments(services.account, worker.name):
        if one.id == request.path_params["deployment"]:
            return success(deployment_view(one))
    raise Refusal(10223, f"Worker {worker.name!r} has no such deployment.", status=404)


async def post_deployment(request: Request) -> Response:
    """POST scripts/{name}/deployments: one version for all, or two that share."""
    services = services_of(request)
    document = await json_body(request, services.platform.limits.json_body_bytes_max)
    force = request.query_params.get("force") == "true"

    async def change() -> Deployment:
        return await _deploy(request, document, force=force)

    name = request.path_params["name"]
    made = await services.store.settled(f"worker {name}", change)
    await let_go(services, name)
    return success(deployment_view(made))


async def _deploy(request: Request, document: Any, *, force: bool) -> Deployment:
    services, worker, found = worker_of(request)
    current = services.store.catalog().deployed(services.account, worker.name)
    known = {one.id: one for one in found if one.id not in worker.let_go}
    wanted = read_deployment(document, known, current, worker=worker.name, force=force)
    now = iso(services.clock.now())
    rewritten = msgspec.structs.replace(
        worker,
        modified_on=now,
        deployments_made=worker.deployments_made + 1,
        held=tuple(split.version_id for split in wanted.splits),
    )
    made = deployment_of(services, rewritten, wanted.splits, wanted.annotations, now)
    await services.store.write([put(rewritten), put(made)])
    return made
