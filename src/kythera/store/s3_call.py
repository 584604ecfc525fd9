"""One request of an S3 client, as its door reads it: where to, under which condition, what is to be kept.

Refuses by name what an object of ours cannot have (tags, locks, a customer's key): it would be lost.
"""

import email.utils
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from kythera.store import r2_errors
from kythera.store.r2_objects import INFREQUENT, STANDARD
from kythera.store.r2_protocol import Conditional, Etag, Field, HttpFields, Question
from kythera.store.s3_chunks import unchunked
from kythera.store.s3_signature import UNSIGNED

META = "x-amz-meta-"
PIECE_BYTES = 256 * 1024
DOCUMENT_BYTES_MAX = 4 * 1024 * 1024
FIELDS = {
    "content_type": "Content-Type",
    "content_language": "Content-Language",
    "content_disposition": "Content-Disposition",
    "content_encoding": "Content-Encoding",
    "cache_control": "Cache-Control",
}
"""Of `HttpFields`, and the header each is."""
NOT_KEPT = (
    "x-amz-tagging",
    "x-amz-bucket-object-lock-enabled",
    "x-amz-object-lock-mode",
    "x-amz-object-lock-legal-hold",
    "x-amz-website-redirect-location",
    "x-amz-server-side-encryption-customer-key",
    "x-amz-copy-source-server-side-encryption-customer-key",
)
"""Headers that ask for what is not there."""
OF_SOURCE = "x-amz-copy-source-"


class Call:
    """One request: where to, and what comes with it."""

    def __init__(
        self,
        request: web.BaseRequest,
        bucket: str,
        key: str,
        query: Mapping[str, str],
        signed: str,
    ) -> None:
        self.request = request
        self.bucket = bucket
        self.key = key
        self.query = query
        self._signed = signed

    def part_of(self, *names: str) -> str:
        """Return which of these the query names: it makes another operation of the method."""
        return next((name for name in names if name in self.query), "")

    def body(self) -> tuple[int, AsyncIterator[bytes]]:
        """Return a body's length and pieces, out of S3's chunks if it is in them."""
        pieces = aiter(self.request.content.iter_chunked(PIECE_BYTES))
        if self._signed.startswith("STREAMING-"):
            length = self.request.headers.get("x-amz-decoded-content-length", "")
            if not length.isdecimal():
                raise r2_errors.invalid_argument("X-Amz-Decoded-Content-Length is missing.")
            return int(length), unchunked(pieces, int(length))
        if self.request.content_length is None:
            raise r2_errors.invalid_argument("The length of the body is not known.")
        return self.request.content_length, pieces

    def source(self) -> tuple[str, str]:
        """Return bucket and key of what is to be copied. Raises Refusal (10041): a version of it."""
        path, _, version = self.request.headers["x-amz-copy-source"].partition("?")
        if version:
            raise r2_errors.not_implemented("A version of an object")
        bucket, _, key = unquote(path).removeprefix("/").partition("/")
        return bucket, key

    async def document(self) -> str:
        """Return a short body as text."""
        size, pieces = self.body()
        if size > DOCUMENT_BYTES_MAX:
            raise r2_errors.entity_too_large()
        return b"".join([piece async for piece in pieces]).decode(errors="replace")

    def refuse_unkept(self) -> None:
        """Refuse a request for what objects here do not have. Raises Refusal (10041)."""
        for name in NOT_KEPT:
            if self.request.headers.get(name, "false").lower() != "false":
                raise r2_errors.not_implemented(f"The header {name}")

    def upload(self, method: str, *, of_body: bool = True) -> Question:
        """Return what is to be kept with an object; `of_body`: the request's body is the object."""
        headers = self.request.headers
        encoding = headers.get("Content-Encoding", "")
        http: dict[str, Any] = {f: headers[h] for f, h in FIELDS.items() if h in headers}
        if "aws-chunked" in encoding:
            rest = [e.strip() for e in encoding.split(",") if e.strip() != "aws-chunked"]
            http["content_encoding"] = ", ".join(rest) or None
        if "Expires" in headers:
            http["cache_expiry"] = _moment_ms(headers["Expires"])
        return Question(
            method=method,
            object=self.key,
            custom_fields=[
                Field(name[len(META) :].lower(), value)
                for name, value in headers.items()
                if name.lower().startswith(META)
            ],
            http_fields=HttpFields(**http),
            md5=headers.get("Content-MD5", "") if of_body else "",
            sha256=self.sha256() if of_body else "",
            storage_class=INFREQUENT
            if headers.get("x-amz-storage-class") == "STANDARD_IA"
            else STANDARD,
            only_if=self.condition(),
        )

    def sha256(self) -> str:
        """Return the digest that the body was signed with, unless another checksum is given."""
        signed = self._signed
        given = "Content-MD5" in self.request.headers or signed == UNSIGNED
        return "" if given or signed.startswith("STREAMING-") else signed

    def condition(self, before: str = "") -> Conditional | None:
        """Return the condition that the headers make; `before` begins the names of those meant."""
        headers = self.request.headers
        fields: dict[str, Any] = {}
        for header, field in (
            ("If-Match", "etag_matches"),
            ("If-None-Match", "etag_does_not_match"),
        ):
            if before + header in headers:
                fields[field] = [_etag(one) for one in headers[before + header].split(",")]
        for header, field in (
            ("If-Unmodified-Since", "uploaded_before"),
            ("If-Modified-Since", "uploaded_after"),
        ):
            if before + header in headers:
                fields[field] = _moment_ms(headers[before + header])
        if not fields:
            return None
        if "uploaded_before" in fields:
            fields["uploaded_before"] += 1000  # a file of that very second was not modified since
        return Conditional(**fields, seconds_granularity=True)


Doing = Callable[[Call], Awaitable[web.StreamResponse]]


def _etag(text: str) -> Etag:
    text = text.strip()
    if text == "*":
        return Etag(type="wildcard")
    weak = text.startswith("W/")
    return Etag(type="weak" if weak else "strong", value=text.removeprefix("W/").strip('"'))


def _moment_ms(text: str) -> int:
    try:
        return int(email.utils.parsedate_to_datetime(text).timestamp() * 1000)
    except ValueError:
        raise r2_errors.invalid_argument("A header holds no date where one belongs.") from None
