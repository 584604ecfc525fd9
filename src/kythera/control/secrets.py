"""Secrets: set, listed by name, taken away. Their text goes in and never comes out.

Each change makes a version like the newest one and deploys it, if the newest one is what serves;
otherwise it is refused (10215), as it would deploy code that nobody released.
"""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from kythera.control.bodies import form_body, json_body, object_body, read_body
from kythera.control.envelope import listed, success
from kythera.control.publish import Drafting, Published, publish
from kythera.control.services import Services, services_of
from kythera.control.workers import script_settings_view, worker_of
from kythera.deploy import settings
from kythera.deploy.bindings import Origin, public, resolve
from kythera.deploy.bindings_mapped import shown_type
from kythera.deploy.documents import as_list, as_object, read_object
from kythera.deploy.refusals import latest_not_deployed, unreadable, worker_absent
from kythera.deploy.upload import Draft
from kythera.deploy.versions import (
    is_fully_deployed,
    read_secret,
    read_secrets,
    runtime_view,
    with_bindings,
    with_runtime,
    with_secrets,
)
from kythera.model.errors import Refusal
from kythera.model.records import Version

SECRET_ABSENT = 10056


async def secrets(request: Request) -> Response:
    """GET scripts/{name}/secrets."""
    _, _, versions = worker_of(request)
    return listed(request, _names(versions[0]))


def _names(version: Version) -> list[dict[str, Any]]:
    return [public(binding) for binding in version.bindings if binding.type == "secret_text"]


async def secret(request: Request) -> Response:
    """GET scripts/{name}/secrets/{secret}."""
    _, _, versions = worker_of(request)
    for found in _names(versions[0]):
        if found["name"] == request.path_params["secret"]:
            return success(found)
    raise _absent(request.path_params["secret"])


def _absent(name: str) -> Refusal:
    return Refusal(SECRET_ABSENT, f"There is no secret {name[:80]!r}.", status=404)


async def put_secret(request: Request) -> Response:
    """PUT scripts/{name}/secrets: set one."""
    limits = services_of(request).platform.limits
    name, text = read_secret(await json_body(request, limits.json_body_bytes_max))
    await _change(request, {name: text})
    return success({"name": name, "type": "secret_text"})


async def delete_secret(request: Request) -> Response:
    """DELETE scripts/{name}/secrets/{secret}."""
    name = request.path_params["secret"]
    _, _, versions = worker_of(request)
    if all(found["name"] != name for found in _names(versions[0])):
        raise _absent(name)
    await _change(request, {name: None})
    return success(None)


async def patch_secrets(request: Request) -> Response:
    """PATCH scripts/{name}/secrets-bulk: set some, take some away."""
    limits = services_of(request).platform.limits
    document = await object_body(request, limits.json_body_bytes_max)
    changes = read_secrets(document.get("secrets"), "secrets")
    published = await _change(request, changes)
    return success(_names(published.version))


async def _change(request: Request, changes: Mapping[str, str | None]) -> Published:
    return await _in_place(request, lambda origin: with_secrets(changes, origin))


async def _in_place(request: Request, drafting: Drafting) -> Published:
    """Make a version from the newest and deploy it, if the newest is what everybody gets."""
    services = services_of(request)

    def guarded(origin: Origin) -> Draft:
        _refuse_unless_deployed(services, origin)
        return drafting(origin)

    return await publish(services, request.path_params["name"], guarded, deploy=True)


def _refuse_unless_deployed(services: Services, origin: Origin) -> None:
    if origin.previous is None:
        raise worker_absent(origin.worker)
    if not is_fully_deployed(origin.previous, origin.current):
        raise latest_not_deployed(origin.worker)


async def patch_settings(request: Request) -> Response:
    """PATCH scripts/{name}/settings: other bindings and settings for the same code.

    The older wrangler's `secret bulk` comes here: a binding with name and type alone is kept."""
    document = await _settings_document(request)
    published = await _in_place(request, lambda origin: _with_settings(document, origin))
    return success(
        {
            **runtime_view(published.version),
            "bindings": [public(binding) for binding in published.version.bindings],
            **script_settings_view(published.worker),
        }
    )


async def _settings_document(request: Request) -> dict[str, Any]:
    bytes_max = services_of(request).platform.limits.json_body_bytes_max
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return read_object(await read_body(request, bytes_max), "The body")
    for part in await form_body(request, bytes_max=bytes_max, parts_max=10):
        if part.name == "settings":
            return read_object(part.data, "`settings`")
    raise unreadable("The form has no field called `settings`.")


def _with_settings(document: Mapping[str, Any], origin: Origin) -> Draft:
    before = origin.previous
    assert before is not None, "checked before"
    settings.refuse_not_offered(document)
    bindings = before.bindings
    if document.get("bindings") is not None:
        entries = as_list(document["bindings"], "settings.bindings")
        bindings = resolve(
            [_kept_if_bare(entry, before) for entry in entries],
            [],
            origin,
            has_assets=before.assets is not None,
            service_worker=before.body_part is not None,
        )
    copied = with_bindings(bindings, origin, message=document.get("annotations"))
    return with_runtime(copied, document, origin.limits)


def _kept_if_bare(entry: Any, before: Version) -> dict[str, Any]:
    fields = as_object(entry, "an entry of settings.bindings")
    names = {(binding.name, shown_type(binding)) for binding in before.bindings}
    if set(fields) == {"name", "type"} and _hashable(fields) in names:
        return {"name": fields["name"], "type": "inherit"}
    return fields


def _hashable(fields: Mapping[str, Any]) -> tuple[str, str]:
    return str(fields["name"]), str(fields["type"])
