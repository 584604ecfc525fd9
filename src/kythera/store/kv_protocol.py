"""What workerd's KV binding asks, and how it is answered. Pure.

Promises: limits and words are Cloudflare's; what is refused is said in the status line, which is
what a worker's exception shows (`KV PUT failed: 413 Value length of …`). `cache_ttl` is checked and
has no further effect: reads come from this machine's copy, which is never that old.
Source: src/workerd/api/kv.c++ and the KV service that is bundled in workerd.
"""

import base64
import binascii
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec

from kythera.model.errors import KytheraError
from kythera.model.limits import Limits
from kythera.store.kv_copy import Page
from kythera.store.kv_entry import Entry

BULK_GET = b"/bulk/get"
EXPIRES = "Kythera-KV-Expiration"
"""On a value that expires, in Unix seconds; for our own API, workers do not see it."""


class Failed(KytheraError):
    """What a worker asked for cannot be had; `status` and the message are what its exception says."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Target(NamedTuple):
    """The address of a request, taken apart: the key's bytes and the other parameters."""

    path: bytes
    parameters: dict[str, str]

    @property
    def key(self) -> bytes:
        """The key. Raises Failed for one that is not UTF-8."""
        key = self.path[1:]
        if b"%" in key:
            key = unquote_to_bytes(key)
        try:
            key.decode()
        except UnicodeDecodeError:
            raise Failed(400, "Invalid key encoding") from None
        return key


def read_target(raw: bytes) -> Target:
    """Take an address apart; most have nothing beside the key."""
    path, _, query = raw.partition(b"?")
    if query in {b"urlencoded=true", b""}:
        return Target(path, {})
    found = {}
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        text = unquote_to_bytes(value.replace(b"+", b" ")).decode(errors="replace")
        found[name.decode(errors="replace")] = text
    return Target(path, found)


def check_key(key: bytes, limits: Limits) -> None:
    """Refuse what cannot be a key. Raises Failed."""
    if not key:
        raise Failed(400, "Key names must not be empty")
    if key in {b".", b".."}:
        raise Failed(400, f'Illegal key name "{key.decode()}". Please use a different name.')
    _check_length(key, limits)


def _check_length(key: bytes, limits: Limits) -> None:
    if len(key) > limits.kv_key_bytes_max:
        raise Failed(
            414,
            f"UTF-8 encoded length of {len(key)} exceeds key length limit of"
            f" {limits.kv_key_bytes_max}.",
        )


def check_cache_ttl(told: str | None, limits: Limits) -> None:
    """Refuse a cache time that is too short. Raises Failed."""
    ttl = None if told is None else _number(told)
    if told is not None and (ttl is None or ttl < limits.kv_cache_ttl_s_min):
        raise Failed(
            400,
            f"Invalid cache_ttl of {told}. Cache TTL must be at least {limits.kv_cache_ttl_s_min}.",
        )


def check_value(size: int, limits: Limits) -> None:
    """Refuse a value that is too large. Raises Failed."""
    if size > limits.kv_value_bytes_max:
        raise Failed(413, f"Value length of {size} exceeds limit of {limits.kv_value_bytes_max}.")


def check_metadata(metadata: bytes, limits: Limits) -> None:
    """Refuse metadata that are too large, or no JSON. Raises Failed."""
    if len(metadata) > limits.kv_metadata_bytes_max:
        raise Failed(
            413,
            f"Metadata length of {len(metadata)} exceeds limit of {limits.kv_metadata_bytes_max}.",
        )
    if metadata:
        try:
            msgspec.json.decode(metadata)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise Failed(400, "Metadata must be valid JSON.") from None


def expiration(parameters: dict[str, str], now: float, limits: Limits) -> int:
    """Return when a key expires (Unix seconds, 0: never). Raises Failed."""
    least = limits.kv_expiration_s_min
    told = parameters.get("expiration_ttl")
    if told is not None:
        bad, ttl = f"Invalid expiration_ttl of {told}.", _number(told)
        if ttl is None or ttl <= 0:
            raise Failed(400, f"{bad} Please specify integer greater than 0.")
        if ttl < least:
            raise Failed(400, f"{bad} Expiration TTL must be at least {least}.")
        return int(now) + ttl
    told = parameters.get("expiration")
    if told is None:
        return 0
    bad, at = f"Invalid expiration of {told}.", _number(told)
    if at is None or at <= now:
        raise Failed(
            400,
            f"{bad} Please specify integer greater than the current number of seconds since the"
            " UNIX epoch.",
        )
    if at < int(now) + least:
        raise Failed(400, f"{bad} Expiration times must be at least {least} seconds in the future.")
    return at


