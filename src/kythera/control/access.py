"""The gate before every endpoint: who is calling, whose account it is, and what a failure becomes.

Promises: what was acknowledged on another machine is seen here, or the answer says how old it is;
tokens are compared in constant time; nothing but health, tail sockets (whose URL is the
capability), asset uploads and databases' files (which bring a token of their own) passes without one; wrong tokens are
counted, and slow whoever sends many; whatever goes wrong behind the gate leaves as an envelope, and
what nobody expected is in the journal.
"""

import re
import traceback

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kythera.control.api_proofs import (
    UNAUTHENTICATED,
    WrongToken,
    address_of,
    caller_of,
    is_root,
    text_of,
)
from kythera.control.caller import Caller, Forbidden, called_by
from kythera.control.envelope import INTERNAL, STALE, failed, failure, no_route, notes
from kythera.control.services import Services
from kythera.model.errors import KytheraError, StoreUnavailable

ACCOUNT = re.compile(r"/client/v4/accounts/(?P<account>[^/]+)(/.*)?", re.DOTALL)
OWN_TOKEN = re.compile(
    r"/client/v4/(accounts/[^/]+/workers/assets/upload(/.*)?|d1/files/.*)", re.DOTALL
)
OPEN = ("/healthz",)
AS_IT_IS = re.compile(r"/client/v4/(user(/.*)?|accounts/[^/]+/kythera/status)", re.DOTALL)
"""What does not come from the records, or must be told while the log is away."""
STALE_HEADER = "kythera-stale"
TOO_MANY = "Too many wrong tokens come at once."


class Gate:
    """ASGI middleware: lets through, refuses, and catches."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

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

        refused: Response | None = None
        try:
            caller = await self._caller(scope)
            refused = self._wrong_account(scope["path"])
            if refused is None:
                with called_by(caller):
                    await self._app(scope, receive, sending)
        except WrongToken as error:
            refused = await self._slowed(error, scope)
        except Exception as error:  # noqa: BLE001 - the gate is where everything ends
            refused = self._caught(error, scope)
        finally:
            notes.reset(told)
        if refused is not None and not started:
            await refused(scope, receive, send)

    async def _caller(self, scope: Scope) -> Caller | None:
        """Return who is calling, as the newest records say; None where everybody may."""
        path = scope["path"]
        if path in OPEN or OWN_TOKEN.fullmatch(path):
            return None
        services, headers = self._services, Headers(scope=scope)
        text = text_of(headers)
        if is_root(text, services):
            if not AS_IT_IS.fullmatch(path):
                await self._refresh()
            return caller_of(text, services, scope, headers)
        await self._refresh_for(text, scope, headers)
        return caller_of(text, services, scope, headers)

    async def _refresh_for(self, text: str, scope: Scope, headers: Headers) -> None:
        """Let the copy catch up before a token is believed: it may be made, or revoked, elsewhere.

        Not for whoever has sent many wrong ones: each would be a question to the log."""
        services = self._services
        try:
            caller_of(text, services, scope, headers)
        except WrongToken as wrong:
            client = address_of(scope)
            if not wrong.may_be_new:
                raise
            if services.wrong_tokens.is_slowed(client, services.clock.monotonic()):
                raise
        await self._refresh()

    async def _refresh(self) -> None:
        """In a fleet, let the copy catch up with what other machines acknowledged before."""
        services = self._services
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

    async def _slowed(self, wrong: WrongToken, scope: Scope) -> Response:
        """Count a wrong token; let its answer wait when many came from there."""
        services, client = self._services, address_of(scope)
        now = services.clock.monotonic()
        wait_s = 0.0
        if wrong.reason == "absent":
            services.wrong_tokens.counts[wrong.reason] += 1
        else:
            wait_s = services.wrong_tokens.failed(client, wrong.reason, now)
            told = services.wrong_tokens.to_tell(now)
            if told is not None:
                services.journal.warn("wrong_token", client=client, reason=wrong.reason, **told)
        if wait_s and not services.wrong_tokens.begin_waiting():
            return failure([(UNAUTHENTICATED, f"{wrong} {TOO_MANY}")], 429, {"retry-after": "5"})
        if wait_s:
            try:
                await anyio.sleep(wait_s)
            finally:
                services.wrong_tokens.end_waiting()
        return failure([(UNAUTHENTICATED, str(wrong))], wrong.status)

    def _wrong_account(self, path: str) -> Response | None:
        found = ACCOUNT.fullmatch(path)
        if found is None or found["account"] == self._services.platform.account_id:
            return None
        return no_route(path)

    def _caught(self, error: Exception, scope: Scope) -> Response:
        if isinstance(error, KytheraError):
            if isinstance(error, Forbidden):
                self._services.wrong_tokens.counts["scope"] += 1
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
