"""wrangler's `exports`: an upload declares which classes of Durable Objects there are.

Pure. What is declared and not there is made; `deleted` and `renamed` do what migrations of these
names do, once. A class that has objects and is not declared is refused (100402), never dropped:
nobody loses data by leaving a line out. Refused by name: transfers, containers, other kinds of
exports than classes of Durable Objects and entry points.
"""

from collections.abc import Mapping
from typing import Any

from kythera.deploy.bindings import Origin
from kythera.deploy.documents import as_object, as_text, shown
from kythera.deploy.objects import Chain, class_name, live_classes, migrated
from kythera.deploy.refusals import invalid
from kythera.model.errors import Refusal
from kythera.model.records import Resource

UNRECONCILED = 100402
STORAGE = {"sqlite": True, "legacy-kv": False}
STATES = ("created", "renamed", "deleted")


def declared(metadata: Mapping[str, Any], origin: Origin) -> tuple[Resource, ...]:
    """Return the account's classes after an upload, whichever way it speaks of them.

    Raises Refusal for what cannot be done."""
    exports = as_object(metadata.get("exports") or {}, "metadata.exports")
    classes = _classes(exports)
    if not classes:
        return migrated(metadata.get("migrations"), origin)
    if metadata.get("migrations"):
        raise invalid("Durable Objects are declared by `exports` or by `migrations`, not by both.")
    chain = Chain(origin)
    for state in ("renamed", "deleted", "created"):
        for name, entry in classes.items():
            if entry.get("state", "created") == state:
                _reconcile(chain, name, entry, state)
    _refuse_undeclared(chain, origin, classes)
    return tuple(chain.classes)


def _classes(exports: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the entries that are classes of Durable Objects, each in a state that is offered."""
    found = {}
    for name, value in exports.items():
        entry = as_object(value, f"exports.{name}")
        kind, state = entry.get("type"), entry.get("state", "created")
        if kind == "worker":
            continue
        if kind != "durable-object" or state not in STATES or entry.get("container"):
            what = ", ".join(f"{key} {shown(entry[key])}" for key in sorted(entry))
            raise invalid(
                f"Export {shown(name)}: this platform does not offer {what} yet.",
                remedy=f"Offered are durable-object with state {', '.join(STATES)}, and worker.",
            )
        found[class_name(name)] = entry
    return found


def _reconcile(chain: Chain, name: str, entry: Mapping[str, Any], state: str) -> None:
    there = chain.find(name)
    if state == "renamed" and there is not None:
        chain.rename(name, class_name(entry.get("renamed_to")))
    elif state == "deleted" and there is not None:
        chain.remove(name)
    elif state == "created":
        storage = as_text(entry.get("storage"), f"exports.{name}.storage")
        if storage not in STORAGE:
            raise invalid(f"exports.{name}.storage is {shown(storage)}: sqlite or legacy-kv.")
        if there is None:
            chain.add(name, sqlite=STORAGE[storage])
        elif there.fields["use_sqlite"] != STORAGE[storage]:
            raise Refusal(UNRECONCILED, f"The storage of class {name!r} cannot be changed.")


def _refuse_undeclared(chain: Chain, origin: Origin, classes: Mapping[str, Any]) -> None:
    lost = sorted(live_classes(chain.classes, origin.worker).keys() - classes.keys())
    if lost:
        raise Refusal(
            UNRECONCILED,
            f"Class {lost[0]!r} has a namespace of Durable Objects, but is not in `exports`.",
            remedy='Declare it; or, to remove all its objects, with `"state": "deleted"`.',
        )
