"""Keys and values of a KV namespace through the API: one by one, and many at a time.

Promises: an answer that says success says that all of it is in the log; of many keys, those that were
not written are named. A value travels as it is: bytes in, bytes out.
"""

import base64
import binascii
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import unquote_to_bytes

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from kythera.control.bodies import form_body, json_body, read_body, room_for
from kythera.control.envelope import success
from kythera.control.kv_namespaces import kv_of, namespace_in
from kythera.control.kv_store import BAD_LIMIT, BAD_METADATA, BAD_REQUEST, TOO_LARGE
from kythera.control.services import services_of
from kythera.model.errors import KytheraError, Refusal
from kythera.model.limits import Limits

LIST_MIN = 10
"""Cloudflare's: a list of fewer is refused."""
WRITES_AT_ONCE = 32
FORM_PARTS_MAX = 2
FORM_BYTES_MORE = 16 * 1024
EXPIRES = ("expiration_ttl", "expiration")


def _key(request: Request) -> str:
    """Return the key of the address: as it was sent, for a server may have read `%2F` as `/`."""
    raw = request.scope.get("raw_path") or request.scope["path"].encode()
    place = raw.partition(b"?")[0].split(b"/values/", 1)
    if len(place) == 1:
        place = raw.partition(b"?")[0].split(b"/metadata/", 1)
    return unquote_to_bytes(place[1]).decode(errors="replace")


async def get_keys(request: Request) -> Response:
    """GET keys: a page of them (`limit`, `prefix`, `cursor`)."""
    found, query = namespace_in(request), request.query_params
    most = services_of(request).platform.limits.kv_list_max
    told = query.get("limit", str(most))
    limit = int(told) if told.isascii() and told.isdigit() and len(told) < 10 else 0
    if not LIST_MIN <= limit <= most:
        raise Refusal(
            BAD_LIMIT,
            f"invalid limit argument. Please specify an integer between {LIST_MIN} and {most}.",
        )
    page = await kv_of(request).page(
        found.id, query.get("prefix", ""), query.get("cursor", ""), limit
    )
    return success(page.keys, info={"count": len(page.keys), "cursor": page.cursor})


async def get_value(request: Request) -> Response:
    """GET values/{key}: its bytes."""
    found = namespace_in(request)
    stack = AsyncExitStack()
    try:
        value = await stack.enter_async_context(kv_of(request).value(found.id, _key(request)))
    except BaseException:
        await stack.aclose()
        raise
    headers = {"content-length": str(value.size), "cache-control": "no-store"}
    if value.expiration:
        headers["expiration"] = value.expiration

    async def pieces() -> AsyncIterator[bytes]:
        async with stack:
            async for piece in value.pieces:
                yield piece

    return StreamingResponse(pieces(), headers=headers, media_type="application/octet-stream")


async def get_metadata(request: Request) -> Response:
    """GET metadata/{key}."""
    found = namespace_in(request)
    async with kv_of(request).value(found.id, _key(request)) as value:
        return success(msgspec.json.decode(value.metadata) if value.metadata else None)


async def put_value(request: Request) -> Response:
    """PUT values/{key}: the bytes themselves, or a form with `value` and `metadata`."""
    found, kv = namespace_in(request), kv_of(request)
    limits = services_of(request).platform.limits
    metadata = b""
    async with room_for(request, request.app.state.large_bodies):
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            parts = await form_body(
                request,
                bytes_max=limits.kv_value_bytes_max + FORM_BYTES_MORE,
                parts_max=FORM_PARTS_MAX,
            )
            fields = {part.name: part.data for part in parts}
            if "value" not in fields:
                raise Refusal(BAD_REQUEST, "The form has no field `value`.")
            value, metadata = fields["value"], _compact(fields.get("metadata", b""))
        else:
            value = await _body(request, limits)
        await kv.put(
            found.id,
            _key(request),
            value,
            metadata=metadata,
            expires=_expires(dict(request.query_params)),
        )
    return success(None)


async def _body(request: Request, limits: Limits) -> bytes:
    try:
        return await read_body(request, limits.kv_value_bytes_max)
    except Refusal as refusal:
        if refusal.status != 413:
            raise
        told = f"Value is larger than the limit of {limits.kv_value_bytes_max} bytes."
        raise Refusal(TOO_LARGE, told, status=413) from None


def _compact(metadata: bytes) -> bytes:
    """Return JSON without what could not stand in a header."""
    if not metadata:
        return b""
    try:
        return msgspec.json.encode(msgspec.json.decode(metadata))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise Refusal(BAD_METADATA, "Metadata must be valid JSON.") from None


