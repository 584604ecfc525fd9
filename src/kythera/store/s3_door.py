"""S3 for clients outside (aws-cli, boto3, rclone, presigned URLs), over the same buckets as cells see.

An address is `/bucket/key` (path style). Promises: who does not sign with this platform's keys is told so
before anything is read; what is acknowledged is on the disk. Refuses by name (NotImplemented) what is
not below.
"""

import email.utils
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl, unquote

import msgspec
import structlog
from aiohttp import ClientConnectionError, ClientPayloadError, web

from kythera.ground.clock import Clock, iso
from kythera.model.errors import Refusal
from kythera.store import r2_errors, s3_answers, s3_uploads
from kythera.store.r2_conditions import holds
from kythera.store.r2_objects import Found
from kythera.store.r2_protocol import Field, Part, Question
from kythera.store.r2_store import R2Store
from kythera.store.s3 import texts
from kythera.store.s3_call import FIELDS, META, OF_SOURCE, Call, Doing
from kythera.store.s3_endpoint import REGION, Keys
from kythera.store.s3_records import Buckets
from kythera.store.s3_signature import Asked, check

OWNER = "kythera"
PARTS_MAX = 10_000
OF_BUCKETS = (
    *("uploads", "delete", "location", "versioning", "versions", "cors", "lifecycle", "encryption"),
    *("acl", "policy", "policyStatus", "publicAccessBlock", "ownershipControls", "tagging"),
    *("object-lock", "replication", "notification", "logging", "website", "requestPayment"),
    *("accelerate", "analytics", "inventory", "metrics", "intelligent-tiering", "session"),
)
OF_OBJECTS = (
    *("uploads", "uploadId", "acl", "tagging", "attributes", "versionId", "partNumber"),
    *("legal-hold", "retention", "restore", "select", "torrent"),
)
"""Parameters that make another operation of a method: one that is not offered is refused, not taken
for the plain one."""
NOT_SET = {
    "cors": "NoSuchCORSConfiguration",
    "lifecycle": "NoSuchLifecycleConfiguration",
    "encryption": "ServerSideEncryptionConfigurationNotFoundError",
}
"""What a bucket might have and has not, and S3's word for that."""


