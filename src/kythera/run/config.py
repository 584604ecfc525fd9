"""A version becomes workerd's configuration: a binary Cap'n Proto message.

Promises that modules keep the names and bytes they were uploaded with, that a secret is open only
in the message itself, and that nothing is dropped: a binding or module that is not offered is a
Refusal that names it. The socket for requests is called `http`; a cell, not a trial, has another.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import capnp
import msgspec

from kythera.model.errors import Refusal
from kythera.model.limits import Limits
from kythera.model.names import namespace_of
from kythera.model.records import Asset, Module, Version
from kythera.run import objects
from kythera.run.assets import content_types, service_config
from kythera.run.bindings import (
    ASSETS,
    BindingContext,
    Databases,
    Made,
    SharedSecret,
    StoreDoors,
    cache_service,
    extensions_of,
    json_text,
    made,
    module_named,
    services_of,
)
from kythera.run.bindings_dispatch import DISPATCHED, around_services
from kythera.run.bindings_services import SERVICES, rpc_flags, rpc_options
from kythera.run.objects import ObjectHome, ObjectsDoor, at_home, home_services, home_sockets
from kythera.run.outbound import (
    EGRESS,
    NOTHING,
    OUTBOUND,
    TUNNELS,
    EgressDoor,
    nothing,
    outbound_services,
)
from kythera.run.prelude import (
    CLOCKS_MODULE,
    CONTEXT_MODULE,
    ENTRY_MODULE,
    NATIVES_MODULE,
    PRELUDE_MODULE,
    SOCKETS_MODULE,
    SUBREQUESTS_MODULE,
    TOLD_MODULE,
    TRIAL_ENTRYPOINT,
    around_modules,
    clocks_binding,
    clocks_flags,
    is_our_name,
    module_prelude,
    our_extension,
    plain_prelude,
    source,
    subrequests_module,
    trial_prelude,
)
from kythera.run.workerd import find_schema

YOUNG_MIB_MAX = 16
"""V8's own usual; what `--max-heap-size` alone would shrink, at 6 % of a hello's CPU."""
YOUNG_SHARE = 8
"""Young objects take three times this of a heap: with more, too little is left for the old ones."""
OWN_COMPATIBILITY_DATE = "2026-06-01"
"""Of our own small workers beside the user's."""
PULSE = "pulse"
"""A second socket: what is no HTTP there, workerd itself answers, between two turns; and requests of
the platform call the worker's other handlers."""
EVENT_HANDLERS = frozenset({"scheduled", "queue"})
"""Those that nothing calls but the platform."""
_WORKER, _DOOR, _EVENTS = "worker", "door", "events"
_CONSOLE, _TAIL, _TAIL_SINK = "console", "tail", "tail-sink"
_RESERVED = (
    *(NOTHING, OUTBOUND, EGRESS, TUNNELS, ASSETS, SERVICES),
    *(_DOOR, _EVENTS, _CONSOLE, _TAIL, _TAIL_SINK),
)

Fields = dict[str, Any]


def subrequests_max(version: Version, limits: Limits) -> int:
    """Return how many subrequests one request of a version may make; 0: nobody counts them."""
    asked = version.limits.get("subrequests", limits.subrequests)
    return min(asked if isinstance(asked, int) else limits.subrequests, limits.subrequests_max)


@dataclass(frozen=True)
class CellSettings:
    """What a machine adds to a version to make a cell of it."""

    tail_url_socket: Path | None = None
    """Unix socket that takes traces; None: the cell is not observed."""
    assets_dir: Path | None = None
    egress: EgressDoor | None = None
    """The machine's egress cell; None: nothing outside is reached."""
    heap_mib_max: int = 128
    """0 leaves V8's own limit."""
    stores: StoreDoors | None = None
    """This machine's stores; None: bindings to them answer that there are none (a trial's)."""
    shared_secret: SharedSecret | None = None
    """Opens what is in secrets stores; None: nothing is (in a trial)."""
    database: Databases | None = None
    """Opens Hyperdrive configs; None: as before."""
    service_calls_max: int = 500
    dispatch_told_bytes_max: int = 4_096
    subrequests: int = 0
    """What one request may send to others (`subrequests_max`); 0: nobody counts."""
    is_outbound: bool = False
    """Whether a dispatcher names this worker as its outbound one: then it takes parameters."""
    objects: Mapping[str, ObjectsDoor] = field(default_factory=dict)
    """How Durable Objects are reached, by the worker whose they are."""
    home: ObjectHome | None = None
    """What makes it a worker's object cell; None: it is a stateless one."""
    homes: Mapping[str, str] = field(default_factory=dict)
    """By `store/resource`: which other machine keeps it."""


