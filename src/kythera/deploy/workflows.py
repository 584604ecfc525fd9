"""Which Workflows a worker has: what an upload's bindings, and `PUT workflows/{name}`, make of them.

Pure. A binding to a Workflow of the worker's own makes it, so that it is there with the code; what its
configuration says beside that comes by itself. Refused by name: the name of another worker's Workflow
(its instances are where that worker is), a class that the code lacks, and what is not offered.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kythera.deploy.bindings import Origin
from kythera.deploy.bindings_workflows import workflow_class
from kythera.deploy.documents import as_amount, as_object, as_text, shown
from kythera.deploy.refusals import invalid
from kythera.model.errors import Refusal
from kythera.model.limits import Limits
from kythera.model.objects import is_live
from kythera.model.records import Resource, Version
from kythera.model.workflows import WORKFLOW, workflow_id, workflow_named

TAKEN, NOT_EXPORTED = 10201, 10064
NOT_OFFERED = {
    "schedules": "Make instances in scheduled(), with a trigger of the Worker's.",
    "concurrency": "Leave it out: as many instances run as are made.",
    "jurisdiction": "Leave it out: instances are on your own machine.",
}
UNITS_S = {
    "second": 1,
    "minute": 60,
    "hour": 3_600,
    "day": 86_400,
    "week": 604_800,
    "month": 2_592_000,
    "year": 31_536_000,
}

Fields = dict[str, Any]


def made_by(version: Version, origin: Origin) -> tuple[Resource, ...]:
    """Return the records of Workflows that an upload's bindings make or change."""
    known = [] if origin.catalog is None else origin.catalog.resources(origin.account, WORKFLOW)
    found: dict[str, Resource] = {}
    for binding in version.bindings:
        if binding.type != WORKFLOW or "script_name" in binding.fields:
            continue
        name = binding.fields["workflow_name"]
        before = found.get(name, workflow_named(known, name))
        class_name = binding.fields.get("class_name")
        if class_name is None and before is None:
            raise invalid(f"Binding {binding.name!r} of type workflow has no class_name.")
        fields = {} if class_name is None else {"class": class_name}
        found[name] = changed(known, before, name, fields, origin)
    return tuple(one for one in found.values() if one not in known)


def changed(
    known: Sequence[Resource],
    before: Resource | None,
    name: str,
    fields: Mapping[str, Any],
    origin: Origin,
) -> Resource:
    """Return a worker's Workflow with other fields, or a new one. Raises Refusal (10201) when the name
    is another worker's."""
    if before is None:
        _refuse_too_many(known, origin.limits)
        made = sum(one.name == name for one in known)
        own = {"script": origin.worker, "machine": origin.machine, "modified_on": origin.now}
        return Resource(
            account=origin.account,
            type=WORKFLOW,
            id=workflow_id(origin.account, name, made),
            name=name,
            created_on=origin.now,
            fields={**own, **fields},
        )
    if before.fields["script"] != origin.worker:
        raise Refusal(
            TAKEN,
            f"Workflow {name!r} belongs to Worker {before.fields['script']!r}, with its instances.",
            status=409,
            remedy=f"Choose another name, or delete that one first: wrangler workflows delete {name}",
        )
    if all(before.fields.get(key) == value for key, value in fields.items()):
        return before
    told = {**before.fields, **fields, "modified_on": origin.now}
    return msgspec.structs.replace(before, fields=told)


def _refuse_too_many(known: Sequence[Resource], limits: Limits) -> None:
    if sum(map(is_live, known)) >= limits.workflows_max:
        raise invalid(
            f"There are {limits.workflows_max} Workflows, as many as may be (limit workflows_max).",
            remedy="Delete those that nobody uses: wrangler workflows list",
        )


def refuse_no_class(version: Version) -> None:
    """Refuse code that lacks the class of a Workflow it is bound to; `version` was tried before."""
    for binding in version.bindings:
        if binding.type != WORKFLOW or "script_name" in binding.fields:
            continue
        name = binding.fields.get("class_name")
        if name is not None and name not in version.named_handlers:
            raise Refusal(
                NOT_EXPORTED,
                f"Workflow {binding.fields['workflow_name']!r} needs class {name!r}, which this"
                " script does not export.",
                remedy=f"Write `export class {name} extends WorkflowEntrypoint` in its main module.",
            )


def read_put(document: Mapping[str, Any], limits: Limits) -> tuple[str, Fields]:
    """Return the worker that `PUT workflows/{name}` names, and the record's fields."""
    for key, instead in NOT_OFFERED.items():
        if document.get(key):
            raise invalid(f"A Workflow's `{key}` is not offered here.", remedy=instead)
    script = as_text(document.get("script_name"), "script_name")
    settings: Fields = {}
    asked = as_object(document.get("limits") or {}, "limits")
    if asked.get("steps") is not None:
        most = limits.workflow_steps_max
        settings["steps"] = as_amount(asked["steps"], "limits.steps", most=most)
    kept = as_object(document.get("default_retention") or {}, "default_retention")
    retention = {
        short: retention_ms(kept[key], f"default_retention.{key}", limits)
        for key, short in (("success_retention", "success"), ("error_retention", "error"))
        if kept.get(key) is not None
    }
    if retention:
        settings["retention"] = retention
    fields = {"class": workflow_class(document.get("class_name"), "class_name")}
    return script, {**fields, "settings": settings}


def retention_ms(value: Any, what: str, limits: Limits) -> int:
    """Return for how long an instance is kept: milliseconds, or such as `3 days`. Raises Refusal."""
    most_ms = limits.workflow_retention_s_max * 1000
    if isinstance(value, str):
        count, _, unit = value.strip().partition(" ")
        seconds = UNITS_S.get(unit.strip().removesuffix("s"))
        if seconds is None or not (count.isascii() and count.isdigit()) or len(count) > 9:
            raise invalid(f"{what} is {shown(value)}; write such as `3 days`.")
        value = int(count) * seconds * 1000
    return as_amount(value, what, most=most_ms)