class S3Door:
    """Answers S3's clients."""

    def __init__(self, store: R2Store, keys: Keys, clock: Clock, buckets: Buckets) -> None:
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

    async def _answered(self, call: Call) -> web.StreamResponse:
        if not call.bucket:
            return self._all_buckets()
        call.refuse_unkept()
        made = call.request.method == "PUT" and not call.key and not call.part_of(*OF_BUCKETS)
        if made:
            return await self._make(call)
        if call.bucket not in self._buckets.told():
            raise r2_errors.no_such_bucket()
        doing = (self._of_object if call.key else self._of_bucket)(call)
        if doing is None:
            what = f"{call.request.method} with {', '.join(call.query) or 'no parameters'}"
            raise r2_errors.not_implemented(what)
        return await doing(call)

    def _of_bucket(self, call: Call) -> Doing | None:
        match call.request.method, call.part_of(*OF_BUCKETS):
            case "HEAD", "":
                return _nothing
            case "GET", "location":
                return _location
            case "GET", "versioning":
                return _no_versions
            case "GET", "cors" | "lifecycle" | "encryption":
                return _not_set
            case "GET", "uploads":
                return self._uploads
            case "GET", "":
                return self._list
            case "POST", "delete":
                return self._delete_many
            case "DELETE", "":
                return self._unmake
        return None

    def _of_object(self, call: Call) -> Doing | None:
        copies = "x-amz-copy-source" in call.request.headers
        match call.request.method, call.part_of(*OF_OBJECTS):
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
            case "GET", "uploadId":
                return self._parts
            case "PUT", "uploadId":
                return self._copy_part if copies else self._part
            case "POST", "uploadId":
                return self._complete
            case "DELETE", "uploadId":
                return self._abort
        return None

    def _all_buckets(self) -> web.Response:
        names = [
            s3_answers.element(
                "Bucket", s3_answers.text("Name", name), s3_answers.text("CreationDate", made)
            )
            for name, made in sorted(self._buckets.told().items())
        ]
        owner = [s3_answers.text(name, OWNER) for name in ("ID", "DisplayName")]
        return _xml(
            "ListAllMyBucketsResult",
            s3_answers.element("Owner", *owner),
            s3_answers.element("Buckets", *names),
        )

    async def _make(self, call: Call) -> web.StreamResponse:
        told = await call.document()
        location = texts(told, "LocationConstraint", "")[0]
        await self._buckets.make(call.bucket, "" if location == REGION else location)
        return web.Response(headers={"Location": f"/{call.bucket}"})

    async def _unmake(self, call: Call) -> web.StreamResponse:
        await self._buckets.delete(call.bucket)
        return web.Response(status=204)

    async def _uploads(self, call: Call) -> web.StreamResponse:
        if call.query.get("delimiter"):
            raise r2_errors.not_implemented("A list of uploads with a delimiter")
        told = await self._store.told_of(call.bucket, "", s3_uploads.uploads_question(call.query))
        body = s3_uploads.uploads(call.bucket, told, call.query)
        return web.Response(body=body, content_type="application/xml")

    async def _parts(self, call: Call) -> web.StreamResponse:
        asked = s3_uploads.parts_question(call.query)
        told = await self._store.told_of(call.bucket, call.key, asked)
        body = s3_uploads.parts(call.bucket, call.key, told, call.query)
        return web.Response(body=body, content_type="application/xml")

    async def _list(self, call: Call) -> web.StreamResponse:
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

    async def _head(self, call: Call) -> web.StreamResponse:
        found = await self._store.head(call.bucket, call.key)
        if refused := _unwanted(call, found):
            return refused
        answer = web.StreamResponse(headers=_shown(found))
        answer.content_length = found.size
        await answer.prepare(call.request)
        await answer.write_eof()
        return answer

    async def _get(self, call: Call) -> web.StreamResponse:
        part = call.request.headers.get("Range", "")
        async with self._store.get(call.bucket, call.key, part) as opened:
            if refused := _unwanted(call, opened.found):
                return refused
            headers = _shown(opened.found) | _overridden(call.query)
            if opened.content_range:
                headers["Content-Range"] = opened.content_range
            answer = web.StreamResponse(status=opened.status, headers=headers)
            answer.content_length = opened.length
            await answer.prepare(call.request)
            try:
                async for piece in opened.pieces:
                    await answer.write(piece)
                await answer.write_eof()
            except (OSError, ClientConnectionError, ClientPayloadError):
                if call.request.transport is not None:
                    call.request.transport.abort()
            return answer

    async def _put(self, call: Call) -> web.StreamResponse:
        size, pieces = call.body()
        question = call.upload("put")
        found = await self._store.put(call.bucket, question, size, pieces)
        return web.Response(headers={"ETag": f'"{found.etag}"'})

    @asynccontextmanager
    async def _source(
        self, call: Call, part: str
    ) -> AsyncIterator[tuple[Found, int, AsyncIterator[bytes]]]:
        """Hold what is to be copied: all of it, or a range. Raises Refusal: its condition too."""
        bucket, key = call.source()
        if bucket not in self._buckets.told():
            raise r2_errors.no_such_bucket()
        async with self._store.get(bucket, key, part) as opened:
            if not holds(call.condition(OF_SOURCE), opened.found):
                raise r2_errors.precondition_failed()
            yield opened.found, opened.length, opened.pieces

    async def _copy(self, call: Call) -> web.StreamResponse:
        async with self._source(call, "") as (found, size, pieces):
            question = call.upload("put", of_body=False)
            if call.request.headers.get("x-amz-metadata-directive", "COPY") == "COPY":
                question = _as_kept(question, found)
            made = await self._store.put(call.bucket, question, size, pieces)
        return _copied("CopyObjectResult", made.etag, made.uploaded_ms / 1000)

    async def _copy_part(self, call: Call) -> web.StreamResponse:
        question = _part_of(call, "")
        part = call.request.headers.get("x-amz-copy-source-range", "")
        async with self._source(call, part) as (_, size, pieces):
            etag = await self._store.upload_part(call.bucket, question, size, pieces)
        return _copied("CopyPartResult", etag, self._clock.now())

    async def _delete(self, call: Call) -> web.StreamResponse:
        await self._store.delete(call.bucket, [call.key])
        return web.Response(status=204)

    async def _delete_many(self, call: Call) -> web.StreamResponse:
        told = await call.document()
        keys = texts(told, "Key")
        await self._store.delete(call.bucket, keys)
        quiet = texts(told, "Quiet", "false")[0] == "true"
        gone = [s3_answers.element("Deleted", s3_answers.text("Key", key)) for key in keys]
        return _xml("DeleteResult", *([] if quiet else gone))

    async def _create(self, call: Call) -> web.StreamResponse:
        begun = await self._store.create_upload(
            call.bucket, call.upload("createMultipartUpload", of_body=False)
        )
        said = {"Bucket": call.bucket, "Key": call.key, "UploadId": begun}
        return _xml(
            "InitiateMultipartUploadResult", *(s3_answers.text(*pair) for pair in said.items())
        )

    async def _part(self, call: Call) -> web.StreamResponse:
        question = _part_of(call, call.sha256())
        size, pieces = call.body()
        etag = await self._store.upload_part(call.bucket, question, size, pieces)
        return web.Response(headers={"ETag": f'"{etag}"'})

    async def _complete(self, call: Call) -> web.StreamResponse:
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

    async def _abort(self, call: Call) -> web.StreamResponse:
        question = Question(method="", object=call.key, upload_id=call.query["uploadId"])
        await self._store.abort_upload(call.bucket, question)
        return web.Response(status=204)


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


