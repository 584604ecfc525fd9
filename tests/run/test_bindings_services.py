"""What a cell is given to call another worker: marks that nobody guesses, and nothing in a trial."""

import json
from pathlib import Path
from typing import Any

from kythera.ground.passes import worker_mark
from kythera.model.limits import Limits
from kythera.model.records import Binding, Version
from kythera.route.lanes import LANES as LANES_OF_THE_FRONT
from kythera.run.bindings import BindingContext, StoreDoors
from kythera.run.bindings_services import LANES, rpc_flags, rpc_options, service_value
from kythera.run.sandbox import room_mib

DOORS = StoreDoors({"services": Path("/run/stores/services")}, "key")


def version(*bindings: Binding, **more: Any) -> Version:
    """Return a version of worker `a` with these bindings."""
    fields: dict[str, Any] = {"compatibility_date": "2026-01-01", "main_module": "i.js", **more}
    return Version(
        account="acc", worker="a", id="v", number=1, created_on="", bindings=bindings, **fields
    )


def bound(name: str, service: str, **fields: Any) -> Binding:
    """Return a binding to a worker."""
    return Binding(name=name, type="service", fields={"service": service, **fields})


def context(of: Version, doors: StoreDoors | None = DOORS) -> BindingContext:
    """Return what bindings are made from."""
    return BindingContext(of, lambda _: b"", lambda _, __: "", doors)


def test_front_and_cells_speak_of_as_many_lanes() -> None:
    """Goal: two chapters that may not import each other agree."""
    assert LANES == LANES_OF_THE_FRONT


def test_a_binding_leads_to_one_worker_of_ours_by_ways_of_its_target() -> None:
    """Goal: entrypoint and props are told; two bindings share one worker of ours; each target has
    a tunnel for each lane, and one more."""
    first, second = bound("X", "c", entrypoint="E", props={"p": 1}), bound("Y", "b")
    made = version(first, second)
    value, services = service_value(first, context(made))
    told = json.loads(value["service"]["props"]["json"])
    assert told == {"target": 1, "worker": "c", "entrypoint": "E", "props": {"p": 1}}
    assert services == service_value(second, context(made))[1]
    *ways, ours = services
    assert len(ways) == 2 * (LANES + 1)
    assert len(ours["worker"]["bindings"]) == len(ways) + 2
    http = ways[0]["external"]["http"]
    mark = worker_mark("key", "acc", "b")
    assert http["capnpConnectHost"] == f"{mark}-0:1"
    assert http["injectRequestHeaders"] == [{"name": "X-Kythera-Service", "value": mark}]


def test_a_trial_reaches_nobody() -> None:
    """Goal: top-level code of an upload calls no other worker."""
    binding = bound("X", "c")
    *ways, _ = service_value(binding, context(version(binding), None))[1]
    assert all(way["network"] == {"allow": []} for way in ways)
    assert rpc_options(version(), None) == {}


def test_a_cell_takes_calls_for_its_own_mark_alone() -> None:
    """Goal: the same mark on both sides, another for each worker and account."""
    mark = worker_mark("key", "acc", "a")
    assert rpc_options(version(), DOORS) == {"capnpConnectHost": f"{mark}:1"}
    others = {worker_mark("key", "acc", "b"), worker_mark("other", "acc", "a"), mark}
    assert len(others) == 3


def test_a_caller_has_room_for_the_worker_of_ours() -> None:
    """Goal: two heaps in one process are not killed for being two."""
    assert room_mib(version(), Limits()) == 128
    assert room_mib(version(bound("X", "c")), Limits()) == 192


def test_entry_points_are_found_whatever_the_compatibility_date() -> None:
    """Goal: the flag is added where the date is older, never against the worker's own word."""
    assert rpc_flags(version()) == []
    assert rpc_flags(version(compatibility_date="2025-01-01")) == ["enable_ctx_exports"]
    old = version(compatibility_date="2025-01-01", compatibility_flags=("disable_ctx_exports",))
    assert rpc_flags(old) == []
    assert rpc_flags(version(main_module=None, compatibility_date="2025-01-01")) == []
