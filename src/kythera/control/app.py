"""The API as one application: which address is answered by which function.

`build_app` takes everything from outside as `Services`, so that tests run it in their process.
"""

from collections.abc import Awaitable, Callable, Iterable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from kythera.control import (
    analytics,
    api_tokens,
    audit_log,
    binding_map,
    buckets,
    cache_purges,
    cron,
    database_files,
    databases,
    dispatch_namespaces,
    dispatch_scripts,
    fleet_status,
    graphql,
    hyperdrive,
    identity,
    join_tokens,
    keys,
    kv_namespaces,
    kv_values,
    machines,
    machines_core,
    not_offered,
    objects,
    peers,
    queues,
    releases,
    secrets,
    secrets_store,
    static_files,
    tails,
    triggers,
    uploads,
    workers,
    workflows,
)
from kythera.control.access import Gate
from kythera.control.caller import calling, doing, refuse
from kythera.control.envelope import INTERNAL, failed, failure, no_route, wrong_method
from kythera.control.peer_gate import PeerGate
from kythera.control.scopes import ACCOUNT_PATH as ACCOUNT
from kythera.control.scopes import (
    KV,
    KYTHERA,
    NAMESPACES,
    OPEN,
    ROOT,
    SCRIPT,
    WORKERS,
    need_of,
)
from kythera.control.services import Services
from kythera.deploy.refusals import worker_absent
from kythera.model.errors import KytheraError
from kythera.model.names import namespace_of


def api_routes(services: Services) -> list[BaseRoute]:
    """Return all addresses of the API, not guarded yet."""
    return [
        *_identity(),
        *_workers(),
        *_versions(),
        *_secrets(),
        *_assets(),
        *_triggers(),
        *_tails(services),
        Route(f"{ACCOUNT}/kythera/status", fleet_status.fleet, methods=["GET"]),
        *machines.routes(ACCOUNT),
        *machines_core.routes(ACCOUNT),
        *join_tokens.routes(ACCOUNT),
        *keys.routes(ACCOUNT),
        *api_tokens.routes(ACCOUNT),
        *audit_log.routes(ACCOUNT),
        *databases.routes(ACCOUNT),
        *database_files.routes(ACCOUNT),
        *graphql.routes(ROOT),
        *cron.routes(KYTHERA),
        *binding_map.routes(KYTHERA),
        *queues.routes(ACCOUNT),
        *workflows.routes(ACCOUNT),
        *kv_namespaces.routes(KV),
        *kv_values.routes(KV),
        *cache_purges.routes(),
        *analytics.routes(ACCOUNT),
        *hyperdrive.routes(ACCOUNT),
        *secrets_store.routes(ACCOUNT),
        *buckets.routes(ACCOUNT),
        *objects.routes(ACCOUNT),
        *dispatch_namespaces.routes(NAMESPACES),
        *dispatch_scripts.routes(NAMESPACES),
        *not_offered.routes(ACCOUNT),
    ]


def guarded(routes: Iterable[BaseRoute]) -> list[BaseRoute]:
    """Return the same addresses, each asking of its caller what the table says it needs.

    AssertionError for an address that the table does not know."""
    return [_guarded(route) for route in routes]


def _guarded(route: BaseRoute) -> BaseRoute:
    if not isinstance(route, Route):
        assert isinstance(route, WebSocketRoute), "there are no others"
        assert need_of("GET", route.path).reach == OPEN, "a socket's address is its permission"
        return route
    endpoint: Callable[[Request], Awaitable[Response]] = route.endpoint
    needs = {method: need_of(method, route.path) for method in route.methods or ()}
    watching = route.path.startswith(f"{SCRIPT}/tails")

    async def checked(request: Request) -> Response:
        need = needs[request.method]
        if need.reach == OPEN:
            return await endpoint(request)
        caller, worker = calling.get(), request.path_params.get("name", "")
        assert caller is not None, "the gate has found out who calls"
        refuse(caller, need, worker)
        if namespace_of(worker) and not watching:
            raise worker_absent(worker)  # It is at its namespace's addresses.
        with doing(need.does, worker):
            return await endpoint(request)

    return Route(route.path, checked, methods=sorted(needs))


def build_app(services: Services) -> Starlette:
    """Return the API."""
    app = Starlette(
        routes=guarded(api_routes(services)),
        middleware=[Middleware(Gate, services=services)],
        exception_handlers={HTTPException: _http_exception},
    )
    app.router.redirect_slashes = False
    app.state.services = services
    app.state.large_bodies = uploads.large_bodies()
    return app


def build_events_app(services: Services) -> Starlette:
    """Return what observed cells speak to, on a unix socket of their own."""
    app = Starlette(routes=tails.event_routes())
    app.state.services = services
    return app


def build_peers_app(services: Services) -> Starlette:
    """Return what other machines speak to, behind HAProxy's mesh door, on a unix socket."""
    app = Starlette(
        routes=[*peers.routes(), *static_files.peer_routes()],
        middleware=[Middleware(PeerGate, me=services.me)],
        exception_handlers={KytheraError: _refused},
    )
    app.state.services = services
    app.state.large_bodies = uploads.large_bodies()
    return app


def _refused(request: Request, error: Exception) -> Response:
    """Answer another machine as this one's own clients are answered."""
    assert isinstance(error, KytheraError)
    return failed(error)


