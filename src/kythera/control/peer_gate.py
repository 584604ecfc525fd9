"""The gate before what other machines ask: a second look at who asks, after HAProxy's.

Promises: a token's certificate opens nothing but joining, whatever the door in front lets through;
what is changed here is put down to who asked for it, also when another machine passed it on.
"""

import msgspec
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from kythera.control.caller import Caller, called_by
from kythera.control.peer_answers import CALLER_HEADER, PEER_HEADER, handed_caller, refusal
from kythera.control.scopes import PEERS_DO
from kythera.distribute.admission import Refused
from kythera.distribute.authority import JOINER

OPEN_TO_JOINERS = "/join"


class PeerGate:
    """ASGI middleware: refuses who may only join."""

    def __init__(self, app: ASGIApp, me: str) -> None:
        self._app = app
        self._me = me

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        peer = headers.get(PEER_HEADER, "")
        if scope["path"] != OPEN_TO_JOINERS and peer.startswith(JOINER):
            refused = Refused("with a token one may join, and nothing else.")
            await refusal(refused)(scope, receive, send)
            return
        with called_by(self._caller(peer, headers.get(CALLER_HEADER, ""), scope["path"])):
            await self._app(scope, receive, send)

    def _caller(self, peer: str, handed: str, path: str) -> Caller | None:
        """Return whose doing it is; None where machines change nothing."""
        does = PEERS_DO.get(path)
        if does is None:
            return None
        told = None if peer.startswith(JOINER) else handed_caller(handed)
        if told is None:
            joins = peer.startswith(JOINER)
            name = f"join token {peer.removeprefix(JOINER)}" if joins else f"machine {peer}"
            told = Caller(name=name, machine=self._me)
        return msgspec.structs.replace(told, does=does)
