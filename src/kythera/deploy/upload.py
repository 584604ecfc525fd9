"""An upload form becomes a draft: a version without id, number and trial, and its blobs.

Pure. Modules are known by their file name (one SDK calls every part `files`). Metadata keys that
this Kythera does not know are ignored; those it knows and cannot honour are refused in words.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from kythera.deploy import object_exports, objects, settings
from kythera.deploy.bindings import PART_TYPES, Origin, resolve
from kythera.deploy.confinement import confinement
from kythera.deploy.documents import as_flag, as_object, as_text, read_object, shown
from kythera.deploy.refusals import invalid, too_big, unreadable
from kythera.model.records import Assets, Binding, Module, Resource, Version

CONTENT_TYPES = {
    "application/javascript+module": "esm",
    "text/javascript+module": "esm",
    "application/javascript": "cjs",
    "text/javascript": "cjs",
    "application/wasm": "wasm",
    "text/plain": "text",
    "text/html": "text",
    "text/sql": "text",
    "application/octet-stream": "data",
    "application/json": "json",
    "application/source-map": "source_map",
}
PYTHON_TYPES = ("text/x-python", "text/x-python-requirement")
WRITTEN_IN_TEXT = ("esm", "cjs", "service_worker", "text", "json", "source_map")
MODULE_NAME_BYTES_MAX = 1024
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Part:
    """One part of a multipart form; `filename` is None for a plain field."""

    name: str
    filename: str | None
    content_type: str
    data: bytes


@dataclass(frozen=True)
class Upload:
    """A form that was understood as one: its metadata and its files."""

    metadata: dict[str, Any]
    files: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Draft:
    """A version to be: its blobs are not stored yet, its trial not run, its number not given."""

    version: Version
    blobs: Mapping[str, bytes]
    settings: Mapping[str, Any]
    """Fields of the worker's record that this upload sets."""
    classes: tuple[Resource, ...] = ()
    """Classes of Durable Objects that it makes or changes; when it is published, Workflows too."""


def read_upload(parts: Sequence[Part], *, metadata_bytes_max: int) -> Upload:
    """Find the metadata among the parts; all other parts with a file name are modules."""
    described = [part for part in parts if part.name == "metadata" and not _is_module(part)]
    if len(described) != 1:
        raise unreadable(
            f"The form has {len(described) or 'no'} fields called `metadata`; it needs one."
        )
    if len(described[0].data) > metadata_bytes_max:
        raise too_big(f"`metadata` is larger than {metadata_bytes_max:,} bytes.")
    files = [part for part in parts if part is not described[0]]
    return Upload(
        metadata=read_object(described[0].data, "`metadata`"),
        files=tuple(part for part in files if part.filename is not None),
    )


def _is_module(part: Part) -> bool:
    return part.filename not in (None, "", "metadata", "blob", "metadata.json")


def draft(upload: Upload, origin: Origin, completed: Callable[[str], str]) -> Draft:
    """Turn an upload into a draft. `completed` turns an assets token into a manifest's digest."""
    metadata = upload.metadata
    settings.refuse_not_offered(metadata)
    main_module = _optional_text(metadata, "main_module")
    body_part = _optional_text(metadata, "body_part")
    if main_module is not None and body_part is not None:
        raise invalid("metadata has both main_module and body_part; a worker has one of them.")
    before, classes = origin.classes, object_exports.declared(metadata, origin)
    origin = replace(origin, classes=classes)
    assets = _assets(metadata, origin, completed)
    modules, blobs = _modules(upload.files, body_part, origin.limits.modules_max)
    _check_entry(main_module or body_part, modules, has_assets=assets is not None)
    bindings = resolve(
        metadata.get("bindings") or [],
        metadata.get("keep_bindings"),
        origin,
        has_assets=assets is not None,
        service_worker=body_part is not None,
    )
    modules = _with_parts(bindings, modules, origin)
    version = Version(
        account=origin.account,
        worker=origin.worker,
        id="",
        number=0,
        created_on="",
        main_module=main_module,
        body_part=body_part,
        modules=tuple(sorted(modules.values(), key=lambda module: module.name)),
        bindings=bindings,
        assets=assets,
        annotations=settings.annotations(metadata.get("annotations"), "upload"),
        confinement=confinement(metadata.get("kythera"), origin.limits),
        objects=objects.live_classes(classes, origin.worker),
        **settings.runtime(metadata, origin.limits),
    )
    return Draft(
        version=msgspec.structs.replace(version, etag=etag(version)),
        blobs=blobs,
        settings=settings.worker_settings(metadata),
        classes=objects.changed(before, classes),
    )


def with_content(upload: Upload, origin: Origin) -> Draft:
    """Return a copy of the newest version with other code: all else stays as it is."""
    before = origin.previous
    assert before is not None, "there is a version to copy"
    main_module = _optional_text(upload.metadata, "main_module")
    body_part = _optional_text(upload.metadata, "body_part")
    if main_module is not None and body_part is not None:
        raise invalid("metadata has both main_module and body_part; a worker has one of them.")
    modules, blobs = _modules(upload.files, body_part, origin.limits.modules_max)
    _check_entry(main_module or body_part, modules, has_assets=before.assets is not None)
    modules = _with_parts(before.bindings, modules, origin)
    version = msgspec.structs.replace(
        before,
        id="",
        number=0,
        created_on="",
        main_module=main_module,
        body_part=body_part,
        modules=tuple(sorted(modules.values(), key=lambda module: module.name)),
        annotations=settings.annotations(upload.metadata.get("annotations"), "upload"),
    )
    copied = msgspec.structs.replace(version, etag=etag(version))
    return Draft(version=copied, blobs=blobs, settings={})


