"""Routes, custom domains, and the zones that clients believe in.

Each worker's are a record of its own, so that two machines may give one pattern away at once. The
log's order decides: whoever wrote later sees the earlier one when its own write shows, and takes its
own back.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from kythera.control.bodies import json_body, object_body
from kythera.control.caller import calling, refuse_beyond, sees
from kythera.control.envelope import listed, success
from kythera.control.grounds import refuse_others_domains, refuse_others_routes
from kythera.control.identity import account_view
from kythera.control.scopes import DEPLOY
from kythera.control.services import Services, services_of
from kythera.control.store import Change, put
from kythera.control.workers import worker_of
from kythera.deploy import triggers
from kythera.deploy.documents import as_flag
from kythera.deploy.refusals import invalid
from kythera.model.catalog import Catalog
from kythera.model.errors import Conflict, Refusal
from kythera.model.names import is_hostname
from kythera.model.records import Domains, Record, Route, Routes
from kythera.route.patterns import PatternError, parse_pattern

DOMAIN_ABSENT = 100114
NOT_SHOWN = "(another)"
"""Instead of a worker's name, for whom it is not."""


def check_pattern(pattern: str) -> None:
    """Refuse what is not a route pattern, in the words of whoever will serve it."""
    try:
        parse_pattern(pattern)
    except PatternError as error:
        raise invalid(str(error)) from None


def _all_routes(catalog: Catalog, account: str) -> list[Routes]:
    return [catalog.routes(account, w.name) for w in catalog.workers(account)]


def _all_domains(catalog: Catalog, account: str) -> list[Domains]:
    return [catalog.domains(account, w.name) for w in catalog.workers(account)]


def _unnamed(held: Mapping[str, str]) -> dict[str, str]:
    """Return which workers have these hostnames; those of others than the caller's without name."""
    return {name: worker if sees(worker) else NOT_SHOWN for name, worker in held.items()}


def _nameless(found: Iterable[Routes]) -> list[Routes]:
    """Return the same routes; workers that the caller may not know of are not named."""
    return [
        routes if sees(routes.worker) else msgspec.structs.replace(routes, worker=NOT_SHOWN)
        for routes in found
    ]


def _earlier(
    services: Services,
    mine: Record,
    everybody: Callable[[Catalog, str], Sequence[Record]],
) -> list[Record]:
    """Return the records that the log has before the one that was just written."""
    store = services.store
    found = everybody(store.catalog(), services.account)
    written = store.guard_of(mine.key())
    return [each for each in found if 0 < store.guard_of(each.key()) < written]


async def zones(request: Request) -> Response:
    """GET /zones?name=: every hostname is said to be a zone of its own."""
    services = services_of(request)
    name = request.query_params.get("name", "").lower().removesuffix(".")
    found = [triggers.zone(name, account_view(services))] if is_hostname(name) else []
    return listed(request, found)


async def zone_routes(request: Request) -> Response:
    """GET /zones/{zone}/workers/routes: all routes of the platform, whatever the zone."""
    services = services_of(request)
    found = [
        {"id": route.id, "pattern": route.pattern, "script": routes.worker}
        for routes in _all_routes(services.store.catalog(), services.account)
        for route in routes.routes
        if sees(routes.worker)
    ]
    return listed(request, found)


async def worker_routes(request: Request) -> Response:
    """GET scripts/{name}/routes."""
    services, worker, _ = worker_of(request)
    found = services.store.catalog().routes(services.account, worker.name).routes
    return listed(request, [_route_view(route, worker.name) for route in found])


def _route_view(route: Route, worker: str) -> dict[str, Any]:
    return {"id": route.id, "pattern": route.pattern, "script": worker, "zone": route.zone_name}


