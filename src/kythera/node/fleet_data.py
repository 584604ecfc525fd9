"""Which data other machines of the fleet keep, and by which ways cells here reach them.

Pure: from the records. Promises: a machine that is not a peer is no way's end; what is kept here is
named for others only if a record says that it lives here.
"""

from collections.abc import Callable, Iterator

from kythera.ground.layout import Layout
from kythera.ground.passes import way_mark
from kythera.model.catalog import Catalog
from kythera.model.names import queue_id
from kythera.model.objects import OBJECTS, is_live
from kythera.model.records import Binding, Resource, Version
from kythera.model.workflows import WORKFLOW
from kythera.route.mesh import Peers
from kythera.route.mesh_data import PASS_WORD

STORES = ("d1", "queues", "r2")
"""Those that take passes of other machines' cells."""
KEPT: dict[str, tuple[str, str]] = {
    "d1": ("d1", "id"),
    "r2_bucket": ("r2", "bucket_name"),
    "queue": ("queues", "queue_name"),
}
"""By the type of a binding, and of the resource: whose store, and by which field it is found."""


def resource_of(version: Version, binding: Binding) -> str:
    """Return the id of what a binding of `KEPT` leads to."""
    said: str = binding.fields[KEPT[binding.type][1]]
    return queue_id(version.account, said) if binding.type == "queue" else said


def homes(catalog: Catalog, version: Version, machine: str) -> dict[str, str]:
    """Return, by `store/resource`, which other machine keeps what a version is bound to. What says
    no machine is older than homes, and is each machine's own."""
    found = {}
    for binding in version.bindings:
        if binding.type in KEPT:
            wanted = resource_of(version, binding)
            one = catalog.resource(version.account, binding.type, wanted)
            home = machine if one is None else one.fields.get("machine", machine)
            if home != machine:
                found[f"{KEPT[binding.type][0]}/{wanted}"] = home
    return found


def known_homes(catalog: Catalog, account: str) -> dict[tuple[str, str], str]:
    """Return where everything of an account is kept, by type and id: cells that were started while
    that was otherwise are to be started anew."""
    return {
        (kind, one.id): one.fields.get("machine", "")
        for kind in KEPT
        for one in catalog.resources(account, kind)
    }


def object_homes(catalog: Catalog) -> dict[tuple[str, str], str]:
    """Return, by account and worker, the machine that its Durable Objects and Workflows live on."""
    live: Iterator[Resource] = (
        one for kind in (OBJECTS, WORKFLOW) for one in catalog.all_resources(kind) if is_live(one)
    )
    found = ((one.account, one.fields["script"], one.fields["machine"]) for one in live)
    return {(account, script): machine for account, script, machine in found}


def ways(layout: Layout, catalog: Catalog, peers: Peers, key: str) -> dict[str, str]:
    """Return rows for the front's map `ways`: the marks that cells here show, and what is meant."""
    reached = {door.name for door in peers.machines if door.address}
    rows = {}
    for peer in sorted(reached):
        for store in STORES:
            rows[way_mark(key, peer, store)] = f"{peer}|{store}|{PASS_WORD}"
    for worker, home in sorted(object_homes(catalog).items()):
        if home in reached:
            for path in (layout.objects_socket(*worker), layout.objects_watch(*worker)):
                rows[way_mark(key, home, path.name)] = f"{home}|{path.name}|"
    return rows


def kept(layout: Layout, catalog: Catalog, machine: str) -> dict[str, str]:
    """Return by which names other machines reach what is kept here, and its sockets."""
    found = {store: str(layout.store_socket(store)) for store in STORES}
    for worker, home in object_homes(catalog).items():
        if home in ("", machine):
            for path in (layout.objects_socket(*worker), layout.objects_watch(*worker)):
                found[path.name] = str(path)
    return found


def homes_for(catalog: Catalog, machine: str) -> Callable[[Version], dict[str, str]]:
    """Return `homes` for whoever has a version alone."""
    return lambda version: homes(catalog, version, machine)
