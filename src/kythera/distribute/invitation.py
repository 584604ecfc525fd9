"""The line that lets one machine join: what is in it, and what is said when it is used.

Promises: the line holds all that is needed (the fleet's authority and its fingerprint, whom to
ask, a certificate that is good for asking alone, a secret), and ends with its time. A line that was
cut or changed is refused before anything is asked. Pure: time is an argument.
"""

import base64
import binascii
import hashlib
import hmac

import msgspec
from msgspec import Struct

from kythera.distribute.authority import KEY_BYTES, fingerprint, key_of_number, pem_of
from kythera.ground.sockets import parse_address
from kythera.model.errors import KytheraError, SetupError
from kythera.model.membership import Peer

PREFIX = "kythera1."
"""Names the form of what follows; another form has another number."""
LINE_CHARACTERS_MAX = 16_384
MAKE_ANOTHER = "Make another on a machine of the fleet: kythera token create."


class Invitation(Struct, frozen=True, kw_only=True, array_like=True):
    """What a token's line carries."""

    id: str
    secret: str
    expires_at: int
    """Unix seconds."""
    fingerprint: str
    ca: bytes
    """The authority's certificate (DER: the line shall be short)."""
    peers: tuple[Peer, ...]
    """Core machines, and where they are reached."""
    certificate: bytes
    """A short-lived certificate (DER): with it one may ask to join."""
    key: bytes
    """Its key (32 bytes)."""

    @property
    def ca_pem(self) -> bytes:
        """The authority's certificate (PEM)."""
        return pem_of(self.ca)

    @property
    def credentials(self) -> bytes:
        """Certificate and key (PEM), as TLS reads them."""
        return pem_of(self.certificate) + key_of_number(self.key)


class JoinRequest(Struct, frozen=True, kw_only=True):
    """What a machine says when it asks to join."""

    token: str
    secret: str
    name: str
    csr: str
    site: str = "local"
    region: str = ""
    world: str = ""
    mesh: str = ""
    api: str = ""
    cores: int = 1
    architecture: str = ""
    kythera: str = ""
    workerd: str = ""


class JoinAnswer(Struct, frozen=True, kw_only=True):
    """What it is given: from here on it is a machine of the fleet."""

    certificate: str
    ca: str
    secrets_key: str
    """All keys that seal secrets, one a line."""
    api_token: str
    account_id: str
    domain: str
    peers: tuple[Peer, ...]
    shared: str = ""
    """What all machines know of each other's doors (JSON); empty: it follows from the key."""


class RenewRequest(Struct, frozen=True, kw_only=True):
    """A machine asks for its next certificate."""

    csr: str


class RenewAnswer(Struct, frozen=True, kw_only=True):
    """The next certificate."""

    certificate: str


class AuthorityAnswer(Struct, frozen=True, kw_only=True):
    """The authority's key, for core machines."""

    key: str


class KeysHeld(Struct, frozen=True, kw_only=True):
    """Which keys for secrets a machine holds, by their ids."""

    ids: tuple[str, ...]
    settled_seq: int
    """Whatever it writes from now on stands on the records up to there, at least."""
    given: bool = False
    """Its operator gives them: it keeps no other."""


class KeyAnswer(Struct, frozen=True, kw_only=True):
    """One key for secrets, for a machine of the fleet."""

    key: str


class Told(Struct, frozen=True, kw_only=True):
    """Why another machine says no."""

    message: str
    remedy: str = ""
    code: int = 0
    status: int = 400


def digest(secret: str) -> str:
    """Return what the fleet keeps of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def secret_fits(secret: str, kept: str) -> bool:
    """Tell whether a secret is the one whose digest was kept, in constant time."""
    return hmac.compare_digest(digest(secret), kept)


def encode(invitation: Invitation) -> str:
    """Return the line to print."""
    packed = msgspec.msgpack.encode(invitation)
    checked = hashlib.sha256(packed).digest()[:4] + packed
    return PREFIX + _text_of(checked)


def decode(line: str) -> Invitation:
    """Read a line. Raises SetupError when it was cut, changed, or made by another Kythera."""
    text = "".join(line.split())
    if text.startswith("kythera") and not text.startswith(PREFIX):
        raise SetupError(
            "this token was made by another version of Kythera.",
            remedy="Start the same version here, or make the token on a machine that runs this.",
        )
    try:
        packed = _unpacked(text.removeprefix(PREFIX))
        found = msgspec.msgpack.decode(packed, type=Invitation)
        whole = fingerprint(found.ca_pem) == found.fingerprint
        whole = whole and len(found.key) == KEY_BYTES
        for peer in found.peers:
            parse_address(peer.mesh)
    except (binascii.Error, msgspec.MsgspecError, ValueError, KytheraError):
        whole = False
    if not whole:
        raise SetupError(
            "this is not a whole token: it begins with kythera1. and is one long line.",
            remedy=f"Copy all of it. {MAKE_ANOTHER}",
        )
    return found


def _unpacked(text: str) -> bytes:
    if len(text) > LINE_CHARACTERS_MAX:
        raise ValueError("too long")
    checked = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if _text_of(checked) != text:
        raise ValueError("changed in the bits of its last character that carry nothing")
    if hashlib.sha256(checked[4:]).digest()[:4] != checked[:4]:
        raise ValueError("changed")
    return checked[4:]


def _text_of(checked: bytes) -> str:
    return base64.urlsafe_b64encode(checked).decode().rstrip("=")


def refuse_expired(invitation: Invitation, now: float) -> None:
    """Raise SetupError when a line's time is over, by this machine's clock."""
    if now >= invitation.expires_at:
        minutes = (now - invitation.expires_at) / 60
        raise SetupError(
            f"the token expired {minutes:.0f} minutes ago by this machine's clock.",
            remedy=f"{MAKE_ANOTHER} Or set this machine's clock, if it is that which is wrong.",
        )