def _number(text: str) -> int | None:
    """Read a whole number; what follows its digits is left out, as JavaScript's parseInt does."""
    digits = text.strip()
    sign = digits[:1] if digits[:1] in {"-", "+"} else ""
    end = len(sign)
    while end < len(digits) and digits[end].isascii() and digits[end].isdigit() and end < 16:
        end += 1
    return int(digits[:end]) if end > len(sign) else None


class Listing(NamedTuple):
    """What a list is asked for."""

    prefix: bytes
    cursor: bytes
    limit: int


def listing(parameters: dict[str, str], limits: Limits) -> Listing:
    """Read what a list is asked for. Raises Failed."""
    told = parameters.get("key_count_limit")
    limit = limits.kv_list_max if told is None else _number(told)
    bad = f"Invalid key_count_limit of {told}."
    if limit is None or limit < 1:
        raise Failed(400, f"{bad} Please specify an integer greater than 0.")
    if limit > limits.kv_list_max:
        raise Failed(400, f"{bad} Please specify an integer less than {limits.kv_list_max}.")
    try:
        cursor = base64.urlsafe_b64decode(parameters.get("cursor", ""))
    except (binascii.Error, ValueError):
        raise Failed(400, "Invalid cursor.") from None
    prefix = parameters.get("prefix", "").encode()
    _check_length(prefix, limits)
    return Listing(prefix, cursor, limit)


def page_json(page: Page) -> bytes:
    """Return a page of a list, metadata as text, as the binding wants it."""
    keys = []
    for key in page.keys:
        shown: dict[str, Any] = {"name": key.name.decode()}
        if key.expiration:
            shown["expiration"] = key.expiration
        if key.metadata:
            shown["metadata"] = key.metadata.decode()
        keys.append(shown)
    told: dict[str, Any] = {"keys": keys, "list_complete": not page.cursor}
    if page.cursor:
        told["cursor"] = base64.urlsafe_b64encode(page.cursor).decode()
    return msgspec.json.encode(told)


class Bulk(NamedTuple):
    """Which keys are asked for at once, and how."""

    keys: list[str]
    kind: str
    with_metadata: bool


def bulk(body: bytes, limits: Limits) -> Bulk:
    """Read a question for several keys. Raises Failed."""
    try:
        asked = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise Failed(400, "Invalid JSON") from None
    if not isinstance(asked, dict):
        raise Failed(400, "Invalid JSON")
    kind = asked.get("type") or "text"
    if kind not in {"text", "json"}:
        raise Failed(400, f'"{kind}" is not a valid type. Use "json" or "text"')
    keys = asked.get("keys")
    keys = [str(key) for key in keys] if isinstance(keys, list) else []
    if len(keys) > limits.kv_bulk_get_max:
        raise Failed(400, f"You can request a maximum of {limits.kv_bulk_get_max} keys")
    if not keys:
        raise Failed(400, "You must request a minimum of 1 key")
    for key in keys:
        check_key(key.encode(errors="replace"), limits)
    ttl = asked.get("cacheTtl")
    check_cache_ttl(None if ttl is None else str(ttl), limits)
    return Bulk(keys, kind, asked.get("withMetadata") is True)


ReadValue = Callable[[Entry], bytes]


def bulk_json(
    asked: Bulk, found: dict[str, Entry | None], read: ReadValue, limits: Limits
) -> bytes:
    """Return several keys' values. Raises Failed."""
    total = 0
    answer: dict[str, Any] = {}
    for key in asked.keys:
        entry = found.get(key)
        if entry is None:
            answer[key] = None
            continue
        total += entry.head.size
        if total > limits.kv_bulk_get_bytes_max:
            most = limits.kv_bulk_get_bytes_max // (1024 * 1024)
            raise Failed(413, f"Total size of request exceeds the limit of {most}MB")
        value = _shown(read(entry), asked.kind)
        metadata = msgspec.Raw(entry.head.metadata or b"null")
        answer[key] = {"value": value, "metadata": metadata} if asked.with_metadata else value
    return msgspec.json.encode(answer)


def _shown(value: bytes, kind: str) -> Any:
    if kind == "text":
        return value.decode(errors="replace")
    try:
        msgspec.json.decode(value)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise Failed(
            400, "At least one of the requested keys corresponds to a non-json value"
        ) from None
    return msgspec.Raw(value)


def head_of_answer(entry: Entry) -> list[tuple[str, bytes]]:
    """Return what is said of a value beside itself."""
    told = [("CF-Cache-Status", b"HIT")]
    if entry.head.metadata:
        told.append(("CF-KV-Metadata", entry.head.metadata))
    if entry.head.expiration:
        told.append((EXPIRES, str(entry.head.expiration).encode()))
    return told