def _http_exception(request: Request, error: Exception) -> Response:
    """Answer what no endpoint answers: Starlette knows only status codes."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return no_route(request.url.path)
    if error.status_code == 405:
        return wrong_method(request.method, request.url.path)
    return failure([(INTERNAL, error.detail)], error.status_code)


def _identity() -> list[BaseRoute]:
    return [
        Route("/healthz", identity.health, methods=["GET"]),
        Route(f"{ROOT}/user/tokens/verify", identity.verify_token, methods=["GET"]),
        Route(f"{ACCOUNT}/tokens/verify", identity.verify_token, methods=["GET"]),
        Route(f"{ROOT}/user", identity.user, methods=["GET"]),
        Route(f"{ROOT}/accounts", identity.accounts, methods=["GET"]),
        Route(f"{ROOT}/memberships", identity.memberships, methods=["GET"]),
        Route(ACCOUNT, identity.account, methods=["GET"]),
    ]


def _workers() -> list[BaseRoute]:
    return [
        Route(f"{WORKERS}/scripts", workers.scripts, methods=["GET"]),
        Route(f"{WORKERS}/services/{{name}}", workers.service, methods=["GET"]),
        Route(f"{WORKERS}/services/{{name}}", workers.delete, methods=["DELETE"]),
        Route(f"{WORKERS}/workers/{{name}}", workers.worker, methods=["GET"]),
        Route(f"{WORKERS}/subdomain", workers.subdomain, methods=["GET"]),
        Route(f"{WORKERS}/subdomain", workers.register_subdomain, methods=["PUT"]),
        Route(SCRIPT, uploads.put_script, methods=["PUT"]),
        Route(SCRIPT, uploads.content, methods=["GET"]),
        Route(SCRIPT, workers.delete, methods=["DELETE"]),
        Route(f"{SCRIPT}/content/v2", uploads.content, methods=["GET"]),
        Route(f"{SCRIPT}/settings", workers.settings, methods=["GET"]),
        Route(f"{SCRIPT}/settings", secrets.patch_settings, methods=["PATCH"]),
        Route(f"{SCRIPT}/script-settings", workers.script_settings, methods=["GET"]),
        Route(f"{SCRIPT}/script-settings", workers.patch_script_settings, methods=["PATCH"]),
        Route(f"{SCRIPT}/subdomain", workers.worker_subdomain, methods=["GET"]),
        Route(f"{SCRIPT}/subdomain", workers.set_worker_subdomain, methods=["POST"]),
        Route(f"{SCRIPT}/references", workers.references, methods=["GET"]),
    ]


def _versions() -> list[BaseRoute]:
    latest = f"{WORKERS}/workers/{{name}}/versions/latest"
    return [
        Route(f"{SCRIPT}/versions", releases.versions, methods=["GET"]),
        Route(f"{SCRIPT}/versions", uploads.post_version, methods=["POST"]),
        Route(f"{SCRIPT}/versions/{{version}}", releases.version, methods=["GET"]),
        Route(f"{SCRIPT}/deployments", releases.deployments, methods=["GET"]),
        Route(f"{SCRIPT}/deployments", releases.post_deployment, methods=["POST"]),
        Route(f"{SCRIPT}/deployments/{{deployment}}", releases.deployment, methods=["GET"]),
        Route(latest, releases.patch_latest_version, methods=["PATCH"]),
    ]


def _secrets() -> list[BaseRoute]:
    return [
        Route(f"{SCRIPT}/secrets", secrets.secrets, methods=["GET"]),
        Route(f"{SCRIPT}/secrets", secrets.put_secret, methods=["PUT"]),
        Route(f"{SCRIPT}/secrets/{{secret}}", secrets.secret, methods=["GET"]),
        Route(f"{SCRIPT}/secrets/{{secret}}", secrets.delete_secret, methods=["DELETE"]),
        Route(f"{SCRIPT}/secrets-bulk", secrets.patch_secrets, methods=["PATCH"]),
    ]


def _assets() -> list[BaseRoute]:
    upload = f"{WORKERS}/assets/upload"
    return [
        Route(f"{SCRIPT}/assets-upload-session", static_files.begin, methods=["POST"]),
        Route(upload, static_files.upload_form, methods=["POST"]),
        Route(f"{upload}/{{hash}}", static_files.upload_file, methods=["POST"]),
    ]


def _triggers() -> list[BaseRoute]:
    return [
        Route(f"{ROOT}/zones", triggers.zones, methods=["GET"]),
        Route(f"{ROOT}/zones/{{zone}}/workers/routes", triggers.zone_routes, methods=["GET"]),
        Route(f"{SCRIPT}/routes", triggers.worker_routes, methods=["GET"]),
        Route(f"{SCRIPT}/routes", triggers.put_routes, methods=["PUT"]),
        Route(f"{SCRIPT}/domains/changeset", triggers.changeset, methods=["POST"]),
        Route(f"{SCRIPT}/domains/records", triggers.put_domains, methods=["PUT"]),
        Route(f"{WORKERS}/domains", triggers.domains, methods=["GET"]),
        Route(f"{WORKERS}/domains/records", triggers.domains, methods=["GET"]),
        Route(f"{WORKERS}/domains/records/{{domain}}", triggers.domain, methods=["GET"]),
        Route(f"{SCRIPT}/schedules", cron.schedules, methods=["GET"]),
        Route(f"{SCRIPT}/schedules", cron.put_schedules, methods=["PUT"]),
    ]


def _tails(services: Services) -> list[BaseRoute]:
    return [
        Route(f"{SCRIPT}/tails", tails.tails, methods=["GET"]),
        Route(f"{SCRIPT}/tails", tails.post_tail, methods=["POST"]),
        Route(f"{SCRIPT}/tails/{{tail}}", tails.delete_tail, methods=["DELETE"]),
        WebSocketRoute("/tails/{tail}", tails.Socket(services)),
    ]
