"""Workflows on a running platform: every kind of step, and instances that go on after every death."""

import json
import os
import shlex
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.platforms import COMMAND, RunningPlatform, clean_environment, running
from tests.processes import wait_until
from tests.story.workflow_workers import called, deploy_flows, ended, flows, state_of
from tests.wranglers import Wrangler, write_project

pytestmark = [pytest.mark.real, pytest.mark.story]
ALL, SLOW = '{"kind":"all"}', '{"kind":"long","rest":86400000}'


@pytest.fixture(scope="module")
def flowing(platform: RunningPlatform) -> str:
    """Return a worker with a Workflow that the tests here share."""
    deploy_flows(platform, "flowing")
    return "flowing"


def test_a_workflow_takes_every_kind_of_step(platform: RunningPlatform, flowing: str) -> None:
    """Goal: steps with retries, sleeps and events do what they say, and the API tells each of them."""
    called(platform, flowing, "create", id="all", params={"kind": "all"})
    called(platform, flowing, "send", id="all", type="approved", payload={"by": "anna"})
    said = ended(platform, flowing, "all")
    assert said["status"] == "complete", said
    assert said["output"] == {
        "first": {"at": "1970-01-01T00:00:00.000Z", "attempt": 1},
        "second": 3,
        "approved": {"by": "anna"},
        "event": [{"kind": "all"}, "all", flowing],
    }
    told = platform.call("GET", f"/workflows/{flowing}/instances/all").json()["result"]
    shown = [(step["name"], step["type"], step["success"]) for step in told["steps"]]
    assert shown == [
        ("first-1", "step", True),
        ("nap-1", "sleep", True),
        ("until-1", "sleep", True),
        ("second-1", "step", True),
        ("approval-1", "waitForEvent", True),
    ]
    attempts = told["steps"][3]["attempts"]
    assert [each["success"] for each in attempts] == [False, False, True]
    assert attempts[0]["error"]["message"] == "not yet 1"


@pytest.mark.parametrize(
    ("kind", "status", "message"),
    [
        ("fatal", "errored", "for good"),
        ("slow", "errored", "Execution timed out after 200ms"),
        ("large", "errored", "Step large-1 output is too large"),
        ("forever", "errored", "365 days at most"),
        ("expired", "complete", ""),
    ],
)
def test_what_goes_wrong_ends_as_it_should(
    platform: RunningPlatform, flowing: str, kind: str, status: str, message: str
) -> None:
    """Goal: an error for good, a timeout, a result that is too large, a wait that is too long and an event
    that does not come."""
    called(platform, flowing, "create", id=kind, params={"kind": kind})
    said = ended(platform, flowing, kind)
    assert said["status"] == status, said
    assert message in said.get("error", {}).get("message", "")


def test_the_binding_steers_an_instance(platform: RunningPlatform, flowing: str) -> None:
    """Goal: pause, resume, restart, terminate, batches, deletes, and each mistake by its name."""
    params = {"kind": "long", "ms": 300}
    assert called(platform, flowing, "create", id="steered", params=params)["id"] == "steered"
    called(platform, flowing, "pause", id="steered")
    wait_until(lambda: state_of(platform, flowing, "steered") == "paused", "it rests")
    called(platform, flowing, "resume", id="steered")
    assert ended(platform, flowing, "steered")["output"] == ["1", "1"]
    called(platform, flowing, "restart", id="steered")
    assert ended(platform, flowing, "steered")["status"] == "complete"
    again = called(platform, flowing, "create", id="steered")
    assert "instance.already_exists" in again["message"]
    assert (
        "instance.cannot_terminate"
        in called(platform, flowing, "terminate", id="steered")["message"]
    )
    assert "instance.not_found" in called(platform, flowing, "get", id="nobody")["message"]
    assert "invalid id" in called(platform, flowing, "create", id="no id")["message"]
    large = called(platform, flowing, "create", id="big", params={"x": "x" * 1_048_577})
    assert "payload.too_large" in large["message"]
    kept = {"successRetention": "31 days"}
    assert "retention.too_long" in called(platform, flowing, "create", retention=kept)["message"]
    made = platform.get(flowing, "/batch", method="POST", json=[{"id": "b1"}, {"id": "b2"}]).json()
    assert made == ["b1", "b2"]
    assert called(platform, flowing, "remove", ids=["b1", "b2"])["deleted"] == [
        {"id": "b1"},
        {"id": "b2"},
    ]
    assert "instance.not_found" in called(platform, flowing, "get", id="b1")["message"]
    assert called(platform, flowing, "gone", id="steered") is None
    assert "instance.not_found" in called(platform, flowing, "get", id="steered")["message"]


