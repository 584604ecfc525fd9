"""Reading a binding to a Workflow: of the worker itself, or of another one."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kythera.deploy.documents import as_text, shown
from kythera.deploy.refusals import invalid
from kythera.model.errors import Refusal
from kythera.model.names import CLASS_NAME, WORKFLOW_NAME
from kythera.model.records import Binding
from kythera.model.workflows import WORKFLOW, workflow_named

if TYPE_CHECKING:
    from kythera.deploy.bindings import Origin

ABSENT = 10200


def workflow_name(value: Any, what: str) -> str:
    """Return a Workflow's name, if it can be one. Raises Refusal."""
    name = as_text(value, what)
    if WORKFLOW_NAME.fullmatch(name) is None:
        raise invalid(
            f"{what} is {shown(name)}, which cannot be the name of a Workflow.",
            remedy="Use letters, digits, `-` and `_`, 64 characters at most.",
        )
    return name


def workflow_class(value: Any, what: str) -> str:
    """Return the name of a Workflow's class, if it can be one. Raises Refusal."""
    name = as_text(value, what)
    if CLASS_NAME.fullmatch(name) is None:
        raise invalid(f"{what} is {shown(name)}, which cannot be the name of a class.")
    return name


def read_flow(name: str, kind: str, fields: Mapping[str, Any], origin: "Origin") -> Binding:
    """Return the binding; that of another worker's Workflow must lead somewhere (10200)."""
    called = workflow_name(fields.get("workflow_name"), f"workflow_name of binding {name!r}")
    script = as_text(fields.get("script_name") or origin.worker, f"script_name of {name!r}")
    class_name = fields.get("class_name")
    found: dict[str, Any] = {"workflow_name": called}
    if class_name is not None:
        found["class_name"] = workflow_class(class_name, f"class_name of binding {name!r}")
    if script == origin.worker:
        return Binding(name=name, type=kind, fields=found)
    resources = [] if origin.catalog is None else origin.catalog.resources(origin.account, WORKFLOW)
    there = workflow_named(resources, called)
    if there is None or there.fields["script"] != script:
        raise Refusal(
            ABSENT,
            f"Workflow binding {name!r} references Workflow {called!r} of Worker {script!r},"
            " which was not found.",
            remedy="Deploy that Worker first; see what there is: wrangler workflows list",
        )
    return Binding(name=name, type=kind, fields={**found, "script_name": script})
