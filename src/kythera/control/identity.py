"""Who is asking, and is anybody there: user, token, accounts, health.

There is one token and one account; what Cloudflare tells about people is made up from them.
"""

import anyio
from starlette.requests import Request
from starlette.responses import Response

from kythera.control.envelope import answer, listed, success
from kythera.control.services import Services, services_of
from kythera.model.errors import StoreUnavailable

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
    """GET /user/tokens/verify."""
    account = services_of(request).account
    return success({"id": account, "status": "active", "not_before": None, "expires_on": None})


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
    services = services_of(request)
    membership = {
        "id": services.account,
        "status": "accepted",
        "account": account_view(services),
        "roles": ["Super Administrator - All Privileges"],
    }
    return listed(request, [membership])
