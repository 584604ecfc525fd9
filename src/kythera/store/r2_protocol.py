"""workerd's R2 protocol, version 1: what a cell asks, and how it is answered.

Reads come as GET with the question in the header `CF-R2-Request`; writes as PUT, whose body begins
with the question (`CF-R2-Metadata-Size` bytes of JSON). 64-bit numbers are JSON strings. Source: workerd,
src/workerd/api/r2-api.capnp and r2-rpc.c++, and measured. Pure.
"""

import base64
import binascii
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType, field

from kythera.model.errors import Refusal
from kythera.store.r2_errors import invalid_argument

REQUEST_HEADER = "CF-R2-Request"
SIZE_HEADER = "CF-R2-Metadata-Size"
ERROR_HEADER = "CF-R2-Error"
QUESTION_BYTES_MAX = 2 * 1024 * 1024
"""Of a write's question: a thousand keys to delete are the longest."""
NOTHING_64 = 0xFFFF_FFFF_FFFF_FFFF
"""What a 64-bit number holds that was not given."""
ALGORITHMS = ("md5", "sha1", "sha256", "sha384", "sha512")
HTTP, CUSTOM = 0, 1
"""What a list is asked to include."""


class Field(Struct, frozen=True):
    """One entry of custom metadata."""

    k: str
    v: str


class HttpFields(Struct, frozen=True, rename="camel", omit_defaults=True):
    """Headers that are kept with an object."""

    content_type: str | None = None
    content_language: str | None = None
    content_disposition: str | None = None
    content_encoding: str | None = None
    cache_control: str | None = None
    cache_expiry: int | None = None
    """Unix milliseconds."""


class Etag(Struct, frozen=True):
    """One etag of a condition."""

    type: Literal["strong", "weak", "wildcard"] = "strong"
    value: str = ""


class Conditional(Struct, frozen=True, rename="camel"):
    """`onlyIf`."""

    etag_matches: list[Etag] | UnsetType = UNSET
    etag_does_not_match: list[Etag] | UnsetType = UNSET
    uploaded_before: int = NOTHING_64
    uploaded_after: int = NOTHING_64
    seconds_granularity: bool = False


class Range(Struct, frozen=True):
    """A part of an object."""

    offset: int = NOTHING_64
    length: int = NOTHING_64
    suffix: int = NOTHING_64


class Part(Struct, frozen=True):
    """A part of a multipart upload, by its number."""

    etag: str
    part: int


class Question(Struct, frozen=True, rename="camel"):
    """What a cell asks: `method` says which of these count."""

    method: str
    object: str = ""
    objects: list[str] = field(default_factory=list)
    range: Range | None = None
    range_header: str = ""
    only_if: Conditional | None = None
    custom_fields: list[Field] = field(default_factory=list)
    http_fields: HttpFields = HttpFields()
    md5: str = ""
    """Base64; the other checksums are hexadecimal."""
    sha1: str = ""
    sha256: str = ""
    sha384: str = ""
    sha512: str = ""
    storage_class: str = ""
    ssec: dict[str, Any] | None = None
    limit: int = 1_000
    prefix: str = ""
    cursor: str = ""
    delimiter: str = ""
    start_after: str = ""
    include: list[int] = field(default_factory=list)
    upload_id: str = ""
    part_number: int = 0
    parts: list[Part] = field(default_factory=list)

    def checksum(self) -> tuple[str, bytes] | None:
        """Return the algorithm and digest that the body must have, if one was given."""
        for name in ALGORITHMS:
            if text := getattr(self, name):
                return name, _digest(name, text)
        return None


def _digest(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text) if name == "md5" else bytes.fromhex(text)
    except (binascii.Error, ValueError):
        raise invalid_argument(f"The {name} checksum cannot be read.") from None


def read_question(data: bytes | str) -> Question:
    """Read what is asked. Raises Refusal (10029)."""
    try:
        return msgspec.json.decode(data, type=Question, strict=False)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise invalid_argument(f"Metadata missing or invalid: {error}") from None


def error_header(refusal: Refusal) -> str:
    """Return what tells a cell why there is no result; ASCII, on one line."""
    document = {"version": 1, "v4code": refusal.code, "message": str(refusal)}
    text = msgspec.json.encode(document).decode()
    return "".join(c if c.isascii() else f"\\u{ord(c) & 0xFFFF:04x}" for c in text)
