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

from kythera.ground.passes import PASS_HEADER, Pass, sign, way_mark
from kythera.model.errors import Refusal
from kythera.model.names import DISPATCH, namespace_of, queue_id
from kythera.model.objects import OBJECTS
from kythera.model.records import Binding, Module, Version
from kythera.model.workflows import WORKFLOW
from kythera.run.bindings_d1 import database_value
from kythera.run.bindings_dispatch import dispatch_value
from kythera.run.bindings_kv import KV, namespace_value
from kythera.run.bindings_services import SERVICES, service_value
from kythera.run.objects import WAY_HEADER, ObjectHome, ObjectsDoor, flow_value, objects_value
from kythera.run.outbound import NOTHING, OUTBOUND_COMPATIBILITY_DATE
from kythera.run.prelude import source

QUEUE_DELAY_HEADER = "X-Kythera-Delay"
CACHE = "cache"
"""The store of the Cache API, which every worker with code has."""
FLEET = "fleet"
"""The door to stores of other machines."""
ASSETS = "assets"
"""The service that answers from a version's static files."""

Fields = dict[str, Any]


@dataclass(frozen=True)
class StoreDoors:
    """Where a cell finds this machine's stores, and what its passes are signed with."""

    sockets: Mapping[str, Path]
    """By store, as the cell sees them."""
    key: str


SharedSecret = Callable[[str, str], str | None]
"""Returns the text of a secret, by its store's id and its name; None: it is not there any more."""


@dataclass(frozen=True)
class Database:
    """A database, as a cell reaches it."""

    origin: str
    """What the pass to it says (`store.hyperdrive.Origin` as JSON)."""
    database: str
    user: str
    password: str


Databases = Callable[[str], Database | None]
"""Returns a Hyperdrive config by its id; None: it is not there any more."""


@dataclass(frozen=True)
class BindingContext:
    """What a binding is made from."""

    version: Version
    read_blob: Callable[[str], bytes]
    open_secret: Callable[[str, str], str]
    stores: StoreDoors | None = None
    shared_secret: SharedSecret | None = None
    """Opens a secret of a store; None: this is a trial, which is given none."""
    database: Databases | None = None
    """Opens a Hyperdrive config; None: this is a trial."""
    service_calls_max: int = 500
    """Of one process to one other worker at the same time."""
    objects: Mapping[str, ObjectsDoor] = field(default_factory=dict)
    """By worker: how this cell reaches its Durable Objects."""
    home: ObjectHome | None = None
    """Of a worker's object cell."""
    dispatch_told_bytes_max: int = 4_096
    homes: Mapping[str, str] = field(default_factory=dict)
    """By `store/resource`: which other machine keeps it. Who is not in it is kept here."""


@dataclass(frozen=True)
class Made:
    """One binding: its value, and the services that it needs, by their names."""

    name: str
    value: Fields
    services: tuple[Fields, ...] = ()
    modules: tuple[Fields, ...] = ()
    """Of an extension of workerd's: what a wrapped binding is made by."""


Maker = Callable[[Binding, BindingContext], Made]
StoreService = Callable[[str, str, Binding, BindingContext], Fields]
"""`store_service`, for modules that this one imports."""


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


def extensions_of(found: Iterable[Made]) -> list[Fields]:
    """Return the extensions that bindings need: each module once."""
    modules = {module["name"]: module for one in found for module in one.modules}
    return [{"modules": list(modules.values())}] if modules else []


def stores_of(version: Version) -> frozenset[str]:
    """Return which of the machine's stores a version's cells may reach."""
    found = frozenset(STORES[b.type] for b in version.bindings if b.type in STORES)
    if namespace_of(version.worker):
        found |= {SERVICES}  # Outbound workers are called through the inner door.
    return found | {CACHE} if has_code(version) else found


def has_code(version: Version) -> bool:
    """Tell whether a version is more than static files."""
    return version.main_module is not None or version.body_part is not None


def store_service(
    store: str, resource: str, binding: Binding, context: BindingContext, **http: Any
) -> Fields:
    """Return the service that leads to a resource in one of this machine's stores, or in another
    machine's by the fleet's door. `http`: more of workerd's HttpOptions. A trial has no stores: there
    it leads nowhere, and says so when used."""
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
    headers = [{"name": PASS_HEADER, "value": sign(granted, context.stores.key)}]
    machine = context.homes.get(f"{store}/{resource}")
    if machine is not None:
        mark = way_mark(context.stores.key, machine, store)
        headers.append({"name": WAY_HEADER, "value": mark})
    options = {**http, "injectRequestHeaders": [*headers, *http.get("injectRequestHeaders", ())]}
    socket = context.stores.sockets[store if machine is None else FLEET]
    return {"name": name, "external": {"address": f"unix:{socket}", "http": options}}


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


def _database(binding: Binding, context: BindingContext) -> Made:
    service = store_service("d1", binding.fields["id"], binding, context)
    value = database_value(binding.name, service["name"], context.version)
    return Made(binding.name, value, (service,))


def _queue(binding: Binding, context: BindingContext) -> Made:
    """Return a producer: by id, which follows from the name; its own delay is a header."""
    delay = binding.fields.get("delivery_delay")
    headers = [] if delay is None else [{"name": QUEUE_DELAY_HEADER, "value": str(delay)}]
    resource = queue_id(context.version.account, binding.fields["queue_name"])
    service = store_service("queues", resource, binding, context, injectRequestHeaders=headers)
    service["name"] += f"/{binding.name}"  # two bindings to one queue may differ in their delay
    return Made(binding.name, {"queue": {"name": service["name"]}}, (service,))


