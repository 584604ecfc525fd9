"""The secrets store's endpoints: stores, and secrets in them. Texts go in and never come out.

Each store's changes take turns (`settled`), so that two callers cannot take one name.
"""

from collections.abc import Callable
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control.bodies import json_body, object_body
from kythera.control.envelope import listed, success
from kythera.control.services import Services, services_of
from kythera.control.store import Change, end, put
from kythera.deploy import shared_secrets
from kythera.deploy.documents import as_text
from kythera.deploy.shared_secrets import SECRET, STORE
from kythera.ground.clock import iso
from kythera.model.records import Resource

T = TypeVar("T")
ID_DIGITS = 32


async def _write(services: Services, decide: Callable[[], tuple[T, list[Change]]]) -> T:
    """Decide by the records as they are, and write; again when somebody else came first."""

    async def change() -> T:
        result, changes = decide()
        await services.store.write(changes)
        return result

    return await services.store.settled("secrets store", change)


def _id(services: Services) -> str:
    return services.chance.hex(ID_DIGITS)


def _store(request: Request) -> Resource:
    services = services_of(request)
    catalog = services.store.catalog()
    return shared_secrets.store_of(catalog, services.account, request.path_params["store"])


def _secret(request: Request) -> Resource:
    services = services_of(request)
    ids = request.path_params["store"], request.path_params["secret"]
    return shared_secrets.secret_of(services.store.catalog(), services.account, *ids)


async def get_stores(request: Request) -> Response:
    """GET stores."""
    services = services_of(request)
    found = services.store.catalog().resources(services.account, STORE)
    return listed(request, [shared_secrets.view_store(store) for store in found])


async def post_store(request: Request) -> Response:
    """POST stores: `{name}`; the SDK sends a list of one."""
    services = services_of(request)
    limits = services.platform.limits
    document = await json_body(request, limits.json_body_bytes_max)
    several = isinstance(document, list)
    (wanted,) = shared_secrets.read_list(document if several else [document])[:1]

    def decide() -> tuple[Resource, list[Change]]:
        now = iso(services.clock.now())
        made = shared_secrets.read_store(
            wanted, services.store.catalog(), services.account, _id(services), now, limits
        )
        return made, [put(made, 0)]

    made = shared_secrets.view_store(await _write(services, decide))
    return success([made] if several else made)


async def get_store(request: Request) -> Response:
    """GET stores/{store}."""
    return success(shared_secrets.view_store(_store(request)))


async def delete_store(request: Request) -> Response:
    """DELETE stores/{store}: with all that is in it."""
    services = services_of(request)

    def decide() -> tuple[Resource, list[Change]]:
        store = _store(request)
        inside = shared_secrets.secrets_in(services.store.catalog(), store.account, store.id)
        return store, [end(record.key()) for record in (store, *inside)]

    return success(shared_secrets.view_store(await _write(services, decide)))


async def get_secrets(request: Request) -> Response:
    """GET stores/{store}/secrets?search=."""
    services, store = services_of(request), _store(request)
    found = shared_secrets.secrets_in(services.store.catalog(), store.account, store.id)
    search = request.query_params.get("search", "")
    shown = [shared_secrets.view_secret(secret) for secret in found if search in secret.name]
    return listed(request, shown)


async def post_secrets(request: Request) -> Response:
    """POST stores/{store}/secrets: a list of `{name, value, scopes, comment}`, all or none."""
    services = services_of(request)
    limits = services.platform.limits
    entries = shared_secrets.read_list(await json_body(request, limits.json_body_bytes_max))

    def decide() -> tuple[list[Resource], list[Change]]:
        store, now = _store(request), iso(services.clock.now())
        read = [
            shared_secrets.read_secret(entry, store, _id(services), now, limits)
            for entry in entries
        ]
        bare = [secret for secret, _ in read]
        shared_secrets.refuse_taken(services.store.catalog(), bare, limits)
        made = [shared_secrets.with_text(*each, services.seals) for each in read]
        return made, [put(secret, 0) for secret in made]

    made = await _write(services, decide)
    return success([shared_secrets.view_secret(secret) for secret in made])


