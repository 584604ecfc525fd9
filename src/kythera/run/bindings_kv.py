"""A binding to a KV namespace: workerd's own, over the socket of this machine's KV store. Pure."""

from typing import TYPE_CHECKING, Any

from kythera.model.records import Binding

if TYPE_CHECKING:
    from kythera.run.bindings import BindingContext, StoreService

KV = "kv"
"""The store, and its socket's name."""


def namespace_value(
    binding: Binding, context: "BindingContext", service: "StoreService"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the binding's value and the service behind it."""
    behind = service(KV, binding.fields["namespace_id"], binding, context)
    return {"kvNamespace": {"name": behind["name"]}}, behind
