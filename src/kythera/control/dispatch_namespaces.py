"""Dispatch namespaces through the API: made, named, listed, deleted when they are empty.

A namespace holds workers that have no address of their own: dispatchers of the account get them by
name (`deploy/bindings_dispatch.py`). Its id is its first name, and stays when it is renamed, as the
names of its workers in records and in the machine's tables begin with it (`model/names.py`).
Promises: a name means one namespace; none is deleted while it holds a worker.
"""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control.bodies import object_body
from kythera.control.envelope import listed, success
from kythera.control.services import Services, services_of
from kythera.control.store import end, put
from kythera.deploy.bindings_dispatch import namespace_absent, namespace_named
from kythera.ground.clock import iso
from kythera.model.catalog import Catalog
from kythera.model.errors import Refusal
from kythera.model.names import DISPATCH, is_worker_name, namespace_of
from kythera.model.records import Resource, Worker

NAME_TAKEN, MALFORMED, NOT_EMPTY, TOO_MANY = 100_120, 100_121, 100_122, 100_123
SCOPE = "dispatch namespaces"


def namespace_in(request: Request) -> Resource:
    """Return the namespace that a request's address names. Raises Refusal."""
    services, name = services_of(request), request.path_params["namespace"]
    found = namespace_named(services.store.catalog(), services.account, name)
    if found is None:
        raise namespace_absent(name)
    return found


def workers_in(catalog: Catalog, namespace: Resource) -> list[Worker]:
    """Return a namespace's workers, by name."""
    found = catalog.workers(namespace.account)
    return [worker for worker in found if namespace_of(worker.name) == namespace.id]


def _view(catalog: Catalog, namespace: Resource) -> dict[str, Any]:
    return {
        "namespace_id": namespace.id,
        "namespace_name": namespace.name,
        "created_on": namespace.created_on,
        "created_by": "",
        "modified_on": namespace.fields.get("modified_on", namespace.created_on),
        "modified_by": "",
        "script_count": len(workers_in(catalog, namespace)),
        "trusted_workers": False,
    }


async def get_namespaces(request: Request) -> Response:
    """GET namespaces."""
    services = services_of(request)
    catalog = services.store.catalog()
    found = catalog.resources(services.account, DISPATCH)
    return listed(request, [_view(catalog, namespace) for namespace in found])


async def get_namespace(request: Request) -> Response:
    """GET namespaces/{namespace}."""
    catalog = services_of(request).store.catalog()
    return success(_view(catalog, namespace_in(request)))


async def post_namespace(request: Request) -> Response:
    """POST namespaces: `name`."""
    services = services_of(request)
    name = await _name(request)

    async def write() -> dict[str, Any]:
        catalog = services.store.catalog()
        _refuse_taken(catalog, services.account, name)
        there = catalog.resources(services.account, DISPATCH)
        _refuse_many(services, len(there))
        made = Resource(
            account=services.account,
            type=DISPATCH,
            id=_free_id(catalog, services.account, name),
            name=name,
            created_on=iso(services.clock.now()),
        )
        await services.store.write([put(made, 0)])
        return _view(catalog, made)

    return success(await services.store.settled(SCOPE, write))


async def put_namespace(request: Request) -> Response:
    """PUT or PATCH namespaces/{namespace}: another `name`; bindings to it stay."""
    services = services_of(request)
    name = await _name(request)

    async def write() -> dict[str, Any]:
        catalog, found = services.store.catalog(), namespace_in(request)
        if name != found.name:
            _refuse_taken(catalog, services.account, name)
        fields = {**found.fields, "modified_on": iso(services.clock.now())}
        renamed = msgspec.structs.replace(found, name=name, fields=fields)
        await services.store.write([put(renamed)])
        return _view(catalog, renamed)

    return success(await services.store.settled(SCOPE, write))


async def delete_namespace(request: Request) -> Response:
    """DELETE namespaces/{namespace}, when it is empty: its workers are other people's."""
    services = services_of(request)

    async def write() -> None:
        catalog, found = services.store.catalog(), namespace_in(request)
        count = len(workers_in(catalog, found))
        if count:
            raise Refusal(
                NOT_EMPTY,
                f"The dispatch namespace {found.name!r} holds {count} Workers.",
                status=409,
                remedy="Delete them first: DELETE …/dispatch/namespaces/NAME/scripts/SCRIPT.",
            )
        await services.store.write([end(found.key())])

    await services.store.settled(SCOPE, write)
    return success(None)


async def _name(request: Request) -> str:
    limits = services_of(request).platform.limits
    name = (await object_body(request, limits.json_body_bytes_max)).get("name")
    if not isinstance(name, str) or not is_worker_name(name):
        raise Refusal(
            MALFORMED,
            f"{str(name)[:80]!r} cannot be a dispatch namespace's name.",
            remedy="Use a-z, 0-9, `-` and `_`, 63 characters at most.",
        )
    return name


def _free_id(catalog: Catalog, account: str, name: str) -> str:
    """Return the name itself, or, where a renamed namespace has that id, the name with a number.

    So two who make the same name at once write the same record, and one of them is refused."""
    number, wanted = 1, name
    while catalog.resource(account, DISPATCH, wanted) is not None:
        number += 1
        wanted = f"{name[:56]}_{number}"
    return wanted


def _refuse_taken(catalog: Catalog, account: str, name: str) -> None:
    if namespace_named(catalog, account, name) is not None:
        raise Refusal(
            NAME_TAKEN, f"A dispatch namespace with the name {name!r} exists already.", status=409
        )


def _refuse_many(services: Services, there: int) -> None:
    most = services.platform.limits.dispatch_namespaces_max
    if there >= most:
        raise Refusal(
            TOO_MANY,
            f"There are {there} dispatch namespaces, as many as may be (dispatch_namespaces_max).",
        )


def routes(root: str) -> list[Route]:
    """Return the endpoints of namespaces themselves."""
    one = f"{root}/{{namespace}}"
    return [
        Route(root, get_namespaces, methods=["GET"]),
        Route(root, post_namespace, methods=["POST"]),
        Route(one, get_namespace, methods=["GET"]),
        Route(one, put_namespace, methods=["PUT", "PATCH"]),
        Route(one, delete_namespace, methods=["DELETE"]),
    ]
