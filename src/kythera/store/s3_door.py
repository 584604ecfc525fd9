"""S3 for clients outside (aws-cli, boto3, rclone, presigned URLs), over the same buckets as cells see.

An address is `/bucket/key` (path style). Promises: who does not sign with this platform's keys is told so
before anything is read; what is acknowledged is on the disk. Refuses by name (NotImplemented) what is
not below: buckets are made and deleted by `wrangler r2 bucket`.
"""

import email.utils
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

import structlog
from aiohttp import ClientConnectionError, ClientPayloadError, web

from kythera.ground.clock import Clock, iso
from kythera.model.errors import Refusal
from kythera.store import r2_errors, s3_answers
from kythera.store.r2_conditions import holds
from kythera.store.r2_objects import INFREQUENT, STANDARD, Found
from kythera.store.r2_protocol import (
    Conditional,
    Etag,
    Field,
    HttpFields,
    Part,
    Question,
)
from kythera.store.r2_store import R2Store
from kythera.store.s3 import texts
from kythera.store.s3_chunks import unchunked
from kythera.store.s3_signature import UNSIGNED, Asked, Keys, check

META = "x-amz-meta-"
PIECE_BYTES = 256 * 1024
DOCUMENT_BYTES_MAX = 4 * 1024 * 1024
REGION = "auto"
FIELDS = {
    "content_type": "Content-Type",
    "content_language": "Content-Language",
    "content_disposition": "Content-Disposition",
    "content_encoding": "Content-Encoding",
    "cache_control": "Cache-Control",
}
"""Of `HttpFields`, and the header each is."""
Told = Callable[[], frozenset[str]]