@dataclass(frozen=True)
class _Builder:
    version: Version
    read_blob: Callable[[str], bytes]
    open_secret: Callable[[str, str], str]
    settings: CellSettings
    trial: bool = False

    @property
    def has_code(self) -> bool:
        return self.version.main_module is not None or self.version.body_part is not None

    @cached_property
    def context(self) -> BindingContext:
        """What bindings are made from."""
        settings = self.settings
        return BindingContext(
            self.version,
            self.read_blob,
            self.open_secret,
            settings.stores,
            settings.shared_secret,
            settings.database,
            settings.service_calls_max,
            settings.objects,
            settings.home,
            settings.dispatch_told_bytes_max,
            settings.homes,
        )

    @cached_property
    def made(self) -> list[Made]:
        """The version's bindings, as workerd reads them."""
        return [made(binding, self.context) for binding in self.version.bindings]

    @cached_property
    def cache(self) -> Fields | None:
        """What answers the Cache API."""
        return cache_service(self.context) if self.has_code else None

    @property
    def is_dispatched(self) -> bool:
        """Tell whether it is a worker of a dispatch namespace, in a cell."""
        return self.has_code and not self.trial and bool(namespace_of(self.version.worker))

    @property
    def within(self) -> list[str]:
        """Modules of ours that its `fetch` runs within."""
        wanted = {
            TOLD_MODULE: self.settings.is_outbound and not self.trial,
            CONTEXT_MODULE: self.is_dispatched,
            SUBREQUESTS_MODULE: self.counts_subrequests,  # the last is evaluated first
        }
        return [name for name, is_wanted in wanted.items() if is_wanted]

    @property
    def counts_subrequests(self) -> bool:
        """Tell whether its requests' subrequests are counted: a script can import nothing, and all
        calls of an object are one request to workerd."""
        is_cell = not self.trial and self.settings.home is None
        return is_cell and self.version.main_module is not None and self.settings.subrequests > 0

    @property
    def clocks_stand(self) -> bool:
        return self.has_code and self.version.confinement.clocks == "frozen"

    @property
    def has_tls_sockets(self) -> bool:
        """Tell whether its sockets' TLS is the egress cell's; a script can import no socket."""
        return self.settings.egress is not None and self.version.main_module is not None


def cell_config(
    version: Version,
    *,
    read_blob: Callable[[str], bytes],
    open_secret: Callable[[str, str], str],
    settings: CellSettings,
) -> bytes:
    """Return the configuration of a cell. Raises Refusal (10021) for what is not offered.

    `open_secret` takes a binding's name and its sealed text."""
    return encode(_config(_Builder(version, read_blob, open_secret, settings)))


def trial_config(
    version: Version,
    *,
    read_blob: Callable[[str], bytes],
    open_secret: Callable[[str, str], str],
    settings: CellSettings,
) -> bytes:
    """Return the configuration of a trial: the same worker, its socket answering what it exports
    (ES modules) or anything at all (service-worker format, assets alone)."""
    return encode(_config(_Builder(version, read_blob, open_secret, settings, trial=True)))


@cache
def hello_config() -> bytes:
    """Return the configuration of a cell that says hello, and reaches nothing: to try a host with."""
    worker = {
        "modules": [{"name": "hello.js", "esModule": source("hello.js")}],
        "compatibilityDate": OWN_COMPATIBILITY_DATE,
        "globalOutbound": {"name": NOTHING},
    }
    services = [nothing(), {"name": _WORKER, "worker": worker}]
    socket = {"name": "http", "http": {}, "service": {"name": _WORKER}}
    return encode({"services": services, "sockets": [socket]})


