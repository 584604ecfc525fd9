"""An object as R2 shows it, and what is kept with it so that it can be shown. Pure.

The engine keeps bytes, their size and their etag; all else of R2 travels in one of the engine's own
metadata headers, so that an object and what is said of it are written in one step.
"""

import base64
import binascii
import email.utils
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct, field

from kythera.store.r2_protocol import ALGORITHMS, CUSTOM, HTTP, Field, HttpFields, Question

KEPT_HEADER = "x-amz-meta-kythera"
MD5 = re.compile(r"[0-9a-f]{32}")
STANDARD, INFREQUENT = "Standard", "InfrequentAccess"
STORAGE_CLASSES = (STANDARD, INFREQUENT)


class Kept(Struct, frozen=True, omit_defaults=True):
    """What travels with the bytes."""

    version: str = ""
    uploaded_ms: int = 0
    """0: when the engine says (an upload of many parts is there when it is completed)."""
    custom: list[Field] = field(default_factory=list)
    http: HttpFields = HttpFields()
    sums: dict[str, str] = field(default_factory=dict)
    """Algorithm → hexadecimal digest, as it was given and checked."""
    storage_class: str = STANDARD


class Found(Struct, frozen=True):
    """An object that is there."""

    key: str
    size: int
    etag: str
    uploaded_ms: int
    kept: Kept


def kept_of(question: Question, version: str, uploaded_ms: int) -> Kept:
    """Return what is to be kept of an upload."""
    checksum = question.checksum()
    return Kept(
        version=version,
        uploaded_ms=uploaded_ms,
        custom=question.custom_fields,
        http=question.http_fields,
        sums={} if checksum is None else {checksum[0]: checksum[1].hex()},
        storage_class=question.storage_class or STANDARD,
    )


def metadata_bytes(question: Question) -> int:
    """Return how much of the limit an upload's own metadata takes: names and values."""
    return sum(len(f.k.encode()) + len(f.v.encode()) for f in question.custom_fields)


def as_header(kept: Kept) -> str:
    """Return it as a header's value."""
    return base64.b64encode(msgspec.json.encode(kept)).decode()


def from_header(text: str) -> Kept:
    """Read it; what others have written has none, and shows as an object without metadata."""
    try:
        return msgspec.json.decode(base64.b64decode(text), type=Kept)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        return Kept()


def found_in(key: str, headers: Mapping[str, str]) -> Found:
    """Return an object from the engine's answer to GET or HEAD; its size is that of the whole."""
    kept = from_header(headers.get(KEPT_HEADER, ""))
    total = headers.get("Content-Range", "").rpartition("/")[2]
    return Found(
        key=key,
        size=int(total if total.isdigit() else headers.get("Content-Length", "0")),
        etag=headers.get("ETag", "").strip('"'),
        uploaded_ms=kept.uploaded_ms or _moment_ms(headers.get("Last-Modified", "")),
        kept=kept,
    )


def _moment_ms(text: str) -> int:
    try:
        return int(email.utils.parsedate_to_datetime(text).timestamp() * 1000)
    except ValueError:
        return 0


def view(found: Found, include: Iterable[int] = (HTTP, CUSTOM)) -> dict[str, Any]:
    """Return an object as workerd reads it."""
    kept, wanted = found.kept, frozenset(include)
    document: dict[str, Any] = {
        "name": found.key,
        "version": kept.version or found.etag,
        "size": str(found.size),
        "etag": found.etag,
        "uploaded": str(found.uploaded_ms),
        "checksums": _checksums(found),
        "storageClass": kept.storage_class,
    }
    if HTTP in wanted:
        http = msgspec.to_builtins(kept.http)
        if "cacheExpiry" in http:
            http["cacheExpiry"] = str(http["cacheExpiry"])
        document["httpFields"] = http
    if CUSTOM in wanted:
        document["customFields"] = [{"k": f.k, "v": f.v} for f in kept.custom]
    return document


def _checksums(found: Found) -> dict[str, str]:
    sums = dict(found.kept.sums)
    if MD5.fullmatch(found.etag):
        sums["md5"] = found.etag
    return {str(n): sums[name] for n, name in enumerate(ALGORITHMS) if name in sums}