class S3Door:
    """Answers S3's clients."""

    def __init__(self, store: R2Store, keys: Keys, clock: Clock, buckets: Told) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._buckets = buckets
        self._journal = structlog.get_logger("s3")

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, whatever it is."""
        try:
            headers = {name.lower(): value for name, value in request.headers.items()}
            asked = Asked(request.method, request.raw_path, headers)
            signed = check(asked, self._keys, self._clock.now())
            await _have_it_sent(request)
            path, _, query = request.raw_path.partition("?")
            bucket, _, key = unquote(path.removeprefix("/")).partition("/")
            call = Call(
                request, bucket, key, dict(parse_qsl(query, keep_blank_values=True)), signed
            )
            return await self._answered(call)
        except Refusal as refusal:
            return _refused(request, refusal)
        except (OSError, ClientConnectionError, ClientPayloadError) as error:
            self._journal.warning("s3_cut", error=str(error) or type(error).__name__)
            return _refused(request, r2_errors.internal())

    async def _answered(self, call: "Call") -> web.StreamResponse:
        if not call.bucket:
            return self._all_buckets()
        if call.bucket not in self._buckets():
            raise r2_errors.no_such_bucket()
        doing = (self._of_object if call.key else self._of_bucket)(call)
        if doing is None:
            what = f"{call.request.method} with {', '.join(call.query) or 'no parameters'}"
            raise r2_errors.not_implemented(what)
        return await doing(call)

    def _of_bucket(self, call: "Call") -> "Doing | None":
        match call.request.method, call.part_of("location", "delete", "versioning", "uploads"):
            case "HEAD", "":
                return _nothing
            case "GET", "location":
                return _location
            case "GET", "versioning":
                return _no_versions
            case "GET", "":
                return self._list
            case "POST", "delete":
                return self._delete_many
        return None

    def _of_object(self, call: "Call") -> "Doing | None":
        copies = "x-amz-copy-source" in call.request.headers
        match call.request.method, call.part_of("uploads", "uploadId", "acl", "tagging"):
            case "HEAD", "":
                return self._head
            case "GET", "":
                return self._get
            case "PUT", "":
                return self._copy if copies else self._put
            case "DELETE", "":
                return self._delete
            case "POST", "uploads":
                return self._create
            case "PUT", "uploadId":
                return None if copies else self._part
            case "POST", "uploadId":
                return self._complete
            case "DELETE", "uploadId":
                return self._abort
        return None

    def _all_buckets(self) -> web.Response:
        names = [
            s3_answers.element("Bucket", s3_answers.text("Name", b))
            for b in sorted(self._buckets())
        ]
        return _xml("ListAllMyBucketsResult", s3_answers.element("Buckets", *names))

    async def _list(self, call: "Call") -> web.StreamResponse:
        query = call.query
        limit = query.get("max-keys", "1000")
        question = Question(
            method="list",
            limit=min(int(limit), 1000) if limit.isdecimal() and len(limit) < 9 else 0,
            prefix=query.get("prefix", ""),
            delimiter=query.get("delimiter", ""),
            cursor=query.get("continuation-token", ""),
            start_after=query.get("start-after", query.get("marker", "")),
        )
        page, objects = await self._store.listing(call.bucket, question)
        body = s3_answers.listing(call.bucket, page, objects, query)
        return web.Response(body=body, content_type="application/xml")

    async def _head(self, call: "Call") -> web.StreamResponse:
        found = await self._store.head(call.bucket, call.key)
        if refused := _unwanted(call, found):
            return refused
        answer = web.StreamResponse(headers=_shown(found))
        answer.content_length = found.size
        await answer.prepare(call.request)
        await answer.write_eof()
        return answer

    async def _get(self, call: "Call") -> web.StreamResponse:
        part = call.request.headers.get("Range", "")
        async with self._store.get(call.bucket, call.key, part) as (found, bytes_):
            if refused := _unwanted(call, found):
                return refused
            headers = _shown(found) | _overridden(call.query)
            if "Content-Range" in bytes_.headers:
                headers["Content-Range"] = bytes_.headers["Content-Range"]
            answer = web.StreamResponse(status=bytes_.status, headers=headers)
            answer.content_length = int(bytes_.headers.get("Content-Length", "0"))
            await answer.prepare(call.request)
            try:
                async for piece in bytes_.content.iter_chunked(PIECE_BYTES):
                    await answer.write(piece)
                await answer.write_eof()
            except (OSError, ClientConnectionError, ClientPayloadError):
                if call.request.transport is not None:
                    call.request.transport.abort()
            return answer

    async def _put(self, call: "Call") -> web.StreamResponse:
        size, pieces = call.body()
        question = call.upload("put")
        found = await self._store.put(call.bucket, question, size, pieces)
        return web.Response(headers={"ETag": f'"{found.etag}"'})

    async def _copy(self, call: "Call") -> web.StreamResponse:
        source = unquote(call.request.headers["x-amz-copy-source"]).removeprefix("/")
        bucket, _, key = source.partition("?")[0].partition("/")
        if bucket not in self._buckets():
            raise r2_errors.no_such_bucket()
        async with self._store.get(bucket, key, "") as (found, bytes_):
            question = call.upload("put")
            if call.request.headers.get("x-amz-metadata-directive", "COPY") == "COPY":
                question = _as_kept(call.key, found)
            pieces = aiter(bytes_.content.iter_chunked(PIECE_BYTES))
            made = await self._store.put(call.bucket, question, found.size, pieces)
        moment = iso(made.uploaded_ms / 1000)
        etag = s3_answers.text("ETag", f'"{made.etag}"')
        return _xml("CopyObjectResult", etag, s3_answers.text("LastModified", moment))

    async def _delete(self, call: "Call") -> web.StreamResponse:
        await self._store.delete(call.bucket, [call.key])
        return web.Response(status=204)

    async def _delete_many(self, call: "Call") -> web.StreamResponse:
        told = await call.document()
        keys = texts(told, "Key")
        await self._store.delete(call.bucket, keys)
        quiet = texts(told, "Quiet", "false")[0] == "true"
        gone = [s3_answers.element("Deleted", s3_answers.text("Key", key)) for key in keys]
        return _xml("DeleteResult", *([] if quiet else gone))

    async def _create(self, call: "Call") -> web.StreamResponse:
        begun = await self._store.create_upload(call.bucket, call.upload("createMultipartUpload"))
        said = {"Bucket": call.bucket, "Key": call.key, "UploadId": begun}
        return _xml(
            "InitiateMultipartUploadResult", *(s3_answers.text(*pair) for pair in said.items())
        )

    async def _part(self, call: "Call") -> web.StreamResponse:
        number = call.query.get("partNumber", "")
        if not number.isdecimal() or not 1 <= int(number[:6]) <= 10_000:
            raise r2_errors.invalid_argument("partNumber has to be between 1 and 10000.")
        question = Question(
            method="uploadPart",
            object=call.key,
            upload_id=call.query["uploadId"],
            part_number=int(number),
            sha256=call.sha256(),
        )
        size, pieces = call.body()
        etag = await self._store.upload_part(call.bucket, question, size, pieces)
        return web.Response(headers={"ETag": f'"{etag}"'})

    async def _complete(self, call: "Call") -> web.StreamResponse:
        told = await call.document()
        numbers, etags = texts(told, "PartNumber"), texts(told, "ETag")
        parts = [Part(e.strip('"'), int(n)) for n, e in zip(numbers, etags, strict=True)]
        question = Question(
            method="", object=call.key, upload_id=call.query["uploadId"], parts=parts
        )
        found = await self._store.complete_upload(call.bucket, question)
        said = {"Bucket": call.bucket, "Key": call.key, "ETag": f'"{found.etag}"'}
        return _xml(
            "CompleteMultipartUploadResult", *(s3_answers.text(*pair) for pair in said.items())
        )

    async def _abort(self, call: "Call") -> web.StreamResponse:
        question = Question(method="", object=call.key, upload_id=call.query["uploadId"])
        await self._store.abort_upload(call.bucket, question)
        return web.Response(status=204)


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

    async def document(self) -> str:
        """Return a short body as text."""
        size, pieces = self.body()
        if size > DOCUMENT_BYTES_MAX:
            raise r2_errors.entity_too_large()
        return b"".join([piece async for piece in pieces]).decode(errors="replace")

    def upload(self, method: str) -> Question:
        """Return what is to be kept with an object."""
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
            md5=headers.get("Content-MD5", ""),
            sha256=self.sha256(),
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

    def condition(self) -> Conditional | None:
        """Return the condition that the headers make."""
        headers, told = self.request.headers, Conditional()
        fields: dict[str, Any] = {}
        for header, field in (
            ("If-Match", "etag_matches"),
            ("If-None-Match", "etag_does_not_match"),
        ):
            if header in headers:
                fields[field] = [_etag(one) for one in headers[header].split(",")]
        for header, field in (
            ("If-Unmodified-Since", "uploaded_before"),
            ("If-Modified-Since", "uploaded_after"),
        ):
            if header in headers:
                fields[field] = _moment_ms(headers[header])
        if not fields:
            return None
        if "uploaded_before" in fields:
            fields["uploaded_before"] += 1000  # a file of that very second was not modified since
        return type(told)(**fields, seconds_granularity=True)


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


def _unwanted(call: Call, found: Found) -> web.Response | None:
    condition = call.condition()
    if holds(condition, found):
        return None
    only_new = {"If-None-Match", "If-Modified-Since"} & {h.title() for h in call.request.headers}
    if only_new and "If-Match" not in call.request.headers:
        return web.Response(status=304, headers={"ETag": f'"{found.etag}"'})
    raise r2_errors.precondition_failed()


def _shown(found: Found) -> dict[str, str]:
    http = found.kept.http
    headers = {h: value for f, h in FIELDS.items() if (value := getattr(http, f)) is not None}
    if http.cache_expiry is not None:
        headers["Expires"] = email.utils.formatdate(http.cache_expiry / 1000, usegmt=True)
    return {
        "Content-Type": "application/octet-stream",
        **headers,
        **{META + field.k: field.v for field in found.kept.custom if _is_header(field)},
        "ETag": f'"{found.etag}"',
        "Last-Modified": email.utils.formatdate(found.uploaded_ms // 1000, usegmt=True),
        "Accept-Ranges": "bytes",
        "x-amz-storage-class": s3_answers.storage_class(found),
    }


def _is_header(field: Field) -> bool:
    name = field.k.replace("-", "").replace("_", "").replace(".", "")
    return name.isascii() and name.isalnum() and field.v.isprintable()


def _overridden(query: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that a presigned URL asks for (`response-content-type` …)."""
    names = {f"response-{header.lower()}": header for header in (*FIELDS.values(), "Expires")}
    return {names[name]: value for name, value in query.items() if name in names}


def _as_kept(key: str, found: Found) -> Question:
    kept = found.kept
    return Question(
        method="put",
        object=key,
        custom_fields=kept.custom,
        http_fields=kept.http,
        storage_class=kept.storage_class,
    )


async def _have_it_sent(request: web.BaseRequest) -> None:
    """Tell a client that waits before it sends a body (`Expect: 100-continue`) to go on."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself has not begun


async def _nothing(call: Call) -> web.StreamResponse:
    return web.Response()


async def _location(call: Call) -> web.StreamResponse:
    return _xml("LocationConstraint", REGION)


async def _no_versions(call: Call) -> web.StreamResponse:
    return _xml("VersioningConfiguration")


def _xml(name: str, *inside: str) -> web.Response:
    return web.Response(body=s3_answers.document(name, *inside), content_type="application/xml")


def _refused(request: web.BaseRequest, refusal: Refusal) -> web.Response:
    body = b"" if request.method == "HEAD" else s3_answers.refusal(refusal)
    answer = web.Response(status=refusal.status, body=body, content_type="application/xml")
    answer.force_close()  # a body that was not read would be taken for the next request
    return answer
