"""From a token's text to who is calling, or to why it is wrong.

Promises: compared in constant time, as digests, so that nothing is learnt of a token, not even how
long it is; the text goes nowhere. A record of it that this Kythera cannot read counts as none: what a
newer one wrote there may have been its end.
"""

import hashlib
import hmac
import re

import msgspec
from starlette.datastructures import Headers
from starlette.types import Scope

from kythera.control.caller import ROOT_NAME, Caller
from kythera.control.scopes import ADMIN
from kythera.control.services import Services
from kythera.ground.clock import iso
from kythera.model.errors import Refusal
from kythera.model.records import ApiToken

UNAUTHENTICATED = 10000
PREFIX = "kyt"
ID_DIGITS, SECRET_DIGITS = 12, 64
TEXT = re.compile(rf"{PREFIX}_(?P<id>[0-9a-f]{{{ID_DIGITS}}})_[0-9a-f]{{{SECRET_DIGITS}}}")
AGENT_MAX = 80
NOBODY = "0" * 64
REASONS = {
    "absent": (401, "no API token was sent."),
    "unknown": (403, "this is not an API token of this platform."),
    "expired": (403, "this API token has expired."),
    "revoked": (403, "this API token was revoked."),
}


class WrongToken(Refusal):
    """Nobody is let in with this; `reason` is a key of REASONS."""

    def __init__(self, reason: str, *, may_be_new: bool = False) -> None:
        status, sentence = REASONS[reason]
        super().__init__(UNAUTHENTICATED, f"Authentication error: {sentence}", status=status)
        self.reason = reason
        self.may_be_new = may_be_new
        """Another machine may have made it a moment ago."""


def text_of(headers: Headers) -> str:
    """Return the token of a request: a bearer, or the key of those who still use one."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("x-auth-key", "")


def digest(text: str) -> str:
    """Return what is kept of a token, and compared."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def is_root(text: str, services: Services) -> bool:
    """Tell whether this is the token in the state folder."""
    return hmac.compare_digest(digest(text), digest(services.token))


def caller_of(text: str, services: Services, scope: Scope, headers: Headers) -> Caller:
    """Return who calls with this token, as this machine's copy has it. Raises WrongToken."""
    if not text:
        raise WrongToken("absent")
    found = Caller(
        name=ROOT_NAME,
        scopes=(ADMIN,),
        client=address_of(scope),
        agent=headers.get("user-agent", "")[:AGENT_MAX],
        machine=services.me,
    )
    if is_root(text, services):
        return found
    token = _record(text, services)
    return msgspec.structs.replace(
        found, name=token.name, token=token.id, scopes=token.scopes, workers=token.workers
    )


def address_of(scope: Scope) -> str:
    """Return the address that a request came from."""
    return scope["client"][0] if scope.get("client") else ""


def _record(text: str, services: Services) -> ApiToken:
    shape = TEXT.fullmatch(text)
    if shape is None:
        raise WrongToken("unknown")
    key = f"apitoken.{shape['id']}"
    catalog = services.store.catalog()
    found = catalog.records.get(key)
    known = isinstance(found, ApiToken) and key not in catalog.unknown
    wanted = found.digest if isinstance(found, ApiToken) and known else NOBODY
    if not hmac.compare_digest(digest(text), wanted):
        raise WrongToken("unknown", may_be_new=not known)
    assert isinstance(found, ApiToken), "its digest was compared"
    state = state_of(found, services.clock.now())
    if state != "active":
        raise WrongToken(state)
    return found


def state_of(token: ApiToken, now: float) -> str:
    """Return `active`, `expired` or `revoked`, by this clock."""
    if token.revoked_on:
        return "revoked"
    return "expired" if token.expires_on and token.expires_on <= iso(now) else "active"


def is_good(token_id: str, services: Services) -> bool:
    """Tell whether what was begun with a token may go on; empty: it was the root token."""
    if not token_id:
        return True
    found = services.store.catalog().records.get(f"apitoken.{token_id}")
    return isinstance(found, ApiToken) and state_of(found, services.clock.now()) == "active"
