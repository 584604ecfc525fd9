"""Static assets on their way in: the manifest, what is missing of it, and the tokens in between.

Pure. A session token says which manifest is being uploaded, a completion token which finished
manifest a version may name; both are signed and expire. wrangler names a file by a hash over its
base64 text and its extension, 32 hexadecimal digits: the content is checked against it before it
is believed.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec
from blake3 import blake3
from msgspec import Struct

from kythera.deploy.documents import as_number, as_object, as_text, shown
from kythera.deploy.refusals import invalid, too_big
from kythera.model.errors import Refusal
from kythera.model.limits import MIB, Limits

HASH = re.compile(r"[0-9a-f]{32}")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
BUCKET_BYTES_MAX = 25 * MIB
"""Cloudflare's are up to 50 MiB; smaller ones cost the uploader requests and us less memory."""
BUCKET_FILES_MAX = 1_000
PATH_BYTES_MAX = 1024
SEGMENT_BYTES_MAX = 250
SESSION_S = 3600
PARALLEL_UPLOADS = 10
TOKEN_HEAD = b'{"alg":"HS256","typ":"JWT"}'
TOKEN_CHARACTERS_MAX = 4096


class Wanted(Struct, frozen=True):
    """One file of a manifest: wrangler's hash of it and its size."""

    hash: str
    size: int


