"""The catalogue folds records into answers, and keeps what it understood."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from kythera.model.catalog import Catalog
from kythera.model.records import (
    Binding,
    Deployment,
    Record,
    Split,
    Tail,
    Version,
    Worker,
    decode_key,
    encode,
)
from kythera.run.cell import Want
from kythera.run.targets import targets

A = "a" * 32


def catalog_of(*records: Record) -> Catalog:
    """Return a catalogue that was told these."""
    catalog = Catalog()
    for record in records:
        catalog.apply(record.key(), encode(record))
    return catalog


def worker(name: str = "shop") -> Worker:
    """Return a worker record."""
    return Worker(account=A, name=name, tag="t", created_on="c", modified_on="m")


def version(number: int) -> Version:
    """Return a version record whose id tells its number."""
    return Version(account=A, worker="shop", id=f"v{number}", number=number, created_on="c")


def deployment(number: int, *versions: str) -> Deployment:
    """Return a deployment with even shares."""
    splits = tuple(Split(version_id=v, percentage=100 / len(versions)) for v in versions)
    return Deployment(
        account=A, worker="shop", id=f"d{number}", number=number, created_on="c", versions=splits
    )


def test_the_deployment_with_the_highest_number_holds_in_whatever_order_they_came() -> None:
    """The log may replay a compacted history."""
    catalog = catalog_of(deployment(2, "v2"), deployment(1, "v1"))
    held = catalog.deployed(A, "shop")
    assert held is not None
    assert held.number == 2
    catalog.apply(deployment(2, "v2").key(), None)
    assert [d.number for d in catalog.deployments(A, "shop")] == [1]


def test_a_deployment_of_an_earlier_worker_with_the_same_name_never_holds() -> None:
    """It was written while that worker was being deleted on another machine; its number is high."""
    left = msgspec.structs.replace(deployment(7, "v7"), tag="earlier")
    own = msgspec.structs.replace(deployment(1, "v1"), tag="t")
    assert catalog_of(worker(), left, own).deployed(A, "shop") == own
    assert catalog_of(worker(), left).deployed(A, "shop") is None
    untold = deployment(8, "v8")
    assert catalog_of(worker(), own, untold).deployed(A, "shop") == untold


def test_a_record_that_cannot_be_read_leaves_the_last_good_one_and_is_named() -> None:
    """A newer schema, an unknown kind and garbage are counted, never obeyed."""
    catalog = catalog_of(worker())
    key = worker().key()
    catalog.apply(key, encode(worker()).replace(b'"schema":1', b'"schema":9'))
    catalog.apply("planet.mars", b"{}")
    catalog.apply("version.x", b"\xff")
    assert catalog.worker(A, "shop") == worker()
    assert set(catalog.unknown) == {key, "planet.mars", "version.x"}
    catalog.apply(key, encode(worker()))
    assert key not in catalog.unknown


def test_the_keys_of_a_worker_are_its_own_and_end_with_itself() -> None:
    """Deleting a worker deletes these and no neighbour's."""
    catalog = catalog_of(worker(), worker("shop2"), version(1), deployment(1, "v1"))
    keys = list(catalog.keys_of(A, "shop"))
    assert keys[-1] == worker().key()
    assert set(keys) == {version(1).key(), deployment(1, "v1").key(), worker().key()}


def test_targets_are_the_deployed_versions_whose_records_are_here() -> None:
    """A version that has not arrived is passed over; a live tail asks for observation."""
    catalog = catalog_of(worker(), version(1), version(2), deployment(1, "v1", "v2", "v9"))
    share = 100 / 3
    assert targets(catalog, "2026") == {(A, "shop"): {"v1": Want(share), "v2": Want(share)}}
    tail = Tail(account=A, worker="shop", id="t", created_on="2026-01", expires_on="2026-02")
    catalog.apply(tail.key(), encode(tail))
    assert targets(catalog, "2026-01-15")[(A, "shop")]["v1"].observed
    assert not targets(catalog, "2026-03")[(A, "shop")]["v1"].observed


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=30))
def test_applying_entries_twice_changes_nothing(steps: list[tuple[int, bool]]) -> None:
    """A follower that resumes may see an entry again."""
    once, twice = Catalog(), Catalog()
    for number, lives in steps:
        record = version(number)
        value = encode(record) if lives else None
        once.apply(record.key(), value)
        twice.apply(record.key(), value)
        twice.apply(record.key(), value)
    assert once.records == twice.records
    assert once.versions(A, "shop") == twice.versions(A, "shop")


@given(st.integers(0, 2**53), st.text(max_size=50), st.booleans())
def test_records_survive_being_written_down(number: int, text: str, flag: bool) -> None:
    """Encoding is canonical and loses nothing."""
    record = Worker(
        account=A,
        name="w",
        tag=text,
        created_on=text,
        modified_on=text,
        versions_made=number,
        logpush=flag,
        observability={text: number},
    )
    assert decode_key(record.key(), encode(record)) == record
    assert encode(record) == encode(record)


def test_dispatchers_are_found_without_looking_at_all_versions() -> None:
    """Versions with a binding to a dispatch namespace are known by it, until they end."""
    bound = Binding(name="D", type="dispatch_namespace", fields={})
    dispatcher = msgspec.structs.replace(version(2), bindings=(bound,))
    catalog = catalog_of(version(1), dispatcher)
    assert catalog.dispatchers() == [dispatcher]
    catalog.apply(dispatcher.key(), None)
    assert catalog.dispatchers() == []
