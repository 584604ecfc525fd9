"""A cell's pass to a store: in whose name it asks, and for what, signed with this machine's key.

workerd itself adds it to each request, outside the worker's isolate: a worker cannot read it, change
it, or leave it out. A store believes nothing else of who asks. Keys never leave the machine, so a
pass is worth nothing elsewhere: where another machine keeps what is asked for, the front checks it
here and the home signs it anew (decisions/0031). It does not expire, as no cell outlives its configuration.
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
from kythera.model.names import namespace_of, script_name

PASS_HEADER = "X-Kythera-Pass"  # noqa: S105 (a name)
PASS_BYTES_MAX = 4_096
MARK_DIGITS = 32


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


def worker_mark(key: str, account: str, worker: str) -> str:
    """Return what this machine's inner door knows a worker by: nobody guesses it, no worker sees it.

    32 hexadecimal digits, which can be a host's name. Those of a dispatch namespace follow from the
    namespace's own key, so that who has that reaches them all, and nobody else."""
    namespace = namespace_of(worker)
    if namespace:
        return _named(namespace_key(key, account, namespace), script_name(worker))
    return _digits(key, f"worker/{account}/{worker}")[:MARK_DIGITS]


def way_mark(key: str, machine: str, name: str) -> str:
    """Return what this machine's door to others' data knows `name` of a machine by."""
    return _digits(key, f"way/{machine}/{name}")[:MARK_DIGITS]


def namespace_key(key: str, account: str, namespace: str) -> str:
    """Return what the marks of a dispatch namespace's workers are made with (`js/dispatch.js`)."""
    return _digits(key, f"namespace/{account}/{namespace}")


def outbound_key(key: str, account: str, namespace: str) -> str:
    """Return what the marks are made with by which its workers reach outbound workers
    (`js/dispatched.js`): other marks than anybody else's, which lead to those alone."""
    return _digits(key, f"outbound/{account}/{namespace}")


def outbound_mark(key: str, account: str, namespace: str, worker: str) -> str:
    """Return what the inner door knows an outbound worker by, for the workers of one namespace."""
    return _named(outbound_key(key, account, namespace), worker)


def _named(key: str, worker: str) -> str:
    return _digits(key, f"worker/{worker}")[:MARK_DIGITS]


def _digits(key: str, said: str) -> str:
    return hmac.digest(key.encode(), said.encode(), hashlib.sha256).hex()


def _mark(payload: str, key: str) -> bytes:
    return hmac.digest(key.encode(), payload.encode(errors="replace"), hashlib.sha256)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
