"""Where cells find Durable Objects, and what becomes of their folders."""

from pathlib import Path

import pytest
from msgspec import structs

from kythera.ground.layout import Layout
from kythera.ground.passes import store_key
from kythera.model.catalog import Catalog
from kythera.model.errors import KytheraError
from kythera.model.objects import OBJECTS, classes_of, deleted, newest, transferred
from kythera.model.records import (
    Binding,
    Deployment,
    Machine,
    Record,
    Resource,
    Split,
    Version,
    Worker,
    encode,
)
from kythera.node.fleet_data import homes, kept, ways
from kythera.node.object_doors import doors, here, located, ways_to_moved
from kythera.node.object_files import (
    make_storage,
    newest_writer,
    note_writer,
    remove_deleted,
    take_over,
)
from kythera.route.mesh import PeerDoor, Peers

NOW = "2026-11-23T00:00:00.000000Z"
SHOP = Resource(
    account="a",
    type=OBJECTS,
    id="0" * 32,
    name="w_Shop",
    created_on=NOW,
    fields={"script": "w", "class": "Shop", "use_sqlite": True, "machine": "one"},
)
NS = Binding(name="NS", type=OBJECTS, fields={"class_name": "Shop", "namespace_id": SHOP.id})


def version(number: int) -> Version:
    """Return a version that has the class."""
    return Version(
        account="a",
        worker="w",
        id=f"v{number}",
        number=number,
        created_on=NOW,
        bindings=(NS,),
        objects={"Shop": SHOP.id},
    )


def catalog_of(shop: Resource = SHOP) -> Catalog:
    """Return the records of a worker whose two versions share the visitors."""
    halves = tuple(Split(version_id=f"v{number}", percentage=50) for number in (2, 1))
    records: tuple[Record, ...] = (
        Worker(account="a", name="w", tag="t", created_on=NOW, modified_on=NOW),
        shop,
        version(1),
        version(2),
        version(3),
        Deployment(account="a", worker="w", id="d", number=1, created_on=NOW, versions=halves),
    )
    catalog = Catalog()
    for record in records:
        catalog.apply(record.key(), encode(record))
    return catalog


def test_objects_run_the_newest_that_is_deployed() -> None:
    """Goal: neither an older one that serves too nor a newer one that serves nobody."""
    found = newest(catalog_of(), "a", "w")
    assert found is not None
    assert found.id == "v2"


def test_a_cell_on_another_machine_goes_to_where_they_live(tmp_path: Path) -> None:
    """Goal: one machine has them; from all others a way leads there, as long as it is of the fleet."""
    layout, catalog = Layout(tmp_path), catalog_of()
    at_home = doors(layout, catalog, version(1), "one")["w"]
    assert at_home.socket == layout.objects_socket("a", "w")
    assert at_home.mark == ""
    gone = doors(layout, catalog, version(1), "two")["w"]
    assert gone.socket is None
    assert "live on machine 'one'" in gone.why
    home = Machine(name="one", mesh="10.0.0.1:7000")
    catalog.apply(home.key(), encode(home))
    away = doors(layout, catalog, version(1), "two")["w"]
    assert away.socket == layout.store_socket("fleet")
    assert away.machine == "one"
    assert here(catalog, version(2), "two") == ()
    peers = Peers(me="two", machines=(PeerDoor(name="one", address="10.0.0.1:7000"),))
    key, name = store_key(layout.store_key), layout.objects_socket("a", "w").name
    assert ways(layout, catalog, peers, key)[away.mark] == f"one|{name}|"
    assert kept(layout, catalog, "one")[name] == str(layout.objects_socket("a", "w"))
    assert kept(layout, catalog, "two").keys() == {"d1", "queues", "r2"}
    unreached = Peers(me="two", machines=(PeerDoor(name="one"),))
    assert ways(layout, catalog, unreached, key) == {}


def test_a_database_of_another_machine_is_known_to_be_there(tmp_path: Path) -> None:
    """Goal: its cells go by the mesh, those of its home do not; what no record names is here."""
    catalog = Catalog()
    held = Resource(
        account="a", type="d1", id="i", name="n", created_on=NOW, fields={"machine": "one"}
    )
    catalog.apply(held.key(), encode(held))
    bound = tuple(Binding(name=name, type="d1", fields={"id": name}) for name in ("i", "absent"))
    asking = structs.replace(version(1), bindings=bound)
    assert homes(catalog, asking, "two") == {"d1/i": "one"}
    assert homes(catalog, asking, "one") == {}