class Claims(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a token says. `purpose` is session or completion; wrangler reads the last two."""

    purpose: str
    account: str
    worker: str
    manifest: str
    """Digest of the blob: of the session's manifest, or of the finished one."""
    exp: int
    machine: str = ""
    """Of a session: the machine where it began and where its files are gathered."""
    wrangler_single_asset_uploads: bool = False
    edge_kv_upload_concurrency: int = 0


def read_manifest(document: Any, limits: Limits) -> dict[str, Wanted]:
    """Return the files of a manifest by path."""
    fields = as_object(as_object(document, "the body").get("manifest"), "manifest")
    if len(fields) > limits.assets_files_max:
        raise too_big(f"A version has at most {limits.assets_files_max:,} assets.")
    found: dict[str, Wanted] = {}
    for path, value in fields.items():
        _check_path(path)
        found[path] = _wanted(path, value, limits)
    _refuse_files_as_folders(found)
    sizes: dict[str, int] = {}
    for path, wanted in found.items():
        if sizes.setdefault(wanted.hash, wanted.size) != wanted.size:
            raise invalid(f"Asset {shown(path)} has the hash of a file of another size.")
    return found


def _check_path(path: str) -> None:
    segments = path.split("/")
    plain = CONTROL.search(path) is None and len(path.encode()) <= PATH_BYTES_MAX
    whole = all(
        segment not in ("", ".", "..") and len(segment.encode()) <= SEGMENT_BYTES_MAX
        for segment in segments[1:]
    )
    if segments[0] != "" or len(segments) < 2 or not plain or not whole:
        raise invalid(
            f"{shown(path)} cannot be an asset's path.",
            remedy="It begins with `/`, has no empty, `.` or `..` part and no control character.",
        )


def _wanted(path: str, value: Any, limits: Limits) -> Wanted:
    entry = as_object(value, f"asset {shown(path)}")
    text = as_text(entry.get("hash"), f"the hash of asset {shown(path)}")
    if HASH.fullmatch(text) is None:
        raise invalid(f"The hash of asset {shown(path)} is not 32 lower-case hexadecimal digits.")
    size = as_number(entry.get("size"), f"the size of asset {shown(path)}")
    if not size >= 0 or size != int(size):
        raise invalid(f"The size of asset {shown(path)} is not a whole number of bytes.")
    if size > limits.asset_bytes_max:
        raise too_big(
            f"Asset {shown(path)} has {int(size):,} bytes; {limits.asset_bytes_max:,} are allowed."
        )
    return Wanted(text, int(size))


def _refuse_files_as_folders(paths: Collection[str]) -> None:
    for path in paths:
        folder = path.rpartition("/")[0]
        while folder:
            if folder in paths:
                raise invalid(f"Asset {shown(folder)} is also the folder of {shown(path)}.")
            folder = folder.rpartition("/")[0]


def buckets(missing: Iterable[Wanted]) -> list[list[str]]:
    """Group what is to be uploaded, each hash once, in portions of bounded size."""
    groups: list[list[str]] = []
    room = 0
    for wanted in sorted(set(missing), key=lambda w: (-w.size, w.hash)):
        if not groups or wanted.size > room or len(groups[-1]) >= BUCKET_FILES_MAX:
            groups.append([])
            room = BUCKET_BYTES_MAX
        groups[-1].append(wanted.hash)
        room -= wanted.size
    return groups


def extensions(manifest: Mapping[str, Wanted], name: str) -> set[str]:
    """Return the extensions (without the dot) under which a hash is in the manifest."""
    return {_extension(path) for path, wanted in manifest.items() if wanted.hash == name}


def _extension(path: str) -> str:
    base = path.rpartition("/")[2]
    stem, dot, extension = base.rpartition(".")
    return extension if dot and stem else ""


def content_of(text: bytes, name: str) -> bytes:
    """Return the bytes behind an upload's base64 text."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise invalid(f"The content of asset {name} is not base64.") from None


def check_content(name: str, data: bytes, size: int, kinds: Collection[str]) -> None:
    """Refuse content that does not have the hash under which it was announced."""
    if len(data) != size:
        raise invalid(f"Asset {name} has {len(data):,} bytes, its manifest says {size:,}.")
    text = base64.b64encode(data)
    # wrangler takes BLAKE3; Cloudflare's documentation for other clients takes SHA-256.
    possible = {blake3(text + kind.encode()).hexdigest()[:32] for kind in kinds}
    possible |= {hashlib.sha256(text + kind.encode()).hexdigest()[:32] for kind in kinds}
    possible.add(hashlib.sha256(data).hexdigest()[:32])
    if name not in possible:
        raise invalid(
            f"The content sent as asset {name} has another hash.",
            remedy="It may have been damaged on the way: upload it again.",
        )


def digest_of(data: bytes) -> str:
    """Return the name of a blob with this content."""
    return hashlib.sha256(data).hexdigest()


def content_type(value: str) -> str:
    """Return the content type that a file keeps; wrangler says application/null for none."""
    text = value.strip()
    if not text or text.startswith("application/null") or len(text) > 200:
        return ""
    return text if text.isascii() and text.isprintable() else ""


def issue(claims: Claims, key: bytes) -> str:
    """Return the token that says `claims`."""
    signed = _text(TOKEN_HEAD) + b"." + _text(msgspec.json.encode(claims))
    return (signed + b"." + _text(hmac.digest(key, signed, "sha256"))).decode()


def redeem(token: str, key: bytes, now: float, purpose: str) -> Claims:
    """Return what a token says, if we said it, for this purpose, and not too long ago."""
    try:
        if len(token) > TOKEN_CHARACTERS_MAX:
            raise ValueError(token)
        signed, _, signature = token.encode().rpartition(b".")
        if not hmac.compare_digest(hmac.digest(key, signed, "sha256"), _bytes(signature)):
            raise ValueError(token)
        claims = msgspec.json.decode(_bytes(signed.partition(b".")[2]), type=Claims)
    except (ValueError, msgspec.MsgspecError):
        raise Refusal(10000, "This assets token is not one of ours.", status=403) from None
    if claims.purpose != purpose or claims.exp < now:
        raise Refusal(
            10000,
            f"This assets token is not a {purpose} token, or it has expired.",
            status=403,
            remedy="Start a new upload session (run the deploy again).",
        )
    return claims


def _text(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _bytes(text: bytes) -> bytes:
    return base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
