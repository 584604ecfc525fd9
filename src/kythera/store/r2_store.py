"""R2's operations on one bucket, over S3.

Promises: a write is acknowledged when its bytes and all that is said of them are on the disk; a
conditional write is decided and done in one step (the engine's own `If-Match`), so that of racing
writers one wins; nothing is held in memory but a piece of a body, or a short one.
"""

import base64
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote_plus
from xml.sax.saxutils import escape

import aiohttp
import anyio

from kythera.ground.chance import Chance
from kythera.ground.clock import Clock
from kythera.model.errors import Refusal
from kythera.model.limits import Limits
from kythera.store import r2_errors
from kythera.store.r2_bodies import PIECE_BYTES, Checked, Opened, one_piece
from kythera.store.r2_buckets import wait_told
from kythera.store.r2_conditions import holds
from kythera.store.r2_hot import Hot
from kythera.store.r2_keys import engine_name, fits
from kythera.store.r2_listing import Names, Page, page
from kythera.store.r2_objects import (
    KEPT_HEADER,
    STORAGE_CLASSES,
    Found,
    as_header,
    found_in,
    kept_of,
    metadata_bytes,
)
from kythera.store.r2_protocol import Question
from kythera.store.s3 import S3, S3Failure, texts

VERSION_DIGITS = 32
HEADS_AT_ONCE = 16
DELETED_AT_ONCE_MAX = 1_000
WHOLE_BYTES_MAX = 64 * 1024
"""A body as short as that is passed on in one piece."""
RACED = "ConditionalRequestConflict"
"""What some endpoints call it when two conditional writes meet."""
NOT_IN_XML = re.compile("[\x00-\x1f\x7f\ufffe\uffff]")
REFUSALS: Mapping[str, Callable[[], Refusal]] = {
    "NoSuchKey": r2_errors.no_such_key,
    "NoSuchUpload": r2_errors.no_such_upload,
    "InvalidPart": r2_errors.invalid_part,
    "InvalidPartOrder": r2_errors.invalid_part,
    "EntityTooSmall": r2_errors.entity_too_small,
    "EntityTooLarge": r2_errors.entity_too_large,
    "InvalidRange": r2_errors.invalid_range,
    "BucketNotEmpty": r2_errors.bucket_not_empty,
    "KeyTooLongError": r2_errors.invalid_name,
}
"""The engine's codes and what they are called here."""


def refusal_of(failure: S3Failure) -> Refusal:
    """Return what a cell is told of the engine's no."""
    made = REFUSALS.get(failure.code)
    if made is None and failure.status == 404:
        made = r2_errors.no_such_key  # the answer to HEAD has no code
    return (made or r2_errors.internal)()