def test_a_deleted_class_is_gone(tmp_path: Path) -> None:
    """Goal: older code that still has it is told so."""
    catalog = catalog_of(deleted(SHOP))
    assert here(catalog, version(2), "one") == ()
    assert "are gone" in doors(Layout(tmp_path), catalog, version(1), "one")["w"].why


def test_what_was_bound_before_a_transfer_leads_to_where_objects_are_now(tmp_path: Path) -> None:
    """Goal: the giver's own binding and another worker's, without a deploy of either."""
    layout, catalog = Layout(tmp_path), catalog_of(transferred(SHOP, "taker", "Store"))
    assert here(catalog, version(2), "one") == ()
    assert located(catalog, version(2)).bindings[0].fields["script_name"] == "taker"
    assert "are gone" in doors(layout, catalog, version(2), "one")["taker"].why
    before = ways_to_moved(catalog, "a")
    taking = structs.replace(version(1), worker="taker", objects={"Store": SHOP.id})
    alone = (Split(version_id="v1", percentage=100),)
    deployed = Deployment(
        account="a", worker="taker", id="d", number=1, created_on=NOW, versions=alone
    )
    for record in (taking, deployed):
        catalog.apply(record.key(), encode(record))
    door = doors(layout, catalog, version(2), "one")["taker"]
    assert door.socket == layout.objects_socket("a", "taker")
    assert ways_to_moved(catalog, "a") != before
    assert located(catalog, taking).bindings[0].fields == NS.fields


def test_a_class_is_taken_with_its_objects_and_whoever_wrote_them(tmp_path: Path) -> None:
    """Goal: once, whole, and no workerd that is too old for them opens them afterwards."""
    layout = Layout(tmp_path)
    (make_storage(layout, "a", "w", None) / SHOP.id).mkdir()
    (layout.objects_of("a", "w") / "store" / SHOP.id / "one.sqlite").write_bytes(b"kept")
    note_writer(layout, "a", "w", "2026-11-17")
    classes = classes_of(catalog_of(transferred(SHOP, "taker", "Store")), "a", "taker")
    assert take_over(layout, "a", "taker", classes) == [SHOP.id]
    assert take_over(layout, "a", "taker", classes) == []
    store = layout.objects_of("a", "taker") / "store"
    assert (store / SHOP.id / "one.sqlite").read_bytes() == b"kept"
    with pytest.raises(KytheraError, match="which is older"):
        note_writer(layout, "a", "taker", "2026-01-01")
    (layout.objects_of("a", "w") / "store" / SHOP.id).mkdir()
    with pytest.raises(KytheraError, match="there twice"):
        take_over(layout, "a", "taker", classes)


def test_only_what_was_deleted_is_removed(tmp_path: Path) -> None:
    """Goal: a folder without a record stays: the copy of the records may be incomplete."""
    layout = Layout(tmp_path)
    store = make_storage(layout, "a", "w", None)
    for name in (SHOP.id, "unknown"):
        (store / name).mkdir()
    assert remove_deleted(layout, "a", "w", classes_of(catalog_of(), "a", "w")) == []
    gone = classes_of(catalog_of(deleted(SHOP)), "a", "w")
    assert remove_deleted(layout, "a", "w", gone) == [SHOP.id]
    assert [place.name for place in store.iterdir()] == ["unknown"]


def test_an_older_writer_is_refused(tmp_path: Path) -> None:
    """Goal: the newest that ever wrote is remembered, until nothing is left of what it wrote."""
    layout = Layout(tmp_path)
    store = make_storage(layout, "a", "w", None)
    assert newest_writer(layout) == ""
    for date in ("2026-01-01", "2026-11-17", "2026-11-17"):
        note_writer(layout, "a", "w", date)
    with pytest.raises(KytheraError, match=r"2026-11-17; 2026-01-01, which is older"):
        note_writer(layout, "a", "w", "2026-01-01")
    assert newest_writer(layout) == "2026-11-17"
    (store / SHOP.id).mkdir()
    remove_deleted(layout, "a", "w", classes_of(catalog_of(deleted(SHOP)), "a", "w"))
    assert newest_writer(layout) == ""