@cache
def schema() -> Any:
    """Load workerd's schema, once for each process."""
    capnp.remove_import_hook()
    return capnp.load(str(find_schema()), imports=[str(Path(__file__).parent / "schema")])


def encode(config: Fields) -> bytes:
    """Return a configuration as workerd reads it from its stdin."""
    message: bytes = schema().Config.new_message(**config).to_bytes()
    return message


def _config(builder: _Builder) -> Fields:
    settings = builder.settings
    services = [nothing()]
    services += _ways_out(builder)
    if builder.has_code:
        services.append({"name": _service_name(builder.version), "worker": _worker(builder)})
    if builder.version.assets is not None:
        services += _asset_services(builder)
    if builder.has_code:
        services += services_of(builder.made)
    if builder.cache is not None:
        services.append(builder.cache)
    if builder.has_code and not builder.trial:
        services += _tail_services(builder)
    events = not builder.trial and takes_events(builder.version)
    if events:
        services.append(_events_service(builder))
    if settings.home is not None:
        taking = _tail_bindings(builder) if settings.tail_url_socket is not None else []
        services += home_services(settings.home, _service_name(builder.version), taking)
    # A worker of a dispatch namespace may itself dispatch: both need the inner door.
    services = list({service["name"]: service for service in services}.values())
    flags = [f"--max-heap-size={settings.heap_mib_max}"] if settings.heap_mib_max else []
    # A small heap makes V8 collect its youngest objects more often than it needs to.
    young = min(YOUNG_MIB_MAX, max(1, settings.heap_mib_max // YOUNG_SHARE))
    flags += [f"--max-semi-space-size={young}"] if flags else []
    sockets = [_socket(builder)] if settings.home is None else home_sockets()
    if not builder.trial:
        pulse = {"name": _EVENTS if events else NOTHING}
        sockets.append({"name": PULSE, "http": {}, "service": pulse})
    config = {"services": services, "sockets": sockets, "v8Flags": flags}
    extensions = extensions_of(builder.made) if builder.has_code else []
    if builder.clocks_stand or builder.has_tls_sockets:
        extensions.append(
            our_extension(
                clocks_stand=builder.clocks_stand,
                tls_sockets=builder.has_tls_sockets,
                of_script=builder.version.body_part is not None,
            )
        )
    if extensions:
        config["extensions"] = extensions
    return config


def _ways_out(builder: _Builder) -> list[Fields]:
    """Return what a worker's own requests leave by."""
    version, egress = builder.version, builder.settings.egress
    found = outbound_services(version, egress) if builder.has_code and egress is not None else []
    if not builder.is_dispatched:
        return found
    first = _service_name(version) if version.assets is None else _DOOR
    return around_services(version, found, first, builder.settings.stores)


def _socket(builder: _Builder) -> Fields:
    version = builder.version
    if builder.is_dispatched:
        service = {"name": OUTBOUND, "entrypoint": DISPATCHED}
        http = {"forwardedProtoHeader": "X-Kythera-Scheme", "cfBlobHeader": "CF-Blob"}
        return {"name": "http", "http": http, "service": service}
    if builder.trial and version.main_module is not None:
        service = {"name": _service_name(version), "entrypoint": TRIAL_ENTRYPOINT}
    else:
        service = {"name": _service_name(version) if version.assets is None else _DOOR}
    http = {
        # workerd takes this header away; X-Forwarded-Proto stays for the worker to read.
        "forwardedProtoHeader": "X-Kythera-Scheme",
        "cfBlobHeader": "CF-Blob",
        **rpc_options(version, builder.settings.stores),
    }
    return {"name": "http", "http": http, "service": service}


def takes_events(version: Version) -> bool:
    """Tell whether a version has handlers that nothing calls but the platform."""
    return not EVENT_HANDLERS.isdisjoint(version.handlers)


def _events_service(builder: _Builder) -> Fields:
    user: Fields = {"name": "WORKER", "service": {"name": _service_name(builder.version)}}
    worker = _our_worker("events.js", [user])
    worker["compatibilityFlags"] = ["service_binding_extra_handlers"]
    return {"name": _EVENTS, "worker": worker}


def _service_name(version: Version) -> str:
    """Stack traces of a script in service-worker format name it by its service."""
    name = version.body_part
    return _WORKER if name is None or name in _RESERVED else name


def _worker(builder: _Builder) -> Fields:
    version = builder.version
    has_way_out = builder.settings.egress is not None or builder.is_dispatched
    worker: Fields = {
        "compatibilityDate": version.compatibility_date,
        "compatibilityFlags": _flags(builder),
        "bindings": [{"name": made.name, **made.value} for made in builder.made],
        "globalOutbound": {"name": OUTBOUND if has_way_out else NOTHING},
    }
    if version.main_module is not None:
        worker["modules"] = _modules(builder, version.main_module)
    else:
        worker["serviceWorkerScript"] = _script(builder)
        if builder.clocks_stand:  # the first one: evaluated before anything else
            worker["bindings"].insert(0, clocks_binding())
    if builder.cache is not None:
        worker["cacheApiOutbound"] = {"name": builder.cache["name"]}
    if builder.settings.home is not None:
        worker = at_home(worker, builder.settings.home)
    if not builder.trial:
        worker["tails"] = _tails(builder)
    return worker


def _flags(builder: _Builder) -> list[str]:
    """Return a worker's compatibility flags, and those that standing clocks need."""
    version = builder.version
    given = [*version.compatibility_flags, *rpc_flags(version)]
    if {CONTEXT_MODULE, SUBREQUESTS_MODULE}.intersection(builder.within):
        given.append("nodejs_als")
    if not builder.clocks_stand:
        return given
    needed = clocks_flags(version.compatibility_date, of_script=version.body_part is not None)
    for opposite in needed.values():
        if opposite in version.compatibility_flags:
            raise Refusal(
                10021,
                f"compatibility flag {opposite!r} would let a clock run on within a turn.",
                remedy="Remove it, or set kythera.clocks to running.",
            )
    return list(dict.fromkeys((*given, *needed)))


def _tails(builder: _Builder) -> list[Fields]:
    """Return who takes the worker's traces; for an ES module that nobody watches, nobody."""
    found: list[Fields] = [] if builder.version.body_part is None else [{"name": _CONSOLE}]
    if builder.settings.tail_url_socket is None:
        return found
    if builder.settings.home is not None:
        return [*found, {"name": objects.DOOR, "entrypoint": objects.TAIL}]
    return [*found, {"name": _TAIL}]


def _script(builder: _Builder) -> str:
    module = module_named(builder.version, builder.version.body_part or "")
    return _text(module, builder.read_blob(module.digest))


def _modules(builder: _Builder, main: str) -> list[Fields]:
    own = [m for m in builder.version.modules if m.type != "source_map"]
    module_named(builder.version, main)
    for module in own:
        _check_name(module.name)
    own.sort(key=lambda module: module.name != main)  # the first one is workerd's main module
    modules = [_module(module, builder.read_blob) for module in own]
    ours = {PRELUDE_MODULE: _prelude(builder, main), NATIVES_MODULE: source("natives.js")}
    ours[ENTRY_MODULE] = source("entry.js")
    ours = {**around_modules(PRELUDE_MODULE, builder.within), **ours}
    if SUBREQUESTS_MODULE in ours:
        ours[SUBREQUESTS_MODULE] = subrequests_module(builder.settings.subrequests)
    return [*({"name": name, "esModule": text} for name, text in ours.items()), *modules]


def _check_name(name: str) -> None:
    """Refuse what workerd answers with an internal error that nobody understands."""
    depth = 0
    for part in name.split("/"):
        depth += {"": 0, ".": 0, "..": -1}.get(part, 1)
        if depth < 0 or name.startswith("/") or "\0" in name:
            raise Refusal(
                10021,
                f"module name {name!r} leads out of the upload.",
                remedy="Name modules by relative paths, such as lib/a.js.",
            )
    if is_our_name(name):
        raise Refusal(
            10021, f"module name {name!r} is one of Kythera's own.", remedy="Name it otherwise."
        )


def _prelude(builder: _Builder, main: str) -> str:
    """An observed cell's exceptions are in its traces; without `fetch` there is none to report."""
    specifier = main
    if "new_module_registry" in builder.version.compatibility_flags and "://" not in main:
        specifier = "./" + main.removeprefix("./")
    wanted = {CLOCKS_MODULE: builder.clocks_stand, SOCKETS_MODULE: builder.has_tls_sockets}
    first = [name for name, is_wanted in wanted.items() if is_wanted]
    if builder.trial:
        return trial_prelude(specifier, first)
    settings = builder.settings
    observed = settings.tail_url_socket is not None and settings.home is None
    if observed or "fetch" not in builder.version.handlers:
        return plain_prelude(specifier, first)
    return module_prelude(specifier, first)


_MODULE_FIELDS = {
    "esm": "esModule",
    "cjs": "commonJsModule",
    "json": "json",
    "text": "text",
    "data": "data",
    "wasm": "wasm",
}


def _module(module: Module, read_blob: Callable[[str], bytes]) -> Fields:
    field = _MODULE_FIELDS.get(module.type)
    if field is None:
        offered = ", ".join(_MODULE_FIELDS)
        raise Refusal(
            10021,
            f"module {module.name!r} has type {module.type!r}, which is not offered.",
            remedy=f"Offered are: {offered}.",
        )
    content = read_blob(module.digest)
    if field in ("data", "wasm"):
        return {"name": module.name, field: content}
    return {"name": module.name, field: _text(module, content)}


def _text(module: Module, content: bytes) -> str:
    if module.type == "text":
        return content.decode(errors="replace")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise Refusal(10021, f"module {module.name!r} is not UTF-8 (byte {error.start}).") from None


def _our_worker(name: str, bindings: Sequence[Fields]) -> Fields:
    return {
        "modules": [{"name": name, "esModule": source(name)}],
        "compatibilityDate": OWN_COMPATIBILITY_DATE,
        "bindings": list(bindings),
        "globalOutbound": {"name": NOTHING},
    }


def _asset_services(builder: _Builder) -> list[Fields]:
    """The asset service, and before it the door: ranges, and types as they were uploaded."""
    version, folder = builder.version, builder.settings.assets_dir
    assert version.assets is not None
    assert folder is not None, "a version with assets needs their folder"
    service: Fields = {
        "path": str(folder),
        "config": json_text(service_config(version.assets.config)),
    }
    if builder.has_code:
        service["userWorker"] = {"name": _service_name(version)}
    else:
        service["compatibilityDate"] = version.compatibility_date
        service["compatibilityFlags"] = list(version.compatibility_flags)
    manifest = msgspec.json.decode(builder.read_blob(version.assets.manifest), type=list[Asset])
    bindings: list[Fields] = [
        {"name": "NEXT", "service": {"name": ASSETS}},
        {"name": "TYPES", "json": json_text(content_types(manifest))},
    ]
    if builder.has_code:
        bindings.append({"name": "WORKER", "service": {"name": _service_name(version)}})
    return [
        {"name": ASSETS, "assets": service},
        {"name": _DOOR, "worker": _our_worker("door.js", bindings)},
    ]


def _tail_services(builder: _Builder) -> list[Fields]:
    version, socket = builder.version, builder.settings.tail_url_socket
    services: list[Fields] = []
    if version.body_part is not None:
        told: list[Fields] = [{"name": "EXCEPTIONS", "json": json_text(socket is None)}]
        services.append({"name": _CONSOLE, "worker": _our_worker("console.js", told)})
    if socket is not None:
        sink = {"address": f"unix:{socket}", "http": {}}
        services.append({"name": _TAIL_SINK, "external": sink})
        if builder.settings.home is None:
            taking = _our_worker("tail.js", _tail_bindings(builder))
            services.append({"name": _TAIL, "worker": taking})
    return services


def _tail_bindings(builder: _Builder) -> list[Fields]:
    """Return what whoever takes traces needs to hand them on."""
    version = builder.version
    about = {"account": version.account, "worker": version.worker, "version": version.id}
    return [
        {"name": "SINK", "service": {"name": _TAIL_SINK}},
        {"name": "ABOUT", "json": json_text(about)},
    ]
