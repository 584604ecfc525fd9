"""What all machines of a fleet know without being told: the log's password, and the key of tokens
of uploads.

Derived once from the first key for secrets, then kept by itself, so that changing that key changes
neither: no machine is locked out of the log by a rotation. Nothing of the key can be told from it.
"""

import hashlib
import hmac

import msgspec
from msgspec import Struct

from kythera.ground.files import write_private
from kythera.ground.layout import Layout
from kythera.model.errors import SetupError

LOG_PURPOSE = b"kythera log password 1"
UPLOADS_PURPOSE = b"kythera assets tokens"
PASSWORD_DIGITS = 40


class Shared(Struct, frozen=True, kw_only=True):
    """Both, as text."""

    log_password: str
    uploads_key: str
    """Hexadecimal digits."""

    def __repr__(self) -> str:
        """Show nothing."""
        return "Shared()"


def derived(first_key: bytes) -> Shared:
    """Return what follows from the first key (as its file has it, base64)."""
    password = hmac.new(first_key, LOG_PURPOSE, hashlib.sha256).hexdigest()
    uploads = hmac.digest(first_key, UPLOADS_PURPOSE, "sha256").hex()
    return Shared(log_password=password[:PASSWORD_DIGITS], uploads_key=uploads)


def read_shared(layout: Layout) -> Shared | None:
    """Return what is kept; else what follows from the key; None while there is neither."""
    try:
        return msgspec.json.decode(layout.shared.read_bytes(), type=Shared)
    except FileNotFoundError:
        pass
    except msgspec.MsgspecError as error:
        raise SetupError(
            f"{layout.shared} cannot be read: {error}.", remedy="Restore it from a backup."
        ) from None
    try:
        first, *_ = layout.secrets_key.read_bytes().split() or [b""]
    except FileNotFoundError:
        return None
    return derived(first)


def shared_text(layout: Layout) -> str:
    """Return it as another machine keeps it; empty while there is none."""
    shared = read_shared(layout)
    return "" if shared is None else msgspec.json.encode(shared).decode()


def keep_shared(layout: Layout, shared: Shared) -> None:
    """Write it, readable by its owner alone."""
    write_private(layout.shared, msgspec.json.encode(shared))
