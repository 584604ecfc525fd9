"""Reading a binding to a class of Durable Objects: of the worker itself, or of another one."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kythera.deploy.documents import as_text
from kythera.deploy.refusals import invalid
from kythera.model.errors import Refusal
from kythera.model.objects import is_live, of_worker
from kythera.model.records import Binding

if TYPE_CHECKING:
    from kythera.deploy.bindings import Origin

NOT_CONFIGURED = 10061


def read_objects(name: str, kind: str, fields: Mapping[str, Any], origin: "Origin") -> Binding:
    """Return the binding with the id of its class, which stays when that is renamed.

    Raises Refusal (10061) for a class without a migration."""
    class_name = as_text(fields.get("class_name"), f"class_name of binding {name!r}")
    script = as_text(fields.get("script_name") or origin.worker, f"script_name of {name!r}")
    if fields.get("environment") not in (None, "", "production"):
        raise invalid(f"Binding {name!r}: environments of other Workers are not offered.")
    for one in of_worker(origin.classes, script):
        if is_live(one) and one.fields["class"] == class_name:
            other = {"script_name": script} if script != origin.worker else {}
            found = {"class_name": class_name, "namespace_id": one.id, **other}
            return Binding(name=name, type=kind, fields=found)
    where = "" if script == origin.worker else f" of Worker {script!r}"
    raise Refusal(
        NOT_CONFIGURED,
        f"Cannot create binding for class {class_name!r}{where} because it is not currently"
        " configured to implement Durable Objects.",
        remedy="Configure a migration in your configuration to add this class.",
    )
