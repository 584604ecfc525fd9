"""What an upload's bindings lead to: it must be there, and the caller's to give.

Promises: an upload that names what is not there is refused by name, and nothing is stored; a token for
some workers, which may not reach the account's resources, cannot do so through a worker's code.
"""

from collections.abc import Iterable, Mapping

from kythera.control.caller import FORBIDDEN, Forbidden, calling
from kythera.deploy.bindings_dispatch import NAMESPACE_ABSENT
from kythera.deploy.refusals import Refusals
from kythera.model.catalog import Catalog
from kythera.model.names import DISPATCH, queue_id
from kythera.model.records import Binding, Resource, Version
from kythera.model.workflows import WORKFLOW

LEADS_TO: Mapping[str, tuple[str, str, int]] = {
    "d1": ("id", "D1 binding {} references database", 10181),
    "kv_namespace": ("namespace_id", "KV binding {} references namespace", 10041),
    "r2_bucket": ("bucket_name", "R2 binding {} references bucket", 10085),
    "queue": ("queue_name", "Queue binding {} references queue", 11000),
    DISPATCH: ("namespace_id", "Binding {} references dispatch namespace", NAMESPACE_ABSENT),
}
"""Type of binding (and of resource) → its field with the resource's id (or what `id_of` makes one of),
words, Cloudflare's code."""


def id_of(account: str, binding: Binding) -> str:
    """Return the id of the resource that a binding leads to; a queue is bound by its name."""
    named: str = binding.fields[LEADS_TO[binding.type][0]]
    return queue_id(account, named) if binding.type == "queue" else named


def refuse_absent(catalog: Catalog, version: Version) -> None:
    """Refuse bindings to resources that the account does not have, all of them at once."""
    reasons = []
    for binding in version.bindings:
        if binding.type not in LEADS_TO:
            continue
        field, words, code = LEADS_TO[binding.type]
        wanted = binding.fields[field]
        resource = id_of(version.account, binding)
        if catalog.resource(version.account, binding.type, resource) is None:
            called = words.format(repr(binding.name))
            reasons.append((code, f"{called} {wanted!r} which was not found."))
    if reasons:
        raise Refusals(reasons)


def refuse_new(before: Version | None, version: Version) -> None:
    """Refuse a caller whose token is for some workers only to give one of them a resource that it
    did not have before. Raises Forbidden."""
    caller = calling.get()
    if caller is None or not caller.workers:
        return
    had = set() if before is None else _led_to(before)
    for kind, resource in sorted(_led_to(version) - had):
        raise Forbidden(
            FORBIDDEN,
            f'Authentication error: the API token "{caller.name}" is for some workers only: it'
            f" cannot give Worker {version.worker!r} the {kind} resource {resource!r}.",
            status=403,
            remedy="Deploy it once with one for all of them, and this one may go on:"
            " kythera api-token create --name NAME --scope deploy",
        )


def refuse_taken(before: Iterable[Resource], after: Iterable[Resource], worker: str) -> None:
    """Refuse a caller to take another worker's objects who may not change that one. Raises
    Forbidden."""
    caller = calling.get()
    whose = {one.id: one.fields["script"] for one in before}
    for one in after:
        giver = whose.get(one.id, worker)
        if caller is not None and giver != worker and not caller.sees(giver):
            raise Forbidden(
                FORBIDDEN,
                f'Authentication error: the API token "{caller.name}" is not for Worker {giver!r}:'
                f" it cannot give its class {one.fields['class']!r} to Worker {worker!r}.",
                status=403,
                remedy="Use one that is for both: kythera api-token create --name NAME --scope"
                f" deploy --worker {giver} --worker {worker}",
            )


def _led_to(version: Version) -> set[tuple[str, str]]:
    return {
        (binding.type, binding.fields[LEADS_TO[binding.type][0]])
        for binding in version.bindings
        if binding.type in LEADS_TO
    } | {
        (WORKFLOW, binding.fields["workflow_name"])
        for binding in version.bindings
        if binding.type == WORKFLOW and "script_name" in binding.fields
    }