def test_an_instance_is_followed(platform: RunningPlatform, flowing: str) -> None:
    """Goal: `subscribe` tells each event of an instance, from its beginning to its end."""
    called(platform, flowing, "create", id="followed", params={"kind": "many", "steps": 1})
    told = called(platform, flowing, "follow", id="followed")
    assert told[0] == "workflow_queued"
    assert told[-3:] == ["attempt_completed", "step_completed", "workflow_completed"]


def test_another_worker_is_bound_to_it(platform: RunningPlatform, flowing: str) -> None:
    """Goal: `script_name` leads to the same instances; a Workflow that is not there, and a name that is
    another worker's, are refused at the upload."""
    own = {"name": "FLOW", "type": "workflow", "workflow_name": flowing, "class_name": "Flow"}
    shared = {**own, "script_name": flowing}
    platform.upload("guest-flow", flows(), bindings=[shared], compatibility_date="2026-01-01")
    platform.wait_for("guest-flow", "1", "/version")
    made = called(platform, "guest-flow", "create", id="guest", params={"kind": "fatal"})
    assert made["id"] == "guest"
    assert ended(platform, flowing, "guest")["status"] == "errored"
    for wrong, code in (
        ({**own, "script_name": "nobody"}, "10200"),
        (own, "10201"),
        ({**own, "workflow_name": "new", "class_name": "Lost"}, "10064"),
    ):
        with pytest.raises(AssertionError, match=code):
            platform.upload("guest-flow", flows(), bindings=[wrong])


def kill(platform: RunningPlatform, event: str) -> None:
    """Kill the process that was started last with this event."""
    lines = platform.log.read_text(errors="replace").splitlines()
    pid = int(json.loads([line for line in lines if event in line][-1])["pid"])
    os.kill(pid, signal.SIGKILL)


def begin(
    platform: RunningPlatform, worker: str, instance: str, kind: str = "long", **params: Any
) -> None:
    """Make an instance and wait until it works, or waits."""
    called(platform, worker, "create", id=instance, params={"kind": kind, **params})
    begun = "running" if kind == "long" else "waiting"
    wait_until(lambda: state_of(platform, worker, instance) == begun, f"{instance} has begun")


def used(platform: RunningPlatform, worker: str) -> dict[str, int]:
    """Return what status counts of a worker's Workflows."""
    told = platform.status()["machines"][0]["stores"].get("workflows", {"workers": []})
    return next((each["counts"] for each in told["workers"] if each["worker"] == worker), {})


def test_instances_go_on_after_every_death(tmp_path: Path) -> None:
    """Goal: what was begun ends: after `kill -9` of the object cell, of the agent and of the whole
    platform, after new code, and on a platform that comes back from a backup; no step that had ended
    is taken again, and a deploy lets those that are under way end (they may not be tried again). Method: the first step tells the version that it ran in."""
    file, again, state = tmp_path / "kythera.tar", tmp_path / "again", tmp_path / "state"
    with running(state) as platform:
        deploy_flows(platform, "lasting")
        begin(platform, "lasting", "killed")
        kill(platform, "object_cell_started")
        assert ended(platform, "lasting", "killed")["output"] == ["1", "1"]
        begin(platform, "lasting", "updated", "patient")
        begin(platform, "lasting", "patient", "patient")
        kill(platform, "agent_started")
        steady = {"kind": "many", "steps": 80, "each": 25}
        called(platform, "lasting", "create", id="steady", params=steady)
        deploy_flows(platform, "lasting", "2")
        assert ended(platform, "lasting", "steady")["output"] == 80
        called(platform, "lasting", "send", id="updated", type="word", payload="go")
        assert ended(platform, "lasting", "updated")["output"] == ["1", "2", "go"]
        begin(platform, "lasting", "saved", ms=2000)
        begin(platform, "lasting", "over", ms=2000)
        done = platform.kythera("backup", "create", str(file))
        assert done.returncode == 0, done.stderr
        wait_until(lambda: used(platform, "lasting").get("created", 0) >= 2, "it is counted")
        platform.kill()
    with running(state) as platform:
        assert ended(platform, "lasting", "over")["output"] == ["2", "2"]
        called(platform, "lasting", "send", id="patient", type="word", payload="go")
        assert ended(platform, "lasting", "patient")["output"] == ["1", "2", "go"]
    argv = [*COMMAND, "backup", "restore", "--state", str(again), str(file)]
    subprocess.run(argv, env=clean_environment(), capture_output=True, timeout=60, check=True)
    with running(again) as platform:
        assert ended(platform, "lasting", "saved")["output"] == ["2", "2"]
        called(platform, "lasting", "send", id="patient", type="word", payload="back")
        assert ended(platform, "lasting", "patient")["output"] == ["1", "2", "back"]
        listing = platform.call("GET", "/workflows/lasting/instances").json()["result"]
        found = {each["id"] for each in listing}
        assert {"killed", "updated", "saved", "steady", "patient"} <= found