def _expires(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return when something shall expire, as it was told."""
    for name in EXPIRES:
        told = fields.get(name)
        if told is not None and told != "":
            return {name: str(int(told) if isinstance(told, float) else told)}
    return {}


async def delete_value(request: Request) -> Response:
    """DELETE values/{key}."""
    found = namespace_in(request)
    await kv_of(request).delete(found.id, _key(request))
    return success(None)


class Pair(msgspec.Struct):
    """A key to write."""

    key: str
    value: str
    base64: bool = False
    metadata: msgspec.Raw = msgspec.Raw(b"")
    expiration: int | float | None = None
    expiration_ttl: int | float | None = None


async def put_bulk(request: Request) -> Response:
    """PUT bulk: many keys; each is written for itself, and those that were not are named."""
    found, kv = namespace_in(request), kv_of(request)
    limits = services_of(request).platform.limits
    async with room_for(request, request.app.state.large_bodies):
        body = await read_body(request, limits.kv_bulk_write_bytes_max)
        pairs = _pairs(body, limits)
        # Of a key that is named twice the last one counts, as if they came one by one.
        last = {pair.key: pair for pair in pairs}
        prepared = {key: (_value(pair), pair) for key, pair in last.items()}

        async def write(key: str) -> None:
            value, pair = prepared[key]
            metadata = bytes(pair.metadata)
            await kv.put(
                found.id,
                key,
                value,
                metadata=b"" if metadata in (b"", b"null") else _compact(metadata),
                expires=_expires(msgspec.structs.asdict(pair)),
            )

        return await _each(list(prepared), write)


def _pairs(body: bytes, limits: Limits) -> list[Pair]:
    try:
        pairs = msgspec.json.decode(body, type=list[Pair])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Refusal(BAD_REQUEST, f"The body is not a list of keys and values: {error}.") from None
    _refuse_many(len(pairs), limits)
    return pairs


def _value(pair: Pair) -> bytes:
    if not pair.base64:
        return pair.value.encode(errors="replace")
    try:
        return base64.b64decode(pair.value, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(
            BAD_REQUEST, f"The value of key {pair.key[:80]!r} is said to be base64, and is not."
        ) from None


def _refuse_many(count: int, limits: Limits) -> None:
    if count > limits.kv_bulk_write_max:
        raise Refusal(
            BAD_REQUEST, f"{count:,} keys are too many: {limits.kv_bulk_write_max:,} at a time."
        )


async def delete_bulk(request: Request) -> Response:
    """DELETE bulk, POST bulk/delete: many keys."""
    found, kv = namespace_in(request), kv_of(request)
    limits = services_of(request).platform.limits
    keys = await json_body(request, limits.kv_bulk_write_bytes_max)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Refusal(BAD_REQUEST, "The body is not a list of keys.")
    _refuse_many(len(keys), limits)

    async def delete(key: str) -> None:
        await kv.delete(found.id, key)

    return await _each(list(dict.fromkeys(keys)), delete)


async def _each(keys: list[str], work: Callable[[str], Awaitable[None]]) -> Response:
    """Do the same with each key, some at the same time; after a failure none is begun any more, and
    the answer is that failure."""
    failures: list[KytheraError] = []
    places = anyio.CapacityLimiter(WRITES_AT_ONCE)

    async def one(key: str) -> None:
        async with places:
            if not failures:
                try:
                    await work(key)
                except Refusal as refusal:
                    told = f"{refusal.message} (key {key[:80]!r})"
                    failures.append(Refusal(refusal.code, told, status=refusal.status))
                except KytheraError as error:
                    failures.append(error)

    async with anyio.create_task_group() as tasks:
        for key in keys:
            tasks.start_soon(one, key)
    if failures:
        raise failures[0]
    return success({"successful_key_count": len(keys), "unsuccessful_keys": []})


async def get_bulk(request: Request) -> Response:
    """POST bulk/get: `keys`, and maybe `type` and `withMetadata`."""
    found, kv = namespace_in(request), kv_of(request)
    limits = services_of(request).platform.limits
    asked = await json_body(request, limits.json_body_bytes_max)
    if not isinstance(asked, dict):
        raise Refusal(BAD_REQUEST, "The body is not a JSON object.")
    told = await kv.values(found.id, {**asked, "withMetadata": True})
    with_metadata = asked.get("withMetadata") is True
    values = {
        key: _shown(value, with_metadata=with_metadata) if value is not None else None
        for key, value in told.items()
    }
    return success({"values": values})


def _shown(value: dict[str, Any], *, with_metadata: bool) -> dict[str, Any]:
    return value if with_metadata else {"value": value["value"]}


def routes(root: str) -> list[Route]:
    """Return the endpoints of keys and values."""
    one = f"{root}/{{namespace}}"
    return [
        Route(f"{one}/keys", get_keys, methods=["GET"]),
        Route(f"{one}/bulk", put_bulk, methods=["PUT"]),
        Route(f"{one}/bulk", delete_bulk, methods=["DELETE"]),
        Route(f"{one}/bulk/delete", delete_bulk, methods=["POST"]),
        Route(f"{one}/bulk/get", get_bulk, methods=["POST"]),
        Route(f"{one}/values/{{key:path}}", get_value, methods=["GET"]),
        Route(f"{one}/values/{{key:path}}", put_value, methods=["PUT"]),
        Route(f"{one}/values/{{key:path}}", delete_value, methods=["DELETE"]),
        Route(f"{one}/metadata/{{key:path}}", get_metadata, methods=["GET"]),
    ]
