"""Which Workflows an upload makes, and what their configuration may say."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.deploy.bindings import Origin, resolve
from kythera.deploy.seal import Sealer
from kythera.deploy.workflows import made_by, read_put, refuse_no_class, retention_ms
from kythera.model.catalog import Catalog
from kythera.model.errors import Refusal
from kythera.model.limits import Limits
from kythera.model.objects import deleted
from kythera.model.records import Resource, Version, encode
from kythera.model.workflows import read_workflow, workflow_named, workflows_here

LIMITS = Limits(workflows_max=2)
FLOW = {"name": "FLOW", "type": "workflow", "workflow_name": "orders", "class_name": "Flow"}


def origin(*known: Resource, worker: str = "shop") -> Origin:
    """Return a worker whose account has these Workflows."""
    catalog = Catalog()
    for one in known:
        catalog.apply(one.key(), encode(one))
    return Origin(
        account="a",
        worker=worker,
        seals=Sealer(bytes(32)),
        limits=LIMITS,
        catalog=catalog,
        now="2026-11-23T00:00:00.000000Z",
        machine="one",
    )


def version(where: Origin, *bindings: dict[str, Any], exports: tuple[str, ...] = ()) -> Version:
    """Return a version with these bindings."""
    found = resolve(list(bindings), None, where, has_assets=False, service_worker=False)
    return Version(
        account=where.account,
        worker=where.worker,
        id="v",
        number=1,
        created_on="",
        bindings=found,
        named_handlers=exports,
    )


def made(where: Origin, *bindings: dict[str, Any]) -> tuple[Resource, ...]:
    """Return the records that these bindings make."""
    return made_by(version(where, *bindings), where)


def code_of(where: Origin, *bindings: dict[str, Any]) -> int:
    """Return the code of a refusal."""
    with pytest.raises(Refusal) as caught:
        made(where, *bindings)
    return caught.value.code


def test_a_binding_makes_the_workflow_once() -> None:
    """Goal: it is there with the code; a second upload writes nothing; a new class is a change that keeps
    the instances; a Workflow that was deleted and is made again is another one."""
    (first,) = made(origin(), FLOW)
    flow = read_workflow(first)
    assert (flow.worker, flow.class_name, flow.machine) == ("shop", "Flow", "one")
    assert made(origin(first), FLOW) == ()
    (renamed,) = made(origin(first), {**FLOW, "class_name": "Other"})
    assert (renamed.id, renamed.fields["class"]) == (first.id, "Other")
    (again,) = made(origin(deleted(first)), FLOW)
    assert again.id != first.id
    assert workflow_named([deleted(first), again], "orders") == again


def test_a_name_is_one_workers() -> None:
    """Goal: whose instances are elsewhere is not taken over; `script_name` leads there instead."""
    (first,) = made(origin(), FLOW)
    other = origin(first, worker="guest")
    assert code_of(other, FLOW) == 10201
    shared = {**FLOW, "script_name": "shop"}
    assert made(other, shared) == ()
    assert code_of(origin(worker="guest"), shared) == 10200
    assert code_of(origin(first, worker="guest"), {**FLOW, "script_name": "nobody"}) == 10200


@pytest.mark.parametrize(
    "wrong",
    [
        {"workflow_name": "no name"},
        {"workflow_name": "x" * 65},
        {"workflow_name": None},
        {"class_name": "no class"},
        {"class_name": None},
    ],
)
def test_a_binding_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    """Goal: by name, before anything is stored."""
    assert code_of(origin(), {**FLOW, **wrong}) == 10021


def test_there_are_only_so_many() -> None:
    """Goal: the limit counts those that are there, and says what to do."""
    known = made(origin(), FLOW, {**FLOW, "name": "B", "workflow_name": "b"})
    third = {**FLOW, "name": "C", "workflow_name": "c"}
    assert code_of(origin(*known), third) == 10021
    assert len(made(origin(known[0], deleted(known[1])), third)) == 1


def test_code_without_the_class_is_refused_and_does_not_run() -> None:
    """Goal: a deploy says which class is missing; an older version without it runs no instance."""
    (first,) = made(origin(), FLOW)
    where = origin(first)
    good, bad = version(where, FLOW, exports=("Flow",)), version(where, FLOW)
    refuse_no_class(good)
    with pytest.raises(Refusal, match="'Flow'") as caught:
        refuse_no_class(bad)
    assert caught.value.code == 10064
    assert where.catalog is not None
    assert len(workflows_here(where.catalog, good, "one")) == 1
    assert workflows_here(where.catalog, bad, "one") == ()
    assert workflows_here(where.catalog, good, "two") == ()
    gone = origin(deleted(first)).catalog
    assert gone is not None
    assert workflows_here(gone, good, "one") == ()


def test_a_configuration_is_read() -> None:
    """Goal: steps and retention come to the engine as it reads them."""
    document = {
        "script_name": "shop",
        "class_name": "Flow",
        "limits": {"steps": 25_000},
        "default_retention": {"success_retention": "3 days", "error_retention": 1000},
    }
    script, fields = read_put(document, LIMITS)
    assert (script, fields["class"]) == ("shop", "Flow")
    kept = {"success": 259_200_000, "error": 1000}
    assert fields["settings"] == {"steps": 25_000, "retention": kept}
    assert read_put({"script_name": "s", "class_name": "F"}, LIMITS)[1]["settings"] == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"schedules": [{"cron": "* * * * *"}]},
        {"concurrency": {"max": 1}},
        {"jurisdiction": "eu"},
        {"limits": {"steps": 25_001}},
        {"limits": {"steps": 0}},
        {"limits": 5},
        {"default_retention": {"success_retention": "31 days"}},
        {"default_retention": {"error_retention": "soon"}},
        {"class_name": None},
        {"script_name": 7},
    ],
)
def test_a_configuration_that_cannot_be_had_is_refused(wrong: dict[str, Any]) -> None:
    """Goal: nothing of it is dropped silently."""
    with pytest.raises(Refusal):
        read_put({"script_name": "s", "class_name": "F", **wrong}, LIMITS)


@given(st.one_of(st.text(), st.integers(), st.none(), st.booleans(), st.floats()))
def test_any_retention_is_read_or_refused(value: Any) -> None:
    """Goal: whatever is written there, it is within its limit or refused."""
    try:
        found = retention_ms(value, "it", LIMITS)
    except Refusal:
        return
    assert 1 <= found <= LIMITS.workflow_retention_s_max * 1000
    assert isinstance(msgspec.json.decode(msgspec.json.encode(found)), int)
