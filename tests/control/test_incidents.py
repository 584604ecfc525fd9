"""What befalls cells becomes a record: what is new is written, what nobody needs is ended."""

from kythera.control.incidents import changes
from kythera.model.catalog import Catalog
from kythera.model.records import Incident, Incidents, Record, Worker, encode

ACCOUNT = "a" * 32
AT = "2026-11-23T00:00:00.000000Z"


def incidents(worker: str, machine: str = "here", count: int = 1) -> Incidents:
    """Return what befell a worker."""
    last = (Incident(reason="crashed", version="v", at=AT),)
    return Incidents(
        account=ACCOUNT,
        worker=worker,
        machine=machine,
        since=AT,
        counts={"crashed": count},
        last=last,
    )


def catalog(*records: Record) -> Catalog:
    """Return a catalogue of these."""
    made = Catalog()
    for record in records:
        made.apply(record.key(), encode(record))
    return made


SHOP = Worker(account=ACCOUNT, name="shop", tag="t", created_on=AT, modified_on=AT)


def test_what_has_grown_is_written_and_what_has_not_is_not() -> None:
    """Goal: a quiet fleet writes nothing."""
    known = catalog(SHOP, incidents("shop"))
    assert changes(known, [incidents("shop")], "here") == []
    (change,) = changes(known, [incidents("shop", count=2)], "here")
    assert change.key == f"incidents.{ACCOUNT}.shop.here"
    assert isinstance(change.record, Incidents)


def test_a_worker_that_is_gone_takes_its_incidents_along() -> None:
    """Goal: nothing is left of it; but each machine ends its own alone, and none comes back."""
    known = catalog(incidents("shop"), incidents("shop", machine="there"))
    (change,) = changes(known, [incidents("shop", count=5)], "here")
    assert change == (f"incidents.{ACCOUNT}.shop.here", None, None)


def test_an_agent_that_knows_nothing_ends_nothing() -> None:
    """Goal: what befell a worker outlives the agent that saw it."""
    assert changes(catalog(SHOP, incidents("shop")), [], "here") == []
