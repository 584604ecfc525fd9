"""What the fleet's other machines ask of this one, on a unix socket that HAProxy's mesh door alone
connects to.

Promises: the peer's name (PEER_HEADER) is the one in its certificate: HAProxy sets it and takes
a client's own away. Each part of the fleet adds its routes in a module of its own.
"""

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from kythera.control import (
    key_answers,
    machines_core,
    peers_blobs,
    peers_events,
    peers_join,
    peers_records,
    peers_status,
)
from kythera.control.peer_answers import PEER_HEADER, peer_of

__all__ = ["PEER_HEADER", "peer_of", "routes"]


async def health(request: Request) -> Response:
    """GET /health: this machine's control process answers."""
    return PlainTextResponse("ok\n")


def routes() -> list[Route]:
    """Return everything that other machines may ask."""
    return [
        Route("/health", health, methods=["GET"]),
        *peers_status.routes(),
        *peers_events.routes(),
        *peers_blobs.routes(),
        *peers_records.routes(),
        *peers_join.routes(),
        *key_answers.peer_routes(),
        *machines_core.peer_routes(),
    ]
