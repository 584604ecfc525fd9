"""Workflows in a cell's configuration, and when an object cell is replaced for them."""

from dataclasses import replace
from pathlib import Path

import msgspec
from msgspec.structs import asdict

from kythera.model.limits import Limits
from kythera.model.records import Binding, Version
from kythera.model.workflows import Workflow
from kythera.run.config import CellSettings
from kythera.run.object_cells import Asked, next_step
from kythera.run.objects import ObjectHome, ObjectsDoor
from kythera.run.workflows import keeps_message
from tests.run.test_config import MAIN, configured, worker_of

ID = "1" * 32
BINDING = Binding(
    name="FLOW", type="workflow", fields={"workflow_name": "orders", "class_name": "Flow"}
)
ORDERS = Workflow(
    id=ID, name="orders", worker="hello", class_name="Flow", machine="", settings={"steps": 7}
)
HOME = ObjectHome((), Path("/objects"), (ORDERS,), "v1", limits=asdict(Limits()))


def test_a_stateless_cell_hands_on_to_the_object_cell() -> None:
    """Goal: workerd's own binding, behind it the way to where the instances are."""
    settings = CellSettings(objects={"hello": ObjectsDoor(Path("/o.sock"))})
    config = configured(MAIN, settings, bindings=(BINDING,))
    wrapped = worker_of(config)["bindings"][0]["wrapped"]
    assert wrapped["moduleName"] == "cloudflare-internal:workflows-api"
    inner = wrapped["innerBindings"][0]["service"]
    assert inner["name"] == "workflows/of/hello"
    assert msgspec.json.decode(inner["props"]["json"]) == {"workflow": "orders"}
    way = next(s for s in config["services"] if s["name"] == "objects/way/hello")
    assert way["external"]["address"] == "unix:/o.sock"
    assert not any(s["name"] == "workflows/engine" for s in config["services"])


def test_what_cannot_be_reached_says_why() -> None:
    """Goal: a cell on another machine, or a trial, starts; a call throws the reason."""
    settings = CellSettings(objects={"hello": ObjectsDoor(why="x", why_no_workflows="far away")})
    config = configured(MAIN, settings, bindings=(BINDING,))
    forward = worker_of(config, "workflows/of/hello")
    assert [b["text"] for b in forward["bindings"]] == ["far away"]


def test_the_object_cell_runs_the_engine() -> None:
    """Goal: workerd's engine beside the code, storing by the Workflow's id, with what it was given."""
    config = configured(MAIN, CellSettings(home=HOME), bindings=(BINDING,))
    worker, engine = worker_of(config), worker_of(config, "workflows/engine")
    (flow,) = worker["workflowsEngine"]["workflows"]
    assert (flow["className"], flow["name"]) == ("Flow", ID)
    inner = worker["bindings"][0]["wrapped"]["innerBindings"][0]["service"]
    assert (inner["name"], inner["entrypoint"]) == ("workflows/engine", "Binding")
    told = {b["name"]: b for b in engine["bindings"]}
    named = msgspec.json.decode(told["WORKFLOWS"]["json"])
    assert named["orders"]["steps"] == 7
    assert named["orders"]["retention"] == {"success": 2_592_000_000, "error": 2_592_000_000}
    namespace = told[f"workflow:{ID}"]["durableObjectNamespace"]
    assert namespace["className"] == f"miniflare-workflows-{ID}"
    assert [m["name"] for m in engine["modules"]] == ["workflows.js", "bundled-workflows.js"]


def test_an_object_cell_without_workflows_has_no_engine() -> None:
    """Goal: who has none pays nothing."""
    config = configured(MAIN, CellSettings(home=replace(HOME, workflows=())))
    assert not any(s["name"] == "workflows/engine" for s in config["services"])


def test_an_object_cell_is_replaced_when_its_workflows_change() -> None:
    """Goal: also what an agent from before there were any has started is known again."""
    plain, flowing = Asked("v1", "mark", ("n",)), Asked("v1", "mark", ("n",), ("orders",))
    assert next_step(flowing, asdict(flowing)) == "rest"
    assert next_step(flowing, asdict(plain)) == "stop"
    older = {"version": "v1", "workerd": "mark", "namespaces": ["n"]}
    assert next_step(plain, older) == "rest"


def test_the_message_of_an_error_is_the_workers_choice() -> None:
    """Goal: as its compatibility date and flags say."""
    old = Version(account="a", worker="w", id="v", number=1, created_on="")
    assert not keeps_message(msgspec.structs.replace(old, compatibility_date="2026-05-13"))
    assert keeps_message(msgspec.structs.replace(old, compatibility_date="2026-05-14"))
    flag = ("workflows_preserve_non_retryable_error_message",)
    assert keeps_message(msgspec.structs.replace(old, compatibility_flags=flag))
