"""Who is asking, and is anybody there: user, token, accounts, health.

There is one account, and there are tokens; what Cloudflare tells about people is made up from them.
"""

import anyio
from starlette.requests import Request
from starlette.responses import Response

from kythera.control.caller import calling
from kythera.control.envelope import answer, listed, success
from kythera.control.scopes import ADMIN
from kythera.control.services import Services, services_of
from kythera.model.errors import StoreUnavailable
from kythera.model.records import ApiToken

HEALTH_MS = 2_000
SETTINGS = {"enforce_twofactor": False}


async def health(request: Request) -> Response:
    """GET /healthz: 200 while records can be read and written; with `?reads`, while they can be
    read: a machine that is cut off from the log is well enough to serve."""
    services = services_of(request)
    if "reads" in request.query_params:
        return _readable(services)
    reason = f"no answer within {HEALTH_MS} ms"
    with anyio.move_on_after(HEALTH_MS / 1000):
        try:
            await services.store.usable()
            return answer({"healthy": True}, 200)
        except StoreUnavailable as error:
            reason = str(error)
    return answer({"healthy": False, "reason": reason}, 503, {"retry-after": "1"})


def _readable(services: Services) -> Response:
    try:
        services.store.applied_seq()
    except StoreUnavailable as error:
        return answer({"healthy": False, "reason": str(error)}, 503, {"retry-after": "1"})
    return answer({"healthy": True}, 200)


async def verify_token(request: Request) -> Response:
    """GET /user/tokens/verify or accounts/{account}/tokens/verify: the token that asks."""
    services, caller = services_of(request), calling.get()
    assert caller is not None, "the gate has found out who calls"
    found = services.store.catalog().records.get(f"apitoken.{caller.token}") if caller.token else 0
    expires_on = found.expires_on if isinstance(found, ApiToken) else ""
    return success(
        {
            "id": caller.token or services.account,
            "status": "active",
            "not_before": None,
            "expires_on": expires_on or None,
        }
    )


async def user(request: Request) -> Response:
    """GET /user."""
    services = services_of(request)
    return success({"id": services.account, "email": services.author, "username": "operator"})


def account_view(services: Services) -> dict[str, object]:
    """Return the platform's account as the API shows it."""
    found = services.store.catalog().accounts()
    name = next((a.name for a in found if a.id == services.account), "Kythera")
    return {"id": services.account, "name": name, "type": "standard", "settings": SETTINGS}


async def accounts(request: Request) -> Response:
    """GET /accounts."""
    return listed(request, [account_view(services_of(request))])


async def account(request: Request) -> Response:
    """GET /accounts/{account}."""
    return success(account_view(services_of(request)))


async def memberships(request: Request) -> Response:
    """GET /memberships."""
    services, caller = services_of(request), calling.get()
    assert caller is not None, "the gate has found out who calls"
    scopes = [f"API token with the scope {scope}" for scope in caller.scopes]
    membership = {
        "id": services.account,
        "status": "accepted",
        "account": account_view(services),
        "roles": ["Super Administrator - All Privileges"] if ADMIN in caller.scopes else scopes,
    }
    return listed(request, [membership])
