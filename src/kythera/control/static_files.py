"""Uploading static assets: a session says what is missing, uploads bring it, a token ends it.

Promises: content is stored only after all of a request has been checked, and is on another machine,
if there is one, before the answer says so; an upload may be
repeated; the request that completes the set answers with the completion token, whichever it is.
Sessions survive a restart of this process: the manifest is a blob, the token names it.
A session stays on the machine where it began, and the token names that too: another machine hands
uploads on to it, or says that it is gone.
"""

from collections.abc import AsyncIterator, Sequence
from functools import partial
from urllib.parse import quote

import anyio
import httpx
import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control.api_proofs import text_of
from kythera.control.asset_index import Known, encode_manifest
from kythera.control.asset_sessions import Session
from kythera.control.bodies import BODY_S, form_body, object_body, read_body, room_for
from kythera.control.envelope import UNAVAILABLE, success
from kythera.control.services import Services, services_of
from kythera.deploy import assets
from kythera.deploy.assets import Claims, Wanted
from kythera.deploy.documents import shown
from kythera.deploy.refusals import invalid, too_big
from kythera.deploy.upload import Part
from kythera.model.errors import KytheraError, Refusal
from kythera.model.limits import MIB
from kythera.model.names import is_worker_anywhere, script_name

MANIFEST_BYTES_MAX = 16 * MIB
HANDED_ON_BYTES_MAX = 1 * MIB
"""Of another machine's answer to an upload."""


async def begin(request: Request) -> Response:
    """POST scripts/{name}/assets-upload-session: which files have to be uploaded?"""
    services = services_of(request)
    name = request.path_params["name"]
    if not is_worker_anywhere(name):
        raise Refusal(10016, f"{shown(script_name(name))} cannot be a Worker's name.")
    async with room_for(request, request.app.state.large_bodies):
        document = await object_body(request, MANIFEST_BYTES_MAX)
    limits = services.platform.limits
    manifest = await anyio.to_thread.run_sync(assets.read_manifest, document, limits)
    missing = await anyio.to_thread.run_sync(services.asset_index.missing, manifest)
    if not missing:
        token = await anyio.to_thread.run_sync(_complete, services, name, manifest)
        return success({"jwt": token, "buckets": []})
    stored = msgspec.json.encode(manifest, order="deterministic")
    digest = await anyio.to_thread.run_sync(services.blobs.put, stored)
    services.asset_sessions.forget(digest)
    claims = _claims(services, name, digest, "session")
    token = assets.issue(claims, services.session_key)
    return success({"jwt": token, "buckets": assets.buckets(missing)})


def _claims(services: Services, worker: str, manifest: str, purpose: str) -> Claims:
    session = purpose == "session"
    return Claims(
        purpose=purpose,
        account=services.account,
        worker=worker,
        manifest=manifest,
        machine=services.me if session else "",
        exp=int(services.fleet_now()) + assets.SESSION_S,
        # Newer wranglers then send each file raw, instead of base64 in forms.
        wrangler_single_asset_uploads=session,
        edge_kv_upload_concurrency=assets.PARALLEL_UPLOADS if session else 0,
    )


def _complete(services: Services, worker: str, manifest: dict[str, Wanted]) -> str:
    finished = encode_manifest(services.asset_index.finished(manifest))
    digest = services.blobs.put(finished)
    return assets.issue(_claims(services, worker, digest, "completion"), services.session_key)


async def upload_form(request: Request) -> Response:
    """POST workers/assets/upload?base64=true: some files of a session, as a form."""
    services, claims = _claimed(request)
    if _is_elsewhere(services, claims):
        return await _handed_on(request, services, claims, "/assets/upload?base64=true")
    session = await services.asset_sessions.get(services, claims)
    limits = services.platform.limits
    if request.query_params.get("base64") != "true":
        raise invalid("Assets are uploaded in forms as base64 text: add ?base64=true.")
    async with room_for(request, request.app.state.large_bodies):
        parts = await form_body(
            request,
            bytes_max=limits.assets_upload_bytes_max,
            parts_max=assets.BUCKET_FILES_MAX,
        )
        checked = await anyio.to_thread.run_sync(_check_parts, session, parts)
        return await _stored(services, session, checked)


async def upload_file(request: Request) -> Response:
    """POST workers/assets/upload/{hash}: one file of a session, as it is."""
    services, claims = _claimed(request)
    name = request.path_params["hash"]
    if _is_elsewhere(services, claims):
        return await _handed_on(request, services, claims, f"/assets/upload/{quote(name, safe='')}")
    session = await services.asset_sessions.get(services, claims)
    kind = request.headers.get("content-type", "")
    async with room_for(request, request.app.state.large_bodies):
        data = await read_body(request, services.platform.limits.asset_bytes_max)
        checked = await anyio.to_thread.run_sync(_check_file, session, name, data, kind)
        return await _stored(services, session, [checked])