class R2Store:
    """All buckets of this machine."""

    def __init__(
        self,
        s3: S3,
        limits: Limits,
        clock: Clock,
        chance: Chance,
        *,
        buckets: Path,
        settle: Callable[[], Awaitable[None]],
        hot_bytes_max: int,
    ) -> None:
        """`hot_bytes_max`: 0 where others than this process write."""
        self._s3 = s3
        self._limits = limits
        self._clock = clock
        self._chance = chance
        self._buckets = buckets
        self._settle = settle
        self._hot = Hot(hot_bytes_max, clock)
        self._made: set[str] = set()
        """Buckets that the engine has."""

    async def head(self, bucket: str, key: str) -> Found:
        """Return an object. Raises Refusal (10007)."""
        _check_key(key)
        await self._make(bucket)
        if held := self._hot.get((bucket, key)):
            return held[0]
        async with self._asked("HEAD", _path(bucket, key)) as answer:
            return found_in(key, answer.headers)

    @asynccontextmanager
    async def get(self, bucket: str, key: str, part: str) -> AsyncIterator[Opened]:
        """Hold an object and its bytes, or a part of them (an HTTP Range), for the block."""
        _check_key(key)
        await self._make(bucket)
        held = None if part else self._hot.get((bucket, key))
        if held is not None:
            yield _short(*held)
            return
        stamp = self._hot.stamp((bucket, key))
        headers = {"Range": part} if part else {}
        async with self._asked("GET", _path(bucket, key), headers=headers) as answer:
            found, length = found_in(key, answer.headers), int(answer.headers["Content-Length"])
            if not part and length <= WHOLE_BYTES_MAX:
                body = await answer.read()
                self._hot.keep((bucket, key), stamp, found, body)
                yield _short(found, body)
                return
            yield Opened(
                found,
                length,
                aiter(answer.content.iter_chunked(PIECE_BYTES)),
                status=answer.status,
                content_range=answer.headers.get("Content-Range", ""),
            )

    async def put(
        self, bucket: str, question: Question, size: int, pieces: AsyncIterator[bytes]
    ) -> Found:
        """Keep an object. Raises Refusal: what was wrong with it, or that `onlyIf` does not hold."""
        self._check_upload(question)
        if size > self._limits.r2_object_bytes_max:
            raise r2_errors.entity_too_large()
        now_ms = int(self._clock.now() * 1000)
        kept = kept_of(question, self._chance.hex(VERSION_DIGITS), now_ms)
        await self._make(bucket)
        body = Checked(pieces, question.checksum())
        only = await self._decided(bucket, question)
        headers = {KEPT_HEADER: as_header(kept), "Content-Length": str(size), **only}
        whole = await body.whole() if size <= WHOLE_BYTES_MAX else None
        name = bucket, question.object
        with self._hot.writing([name]) as write:
            etag = await self._put_once(name, headers, body, whole)
            await self._settle()
            found = Found(question.object, size, etag, now_ms, kept)
            if whole is not None:
                write.kept[name] = found, whole
        return found

    async def _put_once(
        self, name: tuple[str, str], headers: dict[str, str], body: Checked, whole: bytes | None
    ) -> str:
        given = body if whole is None else whole
        try:
            answered, _ = await self._s3.whole("PUT", _path(*name), None, headers, given)
        except S3Failure as failure:
            if body.refused is not None:
                raise body.refused from None
            if failure.status == 412 or failure.code == RACED:
                raise r2_errors.precondition_failed() from None
            raise refusal_of(failure) from failure
        return answered.get("ETag", "").strip('"')

    async def _decided(self, bucket: str, question: Question) -> dict[str, str]:
        """Return under which condition of the engine's a write may be done: what was seen is there."""
        if question.only_if is None:
            return {}
        try:
            found: Found | None = await self.head(bucket, question.object)
        except Refusal as refusal:
            if refusal.code not in (r2_errors.NO_SUCH_KEY, r2_errors.NO_SUCH_BUCKET):
                raise
            found = None
        if not holds(question.only_if, found):
            raise r2_errors.precondition_failed()
        return {"If-None-Match": "*"} if found is None else {"If-Match": f'"{found.etag}"'}

    async def delete(self, bucket: str, keys: list[str]) -> None:
        """Forget objects; those that are not there are no error."""
        if len(keys) > DELETED_AT_ONCE_MAX:
            raise r2_errors.invalid_argument(f"At most {DELETED_AT_ONCE_MAX} keys at once.")
        for key in keys:
            _check_key(key)
        await self._make(bucket)
        alone = [key for key in keys if len(keys) == 1 or NOT_IN_XML.search(key)]
        with self._hot.writing((bucket, key) for key in keys):
            for key in alone:
                await self._answer("DELETE", _path(bucket, key))
            await self._delete_many(bucket, [key for key in keys if key not in alone])
            await self._settle()

    async def _delete_many(self, bucket: str, keys: list[str]) -> None:
        if not keys:
            return
        named = "".join(f"<Object><Key>{escape(engine_name(k))}</Key></Object>" for k in keys)
        body = f"<Delete><Quiet>true</Quiet>{named}</Delete>".encode()
        md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        headers = {"Content-MD5": md5}  # some endpoints insist
        _, told = await self._answer("POST", bucket, {"delete": ""}, headers, body)
        if b"<Error>" in told:
            raise r2_errors.internal()

    async def listing(self, bucket: str, question: Question) -> tuple[Page, list[Found]]:
        """Return a page of a bucket and its objects, in the order of their keys."""

        async def ask(prefix: str, after: str, most: int) -> Names:
            query = {"list-type": "2", "encoding-type": "url", "max-keys": str(most)}
            query |= {"prefix": prefix} if prefix else {}
            query |= {"start-after": after} if after else {}
            _, data = await self._answer("GET", bucket, query)
            document = data.decode()
            names = [unquote_plus(name) for name in texts(document, "Key")]
            return Names(names, texts(document, "IsTruncated", "false")[0] == "true")

        await self._make(bucket)
        shown = await page(question, ask)
        return shown, await self._heads(bucket, shown.keys)

    async def _heads(self, bucket: str, keys: list[str]) -> list[Found]:
        """Return objects, several asked for at once; those deleted meanwhile are left out."""
        found: dict[str, Found] = {}
        failed: list[Refusal] = []
        room = anyio.CapacityLimiter(HEADS_AT_ONCE)

        async def look(key: str) -> None:
            async with room:
                try:
                    found[key] = await self.head(bucket, key)
                except Refusal as refusal:
                    if refusal.code != r2_errors.NO_SUCH_KEY:
                        failed.append(refusal)

        async with anyio.create_task_group() as tasks:
            for key in keys:
                tasks.start_soon(look, key)
        if failed:
            raise failed[0]
        return [found[key] for key in keys if key in found]

    async def create_upload(self, bucket: str, question: Question) -> str:
        """Begin an upload of many parts; return its id."""
        self._check_upload(question)
        kept = kept_of(question, self._chance.hex(VERSION_DIGITS), 0)
        await self._make(bucket)
        headers = {KEPT_HEADER: as_header(kept)}
        path = _path(bucket, question.object)
        _, data = await self._answer("POST", path, {"uploads": ""}, headers)
        await self._settle()
        return texts(data.decode(), "UploadId", "")[0]

    async def upload_part(
        self, bucket: str, question: Question, size: int, pieces: AsyncIterator[bytes]
    ) -> str:
        """Keep a part; return its etag."""
        if size > self._limits.r2_part_bytes_max:
            raise r2_errors.entity_too_large()
        query = {"partNumber": str(question.part_number), "uploadId": question.upload_id}
        headers = {"Content-Length": str(size)}
        body = Checked(pieces, question.checksum())
        path = _path(bucket, question.object)
        try:
            told, _ = await self._answer("PUT", path, query, headers, body if size else b"")
        except Refusal:
            if body.refused is not None:
                raise body.refused from None
            raise
        await self._settle()
        return told.get("ETag", "").strip('"')

    async def complete_upload(self, bucket: str, question: Question) -> Found:
        """Make an object of its parts."""
        parts = "".join(
            f"<Part><PartNumber>{part.part}</PartNumber><ETag>{escape(part.etag)}</ETag></Part>"
            for part in sorted(question.parts, key=lambda part: part.part)
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        path = _path(bucket, question.object)
        with self._hot.writing([(bucket, question.object)]):
            await self._answer("POST", path, {"uploadId": question.upload_id}, body=body)
            await self._settle()
        return await self.head(bucket, question.object)

    async def abort_upload(self, bucket: str, question: Question) -> None:
        """Forget an upload and its parts."""
        query = {"uploadId": question.upload_id}
        await self._answer("DELETE", _path(bucket, question.object), query)
        await self._settle()

    async def told_of(self, bucket: str, key: str, query: Mapping[str, str]) -> str:
        """Return the engine's own words about a bucket's uploads, or the parts of one."""
        await self._make(bucket)
        path = _path(bucket, key) if key else bucket
        _, data = await self._answer("GET", path, query)
        return data.decode()

    async def delete_bucket(self, bucket: str) -> None:
        """Forget a bucket. Raises Refusal (10008) while there is anything in it."""
        try:
            await self._s3.whole("DELETE", bucket)
        except S3Failure as failure:
            if failure.code != "NoSuchBucket":
                raise refusal_of(failure) from failure
        self._made.discard(bucket)
        await self._settle()

    async def _make(self, bucket: str) -> None:
        """Make the engine's bucket if there is none. Raises Refusal (10006): nobody wants it."""
        if bucket in self._made:
            return
        if not await wait_told(self._buckets, bucket):
            raise r2_errors.no_such_bucket()
        try:
            await self._s3.whole("PUT", bucket)
        except S3Failure as failure:
            if failure.status != 409:  # it is there
                raise refusal_of(failure) from failure
        self._made.add(bucket)

    def _check_upload(self, question: Question) -> None:
        _check_key(question.object)
        if question.ssec is not None:
            raise r2_errors.not_implemented("Encryption with a customer's key (ssecKey)")
        if metadata_bytes(question) > self._limits.r2_metadata_bytes_max:
            raise r2_errors.metadata_too_large()
        if question.storage_class and question.storage_class not in STORAGE_CLASSES:
            raise r2_errors.invalid_argument("The storage class you specified is not valid.")

    async def _answer(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | Checked | None = None,
    ) -> tuple[Mapping[str, str], bytes]:
        """Return the engine's answer. Raises Refusal."""
        try:
            return await self._s3.whole(method, path, query, headers, body)
        except S3Failure as failure:
            raise refusal_of(failure) from failure

    @asynccontextmanager
    async def _asked(
        self, method: str, path: str, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._s3.ask(method, path, None, headers) as answer:
                yield answer
        except S3Failure as failure:
            raise refusal_of(failure) from failure


def _check_key(key: str) -> None:
    if not fits(key):
        raise r2_errors.invalid_name()


def _short(found: Found, body: bytes) -> Opened:
    return Opened(found, len(body), one_piece(body), body)


def _path(bucket: str, key: str) -> str:
    return f"{bucket}/{engine_name(key)}"
