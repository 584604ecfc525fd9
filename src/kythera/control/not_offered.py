"""What Cloudflare has and this platform has not yet: lists are empty, the rest is refused in words.

wrangler asks for some of these lists on its way to something else (a delete, a first deploy).
"""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control.envelope import listed
from kythera.model.errors import Refusal

ABSENT = {
    "vectorize/v2/indexes": "Vectorize",
    "containers/applications": "containers",
    "containers/dash/applications": "containers",
    "pages/projects": "Pages",
    "event_notifications/r2/{name}/configuration": "event notifications of R2",
    "event_subscriptions/subscriptions": "event subscriptions of queues",
    "slurper/jobs": "Super Slurper",
    "workers/tails/by-consumer/{name}": "tail workers",
}
UNCOUNTED = {
    "r2/metrics": "metrics of R2 through the API (kythera status shows what each Worker asked)",
    "r2/temp-access-credentials": "temporary credentials of R2 (presigned URLs open one object)",
}
"""What is no list: asking is refused too."""
METHODS = ["POST", "PUT", "PATCH", "DELETE"]


def routes(prefix: str) -> list[Route]:
    """Return the routes of all that is not there."""
    found = []
    for path, called in ABSENT.items():
        listing, refusing = _endpoints(called)
        found += [
            Route(f"{prefix}/{path}", listing, methods=["GET"]),
            Route(f"{prefix}/{path}", refusing, methods=METHODS),
            Route(f"{prefix}/{path}/{{rest:path}}", refusing, methods=["GET", *METHODS]),
        ]
    for path, called in UNCOUNTED.items():
        _, refusing = _endpoints(called)
        found.append(Route(f"{prefix}/{path}", refusing, methods=["GET", *METHODS]))
    return found


Endpoint = Callable[[Request], Awaitable[Response]]


def _endpoints(called: str) -> tuple[Endpoint, Endpoint]:
    async def listing(request: Request) -> Response:
        return listed(request, [])

    async def refusing(request: Request) -> Response:
        raise Refusal(
            10021,
            f"This platform does not offer {called} yet.",
            status=404,
            remedy="Remove what needs them from the configuration.",
        )

    return listing, refusing
