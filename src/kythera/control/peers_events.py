"""Trace events that other machines' cells made, for watchers that are connected here.

They are shown here and never passed on: one hop at most.
"""

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control.bodies import read_body
from kythera.control.services import services_of
from kythera.model.errors import Refusal
from kythera.model.limits import MIB

EVENTS_BYTES_MAX = 16 * MIB


async def read_events(request: Request) -> list[object] | None:
    """Return the events of a body; None when it is none."""
    try:
        body = await read_body(request, EVENTS_BYTES_MAX)
        events = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError, Refusal):
        return None
    return events if isinstance(events, list) else [events]


async def take_events(request: Request) -> Response:
    """POST /events/{account}/{worker}/{version}: 204, or 404 when nobody watches here."""
    services = services_of(request)
    account, worker = request.path_params["account"], request.path_params["worker"]
    if not services.tails.is_watched(account, worker):
        return Response(status_code=404)
    events = await read_events(request)
    if events is None:
        return Response(status_code=400)
    services.tails.publish(account, worker, events)
    return Response(status_code=204)


def routes() -> list[Route]:
    """Return what other machines may send."""
    return [Route("/events/{account}/{worker}/{version}", take_events, methods=["POST"])]
