"""Workflows over HTTP: made by deploys, listed, steered by asking the object cell, refused by code."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest

from kythera.control.caller import Caller, Forbidden, called_by
from kythera.control.resources import refuse_new
from kythera.control.store_calls import NoStores, ObjectCell
from kythera.model.errors import StoreUnavailable
from kythera.model.records import Binding
from kythera.model.workflows import WORKFLOW
from tests.control.world import ACCOUNT, ROOT, World

pytestmark = pytest.mark.anyio
FLOWS = f"{ROOT}/accounts/{ACCOUNT}/workflows"
ORDERS, INSTANCES = f"{FLOWS}/orders", f"{FLOWS}/orders/instances"
CODE = "export class Flow {} export default {}"
BINDING = {"name": "F", "type": "workflow", "workflow_name": "orders", "class_name": "Flow"}
ROW = {
    "id": "one",
    "created": 1_000,
    "modified": 2_000,
    "started": 1_500,
    "ended": None,
    "status": "rollingBack",
    "version": "v",
    "source": "api",
}


@dataclass
class Cell(NoStores):
    """Stands for an object cell: answers each question as it was told to."""

    answers: dict[str, Any] = field(default_factory=dict)
    status: int = 200
    asked: list[tuple[str, Any]] = field(default_factory=list)

    async def ask_object_cell(
        self, cell: ObjectCell, path: str, body: bytes, within_s: float
    ) -> tuple[int, bytes]:
        """Answer what was asked."""
        assert cell == ObjectCell(ACCOUNT, "hello")
        what = path.rpartition("/")[2]
        self.asked.append((what, json.loads(body)))
        return self.status, json.dumps(self.answers.get(what)).encode()


async def flowing(world: World, **answers: Any) -> Cell:
    """Deploy a worker with a Workflow, and have its object cell answer."""
    await world.deploy(code=CODE, bindings=[BINDING])
    cell = Cell(answers)
    world.services = world.app.state.services = replace(world.services, stores=cell)
    return cell


async def test_a_deploy_makes_a_workflow_and_a_delete_ends_it(world: World) -> None:
    """Goal: the upload makes it, PUT gives it settings, DELETE marks it; deleting a worker does so too;
    a second deploy makes another one."""
    await flowing(world, tally={"complete": 2})
    (listed,) = await world.ok("GET", f"{FLOWS}?page=1")
    assert (listed["name"], listed["script_name"], listed["class_name"]) == (
        *("orders", "hello", "Flow"),
    )
    put = {"script_name": "hello", "class_name": "Flow", "limits": {"steps": 9}}
    changed = await world.ok("PUT", ORDERS, put)
    assert (changed["id"], changed["limits"]) == (listed["id"], {"steps": 9})
    assert (await world.ok("GET", ORDERS))["instances"] == {"complete": 2}
    (version,) = await world.ok("GET", f"{ORDERS}/versions")
    assert version["workflow_id"] == listed["id"]
    await world.ok("DELETE", ORDERS)
    assert (await world.refused("GET", ORDERS))[1] == 10200
    await world.deploy(code=CODE, bindings=[BINDING])
    assert (await world.ok("GET", ORDERS))["id"] != listed["id"]
    await world.ok("DELETE", "services/hello?force=true")
    assert await world.ok("GET", FLOWS) == []
    records = world.catalog.resources(ACCOUNT, WORKFLOW)
    assert all(one.fields["deleted"] for one in records)


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ({"script_name": "nobody", "class_name": "Flow"}, 10007),
        ({"script_name": "hello", "class_name": "Lost"}, 10064),
        ({"script_name": "hello", "class_name": "Flow", "schedules": [{"cron": "x"}]}, 10021),
        ({"script_name": "hello"}, 10021),
    ],
)
async def test_a_workflow_that_cannot_be_is_refused(
    world: World, document: dict[str, Any], code: int
) -> None:
    """Goal: with a code; nothing is stored."""
    await flowing(world)
    assert (await world.refused("PUT", ORDERS, document))[1] == code


async def test_instances_are_asked_of_the_object_cell(world: World) -> None:
    """Goal: each call says there what it says here, and the answer has Cloudflare's shape."""
    told = {"status": "terminated", "steps": [], "version": "v", "source": "api"}
    cell = await flowing(
        world, list=[ROW], create={"id": "one"}, describe=told, status={"status": "paused"}
    )
    (row,) = await world.ok("GET", f"{INSTANCES}/?status=complete&per_page=1&page=3")
    assert (row["status"], row["created_on"][:19]) == ("running", "1970-01-01T00:00:01")
    assert cell.asked[-1] == ("list", {"size": 1, "offset": 2, "status": "complete"})
    made = await world.ok("POST", INSTANCES, {"instance_id": "one", "params": {"a": 1}})
    assert (made["id"], made["status"]) == ("one", "queued")
    assert cell.asked[-1] == ("create", {"given": [{"id": "one", "params": {"a": 1}}]})
    found = await world.ok("GET", f"{INSTANCES}/one")
    assert (found["versionId"], found["trigger"]) == ("v", {"source": "api"})
    assert found["steps"] == [{"type": "termination", "trigger": {"source": "user"}}]
    steered = await world.ok("PATCH", f"{INSTANCES}/one/status", {"status": "pause"})
    assert steered["status"] == "paused"
    await world.ok("POST", f"{INSTANCES}/one/events/go", [1])
    assert cell.asked[-1] == ("sendEvent", {"given": ["one", {"type": "go", "payload": [1]}]})


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("(instance.not_found) Instance does not exist", 10400),
        ("(instance.already_exists) it is there", 10405),
        ("(instance.cannot_resume) no", 10409),
        ("something else", 10001),
    ],
)
async def test_what_the_engine_refuses_is_told_with_a_code(
    world: World, message: str, code: int
) -> None:
    """Goal: the engine's words, Cloudflare's number."""
    cell = await flowing(world, resume={"name": "Error", "message": message})
    cell.status = 409
    status, found, text = await world.refused(
        "PATCH", f"{INSTANCES}/one/status", {"status": "resume"}
    )
    assert (found, status < 500) == (code, True)
    assert message in text


