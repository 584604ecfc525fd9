"""Durable Objects, and Workflows beside them, in workerd's configuration, on both sides. Pure.

In a stateless cell a binding is workerd's own namespace, with the key of the real one, so that ids
are the same; its objects are shells that call the worker's *object cell* over a unix socket by
workerd's own RPC. In the object cell the same code has its real namespaces, with storage on disk.
What cannot be reached from here says why when it is called.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kythera.model.objects import OBJECTS, ObjectClass
from kythera.model.records import Binding
from kythera.model.workflows import WORKFLOW, Workflow
from kythera.run.outbound import NOTHING
from kythera.run.prelude import source
from kythera.run.workflows import ENGINE, engine_of, engine_service, workflow_value

if TYPE_CHECKING:
    from kythera.run.bindings import BindingContext

CONNECT_HOST, WAY_PORT = "objects", 1
DOOR, WATCH, TAIL = "objects/door", "objects-watch", "Tail"
STORAGE = "objects/storage"
OWN_DATE = "2026-06-01"
IN_A_TRIAL = "Durable Objects are not there while a Worker's top-level code is tried."
NO_WORKFLOWS_IN_A_TRIAL = "Workflows are not there while a Worker's top-level code is tried."
WAY_HEADER = "X-Kythera-Way"
"""By which the front knows what of another machine is meant (`route.mesh_data`)."""
LEADS_HOME = frozenset({OBJECTS, WORKFLOW})
"""Bindings behind which is a worker's object cell."""

Fields = dict[str, Any]
HANDED: Fields = {"name": "handed.js", "esModule": source("handed.js")}
"""The module for what passes from process to process."""


@dataclass(frozen=True)
class ObjectsDoor:
    """How a cell reaches the objects of one worker."""

    socket: Path | None = None
    why: str = ""
    """Why it does not, in words for whoever calls one."""
    why_no_workflows: str = ""
    """The same for Workflows."""
    mark: str = ""
    """By what the door of `socket` knows the way, where that leads to another machine."""
    machine: str = ""
    """Which one that is."""

    @property
    def why_away(self) -> str:
        """Return what is said when that machine does not answer."""
        return f"The machine {self.machine!r}, which keeps this, does not answer: try again."


@dataclass(frozen=True)
class ObjectHome:
    """What makes a cell the object cell of its worker."""

    classes: tuple[tuple[str, ObjectClass], ...]
    """Name in this version → the class; those that this version has and that were not deleted."""
    folder: Path
    """Their storage, as the cell sees it."""
    workflows: tuple[Workflow, ...] = ()
    version: str = ""
    keeps_message: bool = True
    """As `run.workflows.keeps_message` says of the version."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """Of Workflows, by their names in `model.limits`."""

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
    door = _door(script, context)
    away = [{"name": "AWAY", "text": door.why_away}] if door.machine else []
    shells: Fields = {
        "modules": [
            {"name": "objects_forward.js", "esModule": _exporting(namespaces)},
            HANDED,
        ],
        "compatibilityDate": OWN_DATE,
        "bindings": [{"name": "WHY", "text": door.why}, *away],
        "globalOutbound": {"name": NOTHING},
        "durableObjectNamespaces": [
            {"className": each, "uniqueKey": each, "enableSql": True} for each in namespaces
        ],
        "durableObjectStorage": {"inMemory": None},
    }
    way = _way(script, door)
    if way is None:
        return [{"name": service, "worker": shells}]
    shells["bindings"].append({"name": "DOOR", "service": {"name": way["name"]}})
    return [{"name": service, "worker": shells}, way]


def _door(script: str, context: "BindingContext") -> ObjectsDoor:
    tried = ObjectsDoor(why=IN_A_TRIAL, why_no_workflows=NO_WORKFLOWS_IN_A_TRIAL)
    return context.objects.get(script, tried)


def _way(script: str, door: ObjectsDoor) -> Fields | None:
    """Return the service that leads to a worker's object cell; None: it is not reached."""
    if door.socket is None:
        return None
    http: Fields = {"capnpConnectHost": CONNECT_HOST}
    if door.mark:
        way = {"name": WAY_HEADER, "value": door.mark}
        http = {"capnpConnectHost": f"{door.mark}:{WAY_PORT}", "injectRequestHeaders": [way]}
    external = {"address": f"unix:{door.socket}", "http": http}
    return {"name": f"objects/way/{script}", "external": external}


def flow_value(binding: Binding, context: "BindingContext") -> tuple[Fields, tuple[Fields, ...]]:
    """Return a binding to a Workflow, and the services behind it."""
    script = script_of(binding, context.version.worker)
    door = _door(script, context)
    return workflow_value(binding, context, _way(script, door), door)


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
    own = {"durableObjectNamespaces": namespaces, "durableObjectStorage": storage}
    return {**worker, **own, **engine_of(home)}


def home_services(home: ObjectHome, worker: str, tail: Sequence[Fields] = ()) -> list[Fields]:
    """Return what an object cell has beside its worker: the storage, and the door, which hands traces
    on with the bindings `tail`."""
    bindings: list[Fields] = [
        {"name": one.id, "durableObjectNamespace": {"className": name, "serviceName": worker}}
        for name, one in home.classes
    ]
    engine = [engine_service(home, worker, STORAGE)] if home.workflows else []
    bindings += [{"name": "WORKFLOWS", "service": {"name": ENGINE}} for _ in engine]
    door = {
        "modules": [
            *({"name": n, "esModule": source(n)} for n in ("objects_door.js", "tail.js")),
            HANDED,
        ],
        "compatibilityDate": OWN_DATE,
        "bindings": [*bindings, *tail],
        "globalOutbound": {"name": NOTHING},
    }
    return [
        {"name": STORAGE, "disk": {"path": str(home.folder), "writable": True}},
        {"name": DOOR, "worker": door},
        *engine,
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
    """Return of which workers a version's bindings reach objects or Workflows."""
    return frozenset(script_of(each, worker) for each in bindings if each.type in LEADS_HOME)