async def get_secret(request: Request) -> Response:
    """GET stores/{store}/secrets/{secret}."""
    return success(shared_secrets.view_secret(_secret(request)))


async def patch_secret(request: Request) -> Response:
    """PATCH stores/{store}/secrets/{secret}: another text, scopes or comment."""
    services = services_of(request)
    limits = services.platform.limits
    document = await object_body(request, limits.json_body_bytes_max)

    def decide() -> tuple[Resource, list[Change]]:
        now = iso(services.clock.now())
        after = shared_secrets.changed(_secret(request), document, services.seals, now, limits)
        return after, [put(after)]

    return success(shared_secrets.view_secret(await _write(services, decide)))


async def delete_secret(request: Request) -> Response:
    """DELETE stores/{store}/secrets/{secret}."""
    services = services_of(request)

    def decide() -> tuple[Resource, list[Change]]:
        secret = _secret(request)
        return secret, [end(secret.key())]

    return success(shared_secrets.view_secret(await _write(services, decide)))


async def delete_secrets(request: Request) -> Response:
    """DELETE stores/{store}/secrets: a list of `{id}`, all or none."""
    services = services_of(request)
    bytes_max = services.platform.limits.json_body_bytes_max
    entries = shared_secrets.read_list(await json_body(request, bytes_max))
    ids = [as_text(entry.get("id"), "a secret's id") for entry in entries]

    def decide() -> tuple[list[Resource], list[Change]]:
        catalog, store = services.store.catalog(), _store(request)
        found = [
            shared_secrets.secret_of(catalog, services.account, store.id, secret_id)
            for secret_id in ids
        ]
        return found, [end(secret.key()) for secret in found]

    gone = await _write(services, decide)
    return success([shared_secrets.view_secret(secret) for secret in gone])


async def post_duplicate(request: Request) -> Response:
    """POST stores/{store}/secrets/{secret}/duplicate: the same text under another name."""
    services = services_of(request)
    limits = services.platform.limits
    document = await object_body(request, limits.json_body_bytes_max)

    def decide() -> tuple[Resource, list[Change]]:
        source, now = _secret(request), iso(services.clock.now())
        bare = shared_secrets.bare(document, _store(request), _id(services), now)
        shared_secrets.refuse_taken(services.store.catalog(), [bare], limits)
        text = shared_secrets.opened(source, services.seals)
        made = shared_secrets.with_text(bare, text, services.seals)
        return made, [put(made, 0)]

    return success(shared_secrets.view_secret(await _write(services, decide)))


async def get_quota(request: Request) -> Response:
    """GET quota: how many secrets there are, and how many may be."""
    services = services_of(request)
    usage = len(services.store.catalog().resources(services.account, SECRET))
    quota = services.platform.limits.secrets_store_secrets_max
    return success({"secrets": {"usage": usage, "quota": quota}})


def routes(account: str) -> list[Route]:
    """Return the API's endpoints."""
    stores = f"{account}/secrets_store/stores"
    secrets = f"{stores}/{{store}}/secrets"
    return [
        Route(f"{account}/secrets_store/quota", get_quota, methods=["GET"]),
        Route(stores, get_stores, methods=["GET"]),
        Route(stores, post_store, methods=["POST"]),
        Route(f"{stores}/{{store}}", get_store, methods=["GET"]),
        Route(f"{stores}/{{store}}", delete_store, methods=["DELETE"]),
        Route(secrets, get_secrets, methods=["GET"]),
        Route(secrets, post_secrets, methods=["POST"]),
        Route(secrets, delete_secrets, methods=["DELETE"]),
        Route(f"{secrets}/{{secret}}", get_secret, methods=["GET"]),
        Route(f"{secrets}/{{secret}}", patch_secret, methods=["PATCH"]),
        Route(f"{secrets}/{{secret}}", delete_secret, methods=["DELETE"]),
        Route(f"{secrets}/{{secret}}/duplicate", post_duplicate, methods=["POST"]),
    ]