def _optional_text(metadata: Mapping[str, Any], key: str) -> str | None:
    value = metadata.get(key)
    return None if value is None else as_text(value, f"metadata.{key}")


def _modules(
    files: Sequence[Part], body_part: str | None, modules_max: int
) -> tuple[dict[str, Module], dict[str, bytes]]:
    if len(files) > modules_max:
        raise too_big(f"The upload has {len(files)} modules; {modules_max} is the most.")
    modules: dict[str, Module] = {}
    blobs: dict[str, bytes] = {}
    for part in files:
        module = _module(part, body_part)
        if module.name in modules:
            raise invalid(f"Module {shown(module.name)} is in the upload twice.")
        modules[module.name] = module
        blobs[module.digest] = part.data
    return modules, blobs


def _module(part: Part, body_part: str | None) -> Module:
    name = part.filename or ""
    _check_module_name(name)
    kind = _module_type(part, body_part)
    if kind in WRITTEN_IN_TEXT:
        try:
            part.data.decode()
        except UnicodeDecodeError as error:
            raise invalid(f"Module {shown(name)} is not UTF-8 text: {error.reason}.") from None
    digest = hashlib.sha256(part.data).hexdigest()
    return Module(name=name, type=kind, digest=digest, size=len(part.data))


def _check_module_name(name: str) -> None:
    if not name or len(name.encode()) > MODULE_NAME_BYTES_MAX or CONTROL.search(name):
        raise invalid(
            f"{shown(name)} cannot be a module's name.",
            remedy="Each file part needs a `filename` without control characters, the name it is imported by.",
        )


def _module_type(part: Part, body_part: str | None) -> str:
    content_type = part.content_type.partition(";")[0].strip().lower()
    if content_type in PYTHON_TYPES:
        raise invalid(
            f"Module {shown(part.filename)} is Python, which this platform does not offer yet.",
            remedy="JavaScript, TypeScript and WebAssembly are offered.",
        )
    if body_part is not None and body_part in (part.filename, part.name):
        return "service_worker"
    kind = CONTENT_TYPES.get(content_type)
    if kind is None:
        raise invalid(
            f"Module {shown(part.filename)} has content type {shown(content_type)}.",
            remedy=f"Known are: {', '.join(CONTENT_TYPES)}.",
        )
    if body_part is not None and kind in ("esm", "cjs"):
        raise invalid(
            f"Module {shown(part.filename)}: the service-worker format takes one script only."
        )
    return kind


def _check_entry(entry: str | None, modules: Mapping[str, Module], *, has_assets: bool) -> None:
    if entry is None:
        if modules:
            raise invalid("The upload has modules, but metadata names no main_module.")
        if not has_assets:
            raise invalid(
                "The upload has neither code nor assets.",
                remedy="Name main_module, body_part or assets in its metadata.",
            )
        return
    found = modules.get(entry)
    if found is None:
        raise invalid(f"No such module: metadata names {shown(entry)}, which is not in the form.")
    if found.type not in ("esm", "cjs", "service_worker"):
        raise invalid(f"The main module {shown(entry)} is {found.type}, not JavaScript.")


def _with_parts(
    bindings: Sequence[Binding], modules: dict[str, Module], origin: Origin
) -> dict[str, Module]:
    """Check the parts that service-worker bindings name; an inherited one brings its module."""
    before = {} if origin.previous is None else {m.name: m for m in origin.previous.modules}
    for binding in bindings:
        wanted = PART_TYPES.get(binding.type)
        if wanted is None:
            continue
        part = binding.fields["part"]
        found = modules.get(part) or before.get(part)
        if found is None:
            raise invalid(f"Binding {binding.name!r}: the form has no part {shown(part)}.")
        modules = {**modules, part: msgspec.structs.replace(found, type=wanted)}
    return modules


def _assets(
    metadata: Mapping[str, Any], origin: Origin, completed: Callable[[str], str]
) -> Assets | None:
    before = origin.previous.assets if origin.previous is not None else None
    keep = as_flag(metadata.get("keep_assets") or False, "metadata.keep_assets")
    if metadata.get("assets") is None:
        return before if keep else None
    wanted = as_object(metadata["assets"], "metadata.assets")
    config = settings.assets_config(wanted.get("config"))
    if wanted.get("jwt") is None:
        if before is None or not keep:
            raise invalid("metadata.assets has no jwt: upload the files first.")
        return msgspec.structs.replace(before, config=config or before.config)
    manifest = completed(as_text(wanted["jwt"], "metadata.assets.jwt"))
    return Assets(manifest=manifest, config=config)


def etag(version: Version) -> str:
    """Return a digest over what a version does: equal for equal code, bindings and settings."""
    what = msgspec.structs.replace(
        version,
        id="",
        number=0,
        created_on="",
        etag="",
        annotations={},
        source="",
        author_email="",
        handlers=(),
        named_handlers=(),
        startup_time_ms=0,
        bindings=tuple(
            msgspec.structs.replace(b, fields={}) if b.type == "secret_text" else b
            for b in version.bindings
        ),
    )
    return hashlib.sha256(msgspec.json.encode(what, order="deterministic")).hexdigest()
