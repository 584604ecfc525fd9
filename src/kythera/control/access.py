"""The gate before every endpoint: who may pass, whose account it is, and what a failure becomes.

Promises: what was acknowledged on another machine is seen here, or the answer says how old it is;
tokens are compared in constant time; nothing but health, tail sockets (whose URL is the
capability) and asset uploads (which bring a token of their own) passes without one; whatever goes
wrong behind the gate leaves as an envelope, and what nobody expected is in the journal.
"""

import hashlib
import hmac
import re
import traceback

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kythera.control.envelope import INTERNAL, STALE, failed, failure, no_route, notes
from kythera.control.services import Services
from kythera.model.errors import KytheraError, StoreUnavailable

UNAUTHENTICATED = 10000
ACCOUNT = re.compile(r"/client/v4/accounts/(?P<account>[^/]+)(/.*)?", re.DOTALL)
OWN_TOKEN = re.compile(r"/client/v4/accounts/[^/]+/workers/assets/upload(/.*)?", re.DOTALL)
OPEN = ("/healthz",)
AS_IT_IS = re.compile(r"/client/v4/(user(/.*)?|accounts/[^/]+/kythera/status)", re.DOTALL)
"""What does not come from the records, or must be told while the log is away."""
STALE_HEADER = "kythera-stale"


class Gate:
    """ASGI middleware: lets through, refuses, and catches."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services
        self._token = _digest(services.token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False
        told = notes.set(())

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                for _, sentence in notes.get():
                    MutableHeaders(scope=message)[STALE_HEADER] = sentence
            await send(message)

        refused = self._refused(scope)
        try:
            if refused is None:
                await self._refresh(scope["path"])
                await self._app(scope, receive, sending)
        except Exception as error:  # noqa: BLE001 - the gate is where everything ends
            refused = self._caught(error, scope)
        finally:
            notes.reset(told)
        if refused is not None and not started:
            await refused(scope, receive, send)

    async def _refresh(self, path: str) -> None:
        """In a fleet, let the copy catch up with what other machines acknowledged before."""
        services = self._services
        if path in OPEN or OWN_TOKEN.fullmatch(path) or AS_IT_IS.fullmatch(path):
            return
        joined = services.fleet.joined
        if not joined and len(services.store.catalog().machines()) < 2:
            return
        note = await services.fleet.freshness.wait(
            services.store, services.platform.limits, services.clock
        )
        if joined:
            _refuse_unless_member(services)
        if note:
            notes.set(((STALE, note),))

    def _refused(self, scope: Scope) -> Response | None:
        path = scope["path"]
        if path in OPEN or OWN_TOKEN.fullmatch(path):
            return self._wrong_account(path)
        presented = presented_token(Headers(scope=scope))
        if presented is None:
            return failure([(UNAUTHENTICATED, "Authentication error: no API token was sent.")], 401)
        if not hmac.compare_digest(_digest(presented), self._token):
            text = "Authentication error: this is not the API token of this platform."
            return failure([(UNAUTHENTICATED, text)], 403)
        return self._wrong_account(path)

    def _wrong_account(self, path: str) -> Response | None:
        found = ACCOUNT.fullmatch(path)
        if found is None or found["account"] == self._services.platform.account_id:
            return None
        return no_route(path)

    def _caught(self, error: Exception, scope: Scope) -> Response:
        if isinstance(error, KytheraError):
            return failed(error)
        if isinstance(error, ClientDisconnect):
            return failure([(INTERNAL, "The client went away.")], 400)
        self._services.journal.say(
            "request_failed",
            level="error",
            method=scope["method"],
            path=scope["path"][:200],
            exception="".join(traceback.format_exception(error)),
        )
        text = "Something unexpected happened; the platform's journal has the details."
        return failure([(INTERNAL, text)], 500)


def _refuse_unless_member(services: Services) -> None:
    """Refuse to deny what is there: a copy that is not whole yet, or no longer follows."""
    if not services.store.is_whole():
        raise StoreUnavailable(
            "This machine's copy of the records is not whole yet.",
            remedy="Ask another machine; `kythera status` shows how far this one is.",
        )
    if services.store.catalog().machine(services.me) is None:
        raise StoreUnavailable(
            "This machine is no longer in its fleet: it was removed.",
            remedy="Ask another machine; or let this one join anew with an empty state folder.",
        )


def presented_token(headers: Headers) -> str | None:
    """Return the token of a request: a bearer, or the key of those who still use one."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("x-auth-key")


def _digest(token: str) -> bytes:
    """Equal lengths, so that a comparison tells nothing, not even how long the token is."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
