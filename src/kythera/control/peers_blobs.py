"""Blobs for other machines: given by hash, taken by hash, and asked after many at a time.

Promises: what is put is kept only when its bytes have the digest in its address, and is on the disk
when the answer says so; what is asked after or given counts as used, so it is not let go just then;
a blob that turns out damaged while it is given is fetched anew from others.
Refuses: bodies larger than a blob may be (413), other bytes than promised (422), a full disk (507).
"""

import hashlib
import os
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import anyio
import msgspec
from anyio import to_thread
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from kythera.control.bodies import read_body
from kythera.control.envelope import answer, failed
from kythera.control.services import Services, services_of
from kythera.distribute.blobs import READ_BYTES, Blobs
from kythera.distribute.pack import head
from kythera.distribute.transfer import ASKED_AT_ONCE_MAX, largest_bytes
from kythera.model.errors import KytheraError, StoreUnavailable
from kythera.model.names import DIGEST

QUESTION_BYTES_MAX = 80 * ASKED_AT_ONCE_MAX
REST_OF = re.compile(r"bytes=([0-9]{1,15})-")
"""The only kind of range that is asked for: from some byte to the end."""


def routes() -> list[Route]:
    """Return what others may ask about blobs."""
    return [
        Route("/blobs/missing", missing, methods=["POST"]),
        Route("/blobs/pack", give_pack, methods=["POST"]),
        Route("/blobs/{digest}", give, methods=["GET", "HEAD"]),
        Route("/blobs/{digest}", take, methods=["PUT"]),
    ]


def _blobs(services: Services) -> Blobs:
    found = services.blobs
    assert isinstance(found, Blobs), "other machines are given files"
    return found


def _digest(request: Request) -> str:
    found: str = request.path_params["digest"]
    return found if DIGEST.fullmatch(found) else ""


def _says(status: int, text: str) -> Response:
    return PlainTextResponse(f"{text}\n", status)


@dataclass
class Reading:
    """A blob that is being given: an open file stays whole, whoever removes its name."""

    digest: str
    descriptor: int
    size: int
    start: int
    damaged: bool = False

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the bytes; note at the end whether they were what the name says."""
        seen = hashlib.sha256()
        try:
            position = self.start
            while piece := await to_thread.run_sync(
                os.pread, self.descriptor, READ_BYTES, position
            ):
                position += len(piece)
                seen.update(piece)
                yield piece
            self.damaged = self.start == 0 and seen.hexdigest() != self.digest
        finally:
            os.close(self.descriptor)


async def give(request: Request) -> Response:
    """GET or HEAD /blobs/{digest}: a blob, or the rest of it from some byte on."""
    services, digest = services_of(request), _digest(request)
    places = (_blobs(services), *services.kept_blobs) if digest else ()
    found = (_opened(blobs, digest) for blobs in places)
    descriptor = next((each for each in found if each is not None), None)
    if descriptor is None:
        return _says(404, "This machine does not have this blob.")
    size = os.fstat(descriptor).st_size
    rest = REST_OF.fullmatch(request.headers.get("range", ""))
    start = int(rest[1]) if rest else 0
    if start > size or request.method == "HEAD":
        os.close(descriptor)
        headers = {"content-range": f"bytes */{size}"} if start > size else {}
        length = {"content-length": str(size)} if start <= size else {}
        return Response(status_code=416 if start > size else 200, headers={**headers, **length})
    reading = Reading(digest, descriptor, size, start)
    headers = {"content-length": str(size - start), "content-type": "application/octet-stream"}
    if rest:
        headers["content-range"] = f"bytes {start}-{size - 1}/{size}"
    return StreamingResponse(
        reading.pieces(),
        206 if rest else 200,
        headers,
        background=BackgroundTask(_heal, services, reading),
    )


async def _heal(services: Services, reading: Reading) -> None:
    """Replace a blob that was found damaged by a good one, if anybody has one."""
    if not reading.damaged:
        return
    services.journal.say("blob_damaged", level="error", digest=reading.digest)
    try:
        await services.carrier.heal(reading.digest)
    except StoreUnavailable as error:
        services.journal.say("blob_not_healed", level="error", reason=str(error))


async def take(request: Request) -> Response:
    """PUT /blobs/{digest}: keep a blob."""
    services, digest = services_of(request), _digest(request)
    if not digest:
        return _says(400, "This is no SHA-256 digest.")
    try:
        return await _taken(request, services, digest)
    except StoreUnavailable as error:
        return _says(507, str(error))
    except TimeoutError:
        return _says(408, "The blob did not arrive in time.")
    except ClientDisconnect:
        return _says(400, "The blob was cut short.")


async def _taken(request: Request, services: Services, digest: str) -> Response:
    limits = services.platform.limits
    bytes_max = largest_bytes(limits)
    body = request.stream()
    with _blobs(services).draft() as draft:
        while True:
            with anyio.fail_after(limits.blob_silent_ms / 1000):
                piece = await anext(body, None)
            if piece is None:
                break
            if draft.size + len(piece) > bytes_max:
                return _says(413, f"A blob has {bytes_max:,} bytes at most.")
            await to_thread.run_sync(draft.write, piece)
        if draft.digest != digest:
            services.journal.say("blob_refused", level="error", digest=digest)
            return _says(422, "These are other bytes than the digest says.")
        await to_thread.run_sync(draft.commit)
    return _says(201, "Kept.")


async def missing(request: Request) -> Response:
    """POST /blobs/missing {"digests": […]}: those that are not here; the others count as used."""
    blobs = _blobs(services_of(request))
    try:
        asked = await _asked(request)
        absent = await to_thread.run_sync(lambda: [d for d in asked if not blobs.touch(d)])
    except msgspec.MsgspecError as error:
        return _says(400, f"The question cannot be read: {error}.")
    except KytheraError as error:
        return failed(error)
    return answer({"missing": absent}, 200)


async def _asked(request: Request) -> list[str]:
    """Return the digests in a question."""
    body = await read_body(request, QUESTION_BYTES_MAX)
    return msgspec.json.decode(body, type=dict[str, list[str]]).get("digests", [])


async def give_pack(request: Request) -> Response:
    """POST /blobs/pack {"digests": […]}: those of them that are here, in one answer."""
    services = services_of(request)
    try:
        asked = [digest for digest in await _asked(request) if DIGEST.fullmatch(digest)]
    except msgspec.MsgspecError as error:
        return _says(400, f"The question cannot be read: {error}.")
    except KytheraError as error:
        return failed(error)
    pieces = _pack(_blobs(services), asked)
    return StreamingResponse(pieces, headers={"content-type": "application/octet-stream"})


async def _pack(blobs: Blobs, digests: Sequence[str]) -> AsyncIterator[bytes]:
    for digest in digests:
        descriptor = await to_thread.run_sync(_opened, blobs, digest)
        if descriptor is None:
            continue
        reading = Reading(digest, descriptor, os.fstat(descriptor).st_size, 0)
        yield head(digest, reading.size)
        async for piece in reading.pieces():
            yield piece


def _opened(blobs: Blobs, digest: str) -> int | None:
    try:
        found = blobs.touch(digest)
        return os.open(blobs.path(digest), os.O_RDONLY | os.O_CLOEXEC) if found else None
    except FileNotFoundError:
        return None
