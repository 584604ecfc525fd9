"""Objects of R2 buckets through the API: put, read and deleted one at a time, as wrangler does.

Bodies pass in pieces. One whose length is not told (a pipe) is kept in a file without a name first, as
the store wants to know how long an object will be.
"""

import email.utils
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from kythera.control.envelope import success
from kythera.control.services import Services
from kythera.deploy.refusals import too_big
from kythera.ground.clock import iso
from kythera.model.errors import Refusal
from kythera.model.records import Resource
from kythera.store.r2_listing import KEYS_MAX
from kythera.store.r2_protocol import CUSTOM, HTTP

HTTP_FIELDS = {
    "content-type": "contentType",
    "content-language": "contentLanguage",
    "content-disposition": "contentDisposition",
    "content-encoding": "contentEncoding",
    "cache-control": "cacheControl",
}
IN_MEMORY_BYTES_MAX = 4 * 1024 * 1024
BucketOf = Callable[[Request], tuple[Services, Resource]]


def http_fields(request: Request) -> dict[str, Any]:
    """Return which headers are to be kept with an object."""
    fields: dict[str, Any] = {
        field: request.headers[header]
        for header, field in HTTP_FIELDS.items()
        if header in request.headers
    }
    if "expires" in request.headers:
        try:
            moment = email.utils.parsedate_to_datetime(request.headers["expires"])
        except ValueError:
            raise Refusal(10029, "The header Expires holds no date.") from None
        fields["cacheExpiry"] = int(moment.timestamp() * 1000)
    return fields


def shown_fields(document: dict[str, Any]) -> dict[str, str]:
    """Return an object's headers."""
    http = document.get("httpFields") or {}
    headers = {name: str(http[field]) for name, field in HTTP_FIELDS.items() if field in http}
    if "cacheExpiry" in http:
        headers["expires"] = email.utils.formatdate(int(http["cacheExpiry"]) / 1000, usegmt=True)
    uploaded = email.utils.formatdate(int(document["uploaded"]) / 1000, usegmt=True)
    return {
        "content-type": "application/octet-stream",
        **headers,
        "content-length": document["size"],
        "etag": f'"{document["etag"]}"',
        "last-modified": uploaded,
    }


def listed_object(document: dict[str, Any]) -> dict[str, Any]:
    """Return an object as a list of the API shows it."""
    http = dict(document.get("httpFields") or {})
    if "cacheExpiry" in http:
        http["cacheExpiry"] = iso(int(http["cacheExpiry"]) / 1000)
    return {
        "key": document["name"],
        "etag": document["etag"],
        "size": int(document["size"]),
        "last_modified": iso(int(document["uploaded"]) / 1000),
        "storage_class": document["storageClass"],
        "ssec": False,
        "http_metadata": http,
        "custom_metadata": {f["k"]: f["v"] for f in document.get("customFields", [])},
    }


def _asked_page(request: Request) -> dict[str, Any]:
    query = request.query_params
    most = query.get("per_page", "")
    return {
        "limit": int(most[:5]) if most.isdecimal() else KEYS_MAX,
        "prefix": query.get("prefix", ""),
        "delimiter": query.get("delimiter", ""),
        "cursor": query.get("cursor", ""),
        "startAfter": query.get("start_after", ""),
        "include": [HTTP, CUSTOM],
    }


@asynccontextmanager
async def _sized(
    request: Request, bytes_max: int
) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
    """Hold a body and its length. Raises Refusal for one that is too large."""
    told = request.headers.get("content-length", "")
    if told.isdigit():
        if int(told) > bytes_max:
            raise too_big(f"The object is larger than {bytes_max:,} bytes.")
        yield int(told), request.stream()
        return
    with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES_MAX) as file:
        async for piece in request.stream():
            await anyio.to_thread.run_sync(file.write, piece)
            if file.tell() > bytes_max:
                raise too_big(f"The object is larger than {bytes_max:,} bytes.")
        size = file.tell()
        file.seek(0)

        async def pieces() -> AsyncIterator[bytes]:
            while piece := await anyio.to_thread.run_sync(file.read, IN_MEMORY_BYTES_MAX):
                yield piece

        yield size, pieces()


def routes(bucket: str, bucket_of: BucketOf) -> list[Route]:
    """Return the endpoints below a bucket's address."""

    async def get_objects(request: Request) -> Response:
        """GET objects: `prefix`, `delimiter`, `start_after`, `per_page`, `cursor`."""
        services, found = bucket_of(request)
        asked = _asked_page(request)
        told = await services.buckets.page(found.name, asked)
        info = {
            "cursor": told.get("cursor", ""),
            "delimited": told["delimitedPrefixes"],
            "is_truncated": told["truncated"],
            "per_page": asked["limit"],
        }
        return success([listed_object(each) for each in told["objects"]], info=info)

    async def put_object(request: Request) -> Response:
        """PUT objects/{key}."""
        services, found = bucket_of(request)
        question: dict[str, Any] = {
            "method": "put",
            "object": request.path_params["key"],
            "httpFields": http_fields(request),
            "storageClass": request.headers.get("cf-r2-storage-class")
            or found.fields.get("storage_class", ""),
        }
        limit = services.platform.limits.r2_api_object_bytes_max
        async with _sized(request, limit) as (size, body):
            made = await services.buckets.write(found.name, question, size, body)
        shown = {name: made[name] for name in ("etag", "size", "version")}
        uploaded = iso(int(made["uploaded"]) / 1000)
        kept = {"storage_class": made["storageClass"], "uploaded": uploaded}
        return success({"key": request.path_params["key"], **shown, **kept})

    async def get_object(request: Request) -> Response:
        """GET objects/{key}: its bytes, and the headers that are kept with them."""
        services, found = bucket_of(request)
        document, pieces = await services.buckets.find(found.name, request.path_params["key"])
        return StreamingResponse(pieces, headers=shown_fields(document))

    async def delete_object(request: Request) -> Response:
        """DELETE objects/{key}; one that is not there is no error."""
        services, found = bucket_of(request)
        question = {"method": "delete", "object": request.path_params["key"]}
        await services.buckets.write(found.name, question)
        return success({"key": request.path_params["key"]})

    path = f"{bucket}/objects/{{key:path}}"
    return [
        Route(f"{bucket}/objects", get_objects, methods=["GET"]),
        Route(path, put_object, methods=["PUT"]),
        Route(path, get_object, methods=["GET"]),
        Route(path, delete_object, methods=["DELETE"]),
    ]