@pytest.mark.parametrize(
    "query", ["per_page=0", "per_page=101", "page=x", "status=odd", "date_start=x", "cursor=%21"]
)
async def test_a_page_that_cannot_be_is_refused(world: World, query: str) -> None:
    """Goal: nothing is guessed."""
    await flowing(world, list=[])
    assert (await world.refused("GET", f"{INSTANCES}?{query}"))[1] == 10021


async def test_a_cursor_goes_on(world: World) -> None:
    """Goal: a full page ends with where the next one begins."""
    cell = await flowing(world, list=[ROW])
    answer = (await world.call("GET", f"{INSTANCES}?per_page=1")).json()
    await world.ok("GET", f"{INSTANCES}?cursor={answer['result_info']['cursor']}")
    assert cell.asked[-1][1]["after"] == [1_000, "one"]


async def test_an_object_cell_that_is_away_is_said_to_be(world: World) -> None:
    """Goal: 503, to be tried again; nothing is taken for an empty list."""
    await flowing(world)
    world.services = world.app.state.services = replace(world.services, stores=NoStores())
    answer = await world.call("GET", INSTANCES)
    assert answer.status_code == 503
    with pytest.raises(StoreUnavailable):
        await NoStores().ask_object_cell(ObjectCell(ACCOUNT, "hello"), "/", b"", 1.0)


async def test_a_token_for_one_worker_reaches_its_own_workflows_alone(world: World) -> None:
    """Goal: others' are not shown, not steered, and not given to a worker that did not have them."""
    await flowing(world, list=[])
    await world.deploy("guest", CODE)
    guest = Caller(name="guest", scopes=("deploy",), workers=("guest",))
    shared = Binding(
        name="F", type="workflow", fields={"workflow_name": "orders", "script_name": "hello"}
    )
    (version,) = world.catalog.versions(ACCOUNT, "guest")
    given = msgspec.structs.replace(version, bindings=(shared,))
    with called_by(guest):
        with pytest.raises(Forbidden, match="orders"):
            refuse_new(version, given)
        refuse_new(given, given)
    made = {"name": "guest", "scopes": ["deploy"], "workers": ["guest"]}
    token = (await world.ok("POST", f"{ROOT}/accounts/{ACCOUNT}/tokens", made))["value"]
    headers = {"authorization": f"Bearer {token}"}
    assert await world.ok("GET", FLOWS, headers=headers) == []
    answer = await world.call("GET", INSTANCES, headers=headers)
    assert answer.json()["errors"][0]["code"] == 10200
