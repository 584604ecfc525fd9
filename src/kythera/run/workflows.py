"""Workflows in workerd's configuration, on both sides. Pure.

Instances run in their worker's object cell, by workerd's own engine beside the worker's code
(`js/workflows.js`); they are kept where its Durable Objects are. In other cells a binding is workerd's
own too, and leads there by the same door. What cannot be reached from here says why when it is called.
"""

import json
from typing import TYPE_CHECKING, Any

from kythera.model.records import Binding, Version
from kythera.model.workflows import Workflow
from kythera.run.outbound import NOTHING
from kythera.run.prelude import source

if TYPE_CHECKING:
    from kythera.run.bindings import BindingContext
    from kythera.run.objects import ObjectHome, ObjectsDoor

ENGINE = "workflows/engine"
OWN_DATE = "2026-06-01"
BINDING_MODULE = "cloudflare-internal:workflows-api"
STORED_IN = "miniflare-workflows-{}"
"""workerd's name of a Workflow's folder and namespace."""
ENGINE_DATE = "2026-01-01"
"""Before the flag below, which is the worker's own choice."""
KEEPS_MESSAGE, KEEPS_MESSAGE_SINCE = "workflows_preserve_non_retryable_error_message", "2026-05-14"

Fields = dict[str, Any]


def workflow_value(
    binding: Binding, context: "BindingContext", way: Fields | None, door: "ObjectsDoor"
) -> tuple[Fields, tuple[Fields, ...]]:
    """Return a binding to a Workflow, and the services behind it. `way`: the service that leads to
    its worker's object cell."""
    name, home = binding.fields["workflow_name"], context.home
    script = binding.fields.get("script_name", context.version.worker)
    if home is not None and script == context.version.worker:
        found = next((one for one in home.workflows if one.name == name), None)
        if found is not None:
            return _binding(_designator(found)), ()
    service = f"workflows/of/{script}"
    away = [{"name": "AWAY", "text": door.why_away}] if door.machine else []
    forward: Fields = {
        "modules": [{"name": "workflows_forward.js", "esModule": source("workflows_forward.js")}],
        "compatibilityDate": OWN_DATE,
        "bindings": [{"name": "WHY", "text": door.why_no_workflows}, *away],
        "globalOutbound": {"name": NOTHING},
    }
    designator = {"name": service, "props": {"json": _text({"workflow": name})}}
    services: tuple[Fields, ...] = ({"name": service, "worker": forward},)
    if way is not None:
        forward["bindings"].append({"name": "DOOR", "service": {"name": way["name"]}})
        services = (*services, way)
    return _binding(designator), services


def _binding(designator: Fields) -> Fields:
    inner = [{"name": "fetcher", "service": designator}]
    return {"wrapped": {"moduleName": BINDING_MODULE, "innerBindings": inner}}


def _designator(workflow: Workflow) -> Fields:
    props = _text({"workflow": workflow.id})
    return {"name": ENGINE, "entrypoint": "Binding", "props": {"json": props}}


def keeps_message(version: Version) -> bool:
    """Tell whether an instance's error is what a NonRetryableError said, or that there was one."""
    since = version.compatibility_date >= KEEPS_MESSAGE_SINCE
    return since or KEEPS_MESSAGE in version.compatibility_flags


def engine_of(home: "ObjectHome") -> Fields:
    """Return what an object cell's worker says of its Workflows; nothing, if it has none."""
    if not home.workflows:
        return {}
    workflows = [
        {"className": one.class_name, "name": one.id, "bindingService": _designator(one)}
        for one in home.workflows
    ]
    actor = {"name": ENGINE, "entrypoint": "Instance"}
    return {"workflowsEngine": {"actorClass": actor, "workflows": workflows}}


def engine_service(home: "ObjectHome", worker: str, storage: str) -> Fields:
    """Return the service that runs a worker's instances."""
    kept_ms = home.limits["workflow_retention_s_max"] * 1000
    usual = {
        "steps": home.limits["workflow_steps"],
        "retention": {"success": kept_ms, "error": kept_ms},
    }
    named = {one.name: {**usual, **one.settings} for one in home.workflows}
    bindings: list[Fields] = [
        {"name": "WORKFLOWS", "json": _text(named)},
        {"name": "NAMES", "json": _text({one.id: one.name for one in home.workflows})},
        {"name": "LIMITS", "json": _text(dict(home.limits))},
        {"name": "VERSION", "text": home.version},
        *(
            {
                "name": f"workflow:{one.id}",
                "durableObjectNamespace": {
                    "className": STORED_IN.format(one.id),
                    "serviceName": worker,
                },
            }
            for one in home.workflows
        ),
    ]
    bundled = {"name": "bundled-workflows.js", "bundled": "/workerd/workflows.js"}
    engine = {
        "modules": [{"name": "workflows.js", "esModule": source("workflows.js")}, bundled],
        "compatibilityDate": ENGINE_DATE,
        "compatibilityFlags": [KEEPS_MESSAGE] if home.keeps_message else [],
        "bindings": bindings,
        "globalOutbound": {"name": NOTHING},
        "durableObjectStorage": {"localDisk": storage},
    }
    return {"name": ENGINE, "worker": engine}


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
