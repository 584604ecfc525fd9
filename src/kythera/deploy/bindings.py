"""Bindings: which capabilities an upload asks for, and which of them this platform offers.

Pure. A binding that is not offered is refused by its name and type, with the list of what is
offered; none is ever dropped. Secrets leave here sealed, and only sealed.

What an upload does not name is inherited from the worker's newest version: its secrets when the
upload says nothing about keeping (as wrangler's plain deploy does), otherwise exactly the types
in `keep_bindings`.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from kythera.deploy.bindings_objects import read_objects
from kythera.deploy.documents import as_list, as_object, as_text, as_texts, shown
from kythera.deploy.refusals import Refusals, invalid
from kythera.model.limits import Limits
from kythera.model.names import BINDING_NAME
from kythera.model.records import Binding, Deployment, Resource, Version

OFFERED = (
    "plain_text",
    "json",
    "secret_text",
    "version_metadata",
    "assets",
    "inherit",
    "wasm_module",
    "text_blob",
    "data_blob",
    "durable_object_namespace",
)
PART_TYPES = {"wasm_module": "wasm", "text_blob": "text", "data_blob": "data"}
"""Bindings of the service-worker format to a part of the upload, and that part's module type."""

NOT_OFFERED_YET = {
    "kv_namespace": "KV namespaces",
    "r2_bucket": "R2 buckets",
    "d1": "D1 databases",
    "queue": "queues",
    "service": "service bindings",
    "workflow": "workflows",
    "dispatch_namespace": "dispatch namespaces",
    "ratelimit": "rate limits",
    "worker_loader": "worker loaders",
    "hyperdrive": "Hyperdrive",
    "analytics_engine": "Analytics Engine",
    "vectorize": "Vectorize",
    "secrets_store_secret": "the secrets store",
    "tail": "tail workers",
    "logfwdr": "log forwarding",
    "mtls_certificate": "client certificates",
    "ai": "AI",
    "browser": "browser rendering",
    "images": "images",
    "stream": "streams",
    "send_email": "e-mail",
    "pipelines": "pipelines",
    "secret_key": "secret keys",
}
IMPLICITLY_KEPT = frozenset({"secret_text", "secret_key"})


class Seals(Protocol):
    """What keeps secrets unreadable at rest (`kythera.deploy.seal.Sealer`)."""

    def seal(self, text: str, context: str) -> str:
        """Return the sealed text; it opens only under the same context."""
        ...

    def open(self, sealed: str, context: str) -> str:
        """Return the text again."""
        ...


@dataclass(frozen=True)
class Origin:
    """Where a version's bindings come from: whose they are and what came before."""

    account: str
    worker: str
    seals: Seals
    limits: Limits
    previous: Version | None = None
    current: Deployment | None = None
    classes: tuple[Resource, ...] = ()
    """Of Durable Objects: all that the account has and had."""
    migration_tag: str | None = None
    now: str = ""
    """When what is made was made."""
    machine: str = ""
    """Where the objects of a worker's first class shall live."""

    def before(self, name: str) -> Binding | None:
        """Return the newest version's binding of that name."""
        found = self.previous.bindings if self.previous is not None else ()
        return next((binding for binding in found if binding.name == name), None)

    def secret(self, name: str, text: str) -> Binding:
        """Return a sealed secret."""
        if len(text.encode()) > self.limits.secret_bytes_max:
            raise invalid(f"Secret {name!r} is larger than {self.limits.secret_bytes_max:,} bytes.")
        sealed = self.seals.seal(text, f"{self.account}/{self.worker}/{name}")
        return Binding(name=name, type="secret_text", fields={"sealed": sealed})


def resolve(
    wanted: Any, keep: Any, origin: Origin, *, has_assets: bool, service_worker: bool
) -> tuple[Binding, ...]:
    """Return a version's bindings, by name: those asked for and those inherited."""
    asked = [_read(item, origin) for item in as_list(wanted, "metadata.bindings")]
    if len(asked) > origin.limits.bindings_max:
        raise invalid(f"A version has at most {origin.limits.bindings_max} bindings.")
    _refuse_missing(asked, origin)
    found: dict[str, Binding] = {}
    for binding in asked:
        if binding.name in found:
            raise invalid(f"Binding name {binding.name!r} is used twice.")
        found[binding.name] = _inherited(binding, origin)
    for binding in kept(_kept_types(keep), origin.previous):
        found.setdefault(binding.name, binding)
    for binding in found.values():
        _refuse_misplaced(binding, has_assets=has_assets, service_worker=service_worker)
    return tuple(found[name] for name in sorted(found))


def kept(types: Collection[str], previous: Version | None) -> tuple[Binding, ...]:
    """Return the previous version's bindings of these types."""
    if previous is None:
        return ()
    return tuple(binding for binding in previous.bindings if binding.type in types)


def _kept_types(keep: Any) -> Collection[str]:
    if keep is None:
        return IMPLICITLY_KEPT
    return frozenset(as_texts(keep, "metadata.keep_bindings"))


