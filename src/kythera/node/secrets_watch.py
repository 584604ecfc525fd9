"""Which running cells hold a secret that was changed in its store, the password of a database that
was, the way to Durable Objects that another worker has now, or the machine that keeps what they are bound to; or
have become an outbound worker's: they are replaced, one at a time.

A cell is given a secret's text when it starts. What an agent does not see change, as it was down, it
takes for unchanged; the records of that time come in after it is up.
"""

from kythera.deploy.bindings_dispatch import outbound_workers
from kythera.deploy.hyperdrive import HYPERDRIVE
from kythera.deploy.shared_secrets import SECRET
from kythera.model.catalog import Catalog
from kythera.model.objects import OBJECTS
from kythera.model.records import Binding, Version
from kythera.node.fleet_data import KEPT, known_homes, resource_of
from kythera.node.object_doors import ways_to_moved

Shared = tuple[str, str, str]
"""Account, store, name; of a database and of a class, its kind and id; of an outbound worker, OUTBOUND
and its name."""
OUTBOUND = "outbound worker"


class SecretsWatch:
    """Compares what is in the stores with what was there when it was last asked."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._known: dict[Shared, str] | None = None
        self._homes: dict[Shared, str] = {}
        """Where what cells are bound to is kept, or was last."""

    def changed(self) -> frozenset[Shared]:
        """Return which secrets have come, changed or gone."""
        before, self._known = self._known, self._now()
        moved = self._moved()
        if before is None or before == self._known:
            return moved
        both = before.keys() | self._known.keys()
        return moved | {name for name in both if before.get(name) != self._known.get(name)}

    def _moved(self) -> frozenset[Shared]:
        """Return what is kept elsewhere than it was last, also if it was gone meanwhile. What is
        new has no cells yet."""
        now = {
            (account.id, *key): home
            for account in self._catalog.accounts()
            for key, home in known_homes(self._catalog, account.id).items()
        }
        moved = frozenset(key for key, home in now.items() if self._homes.get(key, home) != home)
        self._homes |= now
        return moved

    def _now(self) -> dict[Shared, str]:
        shared = {
            # Not the envelope: it is another one, with the same text, after a change of keys.
            (account.id, found.fields["store_id"], found.name): found.id + found.fields["text_on"]
            for account in self._catalog.accounts()
            for found in self._catalog.resources(account.id, SECRET)
        }
        databases = {
            (account.id, HYPERDRIVE, found.id): found.fields["modified_on"]
            for account in self._catalog.accounts()
            for found in self._catalog.resources(account.id, HYPERDRIVE)
        }
        outbound = {
            (each.account, OUTBOUND, each.worker): "it is"
            for each in outbound_workers(self._catalog)
        }
        objects = {
            (account.id, OBJECTS, key): way
            for account in self._catalog.accounts()
            for key, way in ways_to_moved(self._catalog, account.id).items()
        }
        return shared | databases | outbound | objects


def uses(version: Version | None, changed: frozenset[Shared]) -> bool:
    """Tell whether a version is bound to any of these secrets."""
    if version is None:
        return False
    if (version.account, OUTBOUND, version.worker) in changed:
        return True
    return any(_named(version, b) in changed for b in version.bindings)


def _named(version: Version, binding: Binding) -> Shared:
    if binding.type in KEPT:
        return version.account, binding.type, resource_of(version, binding)
    match binding.type:
        case "secrets_store_secret":
            return version.account, binding.fields["store_id"], binding.fields["secret_name"]
        case "hyperdrive":
            return version.account, HYPERDRIVE, binding.fields["id"]
        case "durable_object_namespace":
            return version.account, OBJECTS, binding.fields["namespace_id"]
    return version.account, "", ""
