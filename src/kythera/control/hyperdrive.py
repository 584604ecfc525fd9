"""Hyperdrive's endpoints: configurations, without their passwords.

One lets workers reach an address that the egress rules would refuse, so it takes an administrator.
"""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control.bodies import object_body
from kythera.control.envelope import listed, success
from kythera.control.services import services_of
from kythera.control.store import end, put
from kythera.deploy import hyperdrive
from kythera.deploy.hyperdrive import HYPERDRIVE
from kythera.ground.clock import iso
from kythera.model.records import Resource

ID_DIGITS = 32
SCOPE = "Hyperdrive configs"


def _config(request: Request) -> Resource:
    services = services_of(request)
    catalog = services.store.catalog()
    return hyperdrive.config_of(catalog, services.account, request.path_params["config"])


async def get_configs(request: Request) -> Response:
    """GET configs."""
    services = services_of(request)
    found = services.store.catalog().resources(services.account, HYPERDRIVE)
    return listed(request, [hyperdrive.view(config) for config in found])


async def get_config(request: Request) -> Response:
    """GET configs/{config}."""
    return success(hyperdrive.view(_config(request)))


async def post_config(request: Request) -> Response:
    """POST configs."""
    services = services_of(request)
    limits = services.platform.limits
    document = await object_body(request, limits.json_body_bytes_max)

    async def write() -> Resource:
        now = iso(services.clock.now())
        blank = Resource(
            account=services.account,
            type=HYPERDRIVE,
            id=services.chance.hex(ID_DIGITS),
            name="",
            created_on=now,
        )
        named = {"name": "", **document}
        after = hyperdrive.made(named, blank, services.seals, now, limits)
        hyperdrive.refuse_taken(services.store.catalog(), after, limits)
        await services.store.write([put(after, 0)])
        return after

    return success(hyperdrive.view(await services.store.settled(SCOPE, write)))


async def change_config(request: Request) -> Response:
    """PATCH and PUT configs/{config}: what is not said stays."""
    services = services_of(request)
    limits = services.platform.limits
    document = await object_body(request, limits.json_body_bytes_max)

    async def write() -> Resource:
        now = iso(services.clock.now())
        after = hyperdrive.changed(document, _config(request), services.seals, now, limits)
        hyperdrive.refuse_taken(services.store.catalog(), after, limits)
        await services.store.write([put(after)])
        return after

    return success(hyperdrive.view(await services.store.settled(SCOPE, write)))


async def delete_config(request: Request) -> Response:
    """DELETE configs/{config}."""
    services = services_of(request)

    async def write() -> None:
        await services.store.write([end(_config(request).key())])

    await services.store.settled(SCOPE, write)
    return success(None)


Endpoint = Callable[[Request], Awaitable[Response]]


def routes(account: str) -> list[Route]:
    """Return the API's endpoints."""
    root = f"{account}/hyperdrive/configs"
    of_one: list[tuple[str, Endpoint]] = [
        ("GET", get_config),
        ("PATCH", change_config),
        ("PUT", change_config),
        ("DELETE", delete_config),
    ]
    return [
        Route(root, get_configs, methods=["GET"]),
        Route(root, post_config, methods=["POST"]),
        *(Route(f"{root}/{{config}}", endpoint, methods=[method]) for method, endpoint in of_one),
    ]
