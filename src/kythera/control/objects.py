"""Durable Objects as the API shows them: the account's namespaces, and where new ones shall live."""

import hashlib
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control.caller import sees
from kythera.control.envelope import listed, success
from kythera.control.services import services_of
from kythera.model.catalog import Catalog
from kythera.model.errors import Refusal
from kythera.model.objects import OBJECTS, is_live
from kythera.model.records import Resource
from kythera.model.workflows import workflows_of

ABSENT = 10066


def routes(prefix: str) -> list[Route]:
    """Return the routes of namespaces."""
    path = f"{prefix}/workers/durable_objects/namespaces"
    return [
        Route(path, namespaces, methods=["GET"]),
        Route(f"{path}/{{namespace}}", namespace, methods=["GET"]),
    ]


async def namespaces(request: Request) -> Response:
    """GET workers/durable_objects/namespaces: one for each class that a worker has."""
    return listed(request, [_view(one) for one in _visible(request)])


async def namespace(request: Request) -> Response:
    """GET workers/durable_objects/namespaces/{id}."""
    wanted = request.path_params["namespace"]
    for one in _visible(request):
        if one.id == wanted:
            return success(_view(one))
    raise Refusal(
        ABSENT,
        f"There is no Durable Objects namespace {wanted[:80]!r}.",
        status=404,
        remedy="`GET …/workers/durable_objects/namespaces` lists those there are.",
    )


def _visible(request: Request) -> list[Resource]:
    services = services_of(request)
    found = services.store.catalog().resources(services.account, OBJECTS)
    return [one for one in found if is_live(one) and sees(one.fields["script"])]


def _view(one: Resource) -> dict[str, Any]:
    return {
        "id": one.id,
        "name": one.name,
        "script": one.fields["script"],
        "class": one.fields["class"],
        "use_sqlite": one.fields["use_sqlite"],
    }


def home_of_objects(catalog: Catalog, account: str, worker: str) -> str:
    """Return on which machine a worker's objects are to live: where its Workflows are, else one of
    those that hold the log, which are the ones that stay. Empty on a machine that has no record of
    itself yet: on any."""
    flows = workflows_of(catalog, account, worker)
    if flows:
        return flows[0].machine
    machines = catalog.machines()
    able = [each.name for each in machines if each.core] or [each.name for each in machines]

    def weight(machine: str) -> bytes:
        return hashlib.sha256(f"{machine}/{account}/{worker}".encode()).digest()

    return max(able, key=weight, default="")
