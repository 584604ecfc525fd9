"""A version's bindings become workerd's: a value for each, and the services behind them.

Pure. `MAKERS` is the one table of what a cell can be given; a kind of binding of its own module adds
a line. What is not in it is refused by name (10021), never dropped. A binding to a store is a service
`external` over that store's unix socket, with the cell's pass put into each request by workerd itself.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kythera.ground.passes import PASS_HEADER, Pass, sign
from kythera.model.errors import Refusal
from kythera.model.objects import OBJECTS
from kythera.model.records import Binding, Module, Version
from kythera.run.objects import ObjectHome, ObjectsDoor, objects_value

ASSETS = "assets"
"""The service that answers from a version's static files."""

Fields = dict[str, Any]


@dataclass(frozen=True)
class StoreDoors:
    """Where a cell finds this machine's stores, and what its passes are signed with."""

    sockets: Mapping[str, Path]
    """By store, as the cell sees them."""
    key: str


@dataclass(frozen=True)
class BindingContext:
    """What a binding is made from."""

    version: Version
    read_blob: Callable[[str], bytes]
    open_secret: Callable[[str, str], str]
    stores: StoreDoors | None = None
    objects: Mapping[str, ObjectsDoor] = field(default_factory=dict)
    """By worker: how this cell reaches its Durable Objects."""
    home: ObjectHome | None = None
    """Of a worker's object cell."""


@dataclass(frozen=True)
class Made:
    """One binding: its value, and the services that it needs, by their names."""

    name: str
    value: Fields
    services: tuple[Fields, ...] = ()


Maker = Callable[[Binding, BindingContext], Made]


def made(binding: Binding, context: BindingContext) -> Made:
    """Make one binding. Raises Refusal (10021) for what is not offered."""
    maker = MAKERS.get(binding.type)
    if maker is None:
        raise Refusal(
            10021,
            f"binding {binding.name!r} has type {binding.type!r}, which is not offered yet.",
            remedy=f"Offered are: {', '.join(MAKERS)}.",
        )
    return maker(binding, context)


def services_of(found: Iterable[Made]) -> list[Fields]:
    """Return the services behind bindings, each once."""
    services: dict[str, Fields] = {}
    for one in found:
        for service in one.services:
            services.setdefault(service["name"], service)
    return list(services.values())


def stores_of(version: Version) -> frozenset[str]:
    """Return which of the machine's stores a version's cells may reach."""
    return frozenset(STORES[b.type] for b in version.bindings if b.type in STORES)


def store_service(
    store: str, resource: str, binding: Binding, context: BindingContext, **http: Any
) -> Fields:
    """Return the service that leads to a resource in one of this machine's stores. `http`: more of
    workerd's HttpOptions. A trial has no stores: there it leads nowhere, and says so when used."""
    name = f"store/{store}/{resource}"
    if context.stores is None:
        return {"name": name, "network": {"allow": []}}
    version = context.version
    granted = Pass(
        account=version.account,
        worker=version.worker,
        version=version.id,
        store=store,
        resource=resource,
        binding=binding.name,
    )
    header = {"name": PASS_HEADER, "value": sign(granted, context.stores.key)}
    options = {**http, "injectRequestHeaders": [header]}
    return {
        "name": name,
        "external": {"address": f"unix:{context.stores.sockets[store]}", "http": options},
    }


def module_named(version: Version, name: str) -> Module:
    """Return a module of the upload. Raises Refusal (10021)."""
    for module in version.modules:
        if module.name == name:
            return module
    raise Refusal(10021, f"there is no module named {name!r} in the upload.")


def json_text(value: Any) -> str:
    """Return JSON in ASCII: it holds even half a surrogate pair."""
    return json.dumps(value, separators=(",", ":"))


def _text(binding: Binding, context: BindingContext) -> Made:
    return Made(binding.name, {"text": binding.fields["text"]})


def _json(binding: Binding, context: BindingContext) -> Made:
    return Made(binding.name, {"json": json_text(binding.fields["json"])})


def _secret(binding: Binding, context: BindingContext) -> Made:
    text = context.open_secret(binding.name, binding.fields["sealed"])
    return Made(binding.name, {"text": text})


def _metadata(binding: Binding, context: BindingContext) -> Made:
    """Return who the version is; it is immutable, so its metadata may be a constant."""
    version = context.version
    told = {
        "id": version.id,
        "tag": version.annotations.get("workers/tag", ""),
        "timestamp": version.created_on,
    }
    return Made(binding.name, {"json": json_text(told)})


def _assets(binding: Binding, context: BindingContext) -> Made:
    return Made(binding.name, {"service": {"name": ASSETS, "entrypoint": "AssetWorker"}})


def _part(binding: Binding, context: BindingContext) -> Made:
    content = context.read_blob(module_named(context.version, binding.fields["part"]).digest)
    if binding.type == "text_blob":
        return Made(binding.name, {"text": content.decode(errors="replace")})
    return Made(binding.name, {"wasmModule" if binding.type == "wasm_module" else "data": content})


def _objects(binding: Binding, context: BindingContext) -> Made:
    return Made(binding.name, *objects_value(binding, context))


MAKERS: dict[str, Maker] = {
    "plain_text": _text,
    "json": _json,
    "secret_text": _secret,
    "version_metadata": _metadata,
    "assets": _assets,
    "wasm_module": _part,
    "text_blob": _part,
    "data_blob": _part,
    OBJECTS: _objects,
}
"""What a version may be given."""
STORES: dict[str, str] = {}
"""Of which store a kind of binding is."""
