"""Which cells are to be replaced because a secret or a database's password was changed."""

import msgspec

from kythera.model.catalog import Catalog
from kythera.model.names import queue_id
from kythera.model.records import Account, Binding, Resource, Version, encode
from kythera.node.secrets_watch import SecretsWatch, uses

FIELDS = {"store_id": "s", "text_on": "1", "sealed": "one", "comment": ""}
SECRET = Resource(
    account="a",
    type="secrets_store_secret",
    id="1",
    name="KEY",
    created_on="",
    fields=FIELDS,
)
DATABASE = Resource(
    account="a",
    type="hyperdrive",
    id="d",
    name="db",
    created_on="",
    fields={"modified_on": "1", "sealed": "one"},
)


def bound(kind: str, **fields: str) -> Version:
    """Return a version with one binding."""
    binding = Binding(name="B", type=kind, fields=fields)
    return Version(account="a", worker="w", id="v", number=1, created_on="", bindings=(binding,))


def having(*records: Resource) -> Catalog:
    """Return a catalogue."""
    catalog = Catalog()
    for record in (Account(id="a", name="", subdomain=""), *records):
        catalog.apply(record.key(), encode(record))
    return catalog


def put(catalog: Catalog, record: Resource, **fields: str) -> None:
    """Change some fields of a record."""
    after = msgspec.structs.replace(record, fields={**record.fields, **fields})
    catalog.apply(after.key(), encode(after))


def test_a_new_text_is_noticed_once_and_a_new_key_is_not() -> None:
    """Goal: cells are replaced for what they would read, not for how it is sealed."""
    catalog = having(SECRET, DATABASE)
    watch = SecretsWatch(catalog)
    assert not watch.changed()
    put(catalog, SECRET, sealed="with another key", comment="new")
    assert not watch.changed()
    put(catalog, SECRET, text_on="2")
    changed = watch.changed()
    assert uses(bound("secrets_store_secret", store_id="s", secret_name="KEY"), changed)
    assert not uses(bound("secrets_store_secret", store_id="s", secret_name="OTHER"), changed)
    assert not uses(bound("plain_text", text="x"), changed)
    assert not watch.changed()


def test_what_comes_and_goes_is_noticed_too() -> None:
    """Goal: a secret that is deleted, and a database whose config changed."""
    catalog = having(SECRET, DATABASE)
    watch = SecretsWatch(catalog)
    watch.changed()
    catalog.apply(SECRET.key(), None)
    put(catalog, DATABASE, modified_on="2")
    changed = watch.changed()
    assert uses(bound("secrets_store_secret", store_id="s", secret_name="KEY"), changed)
    assert uses(bound("hyperdrive", id="d"), changed)
    assert not uses(bound("hyperdrive", id="other"), changed)
    assert not uses(None, changed)


def test_what_is_made_anew_on_another_machine_is_noticed() -> None:
    """Goal: cells do not go on asking where a bucket was before. Method: its record names another
    machine; a queue is known by its name."""
    bucket = Resource(account="a", type="r2_bucket", id="b", name="b", created_on="", fields={})
    known = queue_id("a", "q")
    queue = Resource(account="a", type="queue", id=known, name="q", created_on="", fields={})
    catalog = having(bucket, queue)
    watch = SecretsWatch(catalog)
    assert not watch.changed()
    put(catalog, bucket, machine="other", storage_class="Standard")
    changed = watch.changed()
    assert uses(bound("r2_bucket", bucket_name="b"), changed)
    assert not uses(bound("r2_bucket", bucket_name="c"), changed)
    assert not uses(bound("queue", queue_name="q"), changed)
    catalog.apply(queue.key(), None)
    assert not watch.changed(), "gone"
    put(catalog, queue, machine="other")
    assert uses(bound("queue", queue_name="q"), watch.changed())
    put(catalog, msgspec.structs.replace(bucket, id="c", name="c"), machine="other")
    assert not watch.changed(), "new"
