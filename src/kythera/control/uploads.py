"""Uploads and what was uploaded: PUT script, POST versions, and the content again."""

import hashlib
from functools import partial

import anyio
from starlette.requests import Request
from starlette.responses import Response

from kythera.control.bodies import LARGE_BODIES_AT_ONCE, form_body, room_for
from kythera.control.envelope import success
from kythera.control.publish import Drafting, Published, publish
from kythera.control.services import Services, services_of
from kythera.control.workers import script_view, worker_of
from kythera.deploy import assets
from kythera.deploy.bindings import Origin
from kythera.deploy.objects import refuse_by_version
from kythera.deploy.refusals import version_absent
from kythera.deploy.upload import Draft, Upload, draft, read_upload, with_content
from kythera.deploy.versions import version_view
from kythera.model.errors import Refusal
from kythera.model.records import Module, Version

SENT_TYPES = {
    "esm": "application/javascript+module",
    "cjs": "application/javascript",
    "service_worker": "application/javascript",
    "text": "text/plain",
    "data": "application/octet-stream",
    "wasm": "application/wasm",
    "json": "application/json",
    "source_map": "application/source-map",
}


async def put_script(request: Request) -> Response:
    """PUT scripts/{name}: make or replace a worker and deploy it to everybody."""
    published = await _uploaded(request, create=True, deploy=True)
    version = published.version
    return success(
        {
            **script_view(published.worker, version),
            "deployment_id": version.id.replace("-", ""),
            "startup_time_ms": version.startup_time_ms,
            "entry_point": version.main_module or version.body_part,
        }
    )


async def post_version(request: Request) -> Response:
    """POST scripts/{name}/versions: make a version that serves nobody yet."""
    published = await _uploaded(request, create=False, deploy=False)
    return success(version_view(published.version))


async def put_content(request: Request) -> Response:
    """PUT scripts/{script}/content: other code for a worker that is there, deployed to everybody."""
    published = await _uploaded(request, create=False, deploy=True, code_alone=True)
    return success(script_view(published.worker, published.version))


async def _uploaded(
    request: Request, *, create: bool, deploy: bool, code_alone: bool = False
) -> Published:
    services = services_of(request)
    limits = services.platform.limits
    async with room_for(request, request.app.state.large_bodies):
        parts = await form_body(
            request,
            bytes_max=limits.bundle_bytes_max + limits.metadata_bytes_max,
            parts_max=limits.modules_max + 1,
        )
        upload = read_upload(parts, metadata_bytes_max=limits.metadata_bytes_max)
        if not deploy:
            refuse_by_version(upload.metadata)
        drafting: Drafting = partial(_draft, services, upload, now=services.fleet_now())
        if code_alone:
            drafting = partial(with_content, upload)
        name = request.path_params["name"]
        return await publish(services, name, drafting, create=create, deploy=deploy)


def _draft(services: Services, upload: Upload, origin: Origin, *, now: float) -> Draft:
    def completed(token: str) -> str:
        claims = assets.redeem(token, services.session_key, now, "completion")
        if (claims.account, claims.worker) != (origin.account, origin.worker):
            raise Refusal(
                10000,
                f"These assets were uploaded for Worker {claims.worker!r}.",
                status=403,
                remedy="Upload them again for this one.",
            )
        return claims.manifest

    return draft(upload, origin, completed)


async def content(request: Request) -> Response:
    """GET scripts/{name}/content/v2: the modules of a version, as they were uploaded."""
    services, worker, versions = worker_of(request)
    wanted = request.query_params.get("version")
    found = next((v for v in versions if wanted in (None, v.id)), None)
    if found is None:
        raise version_absent(str(wanted), worker.name)
    if found.body_part is not None:
        script = next(m for m in found.modules if m.name == found.body_part)
        await services.carrier.ensure([script.digest])
        data = await anyio.to_thread.run_sync(services.blobs.read, script.digest)
        return Response(data, media_type="application/javascript")
    await services.carrier.ensure(module.digest for module in found.modules)
    body, boundary = await anyio.to_thread.run_sync(_form, services, found)
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    if found.main_module is not None:
        headers["cf-entrypoint"] = _header_text(found.main_module)
    return Response(body, headers=headers)


def _form(services: Services, version: Version) -> tuple[bytes, str]:
    boundary = hashlib.sha256(f"{version.id}{version.etag}".encode()).hexdigest()
    pieces = []
    for module in version.modules:
        head = f"--{boundary}\r\n{_part_head(module)}\r\n\r\n"
        pieces += [head.encode(), services.blobs.read(module.digest), b"\r\n"]
    pieces.append(f"--{boundary}--\r\n".encode())
    return b"".join(pieces), boundary


def _part_head(module: Module) -> str:
    name = module.name.replace('"', "%22")
    return (
        f'Content-Disposition: form-data; name="{name}"; filename="{name}"\r\n'
        f"Content-Type: {SENT_TYPES[module.type]}"
    )


def _header_text(name: str) -> str:
    """Headers are Latin-1; a name beyond it is sent as its UTF-8 bytes, as servers do."""
    return name.encode().decode("latin-1")


def large_bodies() -> anyio.CapacityLimiter:
    """Return the places for large bodies in memory; one set for each application."""
    return anyio.CapacityLimiter(LARGE_BODIES_AT_ONCE)
