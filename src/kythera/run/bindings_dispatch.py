"""Dispatch namespaces: what a dispatcher's cell is given, and a cell of a namespace's worker.

Pure. A binding is an object of ours (js/dispatch.js) before a small worker of ours
(js/dispatching.js) that has the namespace's key: with it alone the marks are made by which the inner
door knows the namespace's workers (`ground/passes.py`). A worker of a namespace has another worker of
ours around it (js/dispatched.js), which sends what it sends out to the outbound worker that the
dispatcher named, if it did; it has a key for the marks of such workers, and for no others.
"""

from typing import TYPE_CHECKING, Any

from kythera.ground.passes import namespace_key, outbound_key
from kythera.model.names import namespace_of
from kythera.model.records import Binding, Version
from kythera.run.bindings_services import (
    BLOB_HEADER,
    COMPATIBILITY_DATE,
    SCHEME_HEADER,
    SERVICES,
    text_of,
)
from kythera.run.outbound import NOTHING, OUTBOUND
from kythera.run.prelude import source

if TYPE_CHECKING:
    from kythera.run.bindings import BindingContext, StoreDoors

DISPATCHING, DISPATCH_DOOR = "dispatching", "dispatching/door"
"""Of the small worker, and of the machine's inner door without anybody's mark."""
DISPATCHED = "Dispatched"
"""The entry point of what stands around a namespace's worker."""
MODULE = "kythera:dispatch.js"

Fields = dict[str, Any]


def dispatch_value(
    binding: Binding, context: "BindingContext"
) -> tuple[Fields, list[Fields], Fields]:
    """Return the value of a binding, the services behind it, and the module that makes it."""
    fields = binding.fields
    namespace, outbound = fields["namespace_id"], fields.get("outbound")
    told: Fields = {"namespace": namespace}
    if context.stores is not None:
        told["key"] = namespace_key(context.stores.key, context.version.account, namespace)
    if outbound is not None:
        told["outbound"] = outbound["worker"]["service"]
    parameters = [] if outbound is None else [each["name"] for each in outbound["params"]]
    inner = [
        {
            "name": "door",
            "service": {"name": DISPATCHING, "props": {"json": text_of(told)}},
        },
        {"name": "parameters", "json": text_of(parameters)},
    ]
    module = {"name": MODULE, "esModule": source("dispatch.js"), "internal": True}
    value = {"wrapped": {"moduleName": MODULE, "innerBindings": inner}}
    return value, _services(context), module


def _services(context: "BindingContext") -> list[Fields]:
    bindings: list[Fields] = [
        {"name": "DOOR", "service": {"name": DISPATCH_DOOR}},
        {"name": "CALLS_MAX", "json": text_of(context.service_calls_max)},
        {"name": "TOLD_MAX", "json": text_of(context.dispatch_told_bytes_max)},
    ]
    worker = {
        "modules": [{"name": "dispatching.js", "esModule": source("dispatching.js")}],
        "compatibilityDate": COMPATIBILITY_DATE,
        "bindings": bindings,
        "globalOutbound": {"name": NOTHING},
    }
    return [door_service(context.stores), {"name": DISPATCHING, "worker": worker}]


def door_service(doors: "StoreDoors | None") -> Fields:
    """Return the inner door, for workers of ours that say themselves whom they mean. A trial's leads
    nowhere."""
    if doors is None or SERVICES not in doors.sockets:
        return {"name": DISPATCH_DOOR, "network": {"allow": []}}
    http = {"forwardedProtoHeader": SCHEME_HEADER, "cfBlobHeader": BLOB_HEADER}
    address = f"unix:{doors.sockets[SERVICES]}"
    return {"name": DISPATCH_DOOR, "external": {"address": address, "http": http}}


def around_services(
    version: Version, outbound: list[Fields], worker: str, doors: "StoreDoors | None"
) -> list[Fields]:
    """Return the services behind which a namespace's worker sends out, `outbound` being any worker's:
    with ours in the place of the first one's, which also takes what comes (DISPATCHED)."""
    own = [each for each in outbound if each["name"] != OUTBOUND]
    replaced = [each for each in outbound if each["name"] == OUTBOUND]
    before: list[Fields] = replaced[0]["worker"]["bindings"] if replaced else []
    key = ""
    if doors is not None:
        key = outbound_key(doors.key, version.account, namespace_of(version.worker))
    around = {
        "modules": [
            {"name": "dispatched.js", "esModule": source("dispatched.js")},
            {"name": "outbound.js", "esModule": source("outbound.js")},
        ],
        "compatibilityDate": COMPATIBILITY_DATE,
        "bindings": [
            *before,
            {"name": "WORKER", "service": {"name": worker}},
            {"name": "DOOR", "service": {"name": DISPATCH_DOOR}},
            {"name": "OUTBOUND_KEY", "text": key},
        ],
        "globalOutbound": {"name": NOTHING},
    }
    return [{"name": OUTBOUND, "worker": around}, *own, door_service(doors)]