def test_every_command_of_wrangler(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: a deploy makes the Workflow; each command does what it says; a delete ends all of it. Method:
    two at a time where neither needs the other, as each takes a second and more to start."""
    name, platform = wrangler.name("flow"), wrangler.platform
    limits = {"steps": 5}
    flow = {"name": name, "binding": "FLOW", "class_name": "Flow", "limits": limits}
    files = {"index.js": flows()}
    project = write_project(tmp_path / "p", {"name": name, "workflows": [flow]}, files)
    assert f"workflow: {name}" in wrangler.do("deploy", project=project).text

    def do(*commands: str) -> list[str]:
        def one(words: str) -> str:
            return wrangler.do("workflows", *shlex.split(words), project=project).text

        with ThreadPoolExecutor(len(commands)) as threads:
            return list(threads.map(one, commands))

    both = do(f"trigger {name} '{ALL}' --id one", f"trigger {name} '{SLOW}' --id two")
    assert all("queued successfully" in said for said in both)
    wait_until(lambda: state_of(platform, name, "one") == "waiting", "it waits")
    event = '--type approved --payload \'{"by":"ben"}\''
    do(f"instances send-event {name} one {event}", f"instances pause {name} two")
    wait_until(lambda: state_of(platform, name, "two") == "paused", "it rests")
    assert ended(platform, name, "one")["output"]["approved"] == {"by": "ben"}
    called(platform, name, "create", id="last", params={"kind": "fatal"})
    one, listing = do(f"instances describe {name} one", f"instances list {name}")
    assert "second-1" in one
    assert "not yet 1" in one
    assert "Paused" in listing
    do(f"instances resume {name} two", f"instances restart {name} one")
    do(f"instances terminate {name} one", f"instances terminate {name} two")
    assert state_of(platform, name, "one") == "terminated"
    assert "for good" in do(f"instances describe {name} latest")[0]
    workflows, described = do("list", f"describe {name}")
    assert name in workflows
    assert "Flow" in described
    called(platform, name, "create", id="many", params={"kind": "many", "steps": 6})
    assert "limit of 5 steps" in ended(platform, name, "many")["error"]["message"]
    do(f"delete {name}")
    assert platform.call("GET", f"/workflows/{name}").json()["errors"][0]["code"] == 10200
    data = platform.state / "data" / "objects" / platform.account_id / name
    wait_until(lambda: not data.exists(), "nothing is kept of it", deadline_s=10)
    assert "it was deleted" in called(platform, name, "get", id="one")["message"]


def test_newer_commands_of_wrangler(wrangler: Wrangler, platform: RunningPlatform) -> None:
    """Goal: what newer wranglers have beside: instances deleted, and all of them terminated."""
    if wrangler.version.startswith("4.86."):
        return
    deploy_flows(platform, "newer-flow")
    params: dict[str, Any] = {"rest": 86_400_000}
    for instance in ("n1", "n2"):
        begin(platform, "newer-flow", instance, **params)
    wrangler.do("workflows", "instances", "terminate-all", "newer-flow")
    assert ended(platform, "newer-flow", "n2")["status"] == "terminated"
    wrangler.do("workflows", "instances", "delete", "newer-flow", "n1")
    listing = platform.call("GET", "/workflows/newer-flow/instances").json()["result"]
    assert [each["id"] for each in listing] == ["n2"]