def _claimed(request: Request) -> tuple[Services, Claims]:
    services = services_of(request)
    token = text_of(request.headers)
    if not token:
        raise Refusal(10000, "Authentication error: no assets token was sent.", status=401)
    claims = assets.redeem(token, services.session_key, services.fleet_now(), "session")
    if claims.account != services.account:
        raise Refusal(10000, "This assets token is for another account.", status=403)
    return services, claims


def _is_elsewhere(services: Services, claims: Claims) -> bool:
    return claims.machine not in ("", services.me)


async def _handed_on(request: Request, services: Services, claims: Claims, path: str) -> Response:
    """Pass an upload on to the machine where its session began, piece by piece."""
    limits = services.platform.limits
    machine = services.store.catalog().machine(claims.machine)
    if machine is None:
        raise _home_gone(claims, "It is no longer in the fleet.")
    headers = {
        key: request.headers[key]
        for key in ("authorization", "content-type")
        if key in request.headers
    }
    timeout = httpx.Timeout(BODY_S, connect=limits.peer_connect_ms / 1000)
    answered = bytearray()
    try:
        async with services.fleet.mesh.stream(
            machine.name,
            machine.mesh,
            "POST",
            path,
            headers={**headers, "accept-encoding": "identity"},
            content=_pieces(request, limits.assets_upload_bytes_max),
            timeout=timeout,
        ) as response:
            async for chunk in response.aiter_raw():
                answered += chunk
                if len(answered) > HANDED_ON_BYTES_MAX:
                    raise _home_gone(claims, "It answered too much.")
            return Response(bytes(answered), response.status_code, media_type="application/json")
    except Refusal:
        raise
    except KytheraError as error:
        raise _home_gone(claims, error.message) from None


async def _pieces(request: Request, bytes_max: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > bytes_max:
            raise too_big(f"The body is larger than {bytes_max:,} bytes.")
        yield chunk


def _home_gone(claims: Claims, why: str) -> Refusal:
    return Refusal(
        UNAVAILABLE,
        f"This upload was begun on the machine {claims.machine!r}, which cannot take it: {why}",
        status=503,
        remedy="Run the deploy again: it begins anew on this machine.",
    )


Checked = tuple[Known, bytes]


def _check_parts(session: Session, parts: Sequence[Part]) -> list[Checked]:
    """Check all files of a form before any of them is stored."""
    checked = []
    for part in parts:
        name = part.filename or part.name
        content = assets.content_of(part.data, shown(name))
        checked.append(_check_file(session, name, content, part.content_type))
    return checked


def _check_file(session: Session, name: str, data: bytes, kind: str) -> Checked:
    size = session.sizes.get(name)
    if size is None:
        raise invalid(f"Asset {shown(name)} is not in the manifest of this session.")
    kinds = assets.extensions(session.manifest, name)
    assets.check_content(name, data, size, kinds)
    known = Known(name, assets.digest_of(data), size, assets.content_type(kind))
    return known, data


async def _stored(services: Services, session: Session, checked: Sequence[Checked]) -> Response:
    """Store files; when none is missing any more, hand out the completion token."""
    await anyio.to_thread.run_sync(_store, services, checked)
    await services.carrier.replicate({known.digest for known, _ in checked})
    session.missing.difference_update(known.hash for known, _ in checked)
    if session.missing:
        return success({}, status=202)
    worker, manifest = session.claims.worker, session.manifest
    still = await anyio.to_thread.run_sync(services.asset_index.missing, manifest)
    if still:
        session.missing.update(wanted.hash for wanted in still)
        return success({}, status=202)
    token = await anyio.to_thread.run_sync(partial(_complete, services, worker, manifest))
    return success({"jwt": token}, status=201)


def _store(services: Services, checked: Sequence[Checked]) -> None:
    for known, data in checked:
        stored = services.blobs.put(data)
        assert stored == known.digest, "a blob is named by its content"
    services.asset_index.add([known for known, _ in checked])


def peer_routes() -> list[Route]:
    """Return where other machines hand on what was sent to them of a session that began here."""
    return [
        Route("/assets/upload", upload_form, methods=["POST"]),
        Route("/assets/upload/{hash}", upload_file, methods=["POST"]),
    ]
