"""Which worker stands for a type of binding that the platform does not offer: shown, set, taken away.

The operator's alone to say, as all workers' uploads follow it. What was uploaded before stays as it is.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control.bodies import object_body
from kythera.control.envelope import listed, success
from kythera.control.services import services_of
from kythera.control.store import end, put
from kythera.deploy.bindings import NOT_OFFERED_YET, OFFERED
from kythera.deploy.bindings_mapped import (
    MAPPED,
    check_kind,
    mapping_of,
    read_mapping,
    used_by,
)
from kythera.deploy.documents import shown
from kythera.ground.clock import iso
from kythera.model.catalog import Catalog
from kythera.model.errors import Refusal
from kythera.model.records import Resource

NOT_MAPPED = 10_140
SCOPE = "mapped bindings"


def _view(catalog: Catalog, mapping: Resource) -> dict[str, Any]:
    return {
        "type": mapping.id,
        "service": mapping.fields["service"],
        "entrypoint": mapping.fields.get("entrypoint"),
        "created_on": mapping.created_on,
        "workers": used_by(catalog, mapping.account, mapping.id),
    }


async def get_map(request: Request) -> Response:
    """GET kythera/bindings."""
    services = services_of(request)
    catalog = services.store.catalog()
    found = catalog.resources(services.account, MAPPED)
    return listed(request, [_view(catalog, mapping) for mapping in found])


async def put_mapping(request: Request) -> Response:
    """PUT kythera/bindings/{type}: `service`, and `entrypoint` if it is not the default one."""
    services, kind = services_of(request), request.path_params["type"]
    check_kind(kind, OFFERED, NOT_OFFERED_YET)
    document = await object_body(request, services.platform.limits.json_body_bytes_max)

    async def write() -> dict[str, Any]:
        catalog = services.store.catalog()
        mapping = Resource(
            account=services.account,
            type=MAPPED,
            id=kind,
            name=kind,
            created_on=iso(services.clock.now()),
            fields=read_mapping(document, catalog, services.account),
        )
        before = mapping_of(catalog, services.account, kind)
        if before is not None and before.fields == mapping.fields:
            return _view(catalog, before)
        await services.store.write([put(mapping)])
        return _view(catalog, mapping)

    return success(await services.store.settled(SCOPE, write))


async def delete_mapping(request: Request) -> Response:
    """DELETE kythera/bindings/{type}."""
    services, kind = services_of(request), request.path_params["type"]

    async def write() -> dict[str, Any]:
        catalog = services.store.catalog()
        mapping = mapping_of(catalog, services.account, kind)
        if mapping is None:
            raise Refusal(
                NOT_MAPPED,
                f"No worker stands for bindings of type {shown(kind)}.",
                status=404,
                remedy="`kythera binding list` shows those that one does.",
            )
        view = _view(catalog, mapping)
        await services.store.write([end(mapping.key())])
        return view

    return success(await services.store.settled(SCOPE, write))


def routes(kythera: str) -> list[Route]:
    """Return the map's endpoints."""
    one = f"{kythera}/bindings/{{type}}"
    return [
        Route(f"{kythera}/bindings", get_map, methods=["GET"]),
        Route(one, put_mapping, methods=["PUT"]),
        Route(one, delete_mapping, methods=["DELETE"]),
    ]