def _read(item: Any, origin: Origin) -> Binding:
    fields = as_object(item, "an entry of metadata.bindings")
    name = check_name(fields.get("name"))
    kind = as_text(fields.get("type"), f"the type of binding {name!r}")
    if kind not in OFFERED:
        raise not_offered(name, kind)
    return READERS.get(kind, _read_bare)(name, kind, fields, origin)


def check_name(name: Any) -> str:
    """Return a binding's name, if it can be one: it becomes a key of the worker's `env`."""
    text = as_text(name, "a binding's name")
    if BINDING_NAME.fullmatch(text) is None:
        raise invalid(
            f"{shown(text)} cannot be a binding's name.",
            remedy="Use letters, digits, `_` and `$`, not a digit first, 128 characters at most.",
        )
    return text


def not_offered(name: str, kind: str) -> Exception:
    """Refuse a binding by name, saying what there is instead."""
    called = NOT_OFFERED_YET.get(kind)
    what = f"{called} ({kind})" if called else f"bindings of type {shown(kind)}"
    return invalid(
        f"Binding {name!r}: this platform does not offer {what} yet.",
        remedy=f"Offered are: {', '.join(OFFERED)}.",
    )


def _read_bare(name: str, kind: str, fields: Mapping[str, Any], origin: Origin) -> Binding:
    return Binding(name=name, type=kind)


def _read_text(name: str, kind: str, fields: Mapping[str, Any], origin: Origin) -> Binding:
    text = as_text(fields.get("text"), f"the text of binding {name!r}")
    if kind == "secret_text":
        return origin.secret(name, text)
    _check_size(name, text.encode(), origin)
    return Binding(name=name, type=kind, fields={"text": text})


def _read_json(name: str, kind: str, fields: Mapping[str, Any], origin: Origin) -> Binding:
    if "json" not in fields:
        raise invalid(f"Binding {name!r} of type json has no field `json`.")
    _check_size(name, msgspec.json.encode(fields["json"]), origin)
    return Binding(name=name, type=kind, fields={"json": fields["json"]})


def _read_part(name: str, kind: str, fields: Mapping[str, Any], origin: Origin) -> Binding:
    part = as_text(fields.get("part"), f"the part of binding {name!r}")
    return Binding(name=name, type=kind, fields={"part": part})


def _read_inherit(name: str, kind: str, fields: Mapping[str, Any], origin: Origin) -> Binding:
    old_name = as_text(fields.get("old_name", name), f"old_name of binding {name!r}")
    return Binding(name=name, type=kind, fields={"old_name": old_name})


READERS: dict[str, Callable[[str, str, Mapping[str, Any], Origin], Binding]] = {
    "plain_text": _read_text,
    "secret_text": _read_text,
    "json": _read_json,
    "wasm_module": _read_part,
    "text_blob": _read_part,
    "data_blob": _read_part,
    "inherit": _read_inherit,
    "durable_object_namespace": read_objects,
}


def _check_size(name: str, value: bytes, origin: Origin) -> None:
    if len(value) > origin.limits.binding_text_bytes_max:
        raise invalid(
            f"Binding {name!r} is larger than {origin.limits.binding_text_bytes_max:,} bytes."
        )


def _refuse_missing(asked: Collection[Binding], origin: Origin) -> None:
    """Refuse every `inherit` of something that is not there, all of them at once (10057)."""
    missing = [
        b.name for b in asked if b.type == "inherit" and origin.before(b.fields["old_name"]) is None
    ]
    if missing:
        why = "is invalid, the previous version of this Worker has no such binding."
        raise Refusals([(10057, f"inherit binding '{name}' {why}") for name in missing])


def _inherited(binding: Binding, origin: Origin) -> Binding:
    """Return what an `inherit` stands for; a secret that changes its name is sealed anew."""
    if binding.type != "inherit":
        return binding
    source = origin.before(binding.fields["old_name"])
    assert source is not None, "missing ones were refused before"
    if source.type == "secret_text" and source.name != binding.name:
        context = f"{origin.account}/{origin.worker}/{source.name}"
        return origin.secret(binding.name, origin.seals.open(source.fields["sealed"], context))
    return msgspec.structs.replace(source, name=binding.name)


def _refuse_misplaced(binding: Binding, *, has_assets: bool, service_worker: bool) -> None:
    if binding.type == "assets" and not has_assets:
        raise invalid(
            f"Binding {binding.name!r} is of type assets, but the upload has no assets.",
            remedy="Upload them first, or send `keep_assets: true` to keep those there are.",
        )
    if binding.type in PART_TYPES and not service_worker:
        raise invalid(
            f"Binding {binding.name!r} of type {binding.type} belongs to the service-worker"
            " format.",
            remedy="In an ES module, import the file instead.",
        )


def public(binding: Binding) -> dict[str, Any]:
    """Return a binding as the API shows it: a secret's text never leaves."""
    fields = {} if binding.type == "secret_text" else dict(binding.fields)
    return {"name": binding.name, "type": binding.type, **fields}