async def put_routes(request: Request) -> Response:
    """PUT scripts/{name}/routes: replace all routes of a worker."""
    services, worker, _ = worker_of(request)
    document = await json_body(request, services.platform.limits.json_body_bytes_max)
    wanted = triggers.read_routes(document, check_pattern)

    async def change() -> None:
        worker_of(request)
        catalog = services.store.catalog()
        others = _all_routes(catalog, services.account)
        triggers.refuse_taken_patterns(wanted, worker.name, _nameless(others))
        current = catalog.routes(services.account, worker.name)
        if current.routes == wanted:
            return
        had = {route.pattern for route in current.routes}
        asked = [route.pattern for route in wanted]
        refuse_others_routes(calling.get(), asked, had, catalog, services.platform.domain)
        await services.store.write([put(msgspec.structs.replace(current, routes=wanted))])
        others = [o for o in _earlier(services, current, _all_routes) if isinstance(o, Routes)]
        try:
            triggers.refuse_taken_patterns(wanted, worker.name, _nameless(others))
        except Refusal:
            await services.store.write([put(current)])
            raise

    await services.store.settled("routes", change)
    return success([_route_view(route, worker.name) for route in wanted])


async def changeset(request: Request) -> Response:
    """POST scripts/{name}/domains/changeset: what would setting these domains change?"""
    services, worker, _ = worker_of(request)
    document = await json_body(request, services.platform.limits.json_body_bytes_max)
    wanted = triggers.read_changeset(document)
    catalog = services.store.catalog()
    held = triggers.holders(wanted, worker.name, _all_domains(catalog, services.account))
    current = catalog.domains(services.account, worker.name).hostnames
    return success(triggers.changeset(wanted, current, _unnamed(held)))


async def put_domains(request: Request) -> Response:
    """PUT scripts/{name}/domains/records: replace all custom domains of a worker."""
    services, worker, _ = worker_of(request)
    document = await object_body(request, services.platform.limits.json_body_bytes_max)
    wanted = triggers.read_domains(document)
    take_over = as_flag(document.get("override_existing_origin", False), "override")

    async def change() -> None:
        worker_of(request)
        catalog = services.store.catalog()
        before = catalog.domains(services.account, worker.name)
        refuse_others_domains(
            calling.get(), wanted, before.hostnames, catalog, services.platform.domain
        )
        await services.store.write(_moved(services, worker.name, wanted, take_over=take_over))
        others = [o for o in _earlier(services, before, _all_domains) if isinstance(o, Domains)]
        held = triggers.holders(wanted, worker.name, others)
        if held and take_over:
            raise Conflict("Another machine gave one of these hostnames away at the same time.")
        if held:
            await services.store.write([put(before)])
            triggers.refuse_held(_unnamed(held))

    await services.store.settled("domains", partial(change))
    return success([triggers.domain_view(name, worker.name) for name in wanted])


def _moved(
    services: Services, worker: str, wanted: tuple[str, ...], *, take_over: bool
) -> list[Change]:
    """Return what gives a worker its hostnames, and takes them from whoever had them."""
    catalog = services.store.catalog()
    everybody = _all_domains(catalog, services.account)
    held = triggers.holders(wanted, worker, everybody)
    if not take_over:
        triggers.refuse_held(_unnamed(held))
    for other in held.values():
        refuse_beyond((DEPLOY,), other)  # what takes a hostname away changes that worker, too
    changes = []
    for domains in everybody:
        left = tuple(h for h in domains.hostnames if h not in wanted)
        hostnames = wanted if domains.worker == worker else left
        if hostnames != domains.hostnames:
            changes.append(put(msgspec.structs.replace(domains, hostnames=hostnames)))
    return changes


def _domains(services: Services) -> list[dict[str, Any]]:
    found = _all_domains(services.store.catalog(), services.account)
    return [
        triggers.domain_view(name, one.worker)
        for one in found
        for name in one.hostnames
        if sees(one.worker)
    ]


async def domains(request: Request) -> Response:
    """GET workers/domains or workers/domains/records: all custom domains, or some."""
    wanted = {
        key: request.query_params[key]
        for key in ("hostname", "service")
        if key in request.query_params
    }
    found = _domains(services_of(request))
    return listed(request, [one for one in found if wanted.items() <= one.items()])


async def domain(request: Request) -> Response:
    """GET workers/domains/records/{id}."""
    for found in _domains(services_of(request)):
        if found["id"] == request.path_params["domain"]:
            return success(found)
    raise Refusal(DOMAIN_ABSENT, "There is no such custom domain.", status=404)