def _kv_namespace(binding: Binding, context: BindingContext) -> Made:
    value, service = namespace_value(binding, context, store_service)
    return Made(binding.name, value, (service,))


def _rate_limit(binding: Binding, context: BindingContext) -> Made:
    """Of these workerd has none: an internal module makes one that asks the machine's counters."""
    counters = store_service("ratelimit", binding.fields["namespace_id"], binding, context)
    inner = [
        {"name": "counters", "service": {"name": counters["name"]}},
        {"name": "own", "json": json_text(binding.fields["simple"])},
    ]
    module = _internal("ratelimit.js")
    wrapped = {"moduleName": module["name"], "innerBindings": inner}
    return Made(binding.name, {"wrapped": wrapped}, (counters,), (module,))


def _analytics(binding: Binding, context: BindingContext) -> Made:
    points = store_service("analytics", binding.fields["dataset"], binding, context)
    return Made(binding.name, {"analyticsEngine": {"name": points["name"]}}, (points,))


def _hyperdrive(binding: Binding, context: BindingContext) -> Made:
    """A worker of ours stands between: it asks for the connection with the cell's pass."""
    config = None if context.database is None else context.database(binding.fields["id"])
    if config is None:  # in a trial, or deleted since
        value = dict.fromkeys(("database", "user", "password"), "")
        return Made(
            binding.name,
            {"hyperdrive": {**value, "scheme": "postgres", "designator": {"name": NOTHING}}},
        )
    way = store_service("hyperdrive", config.origin, binding, context, style="proxy")
    name = f"hyperdrive/{binding.fields['id']}"
    between = {
        "modules": [{"name": "hyperdrive.js", "esModule": source("hyperdrive.js")}],
        "compatibilityDate": OUTBOUND_COMPATIBILITY_DATE,
        "bindings": [{"name": "WAY", "service": {"name": way["name"]}}],
        "globalOutbound": {"name": NOTHING},
    }
    value = {"database": config.database, "user": config.user, "password": config.password}
    hyperdrive = {**value, "scheme": "postgres", "designator": {"name": name}}
    return Made(binding.name, {"hyperdrive": hyperdrive}, (way, {"name": name, "worker": between}))


def _shared_secret(binding: Binding, context: BindingContext) -> Made:
    """The text is opened here, and is nowhere else but in the cell's memory."""
    store, name = binding.fields["store_id"], binding.fields["secret_name"]
    text = None if context.shared_secret is None else context.shared_secret(store, name)
    inner = [{"name": "name", "text": name}, {"name": "text", "json": json_text(text)}]
    module = _internal("shared-secret.js")
    wrapped = {"moduleName": module["name"], "innerBindings": inner}
    return Made(binding.name, {"wrapped": wrapped}, modules=(module,))


def _internal(name: str) -> Fields:
    """Return a module of ours that a worker cannot import: it makes bindings."""
    return {"name": f"kythera:{name}", "esModule": source(name), "internal": True}


def cache_service(context: BindingContext) -> Fields | None:
    """Return what answers the Cache API, or None where there is none (in a trial)."""
    if context.stores is None or CACHE not in context.stores.sockets:
        return None
    own = Binding(name="caches", type=CACHE)
    # Without it nobody could tell what was put for http:// from what was put for https://.
    return store_service(CACHE, CACHE, own, context, forwardedProtoHeader="X-Kythera-Scheme")


def _service(binding: Binding, context: BindingContext) -> Made:
    value, services = service_value(binding, context)
    return Made(binding.name, value, tuple(services))


def _dispatch(binding: Binding, context: BindingContext) -> Made:
    value, services, module = dispatch_value(binding, context)
    return Made(binding.name, value, tuple(services), (module,))


def _loader(binding: Binding, context: BindingContext) -> Made:
    """Return workerd's own loader. What it loads has running clocks, so its worker must say so."""
    if context.version.confinement.clocks == "frozen":
        raise Refusal(
            10021,
            f"binding {binding.name!r}: clocks do not stand still in what a worker loads.",
            remedy="Set kythera.clocks to running, if this worker may measure time.",
        )
    return Made(binding.name, {"workerLoader": {}})


def _bucket(binding: Binding, context: BindingContext) -> Made:
    service = store_service("r2", binding.fields["bucket_name"], binding, context)
    return Made(binding.name, {"r2Bucket": {"name": service["name"]}}, (service,))


def _objects(binding: Binding, context: BindingContext) -> Made:
    return Made(binding.name, *objects_value(binding, context))


def _workflow(binding: Binding, context: BindingContext) -> Made:
    return Made(binding.name, *flow_value(binding, context))


MAKERS: dict[str, Maker] = {
    "plain_text": _text,
    "json": _json,
    "secret_text": _secret,
    "version_metadata": _metadata,
    "assets": _assets,
    "wasm_module": _part,
    "text_blob": _part,
    "data_blob": _part,
    "kv_namespace": _kv_namespace,
    "r2_bucket": _bucket,
    "d1": _database,
    "queue": _queue,
    "service": _service,
    "worker_loader": _loader,
    "ratelimit": _rate_limit,
    "analytics_engine": _analytics,
    "hyperdrive": _hyperdrive,
    "secrets_store_secret": _shared_secret,
    DISPATCH: _dispatch,
    OBJECTS: _objects,
    WORKFLOW: _workflow,
}
"""What a version may be given."""
STORES: dict[str, str] = {
    "kv_namespace": KV,
    "r2_bucket": "r2",
    "d1": "d1",
    "queue": "queues",
    "service": SERVICES,
    DISPATCH: SERVICES,
    "ratelimit": "ratelimit",
    "analytics_engine": "analytics",
    "hyperdrive": "hyperdrive",
}
"""Of which store a kind of binding is."""
