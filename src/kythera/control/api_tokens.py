"""Tokens with which people and programs call the API: made, listed, revoked.

Promises: the text is in the answer that makes it and nowhere else (records hold its SHA-256); a name
means one living token; what is revoked is refused on each machine as soon as its copy shows it, and
stays in the list for KEPT_S.
Refuses: more than `api_tokens_max`; `admin` for some workers only, as there is no such thing.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control.api_proofs import ID_DIGITS, PREFIX, SECRET_DIGITS, digest, state_of
from kythera.control.bodies import object_body
from kythera.control.caller import ROOT_NAME, called_by, calling
from kythera.control.envelope import listed, success
from kythera.control.scopes import ADMIN, SCOPES
from kythera.control.services import Services, services_of
from kythera.control.store import Change, end, put
from kythera.deploy.documents import as_list, as_moment, as_text, shown
from kythera.ground.clock import iso
from kythera.model.catalog import Catalog
from kythera.model.errors import Refusal
from kythera.model.limits import Limits
from kythera.model.names import TOKEN_NAME, is_worker_name
from kythera.model.records import ApiToken

BAD_TOKEN = 10320
TOKEN_ABSENT = 10321
NAME_TAKEN = 10322
KEPT_S = 30 * 86_400.0
"""A token that has ended is listed this long; then its record goes with the next one made."""
WORKERS_MAX = 100
LIFE_S_MAX = 100 * 365 * 86_400.0


def tokens_of(catalog: Catalog) -> list[ApiToken]:
    """Return all tokens, oldest first."""
    found = [r for r in catalog.records.values() if isinstance(r, ApiToken)]
    return sorted(found, key=lambda token: (token.created_on, token.id))


def view(token: ApiToken, now: float) -> dict[str, Any]:
    """Return a token as the API shows it: Cloudflare's fields, and what it may in our words."""
    return {
        "id": token.id,
        "name": token.name,
        "status": state_of(token, now),
        "issued_on": token.created_on,
        "modified_on": token.revoked_on or token.created_on,
        "expires_on": token.expires_on or None,
        "not_before": None,
        "scopes": list(token.scopes),
        "workers": list(token.workers),
        "created_by": token.created_by,
        "revoked_on": token.revoked_on or None,
    }


def read_token(document: dict[str, Any], now: float, limits: Limits) -> ApiToken:
    """Return the token that a document asks for, without id and digest. Pure. Raises Refusal."""
    name = as_text(document.get("name"), "name")
    if TOKEN_NAME.fullmatch(name) is None or name == ROOT_NAME:
        raise Refusal(
            BAD_TOKEN,
            f"{shown(name)} cannot be a token's name.",
            remedy="Use letters, digits and . _ - (63 at most), beginning with a letter or digit.",
        )
    scopes, workers = _scopes(document), _workers(document)
    if ADMIN in scopes and workers:
        raise Refusal(BAD_TOKEN, "The scope admin is for everything: name no workers with it.")
    return ApiToken(
        id="",
        name=name,
        digest="",
        scopes=scopes,
        workers=workers,
        created_on=iso(now),
        expires_on=_end(document, now, limits),
    )


def _scopes(document: dict[str, Any]) -> tuple[str, ...]:
    wanted = as_list(document.get("scopes"), "scopes")
    for scope in wanted:
        if scope not in SCOPES:
            raise Refusal(
                BAD_TOKEN, f"{shown(scope)} is no scope.", remedy=f"There are: {', '.join(SCOPES)}."
            )
    if not wanted:
        raise Refusal(BAD_TOKEN, "A token has one scope at least.")
    return tuple(scope for scope in SCOPES if scope in wanted)


def _workers(document: dict[str, Any]) -> tuple[str, ...]:
    wanted = as_list(document.get("workers") or [], "workers")
    for name in wanted:
        if not isinstance(name, str) or not is_worker_name(name):
            raise Refusal(BAD_TOKEN, f"{shown(name)} cannot be a Worker's name.")
    if len(wanted) > WORKERS_MAX:
        raise Refusal(BAD_TOKEN, f"A token is for {WORKERS_MAX} workers at most, or for all.")
    return tuple(dict.fromkeys(wanted))


def _end(document: dict[str, Any], now: float, limits: Limits) -> str:
    """Return when it ends: `expires_on`, or `life_s` from now (null: never), or the usual life."""
    if document.get("expires_on") is not None:
        at = as_moment(document["expires_on"], "expires_on")
        if not now < at <= now + LIFE_S_MAX:
            raise Refusal(BAD_TOKEN, f"{shown(document['expires_on'])} is over, or very far away.")
        return iso(at)
    life_s = document.get("life_s", limits.api_token_life_s)
    if life_s is None:
        return ""
    if isinstance(life_s, bool) or not isinstance(life_s, int | float):
        raise Refusal(BAD_TOKEN, "`life_s` must be a number of seconds, or null for no end.")
    if not 1 <= life_s <= LIFE_S_MAX:
        raise Refusal(BAD_TOKEN, f"A token cannot live for {life_s:g} s.")
    return iso(now + life_s)


