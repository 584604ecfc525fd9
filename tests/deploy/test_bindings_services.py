"""Service bindings as an upload asks for them, and who is bound to whom."""

from typing import Any

import pytest

from kythera.deploy.bindings_services import (
    IN_USE,
    NOT_THERE,
    bound_to,
    read_service,
    refuse_in_use,
    refuse_no_worker,
)
from kythera.model.catalog import Catalog
from kythera.model.errors import Refusal
from kythera.model.records import Binding, Deployment, Split, Version, Worker, encode

ACCOUNT = "a" * 32


def put(catalog: Catalog, *records: Any) -> None:
    """Have a catalog know these records."""
    for record in records:
        catalog.apply(record.key(), encode(record))


def worker(name: str, *versions: tuple[str, str], deployed: str = "") -> list[Any]:
    """Return a worker's records: versions by id, each bound to one other worker or to none."""
    records: list[Any] = [Worker(account=ACCOUNT, name=name, tag="", created_on="", modified_on="")]
    for number, (version, target) in enumerate(versions):
        bindings = (Binding(name="S", type="service", fields={"service": target}),)
        records.append(
            Version(
                account=ACCOUNT,
                worker=name,
                id=version,
                number=number + 1,
                created_on="",
                bindings=bindings if target else (),
            )
        )
    if deployed:
        splits = (Split(version_id=deployed, percentage=100),)
        records.append(
            Deployment(
                account=ACCOUNT, worker=name, id="d", number=1, created_on="", versions=splits
            )
        )
    return records


def test_an_upload_s_fields_are_kept() -> None:
    """Goal: what wrangler sends for entrypoint and props reaches the cell."""
    given = {
        "service": "b",
        "entrypoint": "Admin",
        "props": {"a": [1]},
        "environment": "production",
    }
    binding = read_service("S", "service", given, None)
    assert binding.fields == {"service": "b", "entrypoint": "Admin", "props": {"a": [1]}}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"service": 1},
        {"service": "b", "environment": "staging"},
        {"service": "b", "props": []},
        {"service": "b", "props": {"a": "x" * 70_000}},
    ],
)
def test_what_cannot_be_meant_is_refused(given: dict[str, Any]) -> None:
    """Goal: nothing is dropped in silence."""
    with pytest.raises(Refusal):
        read_service("S", "service", given, None)


def test_a_target_must_be_there_unless_it_is_oneself() -> None:
    """Goal: Cloudflare's code, which names the binding and the worker."""
    catalog = Catalog()
    bindings = (Binding(name="S", type="service", fields={"service": "b"}),)
    with pytest.raises(Refusal, match="Could not resolve service binding 'S'") as refused:
        refuse_no_worker(bindings, catalog, ACCOUNT, "a")
    assert refused.value.code == NOT_THERE
    refuse_no_worker(bindings, catalog, ACCOUNT, "b")
    put(catalog, *worker("b", ("1", "")))
    refuse_no_worker(bindings, catalog, ACCOUNT, "a")


def test_who_is_bound_by_what_serves_or_is_newest_counts() -> None:
    """Goal: an old version's binding keeps nobody from deleting a worker; a deployed one's does."""
    catalog = Catalog()
    put(catalog, *worker("b", ("1", "b")))
    put(catalog, *worker("old", ("1", "b"), ("2", ""), deployed="2"))
    assert bound_to(catalog, ACCOUNT, "b") == []
    refuse_in_use(catalog, ACCOUNT, "b")
    put(catalog, *worker("live", ("1", "b"), ("2", ""), deployed="1"))
    put(catalog, *worker("new", ("1", ""), ("2", "b"), deployed="1"))
    assert [name for name, _ in bound_to(catalog, ACCOUNT, "b")] == ["live", "new"]
    with pytest.raises(Refusal, match="live, new") as refused:
        refuse_in_use(catalog, ACCOUNT, "b")
    assert refused.value.code == IN_USE
