"""Tokens with which machines join: made, listed, taken back.

Promises: the secret is in the printed line and nowhere else; a token is made where the fleet's
authority is (a core machine), whichever machine was asked; it says when nobody but this host could
use it.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control.bodies import object_body
from kythera.control.caller import called_by
from kythera.control.envelope import listed, success
from kythera.control.peer_answers import (
    layout_of,
    member_of,
    passed_on,
    question,
    reply,
    told,
    up_to_date,
)
from kythera.control.services import Services, services_of
from kythera.control.store import end, put
from kythera.distribute.admission import core_peers, expired, seconds_of
from kythera.distribute.authority import der_of, fingerprint, issue_joiner, make_key, number_of_key
from kythera.distribute.invitation import Invitation, digest, encode
from kythera.ground.clock import iso
from kythera.ground.sockets import parse_address
from kythera.model.catalog import Catalog
from kythera.model.errors import Refusal, StoreUnavailable
from kythera.model.membership import Peer
from kythera.model.records import Token

ID_DIGITS = 12
KEPT_S = 86_400.0
"""A token is listed this long after its end; then its record goes with the next one made."""
TOKEN_ABSENT = 10312
BAD_LIFE = 10313


class Wanted(Struct, frozen=True, kw_only=True):
    """One machine asks another for a token."""

    life_s: float


class Made(Struct, frozen=True, kw_only=True):
    """A token, this once with its secret."""

    id: str
    token: str
    expires_on: str
    warning: str = ""


async def create(services: Services, life_s: float, request: Request | None = None) -> Made:
    """Make a token here, or have it made where the authority is."""
    _refuse_bad_life(life_s, services.platform.limits.token_life_s_max)
    layout = layout_of(services)
    if not layout.ca_key.exists():
        body = msgspec.json.encode(Wanted(life_s=life_s))
        made = msgspec.json.decode(await passed_on(services, request, "/tokens", body), type=Made)
        await up_to_date(services)
        return made
    now = services.clock.now()
    invitation = _invitation(services, now, life_s)
    record = Token(
        id=invitation.id,
        secret_digest=digest(invitation.secret),
        created_on=iso(now),
        expires_on=iso(now + life_s),
    )
    catalog = services.store.catalog()
    await services.store.write([put(record)])
    with called_by(None):
        await services.store.write([end(key) for key in _forgotten(catalog, now)])
    warning = loopback_warning(invitation.peers)
    return Made(
        id=record.id, token=encode(invitation), expires_on=record.expires_on, warning=warning
    )


def _invitation(services: Services, now: float, life_s: float) -> Invitation:
    layout = layout_of(services)
    ca, key = layout.ca_certificate.read_bytes(), make_key()
    token_id = services.chance.hex(ID_DIGITS)
    peers = core_peers(services.store.catalog())
    if not peers:
        raise StoreUnavailable("The records do not name a core machine yet.")
    certificate = issue_joiner(ca, layout.ca_key.read_bytes(), token_id, key, now, life_s)
    return Invitation(
        id=token_id,
        secret=services.chance.token(),
        expires_at=int(now + life_s),
        fingerprint=fingerprint(ca),
        ca=der_of(ca),
        peers=peers,
        certificate=der_of(certificate),
        key=number_of_key(key),
    )


def _refuse_bad_life(life_s: float, life_s_max: float) -> None:
    if not 1 <= life_s <= life_s_max:
        raise Refusal(
            BAD_LIFE,
            f"A token cannot live for {life_s:g} s.",
            remedy=f"Take 1 to {life_s_max:g} (limit token_life_s_max).",
        )


def _forgotten(catalog: Catalog, now: float) -> Iterable[str]:
    for record in catalog.records.values():
        if isinstance(record, Token) and now > seconds_of(record.expires_on) + KEPT_S:
            yield record.key()


def loopback_warning(peers: Sequence[Peer]) -> str:
    """Return what to say when only machines on this host can reach any of the peers."""
    if not all(is_loopback(peer.mesh) for peer in peers):
        return ""
    return (
        f"The fleet is reached at {', '.join(peer.mesh for peer in peers)}: only machines on this "
        "host can join. Restart with --mesh HOST:PORT, an address that the others can reach."
    )


def is_loopback(address: str) -> bool:
    """Tell whether an address leads to this very host, or nowhere."""
    host, _ = parse_address(address)
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return found.is_loopback or found.is_unspecified


def view(token: Token, now: float) -> dict[str, Any]:
    """Return a token as the API shows it."""
    state = "used" if token.used_by else "expired" if expired(token, now) else "open"
    return {
        "id": token.id,
        "state": state,
        "created_on": token.created_on,
        "expires_on": token.expires_on,
        "used_by": token.used_by,
    }


async def post_token(request: Request) -> Response:
    """POST kythera/tokens: `{"life_s": seconds}`, or nothing for the usual life."""
    services = services_of(request)
    limits = services.platform.limits
    document = await object_body(request, limits.json_body_bytes_max)
    life_s = document.get("life_s", limits.token_life_s)
    if isinstance(life_s, bool) or not isinstance(life_s, int | float):
        raise Refusal(BAD_LIFE, "`life_s` must be a number of seconds.")
    return success(msgspec.to_builtins(await create(services, float(life_s))))


async def get_tokens(request: Request) -> Response:
    """GET kythera/tokens, oldest first."""
    services = services_of(request)
    found = [r for r in services.store.catalog().records.values() if isinstance(r, Token)]
    ordered = sorted(found, key=lambda token: (token.created_on, token.id))
    return listed(request, [view(token, services.clock.now()) for token in ordered])


async def delete_token(request: Request) -> Response:
    """DELETE kythera/tokens/{token}: nobody joins with it any more."""
    services = services_of(request)
    key = f"token.{request.path_params['token']}"

    async def revoke() -> None:
        if not isinstance(services.store.catalog().records.get(key), Token):
            raise Refusal(
                TOKEN_ABSENT,
                f"There is no token {request.path_params['token'][:40]!r}.",
                status=404,
                remedy="See what there is: kythera token list",
            )
        await services.store.write([end(key)])

    await services.store.settled(key, revoke)
    return success({"id": request.path_params["token"]})


@told
async def make_for_peer(request: Request) -> Response:
    """POST /tokens of the mesh: a machine without the authority's key wants a token."""
    member_of(request)
    wanted = await question(request, Wanted)
    return reply(await create(services_of(request), wanted.life_s, request))


def routes(account: str) -> list[Route]:
    """Return the API's endpoints."""
    root = f"{account}/kythera/tokens"
    return [
        Route(root, get_tokens, methods=["GET"]),
        Route(root, post_token, methods=["POST"]),
        Route(f"{root}/{{token}}", delete_token, methods=["DELETE"]),
    ]
