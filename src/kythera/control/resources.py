"""What an upload's bindings lead to must be there: else it is refused by name, and nothing stored."""

from collections.abc import Mapping

from kythera.deploy.refusals import Refusals
from kythera.model.catalog import Catalog
from kythera.model.records import Version

LEADS_TO: Mapping[str, tuple[str, str, int]] = {
    "d1": ("id", "D1 binding {} references database", 10181)
}
"""Type of binding (and of resource) → its field with the resource's id, words, Cloudflare's code."""


def refuse_absent(catalog: Catalog, version: Version) -> None:
    """Refuse bindings to resources that the account does not have, all of them at once."""
    reasons = []
    for binding in version.bindings:
        if binding.type not in LEADS_TO:
            continue
        field, words, code = LEADS_TO[binding.type]
        wanted = binding.fields[field]
        if catalog.resource(version.account, binding.type, wanted) is None:
            called = words.format(repr(binding.name))
            reasons.append((code, f"{called} {wanted!r} which was not found."))
    if reasons:
        raise Refusals(reasons)
