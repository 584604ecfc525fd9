"""Durable Objects in workerd's configuration, on both sides. Pure.

In a stateless cell a binding is workerd's own namespace, with the key of the real one, so that ids
are the same; its objects are shells that call the worker's *object cell* over a unix socket by
workerd's own RPC. In the object cell the same code has its real namespaces, with storage on disk.
What cannot be reached from here says why when it is called.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kythera.model.objects import OBJECTS, ObjectClass
from kythera.model.records import Binding
from kythera.run.outbound import NOTHING
from kythera.run.prelude import source

if TYPE_CHECKING:
    from kythera.run.bindings import BindingContext

CONNECT_HOST = "objects"
DOOR, WATCH, TAIL = "objects/door", "objects-watch", "Tail"
STORAGE = "objects/storage"
OWN_DATE = "2026-06-01"
IN_A_TRIAL = "Durable Objects are not there while a Worker's top-level code is tried."

Fields = dict[str, Any]


@dataclass(frozen=True)
class ObjectsDoor:
    """How a cell reaches the objects of one worker."""

    socket: Path | None = None
    why: str = ""
    """Why it does not, in words for whoever calls one."""


@dataclass(frozen=True)
class ObjectHome:
    """What makes a cell the object cell of its worker."""

    classes: tuple[tuple[str, ObjectClass], ...]
    """Name in this version → the class; those that this version has and that were not deleted."""
    folder: Path
    """Their storage, as the cell sees it."""

    def name_of(self, namespace: str) -> str | None:
        """Return what this version calls a class."""
        return next((name for name, one in self.classes if one.id == namespace), None)


def script_of(binding: Binding, worker: str) -> str:
    """Return whose class a binding leads to."""
    script: str = binding.fields.get("script_name", worker)
    return script


def objects_value(binding: Binding, context: "BindingContext") -> tuple[Fields, tuple[Fields, ...]]:
    """Return a binding to a class, and the services behind it: the real one at home, else shells."""
    namespace, worker = binding.fields["namespace_id"], context.version.worker
    script = script_of(binding, worker)
    if context.home is not None and script == worker:
        name = context.home.name_of(namespace)
        if name is not None:
            return {"durableObjectNamespace": {"className": name}}, ()
    service = f"objects/of/{script}"
    designator = {"className": namespace, "serviceName": service}
    services = _shells(service, script, context)
    return {"durableObjectNamespace": designator}, tuple(services)


def _shells(service: str, script: str, context: "BindingContext") -> list[Fields]:
    version = context.version
    wanted = [
        binding.fields["namespace_id"]
        for binding in version.bindings
        if binding.type == OBJECTS and script_of(binding, version.worker) == script
    ]
    namespaces = list(dict.fromkeys(wanted))
    door = context.objects.get(script, ObjectsDoor(why=IN_A_TRIAL))
    shells: Fields = {
        "modules": [{"name": "objects_forward.js", "esModule": _exporting(namespaces)}],
        "compatibilityDate": OWN_DATE,
        "bindings": [{"name": "WHY", "text": door.why}],
        "globalOutbound": {"name": NOTHING},
        "durableObjectNamespaces": [
            {"className": each, "uniqueKey": each, "enableSql": True} for each in namespaces
        ],
        "durableObjectStorage": {"inMemory": None},
    }
    if door.socket is None:
        return [{"name": service, "worker": shells}]
    way = f"objects/way/{script}"
    shells["bindings"].append({"name": "DOOR", "service": {"name": way}})
    external = {"address": f"unix:{door.socket}", "http": {"capnpConnectHost": CONNECT_HOST}}
    return [{"name": service, "worker": shells}, {"name": way, "external": external}]


def _exporting(namespaces: Sequence[str]) -> str:
    lines = [
        f"const n{number} = shell({json.dumps(each)});\nexport {{ n{number} as {json.dumps(each)} }};"
        for number, each in enumerate(namespaces)
    ]
    return source("objects_forward.js").replace("'%exports%';", "\n".join(lines))


def at_home(worker: Fields, home: ObjectHome) -> Fields:
    """Return an object cell's worker: the same code, with its namespaces."""
    namespaces = [
        {"className": name, "uniqueKey": one.id, "enableSql": one.sqlite}
        for name, one in home.classes
    ]
    storage = {"localDisk": STORAGE}
    return {**worker, "durableObjectNamespaces": namespaces, "durableObjectStorage": storage}


def home_services(home: ObjectHome, worker: str, tail: Sequence[Fields] = ()) -> list[Fields]:
    """Return what an object cell has beside its worker: the storage, and the door, which hands traces
    on with the bindings `tail`."""
    bindings: list[Fields] = [
        {"name": one.id, "durableObjectNamespace": {"className": name, "serviceName": worker}}
        for name, one in home.classes
    ]
    door = {
        "modules": [{"name": n, "esModule": source(n)} for n in ("objects_door.js", "tail.js")],
        "compatibilityDate": OWN_DATE,
        "bindings": [*bindings, *tail],
        "globalOutbound": {"name": NOTHING},
    }
    return [
        {"name": STORAGE, "disk": {"path": str(home.folder), "writable": True}},
        {"name": DOOR, "worker": door},
    ]


def home_sockets() -> list[Fields]:
    """Return an object cell's sockets: for stateless cells, and for whoever watches it."""
    return [
        {
            "name": "http",
            "http": {"capnpConnectHost": CONNECT_HOST},
            "service": {"name": DOOR},
        },
        {"name": WATCH, "http": {}, "service": {"name": DOOR, "entrypoint": "Watch"}},
    ]


def doors_of(bindings: Sequence[Binding], worker: str) -> frozenset[str]:
    """Return of which workers a version's bindings reach objects."""
    return frozenset(script_of(binding, worker) for binding in bindings if binding.type == OBJECTS)
