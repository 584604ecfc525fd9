"""A binding to a KV namespace, as an upload asks for it. Pure. Whether there is such a namespace the
API looks up (`control.kv_namespaces`)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kythera.deploy.documents import as_text, shown
from kythera.model.errors import Refusal
from kythera.model.names import RESOURCE_ID
from kythera.model.records import Binding

if TYPE_CHECKING:
    from kythera.deploy.bindings import Origin

NOT_VALID = 10042


def read_namespace(name: str, kind: str, fields: Mapping[str, Any], origin: "Origin") -> Binding:
    """Return the binding. Raises Refusal (10042) for what cannot be an id."""
    found = as_text(fields.get("namespace_id"), f"namespace_id of binding {name!r}")
    if RESOURCE_ID.fullmatch(found) is None:
        raise Refusal(
            NOT_VALID,
            f"KV namespace {shown(found)} of binding {name!r} is not valid.",
            remedy="Its id has 32 hexadecimal digits: wrangler kv namespace list",
        )
    return Binding(name=name, type=kind, fields={"namespace_id": found})
