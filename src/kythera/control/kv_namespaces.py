"""KV namespaces through the API: made, named, listed, deleted with all their keys.

Promises: a title means one namespace; a deleted one's id is never given again, and nothing of its
keys is left when the answer says so; a version whose binding names none that exists is refused.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control.bodies import object_body
from kythera.control.caller import Caller, calling
from kythera.control.envelope import listed, success
from kythera.control.kv_store import KvStore
from kythera.control.services import Services, services_of
from kythera.control.store import end, put
from kythera.ground.clock import iso
from kythera.model.catalog import Catalog
from kythera.model.errors import Refusal, StoreUnavailable
from kythera.model.names import RESOURCE_ID
from kythera.model.records import Resource

TYPE = "kv_namespace"
MALFORMED, ABSENT, TITLE_TAKEN, TOO_MANY, NO_TITLE = 10011, 10013, 10014, 10018, 10019
BOUND_TO_NONE = 10041
DIGITS = 32


def namespaces_of(catalog: Catalog, account: str) -> list[Resource]:
    """Return an account's namespaces, by title."""
    return catalog.resources(account, TYPE)


def view(namespace: Resource) -> dict[str, Any]:
    """Return a namespace as the API shows it."""
    return {
        "id": namespace.id,
        "title": namespace.name,
        "supports_url_encoding": True,
        "beta": False,
    }


def namespace_in(request: Request) -> Resource:
    """Return the namespace that a request's address names. Raises Refusal (10011, 10013)."""
    services, found_id = services_of(request), request.path_params["namespace"]
    if RESOURCE_ID.fullmatch(found_id) is None:
        raise Refusal(
            MALFORMED, f"could not parse UUID from request's namespace_id: '{found_id[:80]}'"
        )
    found = services.store.catalog().resource(services.account, TYPE, found_id)
    if found is None:
        raise Refusal(ABSENT, f"namespace not found: '{found_id}'", status=404)
    return found


def kv_of(request: Request) -> KvStore:
    """Return this machine's store."""
    found = services_of(request).kv
    if found is None:
        raise StoreUnavailable("This machine has no KV store.")
    return found


async def get_namespaces(request: Request) -> Response:
    """GET namespaces: by title, or by id; whose token is for some workers sees what they have."""
    services, query = services_of(request), request.query_params
    catalog, caller = services.store.catalog(), calling.get()
    found = namespaces_of(catalog, services.account)
    if caller is not None and caller.workers:
        theirs = set(_bound(catalog, services.account, caller))
        found = [namespace for namespace in found if namespace.id in theirs]
    order = (lambda n: n.id) if query.get("order") == "id" else (lambda n: (n.name, n.id))
    found.sort(key=order, reverse=query.get("direction") == "desc")
    return listed(request, [view(namespace) for namespace in found])


def _bound(catalog: Catalog, account: str, caller: Caller) -> Iterable[str]:
    for worker in caller.workers:
        for version in catalog.versions(account, worker):
            for binding in version.bindings:
                if binding.type == TYPE:
                    yield binding.fields["namespace_id"]


async def get_namespace(request: Request) -> Response:
    """GET namespaces/{namespace}."""
    return success(view(namespace_in(request)))


async def post_namespace(request: Request) -> Response:
    """POST namespaces: `title`."""
    services = services_of(request)
    title = await _title(request)
    found_id = services.chance.hex(DIGITS)

    async def write() -> Resource:
        catalog = services.store.catalog()
        there = namespaces_of(catalog, services.account)
        _refuse_taken(title, there, "")
        _refuse_many(services, len(there))
        made = Resource(
            account=services.account,
            type=TYPE,
            id=found_id,
            name=title,
            created_on=iso(services.clock.now()),
        )
        await services.store.write([put(made)])
        return made

    return success(view(await services.store.settled("KV namespaces", write)))


async def put_namespace(request: Request) -> Response:
    """PUT namespaces/{namespace}: another `title`."""
    services = services_of(request)
    title = await _title(request)

    async def write() -> Resource:
        there = namespaces_of(services.store.catalog(), services.account)
        found = namespace_in(request)
        _refuse_taken(title, there, found.id)
        renamed = msgspec.structs.replace(found, name=title)
        await services.store.write([put(renamed)])
        return renamed

    return success(view(await services.store.settled("KV namespaces", write)))


async def delete_namespace(request: Request) -> Response:
    """DELETE namespaces/{namespace}: its keys first, so that one that is interrupted can be asked
    for again."""
    services, kv = services_of(request), kv_of(request)

    async def write() -> None:
        found = namespace_in(request)
        await kv.end(found.id)
        await services.store.write([end(found.key())])

    await services.store.settled("KV namespaces", write)
    return success(None)


async def _title(request: Request) -> str:
    limits = services_of(request).platform.limits
    title = (await object_body(request, limits.json_body_bytes_max)).get("title")
    if not isinstance(title, str) or not title.strip():
        raise Refusal(NO_TITLE, "missing title")
    if len(title.encode(errors="replace")) > limits.kv_title_bytes_max:
        raise Refusal(NO_TITLE, f"A title has at most {limits.kv_title_bytes_max} bytes.")
    return title


def _refuse_taken(title: str, there: Iterable[Resource], own_id: str) -> None:
    if any(each.name == title and each.id != own_id for each in there):
        raise Refusal(TITLE_TAKEN, f"A KV namespace with the title {title[:80]!r} already exists.")


def _refuse_many(services: Services, there: int) -> None:
    most = services.platform.limits.kv_namespaces_max
    if there >= most:
        raise Refusal(
            TOO_MANY, f"There are {there} KV namespaces, as many as may be (kv_namespaces_max)."
        )


def routes(root: str) -> list[Route]:
    """Return the endpoints of namespaces themselves."""
    one = f"{root}/{{namespace}}"
    return [
        Route(root, get_namespaces, methods=["GET"]),
        Route(root, post_namespace, methods=["POST"]),
        Route(one, get_namespace, methods=["GET"]),
        Route(one, put_namespace, methods=["PUT"]),
        Route(one, delete_namespace, methods=["DELETE"]),
    ]
