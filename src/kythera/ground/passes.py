"""A cell's pass to a store: in whose name it asks, and for what, signed with this machine's key.

workerd itself adds it to each request, outside the worker's isolate: a worker cannot read it, change
it, or leave it out. A store believes nothing else of who asks. Keys never leave the machine, so a
pass is worth nothing elsewhere; it does not expire, as no cell outlives its configuration.
"""

import base64
import binascii
import hashlib
import hmac
from pathlib import Path

import msgspec
from msgspec import Struct

from kythera.ground.chance import SystemChance
from kythera.ground.files import write_private

PASS_HEADER = "X-Kythera-Pass"  # noqa: S105 (a name)
PASS_BYTES_MAX = 4_096


class Pass(Struct, frozen=True, kw_only=True):
    """Whose cell asks, and what its binding leads to."""

    account: str
    worker: str
    version: str = ""
    store: str
    """Of which kind: `kv`, `d1` …; a pass to one is none to another."""
    resource: str
    """The id of the namespace, bucket, database …"""
    binding: str = ""


class NotAPass(Exception):
    """It is none of this machine's, or not to this store."""


def store_key(path: Path) -> str:
    """Return what passes of this machine are signed with; made when it is not there yet."""
    if not path.exists():
        write_private(path, SystemChance().token().encode())
    return path.read_text(encoding="ascii")


def sign(granted: Pass, key: str) -> str:
    """Return a pass as text without blanks."""
    payload = _text(msgspec.json.encode(granted))
    return f"{payload}.{_text(_mark(payload, key))}"


def check(text: str, key: str, store: str) -> Pass:
    """Read a pass. Raises NotAPass, without saying what is wrong with it."""
    payload, _, mark = text.partition(".")
    # Compared as text: of several ways to write the same bytes one alone is good.
    good = len(text) <= PASS_BYTES_MAX and hmac.compare_digest(
        _text(_mark(payload, key)).encode(), mark.encode(errors="replace")
    )
    try:
        found = msgspec.json.decode(base64.urlsafe_b64decode(payload + "=="), type=Pass)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise NotAPass from None
    if not good or found.store != store:
        raise NotAPass
    return found


def _mark(payload: str, key: str) -> bytes:
    return hmac.digest(key.encode(), payload.encode(errors="replace"), hashlib.sha256)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
