"""The gate before what other machines ask: a second look at who asks, after HAProxy's.

Promises: a token's certificate opens nothing but joining, whatever the door in front lets through.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from kythera.control.peer_answers import PEER_HEADER, refusal
from kythera.distribute.admission import Refused
from kythera.distribute.authority import JOINER

OPEN_TO_JOINERS = "/join"


class PeerGate:
    """ASGI middleware: refuses who may only join."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] == "http" and scope["path"] != OPEN_TO_JOINERS and _is_joiner(scope):
            refused = Refused("with a token one may join, and nothing else.")
            await refusal(refused)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _is_joiner(scope: Scope) -> bool:
    return any(
        name == PEER_HEADER.encode() and value.startswith(JOINER.encode())
        for name, value in scope["headers"]
    )