def _as_kept(question: Question, found: Found) -> Question:
    kept = found.kept
    return msgspec.structs.replace(
        question,
        custom_fields=kept.custom,
        http_fields=kept.http,
        storage_class=kept.storage_class,
    )


def _part_of(call: Call, sha256: str) -> Question:
    number = call.query.get("partNumber", "")
    if not number.isdecimal() or not 1 <= int(number[:6]) <= PARTS_MAX:
        raise r2_errors.invalid_argument(f"partNumber has to be between 1 and {PARTS_MAX}.")
    return Question(
        method="uploadPart",
        object=call.key,
        upload_id=call.query["uploadId"],
        part_number=int(number),
        sha256=sha256,
    )


def _copied(name: str, etag: str, at: float) -> web.Response:
    said = {"ETag": f'"{etag}"', "LastModified": iso(at)}
    return _xml(name, *(s3_answers.text(*pair) for pair in said.items()))


async def _have_it_sent(request: web.BaseRequest) -> None:
    """Tell a client that waits before it sends a body (`Expect: 100-continue`) to go on."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself has not begun


async def _nothing(call: Call) -> web.StreamResponse:
    return web.Response()


async def _location(call: Call) -> web.StreamResponse:
    return _xml("LocationConstraint", REGION)


async def _not_set(call: Call) -> web.StreamResponse:
    what = call.part_of(*NOT_SET)
    body = s3_answers.failure(NOT_SET[what], f"The bucket has no {what} configuration.")
    return web.Response(status=404, body=body, content_type="application/xml")


async def _no_versions(call: Call) -> web.StreamResponse:
    return _xml("VersioningConfiguration")


def _xml(name: str, *inside: str) -> web.Response:
    return web.Response(body=s3_answers.document(name, *inside), content_type="application/xml")


def _refused(request: web.BaseRequest, refusal: Refusal) -> web.Response:
    body = b"" if request.method == "HEAD" else s3_answers.refusal(refusal)
    answer = web.Response(status=refusal.status, body=body, content_type="application/xml")
    answer.force_close()  # a body that was not read would be taken for the next request
    return answer
