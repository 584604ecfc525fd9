"""Service bindings: what a cell is given to call another worker of its account with.

Pure. A binding leads to a small worker of ours (js/services.js) in the cell's own process, which goes
out by the machine's inner door: as HTTP for a plain fetch, as workerd's RPC for calls. Who is meant
is known by the worker's mark, which cannot be guessed and which no worker ever sees; so a cell reaches
those workers alone that its version is bound to. On the other side the cell's own socket takes RPC for
its own mark (`rpc_options`).
"""

import json
from typing import TYPE_CHECKING, Any

from kythera.ground.passes import worker_mark
from kythera.model.records import Binding, Version
from kythera.run.objects import HANDED
from kythera.run.prelude import source

if TYPE_CHECKING:
    from kythera.run.bindings import BindingContext, StoreDoors

SERVICES = "services"
"""Of the small worker, and of the machine's inner door."""
MARK_HEADER = "X-Kythera-Service"
LANES = 8
"""Tunnels to one worker, each to one version; more than there are versions at the same time."""
RPC_PORT = 1
COMPATIBILITY_DATE = "2026-06-01"
"""Of the small worker."""
SCHEME_HEADER, BLOB_HEADER = "X-Kythera-Scheme", "CF-Blob"
CTX_EXPORTS_SINCE = "2025-11-17"
"""Compatibility date of the flag enable_ctx_exports."""

Fields = dict[str, Any]


def service_value(binding: Binding, context: "BindingContext") -> tuple[Fields, list[Fields]]:
    """Return the value of a binding to another worker, or to its own one, and the services behind."""
    fields = binding.fields
    targets = _targets(context.version)
    told: Fields = {"target": targets.index(fields["service"]), "worker": fields["service"]}
    told |= {name: fields[name] for name in ("entrypoint", "props") if fields.get(name) is not None}
    value = {"service": {"name": SERVICES, "props": {"json": text_of(told)}}}
    return value, _services(targets, context)


def rpc_options(version: Version, doors: "StoreDoors | None") -> Fields:
    """Return what the socket of a cell needs to take calls."""
    if doors is None or SERVICES not in doors.sockets:
        return {}
    mark = worker_mark(doors.key, version.account, version.worker)
    return {"capnpConnectHost": f"{mark}:{RPC_PORT}"}


def rpc_flags(version: Version) -> list[str]:
    """Return the compatibility flags by which a worker's entry points are found."""
    has = version.compatibility_date >= CTX_EXPORTS_SINCE
    given = {"enable_ctx_exports", "disable_ctx_exports"} & {*version.compatibility_flags}
    return [] if has or given or version.main_module is None else ["enable_ctx_exports"]


def _targets(version: Version) -> list[str]:
    return sorted({b.fields["service"] for b in version.bindings if b.type == "service"})


def _services(targets: list[str], context: "BindingContext") -> list[Fields]:
    bindings: list[Fields] = [
        {"name": "LANES", "json": text_of(LANES)},
        {"name": "CALLS_MAX", "json": text_of(context.service_calls_max)},
    ]
    ways = []
    for index, target in enumerate(targets):
        for lane in range(LANES + 1):
            name = f"{SERVICES}/{target}/{lane}"
            bindings.append({"name": f"{index}/{lane}", "service": {"name": name}})
            ways.append(_way(name, target, lane, context))
    worker = {
        "modules": [{"name": "services.js", "esModule": source("services.js")}, HANDED],
        "compatibilityDate": COMPATIBILITY_DATE,
        "bindings": bindings,
        "globalOutbound": {"name": "internet"},
    }
    return [*ways, {"name": SERVICES, "worker": worker}]


def _way(name: str, target: str, lane: int, context: "BindingContext") -> Fields:
    """Return the service by which a worker is reached; a trial's leads nowhere."""
    doors = context.stores
    if doors is None or SERVICES not in doors.sockets:
        return {"name": name, "network": {"allow": []}}
    mark = worker_mark(doors.key, context.version.account, target)
    http = {
        "capnpConnectHost": f"{mark}-{lane}:{RPC_PORT}",
        "forwardedProtoHeader": SCHEME_HEADER,
        "cfBlobHeader": BLOB_HEADER,
        "injectRequestHeaders": [{"name": MARK_HEADER, "value": mark}],
    }
    return {"name": name, "external": {"address": f"unix:{doors.sockets[SERVICES]}", "http": http}}


def text_of(value: Any) -> str:
    """Return JSON in ASCII without blanks."""
    return json.dumps(value, separators=(",", ":"))