async def post_token(request: Request) -> Response:
    """POST tokens: `name`, `scopes`, and maybe `workers`, `expires_on` or `life_s`."""
    services = services_of(request)
    limits, now = services.platform.limits, services.clock.now()
    wanted = read_token(await object_body(request, limits.json_body_bytes_max), now, limits)
    caller = calling.get()
    assert caller is not None, "the gate has found out who calls"
    token_id = services.chance.hex(ID_DIGITS)
    text = f"{PREFIX}_{token_id}_{services.chance.hex(SECRET_DIGITS)}"
    made = msgspec.structs.replace(wanted, id=token_id, digest=digest(text), created_by=caller.name)

    async def write() -> None:
        catalog = services.store.catalog()
        _refuse_taken(made, tokens_of(catalog), now, limits)
        await services.store.write([put(made, 0)])
        with called_by(None):
            await services.store.write(_forgotten(services.store.catalog(), now))

    await services.store.settled("API tokens", write)
    return success({**view(made, now), "value": text})


def _refuse_taken(made: ApiToken, there: Iterable[ApiToken], now: float, limits: Limits) -> None:
    active = [token for token in there if state_of(token, now) == "active"]
    if any(token.name == made.name for token in active):
        raise Refusal(
            NAME_TAKEN,
            f"There is a token {made.name!r} already.",
            status=409,
            remedy=f"Choose another name, or first: kythera api-token revoke {made.name}",
        )
    if len(active) >= limits.api_tokens_max:
        raise Refusal(
            BAD_TOKEN,
            f"There are {len(active)} tokens, as many as may be (limit api_tokens_max).",
            status=429,
            remedy="Revoke those that nobody uses: kythera api-token list",
        )


def _forgotten(catalog: Catalog, now: float) -> list[Change]:
    past = iso(now - KEPT_S)
    ended = [token for token in tokens_of(catalog) if state_of(token, now) != "active"]
    return [end(token.key()) for token in ended if _ended_on(token) < past]


def _ended_on(token: ApiToken) -> str:
    """Return when a token that opens nothing any more began to."""
    return min(filter(None, (token.revoked_on, token.expires_on)))


async def get_tokens(request: Request) -> Response:
    """GET tokens, oldest first."""
    services = services_of(request)
    found = tokens_of(services.store.catalog())
    return listed(request, [view(token, services.clock.now()) for token in found])


def _named(services: Services, name: str) -> list[ApiToken]:
    """Return a token by its id, or those of a name, the good ones first."""
    found = [t for t in tokens_of(services.store.catalog()) if name in (t.id, t.name)]
    if not found:
        raise Refusal(
            TOKEN_ABSENT,
            f"There is no API token {name[:80]!r}.",
            status=404,
            remedy="See what there is: kythera api-token list",
        )
    now = services.clock.now()
    ordered = sorted(found, key=lambda t: (t.id != name, state_of(t, now) != "active"))
    return ordered[:1] if ordered[0].id == name else ordered


async def get_token(request: Request) -> Response:
    """GET tokens/{token}: by id or name."""
    services = services_of(request)
    found, *_ = _named(services, request.path_params["token"])
    return success(view(found, services.clock.now()))


async def delete_token(request: Request) -> Response:
    """DELETE tokens/{token}: it opens nothing any more, nor does another of that name.

    (Two machines that are asked for one name at the same moment make two.)"""
    services = services_of(request)

    async def revoke() -> ApiToken:
        found = _named(services, request.path_params["token"])
        now = iso(services.clock.now())
        good = [token for token in found if not token.revoked_on]
        await services.store.write(
            [put(msgspec.structs.replace(token, revoked_on=now)) for token in good]
        )
        return found[0]

    revoked = await services.store.settled("API tokens", revoke)
    return success({"id": revoked.id, "name": revoked.name})


def routes(account: str) -> list[Route]:
    """Return the API's endpoints."""
    root = f"{account}/tokens"
    return [
        Route(root, get_tokens, methods=["GET"]),
        Route(root, post_token, methods=["POST"]),
        Route(f"{root}/{{token}}", get_token, methods=["GET"]),
        Route(f"{root}/{{token}}", delete_token, methods=["DELETE"]),
    ]
