"""Bindings: which capabilities an upload asks for, and which of them this platform offers.

Pure. A binding that is not offered is refused by its name and type, with the list of what is
offered; none is ever dropped. Secrets leave here sealed, and only sealed.

What an upload does not name is inherited from the worker's newest version: its secrets when the
upload says nothing about keeping (as wrangler's plain deploy does), otherwise exactly the types
in `keep_bindings`.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from kythera.deploy.bindings_absent import INSTEAD
from kythera.deploy.bindings_d1 import database_id
from kythera.deploy.bindings_dispatch import read_dispatch
from kythera.deploy.bindings_kv import read_namespace
from kythera.deploy.bindings_mapped import (
    mapping_of,
    read_mapped,
    shown_fields,
    shown_type,
)
from kythera.deploy.bindings_objects import read_objects
from kythera.deploy.bindings_queues import producer
from kythera.deploy.bindings_r2 import read_bucket
from kythera.deploy.bindings_services import read_service
from kythera.deploy.bindings_workflows import read_flow
from kythera.deploy.documents import as_amount, as_list, as_object, as_text, as_texts, shown
from kythera.deploy.refusals import Refusals, invalid
from kythera.model.catalog import Catalog
from kythera.model.limits import Limits
from kythera.model.names import BINDING_NAME, DISPATCH
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
    "d1",
    "queue",
    "kv_namespace",
    "ratelimit",
    "analytics_engine",
    "hyperdrive",
    "secrets_store_secret",
    "service",
    "worker_loader",
    "r2_bucket",
    "durable_object_namespace",
    DISPATCH,
    "workflow",
)
PART_TYPES = {"wasm_module": "wasm", "text_blob": "text", "data_blob": "data"}
"""Bindings of the service-worker format to a part of the upload, and that part's module type."""

NOT_OFFERED_YET = {
    "vectorize": "Vectorize",
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
DATASET_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
PERIODS_S = (10, 60)
"""Of a rate limit, as Cloudflare has them."""
RATE_LIMIT_MAX = 2**31 - 1
NAMESPACE_DIGITS_MAX = 20
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
    catalog: Catalog | None = None
    """Where what bindings lead to is looked up."""
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
    return tuple(binding for binding in previous.bindings if shown_type(binding) in types)


def _kept_types(keep: Any) -> Collection[str]:
    if keep is None:
        return IMPLICITLY_KEPT
    return frozenset(as_texts(keep, "metadata.keep_bindings"))


def _read(item: Any, origin: Origin) -> Binding:
    fields = as_object(item, "an entry of metadata.bindings")
    name = check_name(fields.get("name"))
    kind = as_text(fields.get("type"), f"the type of binding {name!r}")
    if kind not in OFFERED:
        mapping = mapping_of(origin.catalog, origin.account, kind)
        if mapping is None:
            raise not_offered(name, kind)
        return read_mapped(name, kind, fields, mapping, origin)
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
    if kind in INSTEAD:
        return invalid(
            f"Binding {name!r}: this platform does not offer {what}.",
            remedy=f"{INSTEAD[kind]} Or let a worker of yours stand for it:"
            f" kythera binding map {kind} WORKER",
        )
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


def _read_database(name: str, kind: str, fields: Mapping[str, Any], origin: Origin) -> Binding:
    return Binding(name=name, type=kind, fields={"id": database_id(name, fields)})


def _read_queue(name: str, kind: str, fields: Mapping[str, Any], origin: Origin) -> Binding:
    return producer(name, fields)


def _read_rate_limit(name: str, kind: str, fields: Mapping[str, Any], origin: Origin) -> Binding:
    what = f"binding {name!r}"
    namespace = as_text(fields.get("namespace_id"), f"namespace_id of {what}")
    if not (namespace.isascii() and namespace.isdigit() and len(namespace) <= NAMESPACE_DIGITS_MAX):
        raise invalid(
            f"namespace_id of {what} is {shown(namespace)}; it has to be a positive whole number"
            " written as text.",
            remedy='Choose one for each set of counters, such as "1001".',
        )
    simple = as_object(fields.get("simple"), f"simple of {what}")
    limit = as_amount(simple.get("limit"), f"simple.limit of {what}", most=RATE_LIMIT_MAX)
    if simple.get("period") not in PERIODS_S or isinstance(simple["period"], bool):
        raise invalid(f"simple.period of {what} is {shown(simple.get('period'))}; 10 or 60 may be.")
    own = {"limit": limit, "period": int(simple["period"])}
    return Binding(name=name, type=kind, fields={"namespace_id": namespace, "simple": own})


def _read_analytics(name: str, kind: str, fields: Mapping[str, Any], origin: Origin) -> Binding:
    dataset = as_text(fields.get("dataset", name), f"dataset of binding {name!r}")
    if DATASET_NAME.fullmatch(dataset) is None:
        raise invalid(
            f"Binding {name!r}: {shown(dataset)} cannot be a dataset's name.",
            remedy="Use letters, digits, `_` and `-`, 100 characters at most: it is a table in SQL.",
        )
    return Binding(name=name, type=kind, fields={"dataset": dataset})


def _read_hyperdrive(name: str, kind: str, fields: Mapping[str, Any], origin: Origin) -> Binding:
    config = as_text(fields.get("id"), f"id of binding {name!r}")
    if origin.catalog is None or origin.catalog.resource(origin.account, kind, config) is None:
        raise invalid(
            f"Binding {name!r}: there is no Hyperdrive config {shown(config)}.",
            remedy="Make it first: wrangler hyperdrive create NAME --connection-string …",
        )
    return Binding(name=name, type=kind, fields={"id": config})


def _read_shared_secret(name: str, kind: str, fields: Mapping[str, Any], origin: Origin) -> Binding:
    store = as_text(fields.get("store_id"), f"store_id of binding {name!r}")
    secret = as_text(fields.get("secret_name"), f"secret_name of binding {name!r}")
    found = [] if origin.catalog is None else origin.catalog.resources(origin.account, kind)
    if not any((s.fields["store_id"], s.name) == (store, secret) for s in found):
        raise invalid(
            f"Binding {name!r}: there is no secret {shown(secret)} in a secrets store"
            f" {shown(store)}.",
            remedy="Make it first: wrangler secrets-store secret create STORE-ID --name NAME"
            " --scopes workers --remote",
        )
    return Binding(name=name, type=kind, fields={"store_id": store, "secret_name": secret})


READERS: dict[str, Callable[[str, str, Mapping[str, Any], Origin], Binding]] = {
    "plain_text": _read_text,
    "secret_text": _read_text,
    "json": _read_json,
    "wasm_module": _read_part,
    "text_blob": _read_part,
    "data_blob": _read_part,
    "inherit": _read_inherit,
    "queue": _read_queue,
    "d1": _read_database,
    "kv_namespace": read_namespace,
    "ratelimit": _read_rate_limit,
    "analytics_engine": _read_analytics,
    "hyperdrive": _read_hyperdrive,
    "secrets_store_secret": _read_shared_secret,
    "service": read_service,
    "r2_bucket": read_bucket,
    "durable_object_namespace": read_objects,
    DISPATCH: read_dispatch,
    "workflow": read_flow,
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
    fields = {} if binding.type == "secret_text" else shown_fields(binding)
    return {"name": binding.name, "type": shown_type(binding), **fields}
