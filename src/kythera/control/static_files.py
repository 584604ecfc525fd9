"""Uploading static assets: a session says what is missing, uploads bring it, a token ends it.

Promises: content is stored only after all of a request has been checked; an upload may be
repeated; the request that completes the set answers with the completion token, whichever it is.
Sessions survive a restart of this process: the manifest is a blob, the token names it.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from kythera.control.access import presented_token
from kythera.control.asset_index import Known, encode_manifest
from kythera.control.bodies import form_body, object_body, read_body, room_for
from kythera.control.envelope import success
from kythera.control.services import Services, services_of
from kythera.deploy import assets
from kythera.deploy.assets import Claims, Wanted
from kythera.deploy.documents import shown
from kythera.deploy.refusals import invalid
from kythera.deploy.upload import Part
from kythera.model.errors import Refusal
from kythera.model.limits import MIB
from kythera.model.names import is_worker_name

SESSIONS_KEPT = 16
MANIFEST_BYTES_MAX = 16 * MIB


@dataclass
class Session:
    """A manifest that is being uploaded, as this process remembers it."""

    claims: Claims
    manifest: dict[str, Wanted]
    sizes: dict[str, int]
    missing: set[str]

    @classmethod
    def begin(cls, services: Services, claims: Claims, manifest: dict[str, Wanted]) -> "Session":
        """Look up what is missing now."""
        missing = {wanted.hash for wanted in services.asset_index.missing(manifest)}
        sizes = {wanted.hash: wanted.size for wanted in manifest.values()}
        return cls(claims, manifest, sizes, missing)


class Sessions:
    """The sessions of late; one that was forgotten is read again from its blob."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Session] = OrderedDict()

    async def get(self, services: Services, claims: Claims) -> Session:
        """Return the session that a token speaks of."""
        known = self._known.get(claims.manifest)
        if known is None:
            known = await anyio.to_thread.run_sync(_read_session, services, claims)
            known = self._known.setdefault(claims.manifest, known)
            while len(self._known) > SESSIONS_KEPT:
                self._known.popitem(last=False)
        return known

    def forget(self, digest: str) -> None:
        """Look again at what is missing, the next time somebody asks."""
        self._known.pop(digest, None)


def _read_session(services: Services, claims: Claims) -> Session:
    data = services.blobs.read(claims.manifest)
    manifest = msgspec.json.decode(data, type=dict[str, Wanted])
    return Session.begin(services, claims, manifest)


def _sessions(request: Request) -> Sessions:
    found = request.app.state.sessions
    assert isinstance(found, Sessions)
    return found


async def begin(request: Request) -> Response:
    """POST scripts/{name}/assets-upload-session: which files have to be uploaded?"""
    services = services_of(request)
    name = request.path_params["name"]
    if not is_worker_name(name):
        raise Refusal(10016, f"{shown(name)} cannot be a Worker's name.")
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
    _sessions(request).forget(digest)
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
        exp=int(services.clock.now()) + assets.SESSION_S,
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
    services, session = await _session(request)
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
    services, session = await _session(request)
    name = request.path_params["hash"]
    kind = request.headers.get("content-type", "")
    async with room_for(request, request.app.state.large_bodies):
        data = await read_body(request, services.platform.limits.asset_bytes_max)
        checked = await anyio.to_thread.run_sync(_check_file, session, name, data, kind)
        return await _stored(services, session, [checked])


async def _session(request: Request) -> tuple[Services, Session]:
    services = services_of(request)
    token = presented_token(request.headers)
    if token is None:
        raise Refusal(10000, "Authentication error: no assets token was sent.", status=401)
    now = services.clock.now()
    claims = assets.redeem(token, services.session_key, now, "session")
    if claims.account != services.account:
        raise Refusal(10000, "This assets token is for another account.", status=403)
    return services, await _sessions(request).get(services, claims)


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
